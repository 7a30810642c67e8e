//! Looking at the model in training: its loss, and what it writes.

use std::ops::Range;
use std::sync::Arc;

use rwkv_core::{Control, Model, SamplerOptions, State, ask};
use rwkv_session::{GenerateOptions, Session};
use rwkv_text::Tokenizer;

use super::{Best, Trainer};
use crate::data::{Dataset, Part, adjoining_windows};
use crate::error::Result;
use crate::options::TrainOptions;
use crate::run::LogLine;
use crate::tape::cut;

/// Tokens that a validation looks at, at most, unless the options say otherwise.
const EVAL_TOKENS: usize = 1_000_000;

/// How many windows a validation looks at, at most.
fn most_windows(options: &TrainOptions) -> usize {
    (options.eval_tokens.unwrap_or(EVAL_TOKENS) / options.ctx_len).max(1)
}

/// How many bytes of text the tokens that a validation predicts stand for, each on average; none if they are none.
///
/// # Errors
/// Those of reading the tokens.
pub(super) fn bytes_per_token(
    tokens: &Part,
    tokenizer: &Tokenizer,
    options: &TrainOptions,
) -> Result<Option<f64>> {
    let (len, count) = adjoining_windows(tokens.len(), options.ctx_len);
    let tokens = tokens.first(len * count.min(most_windows(options)) + 1)?;
    let n_bytes = tokenizer.decode(&tokens[1..])?.len();
    Ok((n_bytes > 0).then(|| n_bytes as f64 / (tokens.len() - 1) as f64))
}

impl Trainer {
    /// Mean loss over the validation split, or as many of its tokens as the options say, in nats a token: in
    /// adjoining windows of `ctx_len` tokens, each from an empty state or the one that is trained; or in one go, if
    /// the run carries states. [`bits_per_byte`](Self::bits_per_byte) is the same in another unit. It runs through the
    /// inference path, with products in the precision of inference. `control` is told tokens.
    ///
    /// # Errors
    /// [`rwkv_core::Error::Aborted`] if `control` says so. [`Error::Diverged`](crate::Error::Diverged) if the
    /// loss is not finite: nothing more is saved. [`rwkv_core::Error::Io`] if the log cannot be written.
    pub fn validate(&mut self, control: impl Control) -> Result<f32> {
        let windows =
            Windows::of_share(self.data.validation(), &self.options, self.ranks.rank(), self.ranks.count());
        let sum = self.loss_of(Dataset::validation, &windows, control);
        let val_loss = self.mean_of_all(sum)?;
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
        self.log(&line)?;
        Ok(val_loss)
    }

    /// How many bytes of text a token of the validation set stands for, on average; none if they stand for no text.
    pub fn bytes_per_token(&self) -> Option<f64> {
        self.run.bytes_per_token()
    }

    /// A loss of validation, in nats a token, as bits for each byte of the text: comparable between tokenizers. None
    /// if the tokens of the validation set stand for no text.
    pub fn bits_per_byte(&self, loss: f32) -> Option<f64> {
        Some(f64::from(loss) * std::f64::consts::LOG2_E / self.bytes_per_token()?)
    }

    /// The loss over some windows of a part of the text.
    fn loss_of(
        &self,
        part: fn(&Dataset) -> &Part,
        windows: &Windows,
        control: impl Control,
    ) -> Result<LossOf> {
        let model = self.model();
        let initial = self.initial_state(&model);
        loss_of(&model, &initial, part(&self.data), windows, &self.options, self.boundary(), control)
    }

    /// The token before which each document starts anew, if that is asked for.
    fn boundary(&self) -> Option<u32> {
        boundary(&self.options, &self.tokenizer)
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
        let mut tokens = self.tokenizer.encode(prompt)?;
        if tokens.is_empty() {
            tokens = self.tokenizer.beginning();
        }
        if n_tokens == 0 {
            options.validate()?;
            return Ok(String::new());
        }
        ask(&mut control, 0, total)?;
        let model = self.model();
        let session = Session::new(&model, Some(&self.tokenizer))?;
        session.set_state(Arc::new(self.initial_state(&model)))?;
        // What comes after a document is of interest too.
        let options = GenerateOptions {
            max_tokens: n_tokens,
            ignore_end_of_text: true,
            sampler: options,
            ..GenerateOptions::default()
        };
        let mut writing = session.write(tokens, &options)?;
        let (mut text, mut done) = (String::new(), 0);
        loop {
            let piece = writing.next_with(|_, _| control(done, total)).map_err(|error| match error {
                rwkv_core::Error::Weight { .. } | rwkv_core::Error::NotFinite { .. } => {
                    self.divergence(self.step, f32::NAN)
                }
                error => error.into(),
            })?;
            let Some(piece) = piece else { return Ok(text) };
            text += &piece.text;
            done += piece.tokens.len() as u64;
            ask(&mut control, done, total)?;
        }
    }
}

/// The token before which each document starts anew, if the options ask for that.
pub(super) fn boundary(options: &TrainOptions, tokenizer: &Tokenizer) -> Option<u32> {
    tokenizer.end_of_text().filter(|_| options.reset_state)
}

/// Adjoining windows of a part of the text.
#[derive(Debug)]
struct Windows {
    /// Tokens of one.
    len: usize,
    /// Which ones.
    which: Range<usize>,
}

impl Windows {
    /// The first `most` windows, or as many as there are.
    fn first(tokens: &Part, options: &TrainOptions, most: usize) -> Self {
        let (len, count) = adjoining_windows(tokens.len(), options.ctx_len);
        Self { len, which: 0..count.min(most) }
    }

    /// Those of a validation that a rank looks at.
    fn of_share(tokens: &Part, options: &TrainOptions, rank: usize, ranks: usize) -> Self {
        let Self { len, which } = Self::first(tokens, options, most_windows(options));
        let [start, end] = [rank, rank + 1].map(|rank| which.len() * rank / ranks);
        Self { len, which: start..end }
    }
}

/// A loss over some tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LossOf {
    /// The sum, in nats; not finite if what the model computes is not.
    pub(super) sum: f64,
    /// Over so many tokens.
    pub(super) tokens: u64,
}

/// Mean loss of a model over the first `most` windows of `tokens`, in nats a token; not finite if what the
/// model computes is not. Windows start from the state `initial` each, or go on from the one before if the
/// options say so; with a `boundary`, so does each document in them.
///
/// # Errors
/// [`rwkv_core::Error::Aborted`] if `control` says so.
pub(super) fn mean_loss(
    model: &Model,
    initial: &State,
    tokens: &Part,
    options: &TrainOptions,
    boundary: Option<u32>,
    most: usize,
    control: impl Control,
) -> Result<f32> {
    let windows = Windows::first(tokens, options, most);
    let loss = loss_of(model, initial, tokens, &windows, options, boundary, control)?;
    Ok((loss.sum / loss.tokens as f64) as f32)
}

/// As [`mean_loss`], over these windows.
fn loss_of(
    model: &Model,
    initial: &State,
    tokens: &Part,
    &Windows { len, ref which }: &Windows,
    options: &TrainOptions,
    boundary: Option<u32>,
    mut control: impl Control,
) -> Result<LossOf> {
    if which.is_empty() {
        return Ok(LossOf::default());
    }
    let mut read = Vec::with_capacity(len * which.len() + 1);
    tokens.read(len * which.start..len * which.end + 1, &mut read)?;
    ask(&mut control, 0, read.len() as u64)?;
    let n_inputs = read.len() - 1;
    let len = if options.carry_state { n_inputs } else { len };
    let parts: Vec<_> = cut(&read[..n_inputs], len, boundary).collect();
    let loss = match model.evaluate_parts(initial, &read, &parts, control) {
        Ok(evaluation) => evaluation.loss,
        Err(rwkv_core::Error::Weight { .. } | rwkv_core::Error::NotFinite { .. }) => f64::NAN,
        Err(error) => return Err(error.into()),
    };
    Ok(LossOf { sum: loss * n_inputs as f64, tokens: n_inputs as u64 })
}
