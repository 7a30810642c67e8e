//! Token-shift mixing: linear interpolation with a learned weight for each channel.
//!
//! `out_i = x ⊙ μ_i + y ⊙ (1 − μ_i)`, for several μ in one pass over x and y.

use crate::block::{elements, rows, rows_per_block, sum_rows};
use crate::simd::{Operation, Simd, dispatch};
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

/// The gradients of [`lerp`]: `dx = Σ_i dout_i ⊙ mix_i` and `dy = Σ_i dout_i ⊙ (1 − mix_i)` (rows, width) are
/// set or added to; `dmix_i += Σ_rows dout_i ⊙ (x − y)` (width).
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

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (width, one) = (self.mix[0].len(), s.splat(1.0));
        for start in (0..self.x.len()).step_by(width) {
            let row = start..start + width;
            let (x, y) = (&self.x[row.clone()], &self.y[row.clone()]);
            for i in (0..width).step_by(S::LANES) {
                let (x, y) = (s.load(&x[i..]), s.load(&y[i..]));
                for n in 0..N {
                    let mix = s.load(&self.mix[n][i..]);
                    let out = s.mul_add(x, mix, s.mul(y, s.sub(one, mix)));
                    s.store(&mut self.out[n][row.clone()][i..], out);
                }
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

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let rows = self.x.len() / self.mix[0].len();
        for row in (0..rows - rows % GROUP).step_by(GROUP) {
            self.group::<S, GROUP>(s, row);
        }
        for row in rows - rows % GROUP..rows {
            self.group::<S, 1>(s, row);
        }
    }
}

/// Rows of the backward that are processed together, so that `mix` is loaded, and `dmix` loaded and stored,
/// once for all of them. Each sum is still over the rows in order.
const GROUP: usize = 4;

impl<const N: usize> Backward<'_, N> {
    #[inline(always)]
    fn group<S: Simd, const R: usize>(&mut self, s: S, first: usize) {
        let (width, one) = (self.mix[0].len(), s.splat(1.0));
        for i in (0..width).step_by(S::LANES) {
            let (mut mix, mut dmix) = ([s.zero(); N], [s.zero(); N]);
            for n in 0..N {
                mix[n] = s.load(&self.mix[n][i..]);
                dmix[n] = s.load(&self.dmix[n][i..]);
            }
            for row in first..first + R {
                let here = row * width + i..(row + 1) * width;
                let difference = s.sub(s.load(&self.x[here.clone()]), s.load(&self.y[here.clone()]));
                let (mut dx, mut dy) = (s.zero(), s.zero());
                for n in 0..N {
                    let dout = s.load(&self.dout[n][here.clone()]);
                    dx = s.mul_add(dout, mix[n], dx);
                    dy = s.mul_add(dout, s.sub(one, mix[n]), dy);
                    dmix[n] = s.mul_add(dout, difference, dmix[n]);
                }
                s.put(self.dx_store, &mut self.dx[here.clone()], dx);
                s.put(self.dy_store, &mut self.dy[here], dy);
            }
            for (into, sum) in self.dmix.iter_mut().zip(dmix) {
                s.store(&mut into[i..], sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_gradient, dot, every_tier, f64s, set_and_add, shapes, values};

    /// The first output of lerp for (x, y, mix), in f64.
    fn exact(x: &[f64], y: &[f64], mix: &[f64]) -> Vec<f64> {
        let mix = mix.iter().cycle();
        x.iter().zip(y).zip(mix).map(|((x, y), mix)| x * mix + y * (1.0 - mix)).collect()
    }

    struct Data {
        x: Vec<f32>,
        y: Vec<f32>,
        mix: [Vec<f32>; 3],
        dout: [Vec<f32>; 3],
    }

    impl Data {
        fn new(rows: usize, width: usize) -> Self {
            let rows = |seed| values(seed, rows * width, 1.0);
            let mix = |seed| values(seed, width, 1.2);
            Self { x: rows(1), y: rows(2), mix: [mix(3), mix(4), mix(5)], dout: [rows(6), rows(7), rows(8)] }
        }

        /// out (3), dx, dy, dmix (3).
        fn run(&self, cpu: &Cpu) -> Vec<Vec<f32>> {
            let (len, width) = (self.x.len(), self.mix[0].len());
            let mix = self.mix.each_ref().map(Vec::as_slice);
            let dout = self.dout.each_ref().map(Vec::as_slice);
            let mut out = [vec![f32::NAN; len], vec![f32::NAN; len], vec![f32::NAN; len]];
            lerp(cpu, &self.x, &self.y, mix, out.each_mut().map(Vec::as_mut_slice));

            let (mut other, mut dmix) =
                (vec![0.0; len], [vec![0.0; width], vec![0.0; width], vec![0.0; width]]);
            let dx = set_and_add(len, |dx, store| {
                let mut dmix = dmix.clone();
                let dmix = dmix.each_mut().map(Vec::as_mut_slice);
                let dy = &mut vec![0.0; len];
                lerp_backward(cpu, &self.x, &self.y, mix, dout, dx, store, dy, Store::Set, dmix);
            });
            let dy = set_and_add(len, |dy, store| {
                let mut dmix = dmix.clone();
                let dmix = dmix.each_mut().map(Vec::as_mut_slice);
                let dx = &mut vec![0.0; len];
                lerp_backward(cpu, &self.x, &self.y, mix, dout, dx, Store::Add, dy, store, dmix);
            });
            let sums = dmix.each_mut().map(Vec::as_mut_slice);
            let scratch = &mut vec![0.0; len];
            lerp_backward(
                cpu,
                &self.x,
                &self.y,
                mix,
                dout,
                scratch,
                Store::Set,
                &mut other,
                Store::Set,
                sums,
            );
            out.into_iter().chain([dx, dy]).chain(dmix).collect()
        }
    }

    #[test]
    fn every_tier_and_thread_count_agrees() {
        for (rows, width) in shapes() {
            // A multiply-add rounds once where scalar code rounds twice; dmix sums thousands of rows.
            every_tier(&format!("lerp ({rows}, {width})"), 1e-5, |cpu| Data::new(rows, width).run(cpu));
        }
    }

    #[test]
    fn the_backward_is_the_derivative() {
        for (rows, width) in [(1, 1), (6, 5), (3, 17)] {
            let data = Data::new(rows, width);
            let (x, y) = (f64s(&data.x), f64s(&data.y));
            let mix = data.mix.each_ref().map(|mix| f64s(mix));
            let loss = |x: &[f64], y: &[f64], mix: [&[f64]; 3]| -> f64 {
                mix.iter().zip(&data.dout).map(|(mix, dout)| dot(&exact(x, y, mix), dout)).sum()
            };
            let mixes = || mix.each_ref().map(Vec::as_slice);
            let got = every_tier("lerp_backward", 1e-5, |cpu| data.run(cpu));
            assert_gradient("dx", &data.x, &got[3], |x| loss(x, &y, mixes()));
            assert_gradient("dy", &data.y, &got[4], |y| loss(&x, y, mixes()));
            for n in 0..3 {
                assert_gradient("dmix", &data.mix[n], &got[5 + n], |mix| {
                    let mut mixes = mixes();
                    mixes[n] = mix;
                    loss(&x, &y, mixes)
                });
            }
        }
    }

    #[test]
    fn weights_of_one_and_zero_choose() {
        let (x, y) = ([1.1, 2.2, 3.3, 4.4], [1e9, -1e9, 1e-9, 0.0]);
        every_tier("lerp", 0.0, |cpu| {
            let (mut all, mut none) = ([0.0; 4], [1.0; 4]);
            lerp(cpu, &x, &y, [&[1.0; 2], &[0.0; 2]], [&mut all, &mut none]);
            assert_eq!((all, none), (x, y));
            vec![]
        });
    }
}
