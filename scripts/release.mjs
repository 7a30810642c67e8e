// What a release needs, in three steps that .github/workflows/release.yml takes and that run here too:
//
//   node scripts/release.mjs check [TAG]        versions, repository and changelog agree
//   node scripts/release.mjs write              npm/ and Cargo.toml as package.json says
//   node scripts/release.mjs pack BINARIES OUT  the nine packages, as files that can be installed
//
// package.json is where the version and the repository stand; the rest follows.

import { spawnSync } from 'node:child_process'
import {
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { thirdParty } from './licenses.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const main = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const table = JSON.parse(readFileSync(join(root, 'scripts/platforms/table.json'), 'utf8'))

/** What each package of npm/ is for. */
const platforms = {
  'linux-x64-gnu': 'Linux on x86-64, with glibc 2.17 or newer',
  'linux-x64-musl': 'Linux on x86-64, with musl (Alpine)',
  'linux-arm64-gnu': 'Linux on 64-bit ARM, with glibc 2.17 or newer',
  'linux-arm64-musl': 'Linux on 64-bit ARM, with musl (Alpine)',
  'darwin-x64': 'macOS 11 or newer on Intel processors',
  'darwin-arm64': 'macOS 11 or newer on Apple silicon',
  'win32-x64-msvc': 'Windows 10 or newer on x86-64',
  'win32-arm64-msvc': 'Windows 10 or newer on 64-bit ARM',
}

const [step, ...args] = process.argv.slice(2)
const steps = { check, write, pack }
if (!steps[step]) fail('node scripts/release.mjs check [TAG] | write | pack BINARIES OUT')
steps[step](...args)

/** Says what does not agree, and exits with 1 if anything does. */
function check(tag) {
  const wrong = []
  for (const [path, text] of written()) {
    let found
    try {
      found = readFileSync(join(root, path), 'utf8')
    } catch {}
    if (found !== text) wrong.push(`${path} is not what package.json says: node scripts/release.mjs write`)
  }
  if (tag !== undefined && tag !== `v${main.version}`)
    wrong.push(`the tag is ${tag}, and package.json has version ${main.version}`)
  const changes = readFileSync(join(root, 'CHANGELOG.md'), 'utf8')
  if (tag !== undefined && !changes.includes(`## ${main.version}`))
    wrong.push(`CHANGELOG.md has no section ## ${main.version}`)
  // npm refuses provenance for a package that names another repository than the one it is built in.
  const { GITHUB_REPOSITORY: repository } = process.env
  if (tag !== undefined && repository && !main.repository.url.endsWith(`/${repository}.git`))
    wrong.push(`package.json names the repository ${main.repository.url}, and this is ${repository}`)
  if (wrong.length > 0) fail(wrong.join('\n'))
  console.log(`${main.version}: package.json, npm/ and Cargo.toml agree`)
}

function write() {
  for (const [path, text] of written()) writeFileSync(join(root, path), text)
}

/** The files that follow from package.json, each with its text. */
function written() {
  const { version, license, homepage, bugs, repository, engines } = main
  const files = Object.entries(platforms).flatMap(([platform, what]) => {
    const [os, cpu, libc] = platform.split('-')
    const file = `rwkv.${platform}.node`
    const about = {
      ...{ name: `rwkv-${platform}`, version, description: `The binary of rwkv for ${what}` },
      ...{ license, homepage, bugs, repository: { ...repository, directory: `npm/${platform}` } },
      ...{ engines, os: [os], cpu: [cpu] },
      ...(os === 'linux' && { libc: [libc === 'gnu' ? 'glibc' : libc] }),
      ...{ type: 'commonjs', main: file, files: [file, 'THIRD-PARTY.txt'] },
    }
    const readme = `# rwkv-${platform}

The binary of [rwkv](https://www.npmjs.com/package/rwkv) for ${what}.
\`npm install rwkv\` brings it where it fits; there is no need to name it.
`
    return [
      [`npm/${platform}/package.json`, `${JSON.stringify(about, null, 2)}\n`],
      [`npm/${platform}/README.md`, readme],
    ]
  })
  const cargo = readFileSync(join(root, 'Cargo.toml'), 'utf8')
    .replace(/(\[workspace\.package\]\nversion = ")[^"]*/, `$1${version}`)
    .replace(/(\nrepository = ")[^"]*/, `$1${repository.url.replace(/^git\+|\.git$/g, '')}`)
    .replace(/(\nrwkv[^\n]* path = [^\n]*version = ")[^"]*/g, `$1${version}`)
  return [...files, ['Cargo.toml', cargo]]
}

/**
 * Packs the nine packages from a copy, in which the main one depends on the others.
 *
 * @param binaries A directory with rwkv.<platform>.node for each platform; one that is missing is left out, and
 *   said.
 * @param out Where the files go.
 */
function pack(binaries, out) {
  if (out === undefined) fail('node scripts/release.mjs pack BINARIES OUT')
  mkdirSync(out, { recursive: true })
  const copy = mkdtempSync(join(tmpdir(), 'rwkv-release-'))
  try {
    for (const name of ['package.json', 'README.md', 'LICENSE', 'CHANGELOG.md', 'dist', 'npm'])
      cpSync(join(root, name), join(copy, name), { recursive: true })
    // A package that the main one names and that does not exist would be asked for at every install.
    const built = Object.keys(platforms).filter(platform =>
      readdirSync(binaries).includes(`rwkv.${platform}.node`),
    )
    for (const platform of Object.keys(platforms)) {
      if (!built.includes(platform)) {
        console.log(`rwkv-${platform}: left out, ${binaries} has no binary for it`)
        continue
      }
      copyFileSync(
        join(binaries, `rwkv.${platform}.node`),
        join(copy, 'npm', platform, `rwkv.${platform}.node`),
      )
      writeFileSync(
        join(copy, 'npm', platform, 'THIRD-PARTY.txt'),
        thirdParty('rwkv-node', table[platform].napi),
      )
      npmPack(join(copy, 'npm', platform), out)
    }
    const file = join(copy, 'package.json')
    const about = JSON.parse(readFileSync(file, 'utf8'))
    about.optionalDependencies = Object.fromEntries(built.map(platform => [`rwkv-${platform}`, main.version]))
    delete about.scripts
    delete about.devDependencies
    delete about.overrides
    writeFileSync(file, `${JSON.stringify(about, null, 2)}\n`)
    npmPack(copy, out)
  } finally {
    rmSync(copy, { recursive: true })
  }
}

function npmPack(directory, out) {
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm'
  const [made] = JSON.parse(
    run(npm, ['pack', '--ignore-scripts', '--json', '--pack-destination', resolve(out)], directory),
  )
  console.log(`${made.filename}: ${made.size} bytes packed, ${made.unpackedSize} unpacked`)
}

function run(command, args, cwd) {
  const shell = process.platform === 'win32' && command.endsWith('.cmd')
  const { stdout, status, error } = spawnSync(command, args, {
    cwd,
    shell,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  if (error || status !== 0)
    fail(`${command} ${args.join(' ')} failed: ${error?.message ?? `exit code ${status}`}`)
  return stdout
}

function fail(message) {
  console.error(message)
  process.exit(1)
}
