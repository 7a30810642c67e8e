import type { ChatFormat } from '../chat-formats.js'
import { cleaned, thinkingPrefix, writeQuestion, writeSystem } from '../chat-text.js'
import { RwkvError } from '../errors.js'
import type { Generation } from '../generation.js'
import type { Model } from '../model.js'
import type { GenerateOptions, GenerationEnd, Signal } from '../options.js'
import type { Session } from '../session.js'
import type { State } from '../state.js'

/**
 * A question, and what stands after it: the very text, spaces at its beginning included, and what the format puts
 * before the model's own words so that it thinks or does not.
 *
 * Thoughts stay part of the conversation. The source of the family's formats (RWKV7-G1x-templates.txt) does not say
 * whether earlier ones are to be left out, and its examples of several turns have none to begin with; the model has
 * read them anyway, and to forget them would be to read the answer anew.
 */
export interface Turn {
  readonly question: string
  readonly answer: string
}

/** An answer that was just written. */
export interface Answer extends Turn {
  readonly tokens: number
  readonly end: GenerationEnd
  readonly seconds: number
}

/** A conversation to go on from. */
export interface Past {
  readonly format: ChatFormat
  readonly system: string | undefined
  readonly turns: readonly Turn[]
  /** The states before the first turn and after the last, if they are known. */
  readonly states?: { readonly beginning: State; readonly end: State } | undefined
}

interface Kept extends Turn {
  /** The state before it; none if there was no room for it, or it was never known. */
  before: State | undefined
}

/** How an answer is asked for. */
export interface Asking extends Omit<GenerateOptions, 'signal'> {
  readonly signal: Signal
  /** Told each piece of the answer, as it is written. */
  readonly onText: (piece: string) => void
}

/** Memory for the states of earlier turns, in bytes: hundreds of turns of a small model, a dozen of a large one. */
const ROOM = 64 * 2 ** 20

/**
 * One text of questions and answers, with a session that has read it.
 *
 * Each method does its work whole or not at all: if it throws, the conversation is as it was before. (An answer that
 * is stopped after its first piece is no failure.)
 */
export class Conversation {
  readonly #model: Model
  readonly #session: Session
  /** Where a conversation of this program starts: an empty state, or the one that was given. */
  readonly #start: Start
  readonly #think: boolean | undefined
  /** How many states of earlier turns are kept. */
  readonly #most: number
  /** The state after the system text. */
  #beginning: State
  #turns: Kept[] = []
  #format: ChatFormat
  #system: string | undefined

  private constructor(
    model: Model,
    session: Session,
    start: Start,
    past: Omit<Past, 'turns' | 'states'>,
    think: boolean | undefined,
    room: number,
  ) {
    this.#model = model
    this.#session = session
    this.#start = start
    this.#think = think
    this.#beginning = session.state
    this.#format = past.format
    this.#system = past.system
    this.#most = Math.max(1, Math.floor(room / bytesOfState(model)))
  }

  /** Begins one: reads the system text. `room` is the memory for states of earlier turns, in bytes. */
  static async begin(
    model: Model,
    options: {
      format: ChatFormat
      system?: string | undefined
      state?: State | undefined
      /** Whether the model is to think before it answers; undefined where nothing is to be said of it. */
      think?: boolean | undefined
      room?: number
      signal: Signal
    },
  ): Promise<Conversation> {
    const { format, system, state, think, room = ROOM, signal } = options
    // Refused now, and not with the first question.
    thinkingPrefix(format, think)
    const session = model.createSession({ state })
    const start = { state: session.state, isGiven: state !== undefined }
    await open(model, session, { format, system }, start.isGiven, signal)
    return new Conversation(model, session, start, { format, system }, think, room)
  }

  get format(): ChatFormat {
    return this.#format
  }

  get system(): string | undefined {
    return this.#system
  }

  get turns(): readonly Turn[] {
    return this.#turns.map(({ question, answer }) => ({ question, answer }))
  }

  /** The state after the system text. */
  get beginning(): State {
    return this.#beginning
  }

  /** The state after all of it. */
  get state(): State {
    return this.#session.state
  }

  /** What stands before the model's own words in the answers to come; part of {@link Turn.answer}. */
  get prefix(): string {
    const isThoughtless = this.#think === true && this.#format.think === undefined
    // Of another conversation that was loaded.
    return isThoughtless ? '' : thinkingPrefix(this.#format, this.#think)
  }

  /** All of it, as the session has read it; the token that some formats begin with is no text. */
  get text(): string {
    const system = this.#system ? writeSystem(this.#format, this.#system) + this.#format.separator : ''
    return system + this.#turns.map((turn, i) => this.#opening(turn.question, i) + turn.answer).join('')
  }

  /**
   * Asks, and has the answer written.
   *
   * @throws The signal's reason if it stops the answer before its first piece; what {@link Session.generate} throws.
   */
  async ask(question: string, { onText, stop = [], ...options }: Asking): Promise<Answer> {
    const text = cleaned(this.#format, question)
    const { prefix } = this
    const before = this.#session.state
    const startedAt = performance.now()
    // Asked alone first: its error counts the characters of the question, not of what the format puts before it.
    this.#model.tokenizer.encode(text)
    const writing = this.#session.generate(this.#opening(text, this.#turns.length) + prefix, {
      ...options,
      stop: [...this.#format.stop, ...[stop].flat()],
    })
    await this.#write(writing, before, options.signal, onText)
    const answer = prefix + writing.text
    this.#keep({ question: text, answer, before })
    return {
      question: text,
      answer,
      tokens: writing.tokens.length,
      end: writing.end ?? 'aborted',
      seconds: (performance.now() - startedAt) / 1000,
    }
  }

  /** Takes the last turn back; undefined if there is none. */
  async undo(signal: Signal): Promise<Turn | undefined> {
    const last = this.#turns.at(-1)
    if (!last) return undefined
    if (last.before) {
      this.#session.state = last.before
      this.#turns.pop()
    } else {
      const { turns, end } = await this.#read(this.#format, this.#beginning, this.#turns.slice(0, -1), signal)
      this.#session.state = end
      this.#turns = turns
    }
    return { question: last.question, answer: last.answer }
  }

  /** Has the last question answered anew; undefined if there is none. */
  async retry(asking: Asking): Promise<Answer | undefined> {
    const [turns, after] = [[...this.#turns], this.#session.state]
    const last = await this.undo(asking.signal)
    if (!last) return undefined
    try {
      return await this.ask(last.question, asking)
    } catch (error) {
      this.#turns = turns
      this.#session.state = after
      throw error
    }
  }

  /** Takes all turns back; the system text stays. */
  reset(): void {
    this.#session.state = this.#beginning
    this.#turns = []
  }

  /** Goes on from another conversation. Without its states, its text is read anew. */
  async replace({ format, system, turns, states }: Past, signal: Signal): Promise<void> {
    let beginning = states?.beginning
    let read = {
      turns: turns.map(turn => ({ ...turn, before: undefined as State | undefined })),
      end: states?.end,
    }
    if (!beginning || !read.end) {
      const { state, isGiven } = this.#start
      // As a new session begins, unless it has a state of its own.
      const session = this.#model.createSession({ state: isGiven ? state : undefined })
      try {
        await open(this.#model, session, { format, system }, isGiven, signal)
        beginning = session.state
      } finally {
        session.close()
      }
      read = await this.#read(format, beginning, turns, signal)
    }
    if (read.end) this.#session.state = read.end
    this.#beginning = beginning
    this.#turns = read.turns
    this.#format = format
    this.#system = system
  }

  /** A question as the session is to read it, after that many turns. */
  #opening(question: string, turns: number, format = this.#format): string {
    return (turns > 0 ? format.separator : '') + writeQuestion(format, question) + format.answer
  }

  async #write(writing: Generation, before: State, signal: Signal, onText: Asking['onText']): Promise<void> {
    try {
      for await (const piece of writing) onText(piece)
    } catch (error) {
      // What is written stays, and the session is after it.
      if (signal.aborted && error === signal.reason && writing.text !== '') return
      this.#session.state = before
      throw error
    }
  }

  #keep(turn: Kept): void {
    this.#turns.push(turn)
    forget(this.#turns, this.#most)
  }

  /** Reads turns anew, in a session of their own. */
  async #read(
    format: ChatFormat,
    beginning: State,
    turns: readonly Turn[],
    signal: Signal,
  ): Promise<{ turns: Kept[]; end: State }> {
    const session = this.#model.createSession({ state: beginning })
    try {
      const read: Kept[] = []
      for (const { question, answer } of turns) {
        const before = session.state
        // Cut where it was when the answer was written, for the same tokens.
        const prefix = prefixOf(format, answer)
        await session.prompt(this.#opening(question, read.length, format) + prefix, { signal })
        const rest = answer.slice(prefix.length)
        if (rest !== '') await session.prompt(rest, { signal })
        read.push({ question, answer, before })
        forget(read, this.#most)
      }
      return { turns: read, end: session.state }
    } finally {
      session.close()
    }
  }
}

/** Where conversations start. */
interface Start {
  readonly state: State
  /** Whether it is one that was given, and not the empty one. */
  readonly isGiven: boolean
}

/** Reads what is before the first question. A state that was given is in the place of the beginning of a text. */
async function open(
  { tokenizer }: Model,
  session: Session,
  { format, system }: Pick<Past, 'format' | 'system'>,
  isGiven: boolean,
  signal: Signal,
): Promise<void> {
  if (format.begin === 'endOfText' && !isGiven) {
    const end = tokenizer.endOfText
    if (end === undefined)
      throw new RwkvError(
        'TOKENIZER',
        `the format "${format.name}" begins with the token that ends a text, and the vocabulary "${tokenizer.kind}" has none`,
      )
    await session.eval([end], { signal })
  }
  if (system) await session.prompt(writeSystem(format, system) + format.separator, { signal })
}

/** The part of an answer that was in the prompt. */
function prefixOf({ think = '', noThink = '' }: ChatFormat, answer: string): string {
  // The one may begin with the other.
  const prefixes = [noThink, think].sort((a, b) => b.length - a.length)
  return prefixes.find(prefix => answer.startsWith(prefix)) ?? ''
}

/** Forgets the states of all but the last turns. */
function forget(turns: Kept[], most: number): void {
  const old = turns.at(-1 - most)
  if (old) old.before = undefined
}

/** Five vectors a layer in RWKV-4; in RWKV-7 two, and a matrix as wide as a head. */
function bytesOfState({ config: { nLayer, nEmbd, sizes } }: Model): number {
  return 4 * nLayer * nEmbd * (sizes.headSize === undefined ? 5 : 2 + sizes.headSize)
}
