import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect } from 'vitest'
import { Trainer, type TrainOptions } from '../src/index.js'

/** A directory of this test file's own, gone at its end. */
export async function temporaryDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'rwkv-test-'))
  afterAll(() => rm(directory, { recursive: true, force: true }))
  return directory
}

/**
 * Some text with a pattern that a tiny model finds in a second: about 11,000 characters, 28 different ones.
 */
export const text = Array.from({ length: 250 }, (_, i) => {
  const colour = ['red', 'green', 'blue', 'yellow'][(i * 7) % 4]
  return `the ${colour} fox jumps over the lazy dog\n`
}).join('')

/** Options of a run that takes a second. */
export const tiny = {
  nLayer: 2,
  nEmbd: 32,
  ctxLen: 32,
  batchSize: 4,
  maxSteps: 60,
  threads: 2,
  seed: 1,
  // The text's characters and nothing else: a vocabulary of a known size.
  unknown: 'error',
} as const

/** Writes {@link text} into `directory`, and returns the file's path. */
export async function writeText(directory: string): Promise<string> {
  const data = join(directory, 'text.txt')
  await writeFile(data, text)
  return data
}

/** A whole run: the directory it wrote. */
export async function trainTiny(
  directory: string,
  options: Partial<TrainOptions> & { out?: string | undefined } = {},
): Promise<string> {
  const out = options.out ?? join(directory, 'run')
  const trainer = await Trainer.create({ ...tiny, data: await writeText(directory), ...options, out })
  try {
    for await (const _ of trainer);
  } finally {
    trainer.close()
  }
  return out
}

/** Everything that a session writes for a prompt. */
export async function collect(pieces: AsyncIterable<string>): Promise<string> {
  let all = ''
  for await (const piece of pieces) all += piece
  return all
}

/**
 * Calls the native side, and waits for the end of its work without giving the event loop a turn: that comes
 * only if the work is done on another thread, and then it blocks no event loop.
 *
 * @param look Throws `BUSY` while the work is under way.
 */
export async function worksAlone<T>(call: () => Promise<T>, look: () => unknown): Promise<T> {
  const isBusy = () => {
    try {
      look()
      return false
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'BUSY') throw error
      return true
    }
  }
  // Work that is done before the call returns is never seen. Work on another thread might be over before we
  // look, once or twice.
  for (let attempt = 0; attempt < 100; attempt++) {
    let isSettled = false
    const work = call().finally(() => {
      isSettled = true
    })
    const wasSeen = isBusy()
    const giveUpAt = performance.now() + 60_000
    // No `await` in here.
    while (isBusy()) if (performance.now() > giveUpAt) throw new Error('the work waits for the event loop')
    expect(isSettled).toBe(false)
    const result = await work
    if (wasSeen) return result
  }
  throw new Error('the work is done before the call returns')
}

/** Begins something that takes minutes, and stops it by a timer, which a call that blocks would keep waiting. */
export async function isStoppedByTimer(call: (signal: AbortSignal) => Promise<unknown>): Promise<void> {
  const controller = new AbortController()
  const work = call(controller.signal)
  setTimeout(() => controller.abort(), 1)
  await expect(work).rejects.toMatchObject({ name: 'AbortError' })
}
