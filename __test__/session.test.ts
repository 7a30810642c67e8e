import { cp, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Cancel } from '#native'
import { Model, State, Tokenizer, Trainer } from '../src/index.js'
import { native } from '../src/internal.js'
import { objects, rwkv } from './cli.js'
import { collect, isStoppedByTimer, temporaryDirectory, text, trainTiny, worksAlone } from './tiny.js'

describe('Session', async () => {
  const directory = await temporaryDirectory()
  let model: Model

  beforeAll(async () => {
    model = await Model.load(await trainTiny(directory), { threads: 2 })
  })
  afterAll(() => model?.close())

  it('writes the same text for the same seed, and another for another', async () => {
    const write = (seed: number) =>
      collect(model.createSession().generate('the ', { maxTokens: 200, temperature: 2, seed }))
    expect(await write(1)).toBe(await write(1))
    expect(await write(1)).not.toBe(await write(2))
  })

  it('writes as many tokens as asked for, and goes on from there', async () => {
    const options = { temperature: 0 } as const
    const whole = await collect(model.createSession().generate('the ', { ...options, maxTokens: 60 }))
    expect(whole).toHaveLength(60)
    const session = model.createSession()
    const first = await collect(session.generate('the ', { ...options, maxTokens: 25 }))
    const second = await collect(session.generate('', { ...options, maxTokens: 35 }))
    expect(first + second).toBe(whole)
  })

  it('without a prompt begins as samples of training do: with a line break, or the first token', async () => {
    const options = { temperature: 0, maxTokens: 20 } as const
    const write = (of: Model, prompt: string) => collect(of.createSession().generate(prompt, options))
    expect(await write(model, '')).toBe(await write(model, '\n'))
    const data = join(directory, 'one-line.txt')
    await writeFile(data, text.replaceAll('\n', ' '))
    const out = join(directory, 'one-line')
    await using other = await Model.load(await trainTiny(directory, { data, out, maxSteps: 5 }))
    expect(await write(other, '')).toBe(await write(other, ' '))
    await using run = await Trainer.resume(out)
    expect(await write(other, '')).toBe(await run.sample(options))
    const {
      code,
      out: printed,
      err,
    } = await rwkv('generate', out, '--max-tokens', 20, '--temperature', 0, '--json')
    expect({ code, err }).toEqual({ code: 0, err: '' })
    expect(objects(printed)).toMatchObject([{ prompt: ' ', text: await write(other, ''), tokens: 20 }])
  })

  it('ends before a stop, wherever its characters come', async () => {
    const options = { maxTokens: 100, temperature: 0 } as const
    const whole = await collect(model.createSession().generate('the red', options))
    expect(whole).toContain('lazy dog\n')
    const stopped = await collect(
      model.createSession().generate('the red', { ...options, stop: ['zzz', 'y dog'] }),
    )
    expect(stopped).toBe(whole.slice(0, whole.indexOf('y dog')))
    const never = await collect(model.createSession().generate('the red', { ...options, stop: 'lazy cat' }))
    expect(never).toBe(whole)
  })

  it('reads a prompt in one go or in parts, with the same logits and the same state', async () => {
    const [whole, parts] = [model.createSession(), model.createSession()]
    const logits = await whole.prompt(text.slice(0, 2000))
    await parts.prompt(text.slice(0, 700))
    expect(await parts.prompt(text.slice(700, 2000))).toEqual(logits)
    expect(logits).toHaveLength(model.config.nVocab)
    expect(parts.state.equals(whole.state)).toBe(true)
    await parts.prompt('t')
    expect(parts.state.equals(whole.state)).toBe(false)
  })

  it('forks: a state goes on in another session, also through its bytes', async () => {
    const session = model.createSession()
    await session.prompt('the green fox')
    const saved = session.state.toBuffer()
    const next = await session.prompt(' ')
    for (const state of [State.from(model, saved), State.from(model, saved).clone()]) {
      const fork = model.createSession()
      fork.state = state
      expect(await fork.prompt(' ')).toEqual(next)
    }
  })

  it('refuses a state that is damaged or of another model', async () => {
    const session = model.createSession()
    await session.prompt('the')
    const bytes = session.state.toBuffer()
    const damaged = Buffer.from(bytes)
    damaged.writeUInt8(damaged.readUInt8(100) ^ 1, 100)
    const cases = [Buffer.alloc(0), bytes.subarray(0, -1), damaged, Buffer.concat([bytes, bytes])]
    for (const bad of cases) {
      expect(() => State.from(model, bad)).toThrow(
        expect.objectContaining({ code: 'STATE', name: 'RwkvError' }),
      )
    }
    const stranger = await Model.load(
      await trainTiny(directory, { out: join(directory, 'stranger'), seed: 2, maxSteps: 1 }),
    )
    const foreign = expect.objectContaining({
      code: 'STATE',
      message: expect.stringContaining('other weights'),
    })
    expect(() => State.from(stranger, bytes)).toThrow(foreign)
    const other = stranger.createSession()
    expect(() => {
      other.state = session.state
    }).toThrow(foreign)
    stranger.close()
  })

  it('answers a second call with BUSY, and the first one does not notice', async () => {
    const session = model.createSession()
    const tokens = model.tokenizer.encode(text)
    const first = session.eval(tokens)
    await expect(session.eval(tokens)).rejects.toMatchObject({ code: 'BUSY' })
    expect(() => session.state).toThrow(expect.objectContaining({ code: 'BUSY' }))
    expect(await first).toHaveLength(model.config.nVocab)

    for await (const _ of session.generate('the ', { maxTokens: 3, stop: 'zzz' })) {
      await expect(session.prompt('the')).rejects.toMatchObject({ code: 'BUSY' })
      await expect(collect(session.generate('the'))).rejects.toMatchObject({ code: 'BUSY' })
    }
    // Leaving a loop early frees the session, too.
    for await (const _ of session.generate('the ', { maxTokens: 100, stop: 'zzz' })) break
    await session.prompt('the')
  })

  it('stops on a signal with its reason, and is then as it was before', async () => {
    const session = model.createSession()
    await session.prompt('the blue')
    const before = session.state
    const tokens = model.tokenizer.encode(text.repeat(50))
    const controller = new AbortController()
    const reading = session.eval(tokens, { signal: controller.signal })
    const reason = new Error('enough')
    controller.abort(reason)
    await expect(reading).rejects.toBe(reason)
    expect(session.state.equals(before)).toBe(true)
    await expect(session.prompt('the', { signal: AbortSignal.abort() })).rejects.toMatchObject({
      name: 'AbortError',
    })

    const writing = new AbortController()
    let written = ''
    const loop = async () => {
      for await (const piece of session.generate(' ', { maxTokens: 1e6, signal: writing.signal })) {
        written += piece
        writing.abort()
      }
    }
    await expect(loop()).rejects.toMatchObject({ name: 'AbortError' })
    expect(written).not.toBe('')
    await session.prompt('the')
  })

  it('needs the tokenizer of its model, or none', async () => {
    const copy = join(directory, 'copy')
    await cp(String(model.path), copy, { recursive: true })
    await Tokenizer.charactersOf('abc').save(join(copy, 'tokenizer.json'))
    const { nVocab } = model.config
    await expect(Model.load(copy)).rejects.toMatchObject({
      code: 'TOKENIZER',
      message: `${join(copy, 'tokenizer.json')}: it has 3 tokens, and the model beside it ${nVocab}`,
    })
    await rm(join(copy, 'tokenizer.json'))
    await using alone = await Model.load(copy)
    expect(() => alone.tokenizer).toThrow(expect.objectContaining({ code: 'TOKENIZER' }))
    expect(await alone.createSession().eval([1])).toEqual(await model.createSession().eval([1]))
  })

  it('does not block the event loop', async () => {
    let session = model[native].createSession()
    const { state } = session
    const tokens = model.tokenizer.encode(text.slice(0, 5000))
    const read = () => {
      session = model[native].createSession()
      return session.eval(tokens, new Cancel())
    }
    const logits = await worksAlone(read, () => session.restore(state))
    expect(logits).toEqual(await model.createSession().eval(tokens))
    const long = new Uint32Array(50_000_000)
    await isStoppedByTimer(signal => model.createSession().eval(long, { signal }))
  })

  it('names what is wrong with what it is asked', async () => {
    const session = model.createSession()
    const restored = model.createSession({ state: session.state })
    const generate = (prompt: string, options = {}) => collect(session.generate(prompt, options))
    const cases: [() => Promise<unknown>, string, string][] = [
      [() => collect(restored.generate('')), 'INVALID_OPTION', 'prompt'],
      [() => generate('the Ω'), 'UNKNOWN_CHARACTER', "'Ω' (U+03A9) at position 4"],
      [() => generate('the', { temperature: -1 }), 'INVALID_OPTION', 'temperature is -1'],
      [() => generate('the', { temperature: Number.NaN }), 'INVALID_OPTION', 'temperature'],
      [() => generate('the', { topK: 0 }), 'INVALID_OPTION', 'topK is 0'],
      [() => generate('the', { topK: 1.5 }), 'INVALID_OPTION', 'topK is 1.5'],
      [() => generate('the', { topP: 0 }), 'INVALID_OPTION', 'topP is 0'],
      [() => generate('the', { seed: -1 }), 'INVALID_OPTION', 'seed is -1'],
      [() => generate('the', { maxTokens: 0 }), 'INVALID_OPTION', 'maxTokens is 0'],
      [() => generate('the', { stop: '' }), 'INVALID_OPTION', 'stop'],
      [() => session.eval([]), 'INVALID_OPTION', 'tokens'],
      [() => session.eval([0, 99]), 'TOKEN_OUT_OF_RANGE', 'token 99'],
      [() => session.eval([-1]), 'TOKEN_OUT_OF_RANGE', 'token -1'],
      [() => session.eval([0.5]), 'TOKEN_OUT_OF_RANGE', 'token 0.5'],
    ]
    for (const [call, code, message] of cases) {
      await expect(call(), message).rejects.toMatchObject({ code, message: expect.stringContaining(message) })
    }
    // None of them moved the text.
    expect(session.state.equals(model.createSession().state)).toBe(true)
  })
})

describe('closing', async () => {
  const directory = await temporaryDirectory()
  const closed = { code: 'CLOSED', name: 'RwkvError' }
  let run: string

  beforeAll(async () => {
    run = await trainTiny(directory, { maxSteps: 2 })
  })

  it('ends a model and its sessions; twice is allowed', async () => {
    const model = await Model.load(run)
    const session = model.createSession()
    model.close()
    model.close()
    expect(() => model.createSession()).toThrow(expect.objectContaining(closed))
    await expect(session.prompt('the')).rejects.toMatchObject(closed)
    expect(() => session.state).toThrow(expect.objectContaining(closed))
    await expect(model.evaluate(join(directory, 'text.txt'))).rejects.toMatchObject(closed)
    // What does not need the weights is still there.
    expect(model.tokenizer.decode(model.tokenizer.encode('the fox'))).toBe('the fox')
  })

  it('ends one session and leaves the others', async () => {
    const model = await Model.load(run)
    const [one, other] = [model.createSession(), model.createSession()]
    one[Symbol.dispose]()
    await expect(one.prompt('the')).rejects.toMatchObject(closed)
    await other.prompt('the')
    await model[Symbol.asyncDispose]()
  })

  it('stops the work under way, and waits for it if disposed asynchronously', async () => {
    const model = await Model.load(run)
    const tokens = model.tokenizer.encode(text.repeat(200))
    const sessions = [model.createSession(), model.createSession()]
    const works = sessions.map(session => session.eval(tokens).catch((error: Error) => error))
    let ended = 0
    for (const work of works) void work.then(() => ended++)
    await model[Symbol.asyncDispose]()
    // Our own handlers are a few promises further; the millions of tokens would have taken seconds.
    await new Promise(setImmediate)
    expect(ended).toBe(works.length)
    expect(await Promise.all(works)).toEqual(works.map(() => expect.objectContaining(closed)))
  })

  it('happens by itself with `using`', async () => {
    let kept: Model
    {
      await using model = await Model.load(run)
      using session = model.createSession()
      await session.prompt('the')
      kept = model
    }
    expect(() => kept.createSession()).toThrow(expect.objectContaining(closed))
  })
})
