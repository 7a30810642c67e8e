import { stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { quote } from '../shell.js'

/** What to type to use a file that was made from the model `input`. */
export async function nextCommands(input: string, output: string): Promise<string[]> {
  const generate = `rwkv generate ${quote(output)}`
  const beside = join(dirname(output), 'tokenizer.json')
  if (await isThere(beside)) return [generate]
  // A model's tokenizer is the one beside it.
  const tokenizer = join((await isDirectory(input)) ? input : dirname(input), 'tokenizer.json')
  if (await isThere(tokenizer)) return [`cp ${quote(tokenizer)} ${quote(beside)}`, generate]
  return [`rwkv info ${quote(output)}`]
}

function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}

async function isDirectory(path: string): Promise<boolean> {
  return (await stat(path)).isDirectory()
}
