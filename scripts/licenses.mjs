// The licences of all that is compiled into a binary: what its THIRD-PARTY.txt says.
//
//   node scripts/licenses.mjs rwkv-node x86_64-unknown-linux-gnu
//
// It asks cargo which packages those are, and takes the texts from their sources, which cargo has if it has built
// the binary. Texts that are the same word by word stand there once.

import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))

/** What packages of this workspace carry that is no package of cargo. */
const carried = {
  'rwkv-train': [['uPlot', 'MIT', 'crates/train/src/report/uplot.LICENSE']],
  'rwkv-text': [
    ['the vocabulary of GPT-2', 'MIT', 'crates/text/data/LICENSE-gpt2'],
    ['the vocabulary of GPT-NeoX-20B', 'Apache-2.0', 'crates/text/data/LICENSE-pile'],
    ['the vocabulary of RWKV World', 'Apache-2.0', 'crates/text/data/LICENSE-world'],
  ],
}

/**
 * @param name A package of this workspace.
 * @param target The target that it is built for, as rustc names it.
 * @returns The packages in it with their licences, and then the texts of these.
 */
export function thirdParty(name, target) {
  const packages = compiledIn(name, target)
  packages.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
  const uses = new Map()
  for (const { name, version, texts } of packages)
    for (const text of texts) {
      const words = text.replace(/\s+/g, ' ').trim()
      const found = uses.get(words) ?? { text, of: [] }
      found.of.push(`${name} ${version}`.trim())
      uses.set(words, found)
    }
  const list = packages.map(({ name, version, license, authors, texts }) => {
    // Some packages name a licence and its holders, and bring no text.
    const by = texts.length === 0 ? `, by ${authors.join(', ') || 'the authors named there'}` : ''
    return `  ${`${name} ${version}`.trim()}: ${license}${by}`
  })
  const texts = [...uses.values()].map(
    ({ text, of }) => `${'='.repeat(80)}\n${of.join(', ')}\n\n${text.trim()}\n`,
  )
  return `This binary contains the following software, under the licences that follow.\n\n${list.join('\n')}\n\n${texts.join('\n')}`
}

/** The packages, from cargo's graph: without what only builds or tests. */
function compiledIn(name, target) {
  const args = ['metadata', '--format-version', '1', '--locked', '--filter-platform', target]
  const { stdout, status, error } = spawnSync('cargo', args, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  })
  if (error || status !== 0) throw new Error(`cargo ${args.join(' ')} failed: ${error?.message ?? status}`)
  const { packages, resolve } = JSON.parse(stdout)
  const byId = new Map(packages.map(found => [found.id, found]))
  const nodes = new Map(resolve.nodes.map(node => [node.id, node]))
  const start = packages.find(found => found.name === name && found.source === null)
  if (start === undefined) throw new Error(`${name} is no package of this workspace`)
  // Macros run in the compiler.
  const isMacro = id => byId.get(id).targets.some(({ kind }) => kind.includes('proc-macro'))
  const seen = new Set([start.id])
  for (const id of seen)
    for (const { pkg, dep_kinds: kinds } of nodes.get(id).deps)
      if (kinds.some(({ kind }) => kind === null) && !isMacro(pkg)) seen.add(pkg)
  const all = [...seen].map(id => byId.get(id))
  const others = all.filter(({ source }) => source === null).flatMap(({ name }) => carried[name] ?? [])
  const of = ([name, license, file]) => ({ name, version: '', license, texts: read(join(root, file)) })
  return all
    .filter(({ source }) => source !== null)
    .map(({ name, version, license, authors, manifest_path: manifest }) => {
      const directory = dirname(manifest)
      const files = readdirSync(directory).filter(file =>
        /^(licen[sc]e|copying|notice|unlicense)/i.test(file),
      )
      const texts = files.sort().map(file => join(directory, file))
      return { name, version, license, authors, texts: texts.flatMap(file => read(file)) }
    })
    .concat(others.map(of))
}

/** The text of a file, or those of a folder of licences. */
function read(path) {
  try {
    return [readFileSync(path, 'utf8')]
  } catch (error) {
    if (error.code !== 'EISDIR') throw error
    return readdirSync(path)
      .sort()
      .map(file => readFileSync(join(path, file), 'utf8'))
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [name = 'rwkv-node', target = 'x86_64-unknown-linux-gnu'] = process.argv.slice(2)
  process.stdout.write(thirdParty(name, target))
}
