import { RwkvError } from '../errors.js'
import { Model } from '../model.js'
import { bytes, count } from './format.js'
import { style } from './output.js'
import { common, verb } from './verb.js'

/** `rwkv info` */
export const info = verb({
  name: 'info',
  summary: 'say what a model is and how it runs here',
  positionals: ['MODEL'],
  options: common,
  details: `
MODEL is a training run's folder or a .bin file.`,
  async run([path = ''], { threads }, output, signal) {
    await using model = await Model.load(path, { threads, signal })
    const { config, parameters, format, fileSize, isa } = model
    const tokenizer = tokenizerOf(model)
    output.object({ path, ...config, parameters, format, fileSize, tokenizer, isa, threads: model.threads })
    const { version, nLayer, nEmbd, nFfn, nVocab } = config
    const rows = [
      ['model', path],
      ['version', version.replace('v', 'RWKV-')],
      ['shape', `n_layer ${nLayer}, n_embd ${nEmbd}, n_ffn ${nFfn}, n_vocab ${nVocab}`],
      ['parameters', count(parameters)],
      ['format', `${format}, ${bytes(fileSize)}`],
      ['tokenizer', tokenizer ?? 'none: only tokens can be evaluated'],
      ['runs on', `${isa}, ${model.threads} threads`],
    ] as const
    for (const [name, value] of rows) output.line(`${style.dim(name.padEnd(11))} ${value}`)
    return 0
  },
})

function tokenizerOf(model: Model): string | null {
  try {
    return model.tokenizer.kind
  } catch (error) {
    if (error instanceof RwkvError && error.code === 'TOKENIZER') return null
    throw error
  }
}
