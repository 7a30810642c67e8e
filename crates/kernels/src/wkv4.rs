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
//! (Peng et al., <https://arxiv.org/abs/2305.13048>, equation 16; the stable form is that of its appendix D.)
//! Numerator and denominator are carried as `aa·exp(pp)` and `bb·exp(pp)` with `pp` their largest exponent,
//! so that every exponential is of a number ≤ 0 and nothing overflows whatever the keys. Of the two
//! exponentials that bring two terms to their larger exponent, one is always 1: one `exp(−|difference|)` and
//! a selection give both.
//!
//! Time runs inside, a vector of channels at a time: the recurrence itself, a maximum and two multiply-adds,
//! is short, and the processor overlaps the exponentials of neighbouring steps. Threads share segments and
//! tiles of channels.

mod backward;

use std::ops::Range;

pub use backward::{Wkv4Gradients, wkv4_backward};

use crate::block::{check_segments, rows};
use crate::exp::{exp_nonpositive, scalar_exp};
use crate::simd::{Operation, Simd, dispatch};
use crate::{Cpu, Parts};

/// Channels that one index of a parallel loop takes, over the rows of one segment.
const TILE: usize = 32;

/// Elements below which a call stays on the caller's thread: some 3 µs of work.
const ALONE: usize = 4096;

/// `pp` before the first token: far below any exponent, and no −∞, whose differences would be NaN.
const EMPTY: f32 = -1e30;

/// Inputs of the attention beside the state.
#[derive(Clone, Copy, Debug)]
pub struct Wkv4Inputs<'a> {
    /// (width): the decay of the exponent a step, −exp(time_decay).
    pub w: &'a [f32],
    /// (width): time_first, what the current token's exponent has on top of its key.
    pub u: &'a [f32],
    /// (rows, width): the keys.
    pub k: &'a [f32],
    /// (rows, width): the values.
    pub v: &'a [f32],
}

impl Wkv4Inputs<'_> {
    /// The width, once all lengths agree.
    fn check(&self, segments: &[Range<usize>]) -> usize {
        let width = self.w.len();
        check_segments(segments, rows(self.k.len(), width));
        assert_eq!(self.u.len(), width);
        assert_eq!(self.v.len(), self.k.len());
        width
    }
}

/// `y (rows, width)`: the attention above, of each segment of rows.
///
/// `states[i][at..at + 3·width]` holds aa, bb and pp of segment `i`, one after the other, and is moved
/// forward. With no states at all every segment starts from the initial state (0, 0, −1e30) and nothing is
/// left. Rows in no segment are left alone.
///
/// # Panics
/// If the lengths disagree, or the segments are not in ascending order.
pub fn wkv4(
    cpu: &Cpu,
    segments: &[Range<usize>],
    states: &mut [&mut [f32]],
    at: usize,
    inputs: Wkv4Inputs<'_>,
    y: &mut [f32],
) {
    let width = inputs.check(segments);
    assert_eq!(y.len(), inputs.k.len());
    assert!(states.is_empty() || states.len() == segments.len(), "a state for each segment, or none");
    let y = Parts::new(y);
    let states: Vec<_> = states.iter_mut().map(|state| Parts::new(&mut state[at..at + 3 * width])).collect();
    for_each_tile(cpu, segments.len(), width, inputs.k.len(), |segment, channels| {
        let state = states.get(segment).copied();
        let rows = segments[segment].clone();
        dispatch(cpu.isa(), Forward { rows, channels, state, inputs, y });
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
    inputs: Wkv4Inputs<'a>,
    y: Parts<'a, f32>,
}

impl Operation for Forward<'_> {
    type Output = ();

    fn scalar(self) {
        let Wkv4Inputs { w, u, k, v } = self.inputs;
        let width = w.len();
        for c in self.channels {
            let (w, u) = (w[c], u[c]);
            let (mut aa, mut bb, mut pp) = match &self.state {
                // SAFETY: this channel of this segment is ours alone; likewise below.
                Some(state) => unsafe {
                    (*state.item(c), *state.item(width + c), *state.item(2 * width + c))
                },
                None => (0.0, 0.0, EMPTY),
            };
            // The rule of `finite.rs`: of infinite exponents, exponentials are 0 or 1.
            bb += 0.0 * w + 0.0 * u;
            for row in self.rows.clone() {
                let i = row * width + c;
                let (k, v) = (k[i], v[i]);
                let q = pp.max(u + k);
                let (e1, e2) = (scalar_exp(pp - q) + 0.0 * (u + k), scalar_exp(u + k - q));
                // SAFETY: as above.
                *unsafe { self.y.item(i) } = (e1 * aa + e2 * v) / (e1 * bb + e2);
                let q = (pp + w).max(k);
                let (e1, e2) = (scalar_exp(pp + w - q) + 0.0 * k, scalar_exp(k - q));
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

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Range { mut start, end } = self.channels;
        while start + S::LANES <= end {
            self.lanes(s, start, S::LANES);
            start += S::LANES;
        }
        if start < end {
            self.lanes(s, start, end - start);
        }
    }
}

impl Forward<'_> {
    /// The `n` channels from `c` on.
    #[inline(always)]
    fn lanes<S: Simd>(&self, s: S, c: usize, n: usize) {
        let Wkv4Inputs { w, u, k, v } = self.inputs;
        let width = w.len();
        let (w, u) = (s.load(&w[c..c + n]), s.load(&u[c..c + n]));
        let mut moving = [s.zero(), s.zero(), s.splat(EMPTY)];
        if let Some(state) = &self.state {
            for (i, x) in moving.iter_mut().enumerate() {
                // SAFETY: these channels of this segment are ours alone; likewise below.
                *x = s.load(unsafe { state.part(i * width + c..i * width + c + n) });
            }
        }
        let [mut aa, mut bb, mut pp] = moving;
        // The rule of `finite.rs`, here and below: of infinite exponents, exponentials are 0 or 1.
        bb = s.add(bb, s.mul_add(w, s.zero(), s.mul(u, s.zero())));
        for row in self.rows.clone() {
            let i = row * width + c;
            let (k, v) = (s.load(&k[i..i + n]), s.load(&v[i..i + n]));
            let now = s.add(u, k);
            let (e1, e2, _) = weigh(s, pp, now);
            let e1 = s.mul_add(now, s.zero(), e1);
            let y = s.div(s.mul_add(e1, aa, s.mul(e2, v)), s.mul_add(e1, bb, e2));
            // SAFETY: as above.
            s.store(unsafe { self.y.part(i..i + n) }, y);
            let (e1, e2, q) = weigh(s, s.add(pp, w), k);
            let e1 = s.mul_add(k, s.zero(), e1);
            aa = s.mul_add(e1, aa, s.mul(e2, v));
            bb = s.mul_add(e1, bb, e2);
            pp = q;
        }
        if let Some(state) = &self.state {
            for (i, x) in [aa, bb, pp].into_iter().enumerate() {
                // SAFETY: as above.
                s.store(unsafe { state.part(i * width + c..i * width + c + n) }, x);
            }
        }
    }
}

/// `(exp(a − q), exp(b − q), q)` with `q = max(a, b)`.
#[inline(always)]
fn weigh<S: Simd>(s: S, a: S::V, b: S::V) -> (S::V, S::V, S::V) {
    let one = s.splat(1.0);
    let e = exp_nonpositive(s, s.neg_abs(s.sub(a, b)));
    let first = s.ge(a, b);
    (s.select(first, one, e), s.select(first, e, one), s.max(a, b))
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // one segment of many rows
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::{assert_close, every_tier, f64s, values};

    /// The sums at the head of this file as they stand, in f64: an independent O(T²). One segment from
    /// nothing.
    pub(super) fn exact(w: &[f64], u: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
        let nothing = [vec![0.0; 2 * w.len()], vec![-1e30; w.len()]].concat();
        exact_from(&nothing, w, u, k, v)
    }

    /// The same from a state: at the t-th token its sums aa·exp(pp) and bb·exp(pp) have decayed t times.
    pub(super) fn exact_from(state: &[f64], w: &[f64], u: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
        let width = w.len();
        let mut y = Vec::new();
        for i in 0..k.len() {
            let (t, c) = (i / width, i % width);
            let now = (u[c] + k[i]).exp();
            let before = (t as f64 * w[c] + state[2 * width + c]).exp();
            let mut a = before * state[c] + now * v[i];
            let mut b = before * state[width + c] + now;
            for s in 0..t {
                let weight = ((t - 1 - s) as f64 * w[c] + k[s * width + c]).exp();
                a += weight * v[s * width + c];
                b += weight;
            }
            y.push(a / b);
        }
        y
    }

    /// w in (−4, 0), u in (−2, 2), k in (−scale, scale), v in (−1, 1).
    pub(super) fn inputs(rows: usize, width: usize, scale: f32) -> [Vec<f32>; 4] {
        let w = values(1, width, 2.0).iter().map(|x| x - 2.0).collect();
        [w, values(2, width, 2.0), values(3, rows * width, scale), values(4, rows * width, 1.0)]
    }

    /// Rows and width as for the other kernels, but fewer: the scalar code is slow.
    pub(super) fn shapes() -> Vec<(usize, usize)> {
        let widths = [1, 3, 15, 16, 17, 31, 33, 128, 200];
        widths.into_iter().flat_map(|width| [0, 1, 2, 40].map(|rows| (rows, width))).collect()
    }

    /// Cuts `rows` into three segments, one of them empty.
    pub(super) fn segments(rows: usize) -> [Range<usize>; 3] {
        [0..rows / 3, rows / 3..rows / 3, rows / 3..rows]
    }

    /// y and the states after it, from the initial states.
    fn run(cpu: &Cpu, rows: usize, [w, u, k, v]: &[Vec<f32>; 4]) -> Vec<Vec<f32>> {
        let width = w.len();
        let mut y = vec![f32::NAN; rows * width];
        // Three values before and one behind, which must stay.
        let initial = [vec![7.0; 3], vec![0.0; 2 * width], vec![EMPTY; width], vec![7.0]].concat();
        let mut states = [initial.clone(), initial.clone(), initial];
        let mut slices = states.each_mut().map(Vec::as_mut_slice);
        wkv4(cpu, &segments(rows), &mut slices, 3, Wkv4Inputs { w, u, k, v }, &mut y);
        for state in &states {
            assert_eq!((&state[..3], &state[3 + 3 * width..]), (&[7.0; 3][..], &[7.0][..]));
        }
        let mut again = vec![f32::NAN; rows * width];
        wkv4(cpu, &segments(rows), &mut [], 0, Wkv4Inputs { w, u, k, v }, &mut again);
        assert_eq!(y, again, "without states");
        let [a, b, c] = states;
        vec![y, a, b, c]
    }

    #[test]
    fn every_tier_and_thread_count_agrees() {
        for (rows, width) in shapes() {
            let inputs = inputs(rows, width, 6.0);
            // Each exponential is good to a unit or two in the last place, and every step adds a rounding.
            let got = every_tier("wkv4", 1e-5, |cpu| run(cpu, rows, &inputs));
            let [w, u, k, v] = inputs.each_ref().map(|x| f64s(x));
            let want: Vec<_> = segments(rows)
                .into_iter()
                .flat_map(|rows| {
                    let range = rows.start * width..rows.end * width;
                    exact(&w, &u, &k[range.clone()], &v[range])
                })
                .collect();
            assert_close("wkv4", 1e-5, &got[0], &want);
        }
    }

    #[test]
    fn keys_of_eighty_either_way_are_no_trouble() {
        let (rows, width) = (9, 21);
        let mut inputs = inputs(rows, width, 1.0);
        inputs[2].iter_mut().for_each(|k| *k = 80.0_f32.copysign(*k));
        every_tier("wkv4", 1e-5, |cpu| {
            let mut y = vec![f32::NAN; rows * width];
            let [w, u, k, v] = &inputs;
            wkv4(cpu, &[0..rows], &mut [], 0, Wkv4Inputs { w, u, k, v }, &mut y);
            let [w, u, k, v] = inputs.each_ref().map(|x| f64s(x));
            assert_close("wkv4", 1e-5, &y, &exact(&w, &u, &k, &v));
            vec![y]
        });
    }

    /// However a text is cut, and whether its segments come one by one or side by side.
    #[test]
    fn chunks_with_a_carried_state_equal_the_whole_to_the_last_bit() {
        let (rows, width) = (48, 37);
        let [w, u, k, v] = &inputs(rows, width, 6.0);
        let initial = [vec![0.0; 2 * width], vec![EMPTY; width]].concat();
        for isa in Isa::available() {
            let cpu = Cpu::new(isa, 2);
            let mut whole = (vec![f32::NAN; rows * width], initial.clone());
            wkv4(&cpu, &[0..rows], &mut [&mut whole.1], 0, Wkv4Inputs { w, u, k, v }, &mut whole.0);
            for chunk in [1, 7, 16, 47] {
                let mut chunked = (vec![f32::NAN; rows * width], initial.clone());
                let (y, state) = (&mut chunked.0, &mut chunked.1);
                let chunks = k.chunks(chunk * width).zip(v.chunks(chunk * width));
                for ((k, v), y) in chunks.zip(y.chunks_mut(chunk * width)) {
                    wkv4(&cpu, &[0..k.len() / width], &mut [state], 0, Wkv4Inputs { w, u, k, v }, y);
                }
                assert_eq!(chunked, whole, "{isa}, chunks of {chunk}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "segment 1..3 after row 2")]
    fn segments_that_overlap_are_refused() {
        let inputs = Wkv4Inputs { w: &[-1.0], u: &[0.0], k: &[0.0; 3], v: &[0.0; 3] };
        wkv4(&Cpu::new(Isa::Scalar, 1), &[0..2, 1..3], &mut [], 0, inputs, &mut [0.0; 3]);
    }

    /// In its own output, and in the state from which every later one follows.
    #[test]
    fn an_infinite_input_shows() {
        let rows = 4;
        for isa in Isa::available() {
            for bad in [f32::INFINITY, f32::NEG_INFINITY] {
                for (input, row) in [(0, 0), (1, 0), (2, 1), (2, 3), (3, 1), (3, 3)] {
                    let width = 19;
                    let mut inputs = inputs(rows, width, 1.0);
                    inputs[input][row * width + 5] = bad;
                    let [w, u, k, v] = &inputs;
                    let mut state = [vec![0.0; 2 * width], vec![EMPTY; width]].concat();
                    let mut y = vec![0.0; rows * width];
                    let cpu = Cpu::new(isa, 1);
                    wkv4(&cpu, &[0..rows], &mut [&mut state], 0, Wkv4Inputs { w, u, k, v }, &mut y);
                    for (i, y) in y.iter().enumerate() {
                        let depends = i % width == 5 && i / width >= row;
                        assert_eq!(y.is_finite(), !depends, "{isa}, {bad}, input {input}, {row}: {i} is {y}");
                    }
                    let finite = (0..width).map(|c| (0..3).all(|part| state[part * width + c].is_finite()));
                    assert!(
                        finite.enumerate().all(|(c, finite)| finite != (c == 5)),
                        "{isa}, {bad}, {input}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_nan_in_a_key_shows() {
        for isa in Isa::available() {
            let mut y = [0.0; 3];
            let inputs = Wkv4Inputs { w: &[-1.0], u: &[0.0], k: &[0.0, f32::NAN, 0.0], v: &[1.0, 2.0, 3.0] };
            wkv4(&Cpu::new(isa, 1), &[0..3], &mut [], 0, inputs, &mut y);
            assert!((y[0] - 1.0).abs() < 1e-6 && y[1].is_nan(), "{isa}: {y:?}");
        }
    }
}
