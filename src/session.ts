import type { Cancel, NativePiece, NativeSession, NativeWriting } from '#native'
import { cancellable } from './cancel.js'
import { call, RwkvError } from './errors.js'
import { Generation } from './generation.js'
import { native, type Pending, Turn } from './internal.js'
import { argument, options as check, text as textKind, toTokens } from './kinds.js'
import type { Model } from './model.js'
import type { GenerateOptions, PromptOptions, Signal } from './options.js'
import { samplingJson } from './sampling.js'
import { generateOptions, promptOptions } from './schemas.js'
import { State, stateKind } from './state.js'

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
    return this.#work(signal, cancel => this.#native.eval(ids, cancel))
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
    // A model without a tokenizer says so.
    this.#model.tokenizer
    return this.#work(signal, cancel => this.#native.prompt(text, cancel))
  }

  /**
   * Reads `prompt` and writes on, in pieces of whole characters.
   *
   * The prompt may be empty. A session that has read nothing then begins with a line break (which is not part
   * of what is written), or with the first token of a vocabulary that has none; one that was given a state
   * has to read something first.
   *
   * What was written is part of the session's text: a second call goes on from there. What ended it is not: neither a
   * `stop`, nor the token by which the model ends a text. A loop that is left early leaves the session after the last
   * piece that it got.
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
  generate(prompt: string, options: GenerateOptions = {}): Generation {
    let isOurs = false
    let until: Signal | undefined
    let writing: NativeWriting | undefined
    let tellsLogProbabilities = false
    return new Generation({
      begin: async () => {
        argument('prompt', textKind, prompt)
        const {
          maxTokens = 256,
          stop = [],
          ignoreEndOfText,
          logProbabilities,
          signal,
          ...sampling
        } = check('generate()', generateOptions, options)
        this.#refuseWhileWriting()
        this.#turn.check()
        // A model without a tokenizer says so.
        this.#model.tokenizer
        this.#isWriting = isOurs = true
        until = signal
        const settings = {
          maxTokens,
          stop: [stop].flat(),
          ignoreEndOfText,
          logProbabilities,
          sampling: samplingJson(sampling),
        }
        tellsLogProbabilities = logProbabilities !== undefined
        writing = await this.#work(signal, cancel => this.#native.generate(prompt, settings, cancel))
      },
      next: async () => {
        const begun = writing
        const piece = begun ? await this.#work(until, cancel => begun.next(cancel)) : null
        return piece && published(piece, tellsLogProbabilities)
      },
      end: () => {
        writing?.close()
        if (isOurs) this.#isWriting = false
      },
    })
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

/** A piece as the interface has it. */
function published({ text, tokens, logProbabilities, end }: NativePiece, tells: boolean) {
  const all = logProbabilities.map(
    each =>
      each && {
        chosen: each.chosen,
        best: Array.from(each.tokens, (token, i) => ({ token, logProbability: each.best[i] ?? Number.NaN })),
      },
  )
  return {
    text,
    tokens,
    ...(tells && { logProbabilities: all.map(each => each ?? undefined) }),
    ...(end !== undefined && { end }),
  }
}
