//! The gradients of [`wkv4`](super::wkv4).

use std::ops::Range;

use super::{EMPTY, for_each_tile};
use crate::block::{check_segments, rows};
use crate::simd::{Operation, dispatch};
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
/// If the lengths disagree.
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
}
