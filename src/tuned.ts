import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { RwkvError } from './errors.js'
import { MOST_CONFIG, readRegular } from './files.js'
import { quote } from './shell.js'

/**
 * What to say of the directory of a run that trained an adapter or a state: there is no model in it to be
 * loaded. Undefined for everything else.
 */
export async function tunedRun(path: string): Promise<RwkvError | undefined> {
  if (await isThere(join(path, 'model.bin'))) return undefined
  const base = await baseOf(path)
  const isLora = await isThere(join(path, 'lora.safetensors'))
  if (base === undefined || !(isLora || (await isThere(join(path, 'tuned.state'))))) return undefined
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
async function baseOf(path: string): Promise<string | undefined> {
  try {
    const { options } = JSON.parse((await readRegular(join(path, 'config.json'), MOST_CONFIG)).toString())
    return typeof options?.from === 'string' ? options.from : undefined
  } catch {
    return undefined
  }
}

function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}
