//! Operators on the heads of a row: stretches of `size` channels, each by itself.
//!
//! - [`group_norm`]: each head of mean 0 and variance 1, then a weight and a bias for each channel (Wu and He,
//!   <https://arxiv.org/abs/1803.08494>).
//! - [`unit_heads`]: each head of length 1.
//! - [`bonus`]: `v` times a number for each head, `Σ r·k·p` over its channels.

use std::ops::Range;

use crate::block::{BLOCK, elements, rows, rows_per_block, sum_rows};
use crate::layer_norm::{moments, vector_moments};
use crate::simd::{Operation, Simd, dispatch};
use crate::{Cpu, Parts, Store};

/// The least length of a head in [`unit_heads`].
const LEAST: f32 = 1e-12;

/// `y (rows, width) = (x − mean)/√(variance + eps) ⊙ weight + bias`, mean and variance over each head of `size`
/// channels; weight and bias (width).
///
/// # Panics
/// If the lengths disagree, or a row is no whole number of heads.
pub fn group_norm(cpu: &Cpu, x: &[f32], size: usize, weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    let width = weight.len();
    check(width, size);
    assert_eq!(bias.len(), width);
    assert_eq!(y.len(), x.len());
    let y = Parts::new(y);
    cpu.run_blocks(rows(x.len(), width), rows_per_block(width), |rows| {
        let range = elements(&rows, width);
        // SAFETY: blocks of rows do not overlap.
        let y = unsafe { y.part(range.clone()) };
        dispatch(cpu.isa(), Norm { x: &x[range], size, weight, bias, eps, y });
    });
}

/// The gradients of [`group_norm`]: `dx` (rows, width) is set or added to, `dweight` and `dbias` (width) are added
/// to. The formula is that of [`layer_norm_backward`](crate::layer_norm_backward), for each head.
///
/// # Panics
/// As [`group_norm`].
pub fn group_norm_backward(
    cpu: &Cpu,
    x: &[f32],
    size: usize,
    weight: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    store: Store,
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    let width = weight.len();
    check(width, size);
    assert!(dy.len() == x.len() && dx.len() == x.len());
    let dx = Parts::new(dx);
    sum_rows(cpu, rows(x.len(), width), width, [dweight, dbias], |rows, [dweight, dbias]| {
        let range = elements(&rows, width);
        // SAFETY: blocks of rows do not overlap.
        let dx = unsafe { dx.part(range.clone()) };
        let (x, dy) = (&x[range.clone()], &dy[range]);
        dispatch(cpu.isa(), NormBackward { x, size, weight, eps, dy, dx, store, dweight, dbias });
    });
}

/// `y = x/max(‖x‖, 1e-12)` for each head of `size` channels of x and y, (rows, width) each.
///
/// # Panics
/// If the lengths disagree, or a row is no whole number of heads.
pub fn unit_heads(cpu: &Cpu, x: &[f32], size: usize, y: &mut [f32]) {
    check(x.len(), size);
    assert_eq!(y.len(), x.len());
    let y = Parts::new(y);
    cpu.run_blocks(x.len() / size, (BLOCK / size).max(1), |heads| {
        let range = elements(&heads, size);
        // SAFETY: blocks of heads do not overlap.
        let y = unsafe { y.part(range.clone()) };
        dispatch(cpu.isa(), Unit { x: &x[range], size, y });
    });
}

/// The gradient of [`unit_heads`], set or added: `dx = (dy − y (y·dy))/‖x‖`, and `dy/1e-12` of a head that is no
/// longer than that.
///
/// # Panics
/// As [`unit_heads`].
pub fn unit_heads_backward(cpu: &Cpu, x: &[f32], size: usize, dy: &[f32], dx: &mut [f32], store: Store) {
    check(x.len(), size);
    assert!(dy.len() == x.len() && dx.len() == x.len());
    let dx = Parts::new(dx);
    cpu.run_blocks(x.len() / size, (BLOCK / size).max(1), |heads| {
        let range = elements(&heads, size);
        // SAFETY: blocks of heads do not overlap.
        let dx = unsafe { dx.part(range.clone()) };
        let (x, dy) = (&x[range.clone()], &dy[range]);
        dispatch(cpu.isa(), UnitBackward { x, size, dy, dx, store });
    });
}

/// Inputs of [`bonus`]: (rows, width) each but p, (width).
#[derive(Clone, Copy, Debug)]
pub struct BonusInputs<'a> {
    /// The receptance.
    pub r: &'a [f32],
    /// The key.
    pub k: &'a [f32],
    /// The value.
    pub v: &'a [f32],
    /// A weight for each channel.
    pub p: &'a [f32],
    /// Channels of a head.
    pub size: usize,
}

impl<'a> BonusInputs<'a> {
    fn check(&self, len: usize) {
        check(self.p.len(), self.size);
        assert!([self.r, self.k, self.v].iter().all(|x| x.len() == len));
    }

    fn part(self, range: Range<usize>) -> Self {
        let Self { r, k, v, .. } = self;
        let [r, k, v] = [r, k, v].map(|x: &'a [f32]| &x[range.clone()]);
        Self { r, k, v, ..self }
    }
}

/// `y = v (Σ r·k·p)`, the sum over each head: RWKV-7's bonus for the current token.
///
/// # Panics
/// If the lengths disagree, or a row is no whole number of heads.
pub fn bonus(cpu: &Cpu, inputs: BonusInputs<'_>, y: &mut [f32]) {
    inputs.check(y.len());
    let width = inputs.p.len();
    let rows = rows(y.len(), width);
    let y = Parts::new(y);
    cpu.run_blocks(rows, rows_per_block(width), |rows| {
        let range = elements(&rows, width);
        // SAFETY: blocks of rows do not overlap.
        let y = unsafe { y.part(range.clone()) };
        dispatch(cpu.isa(), Bonus { inputs: inputs.part(range), y });
    });
}

/// The gradients of [`bonus`]: of r, k and v (rows, width), each set or added, and `dp` (width), added to. With
/// `s = Σ r·k·p` and `ds = Σ dy·v`: `dv = dy·s`, `dr = ds·k·p`, `dk = ds·r·p`, `dp = Σ_rows ds·r·k`.
///
/// # Panics
/// As [`bonus`].
pub fn bonus_backward(
    cpu: &Cpu,
    inputs: BonusInputs<'_>,
    dy: &[f32],
    out: [(&mut [f32], Store); 3],
    dp: &mut [f32],
) {
    inputs.check(dy.len());
    let width = inputs.p.len();
    let out = out.map(|(out, store)| {
        assert_eq!(out.len(), dy.len());
        (Parts::new(out), store)
    });
    sum_rows(cpu, rows(dy.len(), width), width, [dp], |rows, [dp]| {
        let range = elements(&rows, width);
        // SAFETY: blocks of rows do not overlap.
        let out = out.map(|(out, store)| (unsafe { out.part(range.clone()) }, store));
        dispatch(cpu.isa(), BonusBackward { inputs: inputs.part(range.clone()), dy: &dy[range], out, dp });
    });
}

fn check(width: usize, size: usize) {
    assert!(size > 0 && width.is_multiple_of(size), "heads of {size} in {width}");
}

struct Norm<'a> {
    x: &'a [f32],
    size: usize,
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl Operation for Norm<'_> {
    type Output = ();

    fn scalar(self) {
        let heads = self.x.chunks_exact(self.size).zip(self.y.chunks_exact_mut(self.size));
        for ((x, y), channel) in heads.zip((0..self.weight.len()).step_by(self.size).cycle()) {
            let (mean, r) = moments(x, self.eps);
            for i in 0..self.size {
                y[i] = (x[i] - mean) * r * self.weight[channel + i] + self.bias[channel + i];
            }
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (width, size) = (self.weight.len(), self.size);
        for start in (0..self.x.len()).step_by(size) {
            let (x, y) = (&self.x[start..start + size], &mut self.y[start..start + size]);
            let channels = start % width..start % width + size;
            let (weight, bias) = (&self.weight[channels.clone()], &self.bias[channels]);
            let [(mean, r)] = vector_moments::<S, 1>(s, x, self.eps);
            for i in (0..size).step_by(S::LANES) {
                let h = s.mul(s.sub(s.load(&x[i..]), mean), r);
                s.store(&mut y[i..], s.mul_add(h, s.load(&weight[i..]), s.load(&bias[i..])));
            }
        }
    }
}

struct NormBackward<'a> {
    x: &'a [f32],
    size: usize,
    weight: &'a [f32],
    eps: f32,
    dy: &'a [f32],
    dx: &'a mut [f32],
    store: Store,
    dweight: &'a mut [f32],
    dbias: &'a mut [f32],
}

impl Operation for NormBackward<'_> {
    type Output = ();

    fn scalar(self) {
        let (width, size) = (self.weight.len(), self.size);
        for start in (0..self.x.len()).step_by(size) {
            let (x, dy) = (&self.x[start..start + size], &self.dy[start..start + size]);
            let channels = start % width..start % width + size;
            let weight = &self.weight[channels.clone()];
            let (dweight, dbias) = (&mut self.dweight[channels.clone()], &mut self.dbias[channels]);
            let (mean, r) = moments(x, self.eps);
            let (mut mean_g, mut mean_gh) = (0.0, 0.0);
            for i in 0..size {
                let h = (x[i] - mean) * r;
                let g = dy[i] * weight[i];
                mean_g += g / size as f32;
                mean_gh += g * h / size as f32;
                dweight[i] += dy[i] * h;
                dbias[i] += dy[i];
            }
            for i in 0..size {
                let h = (x[i] - mean) * r;
                self.store.put(&mut self.dx[start + i], r * (dy[i] * weight[i] - mean_g - h * mean_gh));
            }
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (width, size) = (self.weight.len(), self.size);
        for start in (0..self.x.len()).step_by(size) {
            let (x, dy) = (&self.x[start..start + size], &self.dy[start..start + size]);
            let dx = &mut self.dx[start..start + size];
            let channels = start % width..start % width + size;
            let weight = &self.weight[channels.clone()];
            let (dweight, dbias) = (&mut self.dweight[channels.clone()], &mut self.dbias[channels]);
            let [(mean, r)] = vector_moments::<S, 1>(s, x, self.eps);
            let (mut sum_g, mut sum_gh) = (s.zero(), s.zero());
            for i in (0..size).step_by(S::LANES) {
                // Lanes beyond the head hold the mean in x and 0 in dy, and add nothing.
                let h = s.mul(s.sub(s.load_or(&x[i..], mean), mean), r);
                let dy = s.load(&dy[i..]);
                let g = s.mul(dy, s.load(&weight[i..]));
                sum_g = s.add(sum_g, g);
                sum_gh = s.mul_add(g, h, sum_gh);
                s.put(Store::Add, &mut dweight[i..], s.mul(dy, h));
                s.put(Store::Add, &mut dbias[i..], dy);
            }
            let mean_g = s.splat(s.sum(sum_g) / size as f32);
            let mean_gh = s.splat(s.sum(sum_gh) / size as f32);
            for i in (0..size).step_by(S::LANES) {
                let h = s.mul(s.sub(s.load(&x[i..]), mean), r);
                let g = s.mul(s.load(&dy[i..]), s.load(&weight[i..]));
                s.put(self.store, &mut dx[i..], s.mul(r, s.neg_mul_add(h, mean_gh, s.sub(g, mean_g))));
            }
        }
    }
}

struct Unit<'a> {
    x: &'a [f32],
    size: usize,
    y: &'a mut [f32],
}

/// `1/max(length, 1e-12)` of a head whose squares sum to `squares`; NaN for an infinite sum, which would make zeros of
/// its channels.
fn inverse(squares: f32) -> f32 {
    1.0 / squares.sqrt().max(LEAST) + 0.0 * squares
}

impl Operation for Unit<'_> {
    type Output = ();

    fn scalar(self) {
        for (x, y) in self.x.chunks_exact(self.size).zip(self.y.chunks_exact_mut(self.size)) {
            let r = inverse(x.iter().map(|x| x * x).sum());
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x * r);
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, y) in self.x.chunks_exact(self.size).zip(self.y.chunks_exact_mut(self.size)) {
            let r = s.splat(inverse(dot(s, x, x)));
            for i in (0..x.len()).step_by(S::LANES) {
                s.store(&mut y[i..], s.mul(s.load(&x[i..]), r));
            }
        }
    }
}

/// `Σ a·b`.
#[inline(always)]
fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let mut sum = s.zero();
    for i in (0..a.len()).step_by(S::LANES) {
        sum = s.mul_add(s.load(&a[i..]), s.load(&b[i..]), sum);
    }
    s.sum(sum)
}

struct UnitBackward<'a> {
    x: &'a [f32],
    size: usize,
    dy: &'a [f32],
    dx: &'a mut [f32],
    store: Store,
}

/// With `r = 1/length`: r, and what x is multiplied by, `r³ (x·dy)`.
fn factors(squares: f32, along: f32) -> [f32; 2] {
    let r = inverse(squares);
    // At the least length r is a constant.
    [r, if squares.sqrt() > LEAST { r * (r * (r * along)) } else { 0.0 }]
}

impl Operation for UnitBackward<'_> {
    type Output = ();

    fn scalar(self) {
        let heads = self.x.chunks_exact(self.size).zip(self.dy.chunks_exact(self.size));
        for ((x, dy), dx) in heads.zip(self.dx.chunks_exact_mut(self.size)) {
            let along = x.iter().zip(dy).map(|(x, dy)| x * dy).sum();
            let [r, back] = factors(x.iter().map(|x| x * x).sum(), along);
            for i in 0..x.len() {
                self.store.put(&mut dx[i], dy[i] * r - x[i] * back);
            }
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let heads = self.x.chunks_exact(self.size).zip(self.dy.chunks_exact(self.size));
        for ((x, dy), dx) in heads.zip(self.dx.chunks_exact_mut(self.size)) {
            let [r, back] = factors(dot(s, x, x), dot(s, x, dy));
            let (r, back) = (s.splat(r), s.splat(back));
            for i in (0..x.len()).step_by(S::LANES) {
                let across = s.mul(s.load(&dy[i..]), r);
                s.put(self.store, &mut dx[i..], s.neg_mul_add(s.load(&x[i..]), back, across));
            }
        }
    }
}

struct Bonus<'a> {
    inputs: BonusInputs<'a>,
    y: &'a mut [f32],
}

impl Operation for Bonus<'_> {
    type Output = ();

    fn scalar(self) {
        let BonusInputs { r, k, v, p, size } = self.inputs;
        for (start, y) in (0..).step_by(size).zip(self.y.chunks_exact_mut(size)) {
            let channel = start % p.len();
            let sum: f32 = (0..size).map(|i| r[start + i] * k[start + i] * p[channel + i]).sum();
            (0..size).for_each(|i| y[i] = v[start + i] * sum);
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let BonusInputs { v, size, .. } = self.inputs;
        for (start, y) in (0..).step_by(size).zip(self.y.chunks_exact_mut(size)) {
            let sum = s.splat(head_sum(s, self.inputs, start));
            let v = &v[start..start + size];
            for i in (0..size).step_by(S::LANES) {
                s.store(&mut y[i..], s.mul(s.load(&v[i..]), sum));
            }
        }
    }
}

/// `Σ r·k·p` over the head from `start` on.
#[inline(always)]
fn head_sum<S: Simd>(s: S, BonusInputs { r, k, p, size, .. }: BonusInputs<'_>, start: usize) -> f32 {
    let [r, k] = [r, k].map(|x| &x[start..start + size]);
    let p = &p[start % p.len()..start % p.len() + size];
    let mut sum = s.zero();
    for i in (0..size).step_by(S::LANES) {
        sum = s.mul_add(s.mul(s.load(&r[i..]), s.load(&k[i..])), s.load(&p[i..]), sum);
    }
    s.sum(sum)
}

struct BonusBackward<'a> {
    inputs: BonusInputs<'a>,
    dy: &'a [f32],
    /// Of r, k and v.
    out: [(&'a mut [f32], Store); 3],
    dp: &'a mut [f32],
}

impl Operation for BonusBackward<'_> {
    type Output = ();

    fn scalar(self) {
        let BonusInputs { r, k, v, p, size } = self.inputs;
        let [dr, dk, dv] = self.out;
        for start in (0..self.dy.len()).step_by(size) {
            let channel = start % p.len();
            let range = start..start + size;
            let sum: f32 = range.clone().map(|i| r[i] * k[i] * p[channel + i - start]).sum();
            let ds: f32 = range.clone().map(|i| self.dy[i] * v[i]).sum();
            for i in range {
                let c = channel + i - start;
                dr.1.put(&mut dr.0[i], ds * k[i] * p[c]);
                dk.1.put(&mut dk.0[i], ds * r[i] * p[c]);
                dv.1.put(&mut dv.0[i], self.dy[i] * sum);
                self.dp[c] += ds * r[i] * k[i];
            }
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let BonusInputs { r, k, v, p, size } = self.inputs;
        let [dr, dk, dv] = self.out;
        for start in (0..self.dy.len()).step_by(size) {
            let range = start..start + size;
            let channels = start % p.len()..start % p.len() + size;
            let sum = s.splat(head_sum(s, self.inputs, start));
            let [r, k, v, dy] = [r, k, v, self.dy].map(|x| &x[range.clone()]);
            let ds = s.splat(dot(s, dy, v));
            let (p, dp) = (&p[channels.clone()], &mut self.dp[channels]);
            for i in (0..size).step_by(S::LANES) {
                let (r, k, p) = (s.load(&r[i..]), s.load(&k[i..]), s.load(&p[i..]));
                let of_p = s.mul(ds, p);
                s.put(dr.1, &mut dr.0[start + i..start + size], s.mul(of_p, k));
                s.put(dk.1, &mut dk.0[start + i..start + size], s.mul(of_p, r));
                s.put(dv.1, &mut dv.0[start + i..start + size], s.mul(s.load(&dy[i..]), sum));
                s.put(Store::Add, &mut dp[i..], s.mul(s.mul(ds, r), k));
            }
        }
    }
}

#[cfg(test)]
mod tests;
