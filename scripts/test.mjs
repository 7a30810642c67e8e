// Runs the Rust tests and then the TypeScript ones, the second also when the first failed. The last lines say
// of each suite whether it passed, and name the tests that failed.

import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { relative } from 'node:path'
import { stripVTControlCharacters } from 'node:util'

/** A test program or a file of tests: its name, how many passed, and the names of those that failed. */
const suites = [...(await rustSuites()), ...typeScriptSuites()]

const width = Math.max(...suites.map(({ name }) => name.length))
console.log()
for (const { name, passed, failed } of suites) {
  const verdict =
    failed.length > 0 ? `FAILED  ${failed.length} of ${passed + failed.length}` : `passed  ${passed}`
  console.log(`  ${name.padEnd(width)}  ${verdict}`)
}
const failures = suites.flatMap(({ name, failed }) => failed.map(test => `  ${name}: ${test}`))
console.log(failures.length > 0 ? `\nThese tests failed:\n${failures.join('\n')}` : '\nAll tests passed.')
process.exit(failures.length > 0 ? 1 : 0)

async function rustSuites() {
  // The benches have no tests, and what they are measured beside takes long to compile.
  const cargo = ['test', '--workspace', '--exclude', 'rwkv-benches']
  // Programs without tests, the examples, are left out: tests contain those that they are about.
  const programs = [...cargo, '--lib', '--bins', '--tests']
  const built = spawnSync('cargo', [...programs, '--no-run', '--message-format', 'json-render-diagnostics'], {
    stdio: ['inherit', 'pipe', 'inherit'],
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  })
  if (built.status !== 0) return [{ name: 'Rust', passed: 0, failed: ['the tests do not compile'] }]
  const names = new Map()
  for (const line of built.stdout.split('\n').filter(Boolean)) {
    const { executable, manifest_path: manifest = '', target } = JSON.parse(line)
    if (!executable) continue
    const directory = relative(process.cwd(), manifest).replace(/[\\/]Cargo\.toml$/, '')
    const source = relative(manifest.replace(/Cargo\.toml$/, ''), target.src_path)
    names.set(relative(process.cwd(), executable), `${directory}/${source}`.replaceAll('\\', '/'))
  }

  const found = []
  // One stream, so that what cargo says of a program stands before what the program says.
  let status = 0
  const onLine = line => {
    const suite = found.at(-1)
    const started = /^\s+(?:Running .*\((.+)\)|Doc-tests (\S+))$/.exec(line)
    const result = /^test (.+?) \.\.\. FAILED$/.exec(line)
    const summary = /^test result: .*? (\d+) passed; (\d+) failed/.exec(line)
    if (started) {
      const [, program, crate] = started
      const name =
        program === undefined ? `${crate}, examples in the documentation` : (names.get(program) ?? program)
      found.push({ name, passed: 0, failed: [], ended: false })
    } else if (suite && result) suite.failed.push(result[1])
    else if (suite && summary) {
      suite.passed += Number(summary[1])
      suite.ended = true
    }
  }
  for (const of of [programs, [...cargo, '--doc']]) {
    const code = await lines(`cargo ${of.join(' ')} --no-fail-fast 2>&1`, onLine)
    status ||= code
  }
  for (const { ended, failed } of found) if (!ended) failed.push('the program ended before its tests did')
  if (status !== 0 && found.every(({ failed }) => failed.length === 0))
    found.push({ name: 'cargo test', passed: 0, failed: [`exit code ${status}`] })
  return found.filter(({ passed, failed }) => passed + failed.length > 0)
}

/** Runs a command of the shell, shows what it prints, and hands over each line; returns the exit code. */
function lines(command, onLine) {
  return new Promise((resolve, reject) => {
    const env = { CARGO_TERM_COLOR: process.stdout.isTTY ? 'always' : 'auto', ...process.env }
    const child = spawn(command, { shell: true, stdio: ['inherit', 'pipe', 'inherit'], env })
    let rest = ''
    child.stdout.setEncoding('utf8').on('data', chunk => {
      process.stdout.write(chunk)
      const whole = (rest + chunk).split('\n')
      rest = whole.pop()
      for (const line of whole) onLine(stripVTControlCharacters(line.trimEnd()))
    })
    child.on('error', reject)
    child.on('close', code => resolve(code ?? 1))
  })
}

function typeScriptSuites() {
  const report = '.cache/vitest.json'
  rmSync(report, { force: true })
  const { status } = spawnSync(process.execPath, ['node_modules/vitest/vitest.mjs', 'run'], {
    stdio: 'inherit',
  })
  if (!existsSync(report))
    return [
      {
        name: 'TypeScript',
        passed: 0,
        failed: [`vitest ended with exit code ${status} and wrote no report`],
      },
    ]
  const { testResults } = JSON.parse(readFileSync(report, 'utf8'))
  const found = testResults.map(({ name, status, assertionResults: tests }) => {
    const failed = tests.filter(test => test.status === 'failed').map(test => test.fullName)
    // A file that does not even load has no test that could fail.
    if (status === 'failed' && failed.length === 0) failed.push('the file could not be run to its end')
    const passed = tests.filter(test => test.status === 'passed').length
    return { name: relative(process.cwd(), name).replaceAll('\\', '/'), passed, failed }
  })
  // An error outside any test: vitest alone knows where.
  if (status !== 0 && found.every(({ failed }) => failed.length === 0))
    found.push({ name: 'vitest', passed: 0, failed: [`exit code ${status}, and no test of its own failed`] })
  return found.sort((a, b) => a.name.localeCompare(b.name))
}
