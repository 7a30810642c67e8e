import { quantize as nativeQuantize } from '#native'
import { cancellable } from './cancel.js'
import type { Path } from './inputs.js'
import { argument, options as check, path, text } from './kinds.js'
import type { QuantizedFormat, QuantizeOptions, QuantizeResult } from './options.js'
import { quantizeOptions } from './schemas.js'

/**
 * Makes a model of FP32, FP16 or BF16 weights into a `.bin` file of a quantized format: smaller, and faster to run.
 *
 * The result is the file that rwkv.cpp makes, byte for byte: matrices are quantized, except the embedding,
 * the head and some narrow ones of RWKV-7; the rest stays as it is. `.bin` files of every version of RWKV can be
 * quantized, also of those that this package does not run. Of a `.pth`, `.safetensors` or GGUF file the result is that
 * of the FP32 `.bin` which {@link convert} makes of it. A few MB of memory are enough for any size.
 *
 * The output is renamed into place when it is whole; on an error or an abort there is none.
 *
 * @example
 * ```ts
 * import { Model, quantize } from 'rwkv'
 *
 * const { bytesIn, bytesOut } = await quantize('runs/book', 'runs/book/model-Q5_1.bin', 'Q5_1')
 * console.log(`${Math.round((100 * bytesOut) / bytesIn)} % of the size`)
 * await using model = await Model.load('runs/book/model-Q5_1.bin')
 * ```
 *
 * @param input A training run's directory, or a `.bin`, `.pth`, `.safetensors` or GGUF file.
 * @param output The file to write. It may be there already, but not be the input.
 * @throws {RwkvError} `IO`; `MODEL_FILE` for a damaged file, and for weights that are infinite or no numbers;
 *   `UNSUPPORTED` for a file that is quantized already, and for rows that are no multiple of 32;
 *   `FILE_CHANGED` if the input is written to meanwhile; `INVALID_OPTION` or `ISA`.
 */
export async function quantize(
  input: Path,
  output: Path,
  format: QuantizedFormat,
  options: QuantizeOptions = {},
): Promise<QuantizeResult> {
  const from = argument('input', path, input)
  const to = argument('output', path, output)
  argument('format', text, format)
  const { threads, ...controls } = check('quantize()', quantizeOptions, options)
  const made = await cancellable(controls, cancel => nativeQuantize(from, to, format, threads, cancel))
  return made as QuantizeResult
}
