import { randomInt } from 'node:crypto'
import type { Cancel, NativeSession, NativeWriter } from '#native'
import { cancellable } from './cancel.js'
import { checkPositive, wholeNumber } from './checks.js'
import { call, RwkvError } from './errors.js'
import { native, type Pending, Turn } from './internal.js'
import type { Model } from './model.js'
import type { GenerateOptions } from './options.js'
import { State } from './state.js'
import { StopText } from './stop.js'

/** Tokens that one trip to the native side may write; how many it does write depends on how long they take. */
const MAX_PIECE = 64

/**
 * One text: what was read and written so far, of which the model remembers a {@link State}.
 *
 * It does one thing at a time, and answers a second call meanwhile with `BUSY`; sessions of one model run side by side.
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
   * @throws {RwkvError} `TOKEN_OUT_OF_RANGE`, `INVALID_OPTION` if there are no tokens, `BUSY` or `CLOSED`.
   */
  async eval(tokens: ArrayLike<number>, options: { signal?: AbortSignal } = {}): Promise<Float32Array> {
    this.#refuseWhileWriting()
    return this.#eval(tokens, options.signal)
  }

  /** Reads a text; otherwise as {@link eval}. */
  async prompt(text: string, options: { signal?: AbortSignal } = {}): Promise<Float32Array> {
    return this.eval(this.#model.tokenizer.encode(text), options)
  }

  /**
   * Reads `prompt` and writes on, in pieces of whole characters.
   *
   * The prompt may be empty if the session has read something before. What was written is part of the session's text:
   * a second call goes on from there.
   *
   * @throws {RwkvError} `UNKNOWN_CHARACTER`, `INVALID_OPTION`, `BUSY` or `CLOSED`, from the loop.
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
    const { maxTokens = 256, stop, signal, temperature, topK, topP, seed = randomInt(2 ** 47) } = options
    checkPositive('maxTokens', maxTokens)
    wholeNumber('topK', topK)
    wholeNumber('seed', seed)
    const end = new StopText(stop)
    this.#refuseWhileWriting()
    this.#turn.check()
    this.#isWriting = true
    try {
      const tokenizer = this.#model.tokenizer
      const writer = call(() => this.#native.writer(tokenizer[native], { temperature, topK, topP, seed }))
      if (prompt !== '') await this.#eval(tokenizer.encode(prompt), signal)
      for (let left = maxTokens; left > 0 && !end.isReached; ) {
        const piece = await this.#write(writer, end.isWanted ? 1 : Math.min(left, MAX_PIECE), signal)
        left -= piece.tokens
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

  /** What the model remembers of the text so far. Setting it goes on from there; the next prompt must not be empty. */
  get state(): State {
    this.#turn.check()
    return new State(call(() => this.#native.state))
  }

  set state(state: State) {
    this.#refuseWhileWriting()
    this.#turn.check()
    call(() => this.#native.restore(state[native]))
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

  async #eval(tokens: ArrayLike<number>, signal: AbortSignal | undefined): Promise<Float32Array> {
    const ids = tokens instanceof Uint32Array ? tokens : toTokens(tokens)
    return this.#work(signal, cancel => this.#native.eval(ids, cancel))
  }

  async #write(writer: NativeWriter, limit: number, signal: AbortSignal | undefined) {
    return this.#work(signal, cancel => writer.write(limit, cancel))
  }

  async #work<T>(signal: AbortSignal | undefined, work: (cancel: Cancel) => Promise<T>): Promise<T> {
    return this.#turn.take(() => this.#pending.track(cancellable({ signal }, work)))
  }

  #refuseWhileWriting(): void {
    if (!this.#isWriting) return
    throw new RwkvError(
      'BUSY',
      'this session is still writing: end the loop over generate() first, or use another session',
    )
  }
}

/** A `Uint32Array` of them would make 1.5 and −1 tokens. */
function toTokens(tokens: ArrayLike<number>): Uint32Array {
  return Uint32Array.from(tokens, token => {
    if (Number.isInteger(token) && token >= 0 && token < 2 ** 32) return token
    throw new RwkvError('TOKEN_OUT_OF_RANGE', `token ${token} is not a whole number from 0 on`)
  })
}
