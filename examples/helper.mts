// Makes a helper of a model that has learned to write: it is shown tasks with their answers, and then given a task
// alone. After `npm run build` and examples/notes.mts, which leaves a model of your notes:
//
//   node .cache/examples/helper.mjs runs/notes mails.jsonl runs/helper "Subject: your visit"
//
// Each line of the file is an example, {"text": "Subject: lunch\n\nDear Ann, ..."}: mails with their subjects, or
// commits with their messages, or functions with what they do. What is learned is an adapter (LoRA), a file of some
// hundred kilobytes; the model itself stays as it is. A fifth argument is the number of steps.

import { existsSync } from 'node:fs'
import { Model, Trainer } from 'rwkv'

const [
  from = 'runs/notes',
  data = 'mails.jsonl',
  out = 'runs/helper',
  task = 'Subject: your visit',
  steps = '300',
] = process.argv.slice(2)

if (!existsSync(out)) {
  await using trainer = await Trainer.create({ from, data, out, loraRank: 8, maxSteps: Number(steps) })
  console.log(`${trainer.trainedParameters} parameters to learn, beside the model's ${trainer.parameters}`)
  for await (const { step, valLoss } of trainer)
    if (valLoss !== undefined) console.log(`step ${step}: validation loss ${valLoss.toFixed(3)}`)
}

await using model = await Model.load(from, { lora: out })
const session = model.createSession()
// It is to answer and not to invent; and it has come to an end when it begins with another task.
const sampling = { maxTokens: 200, temperature: 0.6, topP: 0.9, seed: 1, stop: task.split(' ')[0] }
process.stdout.write(`${task}\n\n`)
for await (const text of session.generate(`${task}\n\n`, sampling)) process.stdout.write(text)
process.stdout.write('\n')
