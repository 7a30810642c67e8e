import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Model } from '../src/index.js'
import { temporaryDirectory, trainTiny } from './tiny.js'

describe('Model.bench', async () => {
  const directory = await temporaryDirectory()
  const short = { decode: 2, prompt: 10, sessions: 2, seconds: 0 }
  let model: Model

  beforeAll(async () => {
    model = await Model.load(await trainTiny(directory, { maxSteps: 2 }), { threads: 2 })
  })
  afterAll(() => model?.close())

  it('measures, and says how far it is', async () => {
    const shares: number[] = []
    const onProgress = ({ done, total }: { done: number; total: number }) => shares.push(done / total)
    const found = await model.bench({ ...short, onProgress })
    const { nEmbd, nVocab } = model.config
    // All the weights but the rows of the embedding that a token is not.
    expect(found.bytesPerToken).toBe(4 * (model.parameters - nEmbd * (nVocab - 1)))
    expect(found.readBandwidth).toBeCloseTo(found.decodeTokensPerSecond * found.bytesPerToken, 0)
    for (const [name, figure] of Object.entries(found)) expect(figure, name).toBeGreaterThan(0)
    expect(shares.at(-1)).toBe(1)
  })

  it('refuses nonsense by name', async () => {
    const cases = [{ decode: 0 }, { prompt: 1.5 }, { sessions: 2 ** 32 + 1 }, { seconds: Number.NaN }]
    for (const options of cases) {
      const [name = ''] = Object.keys(options)
      const message = expect.stringMatching(`^${name} is `)
      await expect(model.bench(options)).rejects.toMatchObject({ code: 'INVALID_OPTION', message })
    }
  })

  it('stops on a signal with its reason, and when the model is closed', async () => {
    const controller = new AbortController()
    const measuring = model.bench({ ...short, seconds: 3600, signal: controller.signal })
    const reason = new Error('enough')
    setTimeout(() => controller.abort(reason), 50)
    await expect(measuring).rejects.toBe(reason)

    const other = await Model.load(String(model.path), { threads: 1 })
    const long = other.bench({ ...short, seconds: 3600 })
    setTimeout(() => other.close(), 50)
    await expect(long).rejects.toMatchObject({ code: 'CLOSED' })
    await expect(other.bench(short)).rejects.toMatchObject({ code: 'CLOSED' })
  })
})

it('the example measures a model in four formats', async () => {
  const directory = await trainTiny(await temporaryDirectory(), { maxSteps: 2 })
  const example = join(import.meta.dirname, '../.cache/examples/smaller.mjs')
  const { stdout } = await promisify(execFile)(process.execPath, [
    example,
    directory,
    join(directory, '../text.txt'),
  ])
  const lines = stdout.trim().split('\n')
  expect(lines.map(line => line.split(' ')[0])).toEqual(['FP32', 'Q8_0', 'Q5_1', 'Q4_0'])
  for (const line of lines) expect(line).toMatch(/ {2}[\d.]+ MB {2}loss \d\.\d{4} {2}\d+ tokens\/s, \d+ % /)
})
