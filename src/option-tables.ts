import type { Described } from './kinds.js'
import type {
  BenchOptions,
  EvaluateOptions,
  GenerateOptions,
  LoadOptions,
  PrepareOptions,
  QuantizeOptions,
  ReportOptions,
  SampleOptions,
  SamplingOptions,
  SaveOptions,
  TextOptions,
  TrainTokenizerOptions,
} from './options.js'

// What is known of each option of a call; the checks of arguments and the flags of the command line are made
// of it. Training has the same in train-options.ts. What an option means in full is said in options.ts.

/** A row for every option of a call but those that are objects and functions. */
type Table<T> = { readonly [K in Exclude<keyof T, 'signal' | 'onProgress' | 'state'>]-?: Described }

const threads = { kind: 'count', help: 'threads to compute on', auto: 'all' } as const

export const loadTable = {
  lora: { kind: 'path', help: "LoRA adapter of the model: its file, or its run's directory" },
  threads,
  unknown: {
    kind: 'choice',
    words: ['error', 'skip', 'byte'],
    help: 'what becomes of characters that the vocabulary lacks',
    auto: 'byte if it has bytes, else error',
  },
} as const satisfies Table<Omit<LoadOptions, 'tokenizer'>>

export const quantizeTable = { threads } as const satisfies Table<QuantizeOptions>

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

export const samplingTable = {
  temperature: {
    kind: 'number',
    value: 'T',
    help: 'below 1 sharpens, above 1 flattens, 0 takes the likeliest',
    default: 1,
  },
  topK: { kind: 'count', help: 'choose among the N likeliest', auto: 'all' },
  topP: {
    kind: 'number',
    value: 'P',
    help: 'choose among the likeliest of probability P together',
    default: 1,
  },
  seed: { kind: 'count', help: 'the same seed writes the same text', auto: 'random' },
} as const satisfies Table<SamplingOptions>

export const generateTable = {
  maxTokens: { kind: 'count', min: 1, help: 'tokens to write at most', default: 256 },
  stop: { kind: 'texts', orOne: true, help: 'end before this' },
  ignoreEndOfText: { kind: 'boolean', help: 'write on after the end of a text', default: false },
  ...samplingTable,
} as const satisfies Table<GenerateOptions>

export const sampleTable = {
  prompt: { kind: 'text', help: 'what to go on from', auto: 'the end of another text, or a line break' },
  maxTokens: { kind: 'count', min: 1, help: 'tokens to write', default: 200 },
  ...samplingTable,
} as const satisfies Table<SampleOptions>

export const saveTable = {
  sample: { kind: 'boolean', help: 'whether the model writes a sample', default: true },
} as const satisfies Table<SaveOptions>
