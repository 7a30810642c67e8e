import { cp, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { runInNewContext } from 'node:vm'
import { beforeAll, describe, expect, it } from 'vitest'
import {
  adapterInfo,
  Model,
  merge,
  prepare,
  quantize,
  State,
  Tokenizer,
  Trainer,
  writeReport,
} from '../src/index.js'
import { options as checked } from '../src/kinds.js'
import * as schemas from '../src/schemas.js'
import { rwkv } from './cli.js'
import { collect, temporaryDirectory, text, tiny, trainTiny, writeText } from './tiny.js'

// What stands for a text or a model: paths and URLs.

const refused = (message: string) => ({ name: 'RwkvError', code: 'INVALID_OPTION', message })

describe('URLs for paths', async () => {
  // A name that is not the same in a URL.
  const directory = join(await temporaryDirectory(), 'a b#ü')
  const url = (...names: string[]) => pathToFileURL(join(directory, ...names))

  beforeAll(async () => {
    await mkdir(directory)
    await writeText(directory)
    await trainTiny(directory, { maxSteps: 2 })
  })

  it('are taken by every call', async () => {
    const data = url('text.txt')
    {
      using created = await Trainer.create({
        ...tiny,
        data: [data],
        val: data,
        out: url('adapted'),
        from: url('run'),
        loraRank: 2,
        maxSteps: 2,
        unknown: undefined,
        threads: 1,
      })
      expect(created.options).toMatchObject({
        data: [join(directory, 'text.txt')],
        out: join(directory, 'adapted'),
      })
      for await (const _ of created);
    }
    using resumed = await Trainer.resume(url('adapted'), { data: [data], maxSteps: 3 })
    expect(resumed.steps).toBe(2)
    resumed.close()
    expect(await adapterInfo(url('adapted'))).toMatchObject({ rank: 2 })
    expect(await merge(url('run'), url('adapted'), url('merged.bin'))).toMatchObject({ to: 'FP32' })
    expect(await quantize(url('run'), url('small.bin'), 'Q8_0')).toMatchObject({ to: 'Q8_0' })
    using model = await Model.load(url('run'), { lora: url('adapted'), threads: 1 })
    expect(model.path).toBe(join(directory, 'run'))
    expect(model.lora).toBe(join(directory, 'adapted'))
    const { loss } = await model.evaluate(data)
    expect(await model.evaluate([join(directory, 'text.txt')])).toMatchObject({ loss })
    await expect(State.load(model, url('none.state'))).rejects.toThrow(join(directory, 'none.state'))
    const tokenizer = await Tokenizer.train(data, { vocabSize: 260 })
    await tokenizer.save(url('tokenizer.json'))
    expect((await Tokenizer.load(url('tokenizer.json'))).nVocab).toBe(260)
    const made = await prepare(data, { out: url('tokens'), tokenizerFile: url('tokenizer.json') })
    expect(made.out).toBe(join(directory, 'tokens'))
    const page = await writeReport([url('run'), url('adapted')], { out: url('page.html') })
    expect(page).toBe(join(directory, 'page.html'))
    expect(await readFile(page, 'utf8')).toContain('<html')
    expect(await writeReport(url('run'))).toBe(join(directory, 'run', 'report.html'))
  })

  it('are also those of another realm', async () => {
    const { href, protocol } = url('run')
    const foreign = runInNewContext(
      `({ href: ${JSON.stringify(href)}, protocol: ${JSON.stringify(protocol)} })`,
    )
    using model = await Model.load(foreign, { threads: 1 })
    expect(model.path).toBe(join(directory, 'run'))
  })

  it.each([
    [
      'https://example.com/model.bin',
      'model is the URL https://example.com/model.bin; only URLs of the scheme file: are taken: download it first, and name the file',
    ],
    [`data:,${'x'.repeat(100)}`, `model is the URL data:,${'x'.repeat(54)}…; only URLs of the scheme file:`],
    ['file:///a%2Fb', 'model is the URL file:///a%2Fb; it names no file of this machine: '],
  ])('of %s are refused', async (href, message) => {
    const url = new URL(href)
    await expect(Model.load(url)).rejects.toMatchObject(refused(expect.stringContaining(message)))
    await expect(Trainer.create({ ...tiny, data: ['x', url], out: 'never' })).rejects.toMatchObject(
      refused(expect.stringContaining(message.replace('model', 'data'))),
    )
  })

  it('are not made of strings', async () => {
    const { href } = url('run')
    await expect(Model.load(href)).rejects.toMatchObject({ code: 'IO' })
  })
})

describe('a model of bytes', async () => {
  const directory = await temporaryDirectory()
  const options = { threads: 1 }
  let run: string
  let bytes: Buffer

  beforeAll(async () => {
    run = await trainTiny(directory, { maxSteps: 5 })
    await trainTiny(directory, {
      ...{ maxSteps: 2, from: run, out: join(directory, 'adapted'), loraRank: 2, unknown: undefined },
    })
    bytes = await readFile(join(run, 'model.bin'))
  })

  const write = (model: Model) =>
    collect(model.createSession().generate('the', { maxTokens: 30, temperature: 0 }))

  it('writes what the file does, and their states are one', async () => {
    const tokenizer = await Tokenizer.load(join(run, 'tokenizer.json'))
    using ofFile = await Model.load(run, options)
    using ofBytes = await Model.load(bytes, { ...options, tokenizer })
    expect(ofBytes).toMatchObject({
      path: undefined,
      config: ofFile.config,
      fileSize: bytes.length,
      format: 'FP32',
    })
    expect(await write(ofBytes)).toBe(await write(ofFile))
    const session = ofBytes.createSession()
    const logits = await session.prompt('the red')
    expect(await ofFile.createSession().prompt('the red')).toEqual(logits)
    expect(State.from(ofFile, session.state.toBuffer()).equals(session.state)).toBe(true)
    using adapted = await Model.load(bytes, { ...options, tokenizer, lora: join(directory, 'adapted') })
    using same = await Model.load(run, { ...options, lora: join(directory, 'adapted') })
    expect(await adapted.createSession().prompt('the red')).toEqual(
      await same.createSession().prompt('the red'),
    )
  })

  it('has a copy of them: what becomes of the buffer is no matter', async () => {
    const copy = new Uint8Array(bytes)
    const progress: number[] = []
    const loading = Model.load(copy, { ...options, onProgress: ({ done }) => void progress.push(done) })
    copy.fill(0)
    const moved = structuredClone(copy.buffer, { transfer: [copy.buffer] })
    expect(moved.byteLength).toBe(bytes.length)
    using model = await loading
    expect(progress.at(-1)).toBe(bytes.length)
    using ofFile = await Model.load(run, options)
    const tokens = ofFile.tokenizer.encode('the red fox')
    expect(await model.createSession().eval(tokens)).toEqual(await ofFile.createSession().eval(tokens))
    await expect(Model.load(copy, options)).rejects.toMatchObject(
      refused(
        'model is of type Uint8Array; it must be a path or a Uint8Array, and not one whose bytes were transferred to another thread',
      ),
    )
  })

  it('can be a part of a buffer, or of shared memory', async () => {
    const large = new Uint8Array(bytes.length + 7)
    large.set(bytes, 3)
    const shared = new Uint8Array(new SharedArrayBuffer(bytes.length))
    shared.set(bytes)
    for (const part of [large.subarray(3, 3 + bytes.length), shared]) {
      using model = await Model.load(part, options)
      expect(model.fileSize).toBe(bytes.length)
    }
  })

  it('without a tokenizer says so, and refuses one of another size', async () => {
    using model = await Model.load(bytes, options)
    await expect(model.createSession().prompt('the')).rejects.toMatchObject({
      code: 'TOKENIZER',
      message: expect.stringContaining('Model.load() takes one as an option'),
    })
    const wrong = { ...options, tokenizer: Tokenizer.byte() }
    for (const what of [bytes, run])
      await expect(Model.load(what, wrong)).rejects.toMatchObject({
        code: 'TOKENIZER',
        message: 'the tokenizer that is given has 256 tokens, and the model 24',
      })
    await expect(Model.load(bytes, { tokenizer: 'byte' as never })).rejects.toMatchObject(
      refused('tokenizer is "byte"; it must be a Tokenizer'),
    )
  })

  it.each([
    ['nothing', () => new Uint8Array(), 'the file is empty; a model file starts with a header of 24 bytes'],
    [
      'what is no model',
      () => Buffer.from('once upon a time there was a fox'),
      'this is not an rwkv.cpp model',
    ],
    ['a part of a model', () => bytes.subarray(0, -1), 'it is cut short or damaged'],
  ])('of %s is refused', async (_, make, says) => {
    await expect(Model.load(make(), options)).rejects.toMatchObject({
      name: 'RwkvError',
      code: 'MODEL_FILE',
      message: expect.stringMatching(new RegExp(`^the buffer: .*${says}`)),
    })
  })
})

describe('texts in memory', async () => {
  const directory = await temporaryDirectory()
  const bytes = new TextEncoder().encode(text)
  const settings = { ...tiny, maxSteps: 3, threads: 1 }
  let file: string

  beforeAll(async () => {
    file = await writeText(directory)
  })

  /** The losses of a run. */
  const losses = async (trainer: Trainer): Promise<number[]> => {
    const all: number[] = []
    for await (const { loss } of trainer) all.push(loss)
    trainer.close()
    return all
  }

  it('are learned as files are, and kept in the directory of the run', async () => {
    const expected = await losses(
      await Trainer.create({ ...settings, data: file, out: join(directory, 'of-file') }),
    )
    for (const [name, data] of Object.entries({ text: { text }, bytes: { bytes: Buffer.from(text) } })) {
      const out = join(directory, `of-${name}`)
      const trainer = await Trainer.create({ ...settings, data, out })
      expect(trainer.options.data).toBe(join(out, 'data.txt'))
      expect(await losses(trainer)).toEqual(expected)
      expect(await readFile(join(out, 'data.txt'), 'utf8')).toBe(text)
      expect(JSON.parse(await readFile(join(out, 'config.json'), 'utf8')).options.data).toBe('data.txt')
      const moved = join(directory, `moved-${name}`)
      await rename(out, moved)
      using again = await Trainer.resume(moved, { maxSteps: 4 })
      expect(again.options.data).toBe(join(moved, 'data.txt'))
      expect(await losses(again)).toHaveLength(1)
    }
  })

  it('mix with files, and can be what is validated on', async () => {
    const out = join(directory, 'mixed')
    const data = [{ text }, file, { bytes: Uint8Array.of(255, ...bytes) }]
    using trainer = await Trainer.create({
      ...settings,
      ...{ data, val: { text: 'the red fox\n'.repeat(20) }, tokenizer: 'byte', unknown: undefined, out },
    })
    expect(trainer.options.data).toEqual([join(out, 'data-1.txt'), file, join(out, 'data-2.txt')])
    expect(trainer.options.val).toBe(join(out, 'val.txt'))
    expect(trainer.trainTokens).toBe(3 * bytes.length + 1 + 3)
    expect(trainer.valTokens).toBe(240)
    expect((await readFile(join(out, 'data-2.txt')))[0]).toBe(255)
  })

  it('are copied before the call returns', async () => {
    const own = new Uint8Array(bytes)
    const out = join(directory, 'copied')
    const creating = Trainer.create({ ...settings, data: { bytes: own }, out })
    own.fill(0)
    using trainer = await creating
    expect(trainer.tokenizer.nVocab).toBe(24)
    expect(await readFile(join(out, 'data.txt'), 'utf8')).toBe(text)
  })

  it('are evaluated, and make tokenizers', async () => {
    const run = await trainTiny(directory, { maxSteps: 2 })
    using model = await Model.load(run, { threads: 1 })
    const expected = await model.evaluate(file)
    expect(await model.evaluate({ text })).toEqual(expected)
    expect(await model.evaluate([{ bytes }])).toEqual(expected)
    expect((await model.evaluate([{ text }, file])).tokens).toBeGreaterThan(expected.tokens)
    const invalid = { bytes: Uint8Array.of(255) }
    for (const [input, code, says] of [
      [{ text: '' }, 'DATA', 'the text: a text of 0 tokens; it takes 2'],
      [{ text: 't' }, 'DATA', 'a text of 1 tokens; it takes 2'],
      [{ text: 'tÄ' }, 'UNKNOWN_CHARACTER', 'the text, line 1, column 2'],
      [invalid, 'INVALID_UTF8', 'the text: byte 0 is not UTF-8'],
    ] as const) {
      const error = await model.evaluate(input).catch(error => error)
      expect(error).toMatchObject({ code, message: expect.stringContaining(says) })
    }
    const ofFile = await Tokenizer.train(file, { vocabSize: 280 })
    for (const input of [{ text }, { bytes }, [{ text }]]) {
      const ofText = await Tokenizer.train(input, { vocabSize: 280 })
      expect(ofText.encode(text)).toEqual(ofFile.encode(text))
    }
  })

  it('that cannot be learned are refused, and leave nothing behind', async () => {
    const out = join(directory, 'never')
    const create = (data: unknown) => Trainer.create({ ...settings, data: data as string, out })
    const detached = new Uint8Array(bytes)
    structuredClone(detached.buffer, { transfer: [detached.buffer] })
    const sly = () => {
      let looks = 0
      return {
        text: undefined,
        get bytes() {
          return looks++ === 0 ? bytes : 5
        },
      }
    }
    const wanted = 'it must be a path, { text }, { bytes }, or an array of these'
    for (const [data, code, message] of [
      [{ text: '' }, 'DATA', 'the text: the text is empty; there is nothing to learn from it'],
      [{ bytes: new Uint8Array() }, 'DATA', 'the text: the text is empty; there is nothing to learn from it'],
      [{ text: 'a' }, 'DATA', 'the text: the text is a single character; there is nothing to learn from it'],
      [{ bytes: Uint8Array.of(97, 255) }, 'INVALID_UTF8', 'the text: byte 1 is not UTF-8'],
      [{ text: 1 }, 'INVALID_OPTION', `data is an object; ${wanted}`],
      [{ text: 'a', bytes }, 'INVALID_OPTION', `data is an object; ${wanted}`],
      [{ bytes: [97] }, 'INVALID_OPTION', `data is an object; ${wanted}`],
      [{ bytes: detached }, 'INVALID_OPTION', `data is an object; ${wanted}`],
      [bytes, 'INVALID_OPTION', `data is of type Uint8Array; ${wanted}`],
      [new Blob([text]), 'INVALID_OPTION', `data is of type Blob; ${wanted}`],
      [[], 'INVALID_OPTION', `data is an array; ${wanted}`],
      [[{ text }, ''], 'INVALID_OPTION', `data is an array; ${wanted}`],
      [{ text: 'a\ud800b' }, 'INVALID_OPTION', 'data is a text with half of a surrogate pair, at 1; '],
      [sly(), 'INVALID_OPTION', 'data is a text that changes while it is looked at; it must stay as it is'],
    ] as const) {
      const error = await create(data).catch(error => error)
      expect(error).toMatchObject({ name: 'RwkvError', code, message: expect.stringContaining(message) })
    }
    expect(await readdir(directory)).not.toContain('never')
    await expect(
      Trainer.resume(join(directory, 'moved-text'), { data: { text } as never }),
    ).rejects.toMatchObject(refused('data is an object; it must be a path or an array of paths'))
  })
})

describe('seeds', async () => {
  const directory = await temporaryDirectory()
  const limit = 2 ** 53 - 1
  const says = (seed: number | string) =>
    `seed is ${seed}; it must be a whole number from 0 to 2^53 − 1, which is 9007199254740991: JavaScript and JSON round larger ones`
  let data: string
  let run: string

  beforeAll(async () => {
    data = await writeText(directory)
    run = await trainTiny(directory, { maxSteps: 2, seed: limit })
  })

  it('are exact up to the limit, in config.json and when the run goes on', async () => {
    expect(await readFile(join(run, 'config.json'), 'utf8')).toMatch(/"seed": ?9007199254740991,/)
    using trainer = await Trainer.resume(run, { maxSteps: 3, threads: 1 })
    expect(trainer.options.seed).toBe(limit)
    using model = await Model.load(run, { threads: 1 })
    const write = (seed: number) => collect(model.createSession().generate('the', { seed, maxTokens: 40 }))
    expect(await write(limit)).toBe(await write(limit))
    expect(await write(limit)).not.toBe(await write(limit - 1))
  })

  it('beyond it are refused by every call', async () => {
    const seed = 2 ** 60
    using model = await Model.load(run, { threads: 1 })
    using trainer = await Trainer.resume(run, { maxSteps: 3, threads: 1 })
    for (const call of [
      () => Trainer.create({ ...tiny, data, out: join(directory, 'never'), seed }),
      () => prepare(data, { out: join(directory, 'never'), seed }),
      () => collect(model.createSession().generate('the', { seed })),
      () => trainer.sample({ seed }),
    ])
      await expect(call()).rejects.toMatchObject(refused(says(seed)))
  })

  it.each([
    ['train', ['--data', 'DATA', '--out', 'OUT']],
    ['generate', ['RUN']],
    ['prepare', ['DATA', '--out', 'OUT']],
  ])('beyond it are refused by rwkv %s, as they were written', async (verb, words) => {
    const paths: Record<string, string> = { DATA: data, RUN: run, OUT: join(directory, 'never') }
    const args = words.map(word => paths[word] ?? word)
    for (const seed of ['9007199254740992', '9007199254740993', '18446744073709551615']) {
      const { code, out, err } = await rwkv(verb, ...args, '--seed', seed)
      expect({ code, out, err }).toEqual({ code: 2, out: '', err: `rwkv: --${says(seed)}\n` })
    }
    expect(await readdir(directory)).not.toContain('never')
  })

  it('beyond it are refused in a run that somebody changed', async () => {
    const changed = join(directory, 'changed')
    await cp(run, changed, { recursive: true })
    const file = join(changed, 'config.json')
    await writeFile(file, (await readFile(file, 'utf8')).replace('9007199254740991', '9007199254740993'))
    // A checkpoint has its own, under a checksum.
    for (const name of await readdir(changed))
      if (name.startsWith('checkpoint-')) await rm(join(changed, name), { recursive: true })
    await expect(Trainer.resume(changed, { maxSteps: 3, threads: 1 })).rejects.toMatchObject({
      code: 'RUN',
      message: `${file}: seed is 9007199254740993; it must be a whole number from 0 to 9007199254740991`,
    })
  })
})

it('options that are undefined are as good as those that are left out, in every call', () => {
  for (const [call, schema] of Object.entries(schemas)) {
    const kinds: Record<string, { required?: true }> = schema
    const of = (isRequired: boolean) =>
      Object.keys(kinds).filter(name => !kinds[name]?.required !== isRequired)
    const left = Object.fromEntries(of(false).map(name => [name, undefined]))
    const given = Object.fromEntries(of(true).map(name => [name, name === 'vocabSize' ? 300 : 'x']))
    expect(checked(call, schema as never, { ...left, ...given }), call).toEqual(given)
  }
})
