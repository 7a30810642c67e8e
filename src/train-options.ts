// Made of the options in crates/train/src/options/train.rs. To make it anew:
// RWKV_UPDATE=1 cargo test -p rwkv-train --test typescript

import type { InFiles, Input, Path } from './inputs.js'
import type { Described } from './kinds.js'

/** Options of a new training run. */
export interface TrainOptions {
  /**
   * What to train on: files, folders, patterns like books/*.txt, or - for standard input. A text file is one
   * document, whose last tenth is for validation; of several documents (also those of JSON Lines and Parquet,
   * packed with gzip or Zstandard or not) it is every tenth, chosen by the seed. A folder that was prepared,
   * and files of tokens (nanoGPT's, llm.c's, binidx), are mapped and not loaded. Text is UTF-8, or anything
   * if `tokenizer` is byte or world. A program can also give a text in memory: a document, which the run
   * writes into its directory.
   */
  data: Input | readonly Input[]
  /** Directory of the run, created if it does not exist. */
  out: Path
  /**
   * Replace files in `out` that no run of this program wrote: a model, an adapter, a tokenizer. Default:
   * false.
   */
  force?: boolean | undefined
  /**
   * How text becomes tokens: its characters, bytes, byte pairs trained on it (bpe), or the vocabulary of
   * GPT-2, of the RWKV-4 models of the Pile (20b), or of the World models. Characters that the text does not
   * have become bytes. Default: character; with `from`, that of the model.
   */
  tokenizer?: 'character' | 'byte' | 'bpe' | 'gpt2' | '20b' | 'world' | undefined
  /** Number of layers (blocks). Default: 4. Range: a whole number from 1 to 16777216. */
  nLayer?: number | undefined
  /** Embedding size: the width of the model. Default: 128. Range: a whole number from 1 to 16777216. */
  nEmbd?: number | undefined
  /**
   * Context length in tokens. Each sequence of a batch starts from an empty state, unless `carryState` is on
   * or `tune` is state. Default: 64. Range: a whole number from 1 to 16777216.
   */
  ctxLen?: number | undefined
  /**
   * Batch size: sequences of a batch. A step learns from `accumulate` batches. Default: 12. Range: a whole
   * number from 1 to 16777216.
   */
  batchSize?: number | undefined
  /**
   * Optimizer steps of the whole run. The learning rate decays until the last one; `patience` can end the run
   * before it. Default: 2000. Range: a whole number from 1 to 4294967296.
   */
  maxSteps?: number | undefined
  /**
   * Peak learning rate. Default: 0.4 / `nEmbd`, at most 0.003; three times as much with `loraRank`. Range:
   * more than 0 and at most 1.
   */
  learningRate?: number | undefined
  /** Learning rate at the end of the decay. Default: a thirtieth of `learningRate`. Range: from 0 to 1. */
  finalLearningRate?: number | undefined
  /** Steps of the learning rate's linear warm-up. Default: 100, or a tenth of `maxSteps` if that is fewer. */
  warmupSteps?: number | undefined
  /**
   * Weight decay, of matrices alone. It is multiplied by the learning rate, with Muon too. Default: 0.1.
   * Range: from 0 to 100.
   */
  weightDecay?: number | undefined
  /** AdamW's decay rate of the first moment. Default: 0.9. Range: at least 0 and less than 1. */
  beta1?: number | undefined
  /** AdamW's decay rate of the second moment. Default: 0.99. Range: at least 0 and less than 1. */
  beta2?: number | undefined
  /** Largest global norm of the gradients; 0: no clipping. Default: 1. Range: at least 0 and finite. */
  gradClip?: number | undefined
  /**
   * Seed of the initial parameters and of the order of the sequences. Its range is that of the whole numbers
   * that JSON carries exactly between all programs. Default: 1. Range: a whole number from 0 to
   * 9007199254740991.
   */
  seed?: number | undefined
  /**
   * Threads to compute on. The result does not depend on their number. Default: as many as the machine has.
   * Range: a whole number from 1 to 1024.
   */
  threads?: number | undefined
  /**
   * Precision of the operands of matrix products. Their sums, and everything else, are f32. Default: bf16 if
   * the CPU multiplies it faster, as AMD's do from Zen 4 on, else f32.
   */
  precision?: 'f32' | 'bf16' | undefined
  /** Steps between validations; 0: at the end only. Default: 250. */
  evalInterval?: number | undefined
  /** Steps between checkpoints; 0: at the end only. Default: 500. */
  checkpointInterval?: number | undefined
  /**
   * Model to fine-tune instead of training a new one: a .bin file or a run's directory. Its weights are FP32
   * or FP16; with `loraRank`, or if `tune` is state, they can also be quantized. The new run takes over its
   * shape and its tokenizer. A run that goes on needs the same model, wherever it is by then. Default: none.
   */
  from?: Path | undefined
  /** Parameters to freeze, by name; * stands for any characters, as in emb.* or *.att.*. Default: none. */
  freeze?: readonly string[] | undefined
  /** Parameters to train, by name, and no others; * stands for any characters. Default: none. */
  train?: readonly string[] | undefined
  /**
   * Rank of LoRA adapters, which are trained while the model stays frozen. Default: none. Range: a whole
   * number from 1 to 16777216.
   */
  loraRank?: number | undefined
  /**
   * LoRA's alpha: what an adapter adds is multiplied by alpha / rank. Default: twice `loraRank`. Range: more
   * than 0 and at most 1000000.
   */
  loraAlpha?: number | undefined
  /**
   * Matrices that get an adapter, by name; * stands for any characters. Default: all matrices of the blocks.
   */
  loraTargets?: readonly string[] | undefined
  /**
   * What to train: the model (its parameters, or adapters), or only the state that a sequence starts from.
   * Default: 'model'.
   */
  tune?: 'model' | 'state' | undefined
  /**
   * Gradient accumulation: batches a step, each of `batchSize` sequences. Default: 1. Range: a whole number
   * from 1 to 16777216.
   */
  accumulate?: number | undefined
  /**
   * Activation recomputation: less memory, more time, the same numbers. Activations are computed again in the
   * backward pass instead of kept. Default: false.
   */
  recompute?: boolean | undefined
  /**
   * Dropout probability, for the embedding and for what each block adds to the residual stream. Default: 0.
   * Range: at least 0 and less than 1.
   */
  dropout?: number | undefined
  /**
   * Start each sequence from the state at the end of the one before it in the text, not from an empty one.
   * Gradients stop at the sequence's start (truncated back-propagation through time). Default: false.
   */
  carryState?: boolean | undefined
  /**
   * Optimizer: adamw for all parameters, or muon for the matrices of the blocks and adamw for the rest. Muon
   * takes fewer steps, of more seconds each. Default: muon for new models of RWKV-4 with at least six tokens
   * a step for each of `nEmbd`, else adamw.
   */
  optimizer?: 'adamw' | 'muon' | undefined
  /**
   * Peak learning rate of the matrices that Muon moves. It rises and falls as `learningRate` does. Default:
   * 0.02 with Muon. Range: more than 0 and at most 1.
   */
  matrixLearningRate?: number | undefined
  /** How the learning rate falls to `finalLearningRate`. Default: 'cosine'. */
  decay?: 'cosine' | 'linear' | undefined
  /**
   * Part of the run in which the learning rate falls: 1 from the end of the warm-up on, 0.4 in the last two
   * fifths. Default: 1. Range: more than 0 and at most 1.
   */
  cooldown?: number | undefined
  /**
   * Which model to leave in the run's directory: that with the best validation loss, or the last one.
   * Default: 'best'.
   */
  keep?: 'best' | 'last' | undefined
  /**
   * Early stopping: the run ends after so many validations without a better loss. Default: none. Range: a
   * whole number from 1 to 4294967296.
   */
  patience?: number | undefined
  /**
   * Tokens of the vocabulary that `tokenizer` bpe trains. Default: one for every 2 KiB of the text, from 384
   * to 16384. Range: a whole number from 257 to 1048576.
   */
  vocabSize?: number | undefined
  /**
   * A `tokenizer.json` to take instead of making one, as Hugging Face's tokenizers write it. Default: none.
   */
  tokenizerFile?: Path | undefined
  /** What to validate on instead of a part of `data`: as that. Default: none. */
  val?: Input | readonly Input[] | undefined
  /** Field of JSON Lines, and column of Parquet, that has the text. Default: text. */
  textField?: string | undefined
  /**
   * Tokens that a validation looks at, from the beginning of the validation set. Default: all of them, of
   * more than a million the first million. Range: a whole number from 2 to 9007199254740991.
   */
  evalTokens?: number | undefined
  /**
   * What becomes of characters that the vocabulary lacks: an error, nothing (skip), or bytes. A new
   * vocabulary of characters has bytes only if these are to be used. Default: byte; with `from`, if the
   * vocabulary has bytes, else error.
   */
  unknown?: 'error' | 'skip' | 'byte' | undefined
  /**
   * Order of the sequences: epoch, each token once an epoch, at a place of its sequence that changes from
   * epoch to epoch; or random, anywhere in the text. Default: 'epoch'.
   */
  order?: 'epoch' | 'random' | undefined
  /**
   * Start each document from the empty state (or the one that is trained), also within a sequence: at every
   * end of text. Default: false.
   */
  resetState?: boolean | undefined
  /**
   * What becomes of bytes that are not UTF-8: an error, or U+FFFD (replace). Tokenizers of bytes take them as
   * they are unless it is replace. Default: 'error'.
   */
  invalid?: 'error' | 'replace' | undefined
  /** What standard input is, if `data` or `val` is -: a text, or JSON Lines (jsonl). Default: 'text'. */
  stdin?: 'text' | 'jsonl' | undefined
  /**
   * Version of RWKV of a new model. RWKV-7 recalls what RWKV-4 cannot, and takes longer to learn a small
   * text. Default: v4; with `from`, that of the model.
   */
  arch?: 'v7' | 'v4' | undefined
  /**
   * How several processes (rwkv-mpi) send each other what they sum: in f32, or rounded to bf16, half the
   * bytes. One process sends nothing. Default: 'f32'.
   */
  sumPrecision?: 'f32' | 'bf16' | undefined
  /**
   * DiLoCo, for slow links: steps that each process (rwkv-mpi) takes by itself before all synchronize.
   * Validations and checkpoints come after that. Default: none, gradients are summed every step. Range: a
   * whole number from 1 to 4294967296.
   */
  localSteps?: number | undefined
  /**
   * DiLoCo's outer learning rate: how far a synchronization goes towards the mean of the processes. Default:
   * 0.7 with `localSteps`. Range: more than 0 and at most 10.
   */
  outerLearningRate?: number | undefined
  /**
   * DiLoCo's outer momentum (Nesterov's). Default: 0.9 with `localSteps`. Range: at least 0 and less than 1.
   */
  outerMomentum?: number | undefined
}

/** What can change when a run goes on from its last checkpoint; what is left out stays as it was. */
export type ResumeOptions = Pick<
  { [K in keyof TrainOptions]?: InFiles<TrainOptions[K]> | undefined },
  | 'data'
  | 'force'
  | 'maxSteps'
  | 'learningRate'
  | 'finalLearningRate'
  | 'weightDecay'
  | 'threads'
  | 'precision'
  | 'evalInterval'
  | 'checkpointInterval'
  | 'from'
  | 'recompute'
  | 'matrixLearningRate'
  | 'decay'
  | 'cooldown'
  | 'keep'
  | 'patience'
  | 'val'
  | 'evalTokens'
  | 'sumPrecision'
>

/** What is known of each option. */
export const trainOptionTable = {
  data: {
    kind: 'paths',
    help: 'what to train on: files, folders, patterns like books/*.txt, or - for standard input',
    required: true,
    changesOnResume: true,
  },
  out: { kind: 'path', help: 'directory of the run, created if it does not exist', required: true },
  force: {
    kind: 'boolean',
    help: 'replace files in out that no run of this program wrote: a model, an adapter, a tokenizer',
    default: false,
    changesOnResume: true,
  },
  tokenizer: {
    kind: 'choice',
    words: ['character', 'byte', 'bpe', 'gpt2', '20b', 'world'],
    help: 'how text becomes tokens: its characters, bytes, byte pairs trained on it (bpe), or the vocabulary of GPT-2, of the RWKV-4 models of the Pile (20b), or of the World models',
    auto: 'character; with from, that of the model',
  },
  nLayer: { kind: 'count', help: 'number of layers (blocks)', default: 4 },
  nEmbd: { kind: 'count', help: 'embedding size: the width of the model', default: 128 },
  ctxLen: { kind: 'count', help: 'context length in tokens', default: 64 },
  batchSize: { kind: 'count', help: 'batch size: sequences of a batch', default: 12 },
  maxSteps: { kind: 'count', help: 'optimizer steps of the whole run', default: 2000, changesOnResume: true },
  learningRate: {
    kind: 'number',
    help: 'peak learning rate',
    auto: '0.4 / nEmbd, at most 0.003; three times as much with loraRank',
    changesOnResume: true,
  },
  finalLearningRate: {
    kind: 'number',
    help: 'learning rate at the end of the decay',
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
    help: 'weight decay, of matrices alone',
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
    auto: "bf16 if the CPU multiplies it faster, as AMD's do from Zen 4 on, else f32",
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
  from: {
    kind: 'path',
    help: "model to fine-tune instead of training a new one: a .bin file or a run's directory",
    changesOnResume: true,
  },
  freeze: {
    kind: 'texts',
    help: 'parameters to freeze, by name; * stands for any characters, as in emb.* or *.att.*',
  },
  train: { kind: 'texts', help: 'parameters to train, by name, and no others; * stands for any characters' },
  loraRank: { kind: 'count', help: 'rank of LoRA adapters, which are trained while the model stays frozen' },
  loraAlpha: {
    kind: 'number',
    help: "LoRA's alpha: what an adapter adds is multiplied by alpha / rank",
    auto: 'twice loraRank',
  },
  loraTargets: {
    kind: 'texts',
    help: 'matrices that get an adapter, by name; * stands for any characters',
    auto: 'all matrices of the blocks',
  },
  tune: {
    kind: 'choice',
    words: ['model', 'state'],
    help: 'what to train: the model (its parameters, or adapters), or only the state that a sequence starts from',
    default: 'model',
  },
  accumulate: {
    kind: 'count',
    help: 'gradient accumulation: batches a step, each of batchSize sequences',
    default: 1,
  },
  recompute: {
    kind: 'boolean',
    help: 'activation recomputation: less memory, more time, the same numbers',
    default: false,
    changesOnResume: true,
  },
  dropout: {
    kind: 'number',
    help: 'dropout probability, for the embedding and for what each block adds to the residual stream',
    default: 0,
  },
  carryState: {
    kind: 'boolean',
    help: 'start each sequence from the state at the end of the one before it in the text, not from an empty one',
    default: false,
  },
  optimizer: {
    kind: 'choice',
    words: ['adamw', 'muon'],
    help: 'optimizer: adamw for all parameters, or muon for the matrices of the blocks and adamw for the rest',
    auto: 'muon for new models of RWKV-4 with at least six tokens a step for each of nEmbd, else adamw',
  },
  matrixLearningRate: {
    kind: 'number',
    help: 'peak learning rate of the matrices that Muon moves',
    auto: '0.02 with Muon',
    changesOnResume: true,
  },
  decay: {
    kind: 'choice',
    words: ['cosine', 'linear'],
    help: 'how the learning rate falls to finalLearningRate',
    default: 'cosine',
    changesOnResume: true,
  },
  cooldown: {
    kind: 'number',
    help: 'part of the run in which the learning rate falls: 1 from the end of the warm-up on, 0.4 in the last two fifths',
    default: 1,
    changesOnResume: true,
  },
  keep: {
    kind: 'choice',
    words: ['best', 'last'],
    help: "which model to leave in the run's directory: that with the best validation loss, or the last one",
    default: 'best',
    changesOnResume: true,
  },
  patience: {
    kind: 'count',
    help: 'early stopping: the run ends after so many validations without a better loss',
    changesOnResume: true,
  },
  vocabSize: {
    kind: 'count',
    help: 'tokens of the vocabulary that tokenizer bpe trains',
    auto: 'one for every 2 KiB of the text, from 384 to 16384',
  },
  tokenizerFile: {
    kind: 'path',
    help: "a `tokenizer.json` to take instead of making one, as Hugging Face's tokenizers write it",
  },
  val: {
    kind: 'paths',
    help: 'what to validate on instead of a part of data: as that',
    changesOnResume: true,
  },
  textField: {
    kind: 'text',
    help: 'field of JSON Lines, and column of Parquet, that has the text',
    auto: 'text',
  },
  evalTokens: {
    kind: 'count',
    help: 'tokens that a validation looks at, from the beginning of the validation set',
    auto: 'all of them, of more than a million the first million',
    changesOnResume: true,
  },
  unknown: {
    kind: 'choice',
    words: ['error', 'skip', 'byte'],
    help: 'what becomes of characters that the vocabulary lacks: an error, nothing (skip), or bytes',
    auto: 'byte; with from, if the vocabulary has bytes, else error',
  },
  order: {
    kind: 'choice',
    words: ['epoch', 'random'],
    help: 'order of the sequences: epoch, each token once an epoch, at a place of its sequence that changes from epoch to epoch; or random, anywhere in the text',
    default: 'epoch',
  },
  resetState: {
    kind: 'boolean',
    help: 'start each document from the empty state (or the one that is trained), also within a sequence: at every end of text',
    default: false,
  },
  invalid: {
    kind: 'choice',
    words: ['error', 'replace'],
    help: 'what becomes of bytes that are not UTF-8: an error, or U+FFFD (replace)',
    default: 'error',
  },
  stdin: {
    kind: 'choice',
    words: ['text', 'jsonl'],
    help: 'what standard input is, if data or val is -: a text, or JSON Lines (jsonl)',
    default: 'text',
  },
  arch: {
    kind: 'choice',
    words: ['v7', 'v4'],
    help: 'version of RWKV of a new model',
    auto: 'v4; with from, that of the model',
  },
  sumPrecision: {
    kind: 'choice',
    words: ['f32', 'bf16'],
    help: 'how several processes (rwkv-mpi) send each other what they sum: in f32, or rounded to bf16, half the bytes',
    default: 'f32',
    changesOnResume: true,
  },
  localSteps: {
    kind: 'count',
    help: 'DiLoCo, for slow links: steps that each process (rwkv-mpi) takes by itself before all synchronize',
    auto: 'none, gradients are summed every step',
  },
  outerLearningRate: {
    kind: 'number',
    help: "DiLoCo's outer learning rate: how far a synchronization goes towards the mean of the processes",
    auto: '0.7 with localSteps',
  },
  outerMomentum: {
    kind: 'number',
    help: "DiLoCo's outer momentum (Nesterov's)",
    auto: '0.9 with localSteps',
  },
} as const satisfies { readonly [K in keyof TrainOptions]-?: Described }
