//! The gradient of RWKV-7's attention.
//!
//! With G the gradient of the loss by S after a token, from that token's y and all later ones, S′ the state before
//! the token, S that after it, `taken = −S′ κ` and `b = κ ⊙ a`, one head:
//!
//! ```text
//! G  += dy rᵀ                     dr = Sᵀ dy
//! dk  = Gᵀ v                      dv = G k
//! dtaken = G b                    db = Gᵀ taken
//! dw  = Σ_i G ⊙ S′                dκ = −S′ᵀ dtaken + db ⊙ a,    da = db ⊙ κ
//! G  ← G diag(w) − dtaken κᵀ
//! ```
//!
//! The states are not kept by the forward pass. As there, four rows of S go through the whole segment at a time: once
//! forward, which leaves a state every [`STEPS`] tokens, and then backward in stretches of so many, whose states are
//! computed again and stay in the L1 cache (Chen et al., <https://arxiv.org/abs/1604.06174>). That is the same
//! arithmetic as forward, so the states are the same to the last bit.

use std::cell::RefCell;
use std::ops::Range;

use super::{MOST_HEAD, TILE, TILE_LEN, Token, Wkv7Inputs, get, into_tile, of_tile, stride, taken, values};
use crate::simd::{Operation, Simd, dispatch};
use crate::{Cpu, Parts, Store};

/// Tokens between two states that are left on the way forward.
const STEPS: usize = 16;

/// Where the gradients go: each (rows, width), set or added to.
#[derive(Debug)]
pub struct Wkv7Gradients<'a, 's> {
    /// By r.
    pub dr: (&'a mut [f32], Store),
    /// By w.
    pub dw: (&'a mut [f32], Store),
    /// By k.
    pub dk: (&'a mut [f32], Store),
    /// By v.
    pub dv: (&'a mut [f32], Store),
    /// By κ.
    pub dkk: (&'a mut [f32], Store),
    /// By a.
    pub da: (&'a mut [f32], Store),
    /// By the state of each segment before its first token, (heads, N, N) each, added to; or none at all.
    pub dstates: &'a mut [&'s mut [f32]],
}

/// The gradients of [`wkv7`](super::wkv7), given `dy` (rows, width).
///
/// `states` are those from which the segments began, or none where that was zeros. Rows in no segment are left alone.
///
/// # Panics
/// If the lengths disagree, or the segments are not in ascending order.
pub fn wkv7_backward(
    cpu: &Cpu,
    segments: &[Range<usize>],
    states: &[&[f32]],
    inputs: Wkv7Inputs<'_>,
    dy: &[f32],
    wanted: Wkv7Gradients<'_, '_>,
) {
    let heads = inputs.check(segments);
    let Wkv7Gradients { dr, dw, dk, dv, dkk, da, dstates } = wanted;
    assert_eq!(dy.len(), inputs.r.len());
    assert!(states.is_empty() || states.len() == segments.len(), "a state for each segment, or none");
    assert!(dstates.is_empty() || dstates.len() == segments.len(), "a gradient for each state, or none");
    let len = inputs.width * inputs.head;
    let all = states.iter().map(|state| state.len()).chain(dstates.iter().map(|state| state.len()));
    all.for_each(|of_state| assert_eq!(of_state, len, "floats of a state"));
    let outs = [dr, dw, dk, dv, dkk, da].map(|(out, store)| {
        assert_eq!(out.len(), dy.len());
        (Parts::new(out), store)
    });
    let dstates: Vec<_> = dstates.iter_mut().map(|state| Parts::new(state)).collect();
    let head = |index: usize| {
        let segment = index / heads;
        SCRATCH.with_borrow_mut(|scratch| {
            let task = Backward {
                rows: segments[segment].clone(),
                head: index % heads,
                state: states.get(segment).copied(),
                inputs,
                dy,
                outs,
                dstate: dstates.get(segment).copied(),
                scratch,
            };
            dispatch(cpu.isa(), task);
        });
    };
    cpu.run(segments.len() * heads, head);
}

/// One head of one segment. Only those channels of the outputs and that part of `dstate` are touched.
struct Backward<'a> {
    rows: Range<usize>,
    head: usize,
    state: Option<&'a [f32]>,
    inputs: Wkv7Inputs<'a>,
    dy: &'a [f32],
    outs: [(Parts<'a, f32>, Store); 6],
    dstate: Option<Parts<'a, f32>>,
    scratch: &'a mut Scratch,
}

/// What one thread computes with, kept for the next head.
#[derive(Default)]
struct Scratch {
    /// States of the tile before every [`STEPS`]th token, one after the other, and `taken` of each token.
    left: Vec<f32>,
    taken: Vec<[f32; TILE]>,
    /// The states before the tokens of a stretch, and after the last, likewise.
    states: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Operation for Backward<'_> {
    type Output = ();

    #[allow(clippy::needless_range_loop)] // as the equations are written
    fn scalar(self) {
        let n = self.inputs.head;
        for i in 0..n {
            let mut s = self.row(i);
            let (mut states, mut taken) = (vec![s], Vec::new());
            for row in self.rows.clone() {
                let t = self.token(row);
                taken.push(-(0..n).map(|j| s[j] * t.kk[j]).sum::<f32>());
                let taken = taken[taken.len() - 1];
                for j in 0..n {
                    s[j] = s[j] * t.w[j] + taken * (t.kk[j] * t.a[j]) + t.v[i] * t.k[j];
                }
                states.push(s);
            }
            let mut g = [0.0; MOST_HEAD];
            for (step, row) in self.rows.clone().enumerate().rev() {
                let t = self.token(row);
                let (before, after, taken) = (&states[step], &states[step + 1], taken[step]);
                let [dr, dw, dk, dkk, da] =
                    [0, 1, 2, 4, 5].map(|out| (self.out(out, row, 0..n), self.store(out, i)));
                let dy = self.dy[self.place(row, i..i + 1)][0];
                (0..n).for_each(|j| g[j] += dy * t.r[j]);
                let dtaken: f32 = (0..n).map(|j| g[j] * (t.kk[j] * t.a[j])).sum();
                let dv = (0..n).map(|j| g[j] * t.k[j]).sum();
                self.outs[3].1.put(&mut self.out(3, row, i..i + 1)[0], dv);
                for j in 0..n {
                    let db = g[j] * taken;
                    dr.1.put(&mut dr.0[j], after[j] * dy);
                    dw.1.put(&mut dw.0[j], g[j] * before[j]);
                    dk.1.put(&mut dk.0[j], g[j] * t.v[i]);
                    dkk.1.put(&mut dkk.0[j], db * t.a[j] - before[j] * dtaken);
                    da.1.put(&mut da.0[j], db * t.kk[j]);
                    g[j] = g[j] * t.w[j] - dtaken * t.kk[j];
                }
            }
            if let Some(dstate) = &self.dstate {
                // SAFETY: this row of this head is ours alone.
                let dstate = unsafe { dstate.part(self.in_state(i)) };
                dstate.iter_mut().zip(g).for_each(|(dstate, g)| *dstate += g);
            }
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // No closure over the scratch: vectors must not cross a call, see simd.rs.
        let mut scratch = std::mem::take(self.scratch);
        for first in (0..self.inputs.head).step_by(TILE) {
            let tile = first..self.inputs.head.min(first + TILE);
            if self.inputs.head.is_multiple_of(S::LANES) {
                self.forward::<S, true>(s, tile.clone(), &mut scratch);
                self.backward::<S, true>(s, tile, &mut scratch);
            } else {
                self.forward::<S, false>(s, tile.clone(), &mut scratch);
                self.backward::<S, false>(s, tile, &mut scratch);
            }
        }
        *self.scratch = scratch;
    }
}

impl Backward<'_> {
    /// Where row `i` of the head's S is in a state.
    #[inline(always)]
    fn in_state(&self, i: usize) -> Range<usize> {
        let n = self.inputs.head;
        let at = (self.head * n + i) * n;
        at..at + n
    }

    /// Row `i` of S before the first token.
    #[inline(always)]
    fn row(&self, i: usize) -> [f32; MOST_HEAD] {
        let mut row = [0.0; MOST_HEAD];
        if let Some(state) = self.state {
            row[..self.inputs.head].copy_from_slice(&state[self.in_state(i)]);
        }
        row
    }

    #[inline(always)]
    fn token(&self, row: usize) -> Token<'_> {
        self.inputs.at(row, self.head * self.inputs.head)
    }

    /// Where `channels` of the head are at a row.
    #[inline(always)]
    fn place(&self, row: usize, channels: Range<usize>) -> Range<usize> {
        let at = row * self.inputs.width + self.head * self.inputs.head;
        at + channels.start..at + channels.end
    }

    /// Those of an output: 0 to 5 in the order of [`Wkv7Gradients`].
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    fn out(&self, out: usize, row: usize, channels: Range<usize>) -> &mut [f32] {
        // SAFETY: this head's channels of this segment's rows are ours alone, and no two slices of one output are
        // alive at the same time.
        unsafe { self.outs[out].0.part(self.place(row, channels)) }
    }

    /// What to do with the sum over the rows of S from `first` on: later ones are added to what the first gave.
    #[inline(always)]
    fn store(&self, out: usize, first: usize) -> Store {
        if first == 0 { self.outs[out].1 } else { Store::Add }
    }

    /// Leaves the states before every [`STEPS`]th token.
    #[inline(always)]
    fn forward<S: Simd, const FULL: bool>(&self, s: S, tile: Range<usize>, scratch: &mut Scratch) {
        let len = TILE * stride(self.inputs.head);
        let mut pair = [[0.0; TILE_LEN]; 2];
        for (row, i) in pair[0].chunks_mut(stride(self.inputs.head)).zip(tile.clone()) {
            row[..self.inputs.head].copy_from_slice(&self.row(i)[..self.inputs.head]);
        }
        scratch.left.clear();
        scratch.taken.clear();
        for (step, row) in self.rows.clone().enumerate() {
            // Each token moves one tile of the pair to the other.
            let [even, odd] = &mut pair;
            let (before, after) = if step % 2 == 0 { (even, odd) } else { (odd, even) };
            if step % STEPS == 0 {
                scratch.left.extend_from_slice(&before[..len]);
            }
            let t = self.token(row);
            let taken = taken::<S, FULL>(s, self.inputs.head, before, t.kk);
            let mut lanes = [0.0; TILE];
            for (lane, taken) in lanes.iter_mut().zip(taken) {
                s.store(std::slice::from_mut(lane), taken);
            }
            scratch.taken.push(lanes);
            self.step::<S, FULL>(s, tile.clone(), row, taken, before, after);
        }
    }

    /// A state after one more token.
    #[inline(always)]
    fn step<S: Simd, const FULL: bool>(
        &self,
        s: S,
        tile: Range<usize>,
        row: usize,
        taken: [S::V; TILE],
        before: &[f32],
        after: &mut [f32],
    ) {
        let (t, n) = (self.token(row), self.inputs.head);
        let stride = stride(n);
        let values = values(s, &t.v[tile]);
        for j in (0..n).step_by(S::LANES) {
            let [w, k] = [get::<S, FULL>(s, t.w, j), get::<S, FULL>(s, t.k, j)];
            let b = s.mul(get::<S, FULL>(s, t.kk, j), get::<S, FULL>(s, t.a, j));
            for i in 0..TILE {
                let moved = s.mul(of_tile(s, before, i * stride + j), w);
                let moved = s.mul_add(values[i], k, s.mul_add(taken[i], b, moved));
                into_tile(s, after, i * stride + j, moved);
            }
        }
    }

    #[inline(always)]
    fn backward<S: Simd, const FULL: bool>(&self, s: S, tile: Range<usize>, scratch: &mut Scratch) {
        let Scratch { left, taken, states } = scratch;
        let len = TILE * stride(self.inputs.head);
        let mut g = [0.0; TILE_LEN];
        states.clear();
        states.resize((STEPS + 1) * len, 0.0);
        for (stretch, first) in left.chunks_exact(len).enumerate().rev() {
            let start = self.rows.start + stretch * STEPS;
            let rows = start..self.rows.end.min(start + STEPS);
            states[..len].copy_from_slice(first);
            for (step, row) in rows.clone().enumerate() {
                let taken = values(s, &taken[stretch * STEPS + step]);
                let (before, after) = states[step * len..].split_at_mut(len);
                self.step::<S, FULL>(s, tile.clone(), row, taken, before, after);
            }
            for (step, row) in rows.enumerate().rev() {
                let taken = values(s, &taken[stretch * STEPS + step]);
                let (before, after) = states[step * len..].split_at(len);
                self.token_backward::<S, FULL>(s, tile.clone(), row, taken, [before, &after[..len]], &mut g);
            }
        }
        if let Some(dstate) = &self.dstate {
            for (g, i) in g.chunks(stride(self.inputs.head)).zip(tile) {
                // SAFETY: this row of this head is ours alone.
                let dstate = unsafe { dstate.part(self.in_state(i)) };
                dstate.iter_mut().zip(g).for_each(|(dstate, g)| *dstate += g);
            }
        }
    }

    /// The part of these rows of S in a token's gradients.
    #[inline(always)]
    fn token_backward<S: Simd, const FULL: bool>(
        &self,
        s: S,
        tile: Range<usize>,
        row: usize,
        taken: [S::V; TILE],
        [before, after]: [&[f32]; 2],
        g: &mut [f32],
    ) {
        let (t, n) = (self.token(row), self.inputs.head);
        let stride = stride(n);
        let dy = values(s, &self.dy[self.place(row, tile.clone())]);
        let v = values(s, &t.v[tile.clone()]);
        let [dr, dw, dk, dkk, da] =
            [0, 1, 2, 4, 5].map(|out| (self.out(out, row, 0..n), self.store(out, tile.start)));
        let (mut dv, mut dtaken) = ([s.zero(); TILE], [s.zero(); TILE]);
        for j in (0..n).step_by(S::LANES) {
            let [r, k] = [get::<S, FULL>(s, t.r, j), get::<S, FULL>(s, t.k, j)];
            let [kk, a] = [get::<S, FULL>(s, t.kk, j), get::<S, FULL>(s, t.a, j)];
            let b = s.mul(kk, a);
            let [mut sum_r, mut sum_w, mut sum_k, mut sum_b] = [s.zero(); 4];
            for i in 0..TILE {
                let of_s = s.mul_add(dy[i], r, of_tile(s, g, i * stride + j));
                into_tile(s, g, i * stride + j, of_s);
                sum_r = s.mul_add(of_tile(s, after, i * stride + j), dy[i], sum_r);
                sum_w = s.mul_add(of_s, of_tile(s, before, i * stride + j), sum_w);
                sum_k = s.mul_add(of_s, v[i], sum_k);
                sum_b = s.mul_add(of_s, taken[i], sum_b);
                dv[i] = s.mul_add(of_s, k, dv[i]);
                dtaken[i] = s.mul_add(of_s, b, dtaken[i]);
            }
            put::<S, FULL>(s, dr.1, dr.0, j, sum_r);
            put::<S, FULL>(s, dw.1, dw.0, j, sum_w);
            put::<S, FULL>(s, dk.1, dk.0, j, sum_k);
            put::<S, FULL>(s, dkk.1, dkk.0, j, s.mul(sum_b, a));
            put::<S, FULL>(s, da.1, da.0, j, s.mul(sum_b, kk));
        }
        let [dv, dtaken] = s.sum_fours([dv, dtaken]);
        let out = self.out(3, row, tile);
        for (out, dv) in out.iter_mut().zip(dv) {
            self.outs[3].1.put(out, dv);
        }
        let dtaken = values(s, &dtaken);
        for j in (0..n).step_by(S::LANES) {
            let [w, kk] = [get::<S, FULL>(s, t.w, j), get::<S, FULL>(s, t.kk, j)];
            let mut of_kk = get::<S, FULL>(s, dkk.0, j);
            for (i, &dtaken) in dtaken.iter().enumerate() {
                of_kk = s.neg_mul_add(of_tile(s, before, i * stride + j), dtaken, of_kk);
                let kept = s.mul(of_tile(s, g, i * stride + j), w);
                into_tile(s, g, i * stride + j, s.neg_mul_add(dtaken, kk, kept));
            }
            put::<S, FULL>(s, Store::Set, dkk.0, j, of_kk);
        }
    }
}

/// Sets or adds to the lanes of a head's vector from `j` on; see [`get`].
#[inline(always)]
fn put<S: Simd, const FULL: bool>(s: S, store: Store, into: &mut [f32], j: usize, x: S::V) {
    let x = match store {
        Store::Set => x,
        Store::Add => s.add(get::<S, FULL>(s, into, j), x),
    };
    if FULL {
        debug_assert!(j + S::LANES <= into.len());
        // SAFETY: the vector is whole lanes, and `j` is at the beginning of some.
        unsafe { s.store_at(into.as_mut_ptr().add(j), x) }
    } else {
        s.store(&mut into[j..], x);
    }
}
