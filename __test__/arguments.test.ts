import { cp, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Cancel, NativeModel, NativeTokenizer, NativeTrainer, quantize as nativeQuantize } from '#native'
import {
  adapterInfo,
  Model,
  merge,
  type Progress,
  quantize,
  RwkvError,
  type Session,
  State,
  Tokenizer,
  Trainer,
} from '../src/index.js'
import { collect, temporaryDirectory, text, tiny, trainTiny, writeText } from './tiny.js'

/** What programs without types pass. */
// biome-ignore lint/suspicious/noExplicitAny: that is the point
const wrong = (value: unknown): any => value

const throws = (act: () => unknown, message: string) =>
  expect(act, message).toThrow(
    expect.objectContaining({ name: 'RwkvError', code: 'INVALID_OPTION', message }),
  )

describe('arguments of every call', async () => {
  const directory = await temporaryDirectory()
  let run: string
  let data: string
  let model: Model
  let session: Session

  beforeAll(async () => {
    data = await writeText(directory)
    run = await trainTiny(directory, { maxSteps: 2 })
    model = await Model.load(run, { threads: 1 })
    session = model.createSession()
  })
  afterAll(() => model?.close())

  const create = (options: object) =>
    Trainer.create({ ...tiny, data, out: join(directory, 'never'), ...options })
  const generate = (options: unknown) => collect(session.generate('the', wrong(options)))

  const asynchronous: [call: () => Promise<unknown>, message: string][] = [
    // What is not of the kind that is wanted.
    [() => Model.load(wrong(5)), 'model is 5; it must be a path or a Uint8Array'],
    [() => Model.load(''), 'model is empty; it must be a path or a Uint8Array'],
    [
      () => Model.load(wrong(Promise.resolve(''))),
      'model is of type Promise; it must be a path or a Uint8Array',
    ],
    [() => Model.load(run, wrong(null)), 'options is null; it must be a plain object'],
    [() => Model.load(run, wrong(2)), 'options is 2; it must be a plain object'],
    [
      () => Model.load(run, new (class Settings {})()),
      'options is an object of class Settings; it must be a plain object',
    ],
    [
      () => Model.load(run, new (class {})()),
      'options is an object of a class without a name; it must be a plain object',
    ],
    [
      () => Model.load(run, { threads: 1e308 }),
      'threads is 1e+308; it must be a whole number from 0 to 2^53 − 1, which is 9007199254740991: JavaScript and JSON round larger ones',
    ],
    [
      () => Model.load(run, { threads: wrong('2') }),
      'threads is "2"; it must be a whole number from 0 to 2^53 − 1',
    ],
    [() => Model.load(run, { signal: wrong({}) }), 'signal is an object; it must be an AbortSignal'],
    [() => Model.load(run, { onProgress: wrong(5) }), 'onProgress is 5; it must be a function'],
    [() => Model.load(run, { onProgress: wrong(Model) }), 'onProgress is a class; it must be a function'],
    [
      () => model.evaluate(wrong(undefined)),
      'inputs is undefined; it must be a path, { text }, { bytes }, or an array of these',
    ],
    [
      () => model.evaluate(data, { ctxLen: 0.5 }),
      'ctxLen is 0.5; it must be a whole number from 1 to 2^53 − 1',
    ],
    [() => model.bench({ seconds: wrong([]) }), 'seconds is an array; it must be a finite number'],
    [() => session.eval(wrong(5)), 'tokens is 5; it must be an array of tokens'],
    [() => session.eval(wrong('12')), 'tokens is "12"; it must be an array of tokens'],
    [
      () => session.eval([1], wrong(new AbortController().signal)),
      'options is of type AbortSignal; it must be a plain object',
    ],
    [() => session.prompt(wrong(5)), 'text is 5; it must be a string'],
    [() => collect(session.generate(wrong(5))), 'prompt is 5; it must be a string'],
    [
      () => generate({ stop: 5 }),
      'stop is 5; it must be a string or an array of strings, each of at least one character',
    ],
    [
      () => generate({ stop: ['a', ''] }),
      'stop is an array; it must be a string or an array of strings, each of at least one character',
    ],
    [
      () => generate({ topK: 2n }),
      'topK is a bigint; it must be a whole number from 0 to 2^53 − 1, and no bigint',
    ],
    [() => generate({ topP: Symbol('p') }), 'topP is a symbol; it must be a finite number'],
    [() => generate({ temperature: null }), 'temperature is null; it must be a finite number'],
    [() => quantize(run, '', 'Q4_0'), 'output is empty; it must be a path'],
    [() => quantize(run, join(directory, 'never.bin'), wrong(4)), 'format is 4; it must be a string'],
    [() => Model.load(run, { lora: '' }), 'lora is empty; it must be a path'],
    [() => model.evaluate(data, { state: wrong(5) }), 'state is 5; it must be a State'],
    [() => State.load(wrong({}), 'x'), 'model is an object; it must be a Model'],
    [() => State.load(model, ''), 'path is empty; it must be a path'],
    [() => merge(run, wrong(5), 'x'), 'adapter is 5; it must be a path'],
    [() => merge(run, run, ''), 'output is empty; it must be a path'],
    [() => adapterInfo(wrong(null)), 'path is null; it must be a path'],
    [() => Tokenizer.load(wrong(5)), 'path is 5; it must be a path'],
    [() => Tokenizer.byte().save(wrong({})), 'path is an object; it must be a path'],
    [
      () => Trainer.create(wrong(undefined)),
      'data is missing; it must be a path, { text }, { bytes }, or an array of these',
    ],
    [() => Trainer.create(wrong({ data })), 'out is missing; it must be a path'],
    [() => create({ out: '' }), 'out is empty; it must be a path'],
    [
      () => create({ data: '' }),
      'data is empty; it must be a path, { text }, { bytes }, or an array of these',
    ],
    [() => create({ nLayer: '4' }), 'nLayer is "4"; it must be a whole number from 0 to 2^53 − 1'],
    [
      () => create({ tokenizer: 'words' }),
      'tokenizer is "words"; it must be character or byte or bpe or gpt2 or 20b or world',
    ],
    [() => create({ signal: 'stop' }), 'signal is "stop"; it must be an AbortSignal'],
    [() => Trainer.resume(wrong(undefined)), 'out is undefined; it must be a path'],
    [() => Trainer.resume(run, { data: '' }), 'data is empty; it must be a path or an array of paths'],
    // Names that no option of the call has.
    [() => generate({ max_tokens: 3 }), 'max_tokens is not an option of generate(): did you mean maxTokens?'],
    [() => generate({ top_k: 3 }), 'top_k is not an option of generate(): did you mean topK?'],
    [() => create({ nLayers: 9 }), 'nLayers is not an option of Trainer.create(): did you mean nLayer?'],
    [
      () => Model.load(run, wrong({ nLayer: 9 })),
      'nLayer is not an option of Model.load(): there are lora, allowOtherBase, loraAlpha, threads, unknown, tokenizer, signal, onProgress',
    ],
    [
      () => Trainer.resume(run, wrong({ maxstep: 9 })),
      'maxstep is not an option of Trainer.resume(): did you mean maxSteps?',
    ],
    // Numbers that would wrap round, or be rounded to ones that are allowed.
    [() => Model.load(run, { threads: 2 ** 32 + 1 }), 'threads is 4294967297; it must be from 1 to 1024'],
    [
      () => quantize(run, join(directory, 'never.bin'), 'Q4_0', { threads: 2 ** 32 + 1 }),
      'threads is 4294967297; it must be from 1 to 1024',
    ],
    [() => create({ learningRate: 1e308 }), 'learningRate is 1e308; it must be more than 0 and at most 1'],
    [
      () => create({ nEmbd: 1e308 }),
      'nEmbd is 1e+308; it must be a whole number from 0 to 2^53 − 1, which is 9007199254740991: JavaScript and JSON round larger ones',
    ],
    [() => generate({ topP: 1 + 1e-9 }), 'topP is 1.000000001; it must be above 0 and at most 1'],
  ]

  it('asynchronous ones reject, and name the argument and what is wanted', async () => {
    for (const [call, message] of asynchronous) {
      const promise = call()
      expect(promise, message).toBeInstanceOf(Promise)
      await expect(promise, message).rejects.toBeInstanceOf(RwkvError)
      await expect(promise, message).rejects.toMatchObject({ code: 'INVALID_OPTION', message })
    }
  })

  it('synchronous ones throw, and name the argument and what is wanted', () => {
    throws(() => State.from(model, wrong(5)), 'buffer is 5; it must be a Uint8Array')
    throws(() => State.from(wrong({}), Buffer.alloc(8)), 'model is an object; it must be a Model')
    throws(() => session.state.equals(wrong(undefined)), 'other is undefined; it must be a State')
    throws(() => {
      session.state = wrong(undefined)
    }, 'state is undefined; it must be a State')
    throws(() => {
      session.state = wrong(Object.create(State.prototype))
    }, 'state is an object; it must be a State')
    throws(() => Tokenizer.charactersOf(wrong(5)), 'text is 5; it must be a string')
    throws(() => model.tokenizer.encode(wrong(['a'])), 'text is an array; it must be a string')
    throws(() => model.tokenizer.decode(wrong('12')), 'tokens is "12"; it must be an array of tokens')
  })

  it('tokens are whole numbers, in whatever array they come', async () => {
    const { tokenizer } = model
    for (const [tokens, says] of [
      [[1.5], '1.5'],
      [[2 ** 32 + 1], '4294967297'],
      [[0, '1'], '"1"'],
      [[null], 'null'],
      [new Array(2 ** 32 - 1), 'undefined'],
      [Float64Array.of(0, -1), '-1'],
      [BigInt64Array.of(1n), 'a bigint'],
    ] as const) {
      const error = {
        code: 'TOKEN_OUT_OF_RANGE',
        message: `token ${says} is not a whole number from 0 on`,
      }
      await expect(session.eval(wrong(tokens)), says).rejects.toMatchObject(error)
      expect(() => tokenizer.decode(wrong(tokens)), says).toThrow(expect.objectContaining(error))
    }
    expect(tokenizer.decode(Float64Array.from(tokenizer.encode('the red')))).toBe('the red')
  })

  it('a probability or a temperature that is hardly above 0 takes the likeliest token', async () => {
    const write = (options: object) =>
      collect(model.createSession().generate('the', { maxTokens: 20, seed: 3, ...options }))
    const likeliest = await write({ temperature: 0 })
    expect(await write({ topP: 1e-300 })).toBe(likeliest)
    expect(await write({ topP: Number.MIN_VALUE, temperature: 1e308 })).toBe(likeliest)
    expect(await write({ temperature: 1e-300 })).toBe(likeliest)
  })

  it('large counts are the same as none where they are limits', async () => {
    const write = (options: object) =>
      collect(model.createSession().generate('the', { maxTokens: 20, seed: 3, ...options }))
    expect(await write({ topK: 2 ** 32 + 1 })).toBe(await write({}))
    expect(await write({ topK: 2 ** 32 + 1 })).not.toBe(await write({ topK: 1 }))
    const whole = await model.evaluate(data)
    expect(await model.evaluate(data, { ctxLen: 2 ** 32 + 1 })).toEqual(whole)
    expect(await model.evaluate(data, { ctxLen: 1 })).not.toEqual(whole)
  })

  it('a sample of 2³² tokens and more is not an empty one', async () => {
    await using trainer = await create({ out: join(directory, 'sample') })
    const controller = new AbortController()
    const sampling = trainer.sample({ maxTokens: 2 ** 32, signal: controller.signal })
    setTimeout(() => controller.abort(), 20)
    await expect(sampling).rejects.toMatchObject({ name: 'AbortError' })
  })
})

describe('the binding itself', () => {
  it('turns numbers into counts in one place, which names the option', async () => {
    const says = (name: string) => ({
      code: 'INVALID_OPTION',
      message: expect.stringMatching(`^${name} is .*; it must be a whole number from 0 to 2\\^53 − 1$`),
    })
    const directory = await temporaryDirectory()
    const run = await trainTiny(directory, { maxSteps: 1 })
    const model = await NativeModel.load(run, undefined, {}, 1, new Cancel())
    const session = model.createSession()
    const byte = NativeTokenizer.byte()
    for (const value of [-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53, 1e300]) {
      const cancel = new Cancel()
      await expect(NativeModel.load(run, undefined, {}, value, cancel)).rejects.toMatchObject(says('threads'))
      await expect(nativeQuantize(run, 'x', 'Q4_0', value, cancel)).rejects.toMatchObject(says('threads'))
      await expect(model.evaluate([run], byte, value, {}, undefined, cancel)).rejects.toMatchObject(
        says('ctxLen'),
      )
      await expect(model.bench({ prompt: value }, cancel)).rejects.toMatchObject(says('prompt'))
      const settings = { maxTokens: value, stop: [], sampling: '{}' }
      expect(() => session.generate('', settings, cancel)).toThrow(expect.objectContaining(says('maxTokens')))
      expect(() => NativeTrainer.resume(run, JSON.stringify({ maxSteps: value }), cancel)).toThrow(
        expect.objectContaining(says('maxSteps')),
      )
    }
    model.close()
  })
})

describe('a callback of progress', async () => {
  const directory = await temporaryDirectory()
  const long = join(directory, 'long.txt')
  let model: Model

  beforeAll(async () => {
    await writeFile(long, text.repeat(100))
    model = await Model.load(await trainTiny(directory, { maxSteps: 2 }), { threads: 1 })
  })
  afterAll(() => model?.close())

  it.each([
    [
      'at once',
      (error: Error) => () => {
        throw error
      },
    ],
    ['in a promise', (error: Error) => () => Promise.reject(error)],
  ])('that throws, %s, rejects its call with what it threw', async (how, failing) => {
    // A code, as the errors of Node have, must not make it one of ours.
    const error = Object.assign(new Error('mine'), { code: 'ENOENT' })
    const onProgress = wrong(failing(error))
    await expect(model.evaluate(long, { onProgress })).rejects.toBe(error)
    // A file of its own: what is loaded already has nothing to report.
    const copy = join(directory, `copy ${how}`)
    await cp(String(model.path), copy, { recursive: true })
    await expect(Model.load(copy, { onProgress })).rejects.toBe(error)
    await expect(model.bench({ seconds: 3600, onProgress })).rejects.toBe(error)
    // Nothing is left of it.
    expect((await model.evaluate(long)).tokens).toBe(100 * text.length - 1)
  })

  it('is not called again while it is still at an earlier report', async () => {
    let [running, most, calls] = [0, 0, 0]
    const onProgress = async () => {
      most = Math.max(most, ++running)
      calls++
      await new Promise(resolve => setTimeout(resolve, 150))
      running--
    }
    await model.evaluate(long, { onProgress })
    expect({ running, most }).toEqual({ running: 0, most: 1 })
    expect(calls).toBeGreaterThan(0)
  })

  it('is not waited for once the signal is aborted: what is done counts', async () => {
    const data = await writeText(directory)
    const controller = new AbortController()
    const onProgress = wrong(({ done, total }: Progress) => {
      // Only the last report comes when all is done.
      if (done < total) return
      setTimeout(() => controller.abort(), 10)
      return new Promise(() => {})
    })
    const { tokens } = await model.evaluate(data, { signal: controller.signal, onProgress })
    expect(tokens).toBe(text.length - 1)
  })

  it('is not waited for once the model is closed', async () => {
    const data = await writeText(directory)
    const own = await Model.load(String(model.path), { threads: 1 })
    const onProgress = wrong(({ done, total }: Progress) => {
      if (done < total) return
      setTimeout(() => own.close(), 10)
      return new Promise(() => {})
    })
    expect((await own.evaluate(data, { onProgress })).tokens).toBe(text.length - 1)
    await own[Symbol.asyncDispose]()
  })
})
