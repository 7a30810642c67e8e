import { spawn } from 'node:child_process'
import { open, readdir, stat } from 'node:fs/promises'
import { constants } from 'node:os'
import { join } from 'node:path'
import { beforeAll, describe, expect, it, vi } from 'vitest'
import { heedSignals } from '../src/cli/interrupt.js'
import { main, rwkv } from './cli.js'
import { temporaryDirectory, trainTiny, writeText } from './tiny.js'

const full = 'rwkv: cannot write to standard output (no space left on device)'

/** Runs the command line with its standard output, or both outputs, on a disk that is full. */
async function onFullDisk(
  both: boolean,
  ...args: (string | number)[]
): Promise<{ code: unknown; err: string }> {
  const disk = await open('/dev/full', 'w')
  try {
    const stdio = ['ignore', disk.fd, both ? disk.fd : 'pipe'] as const
    const child = spawn(process.execPath, [main, ...args.map(String)], { stdio: [...stdio] })
    let err = ''
    child.stderr?.setEncoding('utf8').on('data', chunk => {
      err += chunk
    })
    const code = await new Promise(resolve => child.on('close', resolve))
    return { code, err }
  } finally {
    await disk.close()
  }
}

/** Runs the command line, does something once `sign` was printed, and returns how it ended. */
async function once(
  sign: string,
  act: (child: ReturnType<typeof spawn>) => unknown,
  ...args: (string | number)[]
): Promise<{ code: unknown; out: string; err: string }> {
  const child = spawn(process.execPath, [main, ...args.map(String)])
  let [out, err, done] = ['', '', false]
  child.stdout.setEncoding('utf8').on('data', chunk => {
    out += chunk
    if (!done && out.includes(sign)) {
      done = true
      act(child)
    }
  })
  child.stderr.setEncoding('utf8').on('data', chunk => {
    err += chunk
  })
  const code = await new Promise(resolve =>
    // A shell's way to tell of a signal.
    child.on('close', (code, signal) => resolve(signal ? 128 + constants.signals[signal] : code)),
  )
  return { code, out, err }
}

describe('standard output that cannot be written', async () => {
  const directory = await temporaryDirectory()
  let data: string
  let run: string

  beforeAll(async () => {
    data = await writeText(directory)
    run = await trainTiny(directory, { maxSteps: 2 })
  })

  /** A training that lasts until it is stopped. */
  const endless = (out: string) => [
    ...['train', '--data', data, '--out', out, '--json', '--n-layer', 1, '--n-embd', 32],
    ...['--max-steps', 1_000_000, '--warmup-steps', 1, '--eval-interval', 0, '--checkpoint-interval', 0],
  ]

  const verbs = (): (string | number)[][] => [
    ['--version'],
    ['help', 'train'],
    ['info', run],
    ['eval', run, '--data', data],
    ['generate', run, '--max-tokens', 3],
    ['report', run],
    ['quantize', run, join(directory, 'small.bin'), 'Q4_0'],
    ['bench', run, '--decode', 2, '--prompt', 2, '--sessions', 2, '--seconds', 0],
  ]

  it.skipIf(process.platform !== 'linux')(
    'full disk: every verb says so in one line and exits with 1',
    async () => {
      for (const args of verbs()) {
        const verb = args.join(' ')
        expect(await onFullDisk(false, ...args), verb).toEqual({ code: 1, err: `${full}\n` })
        // Also if nobody can be told.
        expect(await onFullDisk(true, ...args), verb).toEqual({ code: 1, err: '' })
        if (args.length === 1 || args[0] === 'help') continue
        expect(await onFullDisk(false, ...args, '--json'), verb).toEqual({ code: 1, err: `${full}\n` })
      }
      // A mistake is told on standard error, if its object cannot be.
      const mistake = await onFullDisk(false, 'info', 'none', '--json')
      expect(mistake).toEqual({ code: 1, err: expect.stringMatching(/^rwkv: .*none.*\n$/) })
    },
  )

  it.skipIf(process.platform === 'win32')('a write that is cut short is one that failed', async () => {
    // A limit on the size of files is to the program what the end of a disk is: there is room for some of the
    // text.
    const limited = 'ulimit -f 1; exec "$0" "$@" > "$OUT"'
    const env = { ...process.env, OUT: join(directory, 'short.txt') }
    const child = spawn('bash', ['-c', limited, process.execPath, main, 'help', 'train'], { env })
    let err = ''
    child.stderr.setEncoding('utf8').on('data', chunk => {
      err += chunk
    })
    expect(await new Promise(resolve => child.on('close', resolve))).toBe(1)
    expect(err).toBe('rwkv: cannot write to standard output (file too large)\n')
    expect((await stat(env.OUT)).size).toBeGreaterThan(0)
  })

  it.skipIf(process.platform !== 'linux')(
    'full disk: training saves what it has and says how to go on',
    async () => {
      const out = join(directory, 'full')
      const { code, err } = await onFullDisk(false, ...endless(out))
      expect(code).toBe(1)
      expect(err).toBe(`${full}: saved checkpoint-0; go on with rwkv train --resume ${out}\n`)
      const goOn = ['train', '--resume', out, '--max-steps', 2]
      const done = await onFullDisk(false, ...goOn)
      expect(done).toEqual({ code: 1, err: expect.stringContaining('saved checkpoint-') })
      expect((await rwkv(...goOn)).code).toBe(0)
      const complete = `${full}: all 2 steps are done: ${join(out, 'model.bin')}\n`
      expect(await onFullDisk(false, ...goOn)).toEqual({ code: 1, err: complete })
    },
  )

  it('closed pipe: training saves what it has and says how to go on', async () => {
    const out = join(directory, 'pipe')
    const { code, err } = await once('"step":5,', child => child.stdout?.destroy(), ...endless(out))
    expect(code).toBe(1)
    const [, step = 0] = /^rwkv: .*broken pipe\): saved checkpoint-(\d+); go on with .*\n$/.exec(err) ?? []
    expect(Number(step), err).toBeGreaterThanOrEqual(5)
    expect(await readdir(out)).toContain(`checkpoint-${step}`)
  })

  it('closed pipe: a reader that has seen enough of a text is no error', async () => {
    const endless = ['generate', run, '--prompt', 'the red', '--max-tokens', 1e9]
    const { code, err } = await once('the red', child => child.stdout?.destroy(), ...endless)
    expect({ code, err }).toEqual({ code: 0, err: '' })
  })

  it.skipIf(process.platform === 'win32').each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)('%s: training saves what it has, and exits with %i', async (signal, expected) => {
    const out = join(directory, signal)
    const ended = await once('"event":"step"', child => child.kill(signal), ...endless(out))
    expect(ended).toMatchObject({ code: expected, err: '' })
    const last = JSON.parse(ended.out.trim().split('\n').at(-1) ?? '')
    expect(last).toMatchObject({ event: 'interrupted', resume: out })
    expect(await readdir(out)).toContain(`checkpoint-${last.steps}`)
    const written = await once(
      'the',
      child => child.kill(signal),
      'generate',
      run,
      '--max-tokens',
      1e9,
      '--prompt',
      'the',
    )
    expect(written).toMatchObject({ code: expected, err: '' })
  })

  it.skipIf(process.platform === 'win32')(
    'SIGHUP again and again: the run is saved all the same',
    async () => {
      // A terminal that is closed sends it twice, a fraction of a millisecond apart.
      let again: NodeJS.Timeout | undefined
      const act = (child: ReturnType<typeof spawn>) => {
        child.kill('SIGHUP')
        again = setInterval(() => child.kill('SIGHUP'), 1)
      }
      const out = join(directory, 'closed')
      const ended = await once('"event":"step"', act, ...endless(out)).finally(() => clearInterval(again))
      expect(ended).toMatchObject({ code: 129, err: '' })
      const last = JSON.parse(ended.out.trim().split('\n').at(-1) ?? '')
      expect(last).toMatchObject({ event: 'interrupted', resume: out })
      expect(await readdir(out)).toContain(`checkpoint-${last.steps}`)
    },
  )

  it.skipIf(process.platform === 'win32')(
    'a signal and a closed pipe together: the run is saved all the same',
    async () => {
      // Ctrl-C in `rwkv train | tee` ends both.
      const act = (child: ReturnType<typeof spawn>) => {
        child.kill('SIGINT')
        child.stdout?.destroy()
      }
      const out = join(directory, 'both')
      const { code } = await once('"step":5,', act, ...endless(out))
      // Whichever came first.
      expect([130, 1]).toContain(code)
      expect((await readdir(out)).some(name => name.startsWith('checkpoint-'))).toBe(true)
    },
  )
})

describe('signals', () => {
  const sent = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

  it.skipIf(process.platform === 'win32').each([
    [['SIGINT', 'SIGINT'], 130],
    [['SIGTERM', 'SIGINT'], 130],
    [['SIGHUP', 'SIGTERM'], 143],
    [['SIGHUP', 'SIGHUP', 'SIGHUP'], undefined],
    [['SIGINT', 'SIGHUP'], undefined],
  ] as const)('%j: the first one aborts, and the process ends at once with %s', (signals, code) => {
    const before = new Map(sent.map(signal => [signal, process.listeners(signal)]))
    const exit = vi.spyOn(process, 'exit').mockImplementation((() => {}) as () => never)
    try {
      const controller = new AbortController()
      heedSignals(controller)
      const added = (signal: (typeof sent)[number]) =>
        process.listeners(signal).filter(listener => !before.get(signal)?.includes(listener))
      for (const signal of signals) for (const listener of added(signal)) listener(signal)
      expect(controller.signal.reason).toMatchObject({ message: `stopped by ${signals[0]}` })
      expect(exit.mock.calls).toEqual(code === undefined ? [] : [[code]])
      for (const signal of sent)
        for (const listener of added(signal)) process.removeListener(signal, listener)
    } finally {
      exit.mockRestore()
    }
  })
})
