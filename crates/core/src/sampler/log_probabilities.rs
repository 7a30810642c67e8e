//! How likely a model holds a token, and which it holds likeliest.

use super::candidates::below;

/// Log-probabilities of a model's own distribution, natural logarithms.
#[derive(Clone, Debug, PartialEq)]
pub struct LogProbabilities {
    /// ln p of the token that was asked for; −∞ if it is impossible or beyond the vocabulary.
    pub chosen: f64,
    /// The likeliest tokens with their ln p, likeliest first, equal ones by token; none that is impossible.
    pub best: Vec<(u32, f64)>,
}

/// The log-probability of `token`, and the `n_best` likeliest tokens with theirs, by the softmax of these
/// logits (n_vocab), before any option of a [`Sampler`](crate::Sampler).
///
/// It is computed in f64 from differences to the largest logit, so neither overflows nor loses unlikely tokens
/// to 0. As for the sampler, a NaN is impossible, infinite logits share all probability, and so do logits of
/// −∞ if there are no others.
pub fn log_probabilities(logits: &[f32], token: u32, n_best: usize) -> LogProbabilities {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)); // passes over NaN
    let log = |token: u32| below(f64::from(logits[token as usize]), max);
    let total: f64 = logits.iter().map(|&logit| libm::exp(below(f64::from(logit), max))).sum();
    let log_total = libm::log(total); // 0 or more, as one of them is exp(0), unless all are impossible
    let possible = |token: u32| log(token) > f64::NEG_INFINITY;
    let known = (token as usize) < logits.len();
    let chosen = if known && possible(token) { log(token) - log_total } else { f64::NEG_INFINITY };

    let mut best = Vec::new();
    if n_best > 0 {
        best.extend((0..logits.len() as u32).filter(|&token| possible(token)));
        let likelier = |x: &u32, y: &u32| log(*y).total_cmp(&log(*x)).then(x.cmp(y));
        if n_best < best.len() {
            // The rest of a large vocabulary is not sorted.
            best.select_nth_unstable_by(n_best, likelier);
            best.truncate(n_best);
        }
        best.sort_unstable_by(likelier);
    }
    LogProbabilities { chosen, best: best.into_iter().map(|token| (token, log(token) - log_total)).collect() }
}
