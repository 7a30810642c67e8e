import { exec } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import { describe, expect, it } from 'vitest'
import { Model, prepare, Tokenizer, Trainer } from '../src/index.js'
import { main, objects, rwkv } from './cli.js'
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

describe('texts of many forms', () => {
  it('trains a tokenizer, the same with any number of threads, and can be stopped', async () => {
    const trained = await Tokenizer.train([data, corpus], { vocabSize: 290, threads: 1 })
    expect(trained).toMatchObject({ kind: 'bpe', nVocab: 290, endOfText: 289 })
    const path = join(directory, 'trained.json')
    await trained.save(path)
    const again = await Tokenizer.train([data, corpus], { vocabSize: 290, threads: 3 })
    expect(again.encode(text)).toEqual(trained.encode(text))
    expect((await Tokenizer.load(path)).encode(text)).toEqual(trained.encode(text))
    expect(trained.decode(trained.encode('the fox é'))).toBe('the fox é')
    await expect(Tokenizer.train(data, { vocabSize: 4000 })).rejects.toMatchObject({
      code: 'INVALID_OPTION',
      message: expect.stringMatching(/^vocabSize is 4000/),
    })
    const reason = new Error('enough')
    const stopped = Tokenizer.train(data, { vocabSize: 290, signal: AbortSignal.abort(reason) })
    await expect(stopped).rejects.toBe(reason)
  })

  it('evaluates several texts, one of them packed, with the end of text between them', async () => {
    const out = join(directory, 'of-bytes')
    await using trainer = await Trainer.create({
      ...tiny,
      unknown: undefined,
      tokenizer: 'byte',
      data,
      out,
      maxSteps: 2,
    })
    expect(trainer.bytesPerToken).toBe(1)
    for await (const { valLoss, bitsPerByte } of trainer)
      if (valLoss !== undefined) expect(bitsPerByte).toBeCloseTo(valLoss * Math.LOG2E)
    await using model = await Model.load(out)
    const packed = join(directory, 'packed.txt.gz')
    await writeFile(packed, gzipSync(text))
    const { tokens } = await model.evaluate([data, packed])
    expect(tokens).toBe(2 * (text.length + 1) - 1)
    expect(await model.evaluate(packed)).toMatchObject({ tokens: text.length - 1 })
    const invalid = join(directory, 'invalid.jsonl')
    await writeFile(
      invalid,
      Buffer.concat([Buffer.from('{"body":"a'), Buffer.from([0xff]), Buffer.from('b"}\n')]),
    )
    await expect(model.evaluate(invalid, { textField: 'body' })).rejects.toMatchObject({
      code: 'DATA',
      message: expect.stringMatching(/invalid\.jsonl.*line 1/s),
    })
    const said = join(directory, 'said.jsonl')
    await writeFile(said, '{"learningRate":1}\n')
    const { code, err } = await rwkv('eval', out, '--data', said)
    expect([code, err]).toEqual([
      1,
      expect.stringContaining('it has "learningRate"; name the one with the text (--text-field)'),
    ])
    const replaced = await model.evaluate(invalid, { textField: 'body', invalid: 'replace' })
    expect(replaced.tokens).toBe('a\uFFFDb'.length + 2 - 1)
  })

  it('starts documents anew, and takes windows at random, if asked to', async () => {
    const losses = []
    const resets = { resetState: true } as const
    for (const [name, options] of Object.entries({
      plain: {},
      resets,
      random: { order: 'random' } as const,
    })) {
      const settings = { ...tiny, unknown: undefined, data: corpus, out: join(directory, name), maxSteps: 3 }
      await using trainer = await Trainer.create({ ...settings, ...options })
      for await (const _ of trainer);
      losses.push(trainer.best?.valLoss)
    }
    expect(new Set(losses).size).toBe(3)
    const refused = Trainer.create({ ...tiny, data, out: join(directory, 'refused'), ...resets })
    await expect(refused).rejects.toMatchObject({
      code: 'INVALID_OPTION',
      message: expect.stringMatching(/^resetState is true; it must be off: the tokenizer has no end of text/),
    })
    expect(existsSync(join(directory, 'refused'))).toBe(false)
  })

  it('reads JSON Lines from standard input', async () => {
    const out = join(directory, 'from-stdin')
    const shell = `"${process.execPath}" "${main}" train --data - --stdin jsonl --out "${out}" --max-steps 2 --n-layer 1 --n-embd 16 --json < "${corpus}"`
    const { stdout } = await promisify(exec)(shell)
    expect(objects(stdout)[0]).toMatchObject({ event: 'start', data: '-' })
    const tokenizer = await Tokenizer.load(out)
    expect(tokenizer.endOfText).toBeDefined()
    expect(() => tokenizer.encode('{')).not.toThrow()
    const set = join(directory, 'set-from-stdin')
    await promisify(exec)(
      `"${process.execPath}" "${main}" prepare - --stdin jsonl --out "${set}" < "${corpus}"`,
    )
    const named = join(directory, 'set')
    expect(await readFile(join(set, 'train.bin'))).toEqual(await readFile(join(named, 'train.bin')))
  })
})
