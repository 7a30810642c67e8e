import type { Trainer } from '../trainer.js'
import type { Output } from './output.js'
import { lowerRate } from './resume.js'

/** Says so if the model that a run has just saved is far above chance: nothing else about it would tell. */
export function tellUnsound(trainer: Trainer, output: Output): void {
  const { saved, options, steps, tokenizer } = trainer
  if (saved === undefined || saved.isSound) return
  const { valLoss, wroteModel } = saved
  const chance = Math.log(tokenizer.nVocab)
  const resume = lowerRate(options)
  output.object({ event: 'unsound', steps, valLoss, chance, wroteModel, resume })
  output.line(
    `this model is worse than guessing: its validation loss is ${valLoss.toPrecision(4)}, that of guessing ${chance.toFixed(3)}`,
  )
  if (!wroteModel) output.line(`${trainer.result} is still the one saved before`)
  output.line('to go on from the last checkpoint that was better, or from the beginning, with a lower rate:')
  output.line(`  ${resume}`)
}
