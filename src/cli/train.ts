import { statSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { basename, extname, join, resolve } from 'node:path'
import type { ResumeOptions, TrainOptions } from '../options.js'
import { Trainer } from '../trainer.js'
import type { Values } from './arguments.js'
import { kebab } from './format.js'
import { exitCode } from './interrupt.js'
import { Progress } from './progress.js'
import { UsageError } from './usage.js'
import { common, verb } from './verb.js'

/** Options that a run keeps from its beginning to its end. */
const fixed = {
  tokenizer: {
    kind: 'text',
    value: 'KIND',
    help: 'one token a character of the text, or a byte',
    default: 'character',
  },
  nLayer: { kind: 'integer', value: 'N', help: 'blocks of the model', default: 4 },
  nEmbd: { kind: 'integer', value: 'N', help: 'width of the model', default: 128 },
  ctxLen: { kind: 'integer', value: 'N', help: 'tokens of a training text', default: 64 },
  batchSize: { kind: 'integer', value: 'N', help: 'texts of a step', default: 12 },
  warmupSteps: { kind: 'integer', value: 'N', help: 'steps in which the learning rate rises', default: 100 },
  beta1: { kind: 'number', value: 'X', help: "how much of the gradients' mean AdamW keeps", default: 0.9 },
  beta2: { kind: 'number', value: 'X', help: "how much of their squares' mean it keeps", default: 0.99 },
  gradClip: { kind: 'number', value: 'X', help: 'largest norm of the gradients; 0: no limit', default: 1 },
  seed: { kind: 'integer', value: 'N', help: 'decides the initial model and the order of texts', default: 1 },
} as const

const options = {
  data: { kind: 'text', value: 'FILE', help: 'the text to learn; its last tenth validates' },
  out: { kind: 'text', value: 'FOLDER', help: 'folder of the run', default: 'runs/<text>' },
  resume: {
    kind: 'text',
    value: '[FOLDER]',
    optional: true,
    help: 'go on with a run from its last checkpoint',
    default: 'that of --out',
  },
  ...fixed,
  maxSteps: { kind: 'integer', value: 'N', help: 'steps of the whole run', default: 2000 },
  learningRate: {
    kind: 'number',
    value: 'X',
    help: 'the highest learning rate',
    default: 'min(0.003, 0.4/n-embd)',
  },
  finalLearningRate: {
    kind: 'number',
    value: 'X',
    help: 'the one that the run ends in',
    default: 'a thirtieth',
  },
  weightDecay: { kind: 'number', value: 'X', help: "AdamW's decay of matrices", default: 0.1 },
  precision: {
    kind: 'text',
    value: 'KIND',
    help: 'what products multiply, f32 or bf16',
    default: 'bf16 where the CPU does',
  },
  evalInterval: {
    kind: 'integer',
    value: 'N',
    help: 'steps between validations; 0: at the end',
    default: 250,
  },
  checkpointInterval: {
    kind: 'integer',
    value: 'N',
    help: 'steps between checkpoints; 0: at the end',
    default: 500,
  },
  ...common,
} as const

/** `rwkv train` */
export const train = verb({
  name: 'train',
  summary: 'learn a text',
  positionals: [],
  options,
  details: `
Writes a folder: model.bin, tokenizer.json, config.json, checkpoints, log.jsonl and report.html (open it in a browser).
Ctrl-C saves a checkpoint of the last whole step; the same command with --resume goes on from it. SIGTERM, SIGHUP (a closed
terminal) and standard output that cannot be written do the same. Tokens a second are those of the optimizer's steps
alone: neither validation, sampling nor saving counts.

With --json the last line is {"event":"done","steps","trainLoss","valLoss","tokensPerSecond","seconds","model"}:
trainLoss is the mean over the last fifty steps or so, valLoss that of the whole validation split, seconds are those of
the whole run by the clock.`,
  async run(_, values, output, signal) {
    await using trainer = await begin(values, signal)
    const progress = new Progress(trainer, output)
    progress.start()
    try {
      for await (const step of trainer) await progress.after(step, signal)
    } catch (error) {
      if (!signal.aborted || error !== signal.reason) throw error
      const code = exitCode(signal)
      await progress.interrupted(code)
      return code
    }
    await progress.end()
    return 0
  },
})

/** A new run, or with `--resume` an old one. */
function begin(values: Values<typeof options>, signal: AbortSignal): Promise<Trainer> {
  const { json: _, resume, out, precision: products, tokenizer: kind, ...rest } = values
  const precision = oneOf('precision', products, ['f32', 'bf16'] as const)
  const tokenizer = oneOf('tokenizer', kind, ['character', 'byte'] as const)
  const settings = { ...rest, ...(precision && { precision }), ...(tokenizer && { tokenizer }), signal }
  const { data } = settings
  const folder = out ?? (resume || data === undefined ? undefined : folderOf(data))
  if (resume !== undefined) return goOn(resume || folder, out, settings)
  if (data === undefined || folder === undefined)
    throw new UsageError('--data is missing', 'rwkv train --data FILE')
  return Trainer.create({ ...settings, data, out: folder })
}

/** The run in `folder`; what was said besides may repeat what it began with, but not change it. */
async function goOn(
  folder: string | undefined,
  out: string | undefined,
  settings: ResumeOptions & Partial<TrainOptions> & { signal: AbortSignal },
): Promise<Trainer> {
  if (folder === undefined)
    throw new UsageError('--resume needs the folder of a run', 'rwkv train --resume FOLDER')
  if (out !== undefined && resolve(out) !== resolve(folder))
    throw new UsageError('--out and --resume name different folders', '--resume alone is enough')
  const said = Object.entries(settings).filter(([name]) => name in fixed)
  const changes = Object.fromEntries(Object.entries(settings).filter(([name]) => !(name in fixed)))
  // Before the run is touched: to go on with it removes what comes after its last sound checkpoint.
  const kept = await keptOptions(folder)
  const changed = said.find(([name, value]) => name in kept && kept[name] !== value)
  if (!changed) return Trainer.resume(folder, changes)
  const [name] = changed
  throw new UsageError(
    `--${kebab(name)} cannot change when a run goes on: it is ${kept[name]}`,
    'begin a new run for it',
  )
}

/** The options in a run's config.json; none if there is no such file, which {@link Trainer.resume} then says. */
async function keptOptions(folder: string): Promise<Record<string, unknown>> {
  try {
    const { options } = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'))
    return typeof options === 'object' && options !== null ? options : {}
  } catch {
    return {}
  }
}

/** The folder of a run that is to learn `data`, if none was named. */
function folderOf(data: string): string {
  if (statSync(data, { throwIfNoEntry: false })?.isFIFO())
    throw new UsageError(`--out is missing: ${data} is a pipe, whose name is none for a run`, '--out FOLDER')
  return join('runs', basename(data, extname(data)))
}

/** A word that must be one of a few. */
function oneOf<T extends string>(name: string, word: string | undefined, words: readonly T[]): T | undefined {
  const found = words.find(known => known === word)
  if (word === undefined || found) return found
  throw new UsageError(`--${kebab(name)} is "${word}"; it must be ${words.join(' or ')}`)
}
