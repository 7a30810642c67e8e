// A longer proof: a run whose ranks are killed again and again is the run that nobody killed, to rounding.
//
//     node proofs/ranks.mjs [kills=30] [seed=1]
//
// A random rank is killed at a random moment, and the run goes on from its newest checkpoint with another number of ranks.
// It ends in an error if a run is lost, if mpirun goes on without the one that was killed, or if a loss differs by 1e-4.
// Takes rwkv-mpi (cargo build --release --manifest-path mpi/Cargo.toml) and mpirun, some minutes, and two cores.

import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const [kills, seed] = [process.argv[2] ?? 30, process.argv[3] ?? 1].map(Number)
const root = join(import.meta.dirname, '..')
const program = join(process.env.CARGO_TARGET_DIR ?? join(root, 'mpi/target'), 'release/rwkv-mpi')
const place = mkdtempSync(join(tmpdir(), 'rwkv-kill-'))
const text = join(place, 'text')
writeFileSync(
  text,
  readdirSync(join(root, 'docs'))
    .filter(name => name.endsWith('.md'))
    .map(name => readFileSync(join(root, 'docs', name), 'utf8'))
    .join('\n'),
)
const steps = 100 * kills
const options = [
  ...[
    '--data',
    text,
    '--ctx-len',
    '64',
    '--batch-size',
    '8',
    '--n-layer',
    '2',
    '--n-embd',
    '128',
    '--precision',
    'f32',
  ],
  ...['--dropout', '0.1', '--eval-interval', '40', '--eval-tokens', '4096', '--checkpoint-interval', '10'],
  ...['--max-steps', String(steps)],
]
let random = seed
try {
  console.log(`${steps} steps that nobody disturbs`)
  const whole = start(2, ['--out', join(place, 'whole'), ...options])
  if ((await whole.ended) !== 0) throw new Error(`it failed:\n${whole.said()}`)
  const expected = losses('whole')

  const out = join(place, 'killed')
  let done = 0
  for (let runs = 0; ; runs += 1) {
    const ranks = [1, 2, 4][next(3)]
    const args = existsSync(join(out, 'config.json')) ? ['--resume', out] : ['--out', out, ...options]
    const run = start(ranks, args)
    const killed = done < kills ? await killOne(run, ranks, 300 + next(2500)) : undefined
    const start_ = performance.now()
    const code = await run.ended
    if (killed === undefined) {
      if (code !== 0) throw new Error(`${ranks} ranks could not go on:\n${run.said()}`)
      if (losses('killed').size === expected.size) break
      continue
    }
    done += 1
    const [after, step] = [performance.now() - start_, Math.max(0, ...(losses('killed')?.keys() ?? []))]
    console.log(
      `kill ${done}: rank ${killed} of ${ranks}, ended ${after.toFixed(0)} ms later, in step ${step}`,
    )
    if (code === 0 || after > 10_000) throw new Error(`the others went on:\n${run.said()}`)
    if (runs > 10 * kills) throw new Error('it does not come to its end')
  }
  const got = losses('killed')
  const apart = [...expected].map(([step, loss]) => Math.abs(loss - got.get(step)))
  const largest = Math.max(...apart)
  console.log(
    `${done} kills; ${got.size} losses, at most ${largest.toExponential(1)} from those of the run without`,
  )
  process.exitCode = largest < 1e-4 ? 0 : 1
} finally {
  rmSync(place, { recursive: true, force: true })
}

function start(ranks, args) {
  const mpirun = [
    '--allow-run-as-root',
    '--oversubscribe',
    '-n',
    ranks,
    program,
    'train',
    '--threads',
    '1',
    ...args,
  ]
  const child = spawn('mpirun', mpirun.map(String), { stdio: ['ignore', 'pipe', 'pipe'] })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', data => (said += data))
  return {
    child,
    said: () => said,
    ended: new Promise(resolve => child.on('exit', (code, signal) => resolve(signal ?? code))),
  }
}

/** Kills one of the ranks after some milliseconds, if the run has not ended by then. */
async function killOne({ child, ended }, ranks, milliseconds) {
  const isOver = await Promise.race([
    ended.then(() => true),
    new Promise(resolve => setTimeout(() => resolve(false), milliseconds)),
  ])
  if (isOver) return undefined
  const children = spawnSync('pgrep', ['-P', child.pid], { encoding: 'utf8' }).stdout.trim().split('\n')
  const rank = next(ranks)
  if (children.length !== ranks) throw new Error(`${children.length} processes of mpirun, not ${ranks}`)
  process.kill(Number(children[rank]), 'SIGKILL')
  return rank
}

/** The loss of each step; those of validation are negative steps. */
function losses(name) {
  const file = join(place, name, 'log.jsonl')
  if (!existsSync(file)) return new Map()
  const lines = readFileSync(file, 'utf8').split('\n').slice(0, -1)
  return new Map(
    lines
      .map(line => JSON.parse(line))
      .map(({ step, loss, valLoss }) => [loss === undefined ? -step : step, loss ?? valLoss]),
  )
}

/** A number below `below`: a linear congruential generator, for the same kills again. */
function next(below) {
  random = (random * 1_103_515_245 + 12_345) % 2_147_483_648
  return Math.floor((random / 2_147_483_648) * below)
}
