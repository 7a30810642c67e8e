import {
  convertAdapter as nativeAdapter,
  convert as nativeConvert,
  convertState as nativeState,
} from '#native'
import { cancellable } from './cancel.js'
import { toRwkvError } from './errors.js'
import type { Path } from './inputs.js'
import { argument, options as check, path } from './kinds.js'
import type {
  ConvertAdapterOptions,
  ConvertAdapterResult,
  ConvertOptions,
  ConvertResult,
  ConvertStateOptions,
  ConvertStateResult,
} from './options.js'
import { convertAdapterOptions, convertOptions, convertStateOptions } from './schemas.js'

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

/**
 * Writes a LoRA adapter for PEFT or RWKV-PEFT: the same numbers, under the names that these give them. (What they wrote is
 * used as it is: {@link LoadOptions.lora}.)
 *
 * A file of RWKV-PEFT does not hold alpha: whoever merges it gives `lora_alpha` again.
 *
 * @example
 * ```ts
 * import { convertAdapter } from 'rwkv'
 *
 * const { rank, alpha } = await convertAdapter('runs/adapted', 'adapted.pth')
 * console.log(`rank ${rank}, alpha ${alpha}`)
 * ```
 *
 * @param input The directory of the run that trained it, or its `.safetensors` file.
 * @param output A `.pth` file, for RWKV-PEFT, or a directory, for PEFT. The file may be there already, but not be the input;
 *   the directory has to be new, empty or PEFT's.
 * @throws {RwkvError} `ADAPTER` if the input is damaged or another program's; `IO` or `INVALID_OPTION`.
 */
export async function convertAdapter(
  input: Path,
  output: Path,
  options: ConvertAdapterOptions = {},
): Promise<ConvertAdapterResult> {
  const from = argument('input', path, input)
  const file = argument('output', path, output)
  const { to } = check('convertAdapter()', convertAdapterOptions, options)
  try {
    return (await nativeAdapter(from, file, to)) as ConvertAdapterResult
  } catch (error) {
    throw toRwkvError(error)
  }
}

/**
 * Writes a state that was tuned for an RWKV-7 as `time_state`, for RWKV-PEFT and the programs that use its states. (Such
 * files are used as they are: {@link State.load}.)
 *
 * @example
 * ```ts
 * import { convertState } from 'rwkv'
 *
 * const { bytesOut } = await convertState('runs/tuned', 'tuned.pth')
 * console.log(`${bytesOut} bytes`)
 * ```
 *
 * @param input The directory of the run that tuned it, or a file of {@link State.toBuffer}.
 * @param output The file to write, `.pth` or `.safetensors`. It may be there already, but not be the input.
 * @throws {RwkvError} `STATE` if the input is damaged, of another version than RWKV-7, or the state after a text; `IO` or
 *   `INVALID_OPTION`.
 */
export async function convertState(
  input: Path,
  output: Path,
  options: ConvertStateOptions = {},
): Promise<ConvertStateResult> {
  const from = argument('input', path, input)
  const file = argument('output', path, output)
  const { to } = check('convertState()', convertStateOptions, options)
  try {
    return (await nativeState(from, file, to)) as ConvertStateResult
  } catch (error) {
    throw toRwkvError(error)
  }
}
