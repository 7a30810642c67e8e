import { chmod, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { Cancel, NativeTrainer } from '#native'
import { Model, Trainer, type TrainOptions } from '../src/index.js'
import { isStoppedByTimer, temporaryDirectory, text, tiny, trainTiny, worksAlone, writeText } from './tiny.js'

describe('Trainer', async () => {
  const directory = await temporaryDirectory()
  let data: string

  beforeAll(async () => {
    data = await writeText(directory)
  })

  const create = (name: string, options: Partial<TrainOptions> & { signal?: AbortSignal } = {}) =>
    Trainer.create({ ...tiny, data, out: join(directory, name), ...options })

  it('goes on after a stop as if it had not stopped: the models are the same, byte for byte', async () => {
    const straight = await trainTiny(directory, { out: join(directory, 'straight') })
    const out = join(directory, 'paused')
    {
      await using trainer = await create('paused')
      for await (const { step } of trainer) if (step === 25) break
      await trainer.save()
    }
    await using trainer = await Trainer.resume(out, { threads: 1 })
    expect(trainer.steps).toBe(25)
    expect(trainer.options).toMatchObject({ ...tiny, threads: 1 })
    for await (const _ of trainer);
    expect(await readFile(join(out, 'model.bin'))).toEqual(await readFile(join(straight, 'model.bin')))
  })

  it('stops after the step under way when a signal is aborted, with its reason', async () => {
    const controller = new AbortController()
    await using trainer = await create('aborted', { signal: controller.signal })
    const reason = new Error('enough')
    let last = 0
    const run = async () => {
      for await (const { step } of trainer) {
        last = step
        if (step === 5) controller.abort(reason)
      }
    }
    await expect(run()).rejects.toBe(reason)
    expect(last).toBe(5)
    expect(trainer.steps).toBe(5)
    // It is paused, not broken.
    await trainer.save()
    expect(await readdir(join(directory, 'aborted'))).toContain('checkpoint-5')
    await expect(create('never', { signal: AbortSignal.abort() })).rejects.toMatchObject({
      name: 'AbortError',
    })
    expect(await readdir(directory)).not.toContain('never')
  })

  it('says where the time of its steps went', async () => {
    const shape = { nLayer: 2, nEmbd: 32, ctxLen: 16, batchSize: 6, arch: 'v4', optimizer: 'adamw' } as const
    await using trainer = await create('profiled', { ...shape, threads: 2 })
    await trainer.step()
    expect(await trainer.profile()).toMatchObject({ parts: [], rest: 1 })
    await trainer.startProfile()
    const { seconds, gradNorm } = await trainer.step()
    await trainer.step()
    const profile = await trainer.profile()
    expect(profile).toMatchObject({ steps: 2, threads: 2 })
    expect(profile.seconds).toBeGreaterThan(seconds)
    expect(profile.peakOperations).toBeGreaterThan(1e7)
    expect(profile.readBandwidth).toBeGreaterThan(1e7)
    // Each matrix but the embedding is multiplied by every token, once in each of three products: in a block four of
    // D × D for the time mix, and for the channel mix one of D × D and two of 4D × D.
    const { nLayer, nEmbd, ctxLen, batchSize } = shape
    const weights = nLayer * 13 * nEmbd ** 2 + trainer.tokenizer.nVocab * nEmbd
    const operations = 2 * 2 * ctxLen * batchSize * weights
    const products = profile.parts.filter(part => part.operations > 0)
    expect(products.map(({ pass, name, operations }) => [pass, name, operations])).toEqual([
      ['forward', 'products', operations],
      ['backward', 'gradients of matrices', operations],
      ['backward', 'products', operations],
    ])
    // x is read and y written, of two layers, two steps.
    const relu = profile.parts.find(({ pass, name }) => pass === 'forward' && name === 'ReluSquared')
    expect(relu?.bytes).toBe(2 * nLayer * 2 * 4 * ctxLen * batchSize * 4 * nEmbd)
    const shares = profile.parts.map(part => part.share)
    expect(shares.every(share => share >= 0)).toBe(true)
    expect(profile.rest + shares.reduce((sum, share) => sum + share, 0)).toBeCloseTo(1, 9)
    // What comes of the steps is the same.
    await using other = await create('not-profiled', { ...shape, threads: 2 })
    await other.step()
    expect((await other.step()).gradNorm).toBe(gradNorm)
  })

  it('stops a validation', async () => {
    const long = join(directory, 'long.txt')
    await writeFile(long, text.repeat(300))
    await using trainer = await create('validation', { data: long })
    const controller = new AbortController()
    const validating = trainer.validate({ signal: controller.signal, onProgress: () => {} })
    controller.abort()
    await expect(validating).rejects.toMatchObject({ name: 'AbortError' })
    const progress: number[] = []
    expect(
      await trainer.validate({ onProgress: ({ done, total }) => progress.push(done / total) }),
    ).toBeCloseTo(Math.log(new Set(text).size), 0)
    expect(progress.at(-1)).toBe(1)
  })

  it('steps one by one, without validating or saving', async () => {
    await using trainer = await create('steps', { evalInterval: 1, checkpointInterval: 1, maxSteps: 2 })
    expect(await trainer.step()).toMatchObject({ step: 1 })
    expect(await trainer.step()).toMatchObject({ step: 2 })
    expect(trainer.isDone).toBe(true)
    expect(await readdir(join(directory, 'steps'))).not.toContain('model.bin')
    await expect(trainer.step()).rejects.toMatchObject({ code: 'INVALID_OPTION' })
  })

  it('saves without a sample, if it is asked to', async () => {
    await using trainer = await create('quick', { checkpointInterval: 1 })
    const names = () => readdir(join(directory, 'quick'))
    await trainer.step()
    await trainer.save({ sample: false })
    expect(await names()).toContain('report.html')
    expect(await names()).not.toContain('samples.jsonl')
    await trainer.save()
    const sample = JSON.parse(await readFile(join(directory, 'quick/samples.jsonl'), 'utf8'))
    expect(sample).toMatchObject({
      step: 1,
      prompt: expect.stringMatching(/./),
      text: expect.stringMatching(/./),
    })
    expect(await readFile(join(directory, 'quick/report.html'), 'utf8')).toContain('<html')
  })

  it('does one thing at a time, and nothing after it was closed', async () => {
    const trainer = await create('busy')
    const calls = [trainer.step(), trainer.step(), trainer.validate()]
    const [first, ...others] = await Promise.allSettled(calls)
    expect(first).toMatchObject({ status: 'fulfilled', value: { step: 1 } })
    for (const other of others) expect(other).toMatchObject({ status: 'rejected', reason: { code: 'BUSY' } })
    trainer.close()
    trainer.close()
    for (const call of [trainer.step(), trainer.validate(), trainer.sample(), trainer.save()]) {
      await expect(call).rejects.toMatchObject({ code: 'CLOSED' })
    }
  })

  it('does not block the event loop', async () => {
    const options = JSON.stringify({ ...tiny, data, out: join(directory, 'alone') })
    const trainer = await NativeTrainer.create(options, [], new Cancel())
    const look = () => trainer.info
    await worksAlone(() => trainer.step(new Cancel()), look)
    await worksAlone(() => trainer.validate(new Cancel()), look)
    await worksAlone(() => trainer.save(true, new Cancel()), look)
    expect(trainer.info.step).toBeGreaterThan(0)
    trainer.close()
    await isStoppedByTimer(async signal => {
      await using trainer = await create('large', { accumulate: 1_000_000, maxSteps: 2, signal })
      for await (const _ of trainer);
    })
  })

  it('learns bytes that are no text', async () => {
    const bytes = join(directory, 'bytes.bin')
    await writeFile(
      bytes,
      Uint8Array.from({ length: 3000 }, (_, i) => (i * i) % 251),
    )
    const out = await trainTiny(directory, {
      data: bytes,
      tokenizer: 'byte',
      out: join(directory, 'bytes'),
      maxSteps: 3,
    })
    const model = await Model.load(out)
    expect(model.config.nVocab).toBe(256)
    expect(model.tokenizer.kind).toBe('byte')
    model.close()
  })

  it('refuses a directory that holds a run, and a directory that holds none to go on with', async () => {
    await trainTiny(directory, { out: join(directory, 'there'), maxSteps: 1 })
    await expect(create('there')).rejects.toMatchObject({
      code: 'RUN',
      message: expect.stringContaining('holds a run already; resume that'),
    })
    await expect(Trainer.resume(directory)).rejects.toMatchObject({ code: 'RUN' })
    await expect(Trainer.resume(join(directory, 'nowhere'))).rejects.toMatchObject({ code: 'RUN' })
  })

  it('refuses to go on with another text', async () => {
    const out = await trainTiny(directory, { out: join(directory, 'text'), maxSteps: 1 })
    const other = join(directory, 'other.txt')
    await writeFile(other, text.replaceAll('fox', 'xof'))
    await expect(Trainer.resume(out, { data: other })).rejects.toMatchObject({ code: 'DATA' })
  })

  it('names the option that makes no sense, and writes nothing', async () => {
    const cases: [keyof TrainOptions, unknown][] = [
      ['nLayer', 0],
      ['nLayer', -1],
      ['nLayer', 1.5],
      ['nEmbd', Number.NaN],
      ['nEmbd', 1e9],
      ['ctxLen', 0],
      ['batchSize', 0],
      ['maxSteps', 0],
      ['maxSteps', Number.POSITIVE_INFINITY],
      ['learningRate', -1],
      ['learningRate', Number.NaN],
      ['finalLearningRate', 2],
      ['warmupSteps', 61],
      ['weightDecay', -1],
      ['beta1', 1],
      ['beta2', -0.1],
      ['gradClip', Number.POSITIVE_INFINITY],
      ['seed', -1],
      ['threads', 0],
      ['threads', 1e6],
      ['evalInterval', -1],
      ['checkpointInterval', 0.5],
      ['tokenizer', 'words'],
      ['precision', 'f8'],
    ]
    for (const [name, value] of cases) {
      const error = { code: 'INVALID_OPTION', message: expect.stringContaining(`${name} is `) }
      await expect(create('nonsense', { [name]: value }), `${name} ${value}`).rejects.toMatchObject(error)
    }
    for (const [name, value] of [
      ['nLayer', '4'],
      ['data', 7],
      ['tokenizer', true],
    ] as const) {
      const error = { code: 'INVALID_OPTION', message: expect.stringContaining(name) }
      await expect(create('nonsense', { [name]: value }), name).rejects.toMatchObject(error)
    }
    expect(await readdir(directory)).not.toContain('nonsense')
  })

  it('says what is wrong with a text that cannot be learned, and writes nothing', async () => {
    const cases: [string | Uint8Array, string, string][] = [
      ['', 'DATA', 'empty'],
      ['x', 'DATA', 'single character'],
      ['a short text, shorter than the context', 'DATA', 'ctxLen'],
      [Uint8Array.of(0x61, 0x62, 0xff, 0x63), 'INVALID_UTF8', 'byte 2'],
    ]
    for (const [content, code, says] of cases) {
      const path = join(directory, 'bad.txt')
      await writeFile(path, content)
      const message = expect.stringMatching(new RegExp(`bad\\.txt.*${says}`))
      await expect(create('bad', { data: path, ctxLen: 64 }), says).rejects.toMatchObject({ code, message })
    }
    await expect(create('bad', { data: join(directory, 'none.txt') })).rejects.toMatchObject({ code: 'IO' })
    expect(await readdir(directory)).not.toContain('bad')
  })

  it('says that the directory cannot be written', async () => {
    const file = join(directory, 'file')
    await writeFile(file, '')
    await expect(create('file/run')).rejects.toMatchObject({
      code: 'IO',
      message: expect.stringContaining(file),
    })
    const locked = join(directory, 'locked')
    await mkdir(locked)
    await chmod(locked, 0o500)
    // The superuser may write everywhere.
    if (process.getuid?.() !== 0) await expect(create('locked/run')).rejects.toMatchObject({ code: 'IO' })
  })
})
