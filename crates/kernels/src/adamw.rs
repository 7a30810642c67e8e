//! The optimizer's arithmetic: AdamW (Loshchilov and Hutter, <https://arxiv.org/abs/1711.05101>) and a gradient's norm.

use crate::block::BLOCK;
use crate::simd::{Operation, dispatch};
use crate::{Cpu, Parts};

/// The numbers of one AdamW step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Step size of these parameters, their group's factor included.
    pub learning_rate: f32,
    /// How much of the gradients' mean is kept.
    pub beta1: f32,
    /// How much of their squares' mean is kept.
    pub beta2: f32,
    /// Added to the root of the squares' mean.
    pub eps: f32,
    /// Decoupled decay: the parameters are multiplied by `1 − learning_rate·weight_decay`.
    pub weight_decay: f32,
    /// `1 − beta1^t` at step t = 1, 2, …: the mean is divided by it.
    pub bias_correction1: f32,
    /// `1 − beta2^t`: the squares' mean is divided by it.
    pub bias_correction2: f32,
    /// The gradient is multiplied by this first: clipping, or 1.
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

/// `Σ x²`, by blocks in a fixed order. A NaN or an infinity anywhere shows in it.
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
}

struct SumOfSquares<'a> {
    x: &'a [f32],
}

impl Operation for SumOfSquares<'_> {
    type Output = f64;

    fn scalar(self) -> f64 {
        self.x.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
    }
}
