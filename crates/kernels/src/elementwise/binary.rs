//! Operators of two inputs.

use super::unary::{finite_sigmoid, finite_vector_sigmoid, sigmoid};
use super::{Operator, backward, family, forward};
use crate::exp;
use crate::simd::Simd;
use crate::{Cpu, Store};

family!(
    /// An elementwise operator of two inputs; see [`binary`].
    Binary, 2, [
        /// `a + b`. Both gradients are dy itself: [`accumulate`](crate::accumulate) needs no values for them.
        Add,
        /// `a·b`.
        Mul,
        /// `σ(a)·b`: b through the gate a.
        SigmoidMul,
    ]
);

/// `y = f(a, b)`, element by element.
///
/// # Panics
/// If the lengths disagree.
pub fn binary(cpu: &Cpu, f: Binary, a: &[f32], b: &[f32], y: &mut [f32]) {
    f.forward(cpu, [a, b], y);
}

/// The gradients of [`binary`], each set or added: `da = dy ⊙ ∂f/∂a` and `db = dy ⊙ ∂f/∂b`.
///
/// # Panics
/// If the lengths disagree.
pub fn binary_backward(
    cpu: &Cpu,
    f: Binary,
    a: &[f32],
    b: &[f32],
    dy: &[f32],
    da: &mut [f32],
    da_store: Store,
    db: &mut [f32],
    db_store: Store,
) {
    f.backward(cpu, [a, b], dy, [(da, da_store), (db, db_store)]);
}

/// [`Binary::Add`]: `out = x + y`, element by element.
///
/// # Panics
/// If the lengths disagree.
pub fn add(cpu: &Cpu, x: &[f32], y: &[f32], out: &mut [f32]) {
    binary(cpu, Binary::Add, x, y, out);
}

/// [`Binary::SigmoidMul`]: `y = σ(r) ⊙ x`, element by element.
///
/// # Panics
/// If the lengths disagree.
pub fn sigmoid_mul(cpu: &Cpu, r: &[f32], x: &[f32], y: &mut [f32]) {
    binary(cpu, Binary::SigmoidMul, r, x, y);
}

/// The gradients of [`sigmoid_mul`], set or added: `dr = dy ⊙ x ⊙ σ(r)(1 − σ(r))`, `dx = dy ⊙ σ(r)`.
///
/// # Panics
/// If the lengths disagree.
pub fn sigmoid_mul_backward(
    cpu: &Cpu,
    r: &[f32],
    x: &[f32],
    dy: &[f32],
    dr: &mut [f32],
    dr_store: Store,
    dx: &mut [f32],
    dx_store: Store,
) {
    binary_backward(cpu, Binary::SigmoidMul, r, x, dy, dr, dr_store, dx, dx_store);
}

impl Operator<2> for Add {
    fn scalar([a, b]: [f32; 2]) -> f32 {
        a + b
    }

    #[inline(always)]
    fn vector<S: Simd>(s: S, [a, b]: [S::V; 2]) -> S::V {
        s.add(a, b)
    }

    fn scalar_backward(_: [f32; 2], dy: f32) -> [f32; 2] {
        [dy, dy]
    }

    #[inline(always)]
    fn vector_backward<S: Simd>(_: S, _: [S::V; 2], dy: S::V) -> [S::V; 2] {
        [dy, dy]
    }
}

impl Operator<2> for Mul {
    fn scalar([a, b]: [f32; 2]) -> f32 {
        a * b
    }

    #[inline(always)]
    fn vector<S: Simd>(s: S, [a, b]: [S::V; 2]) -> S::V {
        s.mul(a, b)
    }

    fn scalar_backward([a, b]: [f32; 2], dy: f32) -> [f32; 2] {
        [dy * b, dy * a]
    }

    #[inline(always)]
    fn vector_backward<S: Simd>(s: S, [a, b]: [S::V; 2], dy: S::V) -> [S::V; 2] {
        [s.mul(dy, b), s.mul(dy, a)]
    }
}

impl Operator<2> for SigmoidMul {
    fn scalar([a, b]: [f32; 2]) -> f32 {
        finite_sigmoid(a) * b
    }

    #[inline(always)]
    fn vector<S: Simd>(s: S, [a, b]: [S::V; 2]) -> S::V {
        s.mul(finite_vector_sigmoid(s, a), b)
    }

    fn scalar_backward([a, b]: [f32; 2], dy: f32) -> [f32; 2] {
        let gate = sigmoid(a);
        let db = dy * gate;
        [db * b * (1.0 - gate), db]
    }

    #[inline(always)]
    fn vector_backward<S: Simd>(s: S, [a, b]: [S::V; 2], dy: S::V) -> [S::V; 2] {
        let gate = exp::sigmoid(s, a);
        let db = s.mul(dy, gate);
        [s.mul(s.mul(db, b), s.sub(s.splat(1.0), gate)), db]
    }
}
