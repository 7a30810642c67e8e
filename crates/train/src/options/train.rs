//! The options of a new run, and what can change when it goes on.

use std::ops::Bound::{Excluded, Included};
use std::path::PathBuf;

use rwkv_core::{MAX_THREADS, Version};
use serde::{Deserialize, Serialize};

use super::choices::{
    Decay, InvalidText, Keep, OptimizerKind, Order, Stdin, SumPrecision, TokenizerKind, TrainPrecision, Tune,
    Unknown,
};
use super::describe::{Field, Limit, Setting, described, within};
use super::inputs::Inputs;

/// Keeps every product of two counts, and every length of a file, well within 64 bits.
const MAX_COUNT: usize = 1 << 24;
const MAX_STEPS: u64 = 1 << 32;
/// The largest whole number that JSON carries exactly between all programs: JavaScript reads larger ones rounded,
/// and would tell of another run than the one there is.
const MAX_SEED: u64 = (1 << 53) - 1;
/// More than any vocabulary that is published.
const MAX_VOCAB: usize = 1 << 20;

// The documentation of a field is that of the TypeScript type too, and its first sentence the help of the
// flag. It ends in what the option is when it is left out, which a test holds to `TrainOptions::new`.
described! {
    /// Options of a new run; `None` means what the documentation of the field says.
    ///
    /// ```
    /// use rwkv_train::TrainOptions;
    ///
    /// let options =
    ///     TrainOptions { n_layer: 2, max_steps: 500, ..TrainOptions::new("book.txt", "runs/book") };
    /// assert_eq!(options.resolved().warmup_steps, Some(50));
    /// ```
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub struct TrainOptions {
        /// What to train on: files, folders, patterns like books/*.txt, or - for standard input. A text file is
        /// one document, whose last tenth is for validation; of several documents (also those of JSON Lines and
        /// Parquet, packed with gzip or Zstandard or not) it is every tenth, chosen by the seed. A folder that was
        /// prepared, and files of tokens (nanoGPT's, llm.c's, binidx), are mapped and not loaded. Text is UTF-8,
        /// or anything if `tokenizer` is byte or world. A program can also give a text in memory: a document, which
        /// the run writes into its directory. Required.
        pub data: Inputs,

        // A run can be moved: its files do not name the directory that they are in.
        /// Directory of the run, created if it does not exist. Required.
        #[serde(default)]
        pub out: PathBuf,

        /// Replace files in `out` that no run of this program wrote: a model, an adapter, a tokenizer. Default:
        /// false.
        #[serde(default)]
        pub force: bool,

        /// How text becomes tokens: its characters, bytes, byte pairs trained on it (bpe), or the vocabulary of
        /// GPT-2, of the RWKV-4 models of the Pile (20b), or of the World models. Characters that the text does not
        /// have become bytes. Default: character; with `from`, that of the model.
        pub tokenizer: Option<TokenizerKind>,

        /// Number of layers (blocks). Default: 4.
        pub n_layer: usize,

        /// Embedding size: the width of the model. Default: 128.
        pub n_embd: usize,

        /// Context length in tokens. Each sequence of a batch starts from an empty state, unless `carry_state`
        /// is on or `tune` is state. Default: 64.
        pub ctx_len: usize,

        /// Batch size: sequences of a batch. A step learns from `accumulate` batches. Default: 12.
        pub batch_size: usize,

        /// Optimizer steps of the whole run. The learning rate decays until the last one; `patience` can end
        /// the run before it. Default: 2000.
        pub max_steps: u64,

        // Near RWKV's suggestions (8e-4 for a width of 512, 4e-4 for 1024), and bounded for small models.
        /// Peak learning rate. Default: 0.4 / `n_embd`, at most 0.003; three times as much with `lora_rank`.
        pub learning_rate: Option<f64>,

        /// Learning rate at the end of the decay. Default: a thirtieth of `learning_rate`.
        pub final_learning_rate: Option<f64>,

        /// Steps of the learning rate's linear warm-up. Default: 100, or a tenth of `max_steps` if that is
        /// fewer.
        pub warmup_steps: Option<u64>,

        /// Weight decay, of matrices alone. It is multiplied by the learning rate, with Muon too. Default: 0.1.
        pub weight_decay: f64,

        /// AdamW's decay rate of the first moment. Default: 0.9.
        pub beta1: f64,

        /// AdamW's decay rate of the second moment. Default: 0.99.
        pub beta2: f64,

        /// Largest global norm of the gradients; 0: no clipping. Default: 1.
        pub grad_clip: f64,

        /// Seed of the initial parameters and of the order of the sequences. Its range is that of the whole numbers
        /// that JSON carries exactly between all programs. Default: 1.
        pub seed: u64,

        /// Threads to compute on. The result does not depend on their number. Default: as many as the machine
        /// has.
        pub threads: Option<usize>,

        /// Precision of the operands of matrix products. Their sums, and everything else, are f32. Default:
        /// bf16 if the CPU multiplies it faster, as AMD's do from Zen 4 on, else f32.
        pub precision: Option<TrainPrecision>,

        /// Steps between validations; 0: at the end only. Default: 250.
        pub eval_interval: u64,

        /// Steps between checkpoints; 0: at the end only. Default: 500.
        pub checkpoint_interval: u64,

        // Options that came after the first release go below. A file that lacks one is of a run that has its
        // default, and `TrainOptions::saved` does not write a default, so that the checksums of older
        // checkpoints still hold: the default of such an option must stay.

        /// Model to fine-tune instead of training a new one: a .bin file or a run's directory. Its weights are
        /// FP32 or FP16; with `lora_rank`, or if `tune` is state, they can also be quantized. The new run takes
        /// over its shape and its tokenizer. A run that goes on needs the same model, wherever it is by then.
        /// Default: none.
        #[serde(default)]
        pub from: Option<PathBuf>,

        /// Parameters to freeze, by name; * stands for any characters, as in emb.* or *.att.*. Default: none.
        #[serde(default)]
        pub freeze: Option<Vec<String>>,

        /// Parameters to train, by name, and no others; * stands for any characters. Default: none.
        #[serde(default)]
        pub train: Option<Vec<String>>,

        /// Rank of LoRA adapters, which are trained while the model stays frozen. Default: none.
        #[serde(default)]
        pub lora_rank: Option<usize>,

        /// LoRA's alpha: what an adapter adds is multiplied by alpha / rank. Default: twice `lora_rank`.
        #[serde(default)]
        pub lora_alpha: Option<f64>,

        /// Matrices that get an adapter, by name; * stands for any characters. Default: all matrices of the
        /// blocks.
        #[serde(default)]
        pub lora_targets: Option<Vec<String>>,

        /// What to train: the model (its parameters, or adapters), or only the state that a sequence starts
        /// from. Default: model.
        #[serde(default)]
        pub tune: Tune,

        /// Gradient accumulation: batches a step, each of `batch_size` sequences. Default: 1.
        #[serde(default = "one")]
        pub accumulate: usize,

        /// Activation recomputation: less memory, more time, the same numbers. Activations are computed again
        /// in the backward pass instead of kept. Default: false.
        #[serde(default)]
        pub recompute: bool,

        /// Dropout probability, for the embedding and for what each block adds to the residual stream. Default:
        /// 0.
        #[serde(default)]
        pub dropout: f64,

        /// Start each sequence from the state at the end of the one before it in the text, not from an empty
        /// one. Gradients stop at the sequence's start (truncated back-propagation through time). Default:
        /// false.
        #[serde(default)]
        pub carry_state: bool,

        /// Optimizer: adamw for all parameters, or muon for the matrices of the blocks and adamw for the rest.
        /// Muon takes fewer steps, of more seconds each. Default: muon for new models of RWKV-4 with at least six
        /// tokens a step for each of `n_embd`, else adamw.
        #[serde(default)]
        pub optimizer: Option<OptimizerKind>,

        /// Peak learning rate of the matrices that Muon moves. It rises and falls as `learning_rate` does.
        /// Default: 0.02 with Muon.
        #[serde(default)]
        pub matrix_learning_rate: Option<f64>,

        /// How the learning rate falls to `final_learning_rate`. Default: cosine.
        #[serde(default)]
        pub decay: Decay,

        /// Part of the run in which the learning rate falls: 1 from the end of the warm-up on, 0.4 in the last
        /// two fifths. Default: 1.
        #[serde(default = "whole")]
        pub cooldown: f64,

        /// Which model to leave in the run's directory: that with the best validation loss, or the last one.
        /// Default: best.
        #[serde(default)]
        pub keep: Keep,

        /// Early stopping: the run ends after so many validations without a better loss. Default: none.
        #[serde(default)]
        pub patience: Option<u64>,

        /// Tokens of the vocabulary that `tokenizer` bpe trains. Default: one for
        /// every 2 KiB of the text, from 384 to 16384.
        #[serde(default)]
        pub vocab_size: Option<usize>,

        /// A `tokenizer.json` to take instead of making one, as Hugging Face's tokenizers write it. Default: none.
        #[serde(default)]
        pub tokenizer_file: Option<PathBuf>,

        /// What to validate on instead of a part of `data`: as that. Default: none.
        #[serde(default)]
        pub val: Option<Inputs>,

        /// Field of JSON Lines, and column of Parquet, that has the text. Default: text.
        #[serde(default)]
        pub text_field: Option<String>,

        /// Tokens that a validation looks at, from the beginning of the validation set. Default: all of them, of
        /// more than a million the first million.
        #[serde(default)]
        pub eval_tokens: Option<usize>,

        /// What becomes of characters that the vocabulary lacks: an error, nothing (skip), or bytes. A new vocabulary
        /// of characters has bytes only if these are to be used. Default: byte; with `from`, if the vocabulary has
        /// bytes, else error.
        #[serde(default)]
        pub unknown: Option<Unknown>,

        /// Order of the sequences: epoch, each token once an epoch, at a place of its sequence that changes from epoch
        /// to epoch; or random, anywhere in the text. Default: epoch.
        #[serde(default)]
        pub order: Order,

        /// Start each document from the empty state (or the one that is trained), also within a sequence: at every end
        /// of text. Default: false.
        #[serde(default)]
        pub reset_state: bool,

        /// What becomes of bytes that are not UTF-8: an error, or U+FFFD (replace). Tokenizers of bytes take them as
        /// they are unless it is replace. Default: error.
        #[serde(default)]
        pub invalid: InvalidText,

        /// What standard input is, if `data` or `val` is -: a text, or JSON Lines (jsonl). Default: text.
        #[serde(default)]
        pub stdin: Stdin,

        /// Version of RWKV of a new model. RWKV-7 recalls what RWKV-4 cannot, and takes longer to learn a small text. Default:
        /// v4; with `from`, that of the model.
        #[serde(default)]
        pub arch: Option<Version>,

        /// How several processes (rwkv-mpi) send each other what they sum: in f32, or rounded to bf16, half the bytes.
        /// One process sends nothing. Default: f32.
        #[serde(default)]
        pub sum_precision: SumPrecision,

        /// DiLoCo, for slow links: steps that each process (rwkv-mpi) takes by itself before all synchronize. Validations
        /// and checkpoints come after that. Default: none, gradients are summed every step.
        #[serde(default)]
        pub local_steps: Option<u64>,

        /// DiLoCo's outer learning rate: how far a synchronization goes towards the mean of the processes. Default: 0.7
        /// with `local_steps`.
        #[serde(default)]
        pub outer_learning_rate: Option<f64>,

        /// DiLoCo's outer momentum (Nesterov's). Default: 0.9 with `local_steps`.
        #[serde(default)]
        pub outer_momentum: Option<f64>,
    }
}

described! {
    /// What can change when a run goes on; `None` leaves it as it was.
    #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub struct ResumeOptions {
        /// As [`TrainOptions::data`].
        pub data: Option<Inputs>,
        /// As [`TrainOptions::force`].
        pub force: Option<bool>,
        /// As [`TrainOptions::max_steps`].
        pub max_steps: Option<u64>,
        /// As [`TrainOptions::learning_rate`].
        pub learning_rate: Option<f64>,
        /// As [`TrainOptions::final_learning_rate`].
        pub final_learning_rate: Option<f64>,
        /// As [`TrainOptions::weight_decay`].
        pub weight_decay: Option<f64>,
        /// As [`TrainOptions::threads`].
        pub threads: Option<usize>,
        /// As [`TrainOptions::precision`].
        pub precision: Option<TrainPrecision>,
        /// As [`TrainOptions::eval_interval`].
        pub eval_interval: Option<u64>,
        /// As [`TrainOptions::checkpoint_interval`].
        pub checkpoint_interval: Option<u64>,
        /// As [`TrainOptions::from`].
        pub from: Option<PathBuf>,
        /// As [`TrainOptions::recompute`].
        pub recompute: Option<bool>,
        /// As [`TrainOptions::matrix_learning_rate`].
        pub matrix_learning_rate: Option<f64>,
        /// As [`TrainOptions::decay`].
        pub decay: Option<Decay>,
        /// As [`TrainOptions::cooldown`].
        pub cooldown: Option<f64>,
        /// As [`TrainOptions::keep`].
        pub keep: Option<Keep>,
        /// As [`TrainOptions::patience`].
        pub patience: Option<u64>,
        /// As [`TrainOptions::val`].
        pub val: Option<Inputs>,
        /// As [`TrainOptions::eval_tokens`].
        pub eval_tokens: Option<usize>,
        /// As [`TrainOptions::sum_precision`].
        pub sum_precision: Option<SumPrecision>,
    }
}

/// The default of `accumulate`, for the files of runs that had no such option.
fn one() -> usize {
    1
}

/// The default of `cooldown`, likewise.
fn whole() -> f64 {
    1.0
}

impl TrainOptions {
    /// The defaults: nanoGPT's CPU budget, 0.87 million parameters and 1.5 million tokens.
    pub fn new(data: impl Into<Inputs>, out: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            out: out.into(),
            force: false,
            tokenizer: None,
            n_layer: 4,
            n_embd: 128,
            ctx_len: 64,
            batch_size: 12,
            max_steps: 2000,
            learning_rate: None,
            final_learning_rate: None,
            warmup_steps: None,
            weight_decay: 0.1,
            beta1: 0.9,
            beta2: 0.99,
            grad_clip: 1.0,
            seed: 1,
            threads: None,
            precision: None,
            eval_interval: 250,
            checkpoint_interval: 500,
            from: None,
            freeze: None,
            train: None,
            lora_rank: None,
            lora_alpha: None,
            lora_targets: None,
            tune: Tune::Model,
            accumulate: 1,
            recompute: false,
            dropout: 0.0,
            carry_state: false,
            optimizer: None,
            matrix_learning_rate: None,
            decay: Decay::Cosine,
            cooldown: 1.0,
            keep: Keep::Best,
            patience: None,
            vocab_size: None,
            tokenizer_file: None,
            val: None,
            text_field: None,
            eval_tokens: None,
            unknown: None,
            order: Order::Epoch,
            reset_state: false,
            invalid: InvalidText::Error,
            stdin: Stdin::Text,
            arch: None,
            sum_precision: SumPrecision::F32,
            local_steps: None,
            outer_learning_rate: None,
            outer_momentum: None,
        }
    }

    /// The numbers that have a range.
    pub(super) fn limits(&self) -> Vec<Limit> {
        vec![
            within("n_layer", self.n_layer, 1..=MAX_COUNT),
            within("n_embd", self.n_embd, 1..=MAX_COUNT),
            within("ctx_len", self.ctx_len, 1..=MAX_COUNT),
            within("batch_size", self.batch_size, 1..=MAX_COUNT),
            within("max_steps", self.max_steps, 1..=MAX_STEPS),
            within("learning_rate", self.learning_rate, (Excluded(0.0), Included(1.0))),
            within("final_learning_rate", self.final_learning_rate, 0.0..=1.0),
            within("weight_decay", self.weight_decay, 0.0..=100.0),
            within("beta1", self.beta1, 0.0..1.0),
            within("beta2", self.beta2, 0.0..1.0),
            within("grad_clip", self.grad_clip, 0.0..f64::INFINITY),
            within("seed", self.seed, 0..=MAX_SEED),
            within("threads", self.threads, 1..=MAX_THREADS),
            within("lora_rank", self.lora_rank, 1..=MAX_COUNT),
            within("lora_alpha", self.lora_alpha, (Excluded(0.0), Included(1e6))),
            within("accumulate", self.accumulate, 1..=MAX_COUNT),
            within("dropout", self.dropout, 0.0..1.0),
            within("matrix_learning_rate", self.matrix_learning_rate, (Excluded(0.0), Included(1.0))),
            within("cooldown", self.cooldown, (Excluded(0.0), Included(1.0))),
            within("patience", self.patience, 1..=MAX_STEPS),
            within("eval_tokens", self.eval_tokens, 2..=usize::MAX >> 11),
            within("vocab_size", self.vocab_size, 257..=MAX_VOCAB),
            within("local_steps", self.local_steps, 1..=MAX_STEPS),
            within("outer_learning_rate", self.outer_learning_rate, (Excluded(0.0), Included(10.0))),
            within("outer_momentum", self.outer_momentum, 0.0..1.0),
        ]
    }
}

impl ResumeOptions {
    /// Makes the changes.
    pub(super) fn change(&self, options: &mut TrainOptions) {
        fn set<T>(option: &mut T, new: Option<impl Into<T>>) {
            if let Some(new) = new {
                *option = new.into();
            }
        }
        let Self {
            data,
            force,
            max_steps,
            learning_rate,
            final_learning_rate,
            weight_decay,
            threads,
            precision,
            eval_interval,
            checkpoint_interval,
            from,
            recompute,
            matrix_learning_rate,
            decay,
            cooldown,
            keep,
            patience,
            val,
            eval_tokens,
            sum_precision,
        } = self.clone();
        set(&mut options.data, data);
        set(&mut options.force, force);
        set(&mut options.max_steps, max_steps);
        set(&mut options.learning_rate, learning_rate);
        set(&mut options.final_learning_rate, final_learning_rate);
        set(&mut options.weight_decay, weight_decay);
        set(&mut options.threads, threads);
        set(&mut options.precision, precision);
        set(&mut options.eval_interval, eval_interval);
        set(&mut options.checkpoint_interval, checkpoint_interval);
        set(&mut options.from, from);
        set(&mut options.recompute, recompute);
        set(&mut options.matrix_learning_rate, matrix_learning_rate);
        set(&mut options.decay, decay);
        set(&mut options.cooldown, cooldown);
        set(&mut options.keep, keep);
        set(&mut options.patience, patience);
        set(&mut options.val, val);
        set(&mut options.eval_tokens, eval_tokens);
        set(&mut options.sum_precision, sum_precision);
    }
}
