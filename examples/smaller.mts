// Makes a trained model smaller, and says what that costs and gains. After `npm start`:
//
//   node .cache/examples/smaller.mjs runs/moby-dick .cache/moby-dick.txt
//
// The quantized files are written beside the model. The text is read in windows, as training does.

import { join } from 'node:path'
import { Model, type QuantizedFormat, quantize } from 'rwkv'

const [run = 'runs/moby-dick', text = '.cache/moby-dick.txt'] = process.argv.slice(2)
const formats: QuantizedFormat[] = ['Q8_0', 'Q5_1', 'Q4_0']

await measure(join(run, 'model.bin'))
for (const format of formats) {
  const path = join(run, `model-${format}.bin`)
  await quantize(run, path, format)
  await measure(path)
}

async function measure(path: string): Promise<void> {
  await using model = await Model.load(path)
  const { loss } = await model.evaluate(text, { ctxLen: 128 })
  const { decodeTokensPerSecond, readBandwidthShare } = await model.bench({ seconds: 1 })
  const size = `${(model.fileSize / 1e6).toFixed(2)} MB`
  const speed = `${Math.round(decodeTokensPerSecond)} tokens/s`
  const share = `${Math.round(100 * readBandwidthShare)} % of the memory's speed`
  console.log(`${model.format}  ${size}  loss ${loss.toFixed(4)}  ${speed}, ${share}`)
}
