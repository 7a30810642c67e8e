import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { copyFile, link, lstat, realpath, rename, rm, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { checkChatFormat } from '../chat-formats.js'
import { RwkvError } from '../errors.js'
import { checkObject, checkText } from '../fields.js'
import { describe } from '../kinds.js'
import type { Model } from '../model.js'
import { State } from '../state.js'
import { readJson } from './chat-formats.js'
import type { Conversation, Past, Turn } from './conversation.js'

/** What a conversation's file begins with: by this it is known what may be replaced. */
const KIND = 'rwkv chat'
const VERSION = 1
/** Two states of the largest models, and a text of many books. */
const MOST_BYTES = 2 ** 28

/**
 * Writes a conversation into a file, whole or not at all. A file that is there is replaced only if it is a
 * conversation of ours.
 *
 * @returns How many turns the conversation had that was replaced; undefined if there was none.
 * @throws {RwkvError} `IO`; `DATA` if the file is something else.
 */
export async function saveConversation(
  path: string,
  conversation: Conversation,
): Promise<number | undefined> {
  const { format, system = null, turns, beginning, state } = conversation
  const base64 = (of: State) => Buffer.from(of.toBuffer()).toString('base64')
  const states = { beginning: base64(beginning), end: base64(state) }
  const text = `${JSON.stringify({ kind: KIND, version: VERSION, format, system, turns, states }, null, 2)}\n`
  const given = inHome(path)
  const isThere = await exists(given)
  const earlier = isThere ? await ours(path, given) : undefined
  try {
    // Through a link, which is to stay one.
    const file = isThere ? await realpath(given) : given
    await writeBeside(file, text, isThere)
  } catch (error) {
    throw new RwkvError('IO', `cannot write ${path}: ${(error as Error).message}`, { cause: error })
  }
  return earlier
}

/**
 * Reads a conversation.
 *
 * @returns It, and why its states are of no use here, if that is so.
 * @throws {RwkvError} `IO`; `DATA` with the file and the field.
 */
export async function loadConversation(path: string, model: Model): Promise<{ past: Past; why?: string }> {
  const value = await readJson(inHome(path), MOST_BYTES)
  if (!isOurs(value)) throw new RwkvError('DATA', `${path} is no conversation that rwkv chat saved`)
  if (value.version !== VERSION)
    throw new RwkvError(
      'DATA',
      `${path}: version is ${describe(value.version)}; this program reads version ${VERSION}`,
    )
  const fields = checkObject(value, path, ['kind', 'version', 'format', 'system', 'turns', 'states'])
  const format = checkChatFormat(fields.format, `${path}: format`)
  const system = fields.system == null ? undefined : checkText(fields.system, path, 'system')
  const turns = checkTurns(fields.turns, path)
  const past = { format, system, turns }
  // The text is what counts: whoever edits it can leave the states out.
  if (fields.states == null) return { past, why: 'the file has no states' }
  try {
    const given = checkObject(fields.states, `${path}: states`, ['beginning', 'end'])
    const stateOf = (name: string) =>
      State.from(model, Buffer.from(checkText(given[name], `${path}: states`, name), 'base64'))
    return { past: { ...past, states: { beginning: stateOf('beginning'), end: stateOf('end') } } }
  } catch (error) {
    if (error instanceof RwkvError && error.code === 'STATE') return { past, why: error.message }
    throw error
  }
}

function checkTurns(value: unknown, path: string): Turn[] {
  if (!Array.isArray(value))
    throw new RwkvError(
      'DATA',
      `${path}: turns is ${value === undefined ? 'missing' : describe(value)}; it must be an array`,
    )
  return value.map((turn, i) => {
    const where = `${path}: turns[${i}]`
    const fields = checkObject(turn, where, ['question', 'answer'])
    return {
      question: checkText(fields.question, where, 'question'),
      answer: checkText(fields.answer, where, 'answer'),
    }
  })
}

function isOurs(value: unknown): value is { kind: string; version: unknown; turns?: unknown } {
  return typeof value === 'object' && value !== null && (value as { kind?: unknown }).kind === KIND
}

/** The turns of the conversation that a file is. */
async function ours(path: string, file: string): Promise<number> {
  let value: unknown
  try {
    value = await readJson(file, MOST_BYTES)
  } catch {
    // Whatever it is, it is not ours.
  }
  if (isOurs(value)) return Array.isArray(value.turns) ? value.turns.length : 0
  throw new RwkvError('DATA', `${path} is there and is no conversation of rwkv chat: save under another name`)
}

async function exists(path: string): Promise<boolean> {
  try {
    // A link that leads nowhere is there too.
    await lstat(path)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw new RwkvError('IO', `cannot write ${path}: ${(error as Error).message}`, { cause: error })
  }
}

/** Writes a file beside its name first. One that was not there a moment ago is not replaced. */
async function writeBeside(path: string, text: string, replace: boolean): Promise<void> {
  const beside = join(dirname(path), `.${randomBytes(6).toString('hex')}.tmp`)
  try {
    await writeFile(beside, text, { flag: 'wx' })
    if (replace) await rename(beside, path)
    else await link(beside, path).catch(error => copied(error, beside, path))
  } finally {
    await rm(beside, { force: true })
  }
}

/** Some file systems have no links. */
async function copied(error: NodeJS.ErrnoException, from: string, to: string): Promise<void> {
  if (error.code === 'EEXIST') throw error
  await copyFile(from, to, constants.COPYFILE_EXCL)
}

/** `~` is for shells, and here is none. */
function inHome(path: string): string {
  return path.replace(/^~(?=[/\\]|$)/, homedir())
}
