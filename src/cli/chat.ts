import { createInterface } from 'node:readline'
import { type ChatFormat, type ChosenFormat, chatFormatFor, chatFormats } from '../chat-formats.js'
import { RwkvError } from '../errors.js'
import { Model } from '../model.js'
import { generateTable, loadTable } from '../option-tables.js'
import { chooseFormat } from './chat-formats.js'
import { Keyboard } from './chat-keyboard.js'
import { Chat, checkSettings } from './chat-loop.js'
import { Voice } from './chat-voice.js'
import { Conversation } from './conversation.js'
import { near } from './format.js'
import { exitCode, takeCtrlC } from './interrupt.js'
import { startingState } from './tuning.js'
import { Hinted, UsageError } from './usage.js'
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
      auto: "by the file's name and the vocabulary, see below",
    },
    think: { kind: 'boolean', help: 'have the model think before it answers', auto: 'for G1 models' },
    noThink: { kind: 'boolean', help: 'have a model that can think answer at once' },
    system: { kind: 'text', help: 'text to read before the first question' },
    ...generateTable,
    ...tuned,
    unknown: loadTable.unknown,
    ...common,
  },
  details: `
MODEL is a training run's directory or a .bin file.

Formats:
${chatFormats.map(({ name, about }) => `  ${name.padEnd(12)} ${about}`).join('\n')}

rwkv7-g1h-… and later names choose rwkv-g1h; other models of the World vocabulary rwkv-world, those of 20b raven, and all
others none. Models that are called rwkv7-g1… think. Where a format has settings of its own, those are taken that are not
given.

/help lists what can be typed besides questions. Ctrl-C stops an answer, Ctrl-D leaves. If standard input is no
terminal, each line of it is a question. With --json, an object for each answer:
{"question","answer","tokens","end","seconds"}, and "thoughts" if the model had some.`,
  async run([path = ''], values, output, signal) {
    const {
      json = false,
      threads,
      lora,
      allowOtherBase,
      loraAlpha,
      unknown,
      state,
      format: named,
      system,
      ...others
    } = values
    // The parser takes --no-think as a think that is false.
    const { think: wanted, noThink: _, ...given } = others
    // What can be refused at once is not kept until a large model is there.
    const own = named === undefined ? undefined : await chooseFormat(named)
    await using model = await Model.load(path, { lora, allowOtherBase, loraAlpha, threads, unknown, signal })
    const chosen = chatFormatFor(model)
    const format = own ?? chosen.format
    const think = wanted ?? (format.think === undefined ? undefined : chosen.think)
    if (think && format.think === undefined)
      throw new UsageError(`--think: the format "${format.name}" has no thoughts`, '--format names another')
    const recommended = format.sampling?.[think ? 'think' : 'noThink']
    const settings = { ...recommended, ...given }
    await checkSettings(model, settings)
    checkWritable(model, format)
    const start = await startingState(model, state, allowOtherBase)
    const conversation = await Conversation.begin(model, { format, system, state: start, think, signal })
    const isTerminal = !json && process.stdin.isTTY === true && process.stdout.isTTY === true
    const voice = new Voice(json, isTerminal)
    const talk = new Chat(model, conversation, settings, voice, signal)
    if (!isTerminal) return await readLines(talk, signal)
    output.line(style.bold(near(path)))
    voice.note(about(format, own === undefined ? chosen : undefined, think))
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

/** Which format was chosen and why, whether the model thinks, and whose settings there are: in a line. */
function about(format: ChatFormat, chosen: ChosenFormat | undefined, think: boolean | undefined): string {
  const why = chosen ? `, ${chosen.why} (see --format)` : ''
  const thinks =
    think === undefined ? '' : think ? '; it thinks first (see --no-think)' : '; it does not think'
  const settings = format.sampling ? "; the format's own settings (/set shows them)" : ''
  return `format ${format.name}${why}${thinks}${settings}`
}

/** A format whose own words the vocabulary lacks would fail with each question. */
function checkWritable(
  { tokenizer }: Model,
  { name, question, answer, separator, ...format }: ChatFormat,
): void {
  const { system = '{text}', think = '', noThink = '' } = format
  try {
    tokenizer.encode(
      question.replace('{text}', '') + answer + separator + system.replace('{text}', '') + think + noThink,
    )
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
