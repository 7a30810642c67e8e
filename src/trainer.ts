import { isUint8Array } from 'node:util/types'
import { type Cancel, NativeTrainer, type RunInfo, type StepInfo } from '#native'
import { type Controls, cancellable } from './cancel.js'
import type { Path } from './inputs.js'
import { Pending, Turn } from './internal.js'
import { argument, options as check, path as pathKind } from './kinds.js'
import type {
  ResumeOptions,
  SampleOptions,
  SaveOptions,
  Signal,
  TrainOptions,
  TrainOptionsInForce,
  ValidateOptions,
  Watch,
} from './options.js'
import { samplingJson } from './sampling.js'
import { resumeOptions, sampleOptions, saveOptions, trainOptions, validateOptions } from './schemas.js'
import { Tokenizer } from './tokenizer.js'

/** Report of a training step. */
export interface Step {
  /** The step, counted from 1. */
  readonly step: number
  /** Mean loss of the batch before the step, in nats a token. */
  readonly loss: number
  /**
   * Mean loss over the whole validation split after the step; only where the options ask for one, and after
   * the last.
   */
  readonly valLoss?: number
  /** That in bits for each byte of the text: comparable between tokenizers. */
  readonly bitsPerByte?: number
  /** The learning rate of the step. */
  readonly learningRate: number
  /** The norm of all gradients together, before clipping. */
  readonly gradNorm: number
  /** Number of tokens in the batch. */
  readonly tokens: number
  /** Duration of the step. */
  readonly seconds: number
  /** `tokens` divided by `seconds`: neither validation nor saving counts. */
  readonly tokensPerSecond: number
}

/** The validation with the lowest loss of a run. */
export interface Best {
  /** The step after which it was. */
  readonly step: number
  /** Mean loss over the whole validation split, in nats a token. */
  readonly valLoss: number
}

/** What the file is that a run writes: see {@link Trainer.result}. */
export interface Kept {
  /** The step after which it was written. */
  readonly step: number
  /** Mean loss over the whole validation split after that step; undefined if that was not taken. */
  readonly valLoss?: number | undefined
}

/** Result of {@link Trainer.save}. */
export interface Saved {
  /**
   * Mean loss on validation text, in nats a token: over the whole split if that was validated after this
   * step, else over a part of it.
   */
  readonly valLoss: number
  /**
   * Whether the model is one to go on from: its loss on validation text, or else on training text, is at most
   * one nat above that of guessing. {@link Trainer.resume} passes over checkpoints that are not.
   */
  readonly isSound: boolean
  /**
   * Whether {@link Trainer.result} is of this step: a model that is not sound does not replace another, nor,
   * unless the option `keep` is `last`, one whose validation loss is not lower. {@link Trainer.kept} says what
   * it is then.
   */
  readonly wroteModel: boolean
}

/** A part of the time of some steps: a kind of operator, or what is done beside them. */
export interface ProfilePart {
  /** From tokens to the loss, from the loss to gradients, or from gradients to parameters. */
  readonly pass: 'forward' | 'backward' | 'update'
  /** What was done. */
  readonly name: string
  /** The time of all threads together. */
  readonly seconds: number
  /** The share of all threads' time that this is, from 0 to 1. */
  readonly share: number
  /** Multiplications and additions of matrix products; 0 for all else. */
  readonly operations: number
  /** Bytes of the tensors that were read and written, each of them once; 0 for matrix products and the optimizer. */
  readonly bytes: number
}

/** Result of {@link Trainer.profile}. */
export interface Profile {
  /** How many steps. */
  readonly steps: number
  /** Their time by the clock. */
  readonly seconds: number
  /** How many threads worked. */
  readonly threads: number
  /** What they did. */
  readonly parts: readonly ProfilePart[]
  /** The share of the time that no part has: the threads waited for each other, or did what has no name here. */
  readonly rest: number
  /** Operations a second of multiply-adds in registers on these threads, in the precision of the products. */
  readonly peakOperations: number
  /** Bytes a second that these threads read from memory; what is in the caches is read faster. */
  readonly readBandwidth: number
}

/**
 * A training run: of a new model, or with the option `from` of an existing one, of which all or some
 * parameters, LoRA adapters (`loraRank`), or the initial state (`tune`) are trained.
 *
 * A loop over it is the whole run: it learns, validates and saves when the options say so, and at its end
 * `out` holds {@link result} and `report.html`. To leave the loop is to pause; a second loop goes on. After a
 * crash, {@link Trainer.resume} goes on from the last checkpoint as if nothing had happened.
 *
 * @example
 * ```ts
 * import { Trainer } from 'rwkv'
 *
 * const shape = { nLayer: 2, nEmbd: 32 }
 * await using trainer = await Trainer.create({ data: 'book.txt', out: 'runs/new', maxSteps: 20, ...shape })
 * for await (const { step, loss, valLoss } of trainer) {
 *   console.log(step, loss.toFixed(3), valLoss?.toFixed(3) ?? '')
 * }
 * ```
 */
export class Trainer implements AsyncIterable<Step>, Disposable, AsyncDisposable {
  readonly #native: NativeTrainer
  readonly #signal: Signal | undefined
  readonly #pending = new Pending()
  readonly #turn = new Turn('trainer', () => this.#isClosed)
  #isClosed = false
  #steps: number
  #seconds: number
  #saved: Saved | undefined
  #best: Best | undefined
  #kept: Kept | undefined
  #isDone: boolean

  /** The options in force, defaults included. */
  readonly options: TrainOptionsInForce
  /** Number of parameters of the model. */
  readonly parameters: number
  /** Number of values that are trained: parameters of the model, of its adapters, or of the initial state. */
  readonly trainedParameters: number
  /**
   * The file that the run writes: `model.bin` in its directory, `lora.safetensors` if it trains adapters, or
   * `tuned.state` if it trains the initial state.
   */
  readonly result: string
  /** Number of tokens to train on: the first nine tenths of the text. */
  readonly trainTokens: number
  /** Number of tokens for validation: the last tenth. */
  readonly valTokens: number
  /** How many bytes of text such a token stands for, on average; undefined if they stand for no text. */
  readonly bytesPerToken: number | undefined
  /**
   * The step of the newest checkpoint there was, if the run went on from before it, because it was not sound.
   */
  readonly wentBackFrom: number | undefined
  /**
   * The instruction set that it runs on: `scalar`, `avx2`, `avxvnni`, `avx512` or `amx`; on ARM `scalar`,
   * `neon`, `dotprod` or `i8mm`.
   */
  readonly isa: string
  /** How text becomes tokens. */
  readonly tokenizer: Tokenizer

  private constructor(trainer: NativeTrainer, signal: Signal | undefined) {
    const info: RunInfo = trainer.info
    this.#native = trainer
    this.#signal = signal
    this.#steps = info.step
    this.#seconds = info.seconds
    this.#best = info.best
    this.#kept = info.kept
    this.#isDone = info.isDone
    // The native side fills in every one of them.
    this.options = Object.freeze(JSON.parse(info.options) as TrainOptionsInForce)
    this.parameters = info.parameters
    this.trainedParameters = info.trainedParameters
    this.result = info.result
    this.trainTokens = info.trainTokens
    this.valTokens = info.valTokens
    this.bytesPerToken = info.bytesPerToken
    this.wentBackFrom = info.wentBackFrom
    this.isa = info.isa
    this.tokenizer = new Tokenizer(trainer.tokenizer)
  }

  /**
   * Begins a run in a new directory. Nothing is written before the options and the text are known to be good.
   *
   * @param options Besides the options of the run, a signal: it stops the reading of the text, and later the loop
   *   over the trainer, by throwing its reason. A step under way is then given up, as if it had not begun.
   * Texts in memory (`{ text }`, `{ bytes }`) are written into the run's directory, as `data.txt` and `val.txt` (of
   * several `data-1.txt` and so on), for the run to go on with: {@link options} names these files.
   *
   * @throws {RwkvError} `INVALID_OPTION`, `IO`, `INVALID_UTF8`, `DATA`, or `RUN` if the directory holds a run
   *   already or another trainer is at work in it.
   */
  static async create(options: TrainOptions & Watch): Promise<Trainer> {
    const { signal, onProgress, ...settings } = check('Trainer.create()', trainOptions, options)
    // JSON cannot hold bytes: an empty text stands for each of them, in this order.
    const { data, val } = settings
    const texts = [data, val].flat().filter(isUint8Array)
    const inJson = { data: withoutBytes(data), ...(val !== undefined && { val: withoutBytes(val) }) }
    return new Trainer(
      await cancellable({ signal, onProgress }, cancel =>
        NativeTrainer.create(JSON.stringify({ ...settings, ...inJson }), texts, cancel),
      ),
      signal,
    )
  }

  /**
   * Goes on with the run in the directory `out` from its newest checkpoint, bit for bit as if it had never
   * stopped.
   *
   * Checkpoints that are not sound (see {@link Saved}) do not count: they are removed, and {@link
   * wentBackFrom} says so.
   *
   * @throws {RwkvError} `RUN` if there is no run or it is damaged, or if another trainer is at work on it;
   *   `DATA` if the text is another one; otherwise as {@link create}.
   */
  static async resume(out: Path, changes: ResumeOptions & Watch = {}): Promise<Trainer> {
    const run = argument('out', pathKind, out)
    const { signal, onProgress, ...settings } = check('Trainer.resume()', resumeOptions, changes)
    return new Trainer(
      await cancellable({ signal, onProgress }, cancel =>
        NativeTrainer.resume(run, JSON.stringify(settings), cancel),
      ),
      signal,
    )
  }

  /** Steps done, those before a resumption included. */
  get steps(): number {
    return this.#steps
  }

  /** Time spent in those steps: neither validation nor saving counts. */
  get seconds(): number {
    return this.#seconds
  }

  /**
   * Whether the run is over: all steps are done, or as many validations as `patience` says have found no better
   * loss.
   */
  get isDone(): boolean {
    return this.#isDone
  }

  /** The validation with the lowest loss so far; undefined before the first. */
  get best(): Best | undefined {
    return this.#best
  }

  /**
   * What {@link result} is, by its own record: the model of another step than the last one, perhaps, or one of
   * before the run was resumed. Undefined before there is one.
   */
  get kept(): Kept | undefined {
    return this.#kept
  }

  /** Result of the last {@link save}; undefined before the first. */
  get saved(): Saved | undefined {
    return this.#saved
  }

  /**
   * Learns from one batch, and does nothing else: no validation, no saving.
   *
   * @throws {RwkvError} `DIVERGED` if the loss or a gradient is not finite: the parameters stay as they were;
   *   `IO`, `BUSY` or `CLOSED`.
   */
  async step(): Promise<Step> {
    const step = await this.#work({}, cancel => this.#native.step(cancel))
    this.#steps = step.step
    this.#isDone = step.step >= this.options.maxSteps
    this.#seconds += step.seconds
    return withSpeed(step)
  }

  /**
   * Mean loss over the whole validation split: windows of `ctxLen` tokens, each from an empty state or the one
   * that is trained; in one go if the run carries states (`carryState`).
   *
   * @throws {RwkvError} `DIVERGED` if the loss is not finite; `IO`, `BUSY` or `CLOSED`. The signal's reason, once
   *   it is aborted.
   */
  async validate(options: ValidateOptions = {}): Promise<number> {
    const controls = check('validate()', validateOptions, options)
    const { valLoss, best, isDone } = await this.#work(controls, cancel => this.#native.validate(cancel))
    this.#best = best
    this.#isDone = isDone
    return valLoss
  }

  /**
   * Takes the time of every operator of the steps from now on, for {@link profile}. What comes of the steps stays the
   * same.
   *
   * @throws {RwkvError} `BUSY` or `CLOSED`.
   */
  async startProfile(): Promise<void> {
    await this.#work({}, cancel => this.#native.takeTime(cancel))
  }

  /**
   * Where the time of the steps since {@link startProfile} went, beside what this machine does at best: that takes half
   * a second to measure. Without {@link startProfile} it has no parts.
   *
   * @throws {RwkvError} `BUSY` or `CLOSED`.
   */
  async profile(): Promise<Profile> {
    return this.#work({}, cancel => this.#native.profile(cancel))
  }

  /**
   * Generates text with the model as it is by now.
   *
   * @throws {RwkvError} `UNKNOWN_CHARACTER`, `INVALID_OPTION`, `BUSY` or `CLOSED`; the signal's reason, once
   *   it is aborted.
   */
  async sample(options: SampleOptions = {}): Promise<string> {
    const { prompt = '', maxTokens = 200, signal, ...given } = check('sample()', sampleOptions, options)
    return this.#work({ signal }, cancel =>
      this.#native.sample(prompt, maxTokens, samplingJson(given), cancel),
    )
  }

  /**
   * Writes a checkpoint to resume from, what is trained as it is by now to {@link result}, and `report.html`;
   * {@link saved} says how good the model is, and whether it was written: the best one stays. Files of the run
   * that are missing by now are written again.
   *
   * The checkpoint and the model come first; what the report shows of the model's writing takes a while
   * longer.
   *
   * @throws {RwkvError} `DIVERGED` if the loss is not finite; `IO`; `RUN` if the directory was removed and
   *   another trainer is at work in a new one.
   */
  async save(options: SaveOptions = {}): Promise<void> {
    const { sample = true } = check('save()', saveOptions, options)
    return this.#save(sample)
  }

  async #save(withSample: boolean): Promise<void> {
    const { kept, ...saved } = await this.#work({}, cancel => this.#native.save(withSample, cancel))
    this.#kept = kept
    this.#saved = saved
  }

  /**
   * The rest of the run: a step, and a validation and a checkpoint where they are due, until the run is over
   * (see {@link isDone}).
   *
   * @throws The signal's reason, once it is aborted; what {@link step} throws.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<Step, void, undefined> {
    while (!this.isDone) {
      const signal = this.#signal
      const found = await this.#work({ signal }, cancel => this.#native.advance(cancel)).catch(error => {
        // A step may be done, and what was due after it not.
        if (!this.#isClosed) this.#steps = this.#native.info.step
        throw error
      })
      if (found === null) return
      const { step, valLoss, saved, best, kept, seconds, isDone } = found
      this.#steps = step.step
      this.#seconds = seconds
      this.#best = best
      this.#kept = kept
      this.#isDone = isDone
      if (saved !== undefined) {
        const { valLoss, isSound, wroteModel } = saved
        this.#saved = { valLoss, isSound, wroteModel }
      }
      const report = withSpeed(step)
      if (valLoss === undefined) yield report
      else yield { ...report, valLoss, ...this.#bits(valLoss) }
    }
  }

  /** A loss of validation in bits for each byte, where tokens stand for text. */
  #bits(valLoss: number): { bitsPerByte?: number } {
    return this.bytesPerToken === undefined
      ? {}
      : { bitsPerByte: (valLoss * Math.LOG2E) / this.bytesPerToken }
  }

  /**
   * Frees the memory and the threads; a call under way stops soon, later ones throw `CLOSED`. Nothing is
   * saved: that is for {@link save}.
   */
  close(): void {
    this.#isClosed = true
    this.#native.close()
    this.#pending.close()
  }

  /** {@link close}, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }

  /** {@link close}, and waits until the call under way has stopped; for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close()
    await this.#pending.settled()
  }

  async #work<T>(controls: Controls, work: (cancel: Cancel) => Promise<T>): Promise<T> {
    const { closing } = this.#pending
    return this.#turn.take(() => this.#pending.track(cancellable({ ...controls, closing }, work)))
  }
}

/** What is to be read, in JSON: an empty text in place of each of bytes. */
function withoutBytes(given: string | Uint8Array | readonly (string | Uint8Array)[]): unknown {
  const one = (input: string | Uint8Array) => (typeof input === 'string' ? input : { text: '' })
  return typeof given === 'string' || isUint8Array(given) ? one(given) : given.map(one)
}

function withSpeed(step: StepInfo): Step {
  return { ...step, tokensPerSecond: step.tokens / step.seconds }
}
