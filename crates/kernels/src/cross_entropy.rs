//! The loss of next-token prediction: `−ln softmax(logits)[target]`.
//!
//! `softmax(x)_i = exp(x_i − m)/Σ_j exp(x_j − m)` with `m = max x`, so no exponential overflows.

use crate::block::{elements, rows, rows_per_block};
use crate::exp::{exp_nonpositive, scalar_exp};
use crate::simd::{Operation, Simd, dispatch};
use crate::{Cpu, Parts};

/// The sum over the rows of `−ln softmax(logits)[target]`, in nats; logits (rows, n_vocab), one target a row.
///
/// # Panics
/// If the lengths disagree or a target is not below `n_vocab`.
pub fn cross_entropy(cpu: &Cpu, logits: &[f32], n_vocab: usize, targets: &[u32]) -> f64 {
    check(logits, n_vocab, targets);
    let mut losses = vec![0.0; targets.len()];
    let parts = Parts::new(&mut losses);
    cpu.run_blocks(targets.len(), rows_per_block(n_vocab), |rows| {
        let logits = &logits[elements(&rows, n_vocab)];
        // SAFETY: blocks of rows do not overlap.
        let losses = unsafe { parts.part(rows.clone()) };
        dispatch(cpu.isa(), Forward { logits, n_vocab, targets: &targets[rows], losses });
    });
    losses.iter().sum()
}

/// Turns logits into the gradient of `scale ·` [`cross_entropy`], which is `(softmax(logits) − onehot(target))·scale`,
/// where they lie, (rows, n_vocab). `losses` are those of the rows: [`cross_entropy`] is their sum, in order.
///
/// # Panics
/// If the lengths disagree or a target is not below `n_vocab`.
pub fn cross_entropy_backward(
    cpu: &Cpu,
    logits: &mut [f32],
    n_vocab: usize,
    targets: &[u32],
    scale: f32,
    losses: &mut [f64],
) {
    check(logits, n_vocab, targets);
    assert_eq!(losses.len(), targets.len());
    let (logits, losses) = (Parts::new(logits), Parts::new(losses));
    cpu.run_blocks(targets.len(), rows_per_block(n_vocab), |rows| {
        // SAFETY: blocks of rows do not overlap.
        let (logits, losses) = unsafe { (logits.part(elements(&rows, n_vocab)), losses.part(rows.clone())) };
        dispatch(cpu.isa(), Backward { logits, n_vocab, targets: &targets[rows], scale, losses });
    });
}

fn check(logits: &[f32], n_vocab: usize, targets: &[u32]) {
    assert_eq!(rows(logits.len(), n_vocab), targets.len());
    for &target in targets {
        assert!((target as usize) < n_vocab, "target {target} of {n_vocab}");
    }
}

struct Forward<'a> {
    logits: &'a [f32],
    n_vocab: usize,
    targets: &'a [u32],
    losses: &'a mut [f64],
}

impl Operation for Forward<'_> {
    type Output = ();

    fn scalar(self) {
        let rows = self.logits.chunks_exact(self.n_vocab).zip(self.targets);
        for ((x, &target), loss) in rows.zip(self.losses) {
            let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = x.iter().map(|x| f64::from(scalar_exp(x - max))).sum();
            // The rule of `finite.rs`: of a logit of −∞ the exponential is 0.
            let shows: f32 = x.iter().map(|x| 0.0 * x).sum();
            *loss = loss_of(sum, x[target as usize] - max, shows);
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.logits.chunks_exact(self.n_vocab).zip(self.targets);
        for ((x, &target), loss) in rows.zip(self.losses) {
            let max = greatest(s, x);
            let (mut sum, mut shows) = (s.zero(), s.zero());
            for i in (0..x.len()).step_by(S::LANES) {
                sum = s.add(sum, exp_nonpositive(s, s.sub(load(s, &x[i..]), s.splat(max))));
                shows = s.mul_add(s.load(&x[i..]), s.zero(), shows);
            }
            *loss = loss_of(f64::from(s.sum(sum)), x[target as usize] - max, s.sum(shows));
        }
    }
}

/// The loss of a row, from the sum of its exponentials and the target's logit, both beside the greatest logit. `shows`
/// is 0, or NaN if a logit is not finite.
#[inline(always)]
fn loss_of(sum: f64, target: f32, shows: f32) -> f64 {
    libm::log(sum) - f64::from(target) + f64::from(shows)
}

struct Backward<'a> {
    logits: &'a mut [f32],
    n_vocab: usize,
    targets: &'a [u32],
    scale: f32,
    losses: &'a mut [f64],
}

impl Operation for Backward<'_> {
    type Output = ();

    fn scalar(self) {
        let rows = self.logits.chunks_exact_mut(self.n_vocab).zip(self.targets);
        for ((x, &target), loss) in rows.zip(self.losses) {
            let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = x.iter().map(|x| f64::from(scalar_exp(x - max))).sum();
            let shows: f32 = x.iter().map(|x| 0.0 * x).sum();
            *loss = loss_of(sum, x[target as usize] - max, shows);
            let factor = self.scale / sum as f32;
            for x in &mut *x {
                *x = scalar_exp(*x - max) * factor;
            }
            x[target as usize] -= self.scale;
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.logits.chunks_exact_mut(self.n_vocab).zip(self.targets);
        for ((x, &target), loss) in rows.zip(self.losses) {
            let max = greatest(s, x);
            let target_logit = x[target as usize] - max;
            let (mut sum, mut shows) = (s.zero(), s.zero());
            for i in (0..x.len()).step_by(S::LANES) {
                let e = exp_nonpositive(s, s.sub(load(s, &x[i..]), s.splat(max)));
                sum = s.add(sum, e);
                shows = s.mul_add(s.load(&x[i..]), s.zero(), shows);
                s.store(&mut x[i..], e);
            }
            let sum = s.sum(sum);
            *loss = loss_of(f64::from(sum), target_logit, s.sum(shows));
            let factor = s.splat(self.scale / sum);
            for i in (0..x.len()).step_by(S::LANES) {
                let e = s.load(&x[i..]);
                s.store(&mut x[i..], s.mul(e, factor));
            }
            x[target as usize] -= self.scale;
        }
    }
}

/// Logits, and −∞ for lanes beyond the vocabulary: they are never the greatest, and their exponential is 0.
#[inline(always)]
fn load<S: Simd>(s: S, x: &[f32]) -> S::V {
    s.load_or(x, s.splat(f32::NEG_INFINITY))
}

#[inline(always)]
fn greatest<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut max = s.splat(f32::NEG_INFINITY);
    for i in (0..x.len()).step_by(S::LANES) {
        max = s.max(load(s, &x[i..]), max);
    }
    s.max_lane(max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::{assert_gradient, every_tier, f64s, shapes, values};

    /// The formula, in f64.
    fn exact(logits: &[f64], n_vocab: usize, targets: &[u32]) -> f64 {
        let mut loss = 0.0;
        for (x, &target) in logits.chunks_exact(n_vocab).zip(targets) {
            let max = x.iter().fold(f64::NEG_INFINITY, |max, &x| max.max(x));
            loss += x.iter().map(|x| (x - max).exp()).sum::<f64>().ln() + max - x[target as usize];
        }
        loss
    }

    fn targets(rows: usize, n_vocab: usize) -> Vec<u32> {
        (0..rows).map(|row| ((row * 31 + 7) % n_vocab) as u32).collect()
    }

    /// The gradient, and whether the losses that come with it are those of [`cross_entropy`].
    fn backward(cpu: &Cpu, logits: &[f32], n_vocab: usize, targets: &[u32], scale: f32) -> Vec<f32> {
        let (mut dlogits, mut losses) = (logits.to_vec(), vec![f64::NAN; targets.len()]);
        cross_entropy_backward(cpu, &mut dlogits, n_vocab, targets, scale, &mut losses);
        let loss = cross_entropy(cpu, logits, n_vocab, targets);
        assert_eq!(losses.iter().sum::<f64>().to_bits(), loss.to_bits(), "{} {}", cpu.isa(), cpu.threads());
        dlogits
    }

    #[test]
    fn every_tier_and_thread_count_agrees() {
        for (rows, n_vocab) in shapes() {
            let (logits, targets) = (values(1, rows * n_vocab, 8.0), targets(rows, n_vocab));
            let want = exact(&f64s(&logits), n_vocab, &targets);
            let bits = Isa::available().into_iter().map(|isa| {
                let loss = cross_entropy(&Cpu::new(isa, 1), &logits, n_vocab, &targets);
                for threads in [2, 3] {
                    let shared = cross_entropy(&Cpu::new(isa, threads), &logits, n_vocab, &targets);
                    assert_eq!(shared.to_bits(), loss.to_bits(), "{isa}, {threads} threads");
                }
                loss
            });
            for loss in bits {
                assert!((loss - want).abs() <= 1e-6 * want + 1e-6 * rows as f64, "{loss}, not {want}");
            }
            every_tier("cross_entropy_backward", 2e-6, |cpu| {
                vec![backward(cpu, &logits, n_vocab, &targets, 0.125)]
            });
        }
    }

    #[test]
    fn the_backward_is_the_derivative() {
        for (rows, n_vocab) in [(1, 2), (3, 17), (2, 33)] {
            let (logits, targets) = (values(1, rows * n_vocab, 3.0), targets(rows, n_vocab));
            let got = every_tier("cross_entropy_backward", 2e-6, |cpu| {
                vec![backward(cpu, &logits, n_vocab, &targets, 0.125)]
            });
            assert_gradient("dlogits", &logits, &got[0], |x| 0.125 * exact(x, n_vocab, &targets));
        }
    }

    #[test]
    fn an_infinite_logit_shows() {
        for isa in Isa::available() {
            for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
                for at in [0, 3, 18] {
                    let mut logits = values(1, 19, 3.0);
                    logits[at] = bad;
                    let loss = cross_entropy(&Cpu::new(isa, 1), &logits, 19, &[3]);
                    assert!(!loss.is_finite(), "{isa}, {bad} at {at}: {loss}");
                    let mut losses = [0.0];
                    cross_entropy_backward(&Cpu::new(isa, 1), &mut logits, 19, &[3], 1.0, &mut losses);
                    assert!(!losses[0].is_finite(), "{isa}, {bad} at {at}: {losses:?}");
                }
            }
        }
    }

    #[test]
    fn huge_logits_stay_finite() {
        let logits = [3e4, -3e4, 0.0, -3e38, 3e4, 2.0];
        every_tier("cross_entropy", 1e-6, |cpu| {
            let loss = cross_entropy(cpu, &logits, 3, &[1, 1]);
            assert!((loss - 6e4).abs() < 1.0, "{loss}");
            let dlogits = backward(cpu, &logits, 3, &[1, 1], 1.0);
            assert_eq!(dlogits, [1.0, -1.0, 0.0, 0.0, 0.0, 0.0]);
            vec![dlogits]
        });
    }

    #[test]
    #[should_panic(expected = "target 3 of 3")]
    fn a_target_out_of_range_is_refused() {
        cross_entropy(&Cpu::new(Isa::Scalar, 1), &[0.0; 3], 3, &[3]);
    }
}
