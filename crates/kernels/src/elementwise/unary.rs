//! Operators of one input.

use super::{Operator, backward, family, forward};
use crate::exp;
use crate::simd::Simd;
use crate::{Cpu, Store};

family!(
    /// An elementwise operator of one input; see [`unary`].
    Unary, 1, [
        /// `max(x, 0)²`, the channel mix's activation (So et al., <https://arxiv.org/abs/2109.08668>).
        ReluSquared,
        /// `tanh x`.
        Tanh,
        /// `σ(x) = 1/(1 + exp(−x))`.
        Sigmoid,
        /// `x·σ(x)` (Elfwing et al., <https://arxiv.org/abs/1702.03118>).
        Silu,
    ]
);

/// `y = f(x)`, element by element.
///
/// # Panics
/// If the lengths disagree.
pub fn unary(cpu: &Cpu, f: Unary, x: &[f32], y: &mut [f32]) {
    f.forward(cpu, [x], y);
}

/// The gradient of [`unary`], set or added: `dx = dy ⊙ f′(x)`.
///
/// # Panics
/// If the lengths disagree.
pub fn unary_backward(cpu: &Cpu, f: Unary, x: &[f32], dy: &[f32], dx: &mut [f32], store: Store) {
    f.backward(cpu, [x], dy, [(dx, store)]);
}

/// [`Unary::ReluSquared`]: `y = max(x, 0)²`.
///
/// # Panics
/// If the lengths disagree.
pub fn relu_squared(cpu: &Cpu, x: &[f32], y: &mut [f32]) {
    unary(cpu, Unary::ReluSquared, x, y);
}

/// The gradient of [`relu_squared`], set or added: `dx = dy ⊙ 2·max(x, 0)`.
///
/// # Panics
/// If the lengths disagree.
pub fn relu_squared_backward(cpu: &Cpu, x: &[f32], dy: &[f32], dx: &mut [f32], store: Store) {
    unary_backward(cpu, Unary::ReluSquared, x, dy, dx, store);
}

// `0·x` in the forward ones is the rule of `finite.rs`: an infinite x has a finite result, and is to be seen.

/// `max(x, 0)`, but a NaN stays one (`f32::max` would hide it).
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

impl Operator<1> for ReluSquared {
    fn scalar([x]: [f32; 1]) -> f32 {
        relu(x) * relu(x) + 0.0 * x
    }

    #[inline(always)]
    fn vector<S: Simd>(s: S, [x]: [S::V; 1]) -> S::V {
        let positive = s.max(s.zero(), x);
        s.mul_add(x, s.zero(), s.mul(positive, positive))
    }

    fn scalar_backward([x]: [f32; 1], dy: f32) -> [f32; 1] {
        [dy * 2.0 * relu(x)]
    }

    #[inline(always)]
    fn vector_backward<S: Simd>(s: S, [x]: [S::V; 1], dy: S::V) -> [S::V; 1] {
        [s.mul(s.mul(dy, s.splat(2.0)), s.max(s.zero(), x))]
    }
}

/// `1/(1 + exp(−x))`.
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp::scalar_exp(-x))
}

/// [`sigmoid`], but NaN of what is infinite.
pub(super) fn finite_sigmoid(x: f32) -> f32 {
    sigmoid(x) + 0.0 * x
}

/// The same of the lanes of a vector.
#[inline(always)]
pub(super) fn finite_vector_sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    s.mul_add(x, s.zero(), exp::sigmoid(s, x))
}

impl Operator<1> for Sigmoid {
    fn scalar([x]: [f32; 1]) -> f32 {
        finite_sigmoid(x)
    }

    #[inline(always)]
    fn vector<S: Simd>(s: S, [x]: [S::V; 1]) -> S::V {
        finite_vector_sigmoid(s, x)
    }

    /// `σ(1 − σ)`, which cancels, as `e/(1 + e)²` with `e = exp(−|x|)`.
    fn scalar_backward([x]: [f32; 1], dy: f32) -> [f32; 1] {
        let e = exp::scalar_exp(-x.abs());
        [dy * (e / ((1.0 + e) * (1.0 + e)))]
    }

    #[inline(always)]
    fn vector_backward<S: Simd>(s: S, [x]: [S::V; 1], dy: S::V) -> [S::V; 1] {
        let e = exp::exp_nonpositive(s, s.neg_abs(x));
        let sum = s.add(s.splat(1.0), e);
        [s.mul(dy, s.div(e, s.mul(sum, sum)))]
    }
}

impl Operator<1> for Silu {
    fn scalar([x]: [f32; 1]) -> f32 {
        x * sigmoid(x)
    }

    #[inline(always)]
    fn vector<S: Simd>(s: S, [x]: [S::V; 1]) -> S::V {
        s.mul(x, exp::sigmoid(s, x))
    }

    /// `σ′ = σ(1 − σ)`, so `(x·σ)′ = σ·(1 + x·(1 − σ))`.
    fn scalar_backward([x]: [f32; 1], dy: f32) -> [f32; 1] {
        let gate = sigmoid(x);
        [dy * gate * (1.0 + x * (1.0 - gate))]
    }

    #[inline(always)]
    fn vector_backward<S: Simd>(s: S, [x]: [S::V; 1], dy: S::V) -> [S::V; 1] {
        let (gate, one) = (exp::sigmoid(s, x), s.splat(1.0));
        [s.mul(s.mul(dy, gate), s.mul_add(x, s.sub(one, gate), one))]
    }
}

impl Operator<1> for Tanh {
    fn scalar([x]: [f32; 1]) -> f32 {
        exp::scalar_tanh(x) + 0.0 * x
    }

    #[inline(always)]
    fn vector<S: Simd>(s: S, [x]: [S::V; 1]) -> S::V {
        s.mul_add(x, s.zero(), exp::tanh(s, x))
    }

    /// `1 − tanh²x`, which cancels, as `4e/(1 + e)²` with `e = exp(−2|x|)`.
    fn scalar_backward([x]: [f32; 1], dy: f32) -> [f32; 1] {
        let e = exp::scalar_exp(-2.0 * x.abs());
        [dy * (4.0 * e / ((1.0 + e) * (1.0 + e)))]
    }

    #[inline(always)]
    fn vector_backward<S: Simd>(s: S, [x]: [S::V; 1], dy: S::V) -> [S::V; 1] {
        let down = s.neg_abs(x);
        let e = exp::exp_nonpositive(s, s.add(down, down));
        let sum = s.add(s.splat(1.0), e);
        [s.mul(dy, s.div(s.mul(s.splat(4.0), e), s.mul(sum, sum)))]
    }
}
