import { copyFile, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapterInfo, Model, merge, quantize, RwkvError, State, Trainer } from '../src/index.js'
import { rwkv } from './cli.js'
import { collect, temporaryDirectory, text, tiny } from './tiny.js'

/** Another text in the same words, so that a model of the first has something to learn. */
const other = Array.from({ length: 250 }, (_, i) => `a ${i % 7} lazy dogs; over ${i % 3} foxes\n`).join('')
const parse = (line: string) => JSON.parse(line)
const lines = (out: string) => out.trim().split('\n')

describe('fine-tuning', async () => {
  const directory = await temporaryDirectory()
  const path = (name: string) => join(directory, name)
  const base = path('base')
  const small = path('small/model-Q5_1.bin')
  const train = (out: string, ...args: (string | number)[]) =>
    rwkv('train', '--data', path('other.txt'), '--out', path(out), '--max-steps', 30, ...args)
  const batches = ['--ctx-len', 32, '--batch-size', 4, '--threads', 2, '--learning-rate', 0.01]
  const loss = async (...args: (string | number)[]) => {
    const { out, err, code } = await rwkv('eval', ...args, '--data', path('other.txt'), '--json')
    expect({ err, code, out }).toMatchObject({ err: '', code: 0 })
    return parse(out).loss as number
  }

  beforeAll(async () => {
    await writeFile(path('text.txt'), text)
    await writeFile(path('other.txt'), other)
    const options = { ...tiny, tokenizer: 'byte', data: path('text.txt'), out: base } as const
    await using trainer = await Trainer.create(options)
    for await (const _ of trainer);
    await mkdir(path('small'))
    await quantize(base, small, 'Q5_1')
    await copyFile(join(base, 'tokenizer.json'), path('small/tokenizer.json'))
    for (const [out, from] of [
      ['lora', base],
      ['lora-q', small],
    ] as const) {
      const made = await train(out, ...batches, '--from', from, '--lora-rank', 4)
      expect(made).toMatchObject({ code: 0, err: '' })
    }
    const made = await train('state', ...batches, '--from', base, '--tune', 'state', '--learning-rate', 0.02)
    expect(made).toMatchObject({ code: 0, err: '' })
  })

  it('goes on from a whole model, and writes a model', async () => {
    const { out, code } = await train('whole', ...batches, '--from', base)
    expect(code).toBe(0)
    expect(out).toMatch(/^fine-tuning .*base: all parameters are trained$/m)
    expect(out).toContain(`rwkv generate ${path('whole')}`)
    expect(await loss(path('whole'))).toBeLessThan((await loss(base)) - 0.3)
    const written = await rwkv('generate', path('whole'), '--prompt', 'a ', '--max-tokens', 8, '--seed', 1)
    expect(written).toMatchObject({ code: 0, err: '' })
  })

  it('trains a part of a model', async () => {
    const { out, code } = await train(
      'part',
      ...batches,
      '--from',
      base,
      '--train',
      '*.att.*',
      '--max-steps',
      2,
    )
    expect(code).toBe(0)
    expect(out).toMatch(/fine-tuning .*base: [\d,]+ of [\d,]+ parameters are trained/)
  })

  it('trains adapters over FP32 and quantized weights, which the base is used with', async () => {
    for (const [from, out] of [
      [base, path('lora')],
      [small, path('lora-q')],
    ] as const) {
      expect(await readdir(out)).toEqual(expect.arrayContaining(['lora.safetensors', 'report.html']))
      expect(await readdir(out)).not.toContain('model.bin')
      const adapted = await loss(from, '--lora', out)
      expect(adapted).toBeLessThan((await loss(from)) - 0.2)
      expect(await loss(from, '--lora', join(out, 'lora.safetensors'))).toBe(adapted)
      const args = ['--lora', out, '--prompt', 'a ', '--max-tokens', 12, '--temperature', 0] as const
      const { out: written, code } = await rwkv('generate', from, ...args)
      expect(code).toBe(0)

      const merged = path(`merged-${from === base ? 'base' : 'small'}/model.bin`)
      await mkdir(join(merged, '..'))
      await copyFile(join(base, 'tokenizer.json'), join(merged, '../tokenizer.json'))
      const made = await rwkv('merge', from, out, merged)
      expect(made).toMatchObject({ code: 0, err: '' })
      expect(made.out.includes('quantized weights became FP16')).toBe(from === small)
      expect(Math.abs((await loss(merged)) - adapted)).toBeLessThan(from === base ? 1e-5 : 0.02)
      const again = await rwkv('generate', merged, '--prompt', 'a ', '--max-tokens', 12, '--temperature', 0)
      if (from === base) expect(again.out).toBe(written)
    }
  })

  it('takes adapters and states of another precision of the base when asked to', async () => {
    const adapted = await loss(base, '--lora', path('lora'))
    const refused = await rwkv('eval', small, '--data', path('other.txt'), '--lora', path('lora'))
    expect(refused).toMatchObject({ code: 1, out: '' })
    expect(refused.err).toContain('--allow-other-base')
    expect(await loss(small, '--lora', path('lora'), '--allow-other-base')).toBeCloseTo(adapted, 1)
    await expect(Model.load(small, { lora: path('lora') })).rejects.toMatchObject({
      code: 'ADAPTER',
      message: expect.stringContaining('allowOtherBase'),
    })
    // Its own file says its alpha.
    const alpha = await rwkv(
      'eval',
      base,
      '--data',
      path('other.txt'),
      '--lora',
      path('lora'),
      '--lora-alpha',
      3,
    )
    expect(alpha.err).toContain('leave out --lora-alpha')
    await using onSmall = await Model.load(small, { lora: path('lora'), allowOtherBase: true })
    expect(onSmall.lora).toBe(path('lora'))
    const merged = path('merged-other.bin')
    expect((await rwkv('merge', small, path('lora'), merged)).err).toContain('--allow-other-base')
    expect(await rwkv('merge', small, path('lora'), merged, '--allow-other-base')).toMatchObject({ code: 0 })

    await using model = await Model.load(small)
    await expect(State.load(model, path('state'))).rejects.toMatchObject({
      code: 'STATE',
      message: expect.stringContaining('allowOtherBase'),
    })
    const state = await State.load(model, path('state'), { allowOtherBase: true })
    expect(model.createSession({ state }).state.equals(state)).toBe(true)
    const windows = ['--ctx-len', 32]
    const tuned = await loss(base, '--state', path('state'), ...windows)
    const args = ['--state', path('state'), '--allow-other-base', ...windows]
    expect(await loss(small, ...args)).toBeCloseTo(tuned, 1)
  })

  it('trains an initial state, which sessions and evaluations start from', async () => {
    const state = path('state')
    expect(await readdir(state)).not.toContain('model.bin')
    const windows = ['--ctx-len', 32]
    const before = await loss(base, ...windows)
    expect(await loss(base, '--state', state, ...windows)).toBeLessThan(before - 0.02)
    // So many, at random, that the two cannot agree by chance in some tier.
    const sampling = { maxTokens: 200, temperature: 1, seed: 1 }
    const args = ['--prompt', 'a ', '--max-tokens', 200, '--temperature', 1, '--seed', 1] as const
    const [plain, tuned] = [
      await rwkv('generate', base, ...args),
      await rwkv('generate', base, '--state', state, ...args),
    ]
    expect(tuned).toMatchObject({ code: 0, err: '' })
    expect(tuned.out).not.toBe(plain.out)

    await using model = await Model.load(base)
    const loaded = await State.load(model, state)
    expect(loaded.equals(await State.load(model, join(state, 'tuned.state')))).toBe(true)
    const session = model.createSession({ state: loaded })
    expect(session.state.equals(loaded)).toBe(true)
    const writing = session.generate('a ', sampling)
    expect(tuned.out).toBe(`a ${await collect(writing)}\n`)
    await model.evaluate(path('other.txt'), { state: loaded })
  })

  it('--json says from which model, how much is trained, and what was written', async () => {
    const { out } = await train(
      'json',
      ...batches,
      '--from',
      base,
      '--lora-rank',
      2,
      '--max-steps',
      2,
      '--json',
    )
    const events = lines(out).map(parse)
    const { parameters } = await adapterInfo(path('json'))
    expect(events[0]).toMatchObject({ event: 'start', from: base, trainedParameters: parameters })
    expect(events.at(-1)).toMatchObject({ event: 'done', lora: path('json/lora.safetensors') })
    expect(events.at(-1)).not.toHaveProperty('model')
    const report = await readFile(path('json/report.html'), 'utf8')
    expect(report).toContain('Fine-tuned from')
    expect(report).toContain(parameters.toLocaleString('en-US'))
  })

  it('says how to use what was trained', async () => {
    const { out } = await train('words', ...batches, '--from', base, '--lora-rank', 2, '--max-steps', 2)
    expect(out).toMatch(/^training LoRA adapters of .*base \(rank 2, alpha 4\): [\d,]+ values, \d/m)
    expect(out).toMatch(/^ {2}rwkv generate .*base --lora .*words$/m)
    expect(out).toMatch(/^ {2}rwkv merge .*base .*words .*merged\.bin$/m)
    expect(out).toContain(join(path('words'), 'lora.safetensors'))
  })

  it('info describes an adapter', async () => {
    const { out } = await rwkv('info', path('lora'), '--json')
    const info = parse(out)
    expect(info).toMatchObject({
      rank: 4,
      alpha: 8,
      base: 'v4, n_vocab 256, n_embd 32, n_layer 2, n_ffn 128',
    })
    expect(info.targets).toContain('blocks.0.att.key.weight')
    const file = join(path('lora'), 'lora.safetensors')
    expect(info.fileSize).toBe((await stat(file)).size)
    expect((await rwkv('info', file)).out).toContain('rank 4, alpha 8')
  })

  it('in TypeScript: load with an adapter, merge, and states that are told apart', async () => {
    await using plain = await Model.load(base, { threads: 1 })
    await using adapted = await Model.load(base, { threads: 1, lora: path('lora') })
    expect([plain.lora, adapted.lora]).toEqual([undefined, path('lora')])
    const state = plain.createSession().state
    const refused = () => adapted.createSession({ state })
    expect(refused).toThrow(expect.objectContaining({ code: 'STATE' }))
    await expect(adapted.evaluate(path('other.txt'), { state })).rejects.toMatchObject({ code: 'STATE' })
    const seen: number[] = []
    const output = path('merged.bin')
    const onProgress = ({ done, total }: { done: number; total: number }) => seen.push(done / total)
    const merged = await merge(base, path('lora'), output, {
      onProgress: progress => void onProgress(progress),
    })
    expect(merged).toMatchObject({
      from: 'FP32',
      to: 'FP32',
      adapted: 14,
      bytesOut: (await stat(output)).size,
    })
    expect(seen.at(-1)).toBe(1)
    await using whole = await Model.load(output, { threads: 1 })
    const read = (model: Model) => model.createSession().eval([97, 32, 49])
    const [a, b] = [await read(adapted), await read(whole)]
    expect(Math.max(...a.map((value, i) => Math.abs(value - (b[i] ?? 0))))).toBeLessThan(1e-4)
    const aborted = merge(base, path('lora'), path('none.bin'), { signal: AbortSignal.abort('stop') })
    await expect(aborted).rejects.toBe('stop')
    await expect(stat(path('none.bin'))).rejects.toThrow()
  })

  it.each<[string, () => (string | number)[], number, RegExp]>([
    [
      'a run that trained an adapter has no model',
      () => ['generate', path('lora')],
      1,
      /no model\.bin: this run trained a LoRA adapter for the model .*base.*rwkv generate .*base --lora .*lora/,
    ],
    [
      'a run that trained a state has no model',
      () => ['eval', path('state'), '--data', path('other.txt')],
      1,
      /no model\.bin: this run trained an initial state for the model .*base.* --state /,
    ],
    [
      'an adapter of another base',
      () => ['generate', small, '--lora', path('lora')],
      1,
      /lora\.safetensors: .*with other weights; load the model that this adapter was trained on/,
    ],
    [
      'a state of another model',
      () => ['generate', small, '--state', path('state')],
      1,
      /tuned\.state: this state cannot be used: .*with other weights/,
    ],
    [
      'no such adapter',
      () => ['generate', base, '--lora', path('none')],
      1,
      /cannot open .*none: No such file/,
    ],
    ['no such state', () => ['generate', base, '--state', path('none')], 1, /cannot read .*none: ENOENT/],
    [
      'an adapter that is none',
      () => ['merge', base, path('text.txt'), path('o.bin')],
      1,
      /text\.txt: not an adapter/,
    ],
    [
      'a merge over the base',
      () => ['merge', base, path('lora'), join(base, 'model.bin')],
      2,
      /output is .*model\.bin; it must be another file than the base/,
    ],
    [
      'a quantized model that is to be trained whole',
      () => ['train', '--data', path('other.txt'), '--out', path('x'), '--from', small],
      2,
      /--from is .*FP32 or FP16.*--lora-rank.*tune/,
    ],
    [
      'a pattern that matches nothing',
      () => ['train', '--data', path('other.txt'), '--out', path('x'), '--from', base, '--freeze', 'nothing'],
      2,
      /--freeze is nothing; it must be patterns that match/,
    ],
  ])('refuses in one line: %s', async (_, args, code, says) => {
    const refused = await rwkv(...args())
    expect(refused.err).toMatch(says)
    expect(refused).toMatchObject({ code, out: '' })
    expect(lines(refused.err).length).toBeLessThanOrEqual(2)
  })

  it('codes of errors are documented ones', async () => {
    const failed = await Model.load(base, { lora: path('text.txt') }).catch(error => error)
    expect(failed).toBeInstanceOf(RwkvError)
    expect(failed.code).toBe('ADAPTER')
    await expect(adapterInfo(path('none'))).rejects.toMatchObject({ code: 'IO' })
  })
})
