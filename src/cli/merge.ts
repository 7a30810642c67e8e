import { basename } from 'node:path'
import { merge as mergeFiles } from '../lora.js'
import { mergeTable } from '../option-tables.js'
import type { Progress } from '../options.js'
import { bytes, clock } from './format.js'
import { Interrupt } from './interrupt.js'
import { bar } from './live.js'
import { nextCommands } from './next.js'
import { style } from './output.js'
import { common, verb } from './verb.js'

/** `rwkv merge` */
export const merge = verb({
  name: 'merge',
  summary: 'add a LoRA adapter to its model, as a model file of its own',
  positionals: ['BASE', 'ADAPTER', 'OUT'],
  options: { ...mergeTable, json: common.json },
  details: `
BASE is the model that the adapter was trained on: a run's directory, or a .bin, .pth, .safetensors or GGUF file. ADAPTER is the directory of the run
that trained it, or its .safetensors file. OUT is the .bin file to write. FP32 and FP16 weights stay in their format,
BF16 ones become FP32, quantized ones FP16, and rwkv quantize makes them small again.
With --json: {"base","adapter","output","from","to","bytesIn","bytesOut","adapted","tensors","seconds"}.`,
  async run([base = '', adapter = '', output = ''], { allowOtherBase, loraAlpha }, out, signal) {
    const startedAt = performance.now()
    const seconds = () => (performance.now() - startedAt) / 1000
    const onProgress = ({ done, total }: Progress) => {
      const left = done > 0 ? `  ${clock(seconds() * (total / done - 1))} left` : ''
      out.live(`${style.cyan(bar(done / total, 20))} ${bytes(done)} of ${bytes(total)}${left}`)
    }
    const merged = await mergeFiles(base, adapter, output, {
      allowOtherBase,
      loraAlpha,
      signal,
      onProgress,
    }).catch(error => {
      out.done()
      if (error !== signal.reason || !(error instanceof Interrupt)) throw error
      out.object({ event: 'interrupted', output })
      out.line(`stopped: ${output} was not written`)
      return error.exitCode
    })
    if (typeof merged === 'number') return merged
    const { from, to, bytesIn, bytesOut, adapted, tensors } = merged
    out.object({ base, adapter, output, ...merged, seconds: seconds() })
    out.line(
      `${basename(base)} ${from} ${bytes(bytesIn)} → ${style.bold(`${to} ${bytes(bytesOut)}`)}, ` +
        `${seconds().toFixed(1)} s; the adapter changed ${adapted} of ${tensors} tensors`,
    )
    if (from === 'BF16') out.line(`.bin files have no BF16: weights became ${to}`)
    else if (from !== to) out.line(`quantized weights became ${to}; rwkv quantize makes them small again`)
    for (const line of await nextCommands(base, output)) out.line(`  ${line}`)
    return 0
  },
})
