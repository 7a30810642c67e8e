//! The optimizer's arithmetic: AdamW (Loshchilov and Hutter, <https://arxiv.org/abs/1711.05101>) and a
//! gradient's norm.

use crate::block::BLOCK;
use crate::simd::{Operation, Simd, dispatch};
use crate::{Cpu, Parts};

/// The numbers of one AdamW step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Learning rate of these parameters, their group's factor included.
    pub learning_rate: f32,
    /// β1: decay of the first moment.
    pub beta1: f32,
    /// β2: decay of the second moment.
    pub beta2: f32,
    /// Added to the square root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay: the parameters are multiplied by `1 − learning_rate·weight_decay`.
    pub weight_decay: f32,
    /// `1 − beta1^t` at step t = 1, 2, …: the first moment is divided by it.
    pub bias_correction1: f32,
    /// `1 − beta2^t`: the second moment is divided by it.
    pub bias_correction2: f32,
    /// The gradient is multiplied by this first: the factor of gradient clipping, or 1.
    pub grad_scale: f32,
}

/// One AdamW step, element by element, in one pass over the four arrays:
///
/// ```text
/// g  = grad·grad_scale
/// m ← β1·m + (1 − β1)·g,   m̂ = m/bias_correction1
/// v ← β2·v + (1 − β2)·g²,  v̂ = v/bias_correction2
/// p ← p·(1 − lr·weight_decay) − lr·m̂/(√v̂ + eps)
/// ```
///
/// # Panics
/// If the lengths disagree.
pub fn adamw(cpu: &Cpu, step: &AdamWStep, param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) {
    let len = param.len();
    for other in [grad.len(), m.len(), v.len()] {
        assert_eq!(other, len);
    }
    let (param, m, v) = (Parts::new(param), Parts::new(m), Parts::new(v));
    cpu.run_blocks(len, BLOCK, |range| {
        // SAFETY: blocks do not overlap.
        let (param, m, v) =
            unsafe { (param.part(range.clone()), m.part(range.clone()), v.part(range.clone())) };
        dispatch(cpu.isa(), Update { step, param, grad: &grad[range], m, v });
    });
}

/// `Σ x²`, by blocks in a fixed order. It is not finite if any element is not, or if it overflows.
pub fn sum_of_squares(cpu: &Cpu, x: &[f32]) -> f64 {
    let mut sums = vec![0.0; x.len().div_ceil(BLOCK)];
    let parts = Parts::new(&mut sums);
    cpu.run_blocks(x.len(), BLOCK, |range| {
        // SAFETY: each block has a sum of its own.
        let sum = unsafe { parts.item(range.start / BLOCK) };
        *sum = dispatch(cpu.isa(), SumOfSquares { x: &x[range] });
    });
    sums.iter().sum()
}

struct Update<'a> {
    step: &'a AdamWStep,
    param: &'a mut [f32],
    grad: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl Operation for Update<'_> {
    type Output = ();

    fn scalar(self) {
        let &AdamWStep { learning_rate: lr, beta1, beta2, eps, .. } = self.step;
        for i in 0..self.param.len() {
            let g = self.grad[i] * self.step.grad_scale;
            let m = beta1 * self.m[i] + (1.0 - beta1) * g;
            let v = beta2 * self.v[i] + (1.0 - beta2) * g * g;
            let (m_hat, v_hat) = (m / self.step.bias_correction1, v / self.step.bias_correction2);
            let decayed = self.param[i] * (1.0 - lr * self.step.weight_decay);
            self.param[i] = decayed - lr * m_hat / (v_hat.sqrt() + eps);
            (self.m[i], self.v[i]) = (m, v);
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let &AdamWStep { learning_rate: lr, beta1, beta2, eps, .. } = self.step;
        let scale = s.splat(self.step.grad_scale);
        let (keep_m, add_m) = (s.splat(beta1), s.splat(1.0 - beta1));
        let (keep_v, add_v) = (s.splat(beta2), s.splat(1.0 - beta2));
        let (correct_m, correct_v) =
            (s.splat(1.0 / self.step.bias_correction1), s.splat(1.0 / self.step.bias_correction2));
        let decay = s.splat(1.0 - lr * self.step.weight_decay);
        let (lr, eps) = (s.splat(lr), s.splat(eps));
        for i in (0..self.param.len()).step_by(S::LANES) {
            let g = s.mul(s.load(&self.grad[i..]), scale);
            let m = s.mul_add(keep_m, s.load(&self.m[i..]), s.mul(add_m, g));
            let v = s.mul_add(keep_v, s.load(&self.v[i..]), s.mul(s.mul(add_v, g), g));
            let (m_hat, v_hat) = (s.mul(m, correct_m), s.mul(v, correct_v));
            let change = s.div(s.mul(lr, m_hat), s.add(s.sqrt(v_hat), eps));
            let param = s.sub(s.mul(s.load(&self.param[i..]), decay), change);
            s.store(&mut self.m[i..], m);
            s.store(&mut self.v[i..], v);
            s.store(&mut self.param[i..], param);
        }
    }
}

struct SumOfSquares<'a> {
    x: &'a [f32],
}

impl Operation for SumOfSquares<'_> {
    type Output = f64;

    fn scalar(self) -> f64 {
        self.x.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        // Four sums, so that one multiply-add need not wait for the one before.
        let mut sums = [s.zero(); 4];
        let mut i = 0;
        while i < self.x.len() {
            for sum in &mut sums {
                let x = s.load(&self.x[i.min(self.x.len())..]);
                *sum = s.mul_add(x, x, *sum);
                i += S::LANES;
            }
        }
        f64::from(s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::{assert_close, every_tier, f64s, shapes, values};

    /// Three steps, each with its own gradient, against the paper's algorithm in f64.
    #[test]
    fn steps_follow_the_paper() {
        let (lr, beta1, beta2, eps, decay) = (1e-2_f64, 0.9_f64, 0.99_f64, 1e-8_f64, 0.1_f64);
        for (rows, width) in shapes() {
            let len = rows * width;
            let start = values(1, len, 1.0);
            let gradients = [values(2, len, 1.0), values(3, len, 10.0), values(4, len, 0.01)];

            let (mut param, mut m, mut v) = (f64s(&start), vec![0.0; len], vec![0.0; len]);
            for (t, gradient) in (1..).zip(&gradients) {
                for i in 0..len {
                    let g = 0.5 * f64::from(gradient[i]);
                    m[i] = beta1 * m[i] + (1.0 - beta1) * g;
                    v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
                    let (m_hat, v_hat) = (m[i] / (1.0 - beta1.powi(t)), v[i] / (1.0 - beta2.powi(t)));
                    param[i] -= lr * decay * param[i];
                    param[i] -= lr * m_hat / (v_hat.sqrt() + eps);
                }
            }
            let got = every_tier("adamw", 1e-6, |cpu| {
                let (mut param, mut m, mut v) = (start.clone(), vec![0.0; len], vec![0.0; len]);
                for (t, gradient) in (1..).zip(&gradients) {
                    let step = AdamWStep {
                        learning_rate: lr as f32,
                        beta1: beta1 as f32,
                        beta2: beta2 as f32,
                        eps: eps as f32,
                        weight_decay: decay as f32,
                        bias_correction1: (1.0 - beta1.powi(t)) as f32,
                        bias_correction2: (1.0 - beta2.powi(t)) as f32,
                        grad_scale: 0.5,
                    };
                    adamw(cpu, &step, &mut param, gradient, &mut m, &mut v);
                }
                vec![param, m, v]
            });
            for (got, want) in got.iter().zip([&param, &m, &v]) {
                assert_close("adamw", 1e-5, got, want);
            }
        }
    }

    #[test]
    fn a_sum_of_squares_does_not_depend_on_threads_and_shows_a_nan() {
        for (rows, width) in shapes() {
            let mut x = values(1, rows * width, 3.0);
            let want: f64 = f64s(&x).iter().map(|x| x * x).sum();
            for isa in Isa::available() {
                let sum = |threads, x: &[f32]| sum_of_squares(&Cpu::new(isa, threads), x);
                let alone = sum(1, &x);
                assert!((alone - want).abs() <= 1e-6 * want, "{isa}: {alone}, not {want}");
                assert!([2, 3].iter().all(|&threads| sum(threads, &x).to_bits() == alone.to_bits()), "{isa}");
            }
            if let Some(last) = x.last_mut() {
                *last = f32::NAN;
                for isa in Isa::available() {
                    assert!(sum_of_squares(&Cpu::new(isa, 2), &x).is_nan(), "{isa}");
                }
            }
        }
    }
}
