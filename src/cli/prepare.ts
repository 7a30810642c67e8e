import { prepareTable } from '../option-tables.js'
import type { Progress } from '../options.js'
import { prepare as prepareFiles } from '../prepare.js'
import { quote } from '../shell.js'
import { bytes, clock, count } from './format.js'
import { Interrupt } from './interrupt.js'
import { bar } from './live.js'
import { style } from './output.js'
import { UsageError } from './usage.js'
import { common, verb } from './verb.js'

/** `rwkv prepare` */
export const prepare = verb({
  name: 'prepare',
  summary: 'make files of tokens of texts, to train from',
  positionals: ['INPUT...'],
  options: { ...prepareTable, json: common.json },
  details: `
INPUT is shakespeare_char, shakespeare or openwebtext, which are downloaded and made as nanoGPT makes them; or files,
folders, patterns like "books/*.txt", and - for standard input. JSON Lines (.jsonl) and Parquet have a document a line or
row, any other file is one; all but Parquet can be packed with gzip (.gz) or Zstandard (.zst).

Writes train.bin, val.bin, tokenizer.json and prepare.json. It needs little memory for any size, and after Ctrl-C or a kill
the same command goes on where it was. Then: rwkv train --data DIR.
With --json: {"out","tokenizer","nVocab","train","val","wasFinished","notes","seconds"}; train and val are
{"documents","bytes","tokens"}.`,
  async run(inputs, { json: _, out, ...options }, output, signal) {
    if (out === undefined) throw new UsageError('--out is missing', 'rwkv prepare INPUT --out DIR')
    const startedAt = performance.now()
    const seconds = () => (performance.now() - startedAt) / 1000
    let passAt = 0
    let before = 0
    const onProgress = ({ done, total }: Progress) => {
      // Each pass over the texts counts from the beginning.
      if (done < before) passAt = seconds()
      before = done
      const left = done > 0 ? `  ${clock((seconds() - passAt) * (total / done - 1))} left` : ''
      output.live(
        `${style.cyan(bar(total > 0 ? done / total : 0, 20))} ${bytes(done)} of ${bytes(total)}${left}`,
      )
    }
    const made = await prepareFiles(inputs, { out, ...options, signal, onProgress }).catch(error => {
      output.done()
      if (error !== signal.reason || !(error instanceof Interrupt)) throw error
      output.object({ event: 'interrupted', out })
      output.line(`stopped: the same command goes on where it was, in ${out}`)
      return error.exitCode
    })
    if (typeof made === 'number') return made
    output.object({ ...made, seconds: seconds() })
    for (const note of made.notes) output.prose(note)
    const { train, val, nVocab, wasFinished } = made
    const documents = train.documents === 1 ? 'one document' : `${count(train.documents)} documents`
    const validation = val === undefined ? 'none' : count(val.tokens)
    output.line(
      `${style.bold(count(train.tokens))} tokens to learn, of ${documents}, and ${validation} to validate; ` +
        `a vocabulary of ${count(nVocab)}`,
    )
    if (wasFinished) output.line(`${out} was finished before, and is as it was`)
    else output.line(`${bytes(train.bytes + (val?.bytes ?? 0))} of text in ${seconds().toFixed(1)} s`)
    output.line(`  rwkv train --data ${quote(out)}`)
    return 0
  },
})
