import { basename } from 'node:path'
import { placeOf } from '#native'
import { convertAdapter, convert as convertFile, convertState } from '../convert.js'
import { RwkvError } from '../errors.js'
import { convertTable } from '../option-tables.js'
import type { Progress } from '../options.js'
import { bytes, clock } from './format.js'
import { Interrupt } from './interrupt.js'
import { bar } from './live.js'
import { nextCommands } from './next.js'
import { type Output, style } from './output.js'
import { common, verb } from './verb.js'

/** All formats; models have one more than the rest, and adapters too. */
const to = { ...convertTable.to, words: [...convertTable.to.words, 'peft'] } as const

/** `rwkv convert` */
export const convert = verb({
  name: 'convert',
  summary: 'bring a model, LoRA adapter or state into the format of another program',
  positionals: ['IN', 'OUT'],
  options: { ...convertTable, to, json: common.json },
  details: `
IN is a training run's directory or a model file: .bin, .pth, .safetensors or GGUF. OUT is the file to write, and its
name ends with its format:

  .bin          rwkv.cpp
  .pth          PyTorch, RWKV-LM and the Python package rwkv
  .safetensors  the same names, in Hugging Face's format
  .gguf         llama.cpp, of RWKV-7 alone

Without --data-type no weight is rounded: each keeps its format if OUT can hold it, and becomes FP32 otherwise.

IN can also be a LoRA adapter, which becomes RWKV-PEFT's if OUT ends with .pth, and otherwise PEFT's, a directory; or the
state that a run tuned for an RWKV-7, which becomes RWKV-PEFT's time_state: .pth or .safetensors.
With --json: {"input","output","from","to","fromType","toType","bytesIn","bytesOut","tensors","changed","seconds"}; of an
adapter {"input","output","to","rank","alpha","adapted","bytesOut"}, of a state {"input","output","to","bytesOut"}.`,
  async run([input = '', path = ''], { to, dataType }, output, signal) {
    const { content } = await placeOf(input)
    if (content !== 'model' && dataType !== undefined) {
      throw new RwkvError('INVALID_OPTION', `--data-type is for models; ${input} is no model, and stays FP32`)
    }
    if (content === 'adapter') return await ofAdapter(input, path, to, output)
    if (content === 'state') return await ofState(input, path, to, output)
    if (to === 'peft') {
      throw new RwkvError('INVALID_OPTION', `--to peft is for LoRA adapters; ${input} is none`)
    }
    const startedAt = performance.now()
    const seconds = () => (performance.now() - startedAt) / 1000
    const onProgress = ({ done, total }: Progress) => {
      const left = done > 0 ? `  ${clock(seconds() * (total / done - 1))} left` : ''
      output.live(`${style.cyan(bar(done / total, 20))} ${bytes(done)} of ${bytes(total)}${left}`)
    }
    const made = await convertFile(input, path, { to, dataType, signal, onProgress }).catch(error => {
      output.done()
      if (error !== signal.reason || !(error instanceof Interrupt)) throw error
      output.object({ event: 'interrupted', output: path })
      output.line(`stopped: ${path} was not written`)
      return error.exitCode
    })
    if (typeof made === 'number') return made
    const { fromType, toType, bytesIn, bytesOut, tensors, changed } = made
    output.object({ input, output: path, ...made, seconds: seconds() })
    const rounded =
      changed === 0 ? 'no weight was rounded' : `${changed.toLocaleString('en')} weights rounded`
    output.line(
      `${basename(input)} ${fromType} ${bytes(bytesIn)} → ${style.bold(`${made.to} ${toType} ${bytes(bytesOut)}`)}, ` +
        `${seconds().toFixed(1)} s; ${tensors} tensors, ${rounded}`,
    )
    for (const line of await nextCommands(input, path)) output.line(`  ${line}`)
    return 0
  },
})

type To = (typeof to.words)[number] | undefined

async function ofAdapter(input: string, path: string, to: To, output: Output): Promise<number> {
  const known =
    to === undefined || to === 'pth' || to === 'peft' ? to : wrong(to, 'a LoRA adapter', 'pth or peft')
  const made = await convertAdapter(input, path, { to: known })
  output.object({ input, output: path, ...made })
  const { adapted, rank, alpha, bytesOut } = made
  const whose = made.to === 'peft' ? 'PEFT' : 'RWKV-PEFT'
  output.line(
    `${style.bold(path)}: an adapter of ${whose}, ${adapted} matrices, rank ${rank}, ${bytes(bytesOut)}`,
  )
  if (made.to === 'pth')
    output.line(`  its alpha, ${alpha}, is not in it: give RWKV-PEFT --lora_alpha ${alpha}`)
  return 0
}

async function ofState(input: string, path: string, to: To, output: Output): Promise<number> {
  const known =
    to === undefined || to === 'pth' || to === 'safetensors' ? to : wrong(to, 'a state', 'pth or safetensors')
  const made = await convertState(input, path, { to: known })
  output.object({ input, output: path, ...made })
  output.line(`${style.bold(path)}: a time_state, ${bytes(made.bytesOut)}`)
  return 0
}

function wrong(to: string, what: string, expected: string): never {
  throw new RwkvError('INVALID_OPTION', `--to ${to}: the input is ${what}; expected ${expected}`)
}
