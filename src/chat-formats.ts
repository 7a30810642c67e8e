import { RwkvError } from './errors.js'
import { checkObject, checkTemplate, checkText, checkTexts, checkWord } from './fields.js'
import { argument, options, text as textKind } from './kinds.js'
import { samplingTable } from './option-tables.js'
import type { SamplingOptions } from './options.js'
import { samplingOptions } from './schemas.js'

/**
 * How the turns of a conversation are written into the one text that a model reads and goes on with. A JSON file of
 * the same fields is one too; {@link checkChatFormat} reads it.
 */
export interface ChatFormat {
  readonly name: string
  /** One line for people. */
  readonly about?: string | undefined
  /**
   * What a conversation begins with, before all text: the token that ends a text (id 0 of World), as if another one
   * had ended. Left out: nothing.
   */
  readonly begin?: 'endOfText' | undefined
  /** The system text, before a separator; `{text}` stands for it. Left out: the text alone, as it is. */
  readonly system?: string | undefined
  /** A question; `{text}` stands for what was typed. */
  readonly question: string
  /** What follows a question, up to where the model begins to write. */
  readonly answer: string
  /** An answer that is known, after `answer`; models write the space before one by themselves. Left out: `{text}`. */
  readonly reply?: string | undefined
  /** What stands between an answer and the next question, and after the system text. */
  readonly separator: string
  /** What ends an answer; it is not part of it. The token that ends a text does so in every format. */
  readonly stop: readonly string[]
  /** What follows `answer` so that the model thinks first. Left out: its models do not think. */
  readonly think?: string | undefined
  /** What follows `answer` so that a model that can think does not: thoughts that are over. Left out: nothing. */
  readonly noThink?: string | undefined
  /**
   * What is done to questions, and to a system text that is a turn. `blankLines`, which is what is done if it is left
   * out: line ends become `\n`, blank lines single line breaks, and spaces around it go. `nothing`: nothing.
   */
  readonly clean?: 'blankLines' | 'nothing' | undefined
  /** Settings that are recommended, for answers with thoughts and for others. */
  readonly sampling?: { readonly think?: SamplingOptions; readonly noThink?: SamplingOptions } | undefined
  /** How functions are offered to the model. Left out: its models were not taught any. */
  readonly tools?: ToolFormat | undefined
}

/** How a model is offered functions that it can call. */
export interface ToolFormat {
  /** The system text; `{tools}` stands for what describes the functions. */
  readonly system: string
  /** What follows `answer` if the model does not think first, up to where it begins to write a call. */
  readonly answer: string
  /** The question that tells what a function returned; `{text}` stands for that. */
  readonly result: string
  /** What ends a call. */
  readonly stop: readonly string[]
}

// Sources: RWKV-v7/RWKV7-G1x-templates.txt of BlinkDL/RWKV-LM for G1 to G1g (turns, thoughts, tools, cleaning); the
// evaluations of G1h for the turns with ✿ and for their settings, which are those of `sampler: 'rwkv'`.

/** What the G1 models were taught about functions. */
const tools: ToolFormat = {
  system: 'Tools:\n{tools}\nReturn only a JSON function call.',
  answer: ' ```json',
  result: 'Function output:\n{text}',
  stop: ['\n```'],
}

const user = {
  question: 'User: {text}',
  answer: '\n\nAssistant:',
  reply: ' {text}',
  separator: '\n\n',
} as const
/** RWKV's older programs end an answer at its first blank line. */
const raven = { question: 'Bob: {text}', answer: '\n\nAlice:', reply: ' {text}', separator: '\n\n' } as const

/** The formats that have a name. */
export const chatFormats: readonly ChatFormat[] = [
  {
    name: 'rwkv-world',
    about: 'User: … Assistant: …, as the World and G1 models up to G1g learned it',
    ...user,
    system: 'System: {text}',
    stop: ['\n\nUser'],
    think: ' <think',
    noThink: ' <think></think',
    tools,
  },
  {
    name: 'rwkv-g1h',
    about: 'User✿…✿ Bot✿…✿, for G1h and later',
    begin: 'endOfText',
    system: 'System✿{text}',
    question: 'User✿{text}',
    answer: '✿\nBot✿',
    separator: '✿\n',
    stop: ['✿'],
    think: '<think',
    noThink: '<think></think>',
    sampling: {
      think: {
        sampler: 'rwkv',
        temperature: 0.96,
        topP: 0.76,
        topK: 32,
        presencePenalty: 1,
        frequencyPenalty: 0.1,
        penaltyDecay: 0.988,
      },
      noThink: { sampler: 'rwkv', temperature: 1, topP: 0.28, topK: 32 },
    },
    tools: { ...tools, answer: '<think></think>\n```json' },
  },
  {
    name: 'plain',
    about: 'User: … Assistant: …, each answer ends at its first blank line',
    ...user,
    stop: ['\n\n'],
  },
  { name: 'raven', about: 'Bob: … Alice: …, as the Raven models learned it', ...raven, stop: ['\n\n'] },
  { name: 'pile', about: 'the same, for the models of the Pile', ...raven, stop: ['\n\n'] },
  {
    name: 'instruction',
    about: 'Instruction: … Response: …, for models that were tuned on such',
    question: 'Instruction: {text}',
    answer: '\n\nResponse:',
    reply: ' {text}',
    separator: '\n\n',
    stop: ['\n\nInstruction:'],
  },
  {
    name: 'none',
    about: 'the text alone, a line each, for models that are no chat models',
    question: '{text}',
    answer: '\n',
    separator: '\n',
    stop: ['\n'],
  },
]

/** What tells in which format a model was taught to talk. */
export interface ChatModel {
  /** Where it was loaded from. */
  readonly path?: string | undefined
  /** Its tokenizer. */
  readonly tokenizer: { readonly kind: string }
  /**
   * The name of a format in the model's file: `tokenizer.chat_template` of a GGUF. Names that are no format, such as
   * a whole Jinja template, are passed over.
   */
  readonly chatTemplate?: string | undefined
}

/** Which format a model talks in, and why. */
export interface ChosenFormat {
  readonly format: ChatFormat
  /** In words, such as `the default for the vocabulary "world"`. */
  readonly why: string
  /** Whether it is to think; undefined for a model that was not taught thoughts, where none are mentioned. */
  readonly think: boolean | undefined
}

/**
 * The format that a model was taught, and whether it thinks: by what its file is called if that names a G1 model, or
 * else by the template that its file names, or else by its vocabulary. G1 models think; of others nobody knows.
 *
 * @example
 * ```ts
 * import { chatFormatFor, Model } from 'rwkv'
 *
 * await using model = await Model.load('runs/book')
 * const { format, why } = chatFormatFor(model)
 * console.log(format.name, why) // none the default for the vocabulary "character"
 * ```
 */
export function chatFormatFor({ path, tokenizer: { kind }, chatTemplate }: ChatModel): ChosenFormat {
  const [release, letter = ''] = (kind === 'world' && path !== undefined && seriesOf(path)) || []
  const think = release === undefined ? undefined : true
  if (release !== undefined) {
    const name = letter >= 'h' ? 'rwkv-g1h' : 'rwkv-world'
    return { format: chatFormat(name), why: `the one of ${release}, by the file's name`, think }
  }
  const named = chatFormats.find(({ name }) => name === chatTemplate)
  if (named) return { format: named, why: "named in the model's file", think }
  const name = kind === 'world' ? 'rwkv-world' : kind === '20b' ? 'raven' : 'none'
  return { format: chatFormat(name), why: `the default for the vocabulary "${kind}"`, think }
}

/** `G1h` and `h` of `rwkv7-g1h-1.5b-20260701-ctx8192.pth`. Names of folders above the file tell nothing. */
function seriesOf(path: string): [release: string, letter: string] | undefined {
  const [name = ''] = /[^/\\]*$/.exec(path.replace(/[/\\]+$/, '')) ?? []
  const [, letter] = /^rwkv-?7[-_]?g1([a-z]?)(?![a-z0-9])/i.exec(name) ?? []
  return letter === undefined ? undefined : [`G1${letter.toLowerCase()}`, letter.toLowerCase()]
}

/**
 * The format of that name.
 *
 * @throws {RwkvError} `INVALID_OPTION` if there is none.
 */
export function chatFormat(name: string): ChatFormat {
  const found = chatFormats.find(format => format.name === argument('name', textKind, name))
  if (found) return found
  const names = chatFormats.map(({ name }) => name).join(', ')
  throw new RwkvError('INVALID_OPTION', `name is ${JSON.stringify(name)}; it must be one of ${names}`)
}

const FIELDS = [
  'name',
  'about',
  'begin',
  'system',
  'question',
  'answer',
  'reply',
  'separator',
  'stop',
  'think',
  'noThink',
  'clean',
  'sampling',
  'tools',
] as const satisfies readonly (keyof ChatFormat)[]

/**
 * A format of one's own, such as the value of a JSON file: it has the fields of {@link ChatFormat} and no others.
 *
 * @param where What it is called in messages, such as the file's name.
 * @param name The format's name if it has none.
 * @throws {RwkvError} `DATA`, with `where` and the field that is wrong.
 */
export function checkChatFormat(value: unknown, where = 'format', name?: string): ChatFormat {
  const fields = checkObject(value, where, FIELDS)
  const { about, begin, system, reply, think, noThink, clean, sampling, tools } = fields
  const text = (field: string) => checkText(fields[field], where, field)
  return {
    name: checkText(fields.name ?? name, where, 'name'),
    ...(about !== undefined && { about: text('about') }),
    ...(begin !== undefined && { begin: checkWord(begin, where, 'begin', ['endOfText']) }),
    ...(system !== undefined && { system: checkTemplate(system, where, 'system', 'text') }),
    question: checkTemplate(fields.question, where, 'question', 'text'),
    answer: text('answer'),
    ...(reply !== undefined && { reply: checkTemplate(reply, where, 'reply', 'text') }),
    separator: text('separator'),
    stop: checkTexts(fields.stop, where, 'stop'),
    ...(think !== undefined && { think: text('think') }),
    ...(noThink !== undefined && { noThink: text('noThink') }),
    ...(clean !== undefined && { clean: checkWord(clean, where, 'clean', ['blankLines', 'nothing']) }),
    ...(sampling !== undefined && { sampling: checkSampling(sampling, `${where}: sampling`) }),
    ...(tools !== undefined && { tools: checkTools(tools, `${where}: tools`) }),
  }
}

function checkSampling(value: unknown, where: string): NonNullable<ChatFormat['sampling']> {
  const fields = checkObject(value, where, ['think', 'noThink'])
  const of = (field: 'think' | 'noThink') => {
    const settings = fields[field]
    if (settings === undefined) return {}
    const place = `${where}: ${field}`
    try {
      return { [field]: options('sampling', samplingOptions, checkObject(settings, place, NAMES)) }
    } catch (error) {
      // Of the kinds of values the options of a call know more than we do.
      if (!(error instanceof RwkvError) || error.code !== 'INVALID_OPTION') throw error
      throw new RwkvError('DATA', `${place}: ${error.message}`, { cause: error })
    }
  }
  return { ...of('think'), ...of('noThink') }
}

const NAMES = Object.keys(samplingTable)

function checkTools(value: unknown, where: string): ToolFormat {
  const fields = checkObject(value, where, ['system', 'answer', 'result', 'stop'])
  return {
    system: checkTemplate(fields.system, where, 'system', 'tools'),
    answer: checkText(fields.answer, where, 'answer'),
    result: checkTemplate(fields.result, where, 'result', 'text'),
    stop: checkTexts(fields.stop, where, 'stop'),
  }
}
