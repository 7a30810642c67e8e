import type { Described } from './kinds.js'
import type {
  BenchOptions,
  ConvertAdapterOptions,
  ConvertOptions,
  ConvertStateOptions,
  EvaluateOptions,
  GenerateBatchOptions,
  GenerateOptions,
  LoadOptions,
  MergeOptions,
  PrepareOptions,
  QuantizeOptions,
  ReportOptions,
  SampleOptions,
  SaveOptions,
  StateOptions,
  TextOptions,
  TrainTokenizerOptions,
} from './options.js'

// What is known of each option of a call; the checks of arguments and the flags of the command line are made
// of it. Training has the same in train-options.ts. What an option means in full is said in options.ts.

/** A row for every option of a call but those that are objects and functions. */
type Table<T> = { readonly [K in Exclude<keyof T, 'signal' | 'onProgress' | 'state'>]-?: Described }

const threads = { kind: 'count', help: 'threads to compute on', auto: 'all' } as const

const allowOtherBase = {
  kind: 'boolean',
  help: 'take what was trained on other weights of the same shape',
  default: false,
} as const

const loraAlpha = {
  kind: 'number',
  help: 'alpha of an adapter whose file does not say it (RWKV-PEFT)',
} as const

export const stateTable = { allowOtherBase } as const satisfies Table<StateOptions>

export const mergeTable = { allowOtherBase, loraAlpha } as const satisfies Table<MergeOptions>

export const loadTable = {
  lora: { kind: 'path', help: "LoRA adapter of the model: its file, or its run's or PEFT's directory" },
  allowOtherBase,
  loraAlpha,
  threads,
  unknown: {
    kind: 'choice',
    words: ['error', 'skip', 'byte'],
    help: 'what becomes of characters that the vocabulary lacks',
    auto: 'byte if it has bytes, else error',
  },
} as const satisfies Table<Omit<LoadOptions, 'tokenizer'>>

export const quantizeTable = { threads } as const satisfies Table<QuantizeOptions>

export const convertTable = {
  to: {
    kind: 'choice',
    words: ['bin', 'pth', 'safetensors', 'gguf'],
    help: 'format of the output',
    auto: 'by the end of its name',
  },
  dataType: {
    kind: 'choice',
    words: ['FP32', 'FP16', 'BF16'],
    help: 'how weights are stored',
    auto: 'so that none is rounded',
  },
} as const satisfies Table<ConvertOptions>

export const convertAdapterTable = {
  to: {
    kind: 'choice',
    words: ['pth', 'peft'],
    help: 'whose adapter it becomes',
    auto: "by the end of the output's name",
  },
} as const satisfies Table<ConvertAdapterOptions>

export const convertStateTable = {
  to: {
    kind: 'choice',
    words: ['pth', 'safetensors'],
    help: 'format of the output',
    auto: 'by the end of its name',
  },
} as const satisfies Table<ConvertStateOptions>

export const reportTable = {
  out: { kind: 'path', value: 'FILE', help: 'the page to write', auto: 'RUN/report.html' },
  force: { kind: 'boolean', help: 'replace a file that is no report', default: false },
} as const satisfies Table<ReportOptions>

/** How texts are read. */
const textTable = {
  textField: {
    kind: 'text',
    help: 'field of JSON Lines, and column of Parquet, that has the text',
    default: 'text',
  },
  invalid: {
    kind: 'choice',
    words: ['error', 'replace'],
    help: 'what becomes of bytes that are not UTF-8',
    default: 'error',
  },
  stdin: {
    kind: 'choice',
    words: ['text', 'jsonl'],
    help: 'what standard input is, if it is named (-)',
    default: 'text',
  },
} as const satisfies Table<TextOptions>

export const tokenizerTable = {
  vocabSize: { kind: 'count', min: 1, help: 'tokens of the vocabulary', required: true },
  ...textTable,
  threads,
} as const satisfies Table<TrainTokenizerOptions>

export const evaluateTable = {
  ctxLen: {
    kind: 'count',
    min: 1,
    help: 'cut the text into windows of N tokens, as training does',
    auto: 'one go',
  },
  ...textTable,
} as const satisfies Table<EvaluateOptions>

export const benchTable = {
  decode: { kind: 'count', help: 'tokens of a stretch, one after another', default: 16 },
  prompt: { kind: 'count', help: 'tokens of the prompt', default: 256 },
  sessions: { kind: 'count', help: 'sessions that are decoded together', default: 8 },
  seconds: { kind: 'number', help: 'how long to measure; three rounds at least', default: 6 },
} as const satisfies Table<BenchOptions>

export const prepareTable = {
  out: { kind: 'path', value: 'DIR', help: 'folder to write into', required: true },
  from: { kind: 'paths', help: 'a local copy of a named data set, instead of the download' },
  tokenizer: {
    kind: 'choice',
    words: ['character', 'byte', 'bpe', 'gpt2', '20b', 'world'],
    help: 'how text becomes tokens',
    auto: 'gpt2, or character for shakespeare_char',
  },
  vocabSize: { kind: 'count', min: 1, help: 'tokens of a BPE that is trained on the text' },
  tokenizerFile: { kind: 'path', value: 'FILE', help: 'a tokenizer.json to take instead' },
  val: { kind: 'paths', help: 'what to validate on, instead of a part of the inputs' },
  valFraction: { kind: 'number', help: 'share for validation', auto: '0.1; 0.0005 for openwebtext' },
  seed: { kind: 'count', help: 'chooses the documents for validation', default: 1 },
  ...textTable,
  threads,
  force: { kind: 'boolean', help: 'replace what is in the folder, whoever made it', default: false },
} as const satisfies Table<PrepareOptions>

/**
 * How the next token is chosen: what `SamplerOptions` has in Rust, where the order is told in which they are applied.
 * All but the temperature and the seed are off by default.
 */
export const samplingTable = {
  /** Sharpens (below 1) or flattens (above 1) the distribution; 0 always takes the likeliest token. Default: 1. */
  temperature: {
    kind: 'number',
    value: 'T',
    help: 'below 1 sharpens, above 1 flattens, 0 takes the likeliest',
    default: 1,
  },
  /** Only the likeliest `topK` tokens are candidates. Default: all. */
  topK: { kind: 'count', help: 'choose among the N likeliest', auto: 'all' },
  /** Only the likeliest tokens that together have this much probability are candidates. Default: 1, which is all. */
  topP: {
    kind: 'number',
    value: 'P',
    help: 'choose among the likeliest of probability P together',
    default: 1,
  },
  /** Only tokens at least this many times as likely as the likeliest are candidates. Default: 0, which is all. */
  minP: {
    kind: 'number',
    value: 'P',
    help: 'choose among those at least P times as likely as the likeliest',
    default: 0,
  },
  /**
   * Only the tokens are candidates that are nearest to as unlikely as is expected, and together have this much
   * probability (locally typical sampling). Default: 1, which is all.
   */
  typicalP: {
    kind: 'number',
    value: 'P',
    help: 'choose among the most typical of probability P together',
    default: 1,
  },
  /** Divides the logit of a token that was written, or multiplies it if it is negative. Default: 1, which is off. */
  repetitionPenalty: { kind: 'number', help: 'divide the logits of tokens that were written', default: 1 },
  /** Subtracted from the logit of a token that was written. Default: 0. */
  presencePenalty: {
    kind: 'number',
    help: 'subtract from the logits of tokens that were written',
    default: 0,
  },
  /** Subtracted from the logit of a token for each time that it was written. Default: 0. */
  frequencyPenalty: { kind: 'number', help: 'subtract as often as they were written', default: 0 },
  /** How penalties fade: counts are multiplied by it with every token. Default: 1, not at all; RWKV's chat has 0.996. */
  penaltyDecay: { kind: 'number', help: 'what is left of a count after each token', default: 1 },
  /** Added to the logits of tokens, by their numbers; `-Infinity` forbids one. */
  logitBias: { kind: 'biases', help: 'add X to the logit of a token; -inf forbids it' },
  /**
   * The order of the cuts, and how occurrences are counted. `usual`: `topK` comes before `topP`. `rwkv`: as RWKV's own
   * programs do it, for which published settings of RWKV models are meant; `topP` comes before `topK` and takes equal
   * tokens, what was written keeps its presence penalty for good, and digits, spaces and tabs have no frequency
   * penalty. Default: `usual`.
   */
  sampler: {
    kind: 'choice',
    words: ['usual', 'rwkv'],
    help: "how cuts and counts work; rwkv: as in RWKV's own programs",
    default: 'usual',
  },
  /** Start of the random numbers: the same seed writes the same text. Default: a different one each time. */
  seed: { kind: 'count', help: 'the same seed writes the same text', auto: 'random' },
} as const satisfies Readonly<Record<string, Described>>

export const generateTable = {
  maxTokens: { kind: 'count', min: 1, help: 'tokens to write at most', default: 256 },
  stop: { kind: 'texts', orOne: true, help: 'end before this' },
  logProbabilities: {
    kind: 'count',
    help: 'tell how likely each token was, and the N likeliest in its place',
  },
  ignoreEndOfText: { kind: 'boolean', help: 'write on after the end of a text', default: false },
  ...samplingTable,
} as const satisfies Table<GenerateOptions>

export const generateBatchTable = {
  sessions: { kind: 'count', min: 1, help: 'texts to write at a time', default: 32 },
  ...generateTable,
} as const satisfies Table<GenerateBatchOptions>

export const sampleTable = {
  prompt: { kind: 'text', help: 'what to go on from', auto: 'the end of another text, or a line break' },
  maxTokens: { kind: 'count', min: 1, help: 'tokens to write', default: 200 },
  ...samplingTable,
} as const satisfies Table<SampleOptions>

export const saveTable = {
  sample: { kind: 'boolean', help: 'whether the model writes a sample', default: true },
} as const satisfies Table<SaveOptions>
