import { placeOf } from '#native'
import { RwkvError } from '../errors.js'
import { adapterInfo } from '../lora.js'
import { Model } from '../model.js'
import type { ModelConfig } from '../options.js'
import { type RunSummary, runSummary } from '../report.js'
import { bytes, clock, count, kebab } from './format.js'
import { type Output, style } from './output.js'
import { common, verb } from './verb.js'
import { inOneLine } from './visible.js'

type Row = readonly [name: string, value: string]

/** What is said of a thing: an object for programs, rows for people. */
interface Told {
  readonly object: object
  readonly rows: readonly Row[]
}

/** `rwkv info` */
export const info = verb({
  name: 'info',
  summary: 'show information on a model, a training run or a LoRA adapter',
  positionals: ['MODEL'],
  options: common,
  details: `
MODEL is a training run's directory or a file: .bin, .pth, .safetensors or .gguf. It can also be a LoRA adapter: a
.safetensors file, the directory of the run that trained it, or what PEFT or RWKV-PEFT wrote. Of a run it tells how far it
is, of which step its model is, and which options differ from their defaults. With --json all that of a run is in "run".`,
  async run([path = ''], { threads }, output, signal) {
    const { hasConfig, hasModel, content } = await placeOf(path)
    const run = hasConfig ? await ofRun(path) : undefined
    const found: Told[] = []
    let fault: unknown
    if (content === 'adapter') found.push(await ofAdapter(path))
    else if (run === undefined || hasModel) {
      try {
        await using model = await Model.load(path, { threads, signal })
        found.push(ofModel(path, model))
      } catch (error) {
        // Of a run there is something to say all the same, if it is the model that cannot be read.
        if (run === undefined || !(error instanceof RwkvError) || error.code === 'INVALID_OPTION') throw error
        fault = error
      }
    }
    if (run !== undefined) found.push(run)
    output.object(Object.assign({ path }, ...found.map(({ object }) => object)))
    found.forEach(({ rows }, index) => {
      if (index > 0) output.line()
      table(rows, output)
    })
    if (fault !== undefined) throw fault
    return 0
  },
})

function ofModel(path: string, model: Model): Told {
  const { config, parameters, format, fileSize, isa, threads } = model
  const tokenizer = tokenizerOf(model)
  const { version, nLayer, nEmbd, nFfn, nVocab, sizes } = config
  return {
    object: { ...config, parameters, format, fileSize, tokenizer, isa, threads },
    rows: [
      ['model', path],
      ['version', version.replace('v', 'RWKV-')],
      ['shape', `n_layer ${nLayer}, n_embd ${nEmbd}, n_ffn ${nFfn}, n_vocab ${nVocab}`],
      ...sizeRows(sizes),
      ['parameters', count(parameters)],
      ['format', `${format}, ${bytes(fileSize)}`],
      ['tokenizer', tokenizer ?? 'none: only tokens can be evaluated'],
      ['runs on', `${isa}, ${threads} threads${isa === 'scalar' ? slow() : ''}`],
    ],
  }
}

/** Of RWKV-7: the size of a head, and the ranks of the narrow products. */
function sizeRows({ headSize, ...ranks }: ModelConfig['sizes']): readonly Row[] {
  const ofRanks = Object.entries(ranks).map(([name, rank]) => `${name.replace('Rank', '')} ${rank}`)
  return [
    ...(headSize === undefined ? [] : [['head size', String(headSize)] as const]),
    ...(ofRanks.length === 0 ? [] : [['ranks', ofRanks.join(', ')] as const]),
  ]
}

async function ofAdapter(path: string): Promise<Told> {
  const { rank, alpha, targets, parameters, fileSize, base } = await adapterInfo(path)
  return {
    object: { rank, alpha, targets, parameters, fileSize, base },
    rows: [
      ['adapter', path],
      ['of a model', base ?? 'it does not say which: to use it, give --allow-other-base'],
      [
        'LoRA',
        `rank ${rank}, ${alpha === null ? 'and it does not say its alpha: give --lora-alpha' : `alpha ${alpha}`}`,
      ],
      ['parameters', count(parameters)],
      ['size', bytes(fileSize)],
      ['matrices', `${targets.length}: ${targets.join(', ')}`],
    ],
  }
}

/** What the directory of a run says of it; that it cannot be read is said too, and the model is shown all the same. */
async function ofRun(path: string): Promise<Told> {
  try {
    const run = await runSummary(path)
    return { object: { run }, rows: runRows(run) }
  } catch (error) {
    if (!(error instanceof RwkvError && ['RUN', 'TOKENIZER'].includes(error.code))) throw error
    return { object: { run: null }, rows: [['run', error.message]] }
  }
}

function runRows(run: RunSummary): Row[] {
  const { steps, maxSteps, trainLoss, valLoss, tokens, tokensPerSecond, seconds, checkpoints } = run
  const losses = [
    trainLoss && `training ${trainLoss.loss.toFixed(3)} (step ${count(trainLoss.step)})`,
    valLoss && `validation ${valLoss.loss.toFixed(3)} (step ${count(valLoss.step)})`,
  ].filter(loss => loss !== null)
  const speed = tokensPerSecond === null ? '' : `, ${count(tokensPerSecond)} a second`
  const inAll = run.clock === null ? '' : `, ${clock(run.clock)} in all`
  const options = Object.entries(run.options).map(([name, value]) => `--${kebab(name)} ${shown(value)}`)
  return [
    ['run', inOneLine(run.name)],
    ['result', result(run)],
    ['steps', `${count(steps)} of ${count(maxSteps)}`],
    ['last losses', losses.join(', ') || 'none yet'],
    ...(run.bitsPerByte === null ? [] : ([['bits a byte', run.bitsPerByte.toFixed(3)]] as const)),
    ['tokens', `${count(tokens)}${speed}`],
    ['time', `${clock(seconds)} in steps${inAll}`],
    ['checkpoints', checkpoints.length > 0 ? `of step ${checkpoints.map(count).join(', ')}` : 'none'],
    ...(run.from === null ? [] : ([['started from', inOneLine(run.from)]] as const)),
    ['options', options.join(' ') || 'all have their defaults'],
  ]
}

/** What the file is that the run leaves. */
function result({ file, kept, best }: RunSummary): string {
  if (kept !== null) {
    const loss =
      kept.valLoss === null ? 'not validated' : `validation loss ${style.bold(kept.valLoss.toFixed(3))}`
    return `${kept.file}, of step ${count(kept.step)}: ${loss}${kept.isSound ? '' : ', worse than guessing'}`
  }
  if (file === null) return 'not written yet'
  const lowest =
    best && `; the lowest validation loss was ${best.loss.toFixed(3)}, after step ${count(best.step)}`
  return `${file}; nothing says that this run wrote it, nor of which step it is${lowest ?? ''}`
}

function shown(value: RunSummary['options'][string]): string {
  const text = Array.isArray(value)
    ? value.join(' ')
    : typeof value === 'number'
      ? Number(value.toPrecision(6))
      : value
  return inOneLine(String(text))
}

/** Why no vector instructions are used, and what that means. */
function slow(): string {
  const why = process.env.RWKV_ISA === 'scalar' ? 'RWKV_ISA asks for it' : 'this processor has no AVX2'
  return ` (no vector instructions, many times slower: ${why})`
}

function table(rows: readonly Row[], output: Output): void {
  for (const [name, value] of rows) output.line(`${style.dim(name.padEnd(12))} ${value}`)
}

function tokenizerOf(model: Model): string | null {
  try {
    return model.tokenizer.kind
  } catch (error) {
    if (error instanceof RwkvError && error.code === 'TOKENIZER') return null
    throw error
  }
}
