import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'
import { Trainer, type TrainOptions } from '../src/index.js'

/** A folder of this test file's own, gone at its end. */
export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'rwkv-test-'))
  afterAll(() => rm(folder, { recursive: true, force: true }))
  return folder
}

/** Some text with a pattern that a tiny model finds in a second: about 11,000 characters, 28 different ones. */
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

/** Writes {@link text} into `folder`, and returns the file's path. */
export async function writeText(folder: string): Promise<string> {
  const data = join(folder, 'text.txt')
  await writeFile(data, text)
  return data
}

/** A whole run: the folder it wrote. */
export async function trainTiny(folder: string, options: Partial<TrainOptions> = {}): Promise<string> {
  const out = options.out ?? join(folder, 'run')
  const trainer = await Trainer.create({ ...tiny, data: await writeText(folder), ...options, out })
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
