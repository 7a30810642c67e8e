import { statSync } from 'node:fs'
import { basename, extname, join, resolve } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { type ErrorCode, RwkvError } from '../errors.js'
import { MOST_CONFIG, readRegular } from '../files.js'
import type { Described } from '../kinds.js'
import type { ResumeOptions, TrainOptions, Watch } from '../options.js'
import { trainOptionTable } from '../train-options.js'
import { Trainer } from '../trainer.js'
import type { Options, Values } from './arguments.js'
import { kebab } from './format.js'
import { exitCode } from './interrupt.js'
import { bar } from './live.js'
import { type Output, style } from './output.js'
import { showProfile } from './profile.js'
import { Progress } from './progress.js'
import { lowerRate, resumeCommand } from './resume.js'
import { Hinted, UsageError } from './usage.js'
import { common, verb } from './verb.js'

const { data, out, from, freeze, train: trained, loraTargets, ...others } = trainOptionTable
const described: { readonly [name: string]: Described } = trainOptionTable

const options = {
  data: { ...data, value: 'FILE' },
  out: { ...out, auto: 'runs/<name of the text>' },
  resume: {
    kind: 'path',
    value: 'DIR',
    optional: true,
    help: 'go on with a run from its last checkpoint',
    auto: 'that of --out',
  },
  ...others,
  from: { ...from, value: 'MODEL' },
  freeze: { ...freeze, value: 'PATTERN' },
  train: { ...trained, value: 'PATTERN' },
  loraTargets: { ...loraTargets, value: 'PATTERN' },
  profile: { kind: 'boolean', help: 'show at the end where the time of the steps went' },
  json: common.json,
} as const satisfies Options

/** `rwkv train` */
export const train = verb({
  name: 'train',
  summary: 'train a model on a text, or fine-tune one',
  positionals: [],
  options,
  details: `
Writes a directory: model.bin, tokenizer.json, config.json, checkpoints, log.jsonl and report.html (open it in a browser).
With --from a run fine-tunes a model that is there. With --lora-rank as well it writes lora.safetensors instead of
model.bin, for rwkv generate MODEL --lora; with --tune state it writes tuned.state, for rwkv generate MODEL --state.
Ctrl-C saves a checkpoint of the last whole step; the same command with --resume goes on from it. SIGTERM, SIGHUP (a closed
terminal) and standard output that cannot be written do the same. Tokens a second are those of the optimizer's steps
alone: neither validation, sampling nor saving counts.

With --json the last line is
{"event":"done","steps","trainLoss","valLoss","bitsPerByte","best","kept","tokensPerSecond","seconds","model"}
(instead of model, lora or state if that is what the run has written): trainLoss is the mean over the last fifty steps
or so, valLoss that of the whole validation split, bitsPerByte the same in bits for each byte of the text, best the lowest of those with its step, kept the step and the
validation loss of the file that was written, seconds are those of the whole run by the clock.

--profile shows where the time of the steps went: products with their speed beside that of multiply-adds in registers, all
else with the bytes of the tensors that it read and wrote a second. With --json that is a line before the last one:
{"event":"profile","steps","seconds","threads","parts","rest","peakOperations","readBandwidth"}, of each part {"pass","name",
"seconds","share","operations","bytes"}: seconds are those of all threads together, share is of 1.`,
  async run(_, values, output, signal) {
    await using trainer = await begin(values, signal, output).catch(error => {
      output.done()
      if (isCode(error, 'INVALID_UTF8')) throw new Hinted(error, '--tokenizer byte trains on bytes')
      const isForeign = isCode(error, 'RUN') && error.message.includes('give force')
      throw isForeign ? new Hinted(error, '--force has it replaced') : error
    })
    try {
      return await learn(trainer, values.profile ?? false, output, signal)
    } catch (error) {
      if (!isCode(error, 'DIVERGED')) throw error
      const resume = lowerRate(trainer.options)
      output.object({ event: 'diverged', resume })
      throw new Hinted(error, resume)
    }
  },
})

/** All steps that are left; returns the exit code. */
async function learn(
  trainer: Trainer,
  isProfiled: boolean,
  output: Output,
  signal: AbortSignal,
): Promise<number> {
  // The bar of the reading.
  output.done()
  const progress = new Progress(trainer, output)
  progress.start()
  if (isProfiled) await trainer.startProfile()
  try {
    for await (const step of trainer) await progress.after(step, signal)
  } catch (error) {
    if (!signal.aborted || error !== signal.reason) throw error
    const code = exitCode(signal)
    await progress.interrupted(code)
    return code
  }
  if (isProfiled) {
    output.done()
    showProfile(await trainer.profile(), output)
  }
  await progress.end()
  return 0
}

function isCode(error: unknown, code: ErrorCode): error is RwkvError {
  return error instanceof RwkvError && error.code === code
}

/** A new run, or with `--resume` an old one. */
function begin(values: Values<typeof options>, signal: AbortSignal, output: Output): Promise<Trainer> {
  const { json: _, profile: __, resume, out, ...given } = values
  // One of them is named as itself, in messages and in files.
  const data = only(given.data)
  const onProgress = ({ done, total }: { done: number; total: number }) =>
    output.live(`${style.cyan(bar(total > 0 ? Math.min(1, done / total) : 0, 20))} reading the text`)
  const settings = { ...given, ...(data !== undefined && { data }), signal, onProgress }
  // --resume alone goes on with the run that the same command would begin.
  const named = resume === true ? undefined : resume
  const directory = out ?? (named !== undefined || data === undefined ? undefined : directoryOf(data))
  if (resume !== undefined) return goOn(named ?? directory, out, settings)
  if (data === undefined || directory === undefined)
    throw new UsageError('--data is missing', 'rwkv train --data FILE')
  return Trainer.create({ ...settings, data, out: directory }).catch(error => {
    const isThere = isCode(error, 'RUN') && error.message.includes('holds a run already')
    throw isThere ? new Hinted(error, `${resumeCommand({ out: directory, data })} goes on with it`) : error
  })
}

/** The run in `directory`; what was said besides may repeat what it began with, but not change it. */
async function goOn(
  directory: string | undefined,
  out: string | undefined,
  settings: ResumeOptions & Partial<TrainOptions> & Watch,
): Promise<Trainer> {
  if (directory === undefined)
    throw new UsageError('--resume needs the directory of a run', 'rwkv train --resume DIR')
  if (out !== undefined && resolve(out) !== resolve(directory))
    throw new UsageError('--out and --resume name different directories', '--resume alone is enough')
  const changes = Object.fromEntries(Object.entries(settings).filter(([name]) => !isFixed(name)))
  // Before the run is touched: to go on with it removes what comes after its last sound checkpoint.
  const kept = await keptOptions(directory)
  if (!kept) return Trainer.resume(directory, changes)
  for (const [name, value] of Object.entries(settings)) {
    if (!isFixed(name)) continue
    const before = kept[name] ?? described[name]?.default
    if (isSame(name, before, value)) continue
    throw new UsageError(
      `--${kebab(name)} cannot change when a run goes on: it is ${before ?? 'not set'}`,
      'begin a new run for it',
    )
  }
  return Trainer.resume(directory, changes)
}

/** Whether an option is one that a run keeps from its beginning to its end. */
function isFixed(name: string): boolean {
  const option = described[name]
  return option !== undefined && !option.changesOnResume
}

/** The one of several, if there is one. */
function only<T>(all: T | readonly T[] | undefined): T | readonly T[] | undefined {
  return Array.isArray(all) && all.length === 1 ? all[0] : all
}

function isSame(name: string, before: unknown, value: unknown): boolean {
  if (described[name]?.kind === 'path' && typeof before === 'string' && typeof value === 'string')
    return resolve(before) === resolve(value)
  return isDeepStrictEqual(before, value)
}

/**
 * The options in a run's config.json; undefined if it cannot be read, of which {@link Trainer.resume} says
 * why.
 */
async function keptOptions(directory: string): Promise<Record<string, unknown> | undefined> {
  try {
    const { options } = JSON.parse(
      (await readRegular(join(directory, 'config.json'), MOST_CONFIG)).toString(),
    )
    return typeof options === 'object' && options !== null ? options : undefined
  } catch {
    return undefined
  }
}

/** The directory of a run that is to learn `data`, if none was named. */
function directoryOf(data: string | readonly string[]): string {
  if (typeof data !== 'string' || data === '-' || data.includes('*'))
    throw new UsageError(
      '--out is missing: there is more than one text, and none that gives its name',
      '--out DIR',
    )
  if (statSync(data, { throwIfNoEntry: false })?.isFIFO())
    throw new UsageError(`--out is missing: ${data} is a pipe, whose name is none for a run`, '--out DIR')
  return join('runs', basename(data, extname(data)))
}
