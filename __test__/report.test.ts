import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { Trainer, writeReport } from '../src/index.js'
import { objects, rwkv } from './cli.js'
import { temporaryDirectory, tiny, trainTiny, writeText } from './tiny.js'

describe('reports', async () => {
  const directory = await temporaryDirectory()
  const path = (name: string) => join(directory, name)
  const page = (file: string) => readFile(file, 'utf8')
  let run: string
  let other: string

  beforeAll(async () => {
    run = await trainTiny(directory, {
      out: path('first'),
      maxSteps: 20,
      evalInterval: 8,
      checkpointInterval: 8,
    })
    other = await trainTiny(directory, { out: path('second'), maxSteps: 10, learningRate: 1e-3 })
  })

  it('have the plotting library of the package uplot, to the last byte', async () => {
    const copies = [
      ['uplot.min.js', 'dist/uPlot.iife.min.js'],
      ['uplot.css', 'dist/uPlot.min.css'],
      ['uplot.LICENSE', 'LICENSE'],
    ] as const
    for (const [ours, theirs] of copies) {
      const [here, there] = await Promise.all([
        readFile(join(import.meta.dirname, '../crates/train/src/report', ours)),
        readFile(join(import.meta.dirname, '../node_modules/uplot', theirs)),
      ])
      expect(here.equals(there), ours).toBe(true)
    }
  })

  it('tell of which step the model is, with a sample of each save', async () => {
    const text = await page(join(run, 'report.html'))
    const { results } = JSON.parse(await readFile(join(run, 'result.json'), 'utf8'))
    expect(text).toContain(`model.bin is the model of <strong>step ${results[0].step}</strong> of 20.`)
    expect(text).toContain(`<strong>${results[0].valLoss.toFixed(3)}</strong>`)
    const samples = (await readFile(join(run, 'samples.jsonl'), 'utf8')).trim().split('\n')
    expect(samples.map(line => JSON.parse(line).step)).toEqual([8, 16, 20])
    expect(text).not.toContain(directory)
    expect(text).not.toMatch(/<(script|link|img)[^>]+(src|href)=/)
  })

  it('are written anew, of one run or of several', async () => {
    await rm(join(run, 'report.html'))
    expect(await writeReport(run)).toBe(join(run, 'report.html'))
    expect(await page(join(run, 'report.html'))).toContain('first')
    const both = path('both.html')
    expect(await writeReport([run, other], { out: both })).toBe(both)
    expect(await page(both)).toContain('Options that differ')
    expect(await page(both)).toContain('Validation loss in bits a byte')
  })

  it('replace no file of somebody else, unless they are told to', async () => {
    const out = path('notes.html')
    await writeFile(out, 'mine')
    await expect(writeReport(run, { out })).rejects.toMatchObject({
      code: 'RUN',
      message: /notes\.html: .*force/,
    })
    expect(await page(out)).toBe('mine')
    await writeReport(run, { out, force: true })
    await writeReport(other, { out })
    expect(await page(out)).toContain('<title>second')
  })

  it('refuse what is no run', async () => {
    const refused: [string | string[], string][] = [
      [path('none'), 'RUN'],
      [[run, path('none')], 'RUN'],
      [[], 'INVALID_OPTION'],
      ['', 'INVALID_OPTION'],
    ]
    for (const [runs, code] of refused) await expect(writeReport(runs)).rejects.toMatchObject({ code })
    await mkdir(path('odd'))
    await writeFile(path('odd/config.json'), '{"format": 1}')
    await expect(writeReport(path('odd'))).rejects.toMatchObject({
      code: 'RUN',
      message: /config\.json: not a run/,
    })
  })

  it('of a run under way are of what it has done', async () => {
    const options = { ...tiny, data: await writeText(directory), out: path('under-way'), maxSteps: 1000 }
    await using trainer = await Trainer.create(options)
    await trainer.step()
    await writeReport(path('under-way'))
    expect(await page(path('under-way/report.html'))).toContain(
      'The run has written no model yet. The run has done 1',
    )
  })

  it('rwkv report says what it wrote', async () => {
    const out = path('page.html')
    const [told] = objects((await rwkv('report', run, other, '--out', out, '--json')).out)
    expect(told).toEqual({ report: out, runs: [run, other], bytes: (await readFile(out)).length })
    const { code, out: said } = await rwkv('report', run)
    expect([code, said]).toEqual([0, expect.stringMatching(/report\.html \(\d+\.?\d* kB\)\n$/)])
    expect(await rwkv('report')).toMatchObject({ code: 2, err: expect.stringContaining('RUN is missing') })
    await writeFile(out, 'mine')
    expect(await rwkv('report', run, '--out', out)).toMatchObject({ code: 1, out: '' })
    expect((await rwkv('report', run, '--out', out, '--force')).code).toBe(0)
  })

  it('the chart at the end of a run that was resumed begins where the run did', async () => {
    const out = path('resumed')
    await trainTiny(directory, { out, maxSteps: 10 })
    const { out: told } = await rwkv('train', '--resume', out, '--max-steps', 20)
    expect(told).toMatch(/^ +1 +step 20$/m)
    expect(told).toMatch(/^going on after step 10$/m)
  })

  it('rwkv info tells of a run what is known', async () => {
    const { results } = JSON.parse(await readFile(join(run, 'result.json'), 'utf8'))
    const [{ nEmbd, run: told }] = objects((await rwkv('info', run, '--json')).out)
    expect(nEmbd).toBe(tiny.nEmbd)
    expect(told).toMatchObject({
      name: 'first',
      steps: 20,
      maxSteps: 20,
      kept: { file: 'model.bin', step: results[0].step },
      valLoss: { step: 20 },
      tokens: 20 * tiny.ctxLen * tiny.batchSize,
      checkpoints: [16, 20],
      options: { data: 'text.txt', evalInterval: 8, nEmbd: 32 },
    })
    expect(told.options).not.toHaveProperty('seed')
    const { out } = await rwkv('info', run)
    expect(out).toMatch(/^result +model\.bin, of step \d+: validation loss \d\.\d{3}$/m)
    expect(out).toMatch(/^steps +20 of 20$/m)
    expect(out).toMatch(/^options .*--eval-interval 8/m)
  })

  it('rwkv info says nothing of a model that the run did not write, and shows a run without one', async () => {
    const model = await readFile(join(other, 'model.bin'))
    await writeFile(join(other, 'model.bin'), await readFile(join(run, 'model.bin')))
    const { code, out } = await rwkv('info', other)
    expect([code, out]).toEqual([
      0,
      expect.stringMatching(/^result +model\.bin; nothing says that this run wrote/m),
    ])
    await rm(join(other, 'model.bin'))
    expect(objects((await rwkv('info', other, '--json')).out)).toMatchObject([
      { run: { file: null, kept: null } },
    ])
    await writeFile(join(other, 'model.bin'), model)
    // A configuration that is none hides no model.
    await writeFile(join(other, 'config.json'), '{')
    const hidden = await rwkv('info', other)
    expect(hidden.code).toBe(0)
    expect(hidden.out).toMatch(/^run +.*config\.json: not a run's configuration/m)
  })
})
