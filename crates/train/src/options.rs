//! What a training run can be told.

use std::path::PathBuf;

use rwkv::infer::MAX_THREADS;
use rwkv::machine::{self, Bytes};
use rwkv::{Error, ModelConfig, Result};
use rwkv_kernels::{Cpu, Isa, Precision};
use serde::{Deserialize, Serialize};

use crate::memory::Memory;

/// How text becomes tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerKind {
    /// One token for each distinct character of the text.
    #[default]
    Character,
    /// The 256 bytes: any file.
    Byte,
}

impl std::str::FromStr for TokenizerKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "character" => Ok(Self::Character),
            "byte" => Ok(Self::Byte),
            _ => Err(Error::option("tokenizer", name, "character or byte")),
        }
    }
}

/// What matrix products multiply in training. They sum in f32 either way, and everything else is f32: parameters,
/// gradients, moments, norms, attention, loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainPrecision {
    /// Single precision.
    F32,
    /// Operands rounded to bf16, at twice the speed; for CPUs that multiply it (AVX512_BF16).
    Bf16,
}

impl TrainPrecision {
    fn of_kernels(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
        }
    }
}

impl std::str::FromStr for TrainPrecision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(Error::option("precision", name, "f32 or bf16")),
        }
    }
}

/// Options of a new run. `None` means a default that depends on the others.
///
/// ```
/// use rwkv_train::TrainOptions;
///
/// let options = TrainOptions { n_layer: 2, max_steps: 500, ..TrainOptions::new("book.txt", "runs/book") };
/// assert_eq!(options.resolved().warmup_steps, Some(50));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrainOptions {
    /// The text to learn: a UTF-8 file, or any file with [`TokenizerKind::Byte`].
    pub data: PathBuf,
    /// Folder of the run; made if it is not there. Not written to `config.json`, so that a run can be moved.
    #[serde(skip)]
    pub out: PathBuf,
    /// How text becomes tokens.
    pub tokenizer: TokenizerKind,
    /// Blocks of the model.
    pub n_layer: usize,
    /// Width of the model.
    pub n_embd: usize,
    /// Tokens of a training text; the state starts empty at its first one.
    pub ctx_len: usize,
    /// Texts of a step.
    pub batch_size: usize,
    /// Steps of the whole run; the learning rate falls until then.
    pub max_steps: u64,
    /// The highest learning rate. Default: min(0.003, 0.4/n_embd), near RWKV's suggestions (8e-4 for 512, 4e-4 for
    /// 1024) and bounded for small models.
    pub learning_rate: Option<f64>,
    /// The learning rate that the run ends in. Default: a thirtieth of the highest.
    pub final_learning_rate: Option<f64>,
    /// Steps in which the learning rate rises. Default: 100, or a tenth of the run if that is fewer.
    pub warmup_steps: Option<u64>,
    /// AdamW's decay of matrices, multiplied by the learning rate.
    pub weight_decay: f64,
    /// How much of the gradients' mean AdamW keeps.
    pub beta1: f64,
    /// How much of their squares' mean AdamW keeps.
    pub beta2: f64,
    /// The largest norm of all gradients together; 0: no limit.
    pub grad_clip: f64,
    /// Decides the initial parameters and the order of the texts.
    pub seed: u64,
    /// Threads to compute on. Default: as many as the machine has. The result does not depend on it.
    pub threads: Option<usize>,
    /// What matrix products multiply. Default: bf16 where the CPU does, else f32.
    pub precision: Option<TrainPrecision>,
    /// Steps from one validation to the next; 0: only when the caller asks.
    pub eval_interval: u64,
    /// Steps from one checkpoint to the next; 0: only when the caller asks.
    pub checkpoint_interval: u64,
}

/// What can change when a run goes on; `None` leaves it as it was.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResumeOptions {
    /// Where the text is now; it must be the same text.
    pub data: Option<PathBuf>,
    /// Steps of the whole run, those already done included.
    pub max_steps: Option<u64>,
    /// The highest learning rate, for a run that diverged.
    pub learning_rate: Option<f64>,
    /// The learning rate that the run ends in.
    pub final_learning_rate: Option<f64>,
    /// AdamW's decay of matrices.
    pub weight_decay: Option<f64>,
    /// Threads to compute on.
    pub threads: Option<usize>,
    /// What matrix products multiply.
    pub precision: Option<TrainPrecision>,
    /// Steps from one validation to the next.
    pub eval_interval: Option<u64>,
    /// Steps from one checkpoint to the next.
    pub checkpoint_interval: Option<u64>,
}

impl TrainOptions {
    /// The defaults: nanoGPT's CPU budget, 0.87 million parameters and 1.5 million tokens.
    pub fn new(data: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            out: out.into(),
            tokenizer: TokenizerKind::default(),
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
        }
    }

    /// The same options with the rates and the warm-up that are in force filled in. `threads` stays as it is: it
    /// belongs to a machine and not to a run.
    #[must_use]
    pub fn resolved(&self) -> Self {
        let learning_rate = self.learning_rate.unwrap_or_else(|| (0.4 / self.n_embd as f64).min(3e-3));
        Self {
            learning_rate: Some(learning_rate),
            final_learning_rate: Some(self.final_learning_rate.unwrap_or(learning_rate / 30.0)),
            warmup_steps: Some(self.warmup_steps.unwrap_or((self.max_steps / 10).min(100))),
            ..self.clone()
        }
    }

    /// Refuses values that make no sense, and models that this machine's memory cannot hold.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] that names the option.
    pub fn validate(&self) -> Result<()> {
        // An empty path would mean the current folder, which nobody has named.
        let paths = [("data", &self.data, "the path of a text"), ("out", &self.out, "the path of a folder")];
        for (name, path, expected) in paths {
            if path.as_os_str().is_empty() {
                return Err(Error::option(name, "empty", expected));
            }
        }
        let counts = [
            ("nLayer", self.n_layer, MAX_COUNT),
            ("nEmbd", self.n_embd, MAX_COUNT),
            ("ctxLen", self.ctx_len, MAX_COUNT),
            ("batchSize", self.batch_size, MAX_COUNT),
            ("threads", self.threads.unwrap_or(1), MAX_THREADS),
        ];
        for (name, value, most) in counts {
            if value == 0 || value > most {
                return Err(Error::option(name, value, format!("a whole number from 1 to {most}")));
            }
        }
        if self.max_steps == 0 || self.max_steps > MAX_STEPS {
            return Err(Error::option(
                "maxSteps",
                self.max_steps,
                format!("a whole number from 1 to {MAX_STEPS}"),
            ));
        }
        if let Some(warmup) = self.warmup_steps.filter(|&warmup| warmup > self.max_steps) {
            return Err(Error::option(
                "warmupSteps",
                warmup,
                format!("at most maxSteps, {}", self.max_steps),
            ));
        }
        let resolved = self.resolved();
        let rate = "more than 0 and at most 1";
        let numbers = [
            ("learningRate", resolved.learning_rate, rate, (|x| x > 0.0 && x <= 1.0) as fn(f64) -> bool),
            ("finalLearningRate", resolved.final_learning_rate, "from 0 to 1", |x| (0.0..=1.0).contains(&x)),
            ("weightDecay", Some(self.weight_decay), "from 0 to 100", |x| (0.0..=100.0).contains(&x)),
            ("beta1", Some(self.beta1), "at least 0 and less than 1", |x| (0.0..1.0).contains(&x)),
            ("beta2", Some(self.beta2), "at least 0 and less than 1", |x| (0.0..1.0).contains(&x)),
            ("gradClip", Some(self.grad_clip), "0 (no limit) or more, and finite", |x| {
                x >= 0.0 && x.is_finite()
            }),
        ];
        for (name, value, expected, allowed) in numbers {
            if let Some(value) = value.filter(|&value| !allowed(value)) {
                return Err(Error::option(name, value, expected));
            }
        }
        // The smallest vocabulary there can be; the real one is checked when the text is known.
        self.check_memory(1)
    }

    /// Starts the threads, in the precision and with the instructions that were asked for or else are the fastest.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if this CPU does not multiply the precision asked for; [`Error::Isa`].
    pub fn start_cpu(&self) -> Result<Cpu> {
        let isa = Isa::from_env()?;
        let precision = match self.precision.map(TrainPrecision::of_kernels) {
            None if Precision::Bf16.is_supported(isa) => Precision::Bf16,
            None => Precision::F32,
            Some(precision) if precision.is_supported(isa) => precision,
            Some(_) => {
                return Err(Error::option("precision", "bf16", "f32: this CPU does not multiply bf16"));
            }
        };
        let all = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Cpu::new(isa, self.threads.unwrap_or_else(all).min(MAX_THREADS)).with_precision(precision))
    }

    /// The model's shape for a vocabulary.
    pub fn model(&self, n_vocab: usize) -> ModelConfig {
        ModelConfig::v4(n_vocab, self.n_embd, self.n_layer)
    }

    /// Refuses a model whose training would not fit into memory.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] that names what takes most of it, with the estimate.
    pub fn check_memory(&self, n_vocab: usize) -> Result<()> {
        let need = Memory::of(self, n_vocab);
        let limit = machine::memory();
        if need.total() <= limit {
            return Ok(());
        }
        // The one farthest above its default is the one to blame.
        let usual = Self::new("", "");
        let counts = [
            ("nEmbd", self.n_embd, usual.n_embd),
            ("nLayer", self.n_layer, usual.n_layer),
            ("ctxLen", self.ctx_len, usual.ctx_len),
            ("batchSize", self.batch_size, usual.batch_size),
        ];
        let excess = |&(_, value, usual): &(&str, usize, usize)| value as f64 / usual as f64;
        let worst = counts.into_iter().max_by(|a, b| excess(a).total_cmp(&excess(b)));
        let (name, value, _) = worst.unwrap_or(counts[0]);
        let expected = format!(
            "smaller: this run would take about {} of memory ({} for parameters, gradients and moments, {} for \
             activations), and there are {}",
            Bytes(need.total()),
            Bytes(need.parameters),
            Bytes(need.activations),
            Bytes(limit)
        );
        Err(Error::option(name, value, expected))
    }
}

impl ResumeOptions {
    /// Refuses fewer steps than the `done` ones.
    pub(crate) fn check_steps(&self, done: u64) -> Result<()> {
        match self.max_steps {
            Some(too_few) if too_few < done => {
                let problem = format!("at least {done}, the steps that this run has done");
                Err(Error::option("maxSteps", too_few, problem))
            }
            _ => Ok(()),
        }
    }

    /// `options` with these changes. Unless told otherwise, the last learning rate changes in proportion to the highest.
    #[must_use]
    pub fn apply(&self, options: TrainOptions) -> TrainOptions {
        let last = match (self.final_learning_rate, self.learning_rate, &options) {
            (
                None,
                Some(new),
                TrainOptions { learning_rate: Some(old), final_learning_rate: Some(last), .. },
            ) => Some(last * new / old),
            (last, ..) => last.or(options.final_learning_rate),
        };
        TrainOptions {
            data: self.data.clone().unwrap_or(options.data),
            max_steps: self.max_steps.unwrap_or(options.max_steps),
            learning_rate: self.learning_rate.or(options.learning_rate),
            final_learning_rate: last,
            weight_decay: self.weight_decay.unwrap_or(options.weight_decay),
            threads: self.threads.or(options.threads),
            precision: self.precision.or(options.precision),
            eval_interval: self.eval_interval.unwrap_or(options.eval_interval),
            checkpoint_interval: self.checkpoint_interval.unwrap_or(options.checkpoint_interval),
            ..options
        }
    }
}

/// Keeps every product of two counts, and every length of a file, well within 64 bits.
const MAX_COUNT: usize = 1 << 24;
const MAX_STEPS: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> TrainOptions {
        TrainOptions::new("book.txt", "run")
    }

    #[test]
    fn defaults_are_valid_and_follow_the_width_and_the_length() {
        let resolved = options().resolved();
        resolved.validate().expect("defaults");
        assert_eq!(resolved.learning_rate, Some(3e-3));
        assert_eq!(resolved.final_learning_rate, Some(1e-4));
        assert_eq!(resolved.warmup_steps, Some(100));
        let wide = TrainOptions { n_embd: 1024, max_steps: 5, ..options() }.resolved();
        assert_eq!((wide.learning_rate, wide.warmup_steps), (Some(0.4 / 1024.0), Some(0)));
    }

    #[test]
    fn nonsense_is_named() {
        let nan = f64::NAN;
        let cases = [
            ("data", TrainOptions::new("", "run")),
            ("out", TrainOptions::new("book.txt", "")),
            ("nLayer", TrainOptions { n_layer: 0, ..options() }),
            ("nEmbd", TrainOptions { n_embd: usize::MAX, ..options() }),
            ("ctxLen", TrainOptions { ctx_len: 0, ..options() }),
            ("batchSize", TrainOptions { batch_size: 0, ..options() }),
            ("threads", TrainOptions { threads: Some(0), ..options() }),
            ("threads", TrainOptions { threads: Some(100_000), ..options() }),
            ("maxSteps", TrainOptions { max_steps: 0, ..options() }),
            ("maxSteps", TrainOptions { max_steps: u64::MAX, ..options() }),
            ("warmupSteps", TrainOptions { warmup_steps: Some(2001), ..options() }),
            ("learningRate", TrainOptions { learning_rate: Some(0.0), ..options() }),
            ("learningRate", TrainOptions { learning_rate: Some(-1e-3), ..options() }),
            ("learningRate", TrainOptions { learning_rate: Some(nan), ..options() }),
            ("learningRate", TrainOptions { learning_rate: Some(3.0), ..options() }),
            ("finalLearningRate", TrainOptions { final_learning_rate: Some(f64::INFINITY), ..options() }),
            ("weightDecay", TrainOptions { weight_decay: -0.1, ..options() }),
            ("beta1", TrainOptions { beta1: 1.0, ..options() }),
            ("beta2", TrainOptions { beta2: nan, ..options() }),
            ("gradClip", TrainOptions { grad_clip: -1.0, ..options() }),
        ];
        for (expected, options) in cases {
            let error = options.validate().expect_err(expected);
            assert!(matches!(error, Error::InvalidOption { name, .. } if name == expected), "{error}");
        }
    }

    #[test]
    fn a_run_that_memory_cannot_hold_is_refused_with_the_estimate() {
        let cases = [
            ("nEmbd", TrainOptions { n_embd: 1_000_000, ..options() }),
            ("nLayer", TrainOptions { n_layer: 10_000_000, ..options() }),
            ("ctxLen", TrainOptions { ctx_len: 1 << 24, ..options() }),
            ("batchSize", TrainOptions { batch_size: 1 << 24, ..options() }),
        ];
        for (expected, options) in cases {
            let error = options.validate().expect_err(expected);
            assert!(matches!(error, Error::InvalidOption { name, .. } if name == expected), "{error}");
            assert!(error.to_string().contains("GB of memory"), "{error}");
        }
        options().check_memory(65_536).expect("a small model of a large vocabulary");
    }

    #[test]
    fn words_that_are_none_of_a_few_are_refused() {
        assert!("bpe".parse::<TokenizerKind>().is_err() && "f16".parse::<TrainPrecision>().is_err());
    }
}
