import { NativeTokenizer } from '#native'
import {
  callback,
  type Described,
  inputs,
  instance,
  kindsOf,
  required,
  type Schema,
  signal,
} from './kinds.js'
import {
  benchTable,
  convertAdapterTable,
  convertStateTable,
  convertTable,
  evaluateTable,
  generateBatchTable,
  generateTable,
  loadTable,
  mergeTable,
  prepareTable,
  quantizeTable,
  reportTable,
  sampleTable,
  samplingTable,
  saveTable,
  tokenizerTable,
} from './option-tables.js'
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
  PromptOptions,
  QuantizeOptions,
  ReportOptions,
  ResumeOptions,
  SampleOptions,
  SamplingOptions,
  SaveOptions,
  SessionOptions,
  TrainOptions,
  TrainTokenizerOptions,
  ValidateOptions,
  Watch,
} from './options.js'
import { stateKind } from './state.js'
import type { Tokenizer } from './tokenizer.js'
import { trainOptionTable } from './train-options.js'

// Which options each call takes and what they can be. What they mean is said in options.ts, and which values
// make sense is asked in Rust.

type Table = typeof trainOptionTable
/** The training options that can change when a run goes on; none is required then. */
const changeable = Object.fromEntries(
  Object.entries<Described>(trainOptionTable)
    .filter(([_, option]) => option.changesOnResume)
    .map(([name, { required: _, ...option }]) => [name, option]),
) as { readonly [K in keyof ResumeOptions]-?: Omit<Table[K], 'required'> }

const signalled = { signal }
const watched = { signal, onProgress: callback }

export const loadOptions: Schema<LoadOptions> = {
  ...kindsOf(loadTable),
  tokenizer: instance<Tokenizer>('Tokenizer', () => NativeTokenizer),
  ...watched,
}
export const quantizeOptions: Schema<QuantizeOptions> = { ...kindsOf(quantizeTable), ...watched }
export const convertOptions: Schema<ConvertOptions> = { ...kindsOf(convertTable), ...watched }
export const convertAdapterOptions: Schema<ConvertAdapterOptions> = kindsOf(convertAdapterTable)
export const convertStateOptions: Schema<ConvertStateOptions> = kindsOf(convertStateTable)
export const prepareOptions: Schema<PrepareOptions> = { ...kindsOf(prepareTable), ...watched }
export const trainTokenizerOptions: Schema<TrainTokenizerOptions> = {
  ...kindsOf(tokenizerTable),
  ...watched,
}
export const mergeOptions: Schema<MergeOptions> = { ...kindsOf(mergeTable), ...watched }
export const reportOptions: Schema<ReportOptions> = kindsOf(reportTable)
export const sessionOptions: Schema<SessionOptions> = { state: stateKind }
export const evaluateOptions: Schema<EvaluateOptions> = {
  ...kindsOf(evaluateTable),
  state: stateKind,
  ...watched,
}
export const benchOptions: Schema<BenchOptions> = { ...kindsOf(benchTable), ...watched }
export const promptOptions: Schema<PromptOptions> = signalled
export const generateOptions: Schema<GenerateOptions> = { ...kindsOf(generateTable), ...signalled }
export const generateBatchOptions: Schema<GenerateBatchOptions> = {
  ...kindsOf(generateBatchTable),
  ...watched,
}
// A run that goes on has its texts in files.
export const trainOptions: Schema<TrainOptions & Watch> = {
  ...kindsOf(trainOptionTable),
  data: required(inputs),
  val: inputs,
  ...watched,
}
export const resumeOptions: Schema<ResumeOptions & Watch> = { ...kindsOf(changeable), ...watched }
export const validateOptions: Schema<ValidateOptions> = watched
export const saveOptions: Schema<SaveOptions> = kindsOf(saveTable)
export const samplingOptions: Schema<SamplingOptions> = kindsOf(samplingTable)
export const sampleOptions: Schema<SampleOptions> = { ...kindsOf(sampleTable), ...signalled }
