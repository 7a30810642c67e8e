import { Model } from '../model.js'
import { generateTable, loadTable, sampleTable } from '../option-tables.js'
import { exitCode } from './interrupt.js'
import { startingState } from './tuning.js'
import { common, tuned, verb } from './verb.js'

/** `rwkv generate` */
export const generate = verb({
  name: 'generate',
  summary: 'generate text from a prompt',
  positionals: ['MODEL'],
  options: {
    prompt: sampleTable.prompt,
    ...generateTable,
    ...tuned,
    unknown: loadTable.unknown,
    ...common,
  },
  details: `
MODEL is a training run's directory or a .bin file. With --json: {"prompt","text","tokens","seconds","tokensPerSecond"}.`,
  async run([path = ''], values, output, signal) {
    const { json: _, prompt: given, threads, lora, unknown, state, ...options } = values
    await using model = await Model.load(path, { lora, threads, unknown, signal })
    const prompt = given ?? ''
    const { tokenizer } = model
    const session = model.createSession({ state: await startingState(model, state) })
    const before = given?.trimStart() ?? ''
    const startedAt = performance.now()
    const writing = session.generate(prompt, { ...options, signal })
    let text = ''
    let shown = ''
    const show = (whole: string) => {
      output.text(whole.slice(shown.length))
      shown = whole
    }
    try {
      for await (const piece of writing) {
        text += piece
        // The prompt comes with the first piece: only now it is known to be one that the model can read.
        show(before + text)
      }
      show(before + text)
    } catch (error) {
      if (!signal.aborted) throw error
    }
    output.endText()
    const seconds = (performance.now() - startedAt) / 1000
    const tokens = writing.tokens.length
    output.object({
      prompt: given ?? tokenizer.decode(tokenizer.beginning()),
      text,
      tokens,
      seconds,
      tokensPerSecond: tokens / seconds,
    })
    return exitCode(signal)
  },
})
