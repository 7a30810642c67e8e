// Kills `rwkv train` with SIGKILL a hundred times at random moments, goes on each time with --resume, and
// compares what is there at the end with a run that nobody stopped: model.bin and the checkpoint's numbers
// byte by byte, the log line by line.
//
//   node proofs/kills.mjs [--kills 100] [--seed 1] [--steps 120]
//
// A run that comes to its end before all kills were dealt is compared, and another is begun. Exits with 1 if
// any differs.

import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '100' },
    seed: { type: 'string', default: '1' },
    steps: { type: 'string', default: '120' },
  },
})
const [kills, steps] = [Number(values.kills), Number(values.steps)]
const cli = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url))
const directory = mkdtempSync(join(tmpdir(), 'rwkv-kills-'))
const book = join(directory, 'book.txt')
const random = numbers(Number(values.seed))

writeFileSync(book, text())
const begun = performance.now()
const whole = join(directory, 'whole')
await life(whole, undefined)
console.log(
  `a run of ${steps} steps without a break took ${((performance.now() - begun) / 1000).toFixed(1)} s`,
)
const expected = result(whole)

const count = { dealt: 0, lives: 0, runs: 0, early: 0, writing: 0 }
let failed = false
while (count.dealt < kills && !failed) {
  const run = join(directory, `killed-${++count.runs}`)
  let finished = false
  while (!finished) {
    count.lives++
    finished = await life(run, count.dealt < kills ? random : undefined)
    if (finished) break
    count.dealt++
    const left = existsSync(run) ? readdirSync(run) : []
    if (!left.includes('config.json')) count.early++
    if (left.some(name => name.endsWith('.tmp'))) count.writing++
  }
  failed = !same(result(run), expected)
  if (!failed) rmSync(run, { recursive: true })
}
console.log(
  `${count.dealt} kills in ${count.lives} lives of ${count.runs} runs: ${count.early} before there was a run, ` +
    `${count.writing} left a file or directory that was being written`,
)
if (failed) console.log(`the runs differ; they are in ${directory}`)
else rmSync(directory, { recursive: true })
console.log(failed ? 'FAILED' : 'every run ended with the bytes of the one without a break')
process.exit(failed ? 1 : 0)

/**
 * Begins the run or goes on with it. With `random` it is killed: half of the time at a moment counted from
 * the start of the process, half from its first step. Returns whether the run came to its end before that.
 */
async function life(run, random) {
  const args = existsSync(join(run, 'config.json'))
    ? ['--resume', run]
    : [
        '--data',
        book,
        '--out',
        run,
        '--n-layer',
        '2',
        '--n-embd',
        '96',
        '--ctx-len',
        '32',
        '--batch-size',
        '4',
      ]
  const intervals = ['--max-steps', `${steps}`, '--checkpoint-interval', '3', '--eval-interval', '20']
  const child = spawn(process.execPath, [cli, 'train', ...args, ...intervals, '--threads', '2', '--json'])
  let [error, alive] = ['', true]
  child.stderr.on('data', data => {
    error += data
  })
  const first = new Promise(resolve => child.stdout.once('data', resolve))
  const end = new Promise(resolve => child.on('close', (code, signal) => resolve({ code, signal }))).then(
    end => {
      alive = false
      return end
    },
  )
  if (random) {
    if (random() < 0.5) await Promise.race([first, end])
    await Promise.race([wait(random() * 1200), end])
    if (alive) child.kill('SIGKILL')
  }
  const { code, signal } = await end
  if (signal === 'SIGKILL') return false
  if (code !== 0) {
    console.log(`rwkv train ended with ${code ?? signal}: ${error}`)
    console.log(`the run is in ${run}`)
    process.exit(1)
  }
  return true
}

/** What has to be the same: not times, nor checksums over times. */
function result(run) {
  const checkpoint = join(run, `checkpoint-${steps}`)
  const files = ['parameters.f32', 'means.f32', 'squares.f32'].map(name => join(checkpoint, name))
  const read = [join(run, 'model.bin'), join(run, 'tokenizer.json'), ...files].map(path => readFileSync(path))
  const json = path => JSON.parse(readFileSync(path, 'utf8'))
  const { seconds: _, crc32: __, ...manifest } = json(join(checkpoint, 'checkpoint.json'))
  const log = readFileSync(join(run, 'log.jsonl'), 'utf8').trim().split('\n')
  const lines = log.map(line => ({ ...JSON.parse(line), seconds: 0 }))
  return { read, rest: JSON.stringify([manifest, json(join(run, 'config.json')), lines]) }
}

function same(a, b) {
  const differing = a.read.findIndex((bytes, index) => !bytes.equals(b.read[index]))
  if (differing >= 0) console.log(`file ${differing} of model, tokenizer, parameters, means, squares differs`)
  if (a.rest !== b.rest) console.log(`JSON differs:\n${a.rest}\n${b.rest}`)
  return differing < 0 && a.rest === b.rest
}

/** Sentences of words in a pattern that does not repeat soon. */
function text() {
  const words = [
    'whale',
    'ship',
    'sea',
    'captain',
    'harpoon',
    'storm',
    'sail',
    'night',
    'the',
    'and',
    'under',
  ]
  const random = numbers(7)
  const sentence = () => Array.from({ length: 9 }, () => words[Math.floor(random() * words.length)]).join(' ')
  return Array.from({ length: 400 }, sentence).join('.\n')
}

/** Numbers from 0 to 1 that follow from a seed (mulberry32). */
function numbers(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}
