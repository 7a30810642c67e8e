import type { Generation } from '../generation.js'
import type { Model } from '../model.js'
import type { GenerateOptions, GenerationEnd, Signal } from '../options.js'
import type { Session } from '../session.js'
import type { State } from '../state.js'
import { asTurn, type ChatFormat } from './chat-formats.js'

/** A question, and what the model wrote after it: the very text, spaces at its beginning included. */
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
  readonly #start: State
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
    start: State,
    past: Omit<Past, 'turns' | 'states'>,
    room: number,
  ) {
    this.#model = model
    this.#session = session
    this.#start = start
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
      room?: number
      signal: Signal
    },
  ): Promise<Conversation> {
    const { format, system, state, room = ROOM, signal } = options
    const session = model.createSession({ state })
    const start = session.state
    // The text before the first question: it may have blank lines, which no turn has.
    if (system) await session.prompt(system + format.separator, { signal })
    return new Conversation(model, session, start, { format, system }, room)
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

  /** All of it, as the session has read it. */
  get text(): string {
    const system = this.#system ? this.#system + this.#format.separator : ''
    return system + this.#turns.map((turn, i) => this.#opening(turn.question, i) + turn.answer).join('')
  }

  /**
   * Asks, and has the answer written.
   *
   * @throws The signal's reason if it stops the answer before its first piece; what {@link Session.generate} throws.
   */
  async ask(question: string, { onText, stop = [], ...options }: Asking): Promise<Answer> {
    const text = asTurn(question)
    const before = this.#session.state
    const startedAt = performance.now()
    // Asked alone first: its error counts the characters of the question, not of what the format puts before it.
    this.#model.tokenizer.encode(text)
    const writing = this.#session.generate(this.#opening(text, this.#turns.length), {
      ...options,
      stop: [...this.#format.stop, ...[stop].flat()],
    })
    await this.#write(writing, before, options.signal, onText)
    this.#keep({ question: text, answer: writing.text, before })
    return {
      question: text,
      answer: writing.text,
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
      const session = this.#model.createSession({ state: this.#start })
      try {
        if (system) await session.prompt(system + format.separator, { signal })
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
    // A function, for a replacement in words would read `$&` in the question.
    return (
      (turns > 0 ? format.separator : '') + format.question.replace('{text}', () => question) + format.answer
    )
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
        await session.prompt(this.#opening(question, read.length, format), { signal })
        if (answer !== '') await session.prompt(answer, { signal })
        read.push({ question, answer, before })
        forget(read, this.#most)
      }
      return { turns: read, end: session.state }
    } finally {
      session.close()
    }
  }
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
