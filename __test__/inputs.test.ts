import { mkdir, readFile } from 'node:fs/promises'
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
import { temporaryDirectory, tiny, trainTiny, writeText } from './tiny.js'

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
      'path is the URL https://example.com/model.bin; only URLs of the scheme file: are taken: download it first, and name the file',
    ],
    [`data:,${'x'.repeat(100)}`, `path is the URL data:,${'x'.repeat(54)}…; only URLs of the scheme file:`],
    ['file:///a%2Fb', 'path is the URL file:///a%2Fb; it names no file of this machine: '],
  ])('of %s are refused', async (href, message) => {
    const url = new URL(href)
    await expect(Model.load(url)).rejects.toMatchObject(refused(expect.stringContaining(message)))
    await expect(Trainer.create({ ...tiny, data: ['x', url], out: 'never' })).rejects.toMatchObject(
      refused(expect.stringContaining(message.replace('path', 'data'))),
    )
  })

  it('are not made of strings', async () => {
    const { href } = url('run')
    await expect(Model.load(href)).rejects.toMatchObject({ code: 'IO' })
  })
})
