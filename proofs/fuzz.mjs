// Fuzzes every target for some minutes of CPU time each, and prints what came of it:
//
//   node proofs/fuzz.mjs [--minutes 30] [--jobs 1] [--targets model_file,state]
//
// Inputs that crash a target, take more than 10 seconds or 2 GB are kept in fuzz/artifacts/<target>/, and the
// target goes on; what was learned is kept in fuzz/corpus/<target>/. Half of the time on the fastest
// instructions, half on scalar ones. Exits with 1 if there were findings.

import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

process.chdir(fileURLToPath(new URL('..', import.meta.url)))
const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '30' },
    jobs: { type: 'string', default: '1' },
    targets: { type: 'string', default: targets().join(',') },
  },
})
const seconds = Number(values.minutes) * 60
const jobs = Number(values.jobs)
if (!(seconds > 0 && jobs > 0)) throw new Error('--minutes and --jobs take numbers above 0')

/** Times that a target starts anew: after each finding, and to change instructions. */
const MOST_FINDINGS = 20
const SLICES = 6

const built = spawnSync('bash', ['fuzz/build.sh'], { stdio: ['ignore', 'pipe', 'inherit'] })
if (built.status !== 0) process.exit(built.status ?? 1)
const programs = String(built.stdout).trim()

const waiting = values.targets.split(',')
const rows = []
await Promise.all(Array.from({ length: jobs }, work))
print()
process.exit(rows.some(row => row.findings.length > 0) ? 1 : 0)

function targets() {
  const files = readdirSync('fuzz/fuzz_targets').filter(name => name.endsWith('.rs'))
  return files.map(name => name.slice(0, -3)).sort()
}

async function work() {
  for (let target = waiting.shift(); target; target = waiting.shift()) {
    const row = { target, inputs: 0, cpu: 0, coverage: 0, features: 0, corpus: 0, findings: [] }
    rows.push(row)
    for (let slice = 0; row.cpu < seconds && row.findings.length < MOST_FINDINGS; slice++) {
      const isa = slice % 2 === 1 ? 'scalar' : undefined
      await run(row, isa, Math.min(seconds - row.cpu, seconds / SLICES))
    }
    console.log(`${target}: done, ${row.findings.length} findings`)
  }
}

/** Runs a target until it has used `most` seconds of CPU time or found something. */
async function run(row, isa, most) {
  const { target } = row
  const [corpus, found] = [`fuzz/corpus/${target}`, `fuzz/artifacts/${target}`]
  for (const directory of [corpus, found, '.cache']) mkdirSync(directory, { recursive: true })
  const before = new Set(readdirSync(found))
  const json = ['tokenizer', 'run_directory'].includes(target)
  const format = ['pth', 'safetensors', 'gguf'].includes(target)
  const dictionary = json ? 'json' : format ? 'formats' : 'model_file'
  const child = spawn(
    `${programs}/${target}`,
    [
      corpus,
      `fuzz/seeds/${target}`,
      `-dict=fuzz/dictionaries/${dictionary}.dict`,
      `-artifact_prefix=${found}/`,
      '-timeout=10',
      '-rss_limit_mb=2048',
      '-max_len=16384',
      '-print_final_stats=1',
    ],
    {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: {
        ...process.env,
        ...(isa && { RWKV_ISA: isa }),
        ASAN_OPTIONS: 'quarantine_size_mb=8:malloc_context_size=8:detect_odr_violation=0',
      },
    },
  )
  let log = ''
  child.stderr.on('data', text => {
    // The end says all that is asked below.
    log = (log + text).slice(-100_000)
  })
  let cpu = 0
  const timer = setInterval(() => {
    cpu = cpuSeconds(child.pid) ?? cpu
    // Asks libFuzzer to stop and to print its figures.
    if (cpu >= most) child.kill('SIGUSR1')
  }, 500)
  const code = await new Promise(resolve => child.on('close', resolve))
  clearInterval(timer)

  const progress = [...log.matchAll(/^#(\d+)\s.*? cov: (\d+) ft: (\d+) corp: (\d+)/gm)].at(-1)?.slice(1) ?? []
  const [inputs = 0, coverage = 0, features = 0, corpusSize = 0] = progress.map(Number)
  const executed = Number(/number_of_executed_units: (\d+)/.exec(log)?.[1] ?? inputs)
  row.inputs += executed
  row.cpu += cpu
  row.coverage = Math.max(row.coverage, coverage)
  row.features = Math.max(row.features, features)
  row.corpus = corpusSize
  const crashes = readdirSync(found).filter(name => !before.has(name))
  if (code !== 0 || crashes.length > 0) {
    const names = crashes.length > 0 ? crashes : [`exit code ${code}`]
    row.findings.push(...names)
    writeFileSync(`.cache/fuzz-${target}-${row.findings.length}.log`, log)
    console.log(`${target}: ${names.join(', ')}\n${log.split('\n').slice(-60).join('\n')}`)
  }
  // A target that does not even start would be started for ever.
  if (executed === 0) row.cpu = seconds
}

/** User and system time of a process; undefined when it is gone. */
function cpuSeconds(pid) {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ')
    return (Number(fields[11]) + Number(fields[12])) / 100
  } catch {
    return undefined
  }
}

function print() {
  const head = ['target', 'CPU min', 'executions', 'per CPU s', 'edges', 'features', 'corpus', 'findings']
  const body = rows.map(row => [
    row.target,
    (row.cpu / 60).toFixed(1),
    row.inputs,
    Math.round(row.inputs / row.cpu),
    row.coverage,
    row.features,
    row.corpus,
    row.findings.length,
  ])
  console.log()
  for (const line of [head, head.map(() => '---'), ...body]) console.log(`| ${line.join(' | ')} |`)
  for (const { target, findings } of rows) {
    for (const name of findings) console.log(`${programs}/${target} fuzz/artifacts/${target}/${name}`)
  }
}
