//! Token-shift mixing: linear interpolation with a learned weight for each channel.
//!
//! `out_i = x ⊙ μ_i + y ⊙ (1 − μ_i)`, for several μ in one pass over x and y.

use crate::block::{elements, rows, rows_per_block, sum_rows};
use crate::simd::{Operation, dispatch};
use crate::{Cpu, Parts, Store};

/// `out_i (rows, width) = x ⊙ mix_i + y ⊙ (1 − mix_i)`; x and y (rows, width), each mix (width).
///
/// # Panics
/// If the lengths disagree.
pub fn lerp<const N: usize>(cpu: &Cpu, x: &[f32], y: &[f32], mix: [&[f32]; N], out: [&mut [f32]; N]) {
    let width = width_of(&mix);
    let rows = rows(x.len(), width);
    assert_eq!(y.len(), x.len());
    for out in &out {
        assert_eq!(out.len(), x.len());
    }
    let out = out.map(Parts::new);
    cpu.run_blocks(rows, rows_per_block(width), |rows| {
        let range = elements(&rows, width);
        // SAFETY: blocks of rows do not overlap.
        let out = out.map(|out| unsafe { out.part(range.clone()) });
        dispatch(cpu.isa(), Forward { x: &x[range.clone()], y: &y[range], mix, out });
    });
}

/// The gradients of [`lerp`]: `dx = Σ_i dout_i ⊙ mix_i` and `dy = Σ_i dout_i ⊙ (1 − mix_i)` (rows, width) are set or
/// added to; `dmix_i += Σ_rows dout_i ⊙ (x − y)` (width).
///
/// # Panics
/// If the lengths disagree.
pub fn lerp_backward<const N: usize>(
    cpu: &Cpu,
    x: &[f32],
    y: &[f32],
    mix: [&[f32]; N],
    dout: [&[f32]; N],
    dx: &mut [f32],
    dx_store: Store,
    dy: &mut [f32],
    dy_store: Store,
    dmix: [&mut [f32]; N],
) {
    let width = width_of(&mix);
    let rows = rows(x.len(), width);
    for len in [y.len(), dx.len(), dy.len()].into_iter().chain(dout.map(<[f32]>::len)) {
        assert_eq!(len, x.len());
    }
    let (dx, dy) = (Parts::new(dx), Parts::new(dy));
    sum_rows(cpu, rows, width, dmix, |rows, dmix| {
        let range = elements(&rows, width);
        // SAFETY: blocks of rows do not overlap.
        let (dx, dy) = unsafe { (dx.part(range.clone()), dy.part(range.clone())) };
        let dout = dout.map(|dout| &dout[range.clone()]);
        let (x, y) = (&x[range.clone()], &y[range.clone()]);
        dispatch(cpu.isa(), Backward { x, y, mix, dout, dx, dx_store, dy, dy_store, dmix });
    });
}

fn width_of<const N: usize>(mix: &[&[f32]; N]) -> usize {
    const { assert!(N > 0) };
    for other in mix {
        assert_eq!(other.len(), mix[0].len());
    }
    mix[0].len()
}

struct Forward<'a, const N: usize> {
    x: &'a [f32],
    y: &'a [f32],
    mix: [&'a [f32]; N],
    out: [&'a mut [f32]; N],
}

impl<const N: usize> Operation for Forward<'_, N> {
    type Output = ();

    fn scalar(self) {
        for (mix, out) in self.mix.into_iter().zip(self.out) {
            for i in 0..out.len() {
                let mix = mix[i % mix.len()];
                out[i] = self.x[i] * mix + self.y[i] * (1.0 - mix);
            }
        }
    }
}

struct Backward<'a, const N: usize> {
    x: &'a [f32],
    y: &'a [f32],
    mix: [&'a [f32]; N],
    dout: [&'a [f32]; N],
    dx: &'a mut [f32],
    dx_store: Store,
    dy: &'a mut [f32],
    dy_store: Store,
    dmix: [&'a mut [f32]; N],
}

impl<const N: usize> Operation for Backward<'_, N> {
    type Output = ();

    fn scalar(self) {
        let width = self.mix[0].len();
        for i in 0..self.x.len() {
            let channel = i % width;
            let (mut dx, mut dy) = (0.0, 0.0);
            for n in 0..N {
                let (dout, mix) = (self.dout[n][i], self.mix[n][channel]);
                dx += dout * mix;
                dy += dout * (1.0 - mix);
                self.dmix[n][channel] += dout * (self.x[i] - self.y[i]);
            }
            self.dx_store.put(&mut self.dx[i], dx);
            self.dy_store.put(&mut self.dy[i], dy);
        }
    }
}
