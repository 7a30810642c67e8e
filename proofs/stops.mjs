// Shows how soon everything that runs natively stops: aborted, at the end of a worker thread, and at that of the
// process.
//
//   node proofs/stops.mjs MODEL [--times 3] [--only prompt,train]
//
// Each kind of work is begun anew each time, in a process of its own: it is let run for a while, and then stopped.
// What is printed is the longest time of all, in milliseconds. Exits with 1 if an abort took more than 100 ms, or an
// end more than 300 ms.

import { execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'

const self = fileURLToPath(import.meta.url)
const bounds = { abort: 100, queued: 100, terminate: 300, exit: 300 }

/** Work that goes on for longer than anybody waits, by kind; each is told where things are, and a signal. */
const kinds = {
  prompt: async ({ model }, signal) => model.createSession().eval(new Uint32Array(1e6).fill(5), { signal }),
  'prompt of 33 M characters': async ({ model }, signal) =>
    model.createSession().prompt('a whale, and a ship. '.repeat(1_600_000), { signal }),
  generate: async ({ model }, signal) => {
    const options = { maxTokens: 1e9, ignoreEndOfText: true, signal }
    for await (const _ of model.createSession().generate('a', options));
  },
  'eight that generate': async ({ model }, signal) => {
    const options = { maxTokens: 1e9, ignoreEndOfText: true, signal }
    await Promise.all(
      Array.from({ length: 8 }, async () => {
        for await (const _ of model.createSession().generate('a', options));
      }),
    )
  },
  evaluate: async ({ model, text }, signal) => model.evaluate(text, { signal }),
  'evaluate a pipe': async ({ model, fifo }, signal) => model.evaluate(fifo, { signal }),
  train: async ({ rwkv, book, directory }, signal) => {
    const shape = { nLayer: 6, nEmbd: 384, ctxLen: 128, batchSize: 16 }
    const trainer = await rwkv.Trainer.create({
      data: book,
      out: join(directory, unique('run')),
      ...shape,
      signal,
    })
    for await (const _ of trainer);
  },
  'train on a pipe': async ({ rwkv, fifo, directory }, signal) =>
    rwkv.Trainer.create({ data: fifo, out: join(directory, unique('run')), signal }),
  quantize: async ({ rwkv, path, directory }, signal) => {
    for (;;) await rwkv.quantize(path, join(directory, unique('q')), 'Q5_1', { signal })
  },
  merge: async ({ rwkv, path, adapter, directory }, signal) => {
    for (;;) await rwkv.merge(path, adapter, join(directory, unique('merged')), { signal })
  },
  tokenizer: async ({ rwkv, text }, signal) => {
    for (;;) await rwkv.Tokenizer.train(text, { vocabSize: 20_000, signal })
  },
  prepare: async ({ rwkv, text, directory }, signal) => {
    for (;;) await rwkv.prepare(text, { out: join(directory, unique('prepared')), tokenizer: 'gpt2', signal })
  },
  'eight evaluations with a training run and a quantization': async (places, signal) =>
    Promise.all([
      ...Array.from({ length: 8 }, () => kinds.evaluate(places, signal)),
      kinds.train(places, signal),
      kinds.quantize(places, signal),
    ]),
  bench: async ({ model }, signal) => model.bench({ seconds: 600, signal }),
}

/** A text of many different words. */
function words(count) {
  let state = 1
  const word = () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return (state >>> 12).toString(36)
  }
  return Array.from({ length: count }, word).join(' ')
}

let counter = 0
function unique(name) {
  counter++
  return `${name}-${process.pid}-${counter}`
}

if (!isMainThread) await inWorker()
else if (process.env.RWKV_STOP) await inProcess(JSON.parse(process.env.RWKV_STOP))
else await start()

async function start() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { times: { type: 'string', default: '3' }, only: { type: 'string' } },
  })
  const directory = mkdtempSync(join(tmpdir(), 'rwkv-stops-'))
  const places = {
    path: positionals[0],
    directory,
    text: join(directory, 'text.txt'),
    book: join(directory, 'book.txt'),
    fifo: join(directory, 'fifo'),
  }
  writeFileSync(places.text, words(5_000_000))
  writeFileSync(places.book, words(150_000))
  const only = values.only?.split(',') ?? Object.keys(kinds)
  if (only.includes('merge')) {
    const { Trainer } = await import('../dist/index.js')
    places.adapter = join(directory, 'adapter')
    const shape = { from: places.path, loraRank: 2, maxSteps: 1, ctxLen: 8, batchSize: 1, evalTokens: 16 }
    const trainer = await Trainer.create({ data: places.book, out: places.adapter, ...shape })
    for await (const _ of trainer);
    trainer.close()
  }
  execFileSync('mkfifo', [places.fifo])
  let status = 0
  try {
    for (const kind of only) {
      const worst = {}
      for (const how of Object.keys(bounds)) {
        for (let time = 0; time < Number(values.times); time++) {
          const took = await stopped({ kind, how, places, after: 300 + 700 * Math.random() })
          worst[how] = Math.max(worst[how] ?? 0, took)
        }
      }
      const isSound = Object.entries(worst).every(([how, took]) => took <= bounds[how])
      if (!isSound) status = 1
      const shown = Object.entries(worst).map(([how, took]) => `${how} ${took.toFixed(0)}`)
      console.log(`${kind}: ${shown.join(', ')} ms${isSound ? '' : '  TOO LONG'}`)
    }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
  process.exit(status)
}

/** How long it took to stop a piece of work, in a process of its own. */
async function stopped(task) {
  const env = { ...process.env, RWKV_STOP: JSON.stringify(task) }
  const child = spawn(process.execPath, [self], { env, stdio: ['ignore', 'pipe', 'inherit'] })
  let out = ''
  child.stdout.on('data', data => {
    out += data
  })
  const timer = setTimeout(() => child.kill('SIGKILL'), 60_000)
  const code = await new Promise(resolve => child.once('exit', resolve))
  const ended = Date.now()
  clearTimeout(timer)
  const { took, at } = JSON.parse(out || '{}')
  if (code !== 0) throw new Error(`${task.kind}, ${task.how}: the process ended with ${code}`)
  return took ?? ended - at
}

async function begin({ kind, places }, signal) {
  const rwkv = await import('../dist/index.js')
  const model = await rwkv.Model.load(places.path)
  return () => kinds[kind]({ rwkv, model, ...places }, signal)
}

async function inProcess(task) {
  const { how, after } = task
  const print = object => process.stdout.write(JSON.stringify(object))
  if (how === 'terminate') {
    const worker = new Worker(self, { workerData: task })
    await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
    await sleep(after)
    const startedAt = performance.now()
    await worker.terminate()
    print({ took: performance.now() - startedAt })
    return
  }
  const stop = new AbortController()
  const run = await begin(task, stop.signal)
  const work = run().then(
    () => {
      throw new Error(`${task.kind} was done before it was stopped`)
    },
    error => {
      if (!stop.signal.aborted) throw error
    },
  )
  if (how === 'queued') {
    // More than there are threads for, so that some have not begun.
    const more = Array.from({ length: 30 }, () => run().catch(() => {}))
    await sleep(50)
    const startedAt = performance.now()
    stop.abort()
    await Promise.all([work, ...more])
    print({ took: performance.now() - startedAt })
    process.exit(0)
  }
  await sleep(after)
  if (how === 'exit') {
    print({ at: Date.now() })
    process.exit(0)
  }
  const startedAt = performance.now()
  stop.abort()
  await work
  print({ took: performance.now() - startedAt })
  process.exit(0)
}

async function inWorker() {
  const run = await begin(workerData, undefined)
  parentPort.postMessage('begun')
  await run()
}
