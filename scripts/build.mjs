// Brings a checkout to the point where it can run: node_modules, the native binding, the JavaScript.
//
// `npm start`, `npm test` and `npm run check` call it first, so a fresh clone needs no other step. It imports
// nothing that an install would bring, and each part of it does little when there is nothing to do.

import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
process.chdir(root)

install()
bindNative()
inlineUplot()
compile()

/** Installs what package-lock.json lists, unless the last install was of this very list. */
function install() {
  if (modified('node_modules/.package-lock.json') >= modified('package-lock.json')) return
  // npm tells its scripts where it is; run by hand, we look for it on the path.
  const npm = process.env.npm_execpath
  if (npm) run(process.execPath, [npm, 'ci', '--no-audit', '--no-fund'])
  else run('npm', ['ci', '--no-audit', '--no-fund'], { shell: process.platform === 'win32' })
}

/** dist/rwkv.<platform>.node, and the loader and types that src/ imports as '#native'. */
function bindNative() {
  const files = [
    '--output-dir',
    'dist',
    '--js',
    'native.cjs',
    '--dts',
    'native.d.cts',
    ...process.argv.slice(2),
  ]
  tool('@napi-rs/cli', [
    'build',
    '--platform',
    '--release',
    '--manifest-path',
    'crates/node/Cargo.toml',
    ...files,
  ])
}

/** The plotting library as two strings, '#uplot': a report is one page that loads nothing. */
function inlineUplot() {
  const text = name => JSON.stringify(readFileSync(`node_modules/uplot/dist/${name}`, 'utf8'))
  mkdirSync('dist', { recursive: true })
  writeFileSync(
    'dist/uplot.cjs',
    `exports.script = ${text('uPlot.iife.min.js')}\nexports.style = ${text('uPlot.min.css')}\n`,
  )
  writeFileSync('dist/uplot.d.cts', 'export const script: string\nexport const style: string\n')
}

/** ES modules in dist/, the same for `require` in dist/cjs/, and the examples beside them. */
function compile() {
  tool('typescript', ['-p', 'src'])
  tool('typescript', ['-p', 'src/tsconfig.cjs.json'])
  // A package.json of its own says that these are not ES modules; so it also has to say where '#native' is.
  const imports = { '#native': './native.cjs', '#uplot': './uplot.cjs' }
  writeFileSync('dist/cjs/package.json', `${JSON.stringify({ type: 'commonjs', imports }, null, 2)}\n`)
  for (const file of Object.values(imports)) {
    writeFileSync(`dist/cjs/${file}`, `module.exports = require('../${file.slice(2)}')\n`)
  }
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
  if (error) console.error(`cannot run ${command}: ${error.message}`)
  if (status !== 0) process.exit(status ?? 1)
}

/** When a file was last written, in milliseconds; -1 if it is not there. */
function modified(path) {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? -1
}
