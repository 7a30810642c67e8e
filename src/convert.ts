import { convert as nativeConvert } from '#native'
import { cancellable } from './cancel.js'
import type { Path } from './inputs.js'
import { argument, options as check, path } from './kinds.js'
import type { ConvertOptions, ConvertResult } from './options.js'
import { convertOptions } from './schemas.js'

/**
 * Writes a model in the format of another program: rwkv.cpp's `.bin`, PyTorch's `.pth`, Hugging Face's `.safetensors`
 * (both with the names of official checkpoints), or GGUF for llama.cpp.
 *
 * Without `dataType` no weight is rounded: each keeps its format if the output can hold it, and becomes FP32 otherwise.
 * (The decays of RWKV-4, of which `.bin` holds a function, change in the last digit.) Quantized weights keep their
 * blocks in `.bin` and GGUF. GGUF has the vocabulary of a model of World tokens or bytes; there is none of RWKV-4. A few
 * MB of memory are enough for any size.
 *
 * The output is renamed into place when it is whole; on an error or an abort there is none.
 *
 * @example
 * ```ts
 * import { convert } from 'rwkv'
 *
 * const { toType, changed } = await convert('runs/book', 'book.pth')
 * console.log(`${toType}, ${changed} weights were rounded`)
 * ```
 *
 * @param input A training run's directory, or a model file of any of these formats.
 * @param output The file to write. It may be there already, but not be the input.
 * @throws {RwkvError} `IO`; `MODEL_FILE` for a damaged file, and for weights that are infinite or no numbers;
 *   `UNSUPPORTED` for a model that the output's program does not know; `FILE_CHANGED` if the input is written to
 *   meanwhile; `INVALID_OPTION`, also for a `dataType` that is too small for a weight.
 */
export async function convert(
  input: Path,
  output: Path,
  options: ConvertOptions = {},
): Promise<ConvertResult> {
  const from = argument('input', path, input)
  const file = argument('output', path, output)
  const { to, dataType, ...controls } = check('convert()', convertOptions, options)
  const made = await cancellable(controls, cancel => nativeConvert(from, file, to, dataType, cancel))
  return made as ConvertResult
}
