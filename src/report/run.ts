import { readFile } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { RwkvError } from '../errors.js'
import { writeAtomically } from './files.js'
import { type Report, renderReport } from './page.js'

/** What the run's files do not hold. */
export interface Extras {
  readonly parameters: number
  readonly trainedParameters: number
  readonly isa: string
  readonly threads: number
  readonly sample: Report['sample']
}

/** A line of `log.jsonl`: a step's has a loss, a validation's a validation loss. */
interface LogLine {
  readonly step: number
  readonly loss?: number
  readonly valLoss?: number
  readonly seconds: number
}

/** Writes `report.html` into a run's directory, from the `config.json` and the `log.jsonl` in it. */
export async function writeReport(out: string, extras: Extras): Promise<void> {
  const options = await readOptions(join(out, 'config.json'))
  const log = await readLog(join(out, 'log.jsonl'))
  await writeAtomically(join(out, 'report.html'), renderReport(toReport(out, options, log, extras)))
}

function toReport(
  out: string,
  options: Readonly<Record<string, unknown>>,
  log: readonly LogLine[],
  extras: Extras,
): Report {
  const training = log.flatMap(({ step, loss }) => (loss === undefined ? [] : [{ step, loss }]))
  const validation = log.flatMap(({ step, valLoss }) =>
    valLoss === undefined ? [] : [{ step, loss: valLoss }],
  )
  const [steps, seconds] = [training.at(-1)?.step ?? 0, log.at(-1)?.seconds ?? 0]
  const tokens = steps * Number(options.ctxLen) * Number(options.batchSize) * Number(options.accumulate ?? 1)
  const val = validation.at(-1)?.loss
  const whole = (value: number) => Math.round(value).toLocaleString('en-US')
  return {
    title: basename(resolve(out)),
    training,
    validation,
    figures: [
      ['Validation loss', val?.toFixed(3) ?? '–'],
      ['Perplexity', val === undefined ? '–' : Math.exp(val).toFixed(2)],
      ['Steps', whole(steps)],
      ['Tokens learned', whole(tokens)],
      ['Tokens a second', seconds > 0 ? whole(tokens / seconds) : '–'],
      ['Time in steps', `${whole(seconds)} s`],
      ['Parameters', whole(extras.parameters)],
      ...(extras.trainedParameters === extras.parameters
        ? []
        : ([['Trained parameters', whole(extras.trainedParameters)]] as const)),
      ...(typeof options.from === 'string' ? ([['Fine-tuned from', nameOf(options.from)]] as const) : []),
      ['Runs on', `${extras.isa} × ${extras.threads}`],
    ],
    options: Object.entries(options)
      .filter(([, value]) => value !== null)
      .map(([name, value]) => [name, String(value)]),
    sample: extras.sample,
  }
}

/** What a model is known by: the run's name, or the file's. */
function nameOf(from: string): string {
  const path = resolve(from)
  return basename(path) === 'model.bin' ? basename(dirname(path)) : basename(path)
}

async function readOptions(path: string): Promise<Record<string, unknown>> {
  try {
    return (JSON.parse(await readFile(path, 'utf8')) as { options: Record<string, unknown> }).options
  } catch (error) {
    throw new RwkvError('RUN', `${path}: ${(error as Error).message}`, { cause: error })
  }
}

/** The lines of the log; one that a crash cut off is left out. */
async function readLog(path: string): Promise<LogLine[]> {
  const text = await readFile(path, 'utf8').catch(error => {
    throw new RwkvError('IO', `cannot read ${path}: ${error.message}`, { cause: error })
  })
  return text.split('\n').flatMap(line => {
    try {
      return [JSON.parse(line) as LogLine]
    } catch {
      return []
    }
  })
}
