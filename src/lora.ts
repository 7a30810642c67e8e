import { adapterInfo as nativeInfo, merge as nativeMerge } from '#native'
import { cancellable } from './cancel.js'
import { toRwkvError } from './errors.js'
import type { Path } from './inputs.js'
import { argument, options as check, path as pathKind } from './kinds.js'
import type { AdapterInfo, MergeOptions, MergeResult } from './options.js'
import { mergeOptions } from './schemas.js'

/**
 * Adds a LoRA adapter to the matrices of its base model, and writes the result as a `.bin` file of its own.
 *
 * FP32 matrices stay FP32 and FP16 ones FP16, rounded to nearest. Quantized matrices become FP16:
 * {@link quantize} makes them small again, at the cost of some of what was learned. BF16 ones become FP32, because
 * `.bin` files have no BF16. All else is copied. Of the base a few MB are in memory at a time.
 *
 * The output is renamed into place when it is whole; on an error or an abort there is none.
 *
 * @example
 * ```ts
 * import { merge, Model, Trainer } from 'rwkv'
 *
 * const options = { data: 'book.txt', from: 'runs/book', out: 'runs/adapted', loraRank: 4, maxSteps: 10 }
 * await using trainer = await Trainer.create(options)
 * for await (const { step, loss } of trainer) console.log(step, loss)
 *
 * await using adapted = await Model.load('runs/book', { lora: 'runs/adapted' })
 * const { to, bytesOut } = await merge('runs/book', 'runs/adapted', 'runs/adapted/merged.bin')
 * console.log(to, bytesOut)
 * ```
 *
 * @param base A training run's directory, or a `.bin`, `.pth`, `.safetensors` or GGUF file.
 * @param adapter The directory of the run that trained it, or its `.safetensors` file; or what PEFT or RWKV-PEFT wrote, see
 *   {@link LoadOptions.lora}.
 * @param output The file to write. It may be there already, but be neither base nor adapter.
 * @throws {RwkvError} `ADAPTER` if the adapter is damaged or was trained on another model (see
 *   {@link MergeOptions.allowOtherBase}); `NOT_FINITE` if a
 *   weight of the result is infinite, not a number, or too large for FP16; `FILE_CHANGED` if the base is
 *   written to meanwhile; `IO`, `MODEL_FILE`, `UNSUPPORTED` or `INVALID_OPTION`.
 */
export async function merge(
  base: Path,
  adapter: Path,
  output: Path,
  options: MergeOptions = {},
): Promise<MergeResult> {
  const files = [
    argument('base', pathKind, base),
    argument('adapter', pathKind, adapter),
    argument('output', pathKind, output),
  ] as const
  const { allowOtherBase, loraAlpha: alpha, ...controls } = check('merge()', mergeOptions, options)
  const merged = await cancellable(controls, cancel =>
    nativeMerge(...files, { allowOtherBase, alpha }, cancel),
  )
  return merged as MergeResult
}

/**
 * What a LoRA adapter's file says of it. Only its header is read.
 *
 * @param path The `.safetensors` file, or the directory of the run that trained it; or what PEFT or RWKV-PEFT wrote.
 * @throws {RwkvError} `ADAPTER` if it is no adapter or is damaged; `IO` or `INVALID_OPTION`.
 */
export async function adapterInfo(path: Path): Promise<AdapterInfo> {
  const file = argument('path', pathKind, path)
  try {
    const { alpha = null, base = null, ...info } = await nativeInfo(file)
    return { ...info, alpha, base }
  } catch (error) {
    throw toRwkvError(error)
  }
}
