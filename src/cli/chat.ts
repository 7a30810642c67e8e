import { createInterface } from 'node:readline'
import { RwkvError } from '../errors.js'
import { Model } from '../model.js'
import { generateTable, loadTable } from '../option-tables.js'
import { type ChatFormat, chooseFormat, defaultFormat, formats } from './chat-formats.js'
import { Keyboard } from './chat-keyboard.js'
import { Chat, checkSettings } from './chat-loop.js'
import { Voice } from './chat-voice.js'
import { Conversation } from './conversation.js'
import { near } from './format.js'
import { exitCode, takeCtrlC } from './interrupt.js'
import { startingState } from './tuning.js'
import { Hinted } from './usage.js'
import { common, tuned, verb } from './verb.js'
import { style } from './visible.js'

/** `rwkv chat` */
export const chat = verb({
  name: 'chat',
  summary: 'talk with a model',
  positionals: ['MODEL'],
  options: {
    format: {
      kind: 'text',
      value: 'NAME',
      help: 'how turns are written, see below; or FILE.json',
      auto: 'plain for the World vocabulary, raven for 20b, else none',
    },
    system: { kind: 'text', help: 'text to read before the first question' },
    ...generateTable,
    ...tuned,
    unknown: loadTable.unknown,
    ...common,
  },
  details: `
MODEL is a training run's directory or a .bin file.

Formats:
${formats.map(({ name, about }) => `  ${name.padEnd(12)} ${about}`).join('\n')}

/help lists what can be typed besides questions. Ctrl-C stops an answer, Ctrl-D leaves. If standard input is no
terminal, each line of it is a question. With --json, an object for each answer:
{"question","answer","tokens","end","seconds"}.`,
  async run([path = ''], values, output, signal) {
    const { json = false, threads, lora, unknown, state, format: named, system, ...settings } = values
    // What can be refused at once is not kept until a large model is there.
    const given = named === undefined ? undefined : await chooseFormat(named)
    await using model = await Model.load(path, { lora, threads, unknown, signal })
    const format = given ?? (await chooseFormat(defaultFormat(model.tokenizer.kind)))
    await checkSettings(model, settings)
    checkWritable(model, format)
    const start = await startingState(model, state)
    const conversation = await Conversation.begin(model, { format, system, state: start, signal })
    const isTerminal = !json && process.stdin.isTTY === true && process.stdout.isTTY === true
    const voice = new Voice(json, isTerminal)
    const talk = new Chat(model, conversation, settings, voice, signal)
    if (!isTerminal) return await readLines(talk, signal)
    output.line(style.bold(near(path)))
    const why = given ? '' : `, the default for the vocabulary "${model.tokenizer.kind}" (see --format)`
    voice.note(`format ${format.name}${why}`)
    voice.note('/help lists the commands, Ctrl-D leaves')
    return await converse(talk, new Keyboard(output.colour), signal)
  },
})

/** A chat with somebody at a terminal. */
async function converse(chat: Chat, keyboard: Keyboard, signal: AbortSignal): Promise<number> {
  const close = () => keyboard.close()
  signal.addEventListener('abort', close)
  keyboard.onCtrlC = () => chat.enough()
  // Where the terminal sends a signal instead of a key, or somebody else does.
  takeCtrlC(() => keyboard.ctrlC())
  try {
    for (;;) {
      chat.voice.page().line()
      const question = await keyboard.read()
      if (question === undefined || (await chat.enter(question)) || signal.aborted) break
    }
    return exitCode(signal)
  } finally {
    takeCtrlC(undefined)
    signal.removeEventListener('abort', close)
    keyboard.close()
  }
}

/** A chat with a file or another program: a question a line. */
async function readLines(chat: Chat, signal: AbortSignal): Promise<number> {
  const lines = createInterface({ input: process.stdin, crlfDelay: Number.POSITIVE_INFINITY, signal })
  let parts: string[] = []
  for await (const line of lines) {
    if (signal.aborted) break
    const goesOn = line.endsWith('\\')
    parts.push(goesOn ? line.slice(0, -1) : line)
    if (goesOn) continue
    const question = parts.join('\n')
    parts = []
    if (await chat.enter(question)) break
  }
  lines.close()
  if (parts.length > 0 && !signal.aborted) await chat.enter(parts.join('\n'))
  signal.throwIfAborted()
  return chat.failures > 0 ? 1 : 0
}

/** A format whose own words the vocabulary lacks would fail with each question. */
function checkWritable({ tokenizer }: Model, { name, question, answer, separator }: ChatFormat): void {
  try {
    tokenizer.encode(question.replace('{text}', '') + answer + separator)
  } catch (error) {
    if (!(error instanceof RwkvError) || error.code !== 'UNKNOWN_CHARACTER') throw error
    const hint =
      name === 'none'
        ? 'a format of your own may do: --format FILE.json'
        : '--format none has no words of its own'
    throw new Hinted(
      new RwkvError(error.code, `the format "${name}" cannot be written: ${error.message}`),
      hint,
    )
  }
}
