//! The channel mix's activation: `y = max(x, 0)²` (So et al., <https://arxiv.org/abs/2109.08668>).

use crate::block::BLOCK;
use crate::simd::{Operation, Simd, dispatch};
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

/// `max(x, 0)`, but a NaN stays one (`f32::max` would hide it).
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

struct Forward<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Operation for Forward<'_> {
    type Output = ();

    fn scalar(self) {
        for i in 0..self.y.len() {
            let x = relu(self.x[i]);
            self.y[i] = x * x;
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in (0..self.y.len()).step_by(S::LANES) {
            let x = s.max(s.zero(), s.load(&self.x[i..]));
            s.store(&mut self.y[i..], s.mul(x, x));
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
            self.store.put(&mut self.dx[i], self.dy[i] * 2.0 * relu(self.x[i]));
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in (0..self.x.len()).step_by(S::LANES) {
            let x = s.max(s.zero(), s.load(&self.x[i..]));
            let dx = s.mul(s.mul(s.load(&self.dy[i..]), s.splat(2.0)), x);
            s.put(self.store, &mut self.dx[i..], dx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_gradient, dot, every_tier, set_and_add, shapes, values};

    #[test]
    fn every_tier_and_thread_count_agrees() {
        for (rows, width) in shapes() {
            let (x, dy) = (values(1, rows * width, 3.0), values(2, rows * width, 1.0));
            every_tier("relu_squared", 0.0, |cpu| {
                let mut y = vec![f32::NAN; x.len()];
                relu_squared(cpu, &x, &mut y);
                let dx = set_and_add(x.len(), |dx, store| relu_squared_backward(cpu, &x, &dy, dx, store));
                vec![y, dx]
            });
        }
    }

    #[test]
    fn the_backward_is_the_derivative() {
        let (x, dy) = (values(1, 37, 3.0), values(2, 37, 1.0));
        let got = every_tier("relu_squared_backward", 0.0, |cpu| {
            let mut dx = vec![f32::NAN; x.len()];
            relu_squared_backward(cpu, &x, &dy, &mut dx, Store::Set);
            vec![dx]
        });
        assert_gradient("dx", &x, &got[0], |x| {
            let y: Vec<_> = x.iter().map(|x| if *x > 0.0 { x * x } else { 0.0 }).collect();
            dot(&y, &dy)
        });
    }

    #[test]
    fn a_nan_stays_one() {
        for isa in crate::Isa::available() {
            let mut y = [0.0; 3];
            relu_squared(&Cpu::new(isa, 1), &[f32::NAN, -1.0, 3.0], &mut y);
            assert!(y[0].is_nan(), "{isa}");
            assert_eq!(y[1..], [0.0, 9.0], "{isa}");
        }
    }
}
