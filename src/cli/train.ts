import { basename, extname, join } from 'node:path'
import { Trainer } from '../trainer.js'
import type { Values } from './arguments.js'
import { kebab } from './format.js'
import { Progress } from './progress.js'
import { UsageError } from './usage.js'
import { common, untilInterrupted, verb } from './verb.js'

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
  resume: { kind: 'text', value: 'FOLDER', help: 'go on with a run from its last checkpoint' },
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
Ctrl-C finishes the step and saves a checkpoint; --resume goes on from it. Tokens a second are those of the optimizer's
steps alone: neither validation, sampling nor saving counts.

With --json the last line is {"event":"done","steps","trainLoss","valLoss","tokensPerSecond","seconds","model"}:
trainLoss is the mean over the last fifty steps or so, valLoss that of the whole validation split, seconds are those of
the whole run by the clock.`,
  async run(_, values, output) {
    const signal = untilInterrupted()
    await using trainer = await begin(values, signal)
    const progress = new Progress(trainer, output)
    progress.start()
    try {
      for await (const step of trainer) await progress.after(step)
    } catch (error) {
      if (!signal.aborted || error !== signal.reason) throw error
      await progress.interrupted()
      return 130
    }
    progress.end()
    return 0
  },
})

/** A new run, or with `--resume` an old one. */
function begin(values: Values<typeof options>, signal: AbortSignal): Promise<Trainer> {
  const { json: _, resume, out, precision: word, ...rest } = values
  const precision = oneOf('precision', word, ['f32', 'bf16'] as const)
  const settings = { ...rest, ...(precision && { precision }) }
  if (resume !== undefined) {
    const kept = Object.keys(fixed).find(name => name in settings)
    if (kept)
      throw new UsageError(`--${kebab(kept)} cannot change when a run goes on`, 'begin a new run for it')
    if (out !== undefined)
      throw new UsageError('--out and --resume exclude each other', '--resume names the folder')
    return Trainer.resume(resume, { ...settings, signal })
  }
  const { data } = settings
  if (data === undefined) throw new UsageError('--data is missing', 'rwkv train --data FILE')
  const tokenizer = oneOf('tokenizer', settings.tokenizer, ['character', 'byte'] as const)
  const folder = out ?? join('runs', basename(data, extname(data)))
  return Trainer.create({ ...settings, tokenizer, data, out: folder, signal })
}

/** A word that must be one of a few. */
function oneOf<T extends string>(name: string, word: string | undefined, words: readonly T[]): T | undefined {
  const found = words.find(known => known === word)
  if (word === undefined || found) return found
  throw new UsageError(`--${kebab(name)} is "${word}"; it must be ${words.join(' or ')}`)
}
