//! The tokens among which one is drawn.

use std::cmp::Ordering;

/// A token that can still be drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) token: u32,
    /// Its logit; once they are related to the largest, how far below that it is: log-probability up to a
    /// constant.
    pub(super) log: f64,
    /// Its probability up to a factor.
    pub(super) weight: f64,
}

/// With how many tokens a cut tries to do before it sorts all.
const FEW: [usize; 2] = [256, 4096];

/// Candidates of a choice: loaded, changed, related to the largest logit, cut, weighed and drawn from.
///
/// Once related, there is one at least, and the likeliest has log 0, so weight 1. Drawing walks them in their
/// order, so each method leaves them in an order that the logits alone determine.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidates(Vec<Candidate>);

impl Candidates {
    /// All tokens, at the position of their number, with their logits.
    pub(super) fn load(&mut self, logits: &[f32]) {
        self.0.clear();
        self.0.extend(logits.iter().enumerate().map(|(token, &logit)| Candidate {
            token: token as u32,
            log: f64::from(logit),
            weight: 0.0,
        }));
    }

    /// Changes the logit of a token, right after loading; does nothing if there is no such token.
    pub(super) fn change(&mut self, token: u32, change: impl FnOnce(f64) -> f64) {
        if let Some(candidate) = self.0.get_mut(token as usize) {
            candidate.log = change(candidate.log);
        }
    }

    /// The first of the largest logits; token 0 if none is a number.
    pub(super) fn likeliest(&self) -> (u32, f64) {
        let mut best = (0, f64::NEG_INFINITY);
        for candidate in &self.0 {
            if candidate.log > best.1 {
                best = (candidate.token, candidate.log);
            }
        }
        best
    }

    /// Takes `max`, the largest logit, from all of them. If nothing is possible, token 0 is.
    pub(super) fn relate_to(&mut self, max: f64) {
        for candidate in &mut self.0 {
            candidate.log = below(candidate.log, max);
        }
        if max == f64::NEG_INFINITY && self.0.iter().all(|candidate| candidate.log == f64::NEG_INFINITY) {
            self.0.clear();
            self.0.push(Candidate { token: 0, log: 0.0, weight: 0.0 });
        }
    }

    /// Weighs them: p^(1/temperature), up to a factor.
    pub(super) fn weigh(&mut self, temperature: f64) {
        for candidate in &mut self.0 {
            candidate.weight = libm::exp(candidate.log / temperature);
        }
    }

    /// The `count` likeliest.
    pub(super) fn cut_to_count(&mut self, count: usize) {
        if count < self.0.len() {
            self.0.select_nth_unstable_by(count, likelier);
            self.0.truncate(count);
            // Their order must not be the selection's accident.
            self.0.sort_unstable_by_key(|candidate| candidate.token);
        }
    }

    /// Those whose −ln p is nearest to the entropy and that together have `typical_p` of the probability.
    ///
    /// With p = weight / total, −ln p is ln(total) − log, and the entropy, which is its mean, is ln(total) less
    /// the mean of log. So the two are as far apart as a log is from the mean of all logs.
    pub(super) fn cut_to_typical(&mut self, typical_p: f64) {
        let (mut total, mut mean) = (0.0, 0.0);
        for Candidate { log, weight, .. } in self.0.iter().filter(|candidate| candidate.weight > 0.0) {
            total += weight;
            mean += weight * log;
        }
        mean /= total;
        let nearer = |x: &Candidate, y: &Candidate| {
            let (of_x, of_y) = ((x.log - mean).abs(), (y.log - mean).abs());
            of_x.total_cmp(&of_y).then_with(|| likelier(x, y))
        };
        let enough = typical_p * total;
        // As a rule few of a large vocabulary are needed, and the others are left unsorted.
        for few in FEW {
            if few < self.0.len() {
                self.0.select_nth_unstable_by(few, nearer);
                if self.0[..few].iter().map(|candidate| candidate.weight).sum::<f64>() >= enough {
                    self.0.truncate(few);
                }
            }
        }
        self.cut_to_share(enough, nearer);
        // The likeliest token need not be typical.
        self.relate_to(self.0.iter().map(|candidate| candidate.log).fold(f64::NEG_INFINITY, f64::max));
        self.weigh(1.0);
    }

    /// The likeliest that together have `top_p` of the probability, and with `ties` also those that are as likely as
    /// the last of them.
    #[allow(clippy::float_cmp)] // equal logits are as likely
    pub(super) fn cut_to_probability(&mut self, top_p: f64, ties: bool) {
        let total = self.total();
        // Those below (1 − top_p) / n together have less than 1 − top_p, so none of them is needed: most of a
        // large vocabulary is left unsorted.
        let least = total * (1.0 - top_p) / self.0.len() as f64;
        self.0.retain(|candidate| candidate.weight >= least);
        self.0.sort_unstable_by(likelier);
        let count = self.count_to_share(top_p * total);
        let last = self.0[..count].last().map(|last| last.log);
        let tied = self.0[count..].iter().take_while(|next| ties && last == Some(next.log)).count();
        self.0.truncate(count + tied);
    }

    /// The first in this order that together weigh `enough`, sorted; all of them if they weigh less.
    fn cut_to_share(&mut self, enough: f64, order: impl Fn(&Candidate, &Candidate) -> Ordering) {
        self.0.sort_unstable_by(order);
        self.0.truncate(self.count_to_share(enough));
    }

    /// How many from the first on together weigh `enough`; all of them if they weigh less.
    fn count_to_share(&self, enough: f64) -> usize {
        let mut sum = 0.0;
        let last = self.0.iter().position(|candidate| {
            sum += candidate.weight;
            sum >= enough
        });
        last.map_or(self.0.len(), |last| last + 1)
    }

    /// Those at least `min_p` times as likely as the likeliest, whose weight is 1.
    pub(super) fn cut_to_ratio(&mut self, min_p: f64) {
        self.0.retain(|candidate| candidate.weight >= min_p);
    }

    /// The token at this share, 0 to below 1, of all weights in a row.
    pub(super) fn at(&self, share: f64) -> u32 {
        let mut left = share * self.total();
        let mut chosen = 0;
        for candidate in self.0.iter().filter(|candidate| candidate.weight > 0.0) {
            chosen = candidate.token;
            left -= candidate.weight;
            if left < 0.0 {
                break;
            }
        }
        chosen
    }

    /// Tokens with a weight and their probabilities, likeliest first, equal ones by token.
    pub(super) fn distribution(&mut self) -> Vec<(u32, f64)> {
        let total = self.total();
        self.0.retain(|candidate| candidate.weight > 0.0);
        self.0.sort_unstable_by(likelier);
        self.0.iter().map(|candidate| (candidate.token, candidate.weight / total)).collect()
    }

    fn total(&self) -> f64 {
        self.0.iter().map(|candidate| candidate.weight).sum()
    }
}

/// How far a logit is below the largest, 0 or less; −∞ for NaN.
#[allow(clippy::float_cmp)] // is it that very logit?
pub(super) fn below(logit: f64, max: f64) -> f64 {
    // The test for equality makes ∞ − ∞ a 0: with infinite logits the choice is among those.
    let log = if logit == max { 0.0 } else { logit - max };
    if log.is_nan() { f64::NEG_INFINITY } else { log }
}

/// Likelier first, then by token.
fn likelier(x: &Candidate, y: &Candidate) -> Ordering {
    y.log.total_cmp(&x.log).then(x.token.cmp(&y.token))
}
