import { basename } from 'node:path'
import { RwkvError } from '../errors.js'
import { MOST_CONFIG, readRegular } from '../files.js'
import { describe } from '../kinds.js'
import type { TokenizerKind } from '../options.js'
import { suggestion } from '../suggest.js'
import { UsageError } from './usage.js'

/** How the turns of a conversation are written into the one text that the model reads and goes on with. */
export interface ChatFormat {
  readonly name: string
  /** A question; `{text}` stands for what was typed. */
  readonly question: string
  /** What follows a question, up to where the model begins to write. */
  readonly answer: string
  /** What stands between an answer and the next question, and after the system text. */
  readonly separator: string
  /** What ends an answer; it is not part of it. */
  readonly stop: readonly string[]
}

interface Row extends ChatFormat {
  /** One line for the help. */
  readonly about: string
}

/** RWKV's own programs end an answer at its first blank line, and take blank lines out of questions. */
const raven = { question: 'Bob: {text}', answer: '\n\nAlice:', separator: '\n\n', stop: ['\n\n'] }
const plain = { question: 'User: {text}', answer: '\n\nAssistant:', separator: '\n\n', stop: ['\n\n'] }

/** The formats that have a name. */
export const formats: readonly Row[] = [
  { name: 'plain', ...plain, about: 'User: … Assistant: …, as the World models learned it' },
  {
    name: 'paragraphs',
    ...plain,
    stop: ['\n\nUser:'],
    about: 'the same, for models whose answers have blank lines',
  },
  { name: 'raven', ...raven, about: 'Bob: … Alice: …, as the Raven models learned it' },
  { name: 'pile', ...raven, about: 'the same, for the models of the Pile' },
  {
    name: 'instruction',
    question: 'Instruction: {text}',
    answer: '\n\nResponse:',
    separator: '\n\n',
    stop: ['\n\nInstruction:'],
    about: 'Instruction: … Response: …, for models that were tuned on such',
  },
  {
    name: 'none',
    question: '{text}',
    answer: '\n',
    separator: '\n',
    stop: ['\n'],
    about: 'the text alone, a line each, for models that are no chat models',
  },
]

/** What a chat is written in if nothing is said: only of released models it is known what they learned. */
export function defaultFormat(kind: TokenizerKind): string {
  if (kind === 'world') return 'plain'
  return kind === '20b' ? 'raven' : 'none'
}

/**
 * The format of that name, or of that JSON file.
 *
 * @throws {UsageError} If it is neither. {RwkvError} `IO`, or `DATA` with the file's name and the field.
 */
export async function chooseFormat(name: string): Promise<ChatFormat> {
  const known = formats.find(format => format.name === name)
  if (known) {
    const { about: _, ...format } = known
    return format
  }
  if (!/\.json$|[/\\]/i.test(name)) {
    const names = formats.map(({ name }) => name)
    const hint = suggestion(name, names) ?? `there are ${names.join(', ')}, and files: --format ./FILE.json`
    throw new UsageError(`there is no format "${name}"`, hint)
  }
  return checkFormat(await readJson(name), name, basename(name).replace(/\.json$/i, ''))
}

/**
 * A format that was read from a file.
 *
 * @param where What it is called in messages: the file, or its field.
 * @param name The format's name if it has none.
 * @throws {RwkvError} `DATA`.
 */
export function checkFormat(value: unknown, where: string, name?: string): ChatFormat {
  const fields = checkObject(value, where, ['name', 'question', 'answer', 'separator', 'stop'])
  const format = {
    name: checkText(fields.name ?? name, where, 'name'),
    question: checkText(fields.question, where, 'question'),
    answer: checkText(fields.answer, where, 'answer'),
    separator: checkText(fields.separator, where, 'separator'),
    stop: checkTexts(fields.stop, where),
  }
  if (format.question.split('{text}').length !== 2)
    throw bad(where, 'question', JSON.stringify(format.question), 'a string that has {text} in it, once')
  return format
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

/** An object of a file, and no other fields than those. */
export function checkObject(
  value: unknown,
  where: string,
  known: readonly string[],
): Partial<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new RwkvError('DATA', `${where}: it is ${describe(value)}; it must be an object`)
  for (const name of Object.keys(value)) {
    if (known.includes(name)) continue
    const hint = suggestion(name, known) ?? `there are ${known.join(', ')}`
    throw new RwkvError('DATA', `${where}: there is no field ${JSON.stringify(name)}: ${hint}`)
  }
  return value as Partial<Record<string, unknown>>
}

/** A string of a file. */
export function checkText(value: unknown, where: string, field: string): string {
  if (typeof value === 'string') return value
  throw bad(where, field, value === undefined ? 'missing' : describe(value), 'a string')
}

function checkTexts(value: unknown, where: string): readonly string[] {
  const isRight = Array.isArray(value) && value.every(text => typeof text === 'string' && text !== '')
  if (isRight) return value
  const found = value === undefined ? 'missing' : describe(value)
  throw bad(where, 'stop', found, 'an array of strings, each of at least one character')
}

function bad(where: string, field: string, found: string, wanted: string): RwkvError {
  return new RwkvError('DATA', `${where}: ${field} is ${found}; it must be ${wanted}`)
}

/**
 * A text as it can be part of a turn: blank lines separate turns, so those within one become line breaks, as RWKV's
 * own chats have it.
 */
export function asTurn(text: string): string {
  return text
    .replace(/\r\n?/g, '\n')
    .replace(/\n(?:[^\S\n]*\n)+/g, '\n')
    .trim()
}
