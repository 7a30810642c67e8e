//! Layer normalization (Ba, Kiros and Hinton, <https://arxiv.org/abs/1607.06450>).
//!
//! `y = h ⊙ weight + bias`, `h = (x − mean)·r`, `r = 1/√(variance + eps)`; mean and (biased) variance over
//! each row.
//!
//! The variance is taken in a second pass over the row, which is still in the L1 cache, as the mean of
//! `(x − mean)²`: exact where the textbook's `E[x²] − E[x]²` cancels, and cheaper than Welford's running
//! form, whose division a step does not vectorize.

use crate::block::{elements, rows, rows_per_block, sum_rows};
use crate::simd::{Operation, Simd, dispatch};
use crate::{Cpu, Parts, Store};

/// `y (rows, width) = (x − mean)/√(variance + eps) ⊙ weight + bias`; x (rows, width), weight and bias
/// (width).
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

/// The gradients of [`layer_norm`]: `dx` (rows, width) is set or added to, `dweight` and `dbias` (width) are
/// added to.
///
/// With `g = dy ⊙ weight` and means over the row, `dx = r·(g − mean(g) − h·mean(g ⊙ h))`;
/// `dweight += Σ dy ⊙ h` and `dbias += Σ dy` over the rows. Mean and variance are recomputed from `x`:
/// cheaper than saving them for backward.
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

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let rows = self.x.len() / self.weight.len();
        for row in (0..rows - rows % GROUP).step_by(GROUP) {
            self.group::<S, GROUP>(s, row);
        }
        for row in rows - rows % GROUP..rows {
            self.group::<S, 1>(s, row);
        }
    }
}

/// Rows that are processed together: one row's sums are computed while another's wait (instruction-level
/// parallelism), and what is the same for all rows is loaded (`dweight` and `dbias` stored) once. A row's
/// arithmetic does not depend on it.
const GROUP: usize = 4;

impl Forward<'_> {
    #[inline(always)]
    fn group<S: Simd, const R: usize>(&mut self, s: S, row: usize) {
        let width = self.weight.len();
        let range = row * width..(row + R) * width;
        let (x, y) = (&self.x[range.clone()], &mut self.y[range]);
        let moments = vector_moments::<S, R>(s, x, self.eps);
        for i in (0..width).step_by(S::LANES) {
            let (weight, bias) = (s.load(&self.weight[i..]), s.load(&self.bias[i..]));
            for (j, (mean, r)) in moments.into_iter().enumerate() {
                let here = j * width + i..(j + 1) * width;
                let h = s.mul(s.sub(s.load(&x[here.clone()]), mean), r);
                s.store(&mut y[here], s.mul_add(h, weight, bias));
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

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let rows = self.x.len() / self.weight.len();
        for row in (0..rows - rows % GROUP).step_by(GROUP) {
            self.group::<S, GROUP>(s, row);
        }
        for row in rows - rows % GROUP..rows {
            self.group::<S, 1>(s, row);
        }
    }
}

impl Backward<'_> {
    #[inline(always)]
    fn group<S: Simd, const R: usize>(&mut self, s: S, row: usize) {
        let width = self.weight.len();
        let range = row * width..(row + R) * width;
        let (x, dy) = (&self.x[range.clone()], &self.dy[range.clone()]);
        let dx = &mut self.dx[range];

        let moments = vector_moments::<S, R>(s, x, self.eps);
        let (mut sum_g, mut sum_gh) = ([s.zero(); R], [s.zero(); R]);
        for i in (0..width).step_by(S::LANES) {
            let weight = s.load(&self.weight[i..]);
            let (mut dweight, mut dbias) = (s.load(&self.dweight[i..]), s.load(&self.dbias[i..]));
            for j in 0..R {
                let (mean, r) = moments[j];
                let here = j * width + i..(j + 1) * width;
                // Lanes beyond the width hold the mean in x and 0 in dy, and add nothing.
                let h = s.mul(s.sub(s.load_or(&x[here.clone()], mean), mean), r);
                let dy = s.load(&dy[here]);
                let g = s.mul(dy, weight);
                sum_g[j] = s.add(sum_g[j], g);
                sum_gh[j] = s.mul_add(g, h, sum_gh[j]);
                dweight = s.mul_add(dy, h, dweight);
                dbias = s.add(dbias, dy);
            }
            s.store(&mut self.dweight[i..], dweight);
            s.store(&mut self.dbias[i..], dbias);
        }
        for j in 0..R {
            let (mean, r) = moments[j];
            let mean_g = s.splat(s.sum(sum_g[j]) / width as f32);
            let mean_gh = s.splat(s.sum(sum_gh[j]) / width as f32);
            for i in (0..width).step_by(S::LANES) {
                let here = j * width + i..(j + 1) * width;
                let h = s.mul(s.sub(s.load(&x[here.clone()]), mean), r);
                let g = s.mul(s.load(&dy[here.clone()]), s.load(&self.weight[i..]));
                let centred = s.neg_mul_add(h, mean_gh, s.sub(g, mean_g));
                s.put(self.store, &mut dx[here], s.mul(r, centred));
            }
        }
    }
}

/// `1/√(variance + eps)`; NaN for an infinite variance, which would make a 0 of it and an output of `bias`.
#[inline(always)]
fn reciprocal(variance: f32, eps: f32) -> f32 {
    1.0 / (variance + eps).sqrt() + 0.0 * variance
}

/// A row's mean and 1/√(variance + eps).
pub(crate) fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = x.iter().sum::<f32>() / n;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
    (mean, reciprocal(variance, eps))
}

/// [`moments`] of each of R rows, in all lanes.
#[inline(always)]
pub(crate) fn vector_moments<S: Simd, const R: usize>(s: S, x: &[f32], eps: f32) -> [(S::V, S::V); R] {
    let width = x.len() / R;
    let n = width as f32;
    let (mut mean, mut squares) = ([s.zero(); R], [s.zero(); R]);
    for i in (0..width).step_by(S::LANES) {
        for j in 0..R {
            mean[j] = s.add(mean[j], s.load(&x[j * width + i..(j + 1) * width]));
        }
    }
    for mean in &mut mean {
        *mean = s.splat(s.sum(*mean) / n);
    }
    for i in (0..width).step_by(S::LANES) {
        for j in 0..R {
            let d = s.sub(s.load_or(&x[j * width + i..(j + 1) * width], mean[j]), mean[j]);
            squares[j] = s.mul_add(d, d, squares[j]);
        }
    }
    let mut moments = [(s.zero(), s.zero()); R];
    for j in 0..R {
        let variance = s.sum(squares[j]) / n;
        moments[j] = (mean[j], s.splat(reciprocal(variance, eps)));
    }
    moments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_gradient, dot, every_tier, f64s, set_and_add, shapes, values};

    const EPS: f32 = 1e-5;

    /// The formula, in f64.
    fn exact(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let n = weight.len() as f64;
        let mut y = Vec::new();
        for row in x.chunks_exact(weight.len()) {
            let mean = row.iter().sum::<f64>() / n;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let h = row.iter().map(|x| (x - mean) / (variance + f64::from(EPS)).sqrt());
            y.extend(h.zip(weight.iter().zip(bias)).map(|(h, (weight, bias))| h * weight + bias));
        }
        y
    }

    #[test]
    fn every_tier_and_thread_count_agrees() {
        for (rows, width) in shapes() {
            let (x, dy) = (values(1, rows * width, 2.0), values(2, rows * width, 1.0));
            let (weight, bias) = (values(3, width, 1.0), values(4, width, 1.0));
            let what = format!("layer_norm ({rows}, {width})");
            // Sums over the row and, for dweight, over thousands of rows, in another order.
            let got = every_tier(&what, 3e-5, |cpu| {
                let mut y = vec![f32::NAN; x.len()];
                layer_norm(cpu, &x, &weight, &bias, EPS, &mut y);
                let (mut dweight, mut dbias) = (vec![0.25; width], vec![0.25; width]);
                let mut dx = vec![f32::NAN; x.len()];
                layer_norm_backward(
                    cpu,
                    &x,
                    &weight,
                    EPS,
                    &dy,
                    &mut dx,
                    Store::Set,
                    &mut dweight,
                    &mut dbias,
                );
                vec![y, dx, dweight, dbias]
            });
            assert_close(&what, 1e-4, &got[0], &exact(&f64s(&x), &f64s(&weight), &f64s(&bias)));
        }
    }

    #[test]
    fn the_backward_is_the_derivative() {
        for (rows, width) in [(1, 3), (3, 5), (2, 17), (6, 9)] {
            let (x, dy) = (values(1, rows * width, 2.0), values(2, rows * width, 1.0));
            let (weight, bias) = (values(3, width, 1.0), values(4, width, 1.0));
            let loss = |x: &[f64], weight: &[f64], bias: &[f64]| dot(&exact(x, weight, bias), &dy);
            let got = every_tier("layer_norm_backward", 1e-5, |cpu| {
                let (mut dweight, mut dbias) = (vec![0.0; width], vec![0.0; width]);
                let mut dx = vec![f32::NAN; x.len()];
                layer_norm_backward(
                    cpu,
                    &x,
                    &weight,
                    EPS,
                    &dy,
                    &mut dx,
                    Store::Set,
                    &mut dweight,
                    &mut dbias,
                );
                let again = set_and_add(x.len(), |dx, store| {
                    let (dweight, dbias) = (&mut vec![0.0; width], &mut vec![0.0; width]);
                    layer_norm_backward(cpu, &x, &weight, EPS, &dy, dx, store, dweight, dbias);
                });
                assert_eq!(dx, again);
                vec![dx, dweight, dbias]
            });
            let (x64, weight64, bias64) = (f64s(&x), f64s(&weight), f64s(&bias));
            assert_gradient("dx", &x, &got[0], |x| loss(x, &weight64, &bias64));
            assert_gradient("dweight", &weight, &got[1], |weight| loss(&x64, weight, &bias64));
            assert_gradient("dbias", &bias, &got[2], |bias| loss(&x64, &weight64, bias));
        }
    }

    /// One token at a time, a chunk, a batch: a row has the same bits.
    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        for width in [1, 17, 128] {
            let (x, weight, bias) = (values(1, 7 * width, 2.0), values(2, width, 1.0), values(3, width, 1.0));
            for isa in crate::Isa::available() {
                let cpu = Cpu::new(isa, 1);
                let (mut together, mut alone) = (vec![0.0; 7 * width], vec![1.0; 7 * width]);
                layer_norm(&cpu, &x, &weight, &bias, EPS, &mut together);
                for (x, y) in x.chunks(width).zip(alone.chunks_mut(width)) {
                    layer_norm(&cpu, x, &weight, &bias, EPS, y);
                }
                assert_eq!(together, alone, "{isa}");
            }
        }
    }

    /// The squares of such a row are beyond a float's range, its values and its result are not.
    #[test]
    fn a_variance_that_overflows_shows() {
        for isa in crate::Isa::available() {
            for large in [1e20, -3e30, 3e38, f32::INFINITY, f32::NAN] {
                for width in [2, 16, 19] {
                    let mut x = values(1, 5 * width, 1.0);
                    x[width + 1] = large;
                    let mut y = vec![0.0; x.len()];
                    layer_norm(&Cpu::new(isa, 1), &x, &vec![1.0; width], &vec![0.0; width], EPS, &mut y);
                    for (row, y) in y.chunks(width).enumerate() {
                        assert!(y.iter().all(|y| y.is_finite() != (row == 1)), "{isa}, {large}: {y:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_large_mean_does_not_cancel_the_variance() {
        let x: Vec<f32> = (0..20).map(|i| 4096.0 + (i % 4) as f32).collect();
        every_tier("layer_norm of a large mean", 1e-6, |cpu| {
            let mut y = vec![0.0; 20];
            layer_norm(cpu, &x, &[1.0; 20], &[0.0; 20], EPS, &mut y);
            assert!((y[3] - 1.5 / (1.25 + EPS).sqrt()).abs() < 1e-6, "{y:?}");
            vec![y]
        });
    }
}
