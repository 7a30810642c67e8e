import { placeOf } from '#native'
import { quote } from '../shell.js'

/** What to type to use a file that was made from the model `input`. */
export async function nextCommands(input: string, output: string): Promise<string[]> {
  const generate = `rwkv generate ${quote(output)}`
  const { tokenizer: beside, hasTokenizer: isBeside } = await placeOf(output)
  if (isBeside) return [generate]
  const { tokenizer, hasTokenizer } = await placeOf(input)
  if (hasTokenizer) return [`cp ${quote(tokenizer)} ${quote(beside)}`, generate]
  return [`rwkv info ${quote(output)}`]
}
