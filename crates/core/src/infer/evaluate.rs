//! The loss of a model on a text.

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
        mut control: impl Control,
    ) -> Result<Evaluation> {
        if tokens.len() < 2 {
            return Err(Error::option("tokens", tokens.len(), "at least 2, one to predict the other from"));
        }
        if ctx_len == Some(0) {
            return Err(Error::option("ctx_len", 0, "at least 1"));
        }
        self.shared.check_tokens(tokens)?;
        let pairs = tokens.len() - 1;
        let window = ctx_len.unwrap_or(pairs).min(pairs);
        let n_tokens = pairs / window * window;
        // As many windows side by side as fill a pass.
        let stretch = window * PASS.div_ceil(window);

        let (mut sum, mut done) = (0.0, 0);
        for start in (0..n_tokens).step_by(stretch) {
            let inputs = &tokens[start..n_tokens.min(start + stretch)];
            let mut states: Vec<_> = inputs.chunks(window).map(|_| initial.clone()).collect();
            let windows = inputs.chunks(window).zip(&mut states);
            let mut segments: Vec<_> = windows.map(|(tokens, state)| Segment { tokens, state }).collect();
            self.shared.run(&self.cpu, &mut segments, Outputs::All, |segment, range, logits| {
                let at = start + segment * window + 1;
                let targets = &tokens[at + range.start..at + range.end];
                sum += cross_entropy(&self.cpu, logits, self.shared.config.n_vocab, targets);
                done += targets.len();
                ask(&mut control, done as u64, n_tokens as u64)
            })?;
        }
        Ok(Evaluation { n_tokens, loss: sum / n_tokens as f64 })
    }
}
