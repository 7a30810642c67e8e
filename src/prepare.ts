import { prepare as nativePrepare } from '#native'
import { cancellable } from './cancel.js'
import type { Path } from './inputs.js'
import { argument, options as check, paths } from './kinds.js'
import type { PrepareOptions, PrepareResult } from './options.js'
import { prepareOptions } from './schemas.js'

/**
 * Makes files of tokens of texts, for runs whose text is larger than memory, as nanoGPT's `data` folder does:
 * `train.bin`, `val.bin`, `tokenizer.json`, and `prepare.json`, which is written last. The folder is what
 * `data` of a run can be.
 *
 * It reads in a stream, on all threads, and the files are the same with any number of them. When it is stopped
 * or killed, the next call with the same options goes on where it was.
 *
 * @example
 * ```ts
 * import { prepare, Trainer } from 'rwkv'
 *
 * const { train } = await prepare(['book.txt'], { out: 'data/book', tokenizer: 'gpt2' })
 * console.log(`${train.tokens} tokens`)
 * await using trainer = await Trainer.create({ data: 'data/book', out: 'runs/words', maxSteps: 10, ctxLen: 16 })
 * ```
 *
 * @param inputs `shakespeare_char`, `shakespeare` or `openwebtext`, which are downloaded and made as nanoGPT
 *   makes them, the first two to the same bytes; or files, folders, patterns such as `books/*.txt`, and `-` for
 *   standard input. JSON Lines (`.jsonl`) and Parquet have a document a line or row, any other file is one, and
 *   all but Parquet can be packed with gzip or Zstandard.
 * @throws {RwkvError} `IO`, also for a download that fails; `DATA` for texts that cannot be read, with their
 *   place, and for a folder with files of somebody else; `TOKENIZER`; `INVALID_OPTION`.
 */
export async function prepare(
  inputs: Path | readonly Path[],
  options: PrepareOptions,
): Promise<PrepareResult> {
  const named = argument('inputs', paths, inputs)
  const { from, val, ...given } = check('prepare()', prepareOptions, options)
  const { signal, onProgress, textField, invalid, stdin, ...others } = given
  const settings = {
    ...others,
    texts: { textField, invalid, stdin },
    ...(from !== undefined && { from: [from].flat() }),
    ...(val !== undefined && { val: [val].flat() }),
  }
  const made = await cancellable({ signal, onProgress }, cancel =>
    nativePrepare([named].flat(), settings, cancel),
  )
  return made as PrepareResult
}
