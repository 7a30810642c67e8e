//! How often tokens occurred, and what that does to their logits.

use std::collections::BTreeMap;

use super::{SamplerKind, SamplerOptions};

/// A token with a count below this has not occurred, unless RWKV's own rules are asked for: so a table of fading counts
/// does not grow for ever.
const LEAST: f64 = 1e-3;

/// Counts of the tokens that occurred, and of no others.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts(BTreeMap<u32, f64>);

impl Counts {
    /// Counts another token; the others fade.
    pub(super) fn add(&mut self, token: u32, options: &SamplerOptions) {
        let decay = options.penalty_decay;
        // RWKV's own programs never forget that a token occurred; there are no more counts than tokens.
        let forgets = options.sampler == SamplerKind::Usual;
        if decay < 1.0 {
            self.0.retain(|_, count| {
                *count *= decay;
                *count >= LEAST || !forgets
            });
        }
        let is_counted = forgets || !options.uncounted.contains(&token);
        *self.0.entry(token).or_insert(0.0) += if is_counted { 1.0 } else { 0.0 };
    }

    /// Tokens that occurred and their counts, which are 0 only for uncounted ones.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, f64)> + '_ {
        self.0.iter().map(|(&token, &count)| (token, count))
    }
}

/// The logit of a token that occurred `count` times.
///
/// The repetition penalty comes first, as its factor is meant for what the model says and not for what
/// another penalty made of that.
pub(super) fn penalized(logit: f64, count: f64, options: &SamplerOptions) -> f64 {
    let factor = options.repetition_penalty;
    let scaled = if logit > 0.0 { logit / factor } else { logit * factor };
    scaled - options.presence_penalty - options.frequency_penalty * count
}
