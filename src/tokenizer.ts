import { NativeTokenizer } from '#native'
import { call, toRwkvError } from './errors.js'
import { native } from './internal.js'
import { argument, path as pathKind, text as textKind, toTokens } from './kinds.js'
import type { TokenizerKind } from './options.js'

/**
 * Turns texts into tokens and back. It never changes.
 *
 * @example
 * ```ts
 * import { Tokenizer } from 'rwkv'
 *
 * const tokenizer = Tokenizer.charactersOf('hello')
 * console.log(tokenizer.nVocab) // 4: e, h, l, o
 * console.log(tokenizer.decode(tokenizer.encode('hole'))) // hole
 * ```
 */
export class Tokenizer {
  readonly #native: NativeTokenizer

  /** @internal */
  constructor(native: NativeTokenizer) {
    this.#native = native
  }

  /** The 256 bytes as tokens: any text is accepted. */
  static byte(): Tokenizer {
    return new Tokenizer(NativeTokenizer.byte())
  }

  /** The distinct characters of `text` as tokens, in the order of their code points. */
  static charactersOf(text: string): Tokenizer {
    argument('text', textKind, text)
    return new Tokenizer(call(() => NativeTokenizer.charactersOf(text)))
  }

  /** Reads a `tokenizer.json`. */
  static async load(path: string): Promise<Tokenizer> {
    argument('path', pathKind, path)
    try {
      return new Tokenizer(await NativeTokenizer.load(path))
    } catch (error) {
      throw toRwkvError(error)
    }
  }

  /** @internal */
  get [native](): NativeTokenizer {
    return this.#native
  }

  /** What its tokens are. */
  get kind(): TokenizerKind {
    return this.#native.kind as TokenizerKind
  }

  /** Number of different tokens. */
  get nVocab(): number {
    return this.#native.nVocab
  }

  /**
   * The tokens of a text.
   *
   * @throws {RwkvError} `UNKNOWN_CHARACTER` if the vocabulary lacks one.
   */
  encode(text: string): Uint32Array {
    argument('text', textKind, text)
    return call(() => this.#native.encode(text))
  }

  /**
   * The text that tokens stand for. Bytes that make no character come out as U+FFFD.
   *
   * @throws {RwkvError} `TOKEN_OUT_OF_RANGE`.
   */
  decode(tokens: ArrayLike<number>): string {
    const ids = toTokens(tokens)
    return call(() => this.#native.decode(ids).toString('utf8'))
  }

  /** Writes a `tokenizer.json`, whole or not at all. */
  async save(path: string): Promise<void> {
    argument('path', pathKind, path)
    try {
      await this.#native.save(path)
    } catch (error) {
      throw toRwkvError(error)
    }
  }
}

/**
 * What a text begins with if there is no prompt, as in training's samples: a line break, or the first token
 * of a vocabulary that has none. @internal
 */
export function beginning(tokenizer: Tokenizer): string {
  try {
    tokenizer.encode('\n')
    return '\n'
  } catch {
    return tokenizer.decode([0])
  }
}
