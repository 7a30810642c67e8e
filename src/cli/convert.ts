import { basename } from 'node:path'
import { convert as convertFile } from '../convert.js'
import { convertTable } from '../option-tables.js'
import type { Progress } from '../options.js'
import { bytes, clock } from './format.js'
import { Interrupt } from './interrupt.js'
import { bar } from './live.js'
import { nextCommands } from './next.js'
import { style } from './output.js'
import { common, verb } from './verb.js'

/** `rwkv convert` */
export const convert = verb({
  name: 'convert',
  summary: 'bring a model into the format of another program',
  positionals: ['IN', 'OUT'],
  options: { ...convertTable, json: common.json },
  details: `
IN is a training run's directory or a model file: .bin, .pth, .safetensors or GGUF. OUT is the file to write, and its
name ends with its format:

  .bin          rwkv.cpp
  .pth          PyTorch, RWKV-LM and the Python package rwkv
  .safetensors  the same names, in Hugging Face's format
  .gguf         llama.cpp, of RWKV-7 alone

Without --data-type no weight is rounded: each keeps its format if OUT can hold it, and becomes FP32 otherwise.
With --json: {"input","output","from","to","fromType","toType","bytesIn","bytesOut","tensors","changed","seconds"}.`,
  async run([input = '', path = ''], { to, dataType }, output, signal) {
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
