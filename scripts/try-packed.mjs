// Installs the packed packages in a new directory, as a user would, and runs the first program of the README
// there: it trains a model and writes with it. Exits with 1, and says why, if anything is not as it should be.
//
//   node scripts/try-packed.mjs PACKED

import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

const [packed] = process.argv.slice(2)
if (packed === undefined) fail('node scripts/try-packed.mjs PACKED')
const windows = process.platform === 'win32'
const directory = mkdtempSync(join(tmpdir(), 'rwkv-try-'))
try {
  install()
  learn()
  commandLine()
} finally {
  rmSync(directory, { recursive: true, force: true, maxRetries: 10 })
}

/** Installs rwkv and the package with the binary for this machine. */
function install() {
  const names = readdirSync(packed)
  const libc = process.report.getReport().header.glibcVersionRuntime === undefined ? '-musl' : '-gnu'
  const kind = process.platform === 'linux' ? libc : windows ? '-msvc' : ''
  const binary = `rwkv-${process.platform}-${process.arch}${kind}-`
  const files = [names.find(name => /^rwkv-\d/.test(name)), names.find(name => name.startsWith(binary))]
  if (files.includes(undefined)) fail(`${packed} has no ${files[0] ? binary : 'rwkv'}…: ${names.join(', ')}`)
  writeFileSync(join(directory, 'package.json'), '{ "private": true }')
  const npm = ['install', '--no-audit', '--no-fund', ...files.map(name => resolve(packed, name))]
  const started = performance.now()
  run(windows ? 'npm.cmd' : 'npm', npm)
  const seconds = (performance.now() - started) / 1000
  console.log(
    `installed in ${seconds.toFixed(1)} s, ${(sizeOf(join(directory, 'node_modules')) / 1e6).toFixed(1)} MB`,
  )
}

function learn() {
  const readme = readFileSync(join(directory, 'node_modules/rwkv/README.md'), 'utf8')
  const program = /```js\n(.*?)```/s.exec(readme)?.[1]
  if (program === undefined) fail('the README has no program')
  writeFileSync(join(directory, 'write.mjs'), program)
  const lines = Array.from(
    { length: 400 },
    (_, i) => `The ${['red', 'old', 'sly'][i % 3]} fox ran over hill ${(i * 7) % 10}.`,
  )
  writeFileSync(join(directory, 'book.txt'), lines.join('\n'))
  const written = run(process.execPath, ['write.mjs'])
  if (!/\b(red|old|sly) fox ran\b/.test(written))
    fail(`it wrote nothing that it could have learned:\n${written}`)
  console.log(written.trim().split('\n').slice(0, 8).join('\n'))
}

function commandLine() {
  const cli = join(directory, 'node_modules/rwkv/dist/cli/main.js')
  console.log(run(process.execPath, [cli, 'info', 'runs/first']).trim())
}

function run(command, args) {
  const shell = command.endsWith('.cmd')
  const { stdout, stderr, status, error } = spawnSync(command, args, {
    cwd: directory,
    shell,
    encoding: 'utf8',
  })
  if (error || status !== 0)
    fail(`${command} ${args.join(' ')}: ${error?.message ?? `exit code ${status}`}\n${stdout}${stderr}`)
  return stdout
}

/** The size of all files at and below a path, in bytes. */
function sizeOf(path) {
  const found = statSync(path)
  if (!found.isDirectory()) return found.size
  return readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 0)
}

function fail(message) {
  console.error(message)
  process.exit(1)
}
