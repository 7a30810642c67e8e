//! Sampling: the choice of a token from logits.

mod candidates;
mod counts;
mod log_probabilities;
mod options;
#[cfg(test)]
mod tests;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use self::candidates::Candidates;
use self::counts::{Counts, penalized};
use crate::error::Result;

pub use log_probabilities::{LogProbabilities, log_probabilities};
pub use options::{SamplerKind, SamplerOptions};

/// Chooses tokens by chance, from a stream of random numbers (ChaCha8) that is the same on every machine.
///
/// # Order
/// 1. `logit_bias` is added to the logits, before anything else looks at them: it is the caller's correction of
///    the model, and a token that it forbids is forbidden for every other option.
/// 2. The penalties, first the repetition penalty, then those of presence and frequency. They too change what
///    is likely, so they come before the cuts, which ask what is likely.
/// 3. The softmax of the logits is cut to the likeliest `top_k`, then to `typical_p`, `top_p` and `min_p`. Each
///    cut sees what the one before it left, as a distribution of its own: its probabilities add up to 1, and
///    the likeliest token is the likeliest of those left. `typical_p` precedes `top_p` and `min_p`, which ask
///    for the likeliest only: the entropy should be that of a distribution with its tail.
/// 4. Only then is the temperature applied (p^(1/temperature)) to what is left. This is the order of RWKV's own
///    sampling, for which its published settings are meant. A high temperature thus never lets in a token that
///    a cut keeps out.
///
/// With temperature 0, the token is the first of the largest logits after steps 1 and 2.
///
/// With [`SamplerKind::Rwkv`], step 3 is `top_p` of the whole softmax, then `top_k`, and then the cuts that RWKV's
/// own sampling does not have: `typical_p` and `min_p`. It counts otherwise, too: see there.
///
/// # Which tokens occurred
/// The penalties are for tokens that this sampler has chosen: what was written, not the prompt, as in RWKV's
/// own chat. [`observe`](Self::observe) counts others.
///
/// # Logits that are no numbers
/// A NaN counts as impossible, and infinite logits share all probability. A token must be chosen even if none
/// is possible. If it is the bias and the penalties that leave none, they are passed over for this choice. If
/// the model itself leaves none, tokens whose logit is −∞ are equally likely; it is token 0 if all are NaN, and
/// always with temperature 0.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    rng: ChaCha8Rng,
    /// Tokens that occurred; empty if that does not matter.
    counts: Counts,
    /// Scratch, kept to save allocating it for each token.
    candidates: Candidates,
}

impl Sampler {
    /// A sampler at the start of its random numbers, for which no token has occurred.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) that names the option.
    pub fn new(options: SamplerOptions) -> Result<Self> {
        options.validate()?;
        let rng = ChaCha8Rng::seed_from_u64(options.seed);
        Ok(Self { options, rng, counts: Counts::default(), candidates: Candidates::default() })
    }

    /// The options it was made with.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// Counts a token as one that occurred, for the penalties, as if it had been chosen: for those of a prompt,
    /// say. [`sample`](Self::sample) does so itself with what it chooses.
    pub fn observe(&mut self, token: u32) {
        if self.options.penalizes() {
            self.counts.add(token, &self.options);
        }
    }

    /// Chooses a token of a distribution with these logits (n_vocab), and counts it.
    ///
    /// Equal logits are ordered by token. Tokens with a bias or a count that are beyond the vocabulary are passed
    /// over ([`SamplerOptions::check_vocabulary`] finds them).
    ///
    /// # Panics
    /// If there are no logits.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        assert!(!logits.is_empty(), "no logits");
        let token = self.prepare(logits).unwrap_or_else(|| {
            let uniform = (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64; // [0, 1)
            self.candidates.at(uniform)
        });
        self.observe(token);
        token
    }

    /// What [`sample`](Self::sample) would draw from: tokens that it might choose for these logits (n_vocab) and
    /// their probabilities, likeliest first, equal ones by token. With temperature 0 it is one token with
    /// probability 1. Nothing is drawn or counted. Without logits it is empty.
    pub fn distribution(&mut self, logits: &[f32]) -> Vec<(u32, f64)> {
        if logits.is_empty() {
            return Vec::new();
        }
        match self.prepare(logits) {
            Some(likeliest) => vec![(likeliest, 1.0)],
            None => self.candidates.distribution(),
        }
    }

    /// Weighs what is to be drawn from; with temperature 0 it is this token.
    #[allow(clippy::float_cmp)] // at exactly 1, weights stay what they are
    fn prepare(&mut self, logits: &[f32]) -> Option<u32> {
        let (options, candidates) = (&self.options, &mut self.candidates);
        candidates.load(logits);
        for &(token, bias) in &options.logit_bias {
            // Not ∞ − ∞ for a forbidden token.
            let biased =
                |logit| if bias == f32::NEG_INFINITY { f64::NEG_INFINITY } else { logit + f64::from(bias) };
            candidates.change(token, biased);
        }
        for (token, count) in self.counts.iter() {
            candidates.change(token, |logit| penalized(logit, count, options));
        }
        let (mut likeliest, mut max) = candidates.likeliest();
        if max == f64::NEG_INFINITY {
            candidates.load(logits);
            (likeliest, max) = candidates.likeliest();
        }
        if options.temperature == 0.0 {
            return Some(likeliest);
        }
        candidates.relate_to(max);
        let &SamplerOptions { temperature, typical_p, top_p, min_p, top_k, sampler, .. } = options;
        let is_rwkv = sampler == SamplerKind::Rwkv;
        let top_k = top_k.unwrap_or(usize::MAX);
        if !is_rwkv {
            candidates.cut_to_count(top_k);
        }
        let cuts = typical_p < 1.0 || top_p < 1.0 || min_p > 0.0;
        if cuts {
            candidates.weigh(1.0);
        }
        if is_rwkv {
            if top_p < 1.0 {
                candidates.cut_to_probability(top_p, true);
            }
            candidates.cut_to_count(top_k);
        }
        if typical_p < 1.0 {
            candidates.cut_to_typical(typical_p);
        }
        if top_p < 1.0 && !is_rwkv {
            candidates.cut_to_probability(top_p, false);
        }
        if min_p > 0.0 {
            candidates.cut_to_ratio(min_p);
        }
        if !cuts || temperature != 1.0 {
            candidates.weigh(temperature);
        }
        None
    }
}
