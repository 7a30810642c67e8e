//! RWKV-4's attention: a decaying average of the values so far, weighted by the exponentials of the keys.
//!
//! For each channel alone, with w < 0 and the values before the first one empty,
//!
//! ```text
//!         Σ_{s<t} exp((t−1−s)·w + k_s)·v_s + exp(u + k_t)·v_t
//! y_t  =  ---------------------------------------------------
//!         Σ_{s<t} exp((t−1−s)·w + k_s)     + exp(u + k_t)
//! ```
//!
//! (Peng et al., <https://arxiv.org/abs/2305.13048>, equation 16; the stable form is that of its appendix D.) Numerator
//! and denominator are carried as `aa·exp(pp)` and `bb·exp(pp)` with `pp` their largest exponent, so that every
//! exponential is of a number ≤ 0 and nothing overflows whatever the keys. Of the two exponentials that bring two
//! terms to their larger exponent, one is always 1: one `exp(−|difference|)` and a selection give both.
//!
//! Time runs inside, a vector of channels at a time: the recurrence itself, a maximum and two multiply-adds, is
//! short, and the processor overlaps the exponentials of neighbouring steps. Threads share segments and tiles of
//! channels.

mod backward;

use std::ops::Range;

pub use backward::wkv4_backward;

use crate::block::{check_segments, rows};
use crate::simd::{Operation, dispatch};
use crate::{Cpu, Parts};

/// Channels that one index of a parallel loop takes, over the rows of one segment.
const TILE: usize = 32;

/// Elements below which a call stays on the caller's thread: some 3 µs of work.
const ALONE: usize = 4096;

/// `pp` before the first token: far below any exponent, and no −∞, whose differences would be NaN.
const EMPTY: f32 = -1e30;

/// `y (rows, width)`: the attention above, of each segment of rows; w and u (width), k and v (rows, width).
///
/// `w` is the decay of the exponent a step, −exp(time_decay); `u` is time_first. `states[i][at..at + 3·width]` holds
/// aa, bb and pp of segment `i`, one after the other, and is moved forward. With no states at all every segment starts
/// from the initial state (0, 0, −1e30) and nothing is left. Rows in no segment are left alone.
///
/// # Panics
/// If the lengths disagree.
pub fn wkv4(
    cpu: &Cpu,
    segments: &[Range<usize>],
    states: &mut [&mut [f32]],
    at: usize,
    w: &[f32],
    u: &[f32],
    k: &[f32],
    v: &[f32],
    y: &mut [f32],
) {
    let width = w.len();
    check_segments(segments, rows(k.len(), width));
    assert_eq!(u.len(), width);
    assert_eq!(v.len(), k.len());
    assert_eq!(y.len(), k.len());
    assert!(states.is_empty() || states.len() == segments.len(), "a state for each segment, or none");
    let y = Parts::new(y);
    let states: Vec<_> = states.iter_mut().map(|state| Parts::new(&mut state[at..at + 3 * width])).collect();
    for_each_tile(cpu, segments.len(), width, k.len(), |segment, channels| {
        let state = states.get(segment).copied();
        let rows = segments[segment].clone();
        dispatch(cpu.isa(), Forward { rows, channels, state, w, u, k, v, y });
    });
}

/// Runs `body(segment, channels)` for every segment and tile of channels.
fn for_each_tile(
    cpu: &Cpu,
    segments: usize,
    width: usize,
    elements: usize,
    body: impl Fn(usize, Range<usize>) + Sync,
) {
    let tiles = width.div_ceil(TILE);
    let tile = |index: usize| {
        let start = index % tiles * TILE;
        body(index / tiles, start..width.min(start + TILE));
    };
    if elements < ALONE {
        (0..segments * tiles).for_each(tile);
    } else {
        cpu.run(segments * tiles, tile);
    }
}

/// One segment, one tile of channels. Only those rows and channels of `y` and `state` are touched.
struct Forward<'a> {
    rows: Range<usize>,
    channels: Range<usize>,
    state: Option<Parts<'a, f32>>,
    w: &'a [f32],
    u: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    y: Parts<'a, f32>,
}

impl Operation for Forward<'_> {
    type Output = ();

    fn scalar(self) {
        let width = self.w.len();
        for c in self.channels {
            let (w, u) = (self.w[c], self.u[c]);
            let (mut aa, mut bb, mut pp) = match &self.state {
                // SAFETY: this channel of this segment is ours alone; likewise below.
                Some(state) => unsafe {
                    (*state.item(c), *state.item(width + c), *state.item(2 * width + c))
                },
                None => (0.0, 0.0, EMPTY),
            };
            for row in self.rows.clone() {
                let i = row * width + c;
                let (k, v) = (self.k[i], self.v[i]);
                let q = pp.max(u + k);
                let (e1, e2) = ((pp - q).exp(), (u + k - q).exp());
                // SAFETY: as above.
                *unsafe { self.y.item(i) } = (e1 * aa + e2 * v) / (e1 * bb + e2);
                let q = (pp + w).max(k);
                let (e1, e2) = ((pp + w - q).exp(), (k - q).exp());
                aa = e1 * aa + e2 * v;
                bb = e1 * bb + e2;
                pp = q;
            }
            if let Some(state) = &self.state {
                // SAFETY: as above.
                unsafe {
                    (*state.item(c), *state.item(width + c), *state.item(2 * width + c)) = (aa, bb, pp);
                }
            }
        }
    }
}
