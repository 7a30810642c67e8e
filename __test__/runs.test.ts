import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { beforeAll, describe, expect, it } from 'vitest'
import { Model, Trainer, type TrainOptions } from '../src/index.js'
import { main, objects, rwkv } from './cli.js'
import { temporaryDirectory, text, tiny, trainTiny, writeText } from './tiny.js'

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
/** The last steps multiply the matrices by −5 or so: the loss is far above guessing, and still a number. */
const absurd = { learningRate: 0.2, weightDecay: 30, warmupSteps: 14, maxSteps: 14 } as const

/** A run of the command line that goes on by itself; `heard` waits until it has printed something. */
function start(...args: (string | number)[]) {
  const child: ChildProcess = spawn(process.execPath, [main, ...args.map(String)])
  let printed = ''
  for (const stream of [child.stdout, child.stderr])
    stream?.setEncoding('utf8').on('data', chunk => {
      printed += chunk
    })
  const ended = new Promise<number | null>(resolve => child.on('close', resolve))
  const heard = async (word: string) => {
    while (!printed.includes(word) && child.exitCode === null)
      await Promise.race([ended, new Promise(resolve => child.stdout?.once('data', resolve))])
    expect(printed).toContain(word)
  }
  return { child, ended, heard }
}

describe('a run', async () => {
  const directory = await temporaryDirectory()
  let data: string

  beforeAll(async () => {
    data = await writeText(directory)
  })

  const create = (name: string, options: Partial<TrainOptions> & { signal?: AbortSignal } = {}) =>
    Trainer.create({ ...tiny, data, out: join(directory, name), ...options })

  it('keeps the best model, and ends when its patience does', async () => {
    const [out, book] = [join(directory, 'best'), join(directory, 'two-halves.txt')]
    await writeFile(book, 'abc '.repeat(450) + 'bca '.repeat(20) + 'cd'.repeat(50))
    const args = ['--data', book, '--out', out, ...shape, '--max-steps', 200, '--learning-rate', 1e-2]
    const ending = ['--eval-interval', 5, '--patience', 2]
    const { code, out: shown } = await rwkv('train', ...args, ...ending)
    expect(code).toBe(0)
    const [, steps] =
      shown.match(/stopped after step (\d+): no better validation loss in 2 validations/) ?? []
    const [, best, loss] = shown.match(/the model of step (\d+), with a validation loss of (\d\.\d{3})/) ?? []
    expect(Number(steps)).toBe(Number(best) + 10)
    await using model = await Model.load(out)
    const val = join(directory, 'second-half.txt')
    const whole = await readFile(book, 'utf8')
    await writeFile(val, whole.slice(whole.length - Math.ceil(whole.length / 10)))
    expect((await model.evaluate(val, { ctxLen: 32 })).loss).toBeCloseTo(Number(loss), 1)
    const again = await rwkv('train', '--resume', out)
    expect(again.out).toContain('no better validation loss in 2 validations; a larger --patience goes on')
    const more = await rwkv('train', '--resume', out, '--patience', 3, '--json')
    const done = objects(more.out).at(-1)
    expect(done).toMatchObject({ event: 'done', steps: Number(best) + 15, best: { step: Number(best) } })
    expect(done.kept).toEqual(done.best)
  })

  it('does not replace what no run wrote, unless it is told to', async () => {
    const out = join(directory, 'foreign')
    await mkdir(out)
    await writeFile(join(out, 'model.bin'), 'mine')
    const args = ['train', '--data', data, '--out', out, ...shape, '--max-steps', 2] as const
    const refused = await rwkv(...args)
    expect(refused).toMatchObject({ code: 1, err: expect.stringContaining('holds model.bin') })
    expect(refused.err).toContain('--force has it replaced')
    expect(await readdir(out)).toEqual(['model.bin'])
    expect((await rwkv(...args, '--force')).code).toBe(0)
    // Nor while a run is at rest.
    await writeFile(join(out, 'model.bin'), 'mine')
    const again = await rwkv('train', '--resume', out, '--max-steps', 4)
    expect(again).toMatchObject({ code: 1, err: expect.stringContaining('this run did not write it') })
    expect(await readFile(join(out, 'model.bin'), 'utf8')).toBe('mine')
    expect((await rwkv('info', out)).out).toMatch(/nothing says that this run wrote it/)
    expect((await rwkv('train', '--resume', out, '--max-steps', 4, '--force')).code).toBe(0)
    const { run } = JSON.parse((await rwkv('info', out, '--json')).out)
    expect(run.kept).toMatchObject({ step: 4, file: 'model.bin' })
  })

  it('is for one trainer at a time; a killed one is not in the way', async () => {
    const out = join(directory, 'held')
    const args = [
      '--data',
      data,
      '--out',
      out,
      ...shape,
      '--max-steps',
      1_000_000,
      '--checkpoint-interval',
      5,
    ]
    const first = start('train', ...args, '--json')
    await first.heard('"step":6,')
    const says = new RegExp(
      `held: process ${first.child.pid} .*has been training here for \\d+ s; wait for it`,
    )
    for (const command of [
      ['train', '--resume', out],
      ['train', ...args],
    ]) {
      const second = await rwkv(...command)
      expect(second).toMatchObject({ code: 1, out: '', err: expect.stringMatching(says) })
    }
    await expect(Trainer.resume(out)).rejects.toMatchObject({ code: 'RUN' })
    const model = await Model.load(out)
    model.close()
    first.child.kill('SIGKILL')
    await first.ended
    await using second = await Trainer.resume(out)
    expect(second.steps).toBeGreaterThanOrEqual(5)
    await expect(Trainer.resume(out)).rejects.toMatchObject({
      code: 'RUN',
      message: expect.stringContaining(`process ${process.pid} (this one)`),
    })
  })

  it('goes on from the last sound checkpoint after it has diverged, and says which that is', async () => {
    const out = join(directory, 'diverged')
    const rates = ['--learning-rate', 0.3, '--weight-decay', 50, '--warmup-steps', 20, '--max-steps', 40]
    const args = ['--data', data, '--out', out, ...shape, ...rates, '--checkpoint-interval', 2]
    const { code, err } = await rwkv('train', ...args)
    expect(code).toBe(1)
    const said =
      /the loss became (?:NaN|inf) at step \d+; resume the run .* than 0\.3: it goes on from checkpoint-(\d+), whose validation loss was (\d\.\d\d)\n {2}(rwkv train --resume .* --learning-rate 0\.15)\n/
    const [, step, loss, command] = said.exec(err) ?? []
    expect(err).toMatch(said)
    expect(Number(loss)).toBeLessThan(Math.log(new Set(text).size) + 1)
    expect(command).toBe(`rwkv train --resume ${out} --learning-rate 0.15`)
    const model = await rwkv('eval', out, '--data', data, '--json')
    expect(objects(model.out)[0].loss).toBeLessThan(10)
    // A wrong command line changes nothing.
    const before = [await readdir(out), await readFile(join(out, 'log.jsonl'))]
    const wrong = await rwkv('train', '--resume', out, '--n-layer', 9)
    expect(wrong).toMatchObject({
      code: 2,
      err: expect.stringContaining('--n-layer cannot change when a run goes on: it is 2'),
    })
    expect([await readdir(out), await readFile(join(out, 'log.jsonl'))]).toEqual(before)
    const changes = ['--learning-rate', 0.001, '--weight-decay', 0.1, '--max-steps', 30]
    const resumed = await rwkv('train', '--resume', out, ...changes)
    expect(resumed.out).toMatch(
      new RegExp(
        `all checkpoints after step ${step}, up to checkpoint-\\d+, were worse .*\ngoing on after step ${step}\n`,
      ),
    )
    expect(resumed.code).toBe(0)
  })

  it('that ends worse than guessing says so last, and leaves the better model', async () => {
    const out = join(directory, 'unsound')
    {
      // The first checkpoint is sound; the last step is some way into the divergence.
      await using trainer = await create('unsound', { ...absurd, checkpointInterval: 2 })
      for await (const _ of trainer) if (trainer.steps === 2) break
      expect(trainer.saved).toMatchObject({ isSound: true, wroteModel: true })
    }
    const good = await readFile(join(out, 'model.bin'))
    const { code, out: printed } = await rwkv('train', '--resume', out)
    expect(code).toBe(0)
    const last = printed.trimEnd().split('\n').slice(-4)
    expect(last[0]).toMatch(
      /^this model is worse than guessing: its validation loss is .*, that of guessing 3\./,
    )
    expect(last[1]).toBe(`${join(out, 'model.bin')} is still the one saved before`)
    expect(last[3]).toBe(`  rwkv train --resume ${out} --learning-rate 0.1`)
    const model = await Model.load(out)
    expect((await model.evaluate(data)).loss).toBeLessThan(10)
    model.close()
    expect((await readFile(join(out, 'model.bin'))).length).toBe(good.length)
    // Again: it goes back to the sound checkpoint, and comes to the same end.
    const again = await rwkv('train', '--resume', out, '--json')
    const events = objects(again.out)
    expect(events[0]).toMatchObject({ event: 'start', wentBackFrom: 14 })
    expect(events.at(-2)).toMatchObject({ event: 'unsound', steps: 14, wroteModel: false })
    expect(events.at(-1)).toMatchObject({ event: 'done', steps: 14 })
  })

  it('ends whole, and can go on, when its files are deleted meanwhile', async () => {
    const straight = await trainTiny(directory, { out: join(directory, 'straight') })
    const out = join(directory, 'deleted')
    {
      await using trainer = await create('deleted')
      for await (const { step } of trainer) {
        if (step === 20) for (const name of ['config', 'tokenizer']) await rm(join(out, `${name}.json`))
        if (step === 30) await rm(join(out, 'log.jsonl'))
        if (step === 40) await rm(out, { recursive: true })
      }
    }
    for (const name of ['model.bin', 'tokenizer.json'])
      expect(await readFile(join(out, name))).toEqual(await readFile(join(straight, name)))
    const log = objects(await readFile(join(out, 'log.jsonl'), 'utf8'))
    expect(log.filter(({ loss }) => loss !== undefined)).toHaveLength(tiny.maxSteps)
    expect(await readdir(out)).toContain('report.html')
    await using longer = await Trainer.resume(out, { maxSteps: tiny.maxSteps + 1 })
    expect(await longer.step()).toMatchObject({ step: tiny.maxSteps + 1 })
  })

  it('can be closed or stopped within a step, and within a sample', async () => {
    // A step that nobody waits for.
    const large = { nLayer: 2, nEmbd: 64, ctxLen: 64, batchSize: 16, accumulate: 1_000_000, maxSteps: 2 }
    const controller = new AbortController()
    const trainer = await create('large', { ...large, signal: controller.signal })
    const loop = (async () => {
      for await (const _ of trainer);
    })()
    setTimeout(() => controller.abort(), 50)
    await expect(loop).rejects.toMatchObject({ name: 'AbortError' })
    expect(trainer.steps).toBe(0)
    const step = trainer.step()
    setTimeout(() => trainer.close(), 50)
    await expect(step).rejects.toMatchObject({ code: 'CLOSED' })

    const writer = await create('writer')
    const sample = writer.sample({ maxTokens: 2 ** 31 })
    setTimeout(() => writer.close(), 50)
    await expect(sample).rejects.toMatchObject({ code: 'CLOSED' })
  })
})

describe.skipIf(process.platform === 'win32')('a text', async () => {
  const directory = await temporaryDirectory()

  it('may come through a pipe, and from no device, directory or endless wait', async () => {
    const run = await trainTiny(directory, { maxSteps: 1 })
    const pipe = join(directory, 'pipe')
    await promisify(execFile)('mkfifo', [pipe])
    const out = join(directory, 'piped')
    const training = rwkv('train', '--data', pipe, '--out', out, ...shape, '--max-steps', 2, '--json')
    await writeFile(pipe, text)
    expect(objects((await training).out)[0]).toMatchObject({ trainTokens: Math.floor(text.length * 0.9) })

    // Nothing to name a run after, and nothing to go on from by itself.
    for (const resume of [[], ['--resume']])
      expect(await rwkv('train', '--data', pipe, ...resume)).toMatchObject({
        code: 2,
        err: expect.stringContaining(`--out is missing: ${pipe} is a pipe`),
      })
    const stopped = start('train', '--data', pipe, '--out', join(directory, 'stopped'), ...shape)
    await writeFile(pipe, text)
    await stopped.heard('step ')
    stopped.child.kill('SIGINT')
    await stopped.ended
    await stopped.heard(`rwkv train --resume ${join(directory, 'stopped')} --data FILE\n`)

    const refused = 'the text must be a regular file or a pipe'
    const none = ['train', '--out', join(directory, 'none')]
    const folder = join(directory, 'empty')
    await mkdir(folder)
    for (const [args, path, what] of [
      [['eval', run], '/dev/zero', `it is a device; ${refused}`],
      [none, '/dev/zero', `it is a device; ${refused}`],
      [['eval', run], folder, 'no texts'],
      [none, folder, 'no texts'],
    ] as const) {
      const { code, err } = await rwkv(...args, '--data', path)
      expect(code).toBe(1)
      expect(err).toContain(path)
      expect(err).toContain(what)
    }

    // Nobody writes to the pipe.
    const controller = new AbortController()
    const reason = new Error('enough')
    setTimeout(() => controller.abort(reason), 100)
    const { signal } = controller
    await expect(Trainer.create({ data: pipe, out: join(directory, 'none'), signal })).rejects.toBe(reason)
    const model = await Model.load(run)
    await expect(model.evaluate(pipe, { signal: AbortSignal.timeout(100) })).rejects.toMatchObject({
      name: 'TimeoutError',
    })
    const waiting = model.evaluate(pipe)
    setTimeout(() => model.close(), 100)
    await expect(waiting).rejects.toMatchObject({ code: 'CLOSED' })
    expect(await readdir(directory)).not.toContain('none')
  })
})
