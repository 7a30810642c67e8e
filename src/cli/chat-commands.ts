import { closest, distance } from 'fastest-levenshtein'
import { splitThoughts } from '../chat-text.js'
import { generateTable, samplingTable } from '../option-tables.js'
import { suggestion } from '../suggest.js'
import { type Option, readValue } from './arguments.js'
import { loadConversation, saveConversation } from './chat-file.js'
import type { Chat } from './chat-loop.js'
import { kebab } from './format.js'
import { UsageError } from './usage.js'
import { inOneLine, style } from './visible.js'

/** What can be set while a chat goes on: what is a number. */
const { logitBias: _, ...numbers } = samplingTable
export const settable = { maxTokens: generateTable.maxTokens, ...numbers } as const
type Name = keyof typeof settable

interface Command {
  /** What can follow its name. */
  readonly words?: string
  readonly help: string
  /** @returns Whether the chat is over. */
  run(chat: Chat, rest: string, signal: AbortSignal): Promise<boolean | undefined>
}

const commands: Readonly<Record<string, Command>> = {
  help: {
    help: 'show this',
    async run({ voice }) {
      voice.table(
        Object.entries(commands).map(([name, { words, help }]) => [
          words ? `/${name} ${words}` : `/${name}`,
          help,
        ]),
      )
      voice.say(AFTER_HELP)
      return false
    },
  },
  retry: {
    help: 'answer the last question anew',
    async run(chat, _, signal) {
      await chat.retry(signal)
      return false
    },
  },
  undo: {
    help: 'take back the last question and its answer; again, the one before',
    async run({ conversation, voice }, _, signal) {
      const turn = await conversation.undo(signal)
      voice.note(
        turn
          ? `taken back: ${excerpt(turn.question)} (${turnsOf(conversation.turns.length)} left)`
          : 'there is nothing to take back',
      )
      return false
    },
  },
  reset: {
    help: 'begin anew; the system text stays',
    async run({ conversation, voice }) {
      const before = conversation.turns.length
      conversation.reset()
      voice.note(
        `begun anew: ${turnsOf(before)} forgotten${conversation.system ? ', the system text stays' : ''}`,
      )
      return false
    },
  },
  save: {
    words: 'FILE',
    help: 'save the conversation',
    async run({ conversation, voice }, rest) {
      const path = file('save', rest)
      const earlier = await saveConversation(path, conversation)
      const replaced =
        earlier === undefined ? '' : `, in place of the conversation of ${turnsOf(earlier)} there`
      voice.note(`saved ${turnsOf(conversation.turns.length)} in ${path}${replaced}`)
      return false
    },
  },
  load: {
    words: 'FILE',
    help: 'go on with a conversation that was saved',
    async run({ conversation, model, voice }, rest, signal) {
      const path = file('load', rest)
      const { past, why } = await loadConversation(path, model)
      if (why) voice.note(`the text of ${path} is read anew: ${why}`)
      await conversation.replace(past, signal)
      voice.note(`loaded ${turnsOf(past.turns.length)} from ${path}`)
      const last = past.turns.at(-1)
      if (last && voice.isTerminal)
        voice.say(`\n${style.dim('>')} ${last.question}\n${splitThoughts(last.answer, true).answer.trim()}`)
      return false
    },
  },
  set: {
    words: 'NAME VALUE',
    help: 'change a setting; alone, show them',
    async run(chat, rest) {
      await set(chat, rest)
      return false
    },
  },
  exit: {
    help: 'leave',
    async run() {
      return true
    },
  },
}

/**
 * Obeys a line that begins with a slash.
 *
 * @returns Whether the chat is over.
 */
export async function obey(chat: Chat, line: string, signal: AbortSignal): Promise<boolean> {
  const [, name = '', rest = ''] = /^\/(\S*)\s*(.*?)\s*$/s.exec(line) ?? []
  const names = Object.keys(commands)
  const command = Object.hasOwn(commands, name) ? commands[name] : undefined
  if (!command) {
    const nearest = closest(name, names)
    const meant = distance(name, nearest) <= 2 ? `did you mean /${nearest}? ` : ''
    const hint = `${meant}/help lists them; a question that begins with / takes a space before it`
    throw new UsageError(`there is no command /${name}`, hint)
  }
  if (rest !== '' && command.words === undefined)
    throw new UsageError(`/${name} takes nothing after it, but got ${JSON.stringify(rest)}`)
  return (await command.run(chat, rest, signal)) === true
}

/** What Tab makes of a line: what it can go on with, and of which part of the line. */
export function complete(line: string): [string[], string] {
  const [, setting] = /^\/set\s+(\S*)$/.exec(line) ?? []
  if (setting !== undefined) {
    const names = Object.keys(settable).map(kebab)
    return [names.filter(name => name.startsWith(setting)).map(name => `${name} `), setting]
  }
  if (!/^\/\w*$/.test(line)) return [[], line]
  const found = Object.entries(commands).filter(([name]) => name.startsWith(line.slice(1)))
  return [found.map(([name, { words }]) => `/${name}${words ? ' ' : ''}`), line]
}

/** Turns in words. */
export function turnsOf(count: number): string {
  return count === 1 ? '1 question' : `${count} questions`
}

const AFTER_HELP = `
A line that ends with a backslash goes on in the next. Ctrl-C stops an answer; at an empty prompt it leaves, as Ctrl-D
does. Tab completes commands, the arrows bring back earlier lines.`.replace(/(?<=\S)\n/g, ' ')

async function set(chat: Chat, rest: string): Promise<void> {
  const names = Object.keys(settable) as Name[]
  const [, typed = '', value = ''] = /^(\S*)\s*(.*)$/s.exec(rest) ?? []
  if (typed === '') {
    chat.voice.table(
      names.map(name => [kebab(name), `${chat.settings[name] ?? usual(name)} (${settable[name].help})`]),
    )
    return
  }
  const name = names.find(name => kebab(name) === typed)
  if (!name) {
    const all = names.map(kebab)
    throw new UsageError(
      `there is no setting "${typed}"`,
      suggestion(typed, all) ?? `there are ${all.join(', ')}`,
    )
  }
  if (value === '')
    throw new UsageError(
      `/set ${typed} needs a value`,
      `/set ${typed} default takes it back to ${usual(name)}`,
    )
  const read = value === 'default' ? undefined : (readValue(typed, settable[name], value) as never)
  await chat.set({ [name]: read })
  chat.voice.note(`${typed} is ${read ?? usual(name)}`)
}

/** What a setting is if nothing is said. */
function usual(name: Name): string {
  const { default: fallback, auto }: Option = settable[name]
  return String(fallback ?? auto)
}

function file(command: string, path: string): string {
  if (path !== '') return path
  throw new UsageError(`/${command} needs a file`, `/${command} conversation.json`)
}

function excerpt(text: string): string {
  const characters = Array.from(inOneLine(text))
  return characters.length > 40 ? `${characters.slice(0, 39).join('')}…` : characters.join('')
}
