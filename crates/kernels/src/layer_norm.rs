//! Layer normalization (Ba, Kiros and Hinton, <https://arxiv.org/abs/1607.06450>).
//!
//! `y = h ⊙ weight + bias`, `h = (x − mean)·r`, `r = 1/√(variance + eps)`; mean and (biased) variance over each row.
//!
//! The variance is taken in a second pass over the row, which is still in the first-level cache, as the mean of
//! `(x − mean)²`: exact where the textbook's `E[x²] − E[x]²` cancels, and cheaper than Welford's running form, whose
//! division a step does not vectorize.

use crate::block::{elements, rows, rows_per_block, sum_rows};
use crate::simd::{Operation, dispatch};
use crate::{Cpu, Parts, Store};

/// `y (rows, width) = (x − mean)/√(variance + eps) ⊙ weight + bias`; x (rows, width), weight and bias (width).
///
/// # Panics
/// If the lengths disagree.
pub fn layer_norm(cpu: &Cpu, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    let width = weight.len();
    let rows = rows(x.len(), width);
    assert_eq!(bias.len(), width);
    assert_eq!(y.len(), x.len());
    let y = Parts::new(y);
    cpu.run_blocks(rows, rows_per_block(width), |rows| {
        let range = elements(&rows, width);
        // SAFETY: blocks of rows do not overlap.
        let y = unsafe { y.part(range.clone()) };
        dispatch(cpu.isa(), Forward { x: &x[range], weight, bias, eps, y });
    });
}

/// The gradients of [`layer_norm`]: `dx` (rows, width) is set or added to, `dweight` and `dbias` (width) are added to.
///
/// With `g = dy ⊙ weight` and means over the row, `dx = r·(g − mean(g) − h·mean(g ⊙ h))`; `dweight += Σ dy ⊙ h` and
/// `dbias += Σ dy` over the rows. Mean and variance are taken again from `x`: cheaper than to keep and load them.
///
/// # Panics
/// If the lengths disagree.
pub fn layer_norm_backward(
    cpu: &Cpu,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    store: Store,
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    let width = weight.len();
    let rows = rows(x.len(), width);
    assert_eq!(dy.len(), x.len());
    assert_eq!(dx.len(), x.len());
    let dx = Parts::new(dx);
    sum_rows(cpu, rows, width, [dweight, dbias], |rows, [dweight, dbias]| {
        let range = elements(&rows, width);
        // SAFETY: blocks of rows do not overlap.
        let dx = unsafe { dx.part(range.clone()) };
        let (x, dy) = (&x[range.clone()], &dy[range]);
        dispatch(cpu.isa(), Backward { x, weight, eps, dy, dx, store, dweight, dbias });
    });
}

struct Forward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl Operation for Forward<'_> {
    type Output = ();

    fn scalar(self) {
        let width = self.weight.len();
        for (x, y) in self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width)) {
            let (mean, r) = moments(x, self.eps);
            for i in 0..width {
                y[i] = (x[i] - mean) * r * self.weight[i] + self.bias[i];
            }
        }
    }
}

struct Backward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    dy: &'a [f32],
    dx: &'a mut [f32],
    store: Store,
    dweight: &'a mut [f32],
    dbias: &'a mut [f32],
}

impl Operation for Backward<'_> {
    type Output = ();

    fn scalar(self) {
        let width = self.weight.len();
        let rows = self.x.chunks_exact(width).zip(self.dy.chunks_exact(width));
        for ((x, dy), dx) in rows.zip(self.dx.chunks_exact_mut(width)) {
            let (mean, r) = moments(x, self.eps);
            let (mut mean_g, mut mean_gh) = (0.0, 0.0);
            for i in 0..width {
                let h = (x[i] - mean) * r;
                let g = dy[i] * self.weight[i];
                mean_g += g / width as f32;
                mean_gh += g * h / width as f32;
                self.dweight[i] += dy[i] * h;
                self.dbias[i] += dy[i];
            }
            for i in 0..width {
                let h = (x[i] - mean) * r;
                let g = dy[i] * self.weight[i];
                self.store.put(&mut dx[i], r * (g - mean_g - h * mean_gh));
            }
        }
    }
}

/// A row's mean and 1/√(variance + eps).
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = x.iter().sum::<f32>() / n;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
    (mean, 1.0 / (variance + eps).sqrt())
}
