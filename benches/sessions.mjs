// How fast several sessions of one model write through TypeScript, and what else the process can do meanwhile.
//
//   node benches/sessions.mjs MODEL [--seconds S] [--sessions 1,2,4,8] [--prompt N] [--threads N]
//
// For each number of sessions, in turn with `Model.bench` for as many: tokens a second of all together, the time from
// one piece to the next (p50, p99), and how long a read of a small file takes meanwhile, which is done over and over.
// Then a newcomer, and how long a read of a file takes while eight evaluations, a training run and a quantization go on.
// The newcomer: eight sessions write, one reads a prompt of N tokens, and another comes with eight tokens.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Model, quantize, Trainer } from '../dist/index.js'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: 'string', default: '6' },
    sessions: { type: 'string', default: '1,2,4,8,16,32' },
    prompt: { type: 'string', default: '4000' },
    threads: { type: 'string' },
    rounds: { type: 'string', default: '3' },
  },
})
const seconds = Number(values.seconds)
const directory = mkdtempSync(join(tmpdir(), 'rwkv-bench-'))
const small = join(directory, 'small')
writeFileSync(small, 'x'.repeat(1000))

const model = await Model.load(positionals[0], values.threads ? { threads: Number(values.threads) } : {})
try {
  for (const count of values.sessions.split(',').map(Number)) await compare(count)
  await newcomer()
  await everything()
} finally {
  model.close()
  rmSync(directory, { recursive: true })
}

async function compare(count) {
  const ratios = []
  const [speeds, gaps, reads, bound] = [[], [], [], []]
  for (let round = 0; round < Number(values.rounds); round++) {
    const bench = async () => (await model.bench({ sessions: count, seconds: seconds / 2, prompt: 1 })).batchTokensPerSecond
    const before = await bench()
    const wrote = await write(count)
    const after = await bench()
    ratios.push((wrote.speed * 2) / (before + after))
    speeds.push(wrote.speed)
    bound.push(before, after)
    gaps.push(...wrote.gaps)
    reads.push(...wrote.reads)
  }
  const ms = milliseconds => `${milliseconds.toFixed(milliseconds < 10 ? 2 : 0)} ms`
  console.log(
    `${String(count).padStart(3)} sessions: ${quantile(speeds, 0.5).toFixed(1)} tokens/s, bench ${quantile(bound, 0.5).toFixed(1)}, ` +
      `ratio ${quantile(ratios, 0.5).toFixed(3)} (${Math.min(...ratios).toFixed(3)} to ${Math.max(...ratios).toFixed(3)}); ` +
      `next piece p50 ${ms(quantile(gaps, 0.5))}, p99 ${ms(quantile(gaps, 0.99))}; ` +
      `readFile p50 ${ms(quantile(reads, 0.5))}, p99 ${ms(quantile(reads, 0.99))} of ${reads.length}`,
  )
}

/** Lets `count` sessions write for some seconds. */
async function write(count) {
  const stop = new AbortController()
  let tokens = 0
  const gaps = []
  const one = async index => {
    const session = model.createSession()
    const writing = session.generate('a', {
      maxTokens: 1e9,
      seed: index,
      topK: 40,
      ignoreEndOfText: true,
      signal: stop.signal,
    })
    let last = performance.now()
    try {
      for await (const piece of writing.pieces()) {
        const now = performance.now()
        gaps.push(now - last)
        last = now
        tokens += piece.tokens.length
      }
    } catch (error) {
      if (!stop.signal.aborted) throw error
    } finally {
      session.close()
    }
  }
  const all = Array.from({ length: count }, (_, index) => one(index))
  await sleep(500)
  gaps.length = 0
  const reading = readOften(stop.signal)
  const [startedAt, before] = [performance.now(), tokens]
  await sleep(seconds * 1000)
  const speed = ((tokens - before) / (performance.now() - startedAt)) * 1000
  stop.abort()
  await Promise.all(all)
  return { speed, gaps, reads: await reading }
}

/** Reads a small file over and over, and says how long each took. */
async function readOften(signal) {
  const times = []
  while (!signal.aborted) {
    const startedAt = performance.now()
    await readFile(small)
    times.push(performance.now() - startedAt)
    await sleep(5)
  }
  return times
}

async function newcomer() {
  const stop = new AbortController()
  const { signal } = stop
  const quiet = error => {
    if (!signal.aborted) throw error
  }
  const others = Array.from({ length: 8 }, async (_, seed) => {
    const session = model.createSession()
    const writing = session.generate('a', { maxTokens: 1e9, seed, topK: 40, ignoreEndOfText: true, signal })
    for await (const _ of writing);
  }).map(work => work.catch(quiet))
  const long = Array.from({ length: Number(values.prompt) }, (_, i) => (i * 37) % 200)
  const reader = model.createSession()
  let isRead = false
  const startedAt = performance.now()
  const reading = reader.eval(long, { signal }).then(() => {
    isRead = true
    return performance.now() - startedAt
  }, quiet)
  const [first, reads] = [[], readOften(signal)]
  for (let i = 0; i < 5; i++) {
    await sleep(300)
    const at = performance.now()
    for await (const _ of model.createSession().generate('a newcom', { maxTokens: 1, topK: 40, ignoreEndOfText: true })) break
    first.push(performance.now() - at)
  }
  const wasRead = isRead
  stop.abort()
  await Promise.all([...others, reading])
  const times = await reads
  console.log(
    `a newcomer's first token beside 8 that write and a prompt of ${long.length} tokens: ` +
      `median ${quantile(first, 0.5).toFixed(0)} ms, most ${Math.max(...first).toFixed(0)} ms${wasRead ? ' (the prompt was read before the end)' : ''}; ` +
      `readFile p50 ${quantile(times, 0.5).toFixed(2)} ms, p99 ${quantile(times, 0.99).toFixed(1)} ms`,
  )
}

/** Eight evaluations, a training run and a quantization. */
async function everything() {
  const stop = new AbortController()
  const { signal } = stop
  const text = join(directory, 'text.txt')
  writeFileSync(text, 'It was a dark and stormy night; the rain fell in torrents. '.repeat(20_000))
  const train = async () => {
    const shape = { nLayer: 6, nEmbd: 384, ctxLen: 128, batchSize: 16 }
    const trainer = await Trainer.create({ data: text, out: join(directory, 'run'), ...shape, signal })
    for await (const _ of trainer);
  }
  const quantizes = async () => {
    for (let i = 0; ; i++) await quantize(positionals[0], join(directory, `q${i}`), 'Q8_0', { signal })
  }
  const reads = readOften(signal)
  const work = [...Array.from({ length: 8 }, () => model.evaluate(text, { signal })), train(), quantizes()]
  const all = Promise.all(work.map(each => each.catch(() => {})))
  await sleep(seconds * 1000)
  const at = performance.now()
  stop.abort()
  await all
  const stopped = performance.now() - at
  const times = await reads
  console.log(
    `eight evaluations, a training run and a quantization: readFile p50 ${quantile(times, 0.5).toFixed(2)} ms, ` +
      `p99 ${quantile(times, 0.99).toFixed(1)} ms of ${times.length}; all stopped after ${stopped.toFixed(0)} ms`,
  )
}

function quantile(numbers, q) {
  const sorted = [...numbers].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))]
}
