import { join } from 'node:path'
import type { Model } from '../model.js'
import type { TrainOptionsInForce } from '../options.js'
import { quote } from '../shell.js'
import { State } from '../state.js'
import type { Trainer } from '../trainer.js'
import { count, near } from './format.js'

/** The state that `--state` names, for a session or an evaluation to start from. */
export async function startingState(
  model: Model,
  path: string | undefined,
  allowOtherBase: boolean | undefined,
): Promise<State | undefined> {
  return path === undefined ? undefined : State.load(model, path, { allowOtherBase })
}

/** What a run writes. */
export function trainedKind({ tune, loraRank }: TrainOptionsInForce): 'model' | 'lora' | 'state' {
  if (tune === 'state') return 'state'
  return loraRank === undefined ? 'model' : 'lora'
}

/** What a run trains, in a line; undefined if that is all of a new model. */
export function trainedWhat({ options, parameters, trainedParameters }: Trainer): string | undefined {
  const { loraRank, loraAlpha } = options
  const from = options.from && near(options.from)
  const [trained, all] = [count(trainedParameters), count(parameters)]
  const percent = Number(((100 * trainedParameters) / parameters).toPrecision(2))
  const share = `${percent} % of its ${all} parameters`
  switch (trainedKind(options)) {
    case 'state':
      return `training the initial state of ${from}: ${trained} values, ${share}`
    case 'lora':
      return `training LoRA adapters of ${from} (rank ${loraRank}, alpha ${loraAlpha}): ${trained} values, ${share}`
    default: {
      const some = trainedParameters === parameters ? 'all' : `${trained} of ${all}`
      if (from !== undefined) return `fine-tuning ${from}: ${some} parameters are trained`
      return some === 'all' ? undefined : `${some} parameters are trained`
    }
  }
}

/** What to type to use what a run has trained from another model. */
export function useCommands(options: TrainOptionsInForce): string[] {
  const { from, out } = options
  if (from === undefined) return []
  const [base, run] = [quote(near(from)), quote(out)]
  switch (trainedKind(options)) {
    case 'state':
      return [`rwkv generate ${base} --state ${run}`]
    case 'lora':
      return [
        `rwkv generate ${base} --lora ${run}`,
        `rwkv merge ${base} ${run} ${quote(join(out, 'merged.bin'))}`,
      ]
    default:
      return [`rwkv generate ${run}`]
  }
}
