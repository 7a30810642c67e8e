import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapterInfo, convertAdapter, convertState, Model, State } from '../src/index.js'
import { objects, rwkv } from './cli.js'
import { temporaryDirectory, trainTiny } from './tiny.js'

/** What was tuned here, written for PEFT and RWKV-PEFT, and used again as theirs. */
describe('adapters and states for other programs', async () => {
  const directory = await temporaryDirectory()
  const path = (name: string) => join(directory, name)
  let base: string

  beforeAll(async () => {
    base = await trainTiny(directory, { arch: 'v7', maxSteps: 5 })
    const tuned = { from: base, maxSteps: 5, nLayer: undefined, nEmbd: undefined, unknown: undefined }
    await trainTiny(directory, { ...tuned, out: path('lora'), loraRank: 2, loraAlpha: 6 })
    await trainTiny(directory, { ...tuned, out: path('state'), tune: 'state' })
  })

  const logits = async (lora?: string, options = {}) => {
    await using model = await Model.load(base, { threads: 1, lora, ...options })
    return await model.createSession().prompt('the red')
  }

  it('writes adapters that are read again, with the same logits', async () => {
    const expected = await logits(path('lora'))
    expect(expected).not.toEqual(await logits())
    const { bytesOut, ...made } = await convertAdapter(path('lora'), path('adapted.pth'))
    expect(made).toEqual({ to: 'pth', rank: 2, alpha: 6, adapted: 12 })
    expect(await readFile(path('adapted.pth'))).toHaveLength(bytesOut)
    expect(await logits(path('adapted.pth'), { allowOtherBase: true, loraAlpha: 6 })).toEqual(expected)

    expect(await convertAdapter(path('lora'), path('peft'))).toMatchObject({ to: 'peft', rank: 2 })
    expect(await readdir(path('peft'))).toEqual(['adapter_config.json', 'adapter_model.safetensors'])
    expect(await logits(path('peft'), { allowOtherBase: true })).toEqual(expected)
  })

  it('writes states that are read again', async () => {
    const { bytesOut } = await convertState(path('state'), path('tuned.pth'))
    expect(await readFile(path('tuned.pth'))).toHaveLength(bytesOut)
    await using model = await Model.load(base)
    const [own, theirs] = await Promise.all([
      State.load(model, path('state')),
      State.load(model, path('tuned.pth'), { allowOtherBase: true }),
    ])
    expect(theirs.equals(own)).toBe(true)
  })

  it('does both on the command line', async () => {
    const made = await rwkv('convert', path('lora'), path('cli.pth'))
    expect(made).toMatchObject({ code: 0, err: '' })
    expect(made.out).toContain('an adapter of RWKV-PEFT, 12 matrices, rank 2')
    expect(made.out).toContain('its alpha, 6, is not in it: give RWKV-PEFT --lora_alpha 6')
    const named = await rwkv('convert', join(path('lora'), 'lora.safetensors'), path('cli'), '--json')
    expect(objects(named.out)).toMatchObject([{ to: 'peft', rank: 2, alpha: 6, adapted: 12 }])
    const state = await rwkv('convert', path('state'), path('cli.safetensors'))
    expect(state.out).toContain('a time_state')
  })

  it('describes adapters of other programs', async () => {
    await convertAdapter(path('lora'), path('info.pth'))
    await convertAdapter(path('lora'), path('info'), { to: 'peft' })
    const own = await adapterInfo(path('lora'))
    expect(await adapterInfo(path('info'))).toMatchObject({
      base: null,
      rank: 2,
      alpha: 6,
      targets: own.targets,
    })
    expect(await adapterInfo(path('info.pth'))).toMatchObject({ base: null, rank: 2, alpha: null })
    const told = await rwkv('info', path('info.pth'))
    expect(told.out).toMatch(/LoRA +rank 2, and it does not say its alpha: give --lora-alpha/)
    expect((await rwkv('info', path('info'))).out).toMatch(
      /of a model +it does not say which.*--allow-other-base/,
    )
  })

  it('refuses what does not fit, and writes nothing', async () => {
    for (const [args, says] of [
      [
        [path('lora'), path('no.pth'), '--to', 'gguf'],
        '--to gguf: the input is a LoRA adapter; expected pth or peft',
      ],
      [
        [path('state'), path('no.pth'), '--to', 'bin'],
        '--to bin: the input is a state; expected pth or safetensors',
      ],
      [[path('lora'), path('no.pth'), '--data-type', 'FP16'], '--data-type is for models'],
      [[base, path('no.pth'), '--to', 'peft'], '--to peft is for LoRA adapters'],
      [[path('lora'), path('no.gguf')], '.pth, for RWKV-PEFT'],
    ] as const) {
      const { code, err } = await rwkv('convert', ...args)
      expect({ code, err }).toMatchObject({ code: 2, err: expect.stringContaining(says) })
    }
    await expect(convertState(path('lora'), path('no.pth'))).rejects.toMatchObject({ code: 'IO' })
    expect((await readdir(directory)).filter(name => name.startsWith('no.'))).toEqual([])
  })
})
