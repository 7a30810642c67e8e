import { splitThoughts, type ThoughtsAndAnswer } from '../chat-text.js'
import { RwkvError } from '../errors.js'
import type { Model } from '../model.js'
import type { GenerateOptions } from '../options.js'
import { obey } from './chat-commands.js'
import type { Voice } from './chat-voice.js'
import type { Answer, Asking, Conversation } from './conversation.js'
import { style } from './visible.js'

type Settings = Omit<GenerateOptions, 'signal'>

/** Why what is under way was stopped: somebody had seen enough of it. */
class Enough extends Error {}

/** A chat: takes line after line, which are questions and commands. */
export class Chat {
  readonly model: Model
  readonly conversation: Conversation
  readonly voice: Voice
  /** How many lines failed. */
  failures = 0
  readonly #signal: AbortSignal
  #settings: Settings
  /** Answers so far: each is drawn with a seed of its own. */
  #answers = 0
  #stop: AbortController | undefined

  /** @param signal Aborted when the program is to end. */
  constructor(
    model: Model,
    conversation: Conversation,
    settings: Settings,
    voice: Voice,
    signal: AbortSignal,
  ) {
    this.model = model
    this.conversation = conversation
    this.voice = voice
    this.#settings = settings
    this.#signal = signal
  }

  /** How answers are written. */
  get settings(): Settings {
    return this.#settings
  }

  /**
   * Takes a line. What goes wrong with it is said, and leaves the conversation as it was.
   *
   * @returns Whether the chat is over.
   */
  async enter(line: string): Promise<boolean> {
    this.#stop = new AbortController()
    const signal = AbortSignal.any([this.#signal, this.#stop.signal])
    try {
      if (line.startsWith('/')) return await obey(this, line, signal)
      if (line.trim() !== '') await this.#answer(signal, asking => this.conversation.ask(line, asking))
      return false
    } catch (error) {
      if (this.#signal.aborted) throw this.#signal.reason
      if (error instanceof Enough) {
        this.voice.note('stopped; the conversation is as it was before')
        return false
      }
      this.failures++
      this.voice.fail(error, line)
      return false
    } finally {
      this.#stop = undefined
    }
  }

  /** Stops what is under way; what is written of an answer stays. */
  enough(): void {
    this.#stop?.abort(new Enough())
  }

  /** Answers the last question anew. */
  async retry(signal: AbortSignal): Promise<void> {
    const before = this.conversation.turns.at(-1)
    const answer = await this.#answer(signal, asking => this.conversation.retry(asking))
    if (!answer) this.voice.note('there is no question to answer anew')
    else if (answer.answer === before?.answer && this.#settings.temperature === 0)
      this.voice.note('the same answer: temperature 0 takes the likeliest; /set temperature 0.8')
  }

  /**
   * Changes settings.
   *
   * @throws {RwkvError} `INVALID_OPTION`; then they stay.
   */
  async set(changes: Settings): Promise<void> {
    const settings = { ...this.#settings, ...changes }
    await checkSettings(this.model, settings)
    this.#settings = settings
    if ('seed' in changes) this.#answers = 0
  }

  /** Has an answer written, and shows it. */
  async #answer<T extends Answer | undefined>(
    signal: AbortSignal,
    ask: (asking: Asking) => Promise<T>,
  ): Promise<T> {
    const page = this.voice.page()
    const isShown = this.voice.isTerminal
    let written = this.conversation.prefix
    let [thought, shown] = ['', '']
    // For long questions and large models.
    const isDumb = process.env.TERM === 'dumb'
    const patience = isDumb ? undefined : setTimeout(() => page.live(style.dim('reading …')), 300)
    const onText = (piece: string) => {
      clearTimeout(patience)
      page.done()
      written += piece
      show(splitThoughts(written))
    }
    // Formats leave the space after `Assistant:` to the model.
    const show = ({ thoughts = '', answer }: ThoughtsAndAnswer) => {
      if (isShown && thoughts !== thought) {
        if (thought === '') page.dim(true)
        page.text(thoughts.slice(thought.length))
        thought = thoughts
      }
      if (answer === shown) return
      if (thought !== '' && shown === '') endThoughts()
      page.text(answer.slice(shown.length))
      shown = answer
    }
    const endThoughts = () => {
      page.dim(false)
      page.text('\n\n')
    }
    let answer: T
    try {
      answer = await ask({ ...this.#settings, seed: this.#seed(), signal, onText })
    } catch (error) {
      if (thought !== '' && shown === '') page.dim(false)
      if (thought + shown !== '') page.endText()
      throw error
    } finally {
      clearTimeout(patience)
      page.done()
    }
    if (!answer) return answer
    const parts = splitThoughts(answer.answer, true)
    show(parts)
    this.#answers++
    if (thought !== '' && shown === '') page.dim(false)
    if (thought + shown !== '' || !isShown) page.endText()
    const { question, tokens, end, seconds } = answer
    const { thoughts, answer: text } = parts
    const told = thoughts === undefined ? {} : { thoughts: thoughts.trim() }
    page.object({ question, ...told, answer: text.trim(), tokens, end, seconds })
    this.#tellEnd(answer)
    return answer
  }

  /** Says what cannot be seen. */
  #tellEnd({ end, tokens, answer }: Answer): void {
    if (!this.voice.isTerminal) return
    if (end === 'aborted') this.voice.note('(stopped)')
    else if (end === 'length')
      this.voice.note(`(after ${tokens} tokens; for more: /set max-tokens ${2 * tokens})`)
    else if (splitThoughts(answer, true).answer === '')
      this.voice.note('(no answer: the model ended it at once; /retry asks again)')
  }

  #seed(): number | undefined {
    const { seed } = this.#settings
    if (seed === undefined) return undefined
    const next = seed + this.#answers
    return Number.isSafeInteger(next) ? next : this.#answers
  }
}

/**
 * Refuses settings that make no sense, before somebody has typed a question.
 *
 * @throws {RwkvError} `INVALID_OPTION`.
 */
export async function checkSettings(model: Model, settings: Settings): Promise<void> {
  // An empty text has nothing to go on from if its state was set; that is found out last, and before any work.
  const session = model.createSession()
  try {
    const { state } = session
    session.state = state
    await session.generate('', settings).next()
  } catch (error) {
    const isFine =
      error instanceof RwkvError && error.code === 'INVALID_OPTION' && /^prompt /.test(error.message)
    if (!isFine) throw error
  } finally {
    session.close()
  }
}
