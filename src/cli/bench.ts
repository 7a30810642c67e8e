import { Model } from '../model.js'
import { benchTable } from '../option-tables.js'
import { bytes, clock, count } from './format.js'
import { bar } from './live.js'
import { style } from './output.js'
import { common, verb } from './verb.js'

/** `rwkv bench` */
export const bench = verb({
  name: 'bench',
  summary: 'measure how fast a model runs here',
  positionals: ['MODEL'],
  options: {
    ...benchTable,
    ...common,
  },
  details: `
MODEL is a training run's directory or a .bin file. Each round measures decoding, the sessions together, the prompt, and how
fast this machine's memory can be read by as many threads, before and after decoding. What is printed are the medians of the
rounds, of the ratios too. Weights that stay in the caches are read faster than memory.

With --json: {"model","format","fileSize","isa","threads","loadSeconds","firstTokenSeconds","rounds",
"decodeTokensPerSecond","prefillTokensPerSecond","batchTokensPerSecond","batchGain","bytesPerToken","readBandwidth",
"availableReadBandwidth","readBandwidthShare"}, bandwidths in bytes a second.`,
  async run([path = ''], { json: _, threads, ...options }, output, signal) {
    const startedAt = performance.now()
    await using model = await Model.load(path, { threads, signal })
    const loadSeconds = (performance.now() - startedAt) / 1000
    const measuredAt = performance.now()
    const onProgress = ({ done, total }: { done: number; total: number }) => {
      const gone = (performance.now() - measuredAt) / 1000
      output.live(`${style.cyan(bar(done / total, 20))} measuring  ${clock(gone)}`)
    }
    const found = await model.bench({ ...options, signal, onProgress })
    const { format, fileSize, isa } = model
    output.object({ model: path, format, fileSize, isa, threads: model.threads, loadSeconds, ...found })
    const speed = (tokensPerSecond: number) => `${significant(tokensPerSecond)} tokens/s`
    const { prompt = 256, sessions = 8 } = options
    const rows = [
      ['model', path],
      ['format', `${format}, ${bytes(fileSize)}`],
      ['runs on', `${isa}, ${model.threads} threads`],
      ['load', `${milliseconds(loadSeconds)}, first token ${milliseconds(found.firstTokenSeconds)}`],
      ['decode', style.bold(speed(found.decodeTokensPerSecond))],
      ['prefill', `${style.bold(speed(found.prefillTokensPerSecond))}  ${count(prompt)} tokens`],
      [
        'batch',
        `${style.bold(speed(found.batchTokensPerSecond))}  ${count(sessions)} sessions, ${found.batchGain.toFixed(2)} times one`,
      ],
      ['reads', `${bytes(found.bytesPerToken)} of weights a token`],
      [
        'bandwidth',
        `${bytes(found.readBandwidth)}/s of ${bytes(found.availableReadBandwidth)}/s: ${(100 * found.readBandwidthShare).toFixed(0)} %`,
      ],
    ] as const
    for (const [name, value] of rows) output.line(`${style.dim(name.padEnd(11))} ${value}`)
    const rounds = `medians of ${count(found.rounds)} rounds`
    output.line(style.dim(rounds))
    return 0
  },
})

/** `12345.6` → `12,346`, `87.65` → `87.7`, `7.4321` → `7.43`: three digits at least. */
function significant(value: number): string {
  return value >= 100 ? count(value) : value.toPrecision(3)
}

function milliseconds(seconds: number): string {
  return `${significant(1000 * seconds)} ms`
}
