import { Model } from '../model.js'
import { evaluateTable, loadTable } from '../option-tables.js'
import { clock, count } from './format.js'
import { bar } from './live.js'
import { style } from './output.js'
import { startingState } from './tuning.js'
import { UsageError } from './usage.js'
import { common, tuned, verb } from './verb.js'

/** `rwkv eval` */
export const evaluate = verb({
  name: 'eval',
  summary: 'measure how well a model predicts a text',
  positionals: ['MODEL'],
  options: {
    data: {
      kind: 'paths',
      value: 'FILE',
      help: 'the text: files, folders, patterns, or - for standard input',
    },
    ...evaluateTable,
    ...tuned,
    unknown: loadTable.unknown,
    ...common,
  },
  details: `
MODEL is a training run's directory or a .bin file. Texts are what rwkv train takes, except files of tokens; several are
read one after the other, with the end of text between them. With --json: {"tokens","loss","perplexity","bitsPerByte"}, the loss in
nats a token.`,
  async run(
    [path = ''],
    { data, ctxLen, textField, invalid, stdin, threads, lora, allowOtherBase, loraAlpha, unknown, state },
    output,
    signal,
  ) {
    if (data === undefined) throw new UsageError('--data is missing', 'rwkv eval MODEL --data FILE')
    await using model = await Model.load(path, { lora, allowOtherBase, loraAlpha, threads, unknown, signal })
    const startedAt = performance.now()
    const onProgress = ({ done, total }: { done: number; total: number }) => {
      const left = ((performance.now() - startedAt) / 1000) * (total / done - 1)
      output.live(
        `${style.cyan(bar(done / total, 20))} ${count(done)}/${count(total)} tokens  ${clock(left)} left`,
      )
    }
    const { tokens, loss, perplexity, bitsPerByte } = await model.evaluate(data, {
      ctxLen,
      textField,
      invalid,
      stdin,
      state: await startingState(model, state, allowOtherBase),
      signal,
      onProgress,
    })
    output.object({ tokens, loss, perplexity, bitsPerByte })
    output.line(
      `${count(tokens)} tokens: loss ${style.bold(loss.toFixed(4))}, perplexity ${perplexity.toFixed(3)}, ${bitsPerByte.toFixed(4)} bits a byte`,
    )
    return 0
  },
})
