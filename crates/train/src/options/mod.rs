//! Options of a training run: [`TrainOptions`], and of those what can change when it goes on,
//! [`ResumeOptions`].
//!
//! What serde makes of the structs is the options in JSON; [`TrainOptions::table`] has what it cannot know,
//! and other languages make their options of that.

mod choices;
mod describe;
mod inputs;
mod json;
mod train;

use std::path::Path;

use rwkv_core::MAX_THREADS;
use rwkv_core::machine::{self, Bytes};
use rwkv_core::{Error, ModelConfig, Result, Version};
use rwkv_kernels::{Cpu, Isa, Precision};
use rwkv_text::source::{Invalid, Kind as SourceKind, SourceOptions};

pub use self::choices::{
    Decay, InvalidText, Keep, OptimizerKind, Order, Stdin, SumPrecision, TokenizerKind, TrainPrecision, Tune,
    Unknown,
};
use self::describe::Limit;
pub use self::describe::{DefaultValue, Described, Kind};
pub use self::inputs::Inputs;
pub(crate) use self::json::OF_COMMAND;
pub use self::train::{ResumeOptions, TrainOptions};
use crate::memory::{Memory, available_threads};
use crate::run::RESULTS;

/// Default of `matrix_learning_rate`.
const MATRIX_RATE: f64 = 0.02;

/// How much larger than the model's own the default learning rate of LoRA adapters is. From Shakespeare to
/// Moby-Dick at rank 8, 0.003, 0.01 and 0.02 led to validation losses of 1.578, 1.560 and 1.583.
const LORA_RATE: f64 = 3.0;

/// Defaults of `outer_learning_rate` and `outer_momentum`: those of the paper (Douillard et al.,
/// <https://arxiv.org/abs/2311.08105>).
const OUTER: [f64; 2] = [0.7, 0.9];

impl TrainOptions {
    /// The same options with the optimizer and the version that a new run takes by default. One that does not
    /// name them is of before there was a choice, and has AdamW and RWKV-4.
    pub(crate) fn of_new_run(mut self) -> Self {
        let by_size = if self.muon_pays() { OptimizerKind::Muon } else { OptimizerKind::AdamW };
        self.optimizer.get_or_insert(by_size);
        if self.from.is_none() {
            // Of a model of 128 channels, 2,000 steps of AdamW on Tiny Shakespeare: 1.537 in RWKV-4, and in
            // RWKV-7 with rates of 0.003, 0.006 and 0.01 1.592, 1.586 and 1.596, in 1.7 times the seconds.
            self.arch.get_or_insert(Version::V4);
        }
        self
    }

    /// Whether Muon reaches a loss in fewer seconds than AdamW: docs/recipe.md has what was measured, of new
    /// models of RWKV-4. Its iterations take 18·D³ operations of a D × D matrix, where a token's gradient
    /// takes 6·D²: at most half as many as the gradient, then.
    fn muon_pays(&self) -> bool {
        let tokens = self.batch_size.saturating_mul(self.ctx_len).saturating_mul(self.accumulate);
        let is_v4 = self.arch.is_none_or(|arch| arch == Version::V4);
        self.from.is_none() && is_v4 && self.n_embd.saturating_mul(6) <= tokens
    }

    /// The same options with the rates and the warm-up that are in force filled in. `threads` stays as it is:
    /// it belongs to a machine and not to a run.
    #[must_use]
    pub fn resolved(&self) -> Self {
        let learning_rate = self.learning_rate.unwrap_or_else(|| {
            let of_model = (0.4 / self.n_embd as f64).min(3e-3);
            if self.lora_rank.is_some() { LORA_RATE * of_model } else { of_model }
        });
        let of_matrices = self.matrix_learning_rate.unwrap_or(MATRIX_RATE);
        let outer = |given: Option<f64>, usual| self.local_steps.map(|_| given.unwrap_or(usual));
        Self {
            outer_learning_rate: outer(self.outer_learning_rate, OUTER[0]),
            outer_momentum: outer(self.outer_momentum, OUTER[1]),
            matrix_learning_rate: (self.optimizer == Some(OptimizerKind::Muon)).then_some(of_matrices),
            learning_rate: Some(learning_rate),
            final_learning_rate: Some(self.final_learning_rate.unwrap_or(learning_rate / 30.0)),
            lora_alpha: self.lora_rank.map(|_| self.lora_alpha()),
            warmup_steps: Some(self.warmup_steps.unwrap_or((self.max_steps / 10).min(100))),
            ..self.clone()
        }
    }

    /// Refuses values that make no sense, and models that this machine's memory cannot hold.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] that names the option.
    pub fn validate(&self) -> Result<()> {
        self.check_each()?;
        if let Some(warmup) = self.warmup_steps.filter(|&warmup| warmup > self.max_steps) {
            return Err(Error::option(
                "warmup_steps",
                warmup,
                format!("at most max_steps, {}", self.max_steps),
            ));
        }
        self.check_together()?;
        // The smallest vocabulary there can be; the real one is checked when the text is known. The shape of
        // a model that is there already is checked when it is read.
        if self.from.is_some() { Ok(()) } else { self.check_memory(1) }
    }

    /// Starts the threads, in the precision and with the instructions that were asked for or else are the
    /// fastest.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if this CPU does not multiply the precision asked for; [`Error::Isa`].
    pub fn start_cpu(&self) -> Result<Cpu> {
        let isa = Isa::from_env()?;
        let precision = match self.precision.map(Precision::from) {
            None => Precision::fastest(isa),
            Some(precision) if precision.is_supported(isa) => precision,
            Some(_) => {
                return Err(Error::option("precision", "bf16", "f32: this CPU does not multiply bf16"));
            }
        };
        Ok(Cpu::new(isa, self.threads.unwrap_or_else(available_threads).min(MAX_THREADS))
            .with_precision(precision))
    }

    /// The shape of a new model for a vocabulary.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if its version has none of this width.
    pub fn model(&self, n_vocab: usize) -> Result<ModelConfig> {
        let version = self.arch.unwrap_or(Version::V4);
        ModelConfig::usual(version, n_vocab, self.n_embd, self.n_layer)
            .map_err(|expected| Error::option("n_embd", self.n_embd, expected))
    }

    /// Whether a run with these options trains a model of this shape.
    pub(crate) fn fits(&self, model: &ModelConfig) -> bool {
        match self.from {
            // Its other numbers are those of the model that the run started from.
            Some(_) => (model.n_layer, model.n_embd) == (self.n_layer, self.n_embd),
            None => self.model(model.n_vocab).is_ok_and(|of_options| of_options == *model),
        }
    }

    /// Takes the shape of the model that the run starts from.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if the options ask for another one.
    pub(crate) fn take_shape(&mut self, model: &ModelConfig) -> Result<()> {
        let usual = Self::new("", "");
        for (name, value, usual, is) in [
            ("n_layer", self.n_layer, usual.n_layer, model.n_layer),
            ("n_embd", self.n_embd, usual.n_embd, model.n_embd),
        ] {
            if value != usual && value != is {
                let expected = format!("left out: with from, it is that of the model, {is}");
                return Err(Error::option(name, value, expected));
            }
        }
        if let Some(arch) = self.arch.filter(|&arch| arch != model.version) {
            let expected = format!("left out: with from, it is that of the model, {}", model.version);
            return Err(Error::option("arch", arch, expected));
        }
        self.arch = Some(model.version);
        (self.n_layer, self.n_embd) = (model.n_layer, model.n_embd);
        Ok(())
    }

    /// How texts are read.
    pub(crate) fn source_options(&self) -> SourceOptions {
        let usual = SourceOptions::default();
        SourceOptions {
            text_field: self.text_field.clone().unwrap_or(usual.text_field),
            invalid: match self.invalid {
                InvalidText::Error => Invalid::Error,
                InvalidText::Replace => Invalid::Replace,
            },
            stdin: match self.stdin {
                Stdin::Text => SourceKind::Text,
                Stdin::JsonLines => SourceKind::JsonLines,
            },
            ..usual
        }
    }

    /// What it names to learn and to validate on.
    pub(crate) fn inputs_mut(&mut self) -> impl Iterator<Item = &mut Inputs> {
        std::iter::once(&mut self.data).chain(&mut self.val)
    }

    /// As a run's directory holds them: see [`Inputs::relative_to`].
    pub(crate) fn relative_to(mut self, run: &Path) -> Self {
        if let Ok(run) = std::path::absolute(run) {
            self.inputs_mut().for_each(|inputs| inputs.relative_to(&run));
        }
        self
    }

    /// The name of what a run with these options writes, in its directory.
    pub(crate) fn result_name(&self) -> &'static str {
        let [model, adapter, state] = RESULTS;
        match (self.tune, self.lora_rank) {
            (Tune::State, _) => state,
            (Tune::Model, Some(_)) => adapter,
            (Tune::Model, None) => model,
        }
    }

    /// The model to start from, for messages.
    pub(crate) fn base_path(&self) -> String {
        self.from.as_ref().map(|from| from.display().to_string()).unwrap_or_default()
    }

    /// α of adapters, in force.
    pub(crate) fn lora_alpha(&self) -> f64 {
        self.lora_alpha.unwrap_or(2.0 * self.lora_rank.unwrap_or(1) as f64)
    }

    /// Refuses numbers out of their range, and paths and names that are empty.
    fn check_each(&self) -> Result<()> {
        // An empty path would mean the current directory, which nobody has named.
        if self.data.is_empty() {
            return Err(Error::option("data", "empty", Kind::Paths.expected()));
        }
        if self.val.as_ref().is_some_and(Inputs::is_empty) {
            return Err(Error::option("val", "empty", Kind::Paths.expected()));
        }
        let out = ("out", Some(&self.out));
        for (name, path) in
            [out, ("from", self.from.as_ref()), ("tokenizer_file", self.tokenizer_file.as_ref())]
        {
            if path.is_some_and(|path| path.as_os_str().is_empty()) {
                return Err(Error::option(name, "empty", Kind::Path.expected()));
            }
        }
        for (name, texts) in
            [("freeze", &self.freeze), ("train", &self.train), ("lora_targets", &self.lora_targets)]
        {
            if texts.iter().flatten().any(String::is_empty) {
                return Err(Error::option(name, "an array with an empty string", Kind::Texts.expected()));
            }
        }
        self.limits().into_iter().try_for_each(Limit::check)
    }

    /// Refuses options that do not go together.
    fn check_together(&self) -> Result<()> {
        let (lora, from) = (self.lora_rank.is_some(), self.from.is_some());
        let state = self.tune == Tune::State;
        let (train, freeze) = (self.train.is_some(), self.freeze.is_some());
        let muon = self.optimizer == Some(OptimizerKind::Muon);
        let rules = [
            (
                "optimizer",
                muon && (lora || state),
                "adamw with lora_rank and tune \"state\": Muon moves whole matrices",
            ),
            (
                "matrix_learning_rate",
                self.matrix_learning_rate.is_some() && !muon,
                "left out without optimizer \"muon\"",
            ),
            (
                "outer_learning_rate",
                self.outer_learning_rate.is_some() && self.local_steps.is_none(),
                "left out without local_steps",
            ),
            (
                "outer_momentum",
                self.outer_momentum.is_some() && self.local_steps.is_none(),
                "left out without local_steps",
            ),
            (
                "carry_state",
                self.carry_state && self.local_steps.is_some(),
                "off with local_steps: states are carried by one process alone",
            ),
            ("lora_rank", lora && !from, "left out without from, the model to adapt"),
            ("tune", state && !from, "\"model\" without from, the model whose state is trained"),
            ("lora_alpha", self.lora_alpha.is_some() && !lora, "left out without lora_rank"),
            ("lora_targets", self.lora_targets.is_some() && !lora, "left out without lora_rank"),
            ("lora_rank", lora && state, "left out with tune \"state\": one or the other is trained"),
            (
                "vocab_size",
                self.vocab_size.is_some() && self.tokenizer != Some(TokenizerKind::Bpe),
                "left out without tokenizer \"bpe\", whose size it is",
            ),
            (
                "tokenizer_file",
                self.tokenizer_file.is_some() && self.tokenizer.is_some(),
                "left out with tokenizer: one or the other",
            ),
            (
                "tokenizer_file",
                self.tokenizer_file.is_some() && from,
                "left out with from: the tokenizer is that of the model",
            ),
            (
                "order",
                self.order == Order::Random && self.carry_state,
                "\"epoch\" with carry_state: each sequence goes on from the one before it",
            ),
            (
                "train",
                train && (lora || state),
                "left out with lora_rank and tune \"state\": the model is frozen",
            ),
            (
                "freeze",
                freeze && (lora || state),
                "left out with lora_rank and tune \"state\": the model is frozen",
            ),
        ];
        for (name, interval) in
            [("eval_interval", self.eval_interval), ("checkpoint_interval", self.checkpoint_interval)]
        {
            if let Some(steps) = self.local_steps.filter(|&steps| !interval.is_multiple_of(steps)) {
                let expected = format!("a multiple of local_steps, {steps}: processes are alike only then");
                return Err(Error::option(name, interval, expected));
            }
        }
        match rules.into_iter().find(|&(_, is_broken, _)| is_broken) {
            Some((name, _, expected)) => Err(Error::option(name, "given", expected)),
            None => Ok(()),
        }
    }

    /// Refuses a model whose training would not fit into memory: a new one, or one from a file of `file_len`
    /// bytes.
    ///
    /// # Errors
    /// As [`check_memory`](Self::check_memory).
    pub(crate) fn check_memory_for(&self, model: &ModelConfig, file_len: Option<u64>) -> Result<()> {
        self.refuse(&Memory::of(self, model, file_len))
    }

    /// Refuses a new model whose training would not fit into memory.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] that names what takes most of it, with the estimate.
    pub fn check_memory(&self, n_vocab: usize) -> Result<()> {
        self.refuse(&Memory::of(self, &self.model(n_vocab)?, None))
    }

    fn refuse(&self, need: &Memory) -> Result<()> {
        let limit = machine::limit();
        if need.total() <= limit.bytes {
            return Ok(());
        }
        // The one farthest above its default is the one to blame.
        let usual = Self::new("", "");
        let counts = [
            ("n_embd", self.n_embd, usual.n_embd),
            ("n_layer", self.n_layer, usual.n_layer),
            ("ctx_len", self.ctx_len, usual.ctx_len),
            ("batch_size", self.batch_size, usual.batch_size),
        ];
        let excess = |&(_, value, usual): &(&str, usize, usize)| value as f64 / usual as f64;
        let worst = counts.into_iter().max_by(|a, b| excess(a).total_cmp(&excess(b)));
        let (name, value, _) = worst.unwrap_or(counts[0]);
        let expected = format!(
            "smaller: this run would take about {} of memory ({} for parameters, gradients and moments, {} \
             for activations), and there are {}",
            Bytes(need.total()),
            Bytes(need.parameters),
            Bytes(need.activations),
            limit
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
                Err(Error::option("max_steps", too_few, problem))
            }
            _ => Ok(()),
        }
    }

    /// `options` with these changes. Unless told otherwise, the last learning rate changes in proportion to
    /// the highest.
    #[must_use]
    pub fn apply(&self, mut options: TrainOptions) -> TrainOptions {
        let rates = (self.learning_rate, options.learning_rate, options.final_learning_rate);
        if let (Some(new), Some(old), Some(last)) = rates {
            options.final_learning_rate = Some(last * new / old);
        }
        self.change(&mut options);
        options
    }
}

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
        let lora = TrainOptions { lora_rank: Some(8), ..options() }.resolved();
        assert_eq!(lora.learning_rate, Some(3.0 * 3e-3));
    }

    #[test]
    fn muon_is_for_new_models_whose_steps_have_tokens_enough() {
        let of = |options: TrainOptions| options.of_new_run().optimizer;
        let (muon, adamw) = (Some(OptimizerKind::Muon), Some(OptimizerKind::AdamW));
        assert_eq!(of(options()), muon);
        assert_eq!(of(TrainOptions { n_embd: 384, ctx_len: 256, batch_size: 16, ..options() }), muon);
        let wide = TrainOptions { n_embd: 768, ctx_len: 512, batch_size: 4, ..options() };
        assert_eq!(of(wide.clone()), adamw);
        assert_eq!(of(TrainOptions { accumulate: 3, ..wide }), muon);
        assert_eq!(of(TrainOptions { arch: Some(Version::V7), ..options() }), adamw);
        assert_eq!(of(TrainOptions { from: Some("model.bin".into()), ..options() }), adamw);
        assert_eq!(of(TrainOptions { optimizer: adamw, ..options() }), adamw);
    }

    #[test]
    fn nonsense_is_named() {
        let nan = f64::NAN;
        let cases = [
            ("data", TrainOptions::new("", "run")),
            ("out", TrainOptions::new("book.txt", "")),
            ("n_layer", TrainOptions { n_layer: 0, ..options() }),
            ("n_embd", TrainOptions { n_embd: usize::MAX, ..options() }),
            ("ctx_len", TrainOptions { ctx_len: 0, ..options() }),
            ("batch_size", TrainOptions { batch_size: 0, ..options() }),
            ("threads", TrainOptions { threads: Some(0), ..options() }),
            ("threads", TrainOptions { threads: Some(100_000), ..options() }),
            ("max_steps", TrainOptions { max_steps: 0, ..options() }),
            ("max_steps", TrainOptions { max_steps: u64::MAX, ..options() }),
            ("warmup_steps", TrainOptions { warmup_steps: Some(2001), ..options() }),
            ("learning_rate", TrainOptions { learning_rate: Some(0.0), ..options() }),
            ("learning_rate", TrainOptions { learning_rate: Some(-1e-3), ..options() }),
            ("learning_rate", TrainOptions { learning_rate: Some(nan), ..options() }),
            ("learning_rate", TrainOptions { learning_rate: Some(3.0), ..options() }),
            ("final_learning_rate", TrainOptions { final_learning_rate: Some(f64::INFINITY), ..options() }),
            ("weight_decay", TrainOptions { weight_decay: -0.1, ..options() }),
            ("beta1", TrainOptions { beta1: 1.0, ..options() }),
            ("beta2", TrainOptions { beta2: nan, ..options() }),
            ("grad_clip", TrainOptions { grad_clip: -1.0, ..options() }),
            ("seed", TrainOptions { seed: 1 << 53, ..options() }),
            ("matrix_learning_rate", TrainOptions { matrix_learning_rate: Some(0.02), ..options() }),
            ("from", TrainOptions { from: Some("".into()), ..options() }),
            ("freeze", TrainOptions { freeze: Some(vec![String::new()]), ..options() }),
        ];
        for (expected, options) in cases {
            let error = options.validate().expect_err(expected);
            assert!(matches!(error, Error::InvalidOption { name, .. } if name == expected), "{error}");
        }
    }

    #[test]
    fn a_run_that_memory_cannot_hold_is_refused_with_the_estimate() {
        let cases = [
            ("n_embd", TrainOptions { n_embd: 1_000_000, ..options() }),
            ("n_layer", TrainOptions { n_layer: 10_000_000, ..options() }),
            ("ctx_len", TrainOptions { ctx_len: 1 << 24, ..options() }),
            ("batch_size", TrainOptions { batch_size: 1 << 24, ctx_len: 1024, ..options() }),
        ];
        for (expected, options) in cases {
            let error = options.validate().expect_err(expected);
            assert!(matches!(error, Error::InvalidOption { name, .. } if name == expected), "{error}");
            assert!(error.to_string().contains("GB of memory"), "{error}");
        }
        options().check_memory(65_536).expect("a small model of a large vocabulary");
    }

    #[test]
    fn what_changes_on_resume_is_changed_and_the_rest_is_kept() {
        let before = TrainOptions { n_layer: 3, threads: Some(2), ..options() }.resolved();
        assert_eq!(ResumeOptions::default().apply(before.clone()), before);
        let changes = ResumeOptions { max_steps: Some(9), learning_rate: Some(6e-3), ..Default::default() };
        let after = changes.apply(before.clone());
        let expected = TrainOptions {
            max_steps: 9,
            learning_rate: Some(6e-3),
            final_learning_rate: Some(2e-4),
            ..before.clone()
        };
        assert_eq!(after, expected);
        let last = ResumeOptions { final_learning_rate: Some(1e-5), ..changes }.apply(before);
        assert_eq!(last, TrainOptions { final_learning_rate: Some(1e-5), ..expected });
    }
}
