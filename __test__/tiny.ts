import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
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
} as const

/** Writes {@link text} into `directory`, and returns the file's path. */
export async function writeText(directory: string): Promise<string> {
  const data = join(directory, 'text.txt')
  await writeFile(data, text)
  return data
}

/** A whole run: the directory it wrote. */
export async function trainTiny(directory: string, options: Partial<TrainOptions> = {}): Promise<string> {
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
 * Begins something that takes minutes, and goes on when timers have fired and files were read meanwhile: of a
 * call that blocks the event loop, or one that is not stopped, there is no going on.
 */
export async function goesOnBeside(call: (signal: AbortSignal) => Promise<unknown>): Promise<void> {
  const controller = new AbortController()
  let isSettled = false
  const work = call(controller.signal).finally(() => {
    isSettled = true
  })
  work.catch(() => {})
  for (let i = 0; i < 20; i++) {
    await sleep(1)
    await readFile(import.meta.filename)
  }
  expect(isSettled).toBe(false)
  controller.abort()
  await expect(work).rejects.toMatchObject({ name: 'AbortError' })
}
