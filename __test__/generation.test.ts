import { getEventListeners } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Model, type SamplingOptions } from '../src/index.js'
import { objects, rwkv, rwkvReading } from './cli.js'
import { collect, temporaryDirectory, text, trainTiny } from './tiny.js'

describe('Generation', async () => {
  const directory = await temporaryDirectory()
  let model: Model
  let run: string

  beforeAll(async () => {
    run = await trainTiny(directory)
    model = await Model.load(run, { threads: 2 })
  })
  afterAll(() => model?.close())

  const write = (prompt: string, options: object) => model.createSession().generate(prompt, options).result()

  it('says what was written, in which tokens, and why it ended', async () => {
    const options = { temperature: 0, maxTokens: 30 }
    const whole = await write('the ', options)
    expect(whole.end).toBe('length')
    expect(whole.tokens).toEqual(model.tokenizer.encode(whole.text))
    const stop = whole.text.slice(10, 13)
    const ended = await write('the ', { ...options, stop })
    expect(ended).toEqual({
      text: whole.text.slice(0, whole.text.indexOf(stop)),
      tokens: whole.tokens.slice(0, whole.text.indexOf(stop)),
      end: 'stop',
    })
    const writing = model.createSession().generate('the ', { temperature: 0, maxTokens: 1e6 })
    expect(writing.end).toBeUndefined()
    for await (const piece of writing) {
      expect(writing.text.endsWith(piece)).toBe(true)
      if (writing.text.length > 20) break
    }
    expect(writing.end).toBe('aborted')
    expect(writing.tokens).toHaveLength(writing.text.length)
    const stopped = model
      .createSession()
      .generate('the ', { maxTokens: 1e6, signal: AbortSignal.timeout(30) })
    await expect(stopped.result()).rejects.toMatchObject({ name: 'TimeoutError' })
    expect(stopped.end).toBe('aborted')
  })

  it('hands out pieces with their tokens', async () => {
    const writing = model.createSession().generate('the ', { seed: 1, maxTokens: 2000 })
    let all = ''
    const tokens: number[] = []
    for await (const piece of writing.pieces()) {
      expect(model.tokenizer.decode(piece.tokens)).toBe(piece.text)
      all += piece.text
      tokens.push(...piece.tokens)
    }
    expect(all).toBe(writing.text)
    expect(Uint32Array.from(tokens)).toEqual(writing.tokens)
    expect(await collect(model.createSession().generate('the ', { seed: 1, maxTokens: 2000 }))).toBe(all)
  })

  it('keeps what ends a turn out of the session: a chat reads the same as if it was typed whole', async () => {
    const chat = model.createSession()
    let typed = ''
    for (let turn = 0; turn < 6; turn++) {
      const question = `${turn === 0 ? '' : '\n'}the red fox ${'jumps '.repeat(turn)}`
      // The stop's first letters come before it too, in words that are no stop.
      const options = { seed: turn, temperature: 1.5, maxTokens: 300, stop: ['y dog', '\nt'] }
      const { text: answer } = await chat.generate(question, options).result()
      typed += question + answer
    }
    const whole = model.createSession()
    await whole.prompt(typed)
    expect(chat.state.equals(whole.state)).toBe(true)
    expect(await chat.prompt('a')).toEqual(await whole.prompt('a'))
  })

  it('tells how likely each token was', async () => {
    const session = model.createSession()
    const logits = [await session.prompt('the ')]
    const options = { seed: 3, maxTokens: 12, temperature: 1.3, topK: 9, logProbabilities: 4 }
    const { tokens, logProbabilities = [] } = await write('the ', options)
    expect(logProbabilities).toHaveLength(12)
    for (const token of tokens) logits.push(await session.eval([token]))
    for (const [i, found] of logProbabilities.entries()) {
      const row = Array.from(logits[i] ?? [])
      const max = Math.max(...row)
      const total = Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - max), 0)) + max
      const sorted = row.map((logit, token) => ({ token, logProbability: logit - total }))
      sorted.sort((a, b) => b.logProbability - a.logProbability || a.token - b.token)
      expect(found?.chosen).toBeCloseTo((row[tokens[i] ?? -1] ?? 0) - total, 9)
      expect(found?.best.map(({ token }) => token)).toEqual(sorted.slice(0, 4).map(({ token }) => token))
      for (const [rank, { logProbability }] of (found?.best ?? []).entries())
        expect(logProbability).toBeCloseTo(sorted[rank]?.logProbability ?? 0, 9)
    }
    expect((await write('the ', { maxTokens: 2 })).logProbabilities).toBeUndefined()
  })

  it('obeys every option of sampling', async () => {
    const greedy = await write('the ', { temperature: 0, maxTokens: 60 })
    const same: SamplingOptions[] = [{ topK: 1 }, { minP: 1 }, { topP: 1e-9 }]
    for (const options of same)
      expect(await write('the ', { maxTokens: 60, seed: 1, ...options })).toEqual(greedy)
    const [first = 0] = greedy.tokens
    const others: SamplingOptions[] = [
      { repetitionPenalty: 3 },
      { presencePenalty: 20 },
      { frequencyPenalty: 5 },
      { frequencyPenalty: 5, penaltyDecay: 0.9 },
      { logitBias: { [first]: Number.NEGATIVE_INFINITY } },
      { logitBias: { 3: 100 } },
    ]
    const written = new Set([greedy.text])
    for (const options of others) {
      const { text } = await write('the ', { temperature: 0, maxTokens: 60, ...options })
      expect(written).not.toContain(text)
      written.add(text)
    }
    const free = { temperature: 3, seed: 1, maxTokens: 60 }
    expect((await write('the ', { ...free, typicalP: 0.2 })).text).not.toBe((await write('the ', free)).text)
    const { tokens } = await write('the ', { ...free, logitBias: { [first]: Number.NEGATIVE_INFINITY } })
    expect(tokens).not.toContain(first)
    await expect(write('the ', { logitBias: { 10000: 1 } })).rejects.toMatchObject({
      code: 'TOKEN_OUT_OF_RANGE',
    })
    const refused: [object, string][] = [
      [{ minP: 2 }, 'minP is 2; it must be at least 0 and at most 1'],
      [{ typicalP: 0 }, 'typicalP is 0'],
      [{ repetitionPenalty: 0 }, 'repetitionPenalty is 0'],
      [{ penaltyDecay: 1.5 }, 'penaltyDecay is 1.5'],
      [{ logitBias: { a: 1 } }, 'logitBias is an object; it must be an object of tokens and numbers'],
      [{ logitBias: { 1: Number.NaN } }, 'logitBias is an object'],
    ]
    for (const [options, message] of refused)
      await expect(write('the ', options)).rejects.toMatchObject({
        code: 'INVALID_OPTION',
        message: expect.stringContaining(message),
      })
  })

  it('writes many texts at once as each is written alone', async () => {
    const prompts = Array.from({ length: 40 }, (_, i) => text.slice(i, i + 1 + (i % 7)))
    const options = { temperature: 2, maxTokens: 50, stop: 'dog' }
    const done: number[] = []
    const batch = await model.generateBatch(prompts, {
      ...options,
      seed: 5,
      sessions: 8,
      onProgress: ({ done: count }) => done.push(count),
    })
    for (const [i, prompt] of prompts.entries())
      expect(batch[i]).toEqual(await write(prompt, { ...options, seed: 5 + i }))
    expect(done.at(-1)).toBe(40)
    expect(await model.generateBatch([])).toEqual([])
    await expect(model.generateBatch(['the ', 'Ω'])).rejects.toMatchObject({ code: 'UNKNOWN_CHARACTER' })
    await expect(model.generateBatch(['the ', 3 as never])).rejects.toMatchObject({ code: 'INVALID_OPTION' })
    const reason = new Error('enough')
    const stopped = model.generateBatch(prompts, { maxTokens: 1e6, signal: AbortSignal.abort(reason) })
    await expect(stopped).rejects.toBe(reason)
  })

  it('listens to a signal once, however many calls it is given to', async () => {
    const stop = new AbortController()
    const { signal } = stop
    const warnings: Error[] = []
    const warn = (warning: Error) => warnings.push(warning)
    process.on('warning', warn)
    const calls = Array.from({ length: 100 }, () =>
      model
        .createSession()
        .eval(new Uint32Array(2e4), { signal })
        .catch((error: unknown) => error),
    )
    const batches = Array.from({ length: 12 }, () =>
      model.generateBatch(['the '], { maxTokens: 1e6, signal }).catch((error: unknown) => error),
    )
    expect(getEventListeners(signal, 'abort')).toHaveLength(1)
    const reason = new Error('enough')
    stop.abort(reason)
    expect(await Promise.all([...calls, ...batches])).toEqual([...calls, ...batches].map(() => reason))
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
    process.off('warning', warn)
    expect(warnings).toEqual([])
  })

  describe('on the command line', () => {
    const greedy = ['--temperature', 0, '--max-tokens', 20] as const

    it('reads the prompt from a file or from standard input, and prints it as it was given', async () => {
      const file = join(directory, 'prompt.txt')
      const prompt = '  the red\n  fox'
      await writeFile(file, prompt)
      const { text: answer } = await write(prompt, { temperature: 0, maxTokens: 20 })
      const expected = { code: 0, out: `${prompt}${answer}\n`, err: '' }
      expect(await rwkv('generate', run, '--prompt', prompt, ...greedy)).toMatchObject(expected)
      expect(await rwkv('generate', run, '--prompt-file', file, ...greedy)).toMatchObject(expected)
      expect(await rwkvReading(prompt, 'generate', run, '--prompt-file', '-', ...greedy)).toMatchObject(
        expected,
      )
      const both = await rwkv('generate', run, '--prompt', 'a', '--prompt-file', file)
      expect(both).toMatchObject({ code: 2, out: '' })
      expect(both.err).toContain('--prompt and --prompt-file are both given')
      await writeFile(file, Buffer.from([0x61, 0xff]))
      const bad = await rwkv('generate', run, '--prompt-file', file)
      expect(bad.err).toContain(`${file} is not UTF-8`)
      expect((await rwkv('generate', run, '--prompt-file', join(directory, 'none'))).err).toContain(
        'cannot read',
      )
    })

    it('writes several samples, ends at any of several stops, and takes biases', async () => {
      const shared = ['--prompt', 'the ', '--max-tokens', 40, '--json'] as const
      const { out } = await rwkv(
        'generate',
        run,
        ...shared,
        '-n',
        3,
        '--seed',
        7,
        '--stop',
        'dog',
        '--stop',
        'over',
      )
      const samples = objects(out)
      expect(samples).toHaveLength(3)
      const alone = [7, 8, 9].map(seed => write('the ', { maxTokens: 40, seed, stop: ['dog', 'over'] }))
      const texts = (await Promise.all(alone)).map(({ text }) => text)
      expect(samples.map(({ text }) => text).sort()).toEqual(texts.sort())
      const told = await rwkv('generate', run, ...shared, '--log-probabilities', 2, '--logit-bias', '1=-inf')
      const [{ tokens, logProbabilities }] = objects(told.out)
      expect(logProbabilities).toHaveLength(tokens)
      expect(logProbabilities[0].best).toHaveLength(2)
      const bad = await rwkv('generate', run, '--logit-bias', 'x')
      expect(bad).toMatchObject({ code: 2 })
      expect(bad.err).toContain(
        '--logit-bias is "x"; it must be a token and a number, such as 42=-5 or 42=-inf',
      )
    })
  })
})
