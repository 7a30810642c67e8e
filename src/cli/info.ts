import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { RwkvError } from '../errors.js'
import { adapterInfo } from '../lora.js'
import { Model } from '../model.js'
import { bytes, count } from './format.js'
import { type Output, style } from './output.js'
import { common, verb } from './verb.js'

/** `rwkv info` */
export const info = verb({
  name: 'info',
  summary: 'show information on a model or a LoRA adapter',
  positionals: ['MODEL'],
  options: common,
  details: `
MODEL is a training run's directory or a .bin file. It can also be a LoRA adapter: a .safetensors file, or the directory of
the run that trained it.`,
  async run([path = ''], { threads }, output, signal) {
    if (await isAdapter(path)) return adapter(path, output)
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
      ['runs on', `${isa}, ${model.threads} threads${isa === 'scalar' ? slow() : ''}`],
    ] as const
    table(rows, output)
    return 0
  },
})

async function adapter(path: string, output: Output): Promise<number> {
  const { rank, alpha, targets, parameters, fileSize, base } = await adapterInfo(path)
  output.object({ path, rank, alpha, targets, parameters, fileSize, base })
  const rows = [
    ['adapter', path],
    ['of a model', base],
    ['LoRA', `rank ${rank}, alpha ${alpha}`],
    ['parameters', count(parameters)],
    ['format', `FP32, ${bytes(fileSize)}`],
    ['matrices', `${targets.length}: ${targets.join(', ')}`],
  ] as const
  table(rows, output)
  return 0
}

/** Why no vector instructions are used, and what that means. */
function slow(): string {
  const why = process.env.RWKV_ISA === 'scalar' ? 'RWKV_ISA asks for it' : 'this processor has no AVX2'
  return ` (no vector instructions, many times slower: ${why})`
}

function table(rows: readonly (readonly [name: string, value: string])[], output: Output): void {
  for (const [name, value] of rows) output.line(`${style.dim(name.padEnd(11))} ${value}`)
}

/** Whether a path names an adapter and no model. */
async function isAdapter(path: string): Promise<boolean> {
  if (path.endsWith('.safetensors')) return true
  const isThere = (name: string) =>
    stat(join(path, name)).then(
      () => true,
      () => false,
    )
  return (await isThere('lora.safetensors')) && !(await isThere('model.bin'))
}

function tokenizerOf(model: Model): string | null {
  try {
    return model.tokenizer.kind
  } catch (error) {
    if (error instanceof RwkvError && error.code === 'TOKENIZER') return null
    throw error
  }
}
