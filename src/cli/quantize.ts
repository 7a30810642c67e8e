import { basename } from 'node:path'
import type { Progress, QuantizedFormat } from '../options.js'
import { quantize as quantizeFile } from '../quantize.js'
import { bytes, clock } from './format.js'
import { Interrupt } from './interrupt.js'
import { bar } from './live.js'
import { nextCommands } from './next.js'
import { style } from './output.js'
import { common, verb } from './verb.js'

/** `rwkv quantize` */
export const quantize = verb({
  name: 'quantize',
  summary: 'make a model smaller and faster',
  positionals: ['IN', 'OUT', 'FORMAT'],
  options: common,
  details: `
IN is a training run's directory, a .bin file of FP32 or FP16 weights, of any version of RWKV, or a .pth, .safetensors or
GGUF file. OUT is the .bin file to write.
FORMAT is one of

  Q8_0  8.5 bits a weight, the most exact
  Q5_1  6 bits
  Q5_0  5.5 bits
  Q4_1  5 bits
  Q4_0  4.5 bits, the smallest

The file is the one that rwkv.cpp makes, byte for byte. Embedding, head and vectors stay as they are; those of
other files become FP32.
With --json: {"input","output","from","to","bytesIn","bytesOut","tensors","quantized","seconds"}.`,
  async run([input = '', path = '', format = ''], { threads }, output, signal) {
    const startedAt = performance.now()
    const seconds = () => (performance.now() - startedAt) / 1000
    const onProgress = ({ done, total }: Progress) => {
      const left = done > 0 ? `  ${clock(seconds() * (total / done - 1))} left` : ''
      output.live(`${style.cyan(bar(done / total, 20))} ${bytes(done)} of ${bytes(total)}${left}`)
    }
    // The word is looked at in Rust, whose message lists what there is.
    const options = { threads, signal, onProgress }
    const made = await quantizeFile(input, path, format as QuantizedFormat, options).catch(error => {
      output.done()
      if (error !== signal.reason || !(error instanceof Interrupt)) throw error
      output.object({ event: 'interrupted', output: path })
      output.line(`stopped: ${path} was not written`)
      return error.exitCode
    })
    if (typeof made === 'number') return made
    const { from, to, bytesIn, bytesOut, tensors, quantized } = made
    output.object({ input, output: path, ...made, seconds: seconds() })
    const share = Math.round((100 * bytesOut) / bytesIn)
    output.line(
      `${basename(input)} ${from} ${bytes(bytesIn)} → ${style.bold(`${to} ${bytes(bytesOut)}`)} (${share} %), ` +
        `${seconds().toFixed(1)} s; ${quantized} of ${tensors} tensors quantized`,
    )
    for (const line of await nextCommands(input, path)) output.line(`  ${line}`)
    return 0
  },
})
