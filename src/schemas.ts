import {
  boolean,
  callback,
  count,
  type Described,
  kindOf,
  number,
  path,
  positive,
  required,
  type Schema,
  signal,
  text,
  texts,
} from './kinds.js'
import type {
  BenchOptions,
  EvaluateOptions,
  GenerateOptions,
  LoadOptions,
  MergeOptions,
  PromptOptions,
  QuantizeOptions,
  ReportOptions,
  ResumeOptions,
  SampleOptions,
  SaveOptions,
  SessionOptions,
  Signal,
  TrainOptions,
  ValidateOptions,
} from './options.js'
import { stateKind } from './state.js'
import { trainOptionTable } from './train-options.js'

// Which options each call takes and what they can be. What they mean is said in options.ts, and which values
// make sense is asked in Rust.

const described: readonly [name: string, Described][] = Object.entries(trainOptionTable)
const signalled = { signal }
const watched = { signal, onProgress: callback }
const sampling = { temperature: number, topK: count, topP: number, seed: count }

export const loadOptions: Schema<LoadOptions> = { lora: path, threads: count, ...watched }
export const quantizeOptions: Schema<QuantizeOptions> = { threads: count, ...watched }
export const mergeOptions: Schema<MergeOptions> = watched
export const reportOptions: Schema<ReportOptions> = { out: path, force: boolean }
export const sessionOptions: Schema<SessionOptions> = { state: stateKind }
export const evaluateOptions: Schema<EvaluateOptions> = { ctxLen: positive, state: stateKind, ...watched }
export const benchOptions: Schema<BenchOptions> = {
  decode: count,
  prompt: count,
  sessions: count,
  seconds: number,
  ...watched,
}
export const promptOptions: Schema<PromptOptions> = signalled
export const generateOptions: Schema<GenerateOptions> = {
  maxTokens: positive,
  stop: texts,
  ...sampling,
  ...signalled,
}
export const trainOptions: Schema<TrainOptions & { signal?: Signal | undefined }> = {
  ...kindsOf<TrainOptions>(described, option => option.required),
  ...signalled,
}
export const resumeOptions: Schema<ResumeOptions & { signal?: Signal | undefined }> = {
  ...kindsOf<ResumeOptions>(
    described.filter(([_, option]) => option.changesOnResume),
    () => false,
  ),
  ...signalled,
}
export const validateOptions: Schema<ValidateOptions> = watched
export const saveOptions: Schema<SaveOptions> = { sample: boolean }
export const sampleOptions: Schema<SampleOptions> = {
  prompt: text,
  maxTokens: positive,
  ...sampling,
  ...signalled,
}

/** The options of a table, each of its kind. */
function kindsOf<T>(
  options: readonly (readonly [name: string, Described])[],
  isRequired: (option: Described) => boolean | undefined,
): Schema<T> {
  const kinds = options.map(([name, option]) => [
    name,
    isRequired(option) ? required(kindOf(option)) : kindOf(option),
  ])
  return Object.fromEntries(kinds)
}
