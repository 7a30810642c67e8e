import { placeOf } from '#native'
import { RwkvError } from './errors.js'
import { MOST_CONFIG, readRegular } from './files.js'
import { quote } from './shell.js'

/**
 * What to say of the directory of a run that trained an adapter or a state: there is no model in it to be
 * loaded. Undefined for everything else.
 */
export async function tunedRun(path: string): Promise<RwkvError | undefined> {
  const { config, hasModel, hasAdapter: isLora, hasState } = await placeOf(path)
  if (config === undefined || hasModel || !(isLora || hasState)) return undefined
  const base = await baseOf(config)
  if (base === undefined) return undefined
  const [code, what, option] = isLora
    ? (['ADAPTER', 'a LoRA adapter', '--lora'] as const)
    : (['STATE', 'an initial state', '--state'] as const)
  const program = isLora
    ? `Model.load(${literal(base)}, { lora: ${literal(path)} })`
    : `model.createSession({ state: await State.load(model, ${literal(path)}) })`
  return new RwkvError(
    code,
    `${path}: there is no model.bin: this run trained ${what} for the model ${base}. To use it: ` +
      `rwkv generate ${quote(base)} ${option} ${quote(path)}, or in a program ${program}`,
  )
}

/** A text as JavaScript has it in a program. */
function literal(text: string): string {
  return `'${JSON.stringify(text).slice(1, -1).replaceAll("'", "\\'")}'`
}

/** The model that a run started from. */
async function baseOf(config: string): Promise<string | undefined> {
  try {
    const { options } = JSON.parse((await readRegular(config, MOST_CONFIG)).toString())
    return typeof options?.from === 'string' ? options.from : undefined
  } catch {
    return undefined
  }
}
