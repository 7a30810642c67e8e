//! The learning rate over a run: a linear warm-up, then half a cosine down to a final rate.

use std::f64::consts::PI;

/// Learning rates of steps 0 to `max_steps − 1`.
///
/// ```text
/// t <  warmup:  peak · (t + 1)/warmup
/// t >= warmup:  last + (peak − last) · (1 + cos(π · (t − warmup)/(max_steps − warmup)))/2
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The highest rate, reached when the warm-up ends.
    pub peak: f64,
    /// The rate that the cosine ends in.
    pub last: f64,
    /// Steps of the warm-up.
    pub warmup: u64,
    /// Steps of the whole run.
    pub max_steps: u64,
}

impl Schedule {
    /// The learning rate of `step`, counted from 0.
    pub fn learning_rate(&self, step: u64) -> f64 {
        let &Self { peak, last, warmup, max_steps } = self;
        if step < warmup {
            return peak * (step + 1) as f64 / warmup as f64;
        }
        if step >= max_steps {
            return last;
        }
        let done = (step - warmup) as f64 / (max_steps - warmup) as f64;
        last + (peak - last) * 0.5 * (1.0 + (PI * done).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_peaks_and_falls_to_the_last_rate() {
        let schedule = Schedule { peak: 3e-3, last: 1e-4, warmup: 100, max_steps: 2000 };
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
    fn a_run_without_warm_up_starts_at_the_peak() {
        let schedule = Schedule { peak: 1.0, last: 0.0, warmup: 0, max_steps: 1 };
        assert!((schedule.learning_rate(0) - 1.0).abs() < 1e-12);
    }
}
