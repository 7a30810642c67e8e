//! The learning rate over a run: a linear warm-up, perhaps a plateau, then down to a final rate.

use std::f64::consts::PI;

use crate::options::Decay;

/// Learning rates of steps 0 to `max_steps − 1`.
///
/// ```text
/// t < warmup:  peak · (t + 1)/warmup
/// t < start:   peak,  start = max_steps − cooldown · (max_steps − warmup)
/// then:        last + (peak − last) · fall((t − start)/(max_steps − start))
///              fall(x) = (1 + cos πx)/2 or 1 − x
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// How the rate falls.
    pub decay: Decay,
    /// The part of the steps after the warm-up in which it falls.
    pub cooldown: f64,
    /// The highest rate, reached when the warm-up ends.
    pub peak: f64,
    /// The rate that the fall ends in.
    pub last: f64,
    /// Steps of the warm-up.
    pub warmup: u64,
    /// Steps of the whole run.
    pub max_steps: u64,
}

impl Schedule {
    /// The learning rate of `step`, counted from 0.
    pub fn learning_rate(&self, step: u64) -> f64 {
        let &Self { decay, cooldown, peak, last, warmup, max_steps } = self;
        if step < warmup {
            return peak * (step + 1) as f64 / warmup as f64;
        }
        if step >= max_steps {
            return last;
        }
        let falling = cooldown * (max_steps - warmup) as f64;
        let done = 1.0 - (max_steps - step) as f64 / falling;
        if done <= 0.0 {
            return peak;
        }
        let left = match decay {
            Decay::Cosine => 0.5 * (1.0 + libm::cos(PI * done)),
            Decay::Linear => 1.0 - done,
        };
        last + (peak - last) * left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Schedule =
        Schedule { decay: Decay::Cosine, cooldown: 1.0, peak: 1.0, last: 0.1, warmup: 0, max_steps: 1 };

    #[test]
    fn warms_up_peaks_and_falls_to_the_last_rate() {
        let schedule = Schedule { peak: 3e-3, last: 1e-4, warmup: 100, max_steps: 2000, ..PLAIN };
        for (step, expected) in
            [(0, 3e-5), (49, 1.5e-3), (99, 3e-3), (100, 3e-3), (1050, 1.55e-3), (2000, 1e-4), (9999, 1e-4)]
        {
            let rate = schedule.learning_rate(step);
            assert!((rate - expected).abs() < 1e-12, "step {step}: {rate}");
        }
        assert!((1..2000).all(|step| {
            let rising = schedule.learning_rate(step) > schedule.learning_rate(step - 1);
            rising == (step < 100)
        }));
    }

    #[test]
    fn a_plateau_is_followed_by_a_straight_line() {
        let schedule = Schedule { warmup: 10, max_steps: 110, decay: Decay::Linear, cooldown: 0.4, ..PLAIN };
        for (step, expected) in
            [(9, 1.0), (10, 1.0), (69, 1.0), (70, 1.0), (80, 0.775), (90, 0.55), (110, 0.1)]
        {
            let rate = schedule.learning_rate(step);
            assert!((rate - expected).abs() < 1e-12, "step {step}: {rate}");
        }
    }

    #[test]
    fn a_run_without_warm_up_starts_at_the_peak() {
        let schedule = Schedule { peak: 1.0, last: 0.0, warmup: 0, max_steps: 1, ..PLAIN };
        assert!((schedule.learning_rate(0) - 1.0).abs() < 1e-12);
    }
}
