// Brings a checkout to the point where it can run: node_modules, the native binding, the JavaScript.
//
// `npm start`, `npm test` and `npm run check` call it first, so a fresh clone needs no other step. It imports
// nothing that an install would bring, and each part of it does little when there is nothing to do.
//
// The binding is compiled as it is released; with RWKV_PROFILE=dev as the Rust tests are, which check every sum of
// integers, and share with it what they have compiled.

import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const mode = process.env.RWKV_PROFILE === 'dev' ? [] : ['--release']
const root = fileURLToPath(new URL('..', import.meta.url))
process.chdir(root)

const [major, minor] = process.versions.node.split('.').map(Number)
if (major < 20 || (major === 20 && minor < 19)) {
  fail(`this is Node ${process.versions.node}, and building needs 20.19 or newer: https://nodejs.org`)
}
install()
// What is built is marked with what it was built from: nothing is compiled a second time.
step(
  'native',
  [mode, process.env.RUSTFLAGS, ...process.argv.slice(2)],
  ['Cargo.toml', 'Cargo.lock', 'crates'],
  () => {
    checkRust()
    bindNative()
  },
)
step(
  'script',
  [],
  ['src', 'examples', 'package.json', 'package-lock.json', 'tsconfig.json', 'dist/native.d.cts'],
  () => {
    inlineVersion()
    bindNames()
    compile()
  },
)

/** Without Rust, or with one that is too old, this ends here and says what to do. */
function checkRust() {
  const oldest = /rust-version = "1\.(\d+)"/.exec(readFileSync('Cargo.toml', 'utf8'))[1]
  const { stdout, status, error } = spawnSync('cargo', ['--version'], { encoding: 'utf8' })
  const install = 'install it from https://rustup.rs, open a new terminal, and run this again'
  if (error) fail(`building needs Rust, and there is no cargo on the PATH: ${install}`)
  const version = /^cargo 1\.(\d+)/.exec(stdout)
  if (status !== 0 || !version)
    fail('building needs Rust, and `cargo --version` fails: `rustup default stable` may help')
  if (Number(version[1]) < Number(oldest))
    fail(
      `building needs Rust 1.${oldest} or newer, and this is ${stdout.trim()}: run \`rustup update stable\``,
    )
}

/** Runs a step of the build, unless the last one had the same inputs and all that it made is there. */
function step(name, settings, paths, build) {
  const mark = `.cache/built-${name}`
  const hash = createHash('sha256').update(JSON.stringify(settings))
  for (const file of [fileURLToPath(import.meta.url), ...paths.flatMap(filesIn)]) {
    const { size, mtimeMs } = statSync(file)
    hash.update(`${file} ${size} ${mtimeMs}\n`)
  }
  const inputs = hash.digest('hex')
  const [before, ...outputs] = existsSync(mark) ? readFileSync(mark, 'utf8').split('\n') : []
  if (before === inputs && outputs.every(existsSync)) return
  build()
  const made = filesIn('dist').filter(file => /\.(node|cjs|mjs|js)$/.test(file))
  mkdirSync('.cache', { recursive: true })
  writeFileSync(mark, [inputs, ...made].join('\n'))
}

/** Every file at or below a path, in order; none if there is nothing. */
function filesIn(path) {
  const found = statSync(path, { throwIfNoEntry: false })
  if (!found) return []
  if (!found.isDirectory()) return [path]
  return readdirSync(path)
    .sort()
    .flatMap(name => filesIn(`${path}/${name}`))
}

/** Installs what package-lock.json lists, unless the last install was of this very list. */
function install() {
  if (modified('node_modules/.package-lock.json') >= modified('package-lock.json')) return
  // npm tells its scripts where it is; run by hand, we look for it on the path.
  const npm = process.env.npm_execpath
  if (npm) run(process.execPath, [npm, 'ci', '--no-audit', '--no-fund'])
  else run('npm', ['ci', '--no-audit', '--no-fund'], { shell: process.platform === 'win32' })
}

/** dist/rwkv.<platform>.node, and its types. */
function bindNative() {
  const output = ['--output-dir', 'dist', '--no-js', '--dts', 'native.d.cts']
  const crate = ['--manifest-path', 'crates/node/Cargo.toml']
  tool('@napi-rs/cli', ['build', '--platform', ...mode, ...crate, ...output, ...process.argv.slice(2)])
}

/**
 * What src/ imports as '#native': the names of the binding, each looked up when it is used. Node finds the names
 * for `import` in the last line, which never runs.
 */
function bindNames() {
  const types = readFileSync('dist/native.d.cts', 'utf8')
  const names = [...types.matchAll(/^export declare (?:class|function) (\w+)/gm)].map(([, name]) => name)
  const lines = names.map(
    name => `Object.defineProperty(exports, '${name}', { enumerable: true, get: () => binding().${name} })`,
  )
  const head = "const { binding } = require('./binding.js')"
  writeFileSync(
    'dist/native.cjs',
    `${[head, ...lines, `0 && (module.exports = { ${names.join(', ')} })`].join('\n')}\n`,
  )
}

/** '#version': that of package.json. */
function inlineVersion() {
  const { version } = JSON.parse(readFileSync('package.json', 'utf8'))
  writeFileSync('dist/version.cjs', `exports.version = '${version}'\n`)
  writeFileSync('dist/version.d.cts', 'export declare const version: string\n')
}

/**
 * CommonJS in dist/, and beside it a module with the same names for `import`: one set of classes, however it is
 * loaded.
 */
function compile() {
  tool('typescript', ['-p', 'src'])
  const names = Object.keys(createRequire(import.meta.url)('../dist/index.js')).filter(
    name => name !== '__esModule',
  )
  writeFileSync(
    'dist/index.mjs',
    `import rwkv from './index.js'\n\nexport const { ${names.join(', ')} } = rwkv\n`,
  )
  // For programs that are compiled for a JavaScript without `using`.
  const disposable = '/// <reference lib="esnext.disposable" />\n'
  writeFileSync('dist/index.d.ts', disposable + readFileSync('dist/index.d.ts', 'utf8'))
  writeFileSync('dist/index.d.mts', `${disposable}export * from './index.js'\n`)
  tool('typescript', ['-p', 'examples'])
}

/** Runs a package's own program with this Node: no shell, no .cmd files, the same on every system. */
function tool(name, args) {
  const { bin } = JSON.parse(readFileSync(`node_modules/${name}/package.json`, 'utf8'))
  const path = typeof bin === 'string' ? bin : Object.values(bin)[0]
  run(process.execPath, [`node_modules/${name}/${path}`, ...args])
}

function run(command, args, options = {}) {
  const { status, error } = spawnSync(command, args, { stdio: 'inherit', ...options })
  if (error) fail(`cannot run ${command}: ${error.message}`)
  if (status !== 0) process.exit(status ?? 1)
}

/** When a file was last written, in milliseconds; -1 if it is not there. */
function modified(path) {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? -1
}

/** Says what is wrong, and ends. */
function fail(message) {
  console.error(message)
  process.exit(1)
}
