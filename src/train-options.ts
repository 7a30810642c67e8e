// Made of the table in crates/train/src/options/table.rs. To make it anew:
// RWKV_UPDATE=1 cargo test -p rwkv-train --test typescript

import type { Described } from './kinds.js'

/** Options of a new training run. */
export interface TrainOptions {
  /**
   * Text file to train on; its last tenth is for validation. It is UTF-8, or any file if `tokenizer` is byte.
   */
  data: string
  /** Directory of the run, created if it does not exist. */
  out: string
  /**
   * How text becomes tokens: one for each distinct character of the text, or one for each byte. Default:
   * 'character'.
   */
  tokenizer?: 'character' | 'byte'
  /** Number of layers (blocks). Default: 4. Range: a whole number from 1 to 16777216. */
  nLayer?: number
  /** Embedding size: the width of the model. Default: 128. Range: a whole number from 1 to 16777216. */
  nEmbd?: number
  /**
   * Context length in tokens. Each sequence of a batch starts from an empty state. Default: 64. Range: a
   * whole number from 1 to 16777216.
   */
  ctxLen?: number
  /** Batch size: sequences a step. Default: 12. Range: a whole number from 1 to 16777216. */
  batchSize?: number
  /**
   * Optimizer steps of the whole run. The learning rate decays until the last one. Default: 2000. Range: a
   * whole number from 1 to 4294967296.
   */
  maxSteps?: number
  /** Peak learning rate. Default: 0.4 / `nEmbd`, at most 0.003. Range: more than 0 and at most 1. */
  learningRate?: number
  /**
   * Learning rate at the end of the cosine decay. Default: a thirtieth of `learningRate`. Range: from 0 to 1.
   */
  finalLearningRate?: number
  /** Steps of the learning rate's linear warm-up. Default: 100, or a tenth of `maxSteps` if that is fewer. */
  warmupSteps?: number
  /**
   * AdamW's weight decay, of matrices alone. It is multiplied by the learning rate. Default: 0.1. Range: from
   * 0 to 100.
   */
  weightDecay?: number
  /** AdamW's decay rate of the first moment. Default: 0.9. Range: at least 0 and less than 1. */
  beta1?: number
  /** AdamW's decay rate of the second moment. Default: 0.99. Range: at least 0 and less than 1. */
  beta2?: number
  /** Largest global norm of the gradients; 0: no clipping. Default: 1. Range: at least 0 and finite. */
  gradClip?: number
  /** Seed of the initial parameters and of the order of the sequences. Default: 1. */
  seed?: number
  /**
   * Threads to compute on. The result does not depend on their number. Default: as many as the machine has.
   * Range: a whole number from 1 to 1024.
   */
  threads?: number
  /**
   * Precision of the operands of matrix products. Their sums, and everything else, are f32. Default: bf16,
   * twice as fast, if the CPU multiplies it, else f32.
   */
  precision?: 'f32' | 'bf16'
  /** Steps between validations; 0: at the end only. Default: 250. */
  evalInterval?: number
  /** Steps between checkpoints; 0: at the end only. Default: 500. */
  checkpointInterval?: number
}

/** What can change when a run goes on from its last checkpoint; what is left out stays as it was. */
export type ResumeOptions = Pick<
  Partial<TrainOptions>,
  | 'data'
  | 'maxSteps'
  | 'learningRate'
  | 'finalLearningRate'
  | 'weightDecay'
  | 'threads'
  | 'precision'
  | 'evalInterval'
  | 'checkpointInterval'
>

/** What is known of each option. */
export const trainOptionTable = {
  data: {
    kind: 'path',
    help: 'text file to train on; its last tenth is for validation',
    required: true,
    changesOnResume: true,
  },
  out: { kind: 'path', help: 'directory of the run, created if it does not exist', required: true },
  tokenizer: {
    kind: 'choice',
    words: ['character', 'byte'],
    help: 'how text becomes tokens: one for each distinct character of the text, or one for each byte',
    default: 'character',
  },
  nLayer: { kind: 'count', help: 'number of layers (blocks)', default: 4 },
  nEmbd: { kind: 'count', help: 'embedding size: the width of the model', default: 128 },
  ctxLen: { kind: 'count', help: 'context length in tokens', default: 64 },
  batchSize: { kind: 'count', help: 'batch size: sequences a step', default: 12 },
  maxSteps: { kind: 'count', help: 'optimizer steps of the whole run', default: 2000, changesOnResume: true },
  learningRate: {
    kind: 'number',
    help: 'peak learning rate',
    auto: '0.4 / nEmbd, at most 0.003',
    changesOnResume: true,
  },
  finalLearningRate: {
    kind: 'number',
    help: 'learning rate at the end of the cosine decay',
    auto: 'a thirtieth of learningRate',
    changesOnResume: true,
  },
  warmupSteps: {
    kind: 'count',
    help: "steps of the learning rate's linear warm-up",
    auto: '100, or a tenth of maxSteps if that is fewer',
  },
  weightDecay: {
    kind: 'number',
    help: "AdamW's weight decay, of matrices alone",
    default: 0.1,
    changesOnResume: true,
  },
  beta1: { kind: 'number', help: "AdamW's decay rate of the first moment", default: 0.9 },
  beta2: { kind: 'number', help: "AdamW's decay rate of the second moment", default: 0.99 },
  gradClip: { kind: 'number', help: 'largest global norm of the gradients; 0: no clipping', default: 1 },
  seed: {
    kind: 'count',
    help: 'seed of the initial parameters and of the order of the sequences',
    default: 1,
  },
  threads: {
    kind: 'count',
    help: 'threads to compute on',
    auto: 'as many as the machine has',
    changesOnResume: true,
  },
  precision: {
    kind: 'choice',
    words: ['f32', 'bf16'],
    help: 'precision of the operands of matrix products',
    auto: 'bf16, twice as fast, if the CPU multiplies it, else f32',
    changesOnResume: true,
  },
  evalInterval: {
    kind: 'count',
    help: 'steps between validations; 0: at the end only',
    default: 250,
    changesOnResume: true,
  },
  checkpointInterval: {
    kind: 'count',
    help: 'steps between checkpoints; 0: at the end only',
    default: 500,
    changesOnResume: true,
  },
} as const satisfies { readonly [K in keyof TrainOptions]-?: Described }
