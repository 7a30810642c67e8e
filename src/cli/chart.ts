import * as asciichart from 'asciichart'
import { count } from './format.js'
import { ownStyles } from './visible.js'

/** A loss, and the step it was measured at. */
export interface Point {
  readonly step: number
  readonly loss: number
}

/** How large a chart may be, and whether in colours. */
export interface ChartOptions {
  readonly width: number
  readonly height: number
  readonly colour: boolean
}

/** Columns that the labels of the loss axis take. */
const MARGIN = 9

/**
 * The losses of a run as lines of text: training (smoothed) and validation against the step.
 *
 * @returns The empty string when there are fewer than two points to join.
 */
export function lossChart(
  training: readonly Point[],
  validation: readonly Point[],
  options: ChartOptions,
): string {
  const [first, last] = [training[firstShown(training.length)], training.at(-1)]
  if (!first || !last || first.step === last.step) return ''
  const columns = Math.max(16, options.width - MARGIN)
  const steps = Array.from(
    { length: columns },
    (_, i) => first.step + ((last.step - first.step) * i) / (columns - 1),
  )
  const train = steps.map(step => interpolate(training, step))
  // Before the first validation there is nothing to show: that part runs under the training line, which is
  // drawn over it.
  const begin = validation[0]?.step ?? Number.POSITIVE_INFINITY
  const valid = steps.map((step, i) => (step < begin ? (train[i] ?? 0) : interpolate(validation, step)))
  const plot = asciichart.plot([valid, train], {
    height: options.height,
    offset: 2,
    format: loss => loss.toFixed(3).padStart(MARGIN - 2),
    ...(options.colour && { colors: [asciichart.yellow, asciichart.cyan] }),
  })
  const left = count(first.step)
  const axis = left + `step ${count(last.step)}`.padStart(columns - left.length)
  return ownStyles(`${plot}\n${' '.repeat(MARGIN)}${axis}\n${' '.repeat(MARGIN)}${legend(options.colour)}`)
}

/**
 * A long run's first fiftieth falls so far that the rest would look flat beside it: the chart begins after
 * it.
 */
function firstShown(points: number): number {
  return points >= 100 ? Math.floor(points / 50) : 0
}

function legend(colour: boolean): string {
  if (!colour) return 'training (smoothed) and validation loss'
  const mark = (word: string, code: string) => asciichart.colored(`── ${word}`, code)
  return `${mark('training (smoothed)', asciichart.cyan)}  ${mark('validation', asciichart.yellow)}`
}

/**
 * The loss at `step` on the line through `points`, which are in order of their steps; flat beyond its ends.
 */
function interpolate(points: readonly Point[], step: number): number {
  const after = points.findIndex(point => point.step >= step)
  const b = points[after] ?? points.at(-1)
  const a = points[after - 1] ?? b
  if (!a || !b) return 0
  return a.step === b.step ? b.loss : a.loss + ((b.loss - a.loss) * (step - a.step)) / (b.step - a.step)
}
