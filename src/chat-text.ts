import type { ChatFormat } from './chat-formats.js'
import { RwkvError } from './errors.js'
import { argument, text as textKind } from './kinds.js'

/** A turn of a conversation, as programs keep it. */
export interface ChatMessage {
  /** Whose it is; `tool` is what a function returned. */
  readonly role: 'system' | 'user' | 'assistant' | 'tool'
  readonly content: string
}

/** Options of {@link writeChat}. */
export interface WriteChatOptions {
  /** Whether the model is to think; undefined writes nothing of it. */
  readonly think?: boolean | undefined
  /** What describes functions that the model can call. The system text is then that, and the answer a call. */
  readonly tools?: string | undefined
}

/** A conversation as a model reads it. */
export interface ChatText {
  /** What to read. The token that a format begins with is not part of it: see {@link ChatFormat.begin}. */
  readonly prompt: string
  /** The end of the prompt that is already part of the answer: {@link splitThoughts} takes it and what is written. */
  readonly prefix: string
  /** What ends the answer. */
  readonly stop: readonly string[]
}

/**
 * Writes a conversation in a format, up to where the model begins to write.
 *
 * Answers that are given stand there as they are: the source of the family's formats shows them without thoughts.
 *
 * @param messages A system text, if there is one, comes first; the last is a question or what a function returned.
 * @throws {RwkvError} `INVALID_OPTION` for messages in another order, for thoughts and functions that the format does
 *   not have, and for functions beside a system text.
 * @example
 * ```ts
 * import { chatFormat, writeChat } from 'rwkv'
 *
 * const { prompt, stop } = writeChat(chatFormat('rwkv-world'), [{ role: 'user', content: 'hi' }], { think: true })
 * console.log(prompt) // User: hi, a blank line, Assistant: <think
 * console.log(stop) // [ '\n\nUser' ]
 * ```
 */
export function writeChat(
  format: ChatFormat,
  messages: readonly ChatMessage[],
  { think, tools }: WriteChatOptions = {},
): ChatText {
  const last = messages.at(-1)?.role
  if (last !== 'user' && last !== 'tool')
    throw refusal(`messages ends with ${last ?? 'nothing'}; it must end with user or tool, which is answered`)
  const parts: string[] = []
  if (tools !== undefined) {
    const { system } = toolsOf(format)
    parts.push(writeSystem(format, put(system, 'tools', tools)) + format.separator)
  }
  for (const [i, { role, content }] of messages.entries()) {
    const before = messages[i - 1]?.role
    const isAnswered = before !== 'user' && before !== 'tool'
    if (role === 'system') {
      if (i > 0) throw refusal(`messages[${i}] is system; only the first can be`)
      if (tools !== undefined) throw refusal('tools is given beside a system message; it is the system text')
      parts.push(writeSystem(format, content) + format.separator)
    } else if (role === 'assistant') {
      if (isAnswered) throw refusal(`messages[${i}] is assistant; user or tool must come before it`)
      parts.push(format.answer + put(format.reply ?? '{text}', 'text', content))
    } else {
      if (!isAnswered) throw refusal(`messages[${i}] is ${role}; the one before it has no answer`)
      const text = role === 'tool' ? put(toolsOf(format).result, 'text', content) : content
      parts.push((before === 'assistant' ? format.separator : '') + writeQuestion(format, text))
    }
  }
  // A model that thinks first opens the call itself, after its thoughts.
  const call = tools === undefined || think ? undefined : toolsOf(format)
  const prefix = call ? call.answer : thinkingPrefix(format, think)
  const stop = call ? [...format.stop, ...call.stop] : format.stop
  return { prompt: parts.join('') + format.answer + prefix, prefix, stop }
}

/** The system text as a format has it, without the separator after it. */
export function writeSystem(format: ChatFormat, text: string): string {
  // One that is no turn may have blank lines.
  return format.system === undefined ? text : put(format.system, 'text', cleaned(format, text))
}

/** A question as a format has it. */
export function writeQuestion(format: ChatFormat, text: string): string {
  return put(format.question, 'text', cleaned(format, text))
}

/** A question as it can be part of a turn. */
export function cleaned({ clean = 'blankLines' }: ChatFormat, text: string): string {
  return clean === 'blankLines' ? asTurn(text) : text
}

/**
 * What follows {@link ChatFormat.answer}.
 *
 * @throws {RwkvError} `INVALID_OPTION` if the model is to think in a format that has no thoughts.
 */
export function thinkingPrefix(
  { name, think: on, noThink = '' }: ChatFormat,
  think: boolean | undefined,
): string {
  if (think === undefined) return ''
  if (!think) return noThink
  if (on !== undefined) return on
  throw refusal(`think is true; the format "${name}" has no thoughts`)
}

/** An answer in its parts. */
export interface ThoughtsAndAnswer {
  /** What the model thought; undefined if it did not. */
  readonly thoughts?: string
  /** What it answered; empty as long as it thinks. */
  readonly answer: string
}

const [OPEN, CLOSE] = ['<think>', '</think>']

/**
 * Parts an answer from the thoughts before it, which stand between `<think>` and `</think>`. Of an answer that is
 * still being written a tag that may have begun belongs to neither, so that both parts only ever grow.
 *
 * @param text The prefix that was part of the prompt, and what is written so far.
 * @param isOver Whether that is all: nothing is held back then but `<think`, the prefix that formats have.
 */
export function splitThoughts(text: string, isOver = false): ThoughtsAndAnswer {
  argument('text', textKind, text)
  const whole = text.trimStart()
  if (!whole.startsWith(OPEN)) {
    const mayBegin = isOver ? whole === OPEN.slice(0, -1) : OPEN.startsWith(whole)
    return { answer: mayBegin ? '' : whole }
  }
  const inside = whole.slice(OPEN.length)
  const end = inside.indexOf(CLOSE)
  const thoughts = (
    end < 0 && !isOver ? withoutBegun(inside, CLOSE) : inside.slice(0, end < 0 ? undefined : end)
  ).trimStart()
  const answer = end < 0 ? '' : inside.slice(end + CLOSE.length).trimStart()
  return { ...(thoughts !== '' && { thoughts }), answer }
}

/** A text without what may be the beginning of `tag` at its end. */
function withoutBegun(text: string, tag: string): string {
  for (let length = tag.length - 1; length > 0; length--)
    if (text.endsWith(tag.slice(0, length))) return text.slice(0, -length)
  return text
}

/**
 * A text as it can be part of a turn: blank lines separate turns, so those within one become line breaks, as RWKV's
 * own chats have it. (Theirs keep lines of nothing but spaces.)
 */
export function asTurn(text: string): string {
  return text
    .replace(/\r\n?/g, '\n')
    .replace(/\n(?:[^\S\n]*\n)+/g, '\n')
    .trim()
}

/** A template with a text in the place of `{mark}`. */
function put(template: string, mark: string, text: string): string {
  // A function, for a replacement in words would read `$&` in the text.
  return template.replace(`{${mark}}`, () => text)
}

function toolsOf({ name, tools }: ChatFormat): NonNullable<ChatFormat['tools']> {
  if (tools) return tools
  throw refusal(`tools is given; the format "${name}" has none`)
}

function refusal(problem: string): RwkvError {
  return new RwkvError('INVALID_OPTION', problem)
}
