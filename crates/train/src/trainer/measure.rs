//! Looking at the model in training: its loss, and what it writes.

use rwkv_core::{Control, Model, Sampler, SamplerOptions, State, ask};
use rwkv_text::Decoder;

use super::{Best, Trainer};
use crate::data::{Dataset, Part, adjoining_windows};
use crate::error::Result;
use crate::options::TrainOptions;
use crate::run::LogLine;

/// Tokens of a prompt between two looks at the flag.
const STRETCH: usize = 64;

/// Tokens that a validation looks at, at most, unless the options say otherwise.
const EVAL_TOKENS: usize = 1_000_000;

impl Trainer {
    /// Mean loss over the validation split, or as many of its tokens as the options say, in nats a token: in adjoining windows of `ctx_len` tokens,
    /// each from an empty state or the one that is trained; or in one go, if the run carries states. It runs
    /// through the inference path, with products in the precision of inference. `control` is told tokens.
    ///
    /// # Errors
    /// [`rwkv_core::Error::Aborted`] if `control` says so. [`Error::Diverged`](crate::Error::Diverged) if the
    /// loss is not finite: nothing more is saved. [`rwkv_core::Error::Io`] if the log cannot be written.
    pub fn validate(&mut self, control: impl Control) -> Result<f32> {
        let most = self.options.eval_tokens.unwrap_or(EVAL_TOKENS) / self.options.ctx_len;
        let val_loss = self.mean_loss(Dataset::validation, most.max(1), control)?;
        if !val_loss.is_finite() {
            return Err(self.diverge(self.step, val_loss));
        }
        (self.val_loss, self.soundness) = (Some(val_loss), None);
        self.best = Some(Best::after(self.best, self.step, val_loss));
        let line = LogLine {
            step: self.step,
            val_loss: Some(val_loss),
            seconds: self.seconds,
            clock: self.clock(),
            ..LogLine::default()
        };
        self.run.log(&line)?;
        Ok(val_loss)
    }

    /// Mean loss over the first windows of a part of the text, `most` of them or as many as there are.
    pub(super) fn mean_loss(
        &self,
        part: fn(&Dataset) -> &Part,
        most: usize,
        control: impl Control,
    ) -> Result<f32> {
        let model = self.model();
        let initial = self.initial_state(&model);
        mean_loss(&model, &initial, part(&self.data), &self.options, most, control)
    }

    /// What the model writes after `prompt`: `n_tokens` tokens. Without a prompt it goes on from a line
    /// break, or from the first token if the text has none.
    ///
    /// # Errors
    /// [`rwkv_core::Error::UnknownCharacter`] in the prompt; [`rwkv_core::Error::InvalidOption`] among the options;
    /// [`rwkv_core::Error::Aborted`] if `control` says so, which is told tokens;
    /// [`Error::Diverged`](crate::Error::Diverged) if the model's numbers are no longer finite.
    pub fn sample(
        &self,
        prompt: &str,
        n_tokens: usize,
        options: SamplerOptions,
        mut control: impl Control,
    ) -> Result<String> {
        let total = n_tokens as u64;
        let mut sampler = Sampler::new(options)?;
        let mut tokens = self.tokenizer.encode(prompt)?;
        if tokens.is_empty() {
            tokens = self.tokenizer.beginning();
        }
        ask(&mut control, 0, total)?;
        let model = self.model();
        let mut state = self.initial_state(&model);
        let mut decoder = Decoder::default();
        let mut text = String::new();
        for done in 0..total {
            let mut logits = Vec::new();
            for stretch in tokens.chunks(STRETCH) {
                ask(&mut control, done, total)?;
                logits = model.eval(stretch, &mut state).map_err(|error| match error {
                    rwkv_core::Error::Weight { .. } | rwkv_core::Error::NotFinite { .. } => {
                        self.divergence(self.step, f32::NAN)
                    }
                    error => error.into(),
                })?;
            }
            tokens = vec![sampler.sample(&logits)];
            text += &decoder.push(&self.tokenizer.decode(&tokens)?);
        }
        Ok(text + &decoder.finish())
    }
}

/// Mean loss of a model over the first `most` windows of `tokens`, in nats a token; not finite if what the
/// model computes is not. Windows start from the state `initial` each, or go on from the one before if the
/// options say so.
///
/// # Errors
/// [`rwkv_core::Error::Aborted`] if `control` says so.
pub(super) fn mean_loss(
    model: &Model,
    initial: &State,
    tokens: &Part,
    options: &TrainOptions,
    most: usize,
    mut control: impl Control,
) -> Result<f32> {
    let (len, count) = adjoining_windows(tokens.len(), options.ctx_len);
    let tokens = &tokens.first(len * count.min(most) + 1)?[..];
    ask(&mut control, 0, tokens.len() as u64)?;
    match model.evaluate_from(initial, tokens, (!options.carry_state).then_some(len), control) {
        Ok(evaluation) => Ok(evaluation.loss as f32),
        Err(rwkv_core::Error::Weight { .. } | rwkv_core::Error::NotFinite { .. }) => Ok(f32::NAN),
        Err(error) => Err(error.into()),
    }
}
