import { type ChildProcess, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdir, open, readdir, readFile, readlink, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { Model, type Progress, type QuantizedFormat, quantize, RwkvError } from '../src/index.js'
import { main, rwkv } from './cli.js'
import { temporaryDirectory, trainTiny, writeText } from './tiny.js'

/** Whether a process has a file open in `directory`. */
async function isWriting(process_: ChildProcess, directory: string): Promise<boolean> {
  if (process.platform !== 'linux') return (await readdir(directory)).length > 0
  const open = `/proc/${process_.pid}/fd`
  const files = await readdir(open).catch(() => [])
  const paths = await Promise.all(files.map(file => readlink(join(open, file)).catch(() => '')))
  return paths.some(path => path.startsWith(directory))
}

interface Tensor {
  name: string
  dims: number[]
  data: Uint8Array
  dataType?: number
}

const u32 = (...numbers: number[]) => new Uint8Array(Uint32Array.from(numbers).buffer)

/** A file of rwkv.cpp's format; 0 stands for FP32. */
function modelFile(tensors: Tensor[], dataType = 0): Uint8Array {
  const parts = tensors.flatMap(({ name, dims, data, dataType = 0 }) => [
    u32(dims.length, name.length, dataType, ...dims),
    Buffer.from(name),
    data,
  ])
  return Buffer.concat([u32(0x67676d66, 101, 3, 64, 1, dataType), ...parts])
}

function tensor(name: string, ...dims: number[]): Tensor {
  const weights = Float32Array.from(
    { length: dims.reduce((product, dim) => product * dim) },
    (_, i) => (((i * i * 37) % 101) - 50) / 64,
  )
  return { name, dims, data: new Uint8Array(weights.buffer) }
}

const key = 'blocks.0.att.key.weight'
const three = modelFile([tensor('emb.weight', 64, 3), tensor(key, 64, 40), tensor('ln_out.weight', 64)])

/** The tensors that a model of one layer has besides, each of one number: they are copied as they are. */
const [mix, norms] = [['time_mix_k', 'time_mix_r'], ['ln0', 'ln1', 'ln2'].map(name => `blocks.0.${name}`)]
const names = [
  ...norms.flatMap(norm => [`${norm}.weight`, `${norm}.bias`]),
  ...['time_decay', 'time_first', 'time_mix_v', ...mix].map(name => `blocks.0.att.${name}`),
  ...['value.weight', 'receptance.weight', 'output.weight'].map(name => `blocks.0.att.${name}`),
  ...['key.weight', 'receptance.weight', 'value.weight', ...mix].map(name => `blocks.0.ffn.${name}`),
  ...['ln_out.bias', 'head.weight'],
]
const others = modelFile(names.map(name => tensor(name, 1))).subarray(24)
const small = Buffer.concat([three, others])
/** A model of one layer with these tensors. */
const whole = (tensors: Tensor[], dataType = 0) =>
  Buffer.concat([
    modelFile([...tensors, tensor('emb.weight', 64, 3), tensor('ln_out.weight', 64)], dataType),
    others,
  ])
const tensors = 3 + names.length

/**
 * SHA-256 of what rwkv.cpp's `rwkv_quantize_model_file` made of {@link three}, called through Python's
 * ctypes.
 */
const hashes: Record<QuantizedFormat, string> = {
  Q4_0: 'e46f8d1b9dd4d943e2eb75604451889a75964405b90ce6918fa976ca7d1dc1a4',
  Q4_1: '305e76649fc956f53d9f4d028cea728a6d6418d25fb204a8135681ac4e184186',
  Q5_0: 'f6aa52d85cb5baa255e475a6012aab4d3a0d7c931e16fc3500a0867731927e13',
  Q5_1: 'b97a460d182bf6ffaa03f8bb7b40d77d413a15849d14c2ef79fce32bfbca1dfe',
  Q8_0: 'cffa98164649b5f0e9d8ae352529250dbad2eb828c56bc00ef1d09224fe67ffc',
}
const formats = Object.keys(hashes) as QuantizedFormat[]

/** The hash of what was made of {@link three}, once the others are found to be as they were. */
async function sha256(path: string): Promise<string> {
  const bytes = await readFile(path)
  const end = bytes.length - others.length
  expect(bytes.subarray(end).equals(others)).toBe(true)
  return createHash('sha256').update(bytes.subarray(0, end)).digest('hex')
}

describe('quantize', async () => {
  const directory = await temporaryDirectory()
  const [input, output] = [join(directory, 'in.bin'), join(directory, 'out.bin')]
  const large = join(directory, 'large', 'large.bin')
  let run: string

  beforeAll(async () => {
    await writeFile(input, small)
    run = await trainTiny(directory)
    // A matrix of 1 GB, nearly all of it a hole in the file: enough that it can be stopped.
    await mkdir(join(directory, 'large'))
    const rows = 4_000_000
    const name = Buffer.from(key)
    const head = Buffer.concat([whole([]), u32(2, name.length, 0, 64, rows), name])
    const file = await open(large, 'w')
    await file.write(head)
    await file.truncate(head.length + rows * 64 * 4)
    await file.close()
  })

  it.each(formats)('%s: the bytes that rwkv.cpp makes, and what was done', async format => {
    const seen: Progress[] = []
    const made = await quantize(input, output, format, { threads: 2, onProgress: at => seen.push(at) })
    expect(await sha256(output)).toBe(hashes[format])
    const [bytesIn, bytesOut] = [small.length, (await stat(output)).size]
    expect(made).toEqual({ from: 'FP32', to: format, bytesIn, bytesOut, tensors, quantized: 1 })
    expect(seen.at(-1)).toEqual({ done: bytesIn, total: bytesIn })
  })

  it('a trained model that is quantized predicts nearly as well, and is as much smaller as it should be', async () => {
    const data = await writeText(directory)
    const loss = async (path: string) => {
      await using model = await Model.load(path, { threads: 2 })
      return { format: model.format, loss: (await model.evaluate(data)).loss }
    }
    const whole = await loss(run)
    const bits = { Q4_0: 4.5, Q4_1: 5, Q5_0: 5.5, Q5_1: 6, Q8_0: 8.5 }
    for (const format of formats) {
      const path = join(run, `model-${format}.bin`)
      const { bytesIn, bytesOut } = await quantize(run, path, format)
      // In each of two blocks: four matrices of 32 × 32 weights, one more, and two of four times as many.
      const weights = 2 * (4 + 4 + 1 + 4) * 32 * 32
      expect(bytesIn - bytesOut).toBe((weights * (32 - bits[format])) / 8)
      const quantized = await loss(path)
      expect(quantized.format).toBe(format)
      expect(quantized.loss).not.toBe(whole.loss)
      expect(Math.abs(quantized.loss - whole.loss)).toBeLessThan(format === 'Q8_0' ? 0.02 : 0.3)
    }
  })

  it('an abort leaves no output, and what was there before', async () => {
    const target = join(directory, 'large', 'out.bin')
    for (const old of [undefined, 'old']) {
      if (old) await writeFile(target, old)
      const controller = new AbortController()
      const reason = new Error('enough')
      const onProgress = () => controller.abort(reason)
      const work = quantize(large, target, 'Q5_1', { threads: 1, signal: controller.signal, onProgress })
      await expect(work).rejects.toBe(reason)
      expect(await readdir(join(directory, 'large'))).toEqual(old ? ['large.bin', 'out.bin'] : ['large.bin'])
      if (old) expect(await readFile(target, 'utf8')).toBe(old)
    }
    const signal = AbortSignal.abort()
    await expect(quantize(input, join(directory, 'never.bin'), 'Q4_0', { signal })).rejects.toBe(
      signal.reason,
    )
    await expect(stat(join(directory, 'never.bin'))).rejects.toMatchObject({ code: 'ENOENT' })
  })

  const infinite = tensor(key, 64, 4)
  new DataView(infinite.data.buffer).setFloat32(4 * 40, Number.POSITIVE_INFINITY, true)
  const refused: [what: string, file: Uint8Array, format: string, code: string, says: string][] = [
    [
      'a removed format',
      small,
      'Q4_2',
      'INVALID_OPTION',
      'Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0; this one was removed',
    ],
    [
      'an unknown format',
      small,
      'Q3_K',
      'INVALID_OPTION',
      'format is Q3_K; it must be Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0',
    ],
    ['no quantized format', small, 'FP16', 'INVALID_OPTION', 'format is FP16; it must be Q4_0'],
    [
      'a file quantized before',
      whole([tensor(key, 64, 40)], 9),
      'Q4_0',
      'UNSUPPORTED',
      'quantized already, to Q8_0',
    ],
    ['rows of 48', whole([tensor(key, 48, 2)]), 'Q4_0', 'UNSUPPORTED', `"${key}" has rows of 48 weights`],
    ['an infinite weight', whole([infinite]), 'Q8_0', 'MODEL_FILE', `tensor "${key}" at byte 195`],
    ['a short file', small.subarray(0, 1000), 'Q8_0', 'MODEL_FILE', 'the file has'],
    ['a file cut between two tensors', three, 'Q8_0', 'MODEL_FILE', 'the file ended without this tensor'],
    ['a tensor there twice', modelFile([infinite, infinite]), 'Q8_0', 'MODEL_FILE', 'a second tensor'],
  ]

  it.each(refused)('%s is refused, here and on the command line', async (_, file, format, code, says) => {
    const bad = join(directory, 'bad.bin')
    const never = join(directory, 'never.bin')
    await writeFile(bad, file)
    const error = await quantize(bad, never, format as QuantizedFormat).catch(error => error)
    expect(error).toBeInstanceOf(RwkvError)
    expect(error.code).toBe(code)
    expect(error.message).toContain(says)
    const cli = await rwkv('quantize', bad, never, format)
    expect(cli).toMatchObject({ code: code === 'INVALID_OPTION' ? 2 : 1, out: '' })
    expect(cli.err).toContain(says)
    expect((await readdir(directory)).filter(name => name.includes('never'))).toEqual([])
  })

  it('the input is not overwritten, and files that are not there are named', async () => {
    await expect(quantize(input, input, 'Q4_0')).rejects.toMatchObject({ code: 'INVALID_OPTION' })
    expect(await readFile(input)).toEqual(small)
    const missing = join(directory, 'none', 'x.bin')
    for (const [from, to] of [
      [missing, output],
      [input, missing],
    ] as const) {
      await expect(quantize(from, to, 'Q4_0')).rejects.toMatchObject({
        code: 'IO',
        message: expect.stringContaining(missing),
      })
    }
    const absent = undefined as unknown as string
    for (const [name, words] of [
      ['input', [absent, output, 'Q4_0']],
      ['output', [input, absent, 'Q4_0']],
      ['format', [input, output, absent as QuantizedFormat]],
    ] as [string, Parameters<typeof quantize>][]) {
      await expect(quantize(...words)).rejects.toMatchObject({
        code: 'INVALID_OPTION',
        message: `${name} is undefined; it must be a ${name === 'format' ? 'string' : 'path'}`,
      })
    }
    await expect(quantize(input, output, 'Q4_0', { threads: 1.5 })).rejects.toMatchObject({
      code: 'INVALID_OPTION',
      message: expect.stringContaining('threads'),
    })
  })

  describe('rwkv quantize', () => {
    it('sums up what was done, and says what to run next', async () => {
      const path = join(run, 'small.bin')
      const { code, out, err } = await rwkv('quantize', run, path, 'q4_0')
      expect({ code, err }).toEqual({ code: 0, err: '' })
      const [line, next, ...rest] = out.split('\n')
      expect(line).toMatch(
        /^run FP32 \d+ kB → Q4_0 [\d.]+ kB \(\d\d %\), \d+\.\d s; 14 of 42 tensors quantized$/,
      )
      expect(next).toBe(`  rwkv generate ${path}`)
      expect(rest).toEqual([''])
      // Away from its tokenizer.
      const elsewhere = await rwkv('quantize', join(run, 'model.bin'), output, 'Q4_0')
      const tokenizers = [join(run, 'tokenizer.json'), join(directory, 'tokenizer.json')]
      expect(elsewhere.out).toContain(`\n  cp ${tokenizers.join(' ')}\n  rwkv generate ${output}\n`)
      expect((await rwkv('quantize', input, join(directory, 'plain.bin'), 'Q4_0')).out).toContain(
        '\n  rwkv info ',
      )
    })

    it('--json: one object, and the bytes that rwkv.cpp makes', async () => {
      const { code, out } = await rwkv('quantize', input, output, 'Q5_1', '--threads', '1', '--json')
      expect(code).toBe(0)
      const { seconds, ...made } = JSON.parse(out)
      const [bytesIn, bytesOut] = [small.length, (await stat(output)).size]
      const counts = { bytesIn, bytesOut, tensors, quantized: 1 }
      expect(made).toEqual({ input, output, from: 'FP32', to: 'Q5_1', ...counts })
      expect(seconds).toBeGreaterThan(0)
      expect(await sha256(output)).toBe(hashes.Q5_1)
    })

    it.skipIf(process.platform === 'win32')('Ctrl-C leaves nothing behind', async () => {
      const alone = join(directory, 'alone')
      await mkdir(alone)
      const args = ['quantize', large, join(alone, 'out.bin'), 'Q4_1', '--threads', '1']
      const child = spawn(process.execPath, [main, ...args])
      let printed = ''
      child.stdout.setEncoding('utf8').on('data', chunk => {
        printed += chunk
      })
      const exit = new Promise(resolve => child.on('exit', resolve))
      // Once the output is being written: on Linux it has no name yet, and is only to be seen among the open
      // files.
      while (!(await isWriting(child, alone))) await new Promise(resolve => setTimeout(resolve, 2))
      child.kill('SIGINT')
      expect(await exit).toBe(130)
      expect(printed).toBe(`stopped: ${join(alone, 'out.bin')} was not written\n`)
      expect(await readdir(alone)).toEqual([])
    })

    it.skipIf(process.platform !== 'linux').each(['SIGTERM', 'SIGKILL'] as const)(
      'a program that is ended by %s while it quantizes leaves nothing behind',
      async signal => {
        const alone = join(directory, signal)
        await mkdir(alone)
        const index = join(import.meta.dirname, '../dist/index.js')
        const program = `
          import { quantize } from ${JSON.stringify(index)}
          await quantize(${JSON.stringify(large)}, ${JSON.stringify(join(alone, 'out.bin'))}, 'Q4_1', { threads: 1 })`
        const child = spawn(process.execPath, ['--input-type=module', '--eval', program])
        const ended = new Promise(resolve => child.on('exit', (_, signal) => resolve(signal)))
        while (!(await isWriting(child, alone))) await new Promise(resolve => setTimeout(resolve, 2))
        child.kill(signal)
        expect(await ended).toBe(signal)
        expect(await readdir(alone)).toEqual([])
      },
    )

    it('all three words must be there', async () => {
      const err = 'rwkv: FORMAT is missing\n  rwkv quantize IN OUT FORMAT; rwkv help quantize says more\n'
      expect(await rwkv('quantize', input, output)).toMatchObject({ code: 2, err })
      const { out } = await rwkv('quantize', '--help')
      expect(out).toContain('rwkv quantize [options] <IN> <OUT> <FORMAT>')
    })
  })
})
