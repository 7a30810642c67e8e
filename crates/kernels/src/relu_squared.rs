//! The channel mix's activation: `y = max(x, 0)²` (So et al., <https://arxiv.org/abs/2109.08668>).

use crate::block::BLOCK;
use crate::simd::{Operation, dispatch};
use crate::{Cpu, Parts, Store};

/// `y = max(x, 0)²`, element by element.
///
/// # Panics
/// If the lengths disagree.
pub fn relu_squared(cpu: &Cpu, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    let len = y.len();
    let y = Parts::new(y);
    cpu.run_blocks(len, BLOCK, |range| {
        // SAFETY: blocks do not overlap.
        let y = unsafe { y.part(range.clone()) };
        dispatch(cpu.isa(), Forward { x: &x[range], y });
    });
}

/// The gradient of [`relu_squared`], set or added: `dx = dy ⊙ 2·max(x, 0)`.
///
/// # Panics
/// If the lengths disagree.
pub fn relu_squared_backward(cpu: &Cpu, x: &[f32], dy: &[f32], dx: &mut [f32], store: Store) {
    assert_eq!(dy.len(), x.len());
    assert_eq!(dx.len(), x.len());
    let dx = Parts::new(dx);
    cpu.run_blocks(x.len(), BLOCK, |range| {
        // SAFETY: blocks do not overlap.
        let dx = unsafe { dx.part(range.clone()) };
        dispatch(cpu.isa(), Backward { x: &x[range.clone()], dy: &dy[range], dx, store });
    });
}

struct Forward<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Operation for Forward<'_> {
    type Output = ();

    fn scalar(self) {
        for i in 0..self.y.len() {
            let x = self.x[i].max(0.0);
            self.y[i] = x * x;
        }
    }
}

struct Backward<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
    store: Store,
}

impl Operation for Backward<'_> {
    type Output = ();

    fn scalar(self) {
        for i in 0..self.x.len() {
            self.store.put(&mut self.dx[i], self.dy[i] * 2.0 * self.x[i].max(0.0));
        }
    }
}
