import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { Model, type Progress, type Step, Trainer } from '../src/index.js'
import { collect, temporaryDirectory, text, tiny, writeText } from './tiny.js'

describe('the loop closes', async () => {
  const directory = await temporaryDirectory()
  const out = join(directory, 'run')
  const steps: Step[] = []
  let data: string
  let sample: string

  beforeAll(async () => {
    data = await writeText(directory)
    const trainer = await Trainer.create({ ...tiny, data, out, evalInterval: 30 })
    for await (const step of trainer) steps.push(step)
    sample = await trainer.sample({ prompt: 'the red', maxTokens: 40, temperature: 0 })
    trainer.close()
  })

  it('learns: every step is reported, validations where they are due', () => {
    expect(steps.map(({ step }) => step)).toEqual(Array.from({ length: tiny.maxSteps }, (_, i) => i + 1))
    expect(steps.filter(({ valLoss }) => valLoss !== undefined).map(({ step }) => step)).toEqual([30, 60])
    // ln 28 = 3.33 for a model that knows nothing.
    expect(steps[0]?.loss).toBeGreaterThan(3)
    expect(steps.at(-1)?.valLoss).toBeLessThan(1)
    for (const { tokens, seconds, tokensPerSecond } of steps) {
      expect(tokens).toBe(tiny.ctxLen * tiny.batchSize)
      expect(tokensPerSecond).toBeCloseTo(tokens / seconds)
    }
  })

  it('leaves a directory with everything in it, and nothing half written', async () => {
    const names = await readdir(out)
    const expected = [
      'checkpoint-60',
      'config.json',
      'log.jsonl',
      'model.bin',
      'report.html',
      'result.json',
      'samples.jsonl',
      'tokenizer.json',
    ]
    expect(names.sort()).toEqual(expected)
  })

  it('loads what it saved: the model writes what the trainer wrote', async () => {
    const progress: Progress[] = []
    const model = await Model.load(out, { threads: 1, onProgress: now => progress.push(now) })
    expect(progress.at(-1)).toEqual({ done: model.fileSize, total: model.fileSize })
    expect(model.config).toEqual({
      version: 'v4',
      nVocab: new Set(text).size,
      nEmbd: 32,
      nLayer: 2,
      nFfn: 128,
      sizes: {},
    })
    const session = model.createSession()
    expect(await collect(session.generate('the red', { maxTokens: 40, temperature: 0 }))).toBe(sample)
    expect(sample).toContain(' fox jumps')
    model.close()
  })

  it('evaluates: in windows it finds the validation loss that training found', async () => {
    const model = await Model.load(out)
    const { ctxLen } = tiny
    const whole = await model.evaluate(data)
    expect(whole.tokens).toBe(text.length - 1)
    expect(whole.perplexity).toBeCloseTo(Math.exp(whole.loss))
    // One byte a character here.
    expect(whole.bitsPerByte).toBeCloseTo(whole.loss / Math.LN2)
    expect(whole.loss).toBeLessThan(1)
    const windows = await model.evaluate(data, { ctxLen })
    expect(windows.tokens).toBe(Math.floor((text.length - 1) / ctxLen) * ctxLen)
    expect(windows.loss).toBeGreaterThan(whole.loss)
    model.close()
  })

  it('writes a report that loads nothing and has the curves and the sample', async () => {
    const page = await readFile(join(out, 'report.html'), 'utf8')
    const data = /<script type="application\/json" id="data">(.*?)<\/script>/s.exec(page)?.[1]
    const [{ loss, trend, val }] = JSON.parse(data ?? '').runs
    expect(loss.step).toEqual(Array.from({ length: tiny.maxSteps }, (_, index) => index + 1))
    expect(loss.y[0]).toBeCloseTo(steps[0]?.loss ?? 0, 3)
    expect(trend.y).toHaveLength(tiny.maxSteps)
    expect(val.y).toHaveLength(2)
    expect(page).toContain('<blockquote>')
    expect(page).not.toMatch(/<(script|link|img)[^>]+(src|href)=/)
  })
})
