// Learns a text twice, with two learning rates, and lays the curves of both over each other in one page. After
// `npm run build`:
//
//   node .cache/examples/learning-rates.mjs book.txt runs/rates
//
// A third argument is the number of steps. The runs have the same seed: they begin with the same parameters, and
// read the same sequences in the same order.

import { join } from 'node:path'
import { Trainer, writeReport } from 'rwkv'

const [data = 'book.txt', folder = 'runs/rates', steps = '500'] = process.argv.slice(2)

const runs: string[] = []
for (const learningRate of [0.001, 0.004]) {
  const out = join(folder, `rate-${learningRate}`)
  runs.push(out)
  await using trainer = await Trainer.create({
    data,
    out,
    learningRate,
    maxSteps: Number(steps),
    evalInterval: 50,
  })
  for await (const { step, loss, valLoss } of trainer)
    if (valLoss !== undefined)
      console.log(`${learningRate}: step ${step}, loss ${loss.toFixed(3)}, ${valLoss.toFixed(3)}`)
  console.log(`${learningRate}: the best validation loss is ${trainer.best?.valLoss.toFixed(4)}`)
}
console.log(await writeReport(runs, { out: join(folder, 'report.html'), force: true }))
