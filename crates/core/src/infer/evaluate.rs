//! The loss of a model on a text.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use rwkv_kernels::cross_entropy;

use super::batch::{Outputs, PASS, Segment};
use super::model::Model;
use crate::control::{Control, ask};
use crate::error::{Error, Result};
use crate::state::State;

/// The loss of a model on a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Number of tokens predicted: `tokens[1..=n_tokens]` of the text.
    pub n_tokens: usize,
    /// Mean of −ln p(token) over those, in nats.
    pub loss: f64,
}

impl Evaluation {
    /// e^loss: the number of equally likely tokens that would be as hard to guess among.
    pub fn perplexity(&self) -> f64 {
        libm::exp(self.loss)
    }

    /// The loss in bits for each of the `n_bytes` bytes that the predicted tokens stand for: comparable
    /// between tokenizers.
    pub fn bits_per_byte(&self, n_bytes: usize) -> f64 {
        self.loss * self.n_tokens as f64 / (n_bytes as f64 * std::f64::consts::LN_2)
    }
}

impl Model {
    /// The mean loss over `tokens`, each predicted from those before it.
    ///
    /// With a `ctx_len` T the text is cut as in training: windows of T inputs `tokens[i·T..(i+1)·T]`, each
    /// from an empty state, with the targets one further; what does not fill a window is left out (a text
    /// shorter than one window is one short window). Without, the text is read in one go.
    ///
    /// `control` is told numbers of tokens.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for fewer than two tokens or a `ctx_len` of 0; [`Error::TokenOutOfRange`];
    /// [`Error::Aborted`] if `control` says so.
    pub fn evaluate(
        &self,
        tokens: &[u32],
        ctx_len: Option<usize>,
        control: impl Control,
    ) -> Result<Evaluation> {
        self.evaluate_from(&self.new_state(), tokens, ctx_len, control)
    }

    /// As [`evaluate`](Self::evaluate), with `initial` in place of the empty state: one that was trained, or
    /// that has read something before.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate); [`Error::State`] for a state of another model.
    pub fn evaluate_from(
        &self,
        initial: &State,
        tokens: &[u32],
        ctx_len: Option<usize>,
        control: impl Control,
    ) -> Result<Evaluation> {
        if tokens.len() < 2 {
            return Err(Error::option("tokens", tokens.len(), "at least 2, one to predict the other from"));
        }
        if ctx_len == Some(0) {
            return Err(Error::option("ctx_len", 0, "at least 1"));
        }
        let pairs = tokens.len() - 1;
        let window = ctx_len.unwrap_or(pairs).min(pairs);
        let windows: Vec<_> = (0..pairs / window).map(|i| i * window..(i + 1) * window).collect();
        self.evaluate_parts(initial, tokens, &windows, control)
    }

    /// The mean loss over parts of `tokens`: each is a range of inputs, read from the state `initial`, with the
    /// targets one further.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if there are none, or for one that is empty or has not a token after its last;
    /// otherwise as [`evaluate_from`](Self::evaluate_from).
    pub fn evaluate_parts(
        &self,
        initial: &State,
        tokens: &[u32],
        parts: &[Range<usize>],
        control: impl Control,
    ) -> Result<Evaluation> {
        let fits = |part: &Range<usize>| part.start < part.end && part.end < tokens.len();
        if parts.is_empty() || !parts.iter().all(fits) {
            let expected = "ranges of tokens, each with a token after it";
            return Err(Error::option("parts", format!("{} of them", parts.len()), expected));
        }
        self.shared.check_tokens(tokens)?;
        let n_tokens = parts.iter().map(Range::len).sum();
        let (mut sum, mut first) = (0.0, 0);
        // Asked within a pass too, which may take seconds.
        let (control, done) = (RefCell::new(control), Cell::new(0));
        let ask = || ask(&mut *control.borrow_mut(), done.get() as u64, n_tokens as u64);
        while first < parts.len() {
            // As many side by side as fill a pass.
            let mut len = 0;
            let end = parts[first..].iter().position(|part| {
                len += part.len();
                len >= PASS
            });
            let end = end.map_or(parts.len(), |count| first + count + 1);
            let together = &parts[first..end];
            let mut states = vec![initial.clone(); together.len()];
            let each = together.iter().zip(&mut states);
            let mut segments: Vec<_> =
                each.map(|(part, state)| Segment { tokens: &tokens[part.clone()], state }).collect();
            let stop = || ask().is_err();
            self.shared.run_segments(
                &self.cpu,
                &mut segments,
                Outputs::All,
                &stop,
                |segment, range, logits| {
                    let at = together[segment].start + 1;
                    let targets = &tokens[at + range.start..at + range.end];
                    sum += cross_entropy(&self.cpu, logits, self.shared.config.n_vocab, targets);
                    done.set(done.get() + targets.len());
                    ask()
                },
            )?;
            first = end;
        }
        Ok(Evaluation { n_tokens, loss: sum / n_tokens as f64 })
    }
}
