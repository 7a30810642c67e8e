import { execFile, spawn } from 'node:child_process'
import { mkdir, open, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { beforeAll, describe, expect, it } from 'vitest'
import { main, objects, rwkv } from './cli.js'
import { temporaryDirectory, text, tiny, trainTiny, writeText } from './tiny.js'

const nVocab = new Set(text).size

describe('rwkv', async () => {
  const directory = await temporaryDirectory()
  const shape = [
    '--n-layer',
    2,
    '--n-embd',
    32,
    '--ctx-len',
    32,
    '--batch-size',
    4,
    '--threads',
    1,
    '--unknown',
    'error',
  ]
  let data: string
  let run: string

  beforeAll(async () => {
    data = await writeText(directory)
    run = await trainTiny(directory)
    await writeFile(join(directory, 'empty.txt'), '')
  })

  it('train --profile: where the time of the steps went', async () => {
    const args = (out: string) => [
      'train',
      '--data',
      data,
      '--out',
      join(directory, out),
      ...shape,
      '--max-steps',
      3,
    ]
    const { code, out } = await rwkv(...args('profile'), '--profile')
    expect(code).toBe(0)
    expect(out).toMatch(/\nwhere the time of 3 steps went\n {2}\w[^\n]*%/)
    expect(out).toMatch(/\n {2}products, forward +\d+\.\d % +\S+ GFLOP\/s \(\d+ %\)\n/)
    expect(out).toMatch(/\n {2}waiting and the rest +-?\d+\.\d %\n {2}at best on \d+ threads: \S+ GFLOP/)
    const events = objects((await rwkv(...args('profile-json'), '--profile', '--json')).out)
    expect(events.at(-2)).toMatchObject({ event: 'profile', steps: 3, parts: expect.anything() })
  })

  it('train --json: one object a line, the last one sums it up', async () => {
    const out = join(directory, 'json')
    const args = ['--data', data, '--out', out, ...shape, '--max-steps', 12, '--eval-interval', 6, '--json']
    const { code, out: printed, err } = await rwkv('train', ...args)
    expect({ code, err }).toEqual({ code: 0, err: '' })
    const events = objects(printed)
    expect(events[0]).toMatchObject({
      event: 'start',
      data,
      out,
      trainTokens: Math.floor(text.length * 0.9),
      nVocab,
    })
    expect(events.filter(({ event }) => event === 'step').map(({ step }) => step)).toHaveLength(12)
    expect(events.filter(({ event }) => event === 'validation').map(({ step }) => step)).toEqual([6, 12])
    const done = events.at(-1)
    const figures = ['trainLoss', 'valLoss', 'bitsPerByte', 'best', 'kept', 'tokensPerSecond', 'seconds']
    const keys = ['event', 'steps', ...figures, 'model']
    expect(Object.keys(done)).toEqual(keys)
    expect(done).toMatchObject({ event: 'done', steps: 12, model: join(out, 'model.bin') })
    const losses = events.filter(({ event }) => event === 'validation').map(event => event.valLoss)
    expect(done.best).toEqual({ step: losses[0] < losses[1] ? 6 : 12, valLoss: Math.min(...losses) })
    expect(done.kept).toEqual(done.best)
    expect((await stat(done.model)).size).toBeGreaterThan(100_000)
    for (const key of ['trainLoss', 'valLoss', 'tokensPerSecond', 'seconds'])
      expect(done[key]).toBeGreaterThan(0)
  })

  it('train: plain lines and a chart where there is no terminal, and no escape sequences', async () => {
    const args = ['--data', data, '--out', join(directory, 'plain'), ...shape, '--max-steps', 60]
    const { code, out } = await rwkv('train', ...args)
    expect(code).toBe(0)
    expect(out).toMatch(/^step {2}1\/60 {2}loss \d\.\d{3}/m)
    expect(out).toMatch(/^step 60\/60 .* validation \d\.\d{3}/m)
    expect(out).toMatch(/┤.*─/)
    expect(out).toMatch(
      /^validation loss \d\.\d{3} \(\d\.\d{3} bits a byte\), training loss \d\.\d{3}\n.* tokens\/s in steps/m,
    )
    expect(out).toContain('report.html')
    // biome-ignore lint/suspicious/noControlCharactersInRegex: it must not be there
    expect(out).not.toMatch(/\x1b|\r/)
  })

  it('train: Ctrl-C saves, and --resume ends where a run without a break does', async () => {
    const out = join(directory, 'broken')
    // A learning rate that does not know how long the run will be.
    const rates = ['--warmup-steps', 1, '--learning-rate', 1e-3, '--final-learning-rate', 1e-3]
    const options = ['--data', data, ...rates, '--eval-interval', 2, ...shape, '--json']
    // Long enough to be interrupted on any machine.
    const words = ['train', '--out', out, ...options, '--max-steps', 100000].map(String)
    const child = spawn(process.execPath, [main, ...words])
    let printed = ''
    const code = await new Promise(resolve => {
      child.stdout.setEncoding('utf8').on('data', chunk => {
        if (!printed.includes('"event":"step"') && chunk.includes('"event":"step"')) child.kill('SIGINT')
        printed += chunk
      })
      child.on('exit', resolve)
    })
    expect(code).toBe(130)
    const last = objects(printed).at(-1)
    expect(last).toMatchObject({ event: 'interrupted', resume: out })
    const args = ['train', '--resume', out, '--max-steps', last.steps + 3, '--json']
    const resumed = await rwkv(...args)
    expect(objects(resumed.out)[0]).toMatchObject({ event: 'start', steps: last.steps })
    expect(objects(resumed.out).at(-1)).toMatchObject({ event: 'done', steps: last.steps + 3 })
    const straight = join(directory, 'straight')
    const ended = await rwkv('train', '--out', straight, ...options, '--max-steps', last.steps + 3)
    expect(ended.code).toBe(0)
    const model = (run: string) => readFile(join(run, 'model.bin'))
    expect((await model(out)).equals(await model(straight))).toBe(true)
    // But for how long it took.
    const log = async (run: string) => {
      const lines = objects(await readFile(join(run, 'log.jsonl'), 'utf8'))
      return lines.map(({ seconds: _, clock: __, tokensPerSecond: ___, ...line }) => line)
    }
    expect(await log(out)).toEqual(await log(straight))
    // Again, as the command that began it with one word more: nothing is left to do.
    const again = ['train', '--out', out, ...options, '--resume']
    expect(objects((await rwkv(...again)).out).at(-1)).toMatchObject({ event: 'done', steps: last.steps + 3 })
  })

  it('generate: the prompt and what follows; the same for the same seed', async () => {
    const args = [
      'generate',
      run,
      '--prompt',
      'the red',
      '--max-tokens',
      30,
      '--temperature',
      0.5,
      '--seed',
      3,
    ]
    const [one, other] = [await rwkv(...args), await rwkv(...args, '--json')]
    expect(one).toMatchObject({ code: 0, err: '' })
    const [object] = objects(other.out)
    expect(object).toMatchObject({ prompt: 'the red', tokens: 30 })
    expect(one.out).toBe(`the red${object.text}\n`)
    expect((await rwkv(...args, '--stop', ' ')).out.split(' ')).toHaveLength(2)
  })

  it('generate --json: counts the tokens that were written, not those of the text', async () => {
    // Bytes that are no text come out as U+FFFD, which is three of them.
    const bytes = join(directory, 'bytes')
    await writeFile(bytes, Buffer.from(Array.from({ length: 4000 }, (_, i) => 128 + ((i * 7) % 64))))
    const out = await trainTiny(directory, {
      data: bytes,
      out: join(directory, 'byte-run'),
      tokenizer: 'byte',
      maxSteps: 1,
    })
    const [object] = objects((await rwkv('generate', out, '--max-tokens', 100, '--seed', 1, '--json')).out)
    expect(object.tokens).toBe(100)
    expect(Buffer.byteLength(object.text)).toBeGreaterThan(100)
    // A stop is part of nothing.
    const stopped = ['generate', run, '--prompt', 'the ', '--temperature', 0, '--stop', ' ', '--json']
    const [ended] = objects((await rwkv(...stopped)).out)
    expect(ended.tokens).toBe(ended.text.length)
  })

  it('eval --json: exactly four numbers', async () => {
    const { code, out } = await rwkv('eval', run, '--data', data, '--json')
    expect(code).toBe(0)
    const [object] = objects(out)
    expect(Object.keys(object)).toEqual(['tokens', 'loss', 'perplexity', 'bitsPerByte'])
    expect(object.tokens).toBe(text.length - 1)
    expect(object.perplexity).toBeCloseTo(Math.exp(object.loss))
    const windows = await rwkv('eval', run, '--data', data, '--ctx-len', tiny.ctxLen, '--json')
    expect(objects(windows.out)[0].loss).toBeGreaterThan(object.loss)
  })

  it.skipIf(process.platform === 'win32')('eval: Ctrl-C is no fault', async () => {
    // A pipe opens for writing once the program, which heeds Ctrl-C by then, opens it for reading.
    const pipe = join(directory, 'pipe')
    await promisify(execFile)('mkfifo', [pipe])
    for (const [json, says] of [
      [[], 'stopped\n'],
      [['--json'], '{"event":"interrupted"}\n'],
    ] as const) {
      const child = spawn(process.execPath, [main, 'eval', run, '--data', pipe, ...json])
      let printed = ''
      for (const stream of [child.stdout, child.stderr])
        stream.setEncoding('utf8').on('data', chunk => {
          printed += chunk
        })
      const closed = new Promise(resolve => child.on('close', resolve))
      // The writer has nothing to say and stays: a reader who waits for it stops all the same.
      const writer = await open(pipe, 'w')
      child.kill('SIGINT')
      expect(await closed).toBe(130)
      await writer.close()
      expect(printed).toBe(says)
    }
  })

  it('info: shape, size and how it runs', async () => {
    const [object] = objects((await rwkv('info', run, '--threads', 1, '--json')).out)
    const shape = { version: 'v4', nVocab, nEmbd: 32, nLayer: 2, nFfn: 128 }
    expect(object).toMatchObject({ ...shape, format: 'FP32', tokenizer: 'character', threads: 1 })
    expect(object.fileSize).toBeGreaterThan(4 * object.parameters)
    const { out } = await rwkv('info', join(run, 'model.bin'))
    expect(out).toContain('n_layer 2, n_embd 32')
    const isa = process.env.RWKV_ISA
    process.env.RWKV_ISA = 'scalar'
    try {
      const slow =
        /^runs on +scalar, \d+ threads \(no vector instructions, many times slower: RWKV_ISA asks for it\)$/m
      expect((await rwkv('info', run)).out).toMatch(slow)
    } finally {
      if (isa === undefined) delete process.env.RWKV_ISA
      else process.env.RWKV_ISA = isa
    }
  })

  const figures = [
    'rounds',
    'firstTokenSeconds',
    'decodeTokensPerSecond',
    'prefillTokensPerSecond',
    'batchTokensPerSecond',
    'batchGain',
    'bytesPerToken',
    'readBandwidth',
    'availableReadBandwidth',
    'readBandwidthShare',
  ]

  it('bench --json: what was measured, and on what', async () => {
    const lengths = ['--decode', 2, '--prompt', 10, '--sessions', 3, '--seconds', 0]
    const args = ['bench', run, ...lengths, '--threads', 2]
    const { code, out, err } = await rwkv(...args, '--json')
    expect({ code, err }).toEqual({ code: 0, err: '' })
    const [object] = objects(out)
    const about = ['model', 'format', 'fileSize', 'isa', 'threads', 'loadSeconds']
    expect(Object.keys(object)).toEqual([...about, ...figures])
    expect(object).toMatchObject({ model: run, format: 'FP32', threads: 2, rounds: 3 })
    for (const figure of ['loadSeconds', ...figures]) expect(object[figure], figure).toBeGreaterThan(0)
    expect(object.bytesPerToken).toBeLessThan(object.fileSize)
    const table = await rwkv(...args)
    expect(table.code).toBe(0)
    expect(table.out).toMatch(/^prefill +[\d.,]+ tokens\/s {2}10 tokens$/m)
    expect(table.out).toMatch(/^batch +[\d.,]+ tokens\/s {2}3 sessions, [\d.]+ times one$/m)
    expect(table.out).toMatch(/^bandwidth .*\/s of .*\/s: \d+ %$/m)
  })

  it('helps, and knows its version', async () => {
    const { version } = JSON.parse(await readFile(join(import.meta.dirname, '../package.json'), 'utf8'))
    expect(await rwkv('--version')).toEqual({ code: 0, out: `${version}\n`, err: '' })
    for (const args of [[], ['help'], ['--help']])
      expect((await rwkv(...args)).out).toContain('rwkv train --data')
    for (const args of [
      ['help', 'train'],
      ['train', '--help'],
    ])
      expect((await rwkv(...args)).out).toContain('--n-layer <N>')
  })

  describe('answers a mistake with one line that names it', () => {
    const cases: [args: (string | number)[], code: number, says: string | RegExp][] = [
      [['trian'], 2, /no command "trian"\n {2}did you mean train\?/],
      [['--n-layer', 3], 2, 'a command comes first'],
      [['train'], 2, '--data is missing'],
      [
        ['train', '--data', 'DATA', '--n-layers', 3],
        2,
        /unknown option --n-layers\n {2}did you mean --n-layer\?/,
      ],
      [
        ['train', '--data', 'DATA', '--n-layers=3'],
        2,
        /unknown option --n-layers\n {2}did you mean --n-layer\?/,
      ],
      [['train', '--data', 'DATA', '-x'], 2, 'unknown option -x'],
      [['help', 'trian'], 2, /no command "trian"\n {2}did you mean train\?/],
      [['train', '--data', 'DATA', 'more'], 2, 'unexpected argument "more"'],
      [['train', '--data', 'DATA', '--seed'], 2, '--seed needs a value'],
      [['train', '--data', 'DATA', '--json=yes'], 2, '--json takes no value'],
      [['train', '--data', 'DATA', '--n-embd', 'wide'], 2, '--n-embd is "wide"; it must be a number'],
      [['train', '--data', 'DATA', '--n-embd', ''], 2, '--n-embd is ""'],
      [['train', '--data', 'DATA', '--max-steps', 1.5], 2, '--max-steps is 1.5; it must be a whole number'],
      [['train', '--data', 'DATA', '--out', 'OUT', '--batch-size', -1], 2, '--batch-size is -1'],
      [['train', '--data', 'DATA', '--out', 'OUT', '--n-layer', 0], 2, '--n-layer is 0'],
      [
        ['train', '--data', 'DATA', '--out', 'OUT', '--learning-rate', 1e9],
        2,
        '--learning-rate is 1000000000',
      ],
      [
        ['train', '--data', 'DATA', '--out', 'OUT', '--warmup-steps', 9999],
        2,
        /--warmup-steps is 9999; .*--max-steps/,
      ],
      [['train', '--data', 'DATA', '--out', 'OUT', '--tokenizer', 'words'], 2, '--tokenizer is "words"'],
      [['train', '--data', 'DATA', '--out', 'OUT', '--ctx-len', 20000], 1, '--ctx-len of at most'],
      [['train', '--data', 'none.txt', '--out', 'OUT'], 1, 'none.txt'],
      [['train', '--data', 'DATA', '--out', 'RUN'], 1, '--resume'],
      [['train', '--resume', 'none'], 1, 'no run to go on with'],
      [['train', '--resume', 'RUN', '--n-embd', 64], 2, '--n-embd cannot change'],
      [['train', '--resume', 'RUN', '--out', 'OUT'], 2, 'different directories'],
      [['train', '--resume', '--threads', 1], 2, '--resume needs the directory'],
      [['train', '--resume', ''], 2, '--resume is empty'],
      [['eval'], 2, 'MODEL is missing'],
      [['eval', 'RUN'], 2, '--data is missing'],
      [['eval', 'RUN', '--data', 'DATA', '--ctx-len', 0], 2, '--ctx-len is 0'],
      [['eval', 'RUN', '--data', 'EMPTY'], 1, /empty.txt: a text of 0 tokens; it takes 2/],
      [['generate', 'none', '--prompt', 'x'], 1, 'none'],
      [['generate', 'RUN', '--prompt', 'Ω'], 1, "character 'Ω'"],
      [['generate', 'RUN', '--temperature', -1], 2, '--temperature is -1'],
      [['generate', 'RUN', '--top-p', 2], 2, '--top-p is 2'],
      [['info', 'RUN', '--threads', 0], 2, '--threads is 0'],
      [['info', 'DATA'], 1, 'text.txt'],
      [['bench'], 2, 'MODEL is missing'],
      [['bench', 'none'], 1, 'none'],
      [['bench', 'RUN', '--decode', 0], 2, '--decode is 0'],
      [['bench', 'RUN', '--prompt', 1e9], 2, '--prompt is 1000000000'],
      [['bench', 'RUN', '--sessions', -1], 2, '--sessions is -1'],
      [['bench', 'RUN', '--seconds', -1], 2, '--seconds is -1'],
    ]
    it.each(cases)('%j', async (words, code, says) => {
      const places: Record<string, string> = {
        DATA: data,
        RUN: run,
        OUT: join(directory, 'out'),
        EMPTY: join(directory, 'empty.txt'),
      }
      const args = words.map(word => places[word] ?? word)
      const { out, err, ...result } = await rwkv(...args)
      expect(result.code).toBe(code)
      expect(out).toBe('')
      if (typeof says === 'string') expect(err).toContain(says)
      else expect(err).toMatch(says)
      expect(err.trimEnd().split('\n').length).toBeLessThanOrEqual(2)
      expect(err).not.toMatch(/\n\s+at /)
      await expect(stat(join(directory, 'out'))).rejects.toMatchObject({ code: 'ENOENT' })
    })
  })

  it('with --json an error is an object too', async () => {
    const { code, out, err } = await rwkv('eval', join(directory, 'none'), '--data', data, '--json')
    expect({ code, err }).toEqual({ code: 1, err: '' })
    expect(objects(out)).toEqual([{ event: 'error', code: 'IO', message: expect.stringContaining('none') }])
    const usage = await rwkv('train', '--json')
    expect(usage.code).toBe(2)
    expect(objects(usage.out)).toEqual([{ event: 'error', code: 'USAGE', message: '--data is missing' }])
  })

  it('refuses damaged model files and says where the damage is', async () => {
    const good = await readFile(join(run, 'model.bin'))
    const altered = (at: number, value: number) => {
      const bytes = Buffer.from(good)
      bytes.writeUInt32LE(value, at)
      return bytes
    }
    const cases: [string, Uint8Array][] = [
      ['empty', Buffer.alloc(0)],
      ['a short header', good.subarray(0, 20)],
      ['another magic', altered(0, 0)],
      ['an unknown version', altered(4, 102)],
      ['too few layers', altered(16, 1)],
      ['too many layers', altered(16, 3)],
      ['too wide', altered(12, 64)],
      ['an absurd name length', altered(28, 0xffff_ffff)],
      ['absurd dims', altered(36, 0xffff_ffff)],
      ['truncated', good.subarray(0, good.length - 1)],
      ['trailing bytes', Buffer.concat([good, Buffer.alloc(3)])],
    ]
    await mkdir(join(directory, 'damaged'))
    const path = join(directory, 'damaged', 'model.bin')
    for (const [name, bytes] of cases) {
      await writeFile(path, bytes)
      const { code, out } = await rwkv('info', path, '--json')
      expect(code, name).toBe(1)
      const [error] = objects(out)
      expect(error, name).toMatchObject({
        event: 'error',
        code: expect.stringMatching(/^(MODEL_FILE|UNSUPPORTED)$/),
      })
      expect(error.message, name).toContain(path)
    }
  })
})
