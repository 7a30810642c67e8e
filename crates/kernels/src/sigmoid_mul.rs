//! Gating: `y = σ(r) ⊙ x`, with `σ(r) = 1/(1 + exp(−r))`.

use crate::block::BLOCK;
use crate::simd::{Operation, dispatch};
use crate::{Cpu, Parts, Store};

/// `y = σ(r) ⊙ x`, element by element.
///
/// # Panics
/// If the lengths disagree.
pub fn sigmoid_mul(cpu: &Cpu, r: &[f32], x: &[f32], y: &mut [f32]) {
    assert_eq!(r.len(), y.len());
    assert_eq!(x.len(), y.len());
    let len = y.len();
    let y = Parts::new(y);
    cpu.run_blocks(len, BLOCK, |range| {
        // SAFETY: blocks do not overlap.
        let y = unsafe { y.part(range.clone()) };
        dispatch(cpu.isa(), Forward { r: &r[range.clone()], x: &x[range], y });
    });
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
    let len = r.len();
    for other in [x.len(), dy.len(), dr.len(), dx.len()] {
        assert_eq!(other, len);
    }
    let (dr, dx) = (Parts::new(dr), Parts::new(dx));
    cpu.run_blocks(len, BLOCK, |range| {
        // SAFETY: blocks do not overlap.
        let (dr, dx) = unsafe { (dr.part(range.clone()), dx.part(range.clone())) };
        let (r, x, dy) = (&r[range.clone()], &x[range.clone()], &dy[range]);
        dispatch(cpu.isa(), Backward { r, x, dy, dr, dr_store, dx, dx_store });
    });
}

fn sigmoid(r: f32) -> f32 {
    1.0 / (1.0 + (-r).exp())
}

struct Forward<'a> {
    r: &'a [f32],
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Operation for Forward<'_> {
    type Output = ();

    fn scalar(self) {
        for i in 0..self.y.len() {
            self.y[i] = sigmoid(self.r[i]) * self.x[i];
        }
    }
}

struct Backward<'a> {
    r: &'a [f32],
    x: &'a [f32],
    dy: &'a [f32],
    dr: &'a mut [f32],
    dr_store: Store,
    dx: &'a mut [f32],
    dx_store: Store,
}

impl Operation for Backward<'_> {
    type Output = ();

    fn scalar(self) {
        for i in 0..self.r.len() {
            let s = sigmoid(self.r[i]);
            let dx = self.dy[i] * s;
            self.dr_store.put(&mut self.dr[i], dx * self.x[i] * (1.0 - s));
            self.dx_store.put(&mut self.dx[i], dx);
        }
    }
}
