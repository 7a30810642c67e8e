// Shows that memory, threads and handles stay flat: 10,000 sessions of one model, 100,000 calls that are aborted, 1,000
// loads of a model, 200 worker threads that load one.
//
//   node proofs/memory.mjs [sessions calls loads workers]
//
// Each runs in a process of its own. The process's resident memory is read after a warm-up (a tenth of the
// work), and at each quarter of the rest. Half of the sessions, models and workers are closed or end by
// themselves, the other half is left to garbage collection or terminated. Exits with 1 if memory grew by more
// than the bound that is printed; a state, a model or a worker's library that were kept each time would
// exceed it many times over.

import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'

const MB = 2 ** 20

/** Threads for work, at most: they come when there is work, and go after some seconds without. */
const POOL = 16

/** What is repeated, how often, and by how much memory may grow, in bytes. */
const kinds = {
  // A state of 4 layers, 128 wide, has 10 KB: kept by each session, 100 MB.
  sessions: { times: 10_000, bound: 16 * MB, run: sessions },
  // A state, logits and tokens of each: 20 KB, 2 GB.
  calls: { times: 100_000, bound: 24 * MB, run: calls },
  // 3.4 MB and 1 MB: kept by each load, 2 GB.
  loads: { times: 1_000, bound: 24 * MB, run: loads },
  // A thread of Node with our library takes some 10 MB: 2 GB.
  workers: { times: 200, bound: 48 * MB, run: workers },
}

if (!isMainThread) await inWorker()
else if (process.env.RWKV_MEMORY_KIND) await measure(process.env.RWKV_MEMORY_KIND)
else start()

/** A process for each kind. */
function start() {
  const wanted = process.argv.slice(2)
  const unknown = wanted.filter(kind => !(kind in kinds))
  if (unknown.length > 0) throw new Error(`${unknown}: not one of ${Object.keys(kinds)}`)
  let status = 0
  for (const kind of wanted.length > 0 ? wanted : Object.keys(kinds)) {
    const env = { ...process.env, RWKV_MEMORY_KIND: kind }
    const child = spawnSync(process.execPath, ['--expose-gc', fileURLToPath(import.meta.url)], {
      env,
      stdio: 'inherit',
    })
    if (child.status !== 0) status = 1
  }
  process.exit(status)
}

async function measure(kind) {
  const { times, bound, run } = kinds[kind]
  const directory = mkdtempSync(join(tmpdir(), 'rwkv-memory-'))
  const { Trainer, quantize } = await import('../dist/index.js')
  const data = join(directory, 'book.txt')
  writeFileSync(data, 'the whale and the ship under a storm of the sea. '.repeat(40))
  const shape = { nLayer: 4, nEmbd: 128, ctxLen: 16, batchSize: 2, maxSteps: 1, threads: 1 }
  const trainer = await Trainer.create({ data, out: join(directory, 'run'), ...shape })
  for await (const _ of trainer);
  await trainer[Symbol.asyncDispose]()
  const small = join(directory, 'small.bin')
  await quantize(join(directory, 'run'), small, 'Q8_0')

  const [measured, counted] = [[], []]
  const mark = async () => {
    // Once for what is unreachable, once for what its finalizers let go.
    for (let i = 0; i < 3; i++) {
      globalThis.gc()
      await wait(20)
    }
    measured.push(process.memoryUsage().rss)
    counted.push(counts())
  }
  const begun = performance.now()
  const warmUp = times / 10
  await run(warmUp, [join(directory, 'run'), small])
  await mark()
  for (let quarter = 0; quarter < 4; quarter++) {
    await run((times - warmUp) / 4, [join(directory, 'run'), small])
    await mark()
  }
  rmSync(directory, { recursive: true })
  const growth = Math.max(...measured) - measured[0]
  const seconds = ((performance.now() - begun) / 1000).toFixed(0)
  const mb = bytes => (bytes / MB).toFixed(1)
  console.log(
    `${times} ${kind} in ${seconds} s: ${measured.map(mb).join(', ')} MB after the warm-up and each quarter; ` +
      `grew by ${mb(growth)} MB, at most ${mb(bound)} allowed: ${growth <= bound ? 'flat' : 'NOT FLAT'}`,
  )
  const most = counted
    .slice(1)
    .some(([threads, files]) => threads > counted[0][0] + POOL || files > counted[0][1] + 2)
  console.log(
    `  threads, open files and handles: ${counted.map(each => each.join(' ')).join(', ')}${most ? ': NOT FLAT' : ''}`,
  )
  process.exit(growth <= bound && !most ? 0 : 1)
}

/** Threads, open files and what keeps the event loop alive; the former two where the system tells. */
function counts() {
  const handles = process.getActiveResourcesInfo().length
  if (process.platform !== 'linux') return [0, 0, handles]
  return [readdirSync('/proc/self/task').length, readdirSync('/proc/self/fd').length, handles]
}

/** Calls of every kind, aborted at once or soon. */
async function calls(times, [run]) {
  const { Model } = await import('../dist/index.js')
  const model = await Model.load(run, { threads: 1 })
  const session = model.createSession()
  const long = 'the whale and the ship. '.repeat(40)
  const kinds = [
    signal => session.prompt(long, { signal }),
    signal => model.createSession().eval([1, 2, 3, 4, 5, 6, 7, 8], { signal }),
    signal => model.createSession().generate('the ', { maxTokens: 1e9, signal }).result(),
    signal => model.evaluate(join(run, 'config.json'), { signal }),
  ]
  for (let i = 0; i < times; i++) {
    const stop = new AbortController()
    const call = kinds[i % kinds.length](stop.signal)
    if (i % 3 === 0) await new Promise(setImmediate)
    stop.abort()
    await call.catch(error => {
      if (!stop.signal.aborted && error.code !== 'UNKNOWN_CHARACTER') throw error
    })
    if (i % 500 === 499) globalThis.gc()
  }
  model.close()
}

async function sessions(times, [run]) {
  const { Model } = await import('../dist/index.js')
  const model = await Model.load(run, { threads: 1 })
  for (let i = 0; i < times; i++) {
    const session = model.createSession()
    await session.prompt('the whale')
    let text = ''
    for await (const piece of session.generate('', { maxTokens: 2, seed: i })) text += piece
    if (text.length === 0) throw new Error('nothing was written')
    session.state = session.state.clone()
    if (i % 2 === 0) session.close()
    if (i % 50 === 49) globalThis.gc()
  }
  model.close()
}

async function loads(times, paths) {
  const { Model } = await import('../dist/index.js')
  for (let i = 0; i < times; i++) {
    const model = await Model.load(paths[i % paths.length], { threads: 1 + (i % 2) })
    await model.createSession().eval([1, 2, 3])
    if (i % 4 < 2) model.close()
    if (i % 10 === 9) globalThis.gc()
  }
}

async function workers(times, paths) {
  for (let i = 0; i < times; i++) {
    const worker = new Worker(fileURLToPath(import.meta.url), { workerData: { path: paths[i % 2] } })
    const failed = new Promise((_, reject) => worker.once('error', reject))
    const ended = new Promise(resolve => worker.once('exit', resolve))
    await Promise.race([new Promise(resolve => worker.once('message', resolve)), failed, ended])
    if (i % 2 === 0) worker.postMessage('end')
    else await worker.terminate()
    await Promise.race([ended, failed])
  }
}

/** Loads a model and works until it is told to end or terminated. */
async function inWorker() {
  const { Model } = await import('../dist/index.js')
  const model = await Model.load(workerData.path, { threads: 2 })
  const session = model.createSession()
  await session.eval([1, 2, 3])
  let goOn = true
  parentPort.once('message', () => {
    goOn = false
  })
  parentPort.postMessage('loaded')
  while (goOn) await session.eval([1, 2, 3])
  parentPort.close()
}
