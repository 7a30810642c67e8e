import { NativeTokenizer } from '#native'
import { cancellable } from './cancel.js'
import { call, toRwkvError } from './errors.js'
import type { Input, Path } from './inputs.js'
import { native } from './internal.js'
import {
  argument,
  options as check,
  inputs as inputsKind,
  oneOf,
  path as pathKind,
  text as textKind,
  toTokens,
} from './kinds.js'
import type { TokenizerKind, TrainTokenizerOptions, Unknown } from './options.js'
import { trainTokenizerOptions } from './schemas.js'

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

  /**
   * A vocabulary that is part of this package: that of GPT-2, of the RWKV-4 models of the Pile (`20b`, which is
   * GPT-NeoX-20B's), or of the RWKV World models.
   *
   * @example
   * ```ts
   * import { Tokenizer } from 'rwkv'
   *
   * const tokenizer = await Tokenizer.named('gpt2')
   * console.log(tokenizer.encode('hello world')) // Uint32Array(2) [ 31373, 995 ]
   * ```
   */
  static async named(name: 'gpt2' | '20b' | 'world'): Promise<Tokenizer> {
    argument('name', oneOf('gpt2', '20b', 'world'), name)
    try {
      return new Tokenizer(await NativeTokenizer.named(name))
    } catch (error) {
      throw toRwkvError(error)
    }
  }

  /**
   * Trains byte pairs on texts: a BPE of `vocabSize` tokens. (A run with the option `tokenizer: 'bpe'` does that on its
   * own text.)
   *
   * @example
   * ```ts
   * import { Tokenizer } from 'rwkv'
   *
   * const tokenizer = await Tokenizer.train('book.txt', { vocabSize: 280 })
   * await tokenizer.save('tokenizer.json')
   * ```
   *
   * @param inputs Files, folders, patterns such as `books/*.txt`, or `-`, as {@link prepare} takes them, and texts in
   *   memory (`{ text }`, `{ bytes }`). Of more than a GiB the first one counts.
   * @throws {RwkvError} `INVALID_OPTION` for a vocabulary that is larger than the texts have byte pairs for; `IO`,
   *   `DATA`; the signal's reason, once it is aborted.
   */
  static async train(inputs: Input | readonly Input[], options: TrainTokenizerOptions): Promise<Tokenizer> {
    const named = argument('inputs', inputsKind, inputs)
    const { vocabSize, threads, signal, onProgress, ...texts } = check(
      'Tokenizer.train()',
      trainTokenizerOptions,
      options,
    )
    const trained = cancellable({ signal, onProgress }, cancel =>
      NativeTokenizer.train([named].flat(), vocabSize, texts, threads, cancel),
    )
    return new Tokenizer(await trained)
  }

  /** Reads a `tokenizer.json`: one of a run, or any other that Hugging Face's tokenizers can read. */
  static async load(path: Path): Promise<Tokenizer> {
    const file = argument('path', pathKind, path)
    try {
      return new Tokenizer(await NativeTokenizer.load(file))
    } catch (error) {
      throw toRwkvError(error)
    }
  }

  /** The tokenizer of a model of `nVocab` tokens that has none beside it, if its size tells. @internal */
  static async forVocabulary(nVocab: number): Promise<Tokenizer | undefined> {
    const found = await NativeTokenizer.forVocabulary(nVocab)
    return found === null ? undefined : new Tokenizer(found)
  }

  /** @internal */
  get [native](): NativeTokenizer {
    return this.#native
  }

  /** What its tokens are. */
  get kind(): TokenizerKind {
    return this.#native.kind as TokenizerKind
  }

  /** What one of its tokens is called, in messages. @internal */
  get unit(): string {
    return this.#native.unit
  }

  /** The token that ends a document; undefined if there is none. */
  get endOfText(): number | undefined {
    return this.#native.endOfText ?? undefined
  }

  /** What a text begins with if there is no prompt, as in training's samples. @internal */
  beginning(): Uint32Array {
    return this.#native.beginning()
  }

  /** The same, with what characters become that the vocabulary lacks. @internal */
  withUnknown(unknown: Unknown | undefined): Tokenizer {
    return call(() => new Tokenizer(this.#native.withUnknown(unknown)))
  }

  /** Number of different tokens. */
  get nVocab(): number {
    return this.#native.nVocab
  }

  /**
   * The tokens of a text.
   *
   * Text never stands for a special token: `<|endoftext|>` is thirteen characters.
   *
   * @throws {RwkvError} `UNKNOWN_CHARACTER` if the vocabulary lacks one and has no bytes to write it in.
   */
  encode(text: string): Uint32Array {
    argument('text', textKind, text)
    return call(() => this.#native.encode(text))
  }

  /**
   * The text that tokens stand for. Bytes that make no character come out as U+FFFD; the end of a text is none.
   *
   * @throws {RwkvError} `TOKEN_OUT_OF_RANGE`.
   */
  decode(tokens: ArrayLike<number>): string {
    const ids = toTokens(tokens)
    return call(() => this.#native.decode(ids).toString('utf8'))
  }

  /** Writes a `tokenizer.json`, whole or not at all. */
  async save(path: Path): Promise<void> {
    const file = argument('path', pathKind, path)
    try {
      await this.#native.save(file)
    } catch (error) {
      throw toRwkvError(error)
    }
  }
}
