import { existsSync } from 'node:fs'
import { copyFile, mkdir, open, readFile, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { beforeAll, describe, expect, it } from 'vitest'
import { prepare } from '../src/index.js'
import { rwkv } from './cli.js'
import { temporaryDirectory, text, trainTiny } from './tiny.js'

const directory = await temporaryDirectory()
const path = (...names: string[]) => join(directory, ...names)
const fixtures = join(import.meta.dirname, '../crates/text/tests/data')
const shape = ['--n-layer', 1, '--n-embd', 16, '--max-steps', 2, '--ctx-len', 8]

/** Runs a command that has to fail, and says what it said; nothing is left of what it was to make. */
async function refused(...args: (string | number)[]): Promise<string> {
  const out = path('out')
  const { code, out: shown, err } = await rwkv(...args, '--out', out)
  // An option that does not fit is the user's, as one that is misspelt.
  expect([code, shown, existsSync(out)], err).toEqual([err.startsWith('rwkv: --') ? 2 : 1, '', false])
  expect(err).toMatch(/^rwkv: .+\n(?: {2}.+\n)?$/)
  return err
}

/** The message of training and that of preparing the same text. */
async function both(name: string, ...args: (string | number)[]): Promise<string[]> {
  const learned = await refused('train', '--data', path(name), ...shape, ...args)
  const prepared = await refused('prepare', path(name), ...args)
  return [learned, prepared]
}

/** Every message names the file, and says what is to be found there. */
function say(messages: readonly string[], name: string, ...what: readonly (string | RegExp)[]): void {
  for (const message of messages) {
    expect(message).toContain(path(name))
    for (const part of what) expect(message).toMatch(part)
  }
}

describe('bad texts are refused with file, place and remedy, and leave nothing', () => {
  let run: string

  beforeAll(async () => {
    run = await trainTiny(directory, { maxSteps: 2 })
    await prepare(path('text.txt'), { out: path('set'), tokenizer: 'gpt2' })
  })

  it('a data set of another tokenizer', async () => {
    const of = ['train', '--data', path('set'), ...shape]
    say(
      [await refused(...of, '--tokenizer', 'world')],
      'set',
      /that beside it has 50257, and the one to be used 65536/,
    )
    say([await refused('train', '--data', path('set'), '--from', run)], 'set', /that beside it has 50257/)
  })

  it('an id beyond the vocabulary', async () => {
    await mkdir(path('beyond'))
    await copyFile(path('set/tokenizer.json'), path('beyond/tokenizer.json'))
    const tokens = Uint16Array.from({ length: 2000 }, (_, i) => (i === 1234 ? 50_300 : i % 50))
    for (const name of ['train.bin', 'val.bin']) await writeFile(path('beyond', name), tokens)
    const message = await refused('train', '--data', path('beyond'), ...shape)
    say([message], 'beyond/train.bin', /token 1234, at byte 2468, is 50300; this vocabulary has 50257 tokens/)
  })

  it('a token file that was cut, has an odd size, or is damaged', async () => {
    await mkdir(path('cut'))
    for (const name of ['train.bin', 'val.bin', 'train.bin.json', 'val.bin.json', 'tokenizer.json'])
      if (existsSync(path('set', name))) await copyFile(path('set', name), path('cut', name))
    const { length } = await readFile(path('cut/train.bin'))
    await truncate(path('cut/train.bin'), length - 2)
    const cut = await refused('train', '--data', path('cut'), ...shape)
    say(
      [cut],
      'cut/train.bin',
      `it has ${length / 2 - 1} tokens, and train.bin.json says that it has ${length / 2}`,
    )
    await truncate(path('cut/train.bin'), length - 1)
    say([await refused('train', '--data', path('cut'), ...shape)], 'cut/train.bin', /bytes/)
    // llm.c's begins with its version and the number of its tokens.
    const llm = new Int32Array(256 + 50)
    llm.set([20240520, 1, 1_000_000])
    await writeFile(path('llm.bin'), llm)
    say([await refused('train', '--data', path('llm.bin'), ...shape)], 'llm.bin', /1000000/)
  })

  it('an index whose counts lie', async () => {
    const head = Buffer.alloc(34)
    head.write('MMIDIDX\0\0', 'latin1')
    head.writeBigUInt64LE(1n, 9)
    head.writeUInt8(8, 17)
    head.writeBigUInt64LE(2n ** 60n, 18)
    head.writeBigUInt64LE(1n, 26)
    await writeFile(path('lying.idx'), head)
    await writeFile(path('lying.bin'), new Uint16Array(100))
    const message = await refused('train', '--data', path('lying.bin'), '--tokenizer', 'gpt2', ...shape)
    say([message], 'lying.idx', /1152921504606846976/)
  })

  it('a vocabulary that is larger than the text supports', async () => {
    const of = ['--tokenizer', 'bpe', '--vocab-size', 50_000]
    for (const message of await both('text.txt', ...of))
      expect(message).toMatch(
        /--vocab-size is 50000; it must be at most \d+: the text has no more pairs of tokens/,
      )
  })

  it('bytes that are not UTF-8', async () => {
    await writeFile(
      path('invalid.txt'),
      Buffer.concat([Buffer.from('ab\n'), Buffer.from([0xe9]), Buffer.from(text)]),
    )
    say(await both('invalid.txt'), 'invalid.txt', /byte 3\b/, /invalid "?replace/)
    await writeFile(
      path('invalid.jsonl'),
      Buffer.concat([Buffer.from('{"text":"a"}\n{"text":"'), Buffer.from([0xe9]), Buffer.from('"}\n')]),
    )
    say(await both('invalid.jsonl'), 'invalid.jsonl', /line 2/, /invalid "?replace/)
    expect(
      (
        await rwkv(
          'train',
          '--data',
          path('invalid.txt'),
          '--out',
          path('replaced'),
          '--invalid',
          'replace',
          ...shape,
        )
      ).code,
    ).toBe(0)
  })

  it('Parquet without the column', async () => {
    await copyFile(join(fixtures, 'parquet', 'brotli.parquet'), path('table.parquet'))
    say(
      await both('table.parquet', '--text-field', 'body'),
      'table.parquet',
      /no column "body"/,
      /--text-field/,
    )
  })

  it('a damaged archive, and one that ends too early', async () => {
    const packed = gzipSync(text)
    await writeFile(path('cut.txt.gz'), packed.subarray(0, packed.length - 20))
    say(await both('cut.txt.gz'), 'cut.txt.gz', /cut off: it ends at byte \d+ in the middle/)
    const damaged = Buffer.from(packed)
    damaged.fill(0x55, 30, 60)
    await writeFile(path('damaged.txt.gz'), damaged)
    say(await both('damaged.txt.gz'), 'damaged.txt.gz', /gzip|damaged/)
  })

  it('an archive that unpacks without end, and a line of 2 GB', async () => {
    await writeFile(path('bomb.jsonl.gz'), gzipSync(Buffer.alloc(400 << 20, 0x20), { level: 1 }))
    say(await both('bomb.jsonl.gz'), 'bomb.jsonl.gz', /line 1/)
    const file = await open(path('long.jsonl'), 'w')
    await file.write('{"text":"')
    await file.close()
    await truncate(path('long.jsonl'), 2 ** 31)
    say(await both('long.jsonl'), 'long.jsonl', /line 1/)
  })
})
