// Learns a folder of Markdown in words, and completes what you type. After `npm run build`:
//
//   node .cache/examples/notes.mjs docs runs/notes
//
// The vocabulary is made of the texts themselves: byte pairs, which become words and parts of words. A third
// argument is the number of steps.

import { existsSync } from 'node:fs'
import { createInterface } from 'node:readline/promises'
import { Model, Trainer } from 'rwkv'

const [folder = 'docs', out = 'runs/notes', steps = '1500'] = process.argv.slice(2)

if (!existsSync(out)) {
  // A sentence is 20 to 40 tokens of such a vocabulary.
  const options = { tokenizer: 'bpe', ctxLen: 128, batchSize: 8, dropout: 0.1 } as const
  await using trainer = await Trainer.create({ data: folder, out, maxSteps: Number(steps), ...options })
  console.log(`${trainer.trainTokens} tokens to learn, of ${trainer.bytesPerToken?.toFixed(2)} bytes each`)
  for await (const { step, valLoss, bitsPerByte } of trainer)
    if (valLoss !== undefined) console.log(`step ${step}: ${bitsPerByte?.toFixed(3)} bits a byte`)
}

await using model = await Model.load(out)
const terminal = createInterface({ input: process.stdin, output: process.stdout, prompt: '> ' })
terminal.prompt()
for await (const line of terminal) {
  const session = model.createSession()
  process.stdout.write(line)
  const sampling = { maxTokens: 60, temperature: 0.8, topP: 0.95, stop: '\n\n' }
  for await (const text of session.generate(line, sampling)) process.stdout.write(text)
  process.stdout.write('\n\n')
  terminal.prompt()
}
