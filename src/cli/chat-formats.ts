import { basename } from 'node:path'
import { type ChatFormat, chatFormats, checkChatFormat } from '../chat-formats.js'
import { RwkvError } from '../errors.js'
import { MOST_CONFIG, readRegular } from '../files.js'
import { suggestion } from '../suggest.js'
import { UsageError } from './usage.js'

/**
 * The format of that name, or of that JSON file.
 *
 * @throws {UsageError} If it is neither. {RwkvError} `IO`, or `DATA` with the file's name and the field.
 */
export async function chooseFormat(name: string): Promise<ChatFormat> {
  const known = chatFormats.find(format => format.name === name)
  if (known) return known
  if (!/\.json$|[/\\]/i.test(name)) {
    const names = chatFormats.map(({ name }) => name)
    const hint = suggestion(name, names) ?? `there are ${names.join(', ')}, and files: --format ./FILE.json`
    throw new UsageError(`there is no format "${name}"`, hint)
  }
  return checkChatFormat(await readJson(name), name, basename(name).replace(/\.json$/i, ''))
}

/** The value of a JSON file. */
export async function readJson(path: string, most = MOST_CONFIG): Promise<unknown> {
  let bytes: Buffer
  try {
    bytes = await readRegular(path, most)
  } catch (error) {
    throw new RwkvError('IO', `cannot read ${path}: ${(error as Error).message}`, { cause: error })
  }
  try {
    return JSON.parse(bytes.toString('utf8'))
  } catch (error) {
    throw new RwkvError('DATA', `${path}: not JSON: ${(error as Error).message}`, { cause: error })
  }
}
