import {
  boolean,
  callback,
  count,
  number,
  oneOf,
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
  PromptOptions,
  QuantizeOptions,
  ResumeOptions,
  SampleOptions,
  SaveOptions,
  TrainOptions,
  ValidateOptions,
} from './options.js'

// Which options each call takes and what they can be. What they mean is said in options.ts, and which values make sense
// is asked in Rust.

const signalled = { signal }
const watched = { signal, onProgress: callback }
const sampling = { temperature: number, topK: count, topP: number, seed: count }

/** What can change when a run goes on. */
const changes = {
  maxSteps: count,
  learningRate: number,
  finalLearningRate: number,
  weightDecay: number,
  threads: count,
  precision: oneOf('f32', 'bf16'),
  evalInterval: count,
  checkpointInterval: count,
}

export const loadOptions: Schema<LoadOptions> = { threads: count, ...watched }
export const quantizeOptions: Schema<QuantizeOptions> = { threads: count, ...watched }
export const evaluateOptions: Schema<EvaluateOptions> = { ctxLen: positive, ...watched }
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
export const trainOptions: Schema<TrainOptions & { signal?: AbortSignal }> = {
  data: required(path),
  out: required(path),
  tokenizer: oneOf('character', 'byte'),
  nLayer: count,
  nEmbd: count,
  ctxLen: count,
  batchSize: count,
  warmupSteps: count,
  beta1: number,
  beta2: number,
  gradClip: number,
  seed: count,
  ...changes,
  ...signalled,
}
export const resumeOptions: Schema<ResumeOptions & { signal?: AbortSignal }> = {
  data: path,
  ...changes,
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
