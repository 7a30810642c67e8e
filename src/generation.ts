import type { GenerateResult, GenerationEnd, LogProbabilities, Piece } from './options.js'

/** How a session writes: it begins when the first piece is asked for. */
export interface Writer {
  /** Begins. */
  begin(): Promise<void>
  /** The next piece, and why writing ended if it is the last; null after that. */
  next(): Promise<(Piece & { readonly end?: string }) | null>
  /** The writing is over, or could not be begun. */
  end(): void
}

/**
 * A text that is being written: a loop over it gets the text in pieces of whole characters, and what it consists of so
 * far can be asked for at any time.
 *
 * @example
 * ```ts
 * import { Model } from 'rwkv'
 *
 * await using model = await Model.load('runs/book')
 * const writing = model.createSession().generate('It was ', { maxTokens: 40, stop: '.' })
 * for await (const text of writing) process.stdout.write(text)
 * console.log(writing.end, writing.tokens.length) // stop 17
 * ```
 */
export class Generation implements AsyncIterableIterator<string> {
  readonly #pieces: AsyncGenerator<Piece, void, undefined>
  readonly #tokens: number[] = []
  #logProbabilities: (LogProbabilities | undefined)[] | undefined
  #text = ''
  #end: GenerationEnd | undefined

  /** @internal */
  constructor(writer: Writer) {
    this.#pieces = this.#write(writer)
  }

  /** What is written so far. */
  get text(): string {
    return this.#text
  }

  /** The tokens of {@link text}: what the session has read of it. */
  get tokens(): Uint32Array {
    return Uint32Array.from(this.#tokens)
  }

  /** How likely the model held each of the tokens, if that is asked for. */
  get logProbabilities(): readonly (LogProbabilities | undefined)[] | undefined {
    return this.#logProbabilities && [...this.#logProbabilities]
  }

  /**
   * Why writing ended: after `maxTokens` (`length`), before a stop, at the end that the model gives a text, or because
   * the loop was left, its signal was aborted, or it failed (`aborted`). Undefined as long as it goes on.
   */
  get end(): GenerationEnd | undefined {
    return this.#end
  }

  /** Writes on to the end: all of it. */
  async result(): Promise<GenerateResult> {
    for await (const _ of this.pieces()) {
      // What they consist of is kept.
    }
    return {
      text: this.#text,
      tokens: this.tokens,
      end: this.#end ?? 'aborted',
      ...(this.#logProbabilities && { logProbabilities: this.#logProbabilities }),
    }
  }

  /** The same pieces as those of a loop over this, with their tokens. */
  pieces(): AsyncIterableIterator<Piece> {
    return this.#pieces
  }

  /** The next piece of text. */
  async next(): Promise<IteratorResult<string, undefined>> {
    for (;;) {
      const { value, done } = await this.#pieces.next()
      if (done) return { value: undefined, done }
      // A token that is no whole character is a piece without text.
      if (value.text !== '') return { value: value.text, done: false }
    }
  }

  /** Ends the writing: a loop that is left calls it. */
  async return(): Promise<IteratorResult<string, undefined>> {
    await this.#pieces.return()
    this.#end ??= 'aborted'
    return { value: undefined, done: true }
  }

  /** The loop over the text. */
  [Symbol.asyncIterator](): this {
    return this
  }

  async *#write(writer: Writer): AsyncGenerator<Piece, void, undefined> {
    try {
      await writer.begin()
      while (this.#end === undefined) {
        const piece = await writer.next()
        if (piece === null) break
        const { end, ...given } = piece
        this.#text += given.text
        for (const token of given.tokens) this.#tokens.push(token)
        if (given.logProbabilities) {
          this.#logProbabilities ??= []
          for (const each of given.logProbabilities) this.#logProbabilities.push(each)
        }
        if (end !== undefined) this.#end = end as GenerationEnd
        if (given.text !== '' || given.tokens.length > 0) yield given
      }
    } finally {
      this.#end ??= 'aborted'
      writer.end()
    }
  }
}
