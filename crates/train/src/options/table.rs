//! The options of a training run, each described once.
//!
//! A row has the option's documentation, which is also that of the TypeScript type and, up to its first full
//! stop, the help of the flag; its name, type and default; the range of numbers; and whether a run that goes
//! on can change it (`resumable`) or not (`fixed`). Names of options in the documentation are in backticks.
//! Defaults are
//!
//! - a value;
//! - `required`: it cannot be left out;
//! - `none`: what is left out is off;
//! - `auto "words"`: the value depends on other options or on the machine, as the words say.
//!
//! `crates/train/tests/typescript.rs` makes `src/train-options.ts` of the table.

use std::path::PathBuf;

use rwkv_core::Result;
use rwkv_kernels::Precision;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::describe::{
    DefaultValue, Described, Kind, Range, Setting, check_all_taken, check_range, check_value, joined, only,
    read_field, take, to_json,
};
use super::macros::{
    choices, default_doc, default_value, described_default, is_saved, range, saved_value, training_options,
};

/// Keeps every product of two counts, and every length of a file, well within 64 bits.
const MAX_COUNT: usize = 1 << 24;
const MAX_STEPS: u64 = 1 << 32;

choices! {
    /// The kind of a tokenizer.
    pub enum TokenizerKind {
        /// One token for each distinct character of the text.
        Character = "character",
        /// The 256 bytes: any file.
        Byte = "byte",
    }
}

choices! {
    /// Precision of the operands of matrix products in training. Their sums are f32 either way, and so is
    /// everything else: parameters, gradients, moments, norms, attention, loss.
    pub enum TrainPrecision {
        /// Single precision.
        F32 = "f32",
        /// Operands rounded to bf16, at up to twice the speed; for CPUs that multiply it (AVX512_BF16).
        Bf16 = "bf16",
    }
}

choices! {
    /// The part of a model that a run trains.
    pub enum Tune {
        /// The parameters of the model, or adapters of it.
        Model = "model",
        /// The state that every sequence starts from, and nothing else.
        State = "state",
    }
}

choices! {
    /// The optimizer.
    pub enum OptimizerKind {
        /// AdamW for all parameters.
        AdamW = "adamw",
        /// Muon for the matrices between activations, AdamW for the embedding, the head and the vectors.
        Muon = "muon",
    }
}

choices! {
    /// The shape of the decay of the learning rate.
    pub enum Decay {
        /// Along half a cosine.
        Cosine = "cosine",
        /// Along a straight line.
        Linear = "linear",
    }
}

choices! {
    /// Which model of a run `model.bin` is.
    pub enum Keep {
        /// That with the lowest validation loss.
        Best = "best",
        /// The last one.
        Last = "last",
    }
}

impl From<TrainPrecision> for Precision {
    fn from(precision: TrainPrecision) -> Self {
        match precision {
            TrainPrecision::F32 => Self::F32,
            TrainPrecision::Bf16 => Self::Bf16,
        }
    }
}

impl From<Precision> for TrainPrecision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

training_options! {
    [saved]

    /// Text file to train on; its last tenth is for validation. It is UTF-8, or any file if `tokenizer` is
    /// byte.
    data: PathBuf = required, resumable;

    // A run can be moved: its files do not name the directory that they are in.
    [not saved]

    /// Directory of the run, created if it does not exist.
    out: PathBuf = required, fixed;

    /// Replace files in `out` that no run of this program wrote: a model, an adapter, a tokenizer.
    force: bool = false, resumable;

    [saved]

    /// How text becomes tokens: one for each distinct character of the text, or one for each byte.
    tokenizer: TokenizerKind = auto "character; with `from`, that of the model", fixed;

    /// Number of layers (blocks).
    n_layer: usize = 4, 1 <= x <= MAX_COUNT, fixed;

    /// Embedding size: the width of the model.
    n_embd: usize = 128, 1 <= x <= MAX_COUNT, fixed;

    /// Context length in tokens. Each sequence of a batch starts from an empty state, unless `carry_state` is on
    /// or `tune` is state.
    ctx_len: usize = 64, 1 <= x <= MAX_COUNT, fixed;

    /// Batch size: sequences of a batch. A step learns from `accumulate` batches.
    batch_size: usize = 12, 1 <= x <= MAX_COUNT, fixed;

    /// Optimizer steps of the whole run. The learning rate decays until the last one; `patience` can end the run
    /// before it.
    max_steps: u64 = 2000, 1 <= x <= MAX_STEPS, resumable;

    // Near RWKV's suggestions (8e-4 for a width of 512, 4e-4 for 1024), and bounded for small models.
    /// Peak learning rate.
    learning_rate: f64 = auto "0.4 / `n_embd`, at most 0.003; three times as much with `lora_rank`", 0.0 < x <= 1.0, resumable;

    /// Learning rate at the end of the decay.
    final_learning_rate: f64 = auto "a thirtieth of `learning_rate`", 0.0 <= x <= 1.0, resumable;

    /// Steps of the learning rate's linear warm-up.
    warmup_steps: u64 = auto "100, or a tenth of `max_steps` if that is fewer", fixed;

    /// Weight decay, of matrices alone. It is multiplied by the learning rate, with Muon too.
    weight_decay: f64 = 0.1, 0.0 <= x <= 100.0, resumable;

    /// AdamW's decay rate of the first moment.
    beta1: f64 = 0.9, 0.0 <= x < 1.0, fixed;

    /// AdamW's decay rate of the second moment.
    beta2: f64 = 0.99, 0.0 <= x < 1.0, fixed;

    /// Largest global norm of the gradients; 0: no clipping.
    grad_clip: f64 = 1.0, 0.0 <= x < f64::INFINITY, fixed;

    /// Seed of the initial parameters and of the order of the sequences.
    seed: u64 = 1, fixed;

    /// Threads to compute on. The result does not depend on their number.
    threads: usize = auto "as many as the machine has", 1 <= x <= rwkv_core::MAX_THREADS, resumable;

    /// Precision of the operands of matrix products. Their sums, and everything else, are f32.
    precision: TrainPrecision = auto "bf16, up to twice as fast, if the CPU multiplies it, else f32", resumable;

    /// Steps between validations; 0: at the end only.
    eval_interval: u64 = 250, resumable;

    /// Steps between checkpoints; 0: at the end only.
    checkpoint_interval: u64 = 500, resumable;

    // Options that came after the first release go below. A file that lacks one is of a run that has its
    // default, and a default is not written, so that the checksums of older checkpoints still hold: the
    // default of such an option must stay.
    [saved unless default]

    /// Model to fine-tune instead of training a new one: a .bin file or a run's directory. Its weights are
    /// FP32 or FP16; with `lora_rank`, or if `tune` is state, they can also be quantized. The new run takes
    /// over its shape and its tokenizer. A run that goes on needs the same model, wherever it is by then.
    from: PathBuf = none, resumable;

    /// Parameters to freeze, by name; * stands for any characters, as in emb.* or *.att.*.
    freeze: Vec<String> = none, fixed;

    /// Parameters to train, by name, and no others; * stands for any characters.
    train: Vec<String> = none, fixed;

    /// Rank of LoRA adapters, which are trained while the model stays frozen.
    lora_rank: usize = none, 1 <= x <= MAX_COUNT, fixed;

    /// LoRA's alpha: what an adapter adds is multiplied by alpha / rank.
    lora_alpha: f64 = auto "twice `lora_rank`", 0.0 < x <= 1e6, fixed;

    /// Matrices that get an adapter, by name; * stands for any characters.
    lora_targets: Vec<String> = auto "all matrices of the blocks", fixed;

    /// What to train: the model (its parameters, or adapters), or only the state that a sequence starts from.
    tune: Tune = Tune::Model, fixed;

    /// Gradient accumulation: batches a step, each of `batch_size` sequences.
    accumulate: usize = 1, 1 <= x <= MAX_COUNT, fixed;

    /// Activation recomputation: less memory, more time, the same numbers. Activations are computed again in
    /// the backward pass instead of kept.
    recompute: bool = false, resumable;

    /// Dropout probability, for the embedding and for what each block adds to the residual stream.
    dropout: f64 = 0.0, 0.0 <= x < 1.0, fixed;

    /// Start each sequence from the state at the end of the one before it in the text, not from an empty one.
    /// Gradients stop at the sequence's start (truncated back-propagation through time).
    carry_state: bool = false, fixed;

    /// Optimizer: adamw for all parameters, or muon for the matrices of the blocks and adamw for the rest. Muon
    /// takes fewer steps.
    optimizer: OptimizerKind = auto "adamw", fixed;

    /// Peak learning rate of the matrices that Muon moves. It rises and falls as `learning_rate` does.
    matrix_learning_rate: f64 = auto "0.02 with Muon", 0.0 < x <= 1.0, resumable;

    /// How the learning rate falls to `final_learning_rate`.
    decay: Decay = Decay::Cosine, resumable;

    /// Part of the run in which the learning rate falls: 1 from the end of the warm-up on, 0.4 in the last two
    /// fifths.
    cooldown: f64 = 1.0, 0.0 < x <= 1.0, resumable;

    /// Which model to leave in the run's directory: that with the best validation loss, or the last one.
    keep: Keep = Keep::Best, resumable;

    /// Early stopping: the run ends after so many validations without a better loss.
    patience: u64 = none, 1 <= x <= MAX_STEPS, resumable;
}
