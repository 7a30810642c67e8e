//! Gating: `y = σ(r) ⊙ x`, with `σ(r) = 1/(1 + exp(−r))`.

use crate::block::BLOCK;
use crate::exp;
use crate::simd::{Operation, Simd, dispatch};
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

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in (0..self.y.len()).step_by(S::LANES) {
            let y = s.mul(exp::sigmoid(s, s.load(&self.r[i..])), s.load(&self.x[i..]));
            s.store(&mut self.y[i..], y);
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

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let one = s.splat(1.0);
        for i in (0..self.r.len()).step_by(S::LANES) {
            let gate = exp::sigmoid(s, s.load(&self.r[i..]));
            let dx = s.mul(s.load(&self.dy[i..]), gate);
            let dr = s.mul(s.mul(dx, s.load(&self.x[i..])), s.sub(one, gate));
            s.put(self.dr_store, &mut self.dr[i..], dr);
            s.put(self.dx_store, &mut self.dx[i..], dx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_gradient, dot, every_tier, f64s, set_and_add, shapes, values};

    fn exact(r: &[f64], x: &[f64]) -> Vec<f64> {
        r.iter().zip(x).map(|(r, x)| x / (1.0 + (-r).exp())).collect()
    }

    /// y, dr, dx.
    fn run(cpu: &Cpu, r: &[f32], x: &[f32], dy: &[f32]) -> Vec<Vec<f32>> {
        let mut y = vec![f32::NAN; r.len()];
        sigmoid_mul(cpu, r, x, &mut y);
        let dr = set_and_add(r.len(), |dr, store| {
            sigmoid_mul_backward(cpu, r, x, dy, dr, store, &mut vec![0.0; r.len()], Store::Set);
        });
        let dx = set_and_add(r.len(), |dx, store| {
            sigmoid_mul_backward(cpu, r, x, dy, &mut vec![0.0; r.len()], Store::Add, dx, store);
        });
        vec![y, dr, dx]
    }

    #[test]
    fn every_tier_and_thread_count_agrees() {
        for (rows, width) in shapes() {
            let [r, x, dy] = [(1, 30.0), (2, 1.0), (3, 1.0)].map(|(s, scale)| values(s, rows * width, scale));
            // A few units in the last place of the exponential; 1 − σ cancels to as many of 1.
            let got = every_tier("sigmoid_mul", 1e-6, |cpu| run(cpu, &r, &x, &dy));
            assert_close("y", 1e-6, &got[0], &exact(&f64s(&r), &f64s(&x)));
        }
    }

    #[test]
    fn the_backward_is_the_derivative() {
        let [r, x, dy] = [(1, 5.0), (2, 2.0), (3, 1.0)].map(|(seed, scale)| values(seed, 37, scale));
        let got = every_tier("sigmoid_mul_backward", 1e-6, |cpu| run(cpu, &r, &x, &dy));
        assert_gradient("dr", &r, &got[1], |r| dot(&exact(r, &f64s(&x)), &dy));
        assert_gradient("dx", &x, &got[2], |x| dot(&exact(&f64s(&r), x), &dy));
    }
}
