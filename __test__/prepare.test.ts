import { existsSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { Model, prepare, Tokenizer, Trainer } from '../src/index.js'
import { objects, rwkv } from './cli.js'
import { temporaryDirectory, text, tiny, writeText } from './tiny.js'

const directory = await temporaryDirectory()
const data = await writeText(directory)
const lines = text
  .split('\n')
  .slice(0, 200)
  .map(line => JSON.stringify({ text: `${line} é` }))
const corpus = join(directory, 'corpus.jsonl')
await writeFile(corpus, lines.join('\n'))

describe('prepare', () => {
  it('makes tokens that a run learns from, of documents with an end', async () => {
    const out = join(directory, 'set')
    const made = await prepare(corpus, { out, tokenizer: 'gpt2', threads: 2 })
    expect(made).toMatchObject({ out, tokenizer: 'gpt2', nVocab: 50_257, wasFinished: false })
    expect(made.train.documents + (made.val?.documents ?? 0)).toBe(200)
    const tokens = new Uint16Array((await readFile(join(out, 'train.bin'))).buffer.slice(0))
    expect(tokens.length).toBe(made.train.tokens)
    const tokenizer = await Tokenizer.load(out)
    expect(tokenizer.endOfText).toBe(50_256)
    expect(tokens.filter(token => token === 50_256).length).toBe(made.train.documents)
    expect(tokenizer.decode(tokens)).toContain('fox jumps over the lazy dog é')
    expect(await prepare([corpus], { out, tokenizer: 'gpt2', threads: 1 })).toMatchObject({
      wasFinished: true,
    })

    const run = join(directory, 'run')
    await using trainer = await Trainer.create({ ...tiny, data: out, out: run, maxSteps: 2 })
    expect(trainer.trainTokens).toBe(made.train.tokens)
    for await (const _ of trainer);
    await using model = await Model.load(run)
    expect(model.tokenizer.nVocab).toBe(50_257)
  })

  it('stops, and goes on to the same bytes', async () => {
    const whole = join(directory, 'whole')
    await prepare(data, { out: whole, vocabSize: 280 })
    const out = join(directory, 'stopped')
    const reason = new Error('enough')
    const stopped = prepare(data, { out, vocabSize: 280, signal: AbortSignal.abort(reason) })
    await expect(stopped).rejects.toBe(reason)
    await prepare(data, { out, vocabSize: 280 })
    for (const name of ['train.bin', 'val.bin', 'tokenizer.json'])
      expect(await readFile(join(out, name))).toEqual(await readFile(join(whole, name)))
  })

  it('leaves what somebody else has made, unless it is forced', async () => {
    const out = join(directory, 'foreign')
    await mkdir(out)
    await writeFile(join(out, 'train.bin'), 'mine')
    await expect(prepare(data, { out })).rejects.toMatchObject({ code: 'DATA' })
    expect(await readFile(join(out, 'train.bin'), 'utf8')).toBe('mine')
    expect((await prepare(data, { out, force: true })).train.documents).toBe(1)
  })

  it('is told from the command line', async () => {
    const out = join(directory, 'by hand')
    const done = await rwkv('prepare', data, '--out', out, '--tokenizer', 'byte', '--json')
    expect(done).toMatchObject({ code: 0, err: '' })
    expect(objects(done.out)).toMatchObject([{ out, tokenizer: 'byte', nVocab: 256, notes: [] }])
    const again = await rwkv('prepare', data, '--out', out, '--tokenizer', 'byte')
    expect(again.out).toContain('was finished before')
    expect(again.out).toContain(`rwkv train --data '${out}'`)
    for (const [args, code, says] of [
      [['prepare', data], 2, '--out is missing'],
      [['prepare', '--out', out], 2, 'INPUT is missing'],
      [['prepare', join(directory, 'none.txt'), '--out', join(directory, 'no')], 1, 'none.txt'],
      [['prepare', data, '--out', join(directory, 'no'), '--tokenizer', 'bpe'], 2, '--vocab-size'],
    ] as const) {
      const { code: found, err } = await rwkv(...args)
      expect(err).toContain(says)
      expect(found).toBe(code)
    }
    expect(existsSync(join(directory, 'no'))).toBe(false)
  })
})

describe('Tokenizer.named', () => {
  it('has the vocabularies of this package', async () => {
    const gpt2 = await Tokenizer.named('gpt2')
    expect([...gpt2.encode('hello world')]).toEqual([31373, 995])
    const world = await Tokenizer.named('world')
    expect([world.kind, world.nVocab, world.endOfText]).toEqual(['world', 65_536, 0])
    expect([...world.encode('Hello, world!')]).toEqual([33155, 45, 40213, 34])
    expect((await Tokenizer.named('20b')).nVocab).toBe(50_277)
  })
})
