import { join } from 'node:path'
import { runLosses as nativeLosses, runSummary as nativeSummary, writeReportTo } from '#native'
import { toRwkvError } from './errors.js'
import type { Path } from './inputs.js'
import { argument, options as check, path as pathKind, paths } from './kinds.js'
import type { ReportOptions } from './options.js'
import { reportOptions } from './schemas.js'

/**
 * Writes the report of a training run: its figures, curves, samples and options in one HTML page that loads
 * nothing. The trainer does this at each save; this makes the page anew, elsewhere, or of several runs whose
 * curves are laid over each other.
 *
 * @example
 * ```ts
 * import { Trainer, writeReport } from 'rwkv'
 *
 * const shape = { nLayer: 2, maxSteps: 10 }
 * for (const nEmbd of [32, 64]) {
 *   await using trainer = await Trainer.create({ data: 'book.txt', out: `runs/${nEmbd}`, nEmbd, ...shape })
 *   for await (const { step, loss } of trainer) console.log(step, loss)
 * }
 * console.log(await writeReport(['runs/32', 'runs/64'], { out: 'runs/widths.html' }))
 * ```
 *
 * @param run The directory of a run, or those of several.
 * @returns The path of the page.
 * @throws {RwkvError} `RUN` if a directory holds no run or a damaged one, or if the page would replace a file
 *   that is no report; `TOKENIZER`, `IO` or `INVALID_OPTION`.
 */
export async function writeReport(run: Path | readonly Path[], options: ReportOptions = {}): Promise<string> {
  const runs = [argument('run', paths, run)].flat()
  const [first = ''] = runs
  const { out, force = false } = check('writeReport()', reportOptions, options)
  const path = out ?? (runs.length === 1 ? join(first, 'report.html') : 'report.html')
  try {
    await writeReportTo(runs, path, force)
  } catch (error) {
    throw toRwkvError(error)
  }
  return path
}

/** A loss, in nats a token, and the step that it is of. */
export interface Loss {
  readonly step: number
  readonly loss: number
}

/** A run in figures. What is null is not known, or not there. */
export interface RunSummary {
  readonly name: string
  /** Steps done. */
  readonly steps: number
  readonly maxSteps: number
  /** The file that the run leaves. */
  readonly file: string | null
  /** What that file is, if the run has recorded it and the file has not changed since. */
  readonly kept: {
    readonly file: string
    readonly step: number
    readonly valLoss: number | null
    readonly isSound: boolean
  } | null
  /** Of the last step, of the last validation, and of the validation with the lowest one. */
  readonly trainLoss: Loss | null
  readonly valLoss: Loss | null
  readonly best: Loss | null
  /** How many bytes of text a token of the validation set stands for, on average. */
  readonly bytesPerToken: number | null
  /** The loss of `kept`, or else of `best`, in bits for each byte of the text. */
  readonly bitsPerByte: number | null
  readonly tokens: number
  /** Time in steps, and in all. */
  readonly seconds: number
  readonly clock: number | null
  readonly tokensPerSecond: number | null
  readonly parameters: number
  readonly trainedParameters: number | null
  readonly token: 'character' | 'byte' | 'token' | null
  /** Steps of the checkpoints. */
  readonly checkpoints: readonly number[]
  /** Name and fingerprint of the model that the run started from. */
  readonly from: string | null
  readonly base: string | null
  /** Those that differ from their defaults. */
  readonly options: Readonly<Record<string, string | number | boolean | readonly string[] | null>>
}

/**
 * What the directory of a run says of it.
 *
 * @throws {RwkvError} `RUN`, `TOKENIZER` or `IO`.
 */
export async function runSummary(run: Path): Promise<RunSummary> {
  const path = argument('run', pathKind, run)
  try {
    return JSON.parse(await nativeSummary(path)) as RunSummary
  } catch (error) {
    throw toRwkvError(error)
  }
}

/**
 * The losses that a run has logged, those before a resumption included: the trend of training, and validation.
 *
 * @throws {RwkvError} `RUN`, `TOKENIZER` or `IO`.
 */
export async function runLosses(
  run: string,
): Promise<{ readonly training: readonly Loss[]; readonly validation: readonly Loss[] }> {
  try {
    return JSON.parse(await nativeLosses(run))
  } catch (error) {
    throw toRwkvError(error)
  }
}
