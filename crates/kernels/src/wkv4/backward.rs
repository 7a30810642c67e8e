//! The gradients of [`wkv4`](super::wkv4).

use std::ops::Range;

use super::{EMPTY, for_each_tile, weigh};
use crate::block::{check_segments, rows};
use crate::exp::exp_nonpositive;
use crate::simd::{Operation, Simd, dispatch};
use crate::{Cpu, Parts, Store};

/// The gradients of [`wkv4`](super::wkv4) from the initial state: `dk` and `dv` (rows, width) are set or added to, `dw`
/// and `du` (width) are added to, the segments in order.
///
/// `y` is what the forward gave for `w`, `u`, `k`, `v`; `dw` is by w itself, so that d time_decay = dw·w. The first
/// pass goes forward in time with the recurrence and the derivatives `ga`, `gb` of aa and bb by w; it keeps, of each
/// step, `q = dy/denominator` and the exponent `p` that it is relative to. The second goes back: `a·exp(p)` and
/// `b·exp(p)` gather what a value and its weight do to all later outputs.
///
/// # Panics
/// If the lengths disagree, or the segments are not in ascending order.
pub fn wkv4_backward(
    cpu: &Cpu,
    segments: &[Range<usize>],
    w: &[f32],
    u: &[f32],
    k: &[f32],
    v: &[f32],
    y: &[f32],
    dy: &[f32],
    dw: &mut [f32],
    du: &mut [f32],
    dk: &mut [f32],
    dk_store: Store,
    dv: &mut [f32],
    dv_store: Store,
) {
    let width = w.len();
    check_segments(segments, rows(k.len(), width));
    for other in [u.len(), dw.len(), du.len()] {
        assert_eq!(other, width);
    }
    for other in [v.len(), y.len(), dy.len(), dk.len(), dv.len()] {
        assert_eq!(other, k.len());
    }
    let (dk, dv) = (Parts::new(dk), Parts::new(dv));
    // (segments, 2, width): each segment's dw and du.
    let mut sums = vec![0.0; segments.len() * 2 * width];
    let parts = Parts::new(&mut sums);
    for_each_tile(cpu, segments.len(), width, k.len(), |segment, channels| {
        let at = segment * 2 * width;
        // SAFETY: this tile of this segment has these sums to itself.
        let [dw, du] =
            [at, at + width].map(|at| unsafe { parts.part(at + channels.start..at + channels.end) });
        let rows = segments[segment].clone();
        let operation = Backward { rows, channels, w, u, k, v, y, dy, dw, du, dk, dk_store, dv, dv_store };
        dispatch(cpu.isa(), operation);
    });
    for sums in sums.chunks_exact(2 * width) {
        dw.iter_mut().zip(&sums[..width]).for_each(|(dw, sum)| *dw += sum);
        du.iter_mut().zip(&sums[width..]).for_each(|(du, sum)| *du += sum);
    }
}

/// One segment, one tile of channels. `dw` and `du` have the tile's channels; of `dk` and `dv` only the segment's rows
/// and the tile's channels are touched.
struct Backward<'a> {
    rows: Range<usize>,
    channels: Range<usize>,
    w: &'a [f32],
    u: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    y: &'a [f32],
    dy: &'a [f32],
    dw: &'a mut [f32],
    du: &'a mut [f32],
    dk: Parts<'a, f32>,
    dk_store: Store,
    dv: Parts<'a, f32>,
    dv_store: Store,
}

/// What the first pass keeps of a step.
#[derive(Clone, Copy)]
struct Step {
    q: f32,
    /// The exponent that numerator and denominator are relative to.
    p: f32,
    /// exp(u + k − p).
    e2: f32,
}

impl Operation for Backward<'_> {
    type Output = ();

    fn scalar(self) {
        let width = self.w.len();
        let mut steps = Vec::with_capacity(self.rows.len());
        for (n, c) in self.channels.enumerate() {
            let (w, u) = (self.w[c], self.u[c]);
            steps.clear();
            let (mut aa, mut bb, mut pp) = (0.0, 0.0, EMPTY);
            let (mut ga, mut gb) = (0.0, 0.0);
            for i in self.rows.clone().map(|row| row * width + c) {
                let (k, v, y) = (self.k[i], self.v[i], self.y[i]);
                let p = pp.max(u + k);
                let (e1, e2) = ((pp - p).exp(), (u + k - p).exp());
                let q = self.dy[i] / (e1 * bb + e2);
                steps.push(Step { q, p, e2 });
                self.dw[n] += (ga - gb * y) * e1 * q;
                self.du[n] += (v - y) * e2 * q;

                let p = (pp + w).max(k);
                let (e1, e2) = ((pp + w - p).exp(), (k - p).exp());
                ga = e1 * (aa + ga);
                gb = e1 * (bb + gb);
                aa = e1 * aa + e2 * v;
                bb = e1 * bb + e2;
                pp = p;
            }

            let (mut a, mut b, mut p) = (0.0, 0.0, EMPTY);
            for i in self.rows.clone().rev().map(|row| row * width + c) {
                let (k, v, y) = (self.k[i], self.v[i], self.y[i]);
                let Some(step) = steps.pop() else { break };
                let now = step.q * step.e2;
                // exp(k + p) ≤ 1: every later step's exponent is at least what k has decayed to, so k + p ≤ 0 but for
                // rounding.
                let later = (k + p).min(0.0).exp();
                // SAFETY: this channel of this segment is ours alone.
                let (dk, dv) = unsafe { (self.dk.item(i), self.dv.item(i)) };
                self.dk_store.put(dk, now * (v - y) + later * (a * v + b));
                self.dv_store.put(dv, now + later * a);

                let next = (w + p).max(-step.p);
                let (e1, e2) = ((w + p - next).exp(), step.q * (-step.p - next).exp());
                a = e1 * a + e2;
                b = e1 * b - e2 * y;
                p = next;
            }
        }
    }

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        // Of each step q, p and e2, in the order of the steps: a few KB that stay in the first-level cache.
        let mut steps = vec![0.0; self.rows.len() * 3 * S::LANES];
        let Range { mut start, end } = self.channels.clone();
        while start + S::LANES <= end {
            self.lanes(s, start, S::LANES, &mut steps);
            start += S::LANES;
        }
        if start < end {
            self.lanes(s, start, end - start, &mut steps);
        }
    }
}

impl Backward<'_> {
    /// The `n` channels from `c` on.
    #[inline(always)]
    fn lanes<S: Simd>(&mut self, s: S, c: usize, n: usize, steps: &mut [f32]) {
        let width = self.w.len();
        let (w, u) = (s.load(&self.w[c..c + n]), s.load(&self.u[c..c + n]));

        let (mut dw, mut du) = (s.zero(), s.zero());
        let (mut aa, mut bb, mut pp) = (s.zero(), s.zero(), s.splat(EMPTY));
        let (mut ga, mut gb) = (s.zero(), s.zero());
        for (row, step) in self.rows.clone().zip(steps.chunks_exact_mut(3 * S::LANES)) {
            let i = row * width + c;
            let (k, v) = (s.load(&self.k[i..i + n]), s.load(&self.v[i..i + n]));
            let (y, dy) = (s.load(&self.y[i..i + n]), s.load(&self.dy[i..i + n]));
            let (e1, e2, p) = weigh(s, pp, s.add(u, k));
            let q = s.div(dy, s.mul_add(e1, bb, e2));
            s.store(step, q);
            s.store(&mut step[S::LANES..], p);
            s.store(&mut step[2 * S::LANES..], e2);
            dw = s.mul_add(s.neg_mul_add(gb, y, ga), s.mul(e1, q), dw);
            du = s.mul_add(s.sub(v, y), s.mul(e2, q), du);

            let (e1, e2, p) = weigh(s, s.add(pp, w), k);
            ga = s.mul(e1, s.add(aa, ga));
            gb = s.mul(e1, s.add(bb, gb));
            aa = s.mul_add(e1, aa, s.mul(e2, v));
            bb = s.mul_add(e1, bb, e2);
            pp = p;
        }
        let at = c - self.channels.start;
        s.put(Store::Add, &mut self.dw[at..at + n], dw);
        s.put(Store::Add, &mut self.du[at..at + n], du);

        let (mut a, mut b, mut p) = (s.zero(), s.zero(), s.splat(EMPTY));
        for (row, step) in self.rows.clone().zip(steps.chunks_exact(3 * S::LANES)).rev() {
            let i = row * width + c;
            let (k, v, y) = (s.load(&self.k[i..i + n]), s.load(&self.v[i..i + n]), s.load(&self.y[i..i + n]));
            let (q, at, e2) = (s.load(step), s.load(&step[S::LANES..]), s.load(&step[2 * S::LANES..]));
            let now = s.mul(q, e2);
            // The order of the arguments lets a NaN through.
            let later = exp_nonpositive(s, s.min(s.zero(), s.add(k, p)));
            let dk = s.mul_add(now, s.sub(v, y), s.mul(later, s.mul_add(a, v, b)));
            let dv = s.mul_add(later, a, now);
            // SAFETY: these channels of this segment are ours alone.
            let (dk_out, dv_out) = unsafe { (self.dk.part(i..i + n), self.dv.part(i..i + n)) };
            s.put(self.dk_store, dk_out, dk);
            s.put(self.dv_store, dv_out, dv);

            let (e1, e2, next) = weigh(s, s.add(w, p), s.sub(s.zero(), at));
            let e2 = s.mul(q, e2);
            a = s.mul_add(e1, a, e2);
            b = s.neg_mul_add(e2, y, s.mul(e1, b));
            p = next;
        }
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // one segment of many rows
mod tests {
    use super::super::tests::{exact, inputs, segments, shapes};
    use super::super::wkv4;
    use super::*;
    use crate::testing::{assert_gradient, dot, every_tier, f64s, set_and_add, values};

    /// dw, du, dk, dv.
    fn run(cpu: &Cpu, segments: &[Range<usize>], [w, u, k, v]: &[Vec<f32>; 4], dy: &[f32]) -> Vec<Vec<f32>> {
        let len = k.len();
        let mut y = vec![f32::NAN; len];
        wkv4(cpu, segments, &mut [], 0, w, u, k, v, &mut y);
        let backward = |dk: &mut [f32], dk_store, dv: &mut [f32], dv_store| {
            let (mut dw, mut du) = (vec![0.5; w.len()], vec![0.5; w.len()]);
            wkv4_backward(cpu, segments, w, u, k, v, &y, dy, &mut dw, &mut du, dk, dk_store, dv, dv_store);
            [dw, du]
        };
        let dk = set_and_add(len, |dk, store| {
            backward(dk, store, &mut vec![0.0; len], Store::Set);
        });
        let dv = set_and_add(len, |dv, store| {
            backward(&mut vec![0.0; len], Store::Add, dv, store);
        });
        let mut sums = backward(&mut vec![0.0; len], Store::Set, &mut vec![0.0; len], Store::Set);
        // Parameters' gradients are added.
        sums.iter_mut().flatten().for_each(|sum| *sum -= 0.5);
        let [dw, du] = sums;
        vec![dw, du, dk, dv]
    }

    #[test]
    fn every_tier_and_thread_count_agrees() {
        for (rows, width) in shapes() {
            let (inputs, dy) = (inputs(rows, width, 6.0), values(5, rows * width, 1.0));
            // (v − y) cancels where one term outweighs the others, hence more than the forward's.
            every_tier("wkv4_backward", 5e-5, |cpu| run(cpu, &segments(rows), &inputs, &dy));
        }
    }

    fn check(rows: usize, width: usize, inputs: &[Vec<f32>; 4]) {
        let dy = values(5, rows * width, 1.0);
        let got = every_tier("wkv4_backward", 5e-5, |cpu| run(cpu, &[0..rows], inputs, &dy));
        let inputs64 = inputs.each_ref().map(|x| f64s(x));
        for (n, name) in ["dw", "du", "dk", "dv"].into_iter().enumerate() {
            assert_gradient(name, &inputs[n], &got[n], |x| {
                let [w, u, k, v] = std::array::from_fn(|i| if i == n { x } else { &inputs64[i][..] });
                dot(&exact(w, u, k, v), &dy)
            });
        }
    }

    #[test]
    fn the_backward_is_the_derivative() {
        for (rows, width) in [(1, 1), (2, 3), (12, 5), (5, 18)] {
            check(rows, width, &inputs(rows, width, 3.0));
        }
    }

    #[test]
    fn keys_of_eighty_either_way_are_no_trouble() {
        let (rows, width) = (8, 19);
        let mut inputs = inputs(rows, width, 1.0);
        inputs[2].iter_mut().for_each(|k| *k = 80.0_f32.copysign(*k));
        check(rows, width, &inputs);
    }
}
