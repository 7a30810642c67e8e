import { randomInt } from 'node:crypto'
import type { Cancel, NativeSession, NativeWriter } from '#native'
import { cancellable } from './cancel.js'
import { call, RwkvError } from './errors.js'
import { native, type Pending, Turn, written } from './internal.js'
import { argument, options as check, text as textKind, toTokens } from './kinds.js'
import type { Model } from './model.js'
import type { GenerateOptions, PromptOptions, Signal } from './options.js'
import { generateOptions, promptOptions } from './schemas.js'
import { State, stateKind } from './state.js'
import { StopText } from './stop.js'

/**
 * Tokens that one trip to the native side may write; how many it does write depends on how long they take.
 */
const MAX_PIECE = 64

/**
 * One text: the tokens read and written so far. Its {@link State} is the model's memory of them.
 *
 * It does one thing at a time, and answers a second call meanwhile with `BUSY`; sessions of one model run
 * side by side.
 *
 * @example
 * ```ts
 * import { Model } from 'rwkv'
 *
 * await using model = await Model.load('runs/book')
 * const session = model.createSession()
 * await session.prompt('It was a dark and ')
 * const fork = model.createSession()
 * fork.state = session.state
 * ```
 */
export class Session implements Disposable {
  readonly #model: Model
  readonly #native: NativeSession
  readonly #pending: Pending
  readonly #turn: Turn
  #isClosed = false
  /** Whether it has read nothing, and was given no state. */
  #isNew = true
  /** Tokens that {@link generate} has written. */
  #written = 0
  /** Whether a loop over {@link generate} is under way; between two of its pieces no native work is. */
  #isWriting = false

  /** @internal */
  constructor(model: Model, session: NativeSession, pending: Pending) {
    this.#model = model
    this.#native = session
    this.#pending = pending
    this.#turn = new Turn('session', () => this.#isClosed || model.isClosed)
  }

  /**
   * Reads tokens, and returns the logits (nVocab) of what may come after them.
   *
   * If it fails or is stopped, the session is as it was before.
   *
   * @throws {RwkvError} `TOKEN_OUT_OF_RANGE`; `INVALID_OPTION` if there are no tokens; `FILE_CHANGED` if the
   *   model's file was written to; `MODEL_FILE` if a weight is infinite or not a number, and `NOT_FINITE` if
   *   a result is; `BUSY` or `CLOSED`. The signal's reason, once it is aborted.
   */
  async eval(tokens: ArrayLike<number>, options: PromptOptions = {}): Promise<Float32Array> {
    const ids = toTokens(tokens)
    const { signal } = check('eval()', promptOptions, options)
    this.#refuseWhileWriting()
    return this.#eval(ids, signal)
  }

  /**
   * Reads a text; otherwise as {@link eval}.
   *
   * @throws {RwkvError} `UNKNOWN_CHARACTER`; `TOKENIZER` if the model has none; what {@link eval} throws.
   */
  async prompt(text: string, options: PromptOptions = {}): Promise<Float32Array> {
    argument('text', textKind, text)
    const { signal } = check('prompt()', promptOptions, options)
    this.#refuseWhileWriting()
    return this.#eval(this.#model.tokenizer.encode(text), signal)
  }

  /**
   * Reads `prompt` and writes on, in pieces of whole characters.
   *
   * The prompt may be empty. A session that has read nothing then begins with a line break (which is not part
   * of what is written), or with the first token of a vocabulary that has none; one that was given a state
   * has to read something first. What was written is part of the session's text: a second call goes on from
   * there.
   *
   * @throws {RwkvError} From the loop, what {@link Session.prompt} throws; `INVALID_OPTION` also for options that
   *   make no sense.
   * @example
   * ```ts
   * import { Model } from 'rwkv'
   *
   * await using model = await Model.load('runs/book')
   * const session = model.createSession()
   * for await (const text of session.generate('It was ', { maxTokens: 40, temperature: 0.8, topP: 0.9, seed: 1 })) {
   *   process.stdout.write(text)
   * }
   * ```
   */
  async *generate(prompt: string, options: GenerateOptions = {}): AsyncGenerator<string, void, undefined> {
    argument('prompt', textKind, prompt)
    const { maxTokens = 256, stop, signal, ...sampling } = check('generate()', generateOptions, options)
    const end = new StopText(stop)
    this.#refuseWhileWriting()
    this.#turn.check()
    this.#isWriting = true
    try {
      const tokenizer = this.#model.tokenizer
      const seed = sampling.seed ?? randomInt(2 ** 47)
      const writer = call(() => this.#native.writer(tokenizer[native], { ...sampling, seed }))
      const tokens = prompt === '' && this.#isNew ? tokenizer.beginning() : tokenizer.encode(prompt)
      if (tokens.length > 0) await this.#eval(tokens, signal)
      for (let left = maxTokens; left > 0 && !end.isReached; ) {
        const piece = await this.#write(writer, end.isWanted ? 1 : Math.min(left, MAX_PIECE), signal)
        left -= piece.tokens
        this.#written += piece.tokens
        const text = end.take(piece.text)
        if (text !== '') yield text
      }
      if (end.isReached) return
      const rest = end.take(call(() => writer.finish())) + end.rest()
      if (rest !== '') yield rest
    } finally {
      this.#isWriting = false
    }
  }

  /**
   * The model's memory of the text so far. Setting it continues from that point; the next prompt must not be
   * empty.
   *
   * @throws {RwkvError} `BUSY` or `CLOSED`; to set it also `STATE` for a state of another model, and
   *   `INVALID_OPTION` for a value that is not a state.
   */
  get state(): State {
    this.#turn.check()
    return new State(call(() => this.#native.state))
  }

  /** Continues from the point of that state. */
  set state(state: State) {
    argument('state', stateKind, state)
    this.#refuseWhileWriting()
    this.#turn.check()
    call(() => this.#native.restore(state[native]))
    this.#isNew = false
  }

  /** Frees the session's memory; later calls throw `CLOSED`. Closing the model does it too. */
  close(): void {
    this.#isClosed = true
    this.#native.close()
  }

  /** {@link close}, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }

  /** @internal */
  get [written](): number {
    return this.#written
  }

  async #eval(tokens: Uint32Array, signal: Signal | undefined): Promise<Float32Array> {
    const logits = await this.#work(signal, cancel => this.#native.eval(tokens, cancel))
    this.#isNew = false
    return logits
  }

  async #write(writer: NativeWriter, limit: number, signal: Signal | undefined) {
    return this.#work(signal, cancel => writer.write(limit, cancel))
  }

  async #work<T>(signal: Signal | undefined, work: (cancel: Cancel) => Promise<T>): Promise<T> {
    return this.#turn.take(() => this.#pending.track(cancellable({ signal }, work)))
  }

  #refuseWhileWriting(): void {
    // Of what is closed, that is said first.
    if (!this.#isWriting || this.#isClosed || this.#model.isClosed) return
    throw new RwkvError(
      'BUSY',
      'this session is still writing: end the loop over generate() first, or use another session',
    )
  }
}
