import type { InFiles, Path, Settled } from './inputs.js'
import type { ValueOf } from './kinds.js'
import type { samplingTable } from './option-tables.js'
import type { State } from './state.js'
import type { Tokenizer } from './tokenizer.js'
import type { ResumeOptions, TrainOptions, trainOptionTable } from './train-options.js'

export type { ResumeOptions, TrainOptions }

/** What a tokenizer's tokens are. */
export type TokenizerKind = NonNullable<TrainOptions['tokenizer']>

/** What becomes of characters that a vocabulary lacks. */
export type Unknown = NonNullable<TrainOptions['unknown']>

type Table = typeof trainOptionTable
type WithValue = { required: true } | { default: unknown } | { auto: string }
/** Options that are off unless they are asked for, and those that only go with one of them. */
type Off =
  | { [K in keyof Table]: Table[K] extends WithValue ? never : K }[keyof Table]
  | 'loraAlpha'
  | 'matrixLearningRate'
  | 'loraTargets'
  | 'vocabSize'
  | 'evalTokens'
  | 'unknown'

/**
 * The options of a run, defaults included; only those that are off unless they are asked for may have no
 * value.
 */
export type TrainOptionsInForce = {
  readonly [K in Exclude<keyof TrainOptions, Off>]-?: NonNullable<Settled<InFiles<TrainOptions[K]>>>
} & { readonly [K in Off]?: Settled<InFiles<TrainOptions[K]>> }

/**
 * An `AbortSignal`, as far as it is used here: so that these types need neither those of Node nor those of a
 * browser.
 */
export interface Signal {
  /** Whether the work is to stop. */
  readonly aborted: boolean
  /** What the call that is stopped throws. */
  // biome-ignore lint/suspicious/noExplicitAny: as an AbortSignal has it
  readonly reason: any
  /** Throws {@link reason} if the work is to stop. */
  throwIfAborted(): void
  /** Calls `listener` when the work is to stop. */
  addEventListener(type: 'abort', listener: () => void, options?: { once?: boolean }): void
  /** Calls `listener` no more. */
  removeEventListener(type: 'abort', listener: () => void): void
}

/** Options of {@link Model.load}. */
export interface LoadOptions {
  /**
   * A LoRA adapter of this model: a `.safetensors` file, or the directory of the run that trained it; or, with
   * `allowOtherBase`, because they do not say what they were trained on, PEFT's `adapter_model.safetensors` with
   * `adapter_config.json` beside it, their directory, or a `.pth` of RWKV-PEFT.
   * Default: none.
   */
  lora?: Path | undefined
  /**
   * Whether an adapter that was trained on another model of the same shape will do. It is meant for the same model in another
   * precision (trained on FP16, used with Q8_0); a model that was trained further may do as well. On a model that has
   * nothing to do with it, it spoils the text, without an error. Default: false.
   */
  allowOtherBase?: boolean | undefined
  /**
   * Alpha of an adapter whose file does not say it, as those of RWKV-PEFT do not: the `lora_alpha` that it was trained
   * with. Refused for others. Default: none.
   */
  loraAlpha?: number | undefined
  /**
   * The tokenizer, for bytes, which have no `tokenizer.json` beside them, and for files without one. Default: that
   * beside the file, or else the one that the vocabulary's size tells.
   */
  tokenizer?: Tokenizer | undefined
  /** Threads to compute on; the results do not depend on it. Default: as many as the machine has. */
  threads?: number | undefined
  /**
   * What becomes of characters that the model's vocabulary lacks: an `UNKNOWN_CHARACTER` error, nothing, or
   * bytes. Default: bytes if the vocabulary has them, as those of new runs do, else an error.
   */
  unknown?: 'error' | 'skip' | 'byte' | undefined
  /** Stops the loading. */
  signal?: Signal | undefined
  /** Told how many bytes of the file are ready: at the end, and before that if it takes long. */
  onProgress?: ((progress: Progress) => void) | undefined
}

/** A format of blocks of 32 weights: small integers with a scale, and in `Q4_1` and `Q5_1` a minimum. */
export type QuantizedFormat = 'Q4_0' | 'Q4_1' | 'Q5_0' | 'Q5_1' | 'Q8_0'

/** Options of {@link quantize}. */
export interface QuantizeOptions {
  /** Threads to compute on; the result does not depend on it. Default: as many as the machine has. */
  threads?: number | undefined
  /** Stops the work; there is no output then. */
  signal?: Signal | undefined
  /** Told how many bytes of the input are done. */
  onProgress?: ((progress: Progress) => void) | undefined
}

/** Result of {@link quantize}. */
export interface QuantizeResult {
  /** The format of the weights of the input. */
  readonly from: 'FP32' | 'FP16' | 'BF16'
  /** The format of the output. */
  readonly to: QuantizedFormat
  /** The input's size. */
  readonly bytesIn: number
  /** The output's size. */
  readonly bytesOut: number
  /** Number of tensors. */
  readonly tensors: number
  /** How many of them were quantized. */
  readonly quantized: number
}

/** A format of model files, by what their names end with: rwkv.cpp's, PyTorch's, Hugging Face's, llama.cpp's. */
export type FileFormat = 'bin' | 'pth' | 'safetensors' | 'gguf'

/** Options of {@link convert}. */
export interface ConvertOptions {
  /** The output's format. Default: what its name ends with. */
  to?: FileFormat | undefined
  /**
   * How the output stores matrices, and in `.pth` and `.safetensors` vectors too; `.bin` has no `BF16`. Default: as the
   * input does if the output can, and otherwise FP32, so that no weight is rounded.
   */
  dataType?: 'FP32' | 'FP16' | 'BF16' | undefined
  /** Stops the work; there is no output then. */
  signal?: Signal | undefined
  /** Told how many bytes of the weights are done. */
  onProgress?: ((progress: Progress) => void) | undefined
}

/** Result of {@link convert}. */
export interface ConvertResult {
  /** The format of the input. */
  readonly from: FileFormat
  /** The format of the output. */
  readonly to: FileFormat
  /** How the input stores the matrices of its blocks. */
  readonly fromType: 'FP32' | 'FP16' | 'BF16' | QuantizedFormat
  /** How the output does. */
  readonly toType: 'FP32' | 'FP16' | 'BF16' | QuantizedFormat
  /** The input's size. */
  readonly bytesIn: number
  /** The output's size. */
  readonly bytesOut: number
  /** Number of tensors of the output. */
  readonly tensors: number
  /** How many weights were rounded. */
  readonly changed: number
}

/** Options of {@link convertAdapter}. */
export interface ConvertAdapterOptions {
  /** Whose adapter it becomes: `pth`, RWKV-PEFT's file, or `peft`, a directory. Default: what the output's name tells. */
  to?: 'pth' | 'peft' | undefined
}

/** Result of {@link convertAdapter}. */
export interface ConvertAdapterResult {
  /** Whose adapter it became. */
  readonly to: 'pth' | 'peft'
  /** Its rank. */
  readonly rank: number
  /** LoRA's alpha, which RWKV-PEFT wants to be told again. */
  readonly alpha: number
  /** Number of matrices that it changes. */
  readonly adapted: number
  /** Size of the file of its factors. */
  readonly bytesOut: number
}

/** Options of {@link convertState}. */
export interface ConvertStateOptions {
  /** The output's format. Default: what its name ends with. */
  to?: 'pth' | 'safetensors' | undefined
}

/** Result of {@link convertState}. */
export interface ConvertStateResult {
  /** The output's format. */
  readonly to: 'pth' | 'safetensors'
  /** Its size. */
  readonly bytesOut: number
}

/** What stops a run, and is told while the text is read. */
export interface Watch {
  /** Stops the reading, and then the loop over the trainer, by throwing its reason. */
  signal?: Signal | undefined
  /** Told how far the reading of the text is, or the training of its tokenizer. */
  onProgress?: ((progress: Progress) => void) | undefined
}

/** How texts are read, in {@link prepare}, {@link Model.evaluate} and {@link Tokenizer.train}. */
export interface TextOptions {
  /** Field of JSON Lines, and column of Parquet, that has the text. Default: text. */
  textField?: string | undefined
  /** What becomes of bytes that are not UTF-8: an error, or U+FFFD. Default: error. */
  invalid?: 'error' | 'replace' | undefined
  /** What standard input is, if it is named (`-`): a text, or JSON Lines. Default: text. */
  stdin?: 'text' | 'jsonl' | undefined
}

/** Options of {@link Tokenizer.train}. */
export interface TrainTokenizerOptions extends TextOptions {
  /** Number of tokens, from 257: the 256 bytes, byte pairs, and an end of text. */
  vocabSize: number
  /** Threads to count words on; the tokenizer does not depend on it. Default: as many as the machine has. */
  threads?: number | undefined
  /** Stops the work. */
  signal?: Signal | undefined
  /** Told how many bytes of the texts are read, and then how many tokens of the vocabulary are made. */
  onProgress?: ((progress: Progress) => void) | undefined
}

/** Options of {@link prepare}. */
export interface PrepareOptions extends TextOptions {
  /** The folder to write into. */
  out: Path
  /** A local copy of `shakespeare`, `shakespeare_char` or `openwebtext`, instead of the download. */
  from?: Path | readonly Path[] | undefined
  /**
   * The tokenizer: `character` and `bpe` are made of the text. Default: character for `shakespeare_char`, else
   * gpt2.
   */
  tokenizer?: TokenizerKind | undefined
  /** Tokens of a BPE that is trained on the text, on its first GiB if it is longer. Needed for `bpe`. */
  vocabSize?: number | undefined
  /** A `tokenizer.json` to take instead. */
  tokenizerFile?: Path | undefined
  /** What to validate on, instead of a part of the inputs. */
  val?: Path | readonly Path[] | undefined
  /**
   * The share for validation, from 0 to 0.5: of the documents, or the last part of a single one. Default: 0.1,
   * and 0.0005 for `openwebtext`.
   */
  valFraction?: number | undefined
  /** Chooses the documents for validation. Default: 1. */
  seed?: number | undefined
  /** Threads to make tokens on; the files do not depend on it. Default: as many as the machine has. */
  threads?: number | undefined
  /** Replace what is in the folder, whoever made it. Default: false. */
  force?: boolean | undefined
  /** Stops the work; the next call goes on where it was. */
  signal?: Signal | undefined
  /** Told how many bytes of the inputs are done. It begins anew with each pass over them. */
  onProgress?: ((progress: Progress) => void) | undefined
}

/** What {@link prepare} has put into a file of tokens. */
export interface PreparedPart {
  /** Documents. */
  readonly documents: number
  /** Bytes of text. */
  readonly bytes: number
  /** Tokens, the ends of documents among them. */
  readonly tokens: number
}

/** Result of {@link prepare}. */
export interface PrepareResult {
  /** The folder. */
  readonly out: string
  /** What its tokens are. */
  readonly tokenizer: TokenizerKind
  /** Number of different tokens. */
  readonly nVocab: number
  /** What `train.bin` has. */
  readonly train: PreparedPart
  /** What `val.bin` has; undefined if nothing is for validation. */
  readonly val?: PreparedPart
  /** Whether it was finished before, and has been left as it was. */
  readonly wasFinished: boolean
  /** What is to be told, such as a copy that is not the published text. */
  readonly notes: readonly string[]
}

/** Options of {@link State.load} and {@link State.from}. */
export interface StateOptions {
  /**
   * Whether a state that was made with another model of the same shape will do. It is meant for the same model in another
   * precision (made with FP16, used with Q8_0); a model that was trained further may do as well. On a model that has
   * nothing to do with it, it spoils the text, without an error. Default: false.
   */
  allowOtherBase?: boolean | undefined
}

/** Options of {@link merge}. */
export interface MergeOptions {
  /**
   * Whether an adapter that was trained on another model of the same shape will do. It is meant for the same model in another
   * precision (trained on FP16, used with Q8_0); a model that was trained further may do as well. On a model that has
   * nothing to do with it, it spoils the text, without an error. Default: false.
   */
  allowOtherBase?: boolean | undefined
  /**
   * Alpha of an adapter whose file does not say it, as those of RWKV-PEFT do not: the `lora_alpha` that it was trained
   * with. Refused for others. Default: none.
   */
  loraAlpha?: number | undefined
  /** Stops the work; there is no output then. */
  signal?: Signal | undefined
  /** Told how many bytes of the base are done. */
  onProgress?: ((progress: Progress) => void) | undefined
}

/** Result of {@link merge}. */
export interface MergeResult {
  /** The format of the base's matrices: `FP32`, `FP16`, `BF16` or a quantized one. */
  readonly from: 'FP32' | 'FP16' | 'BF16' | QuantizedFormat
  /** The format of the output's matrices: `FP16` if the base is quantized, `FP32` if it is BF16, else that of the base. */
  readonly to: 'FP32' | 'FP16'
  /** Size of the base in bytes. */
  readonly bytesIn: number
  /** Size of the output in bytes. */
  readonly bytesOut: number
  /** Number of matrices that the adapter changed. */
  readonly adapted: number
  /** Number of tensors. */
  readonly tensors: number
}

/** Result of {@link adapterInfo}: the header of an adapter's file. */
export interface AdapterInfo {
  /** Its rank. */
  readonly rank: number
  /**
   * LoRA's alpha: what the adapter adds is multiplied by alpha / rank. Null for a file of RWKV-PEFT, which does not say
   * it.
   */
  readonly alpha: number | null
  /** Names that official checkpoints give the matrices that it changes. */
  readonly targets: readonly string[]
  /** Number of its parameters. */
  readonly parameters: number
  /** Size of the file in bytes. */
  readonly fileSize: number
  /**
   * The shape of the model that it was trained on: `v4, n_vocab 65, n_embd 128, n_layer 4, n_ffn 512`. Null for an adapter
   * of PEFT or RWKV-PEFT, which does not say it.
   */
  readonly base: string | null
}

/**
 * Progress of a call, in bytes, in tokens, or in parts of no particular size.
 *
 * An `onProgress` that throws, or returns a promise that rejects, stops the work: the call rejects with that
 * error. If it returns a promise, it is not called again before that is settled, and the call waits for it:
 * until its signal is aborted or what is at work is closed, if the work itself is done by then. Its result
 * counts all the same.
 */
export interface Progress {
  /** How much is done. */
  readonly done: number
  /** How much there is to do. */
  readonly total: number
}

/** How the next token is chosen. */
export type SamplingOptions = {
  -readonly [K in keyof typeof samplingTable]?: ValueOf<(typeof samplingTable)[K]> | undefined
}

/** Options of {@link Session.generate}. */
export interface GenerateOptions extends SamplingOptions {
  /** Tokens to write at most. Default: 256. */
  maxTokens?: number | undefined
  /** Ends the text before the first of these that would appear in it. It is not part of the session's text either. */
  stop?: string | readonly string[] | undefined
  /**
   * Write on after the token by which the model ends a text, as if it were any other. Default: false, which ends the
   * writing before it.
   */
  ignoreEndOfText?: boolean | undefined
  /**
   * Tell how likely the model held each token, before any option of sampling, and this many of the likeliest in its
   * place, in {@link Piece.logProbabilities}. Default: not told.
   */
  logProbabilities?: number | undefined
  /** Stops the writing; the loop over the text then throws the signal's reason. */
  signal?: Signal | undefined
}

/** Options of {@link Model.generateBatch}. */
export interface GenerateBatchOptions extends GenerateOptions {
  /** How many texts are written at a time, at most. Default: 32. */
  sessions?: number | undefined
  /** Told how many of the texts are finished. */
  onProgress?: ((progress: Progress) => void) | undefined
}

/** Why a {@link Generation} ended. */
export type GenerationEnd = 'length' | 'stop' | 'endOfText' | 'aborted'

/** A part of what a {@link Generation} writes. */
export interface Piece {
  /** Whole characters. */
  readonly text: string
  /** The tokens that it is made of. */
  readonly tokens: Uint32Array
  /**
   * For each of the tokens how likely the model held it, if that is asked for; undefined for one that was not chosen,
   * but is what a stop has left of one that was.
   */
  readonly logProbabilities?: readonly (LogProbabilities | undefined)[]
}

/** How likely a model held a token that it wrote: natural logarithms. */
export interface LogProbabilities {
  /** That of the token. */
  readonly chosen: number
  /** The likeliest tokens in its place, likeliest first. */
  readonly best: readonly { readonly token: number; readonly logProbability: number }[]
}

/** Result of {@link Generation.result}. */
export interface GenerateResult {
  /** What was written. */
  readonly text: string
  /** Its tokens. */
  readonly tokens: Uint32Array
  /** Why it ended. */
  readonly end: GenerationEnd
  /** As {@link Piece.logProbabilities}, of all tokens. */
  readonly logProbabilities?: readonly (LogProbabilities | undefined)[]
}

/** Options of {@link Model.createSession}. */
export interface SessionOptions {
  /**
   * The state to start from: one of a session of this model, or one that a run tuned. Default: the empty
   * state.
   */
  state?: State | undefined
}

/** Options of {@link Session.eval} and {@link Session.prompt}. */
export interface PromptOptions {
  /** Stops the reading; the session is then as it was before. */
  signal?: Signal | undefined
}

/** Options of {@link Trainer.sample}. */
export interface SampleOptions extends SamplingOptions {
  /** What to go on from. Default: the end of another text, or a line break. */
  prompt?: string | undefined
  /** Tokens to write. Default: 200. */
  maxTokens?: number | undefined
  /** Stops the writing. */
  signal?: Signal | undefined
}

/** Options of {@link writeReport}. */
export interface ReportOptions {
  /**
   * The file to write. Default: `report.html`, in the run's directory, or in the current one if there are several
   * runs.
   */
  out?: Path | undefined
  /** Replace a file that is no report. Default: false. */
  force?: boolean | undefined
}

/** Options of {@link Trainer.save}. */
export interface SaveOptions {
  /** Whether the model writes a sample for `report.html`. Default: true. */
  sample?: boolean | undefined
}

/** Options of {@link Trainer.validate}. */
export interface ValidateOptions {
  /** Stops the validation. */
  signal?: Signal | undefined
  /** Told how far it is. */
  onProgress?: ((progress: Progress) => void) | undefined
}

/** Options of {@link Model.evaluate}. */
export interface EvaluateOptions extends TextOptions {
  /**
   * Cuts the text into windows of so many tokens, each from an empty state, as training does: what does not
   * fill a window is left out. Default: the text is read in one go, each token predicted from all before it.
   */
  ctxLen?: number | undefined
  /** The state that the text, or each window of it, starts from. Default: the empty state. */
  state?: State | undefined
  /** Stops the evaluation. */
  signal?: Signal | undefined
  /** Told how many tokens are done. */
  onProgress?: ((progress: Progress) => void) | undefined
}

/** How well a model predicts a text. */
export interface TextLoss {
  /** Number of tokens that were predicted. */
  readonly tokens: number
  /** Mean of −ln p(token) over those, in nats. */
  readonly loss: number
  /** e^loss: the number of equally likely tokens that would be as hard to guess among. */
  readonly perplexity: number
  /** The loss in bits for each byte of the text: comparable between tokenizers. */
  readonly bitsPerByte: number
}

/** Options of {@link Model.bench}. */
export interface BenchOptions {
  /**
   * Tokens that a stretch of decoding reads, one after another; each session of a batch reads as many.
   * Default: 16.
   */
  decode?: number | undefined
  /** Tokens of the prompt. Default: 256. */
  prompt?: number | undefined
  /** Sessions that are decoded together. Default: 8. */
  sessions?: number | undefined
  /** How long to measure, in seconds; three rounds are measured however long they take. Default: 6. */
  seconds?: number | undefined
  /** Stops the measuring. */
  signal?: Signal | undefined
  /** Told how far it is. */
  onProgress?: ((progress: Progress) => void) | undefined
}

/** How fast a model runs here. Every figure is the median of the rounds, of the ratios too. */
export interface Bench {
  /** Rounds that were measured. */
  readonly rounds: number
  /**
   * Seconds that the first token took: if it was the model's first, its weights came into memory meanwhile.
   */
  readonly firstTokenSeconds: number
  /** Tokens a second of one session, one token at a time. */
  readonly decodeTokensPerSecond: number
  /** Tokens a second of a prompt. */
  readonly prefillTokensPerSecond: number
  /** Tokens a second of all sessions together, one token at a time. */
  readonly batchTokensPerSecond: number
  /** That over what one session does. */
  readonly batchGain: number
  /**
   * Bytes of weights that decoding a token reads: all vectors, a row of the embedding, every other matrix.
   */
  readonly bytesPerToken: number
  /** Bytes of weights a second that decoding reads. */
  readonly readBandwidth: number
  /** Bytes a second that the same threads read from memory when they do nothing else. */
  readonly availableReadBandwidth: number
  /**
   * The former over the latter, by rounds: near 1 if decoding waits for memory alone, above 1 if weights stay
   * in the caches.
   */
  readonly readBandwidthShare: number
}

/** A model's shape. */
export interface ModelConfig {
  /** RWKV's version: `v7` or `v4`. */
  readonly version: string
  /** Tokens in the vocabulary. */
  readonly nVocab: number
  /** Width of the residual stream. */
  readonly nEmbd: number
  /** Number of blocks. */
  readonly nLayer: number
  /** Width of the channel mix's hidden layer. */
  readonly nFfn: number
  /** Numbers that only this version has: of RWKV-7 `headSize` and the ranks of its narrow products; of RWKV-4 none. */
  readonly sizes: Readonly<Record<string, number>>
}
