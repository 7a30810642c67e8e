import { mkdir, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import {
  type ConvertOptions,
  convert,
  type FileFormat,
  Model,
  type Progress,
  RwkvError,
} from '../src/index.js'
import { rwkv } from './cli.js'
import { temporaryDirectory, trainTiny } from './tiny.js'

/** A v7 of two narrow layers over bytes, as rwkv.cpp has it: 256 tokens, 16 channels, a head of 16. */
function v7(): Uint8Array {
  const [vocab, width, hidden, rank] = [256, 16, 24, 8]
  const vector = [width, 1, 1]
  const norm = (name: string): [string, number[]][] => [
    [`${name}.weight`, [width]],
    [`${name}.bias`, [width]],
  ]
  const block = (layer: number): [string, number[]][] => {
    const own: [string, number[]][] = [
      ...norm('ln1'),
      ...norm('ln2'),
      ['att.x_rwkvag', [width, 1, 6]],
      ...['w', 'a', ...(layer > 0 ? ['v'] : []), 'g'].flatMap((name): [string, number[]][] => [
        ...(name === 'g' ? [] : [[`att.${name}0`, vector] as [string, number[]]]),
        [`att.${name}1`, [width, rank]],
        [`att.${name}2`, [rank, width]],
      ]),
      ['att.k_k', vector],
      ['att.k_a', vector],
      ['att.r_k', [width, 1]],
      ...['receptance', 'key', 'value', 'output'].map((name): [string, number[]] => [
        `att.${name}.weight`,
        [width, width],
      ]),
      ...norm('att.ln_x'),
      ['ffn.x_k', vector],
      ['ffn.key.weight', [width, hidden]],
      ['ffn.value.weight', [hidden, width]],
    ]
    return own.map(([name, dims]) => [`blocks.${layer}.${name}`, dims])
  }
  const tensors: [string, number[]][] = [
    ['emb.weight', [width, vocab]],
    ...norm('blocks.0.ln0'),
    ...block(0),
    ...block(1),
    ...norm('ln_out'),
    ['head.weight', [width, vocab]],
  ]
  const u32 = (...numbers: number[]) => new Uint8Array(Uint32Array.from(numbers).buffer)
  const parts = tensors.flatMap(([name, dims], position) => {
    const values = Float32Array.from(
      { length: dims.reduce((product, dim) => product * dim) },
      (_, i) => (((i * 37 + position * 11) % 101) - 50) / 64,
    )
    return [u32(dims.length, name.length, 0, ...dims), Buffer.from(name), new Uint8Array(values.buffer)]
  })
  return Buffer.concat([u32(0x67676d66, 101, vocab, width, 2, 0), ...parts])
}

const formats: readonly FileFormat[] = ['pth', 'safetensors', 'gguf', 'bin']

describe('convert', async () => {
  const directory = await temporaryDirectory()
  const input = join(directory, 'in.bin')
  const bytesIn = v7().length
  let run: string

  beforeAll(async () => {
    await writeFile(input, v7())
    run = await trainTiny(directory)
  })

  const logits = async (path: string) => {
    await using model = await Model.load(path, { threads: 1 })
    await using session = model.createSession()
    return await session.eval([72, 101, 108, 108, 111])
  }

  it('from format to format: the same logits, and at the end the same file', async () => {
    const expected = await logits(input)
    let from = input
    for (const [index, to] of [...formats, ...formats].entries()) {
      const path = join(directory, `${index}.${to}`)
      const seen: Progress[] = []
      const made = await convert(from, path, { onProgress: at => seen.push(at) })
      expect(made).toMatchObject({ to, fromType: 'FP32', toType: 'FP32', changed: 0 })
      expect(made.bytesOut).toBe((await stat(path)).size)
      expect(seen.at(-1)?.done).toBe(seen.at(-1)?.total)
      expect(await logits(path)).toEqual(expected)
      from = path
    }
    // Only the order of the tensors is ours and not that of the input.
    const first = await readFile(join(directory, '3.bin'))
    expect(first.length).toBe(bytesIn)
    expect((await readFile(from)).equals(first)).toBe(true)
  })

  it('the vocabulary of bytes is in a GGUF', async () => {
    const path = join(directory, 'bytes.gguf')
    await convert(input, path)
    const text = await readFile(path, 'latin1')
    expect(text).toContain('tokenizer.ggml.model')
    expect(text).toContain('\\xff')
  })

  it('what is rounded is counted, and no extension is needed where the format is named', async () => {
    const path = join(directory, 'plain')
    const made = await convert(input, path, { to: 'pth', dataType: 'BF16' })
    expect(made).toMatchObject({ from: 'bin', to: 'pth', fromType: 'FP32', toType: 'BF16' })
    // All of these numbers are 64ths below one: seven bits hold them.
    expect(made.changed).toBe(0)
    expect(made.bytesOut).toBeLessThan(bytesIn)
    const trained = await convert(run, join(directory, 'trained.bin'), { dataType: 'FP16' })
    expect(trained.changed).toBeGreaterThan(0)
  })

  it('an abort leaves no output, and what was there before', async () => {
    const alone = join(directory, 'alone')
    await mkdir(alone)
    const target = join(alone, 'out.pth')
    const signal = AbortSignal.abort(new Error('enough'))
    await expect(convert(input, target, { signal })).rejects.toBe(signal.reason)
    expect(await readdir(alone)).toEqual([])
    await writeFile(target, 'old')
    const failing = { onProgress: () => Promise.reject(new Error('enough')) }
    await expect(convert(input, target, failing)).rejects.toThrow('enough')
  })

  const refused: [what: string, to: string, options: ConvertOptions, code: string, says: string][] = [
    ['a name without a format', 'never', {}, 'INVALID_OPTION', 'ends with .bin, .pth, .safetensors or .gguf'],
    [
      'a type that a format lacks',
      'never.bin',
      { dataType: 'BF16' },
      'INVALID_OPTION',
      'it must be FP32 or FP16',
    ],
    ['a directory that is not there', 'none/never.pth', {}, 'IO', 'create it first'],
  ]

  it.each(refused)('%s is refused, here and on the command line', async (_, to, options, code, says) => {
    const path = join(directory, to)
    const error = await convert(input, path, options).catch(error => error)
    expect(error).toBeInstanceOf(RwkvError)
    expect(error.code).toBe(code)
    expect(error.message).toContain(says)
    const flags = options.dataType ? ['--data-type', options.dataType] : []
    const cli = await rwkv('convert', input, path, ...flags)
    expect(cli).toMatchObject({ code: code === 'INVALID_OPTION' ? 2 : 1, out: '' })
    expect(cli.err).toContain(says)
    expect((await readdir(directory)).filter(name => name.includes('never'))).toEqual([])
  })

  it('the input is not overwritten, and RWKV-4 has no GGUF', async () => {
    const link = join(directory, 'link.pth')
    if (process.platform !== 'win32') await symlink(input, link)
    for (const same of process.platform === 'win32' ? [input] : [input, link]) {
      await expect(convert(input, same)).rejects.toMatchObject({ code: 'INVALID_OPTION' })
    }
    expect((await readFile(input)).equals(v7())).toBe(true)
    await expect(convert(join(directory, 'none.pth'), join(directory, 'x.bin'))).rejects.toMatchObject({
      code: 'IO',
    })
    const v4 = await convert(run, join(directory, 'v4.gguf')).catch(error => error)
    expect(v4).toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringContaining('llama.cpp cannot run'),
    })
  })

  describe('rwkv convert', () => {
    it('sums up what was done, and says what to run next', async () => {
      const path = join(run, 'model.pth')
      const { code, out, err } = await rwkv('convert', run, path)
      expect({ code, err }).toEqual({ code: 0, err: '' })
      const [line, next] = out.split('\n')
      expect(line).toMatch(/^run FP32 [\d.]+ kB → pth FP32 [\d.]+ kB, \d+\.\d s; 42 tensors, /)
      expect(next).toBe(`  rwkv generate ${path}`)
    })

    it('--json: one object', async () => {
      const output = join(directory, 'model')
      const words = ['convert', input, output, '--to', 'safetensors', '--data-type', 'FP16', '--json']
      const { code, out } = await rwkv(...words)
      expect(code).toBe(0)
      const { seconds, tensors, bytesOut, ...made } = JSON.parse(out)
      const types = { fromType: 'FP32', toType: 'FP16', bytesIn, changed: 0 }
      expect(made).toEqual({ input, output, from: 'bin', to: 'safetensors', ...types })
      expect(seconds).toBeGreaterThan(0)
      expect(bytesOut).toBe((await stat(output)).size)
      const { out: help } = await rwkv('convert', '--help')
      expect(help).toContain('rwkv convert [options] <IN> <OUT>')
    })
  })
})
