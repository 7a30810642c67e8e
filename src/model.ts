import { NativeModel, placeOf } from '#native'
import { generateBatch } from './batch.js'
import { cancellable } from './cancel.js'
import { call, RwkvError } from './errors.js'
import type { Input, Path } from './inputs.js'
import { native, Pending } from './internal.js'
import { argument, options as check, inputs as inputsKind, pathOrBytes, textList } from './kinds.js'
import type {
  Bench,
  BenchOptions,
  EvaluateOptions,
  GenerateBatchOptions,
  GenerateResult,
  LoadOptions,
  ModelConfig,
  SessionOptions,
  TextLoss,
} from './options.js'
import {
  benchOptions,
  evaluateOptions,
  generateBatchOptions,
  loadOptions,
  sessionOptions,
} from './schemas.js'
import { Session } from './session.js'
import { Tokenizer } from './tokenizer.js'
import { tunedRun } from './tuned.js'

/**
 * A model that is ready to run. It holds no text: that is what its sessions do, any number of them side by
 * side.
 *
 * @example
 * ```ts
 * import { Model } from 'rwkv'
 *
 * await using model = await Model.load('runs/book', { threads: 2 })
 * const session = model.createSession()
 * for await (const text of session.generate('It was ', { maxTokens: 50, temperature: 0.8, seed: 1 })) {
 *   process.stdout.write(text)
 * }
 * ```
 */
export class Model implements Disposable, AsyncDisposable {
  readonly #native: NativeModel
  readonly #tokenizer: Tokenizer | undefined
  readonly #pending = new Pending()
  #isClosed = false

  /** The path that it was loaded from; undefined if it was loaded from bytes. */
  readonly path: string | undefined
  /** The adapter that it was loaded with. */
  readonly lora: string | undefined
  /** Its shape. */
  readonly config: ModelConfig
  /** Number of weights. */
  readonly parameters: number
  /** The format that its matrices are stored in: `FP32`, `FP16`, `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1` or `Q8_0`. */
  readonly format: string
  /** The size of its file, or of the bytes that it was loaded from. */
  readonly fileSize: number
  /** The instruction set that it runs on, as `RWKV_ISA` names it, such as `avx2`. */
  readonly isa: string
  /** The threads that it runs on. */
  readonly threads: number

  private constructor(
    path: string | undefined,
    lora: string | undefined,
    model: NativeModel,
    tokenizer: Tokenizer | undefined,
  ) {
    const { version, nVocab, nEmbd, nLayer, nFfn, sizes, parameters, format, fileSize, isa, threads } =
      model.info
    this.#native = model
    this.#tokenizer = tokenizer
    this.path = path
    this.lora = lora
    this.config = { version, nVocab, nEmbd, nLayer, nFfn, sizes }
    this.parameters = parameters
    this.format = format
    this.fileSize = fileSize
    this.isa = isa
    this.threads = threads
  }

  /**
   * Loads a model.
   *
   * FP32 and FP16 weights are mapped and not read: they come from the disk when they are first used, and
   * programs that load the same file share them. Quantized weights are repacked for the instruction set.
   * Models that one program loads from one file share its weights either way.
   *
   * The file may be replaced by renaming another over it, or removed, but not written to: then every later
   * call throws `FILE_CHANGED`.
   *
   * With `lora`, the model's matrices are those of the file with the adapter added: the weights stay as they
   * are, shared with models of the same file that have another adapter or none. States of the one are not
   * states of the other.
   *
   * Of bytes a copy is made, before this returns: they can be changed or transferred to another thread
   * afterwards. It stays in memory for as long as the model, and quantized weights are in memory besides.
   *
   * @param model A training run's directory, a `.bin` file of rwkv.cpp's format, or the bytes of such a file. A
   *   `tokenizer.json` beside the file is the model's tokenizer, unless the options name another; without one, a
   *   model of 256 tokens has bytes, one of 65,536 the World vocabulary, and one of 50,277 that of the Pile.
   * @throws {RwkvError} `IO`, `MODEL_FILE`, `UNSUPPORTED`, `INVALID_OPTION` or `ISA`; `TOKENIZER`, also for one of
   *   another size than the model's vocabulary; `ADAPTER`
   *   for an adapter that is damaged or was trained on another model; `FILE_CHANGED` if the file is written
   *   to meanwhile. A run that trained an adapter or a state has no model of its own: `ADAPTER` and `STATE`
   *   name the model that it is for.
   */
  static async load(model: Path | Uint8Array, options: LoadOptions = {}): Promise<Model> {
    const source = argument('model', pathOrBytes, model)
    const path = typeof source === 'string' ? source : undefined
    const {
      lora,
      allowOtherBase,
      loraAlpha: alpha,
      tokenizer: given,
      threads,
      unknown,
      ...controls
    } = check('Model.load()', loadOptions, options)
    let loaded: NativeModel | undefined
    try {
      const native = await cancellable(controls, async cancel => {
        loaded = await (typeof source === 'string'
          ? NativeModel.load(source, lora, { allowOtherBase, alpha }, threads, cancel)
          : NativeModel.loadBytes(source, lora, { allowOtherBase, alpha }, threads, cancel))
        return loaded
      })
      const tokenizer = await findTokenizer(path, given, native.info.nVocab)
      return new Model(path, lora, native, tokenizer?.withUnknown(unknown))
    } catch (error) {
      loaded?.close()
      throw (error instanceof RwkvError && error.code === 'IO' && path && (await tunedRun(path))) || error
    }
  }

  /**
   * The tokenizer of this model.
   *
   * @throws {RwkvError} `TOKENIZER` if there is none.
   */
  get tokenizer(): Tokenizer {
    if (this.#tokenizer) return this.#tokenizer
    throw new RwkvError(
      'TOKENIZER',
      this.path === undefined
        ? 'there is no tokenizer for these bytes: Model.load() takes one as an option; without it only tokens can be evaluated'
        : `${this.path}: there is no tokenizer.json beside the model; without it only tokens can be evaluated`,
    )
  }

  /**
   * A session for a new text. It starts from the empty state, or from the `state` that is given; then the
   * first prompt must not be empty, for nobody but the caller knows where in a text that is.
   *
   * @throws {RwkvError} `CLOSED`; `STATE` for a state of another model, or of this one with another adapter.
   */
  createSession(options: SessionOptions = {}): Session {
    const { state } = check('createSession()', sessionOptions, options)
    const session = new Session(
      this,
      call(() => this.#native.createSession(this.#tokenizer?.[native])),
      this.#pending,
    )
    try {
      if (state !== undefined) session.state = state
      return session
    } catch (error) {
      session.close()
      throw error
    }
  }

  /**
   * Writes on after each of some prompts, in sessions of their own that share the model's passes: many times as fast
   * as one after the other. What is written for one does not depend on the others.
   *
   * @returns What was written for each prompt, in their order. The text number i is written with the seed `seed + i`.
   * @throws {RwkvError} What {@link Session.generate} throws, for whichever prompt is first to fail; the others are
   *   stopped then.
   * @example
   * ```ts
   * import { Model } from 'rwkv'
   *
   * await using model = await Model.load('runs/book')
   * const prompts = ['It was ', 'There is ', 'Call me ']
   * const written = await model.generateBatch(prompts, { maxTokens: 20, stop: '.', seed: 1 })
   * for (const [i, { text }] of written.entries()) console.log(`${prompts[i]}${text}`)
   * ```
   */
  async generateBatch(
    prompts: readonly string[],
    options: GenerateBatchOptions = {},
  ): Promise<GenerateResult[]> {
    argument('prompts', textList, prompts)
    return generateBatch(this, prompts, check('generateBatch()', generateBatchOptions, options))
  }

  /**
   * How well the model predicts a text: the mean of −ln p(token) over all its tokens. The text can be in files or
   * in memory: `model.evaluate({ text: 'Once upon a time' })`.
   *
   * @throws {RwkvError} `IO`, `DATA` for a text of less than two tokens, `INVALID_UTF8`, `UNKNOWN_CHARACTER`,
   *   `INVALID_OPTION` or `CLOSED`; `TOKENIZER` if the model has none; `STATE` for a state of another model;
   *   `FILE_CHANGED`, `MODEL_FILE` and `NOT_FINITE` as {@link Session.eval}.
   */
  async evaluate(inputs: Input | readonly Input[], options: EvaluateOptions = {}): Promise<TextLoss> {
    const named = argument('inputs', inputsKind, inputs)
    const { ctxLen, state, signal, onProgress, ...texts } = check('evaluate()', evaluateOptions, options)
    const tokenizer = this.tokenizer[native]
    const { closing } = this.#pending
    const work = cancellable({ signal, onProgress, closing }, cancel =>
      this.#native.evaluate([named].flat(), tokenizer, ctxLen, texts, state?.[native], cancel),
    )
    return this.#pending.track(work)
  }

  /**
   * How fast the model runs: decoding, a prompt, several sessions together, and how much of the memory's
   * speed that uses.
   *
   * They are measured in turn, round after round, so that what else the machine does meets all of them alike.
   * It takes all the model's threads.
   *
   * @throws {RwkvError} `INVALID_OPTION` or `CLOSED`; `FILE_CHANGED`, `MODEL_FILE` and `NOT_FINITE` as {@link
   *   Session.eval}.
   */
  async bench(options: BenchOptions = {}): Promise<Bench> {
    const { signal, onProgress, ...what } = check('bench()', benchOptions, options)
    const { closing } = this.#pending
    const work = cancellable({ signal, onProgress, closing }, cancel => this.#native.bench(what, cancel))
    return this.#pending.track(work)
  }

  /**
   * Ends the use of the model and its sessions: later calls throw `CLOSED`, work under way stops soon and
   * rejects with it, and the memory is freed after that. Closing twice is allowed.
   */
  close(): void {
    this.#isClosed = true
    this.#native.close()
    this.#pending.close()
  }

  /** Whether it was closed. */
  get isClosed(): boolean {
    return this.#isClosed
  }

  /** {@link close}, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }

  /** {@link close}, and waits until the work under way has stopped; for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close()
    await this.#pending.settled()
  }

  /** @internal */
  get [native](): NativeModel {
    return this.#native
  }
}

/** The tokenizer of a model of `nVocab` tokens, if there is one: the one that is given, or else that beside it. */
async function findTokenizer(
  path: string | undefined,
  given: Tokenizer | undefined,
  nVocab: number,
): Promise<Tokenizer | undefined> {
  if (given) {
    if (given.nVocab === nVocab) return given
    throw new RwkvError(
      'TOKENIZER',
      `the tokenizer that is given has ${given.nVocab} tokens, and the model ${nVocab}`,
    )
  }
  if (path === undefined) return Tokenizer.forVocabulary(nVocab)
  const { tokenizer: file, hasTokenizer } = await placeOf(path)
  if (!hasTokenizer) return Tokenizer.forVocabulary(nVocab)
  const tokenizer = await Tokenizer.load(file)
  if (tokenizer.nVocab === nVocab) return tokenizer
  throw new RwkvError(
    'TOKENIZER',
    `${file}: it has ${tokenizer.nVocab} tokens, and the model beside it ${nVocab}`,
  )
}
