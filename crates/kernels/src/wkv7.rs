//! RWKV-7's attention: in each head a matrix S that learns, token by token, which value belongs to which key.
//!
//! ```text
//! S_t = S_{t−1} diag(w_t) − (S_{t−1} κ_t)(κ_t ⊙ a_t)ᵀ + v_t k_tᵀ,    y_t = S_t r_t
//! ```
//!
//! (Peng et al., "RWKV-7 Goose", <https://arxiv.org/abs/2503.14456>, equation 17.) All vectors are of one head, N
//! numbers each; S is (N, N), value by key. w is the decay of each key's channel, κ a key of length 1 whose old
//! value is taken away, and a how much of it.
//!
//! Each row of S, the numbers that one channel of the value has, moves on its own: it needs the row itself and one
//! channel of v, and gives one channel of y. So four rows at a time stay in the L1 cache, or in registers, while time
//! runs inside; what their tokens share is loaded once for the four. The sums over keys are one dot product for each
//! row, added in an order that depends on N alone, so that it does not matter how a text is cut.

mod backward;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use backward::{Wkv7Gradients, wkv7_backward};

use crate::block::{check_segments, rows};
use crate::simd::{Operation, Simd, dispatch};
use crate::{Cpu, Parts};

/// Rows of S that move together.
const TILE: usize = 4;

/// The largest head: four of its rows are 4 KB.
pub const MOST_HEAD: usize = 256;

/// Tiles that one index of a parallel loop takes, over the rows of one segment.
const TILES: usize = 4;

/// Multiplications of S by a vector below which a call stays on the caller's thread: some µs of work.
const ALONE: usize = 1 << 15;

/// The most floats that the rows of a tile take.
const TILE_LEN: usize = TILE * MOST_HEAD;

/// Floats from one row of a tile to the next: whole vectors of any tier, and no more, so that the tiles of
/// neighbouring tokens do not fall on the same lines of the cache.
#[inline(always)]
fn stride(head: usize) -> usize {
    head.next_multiple_of(16)
}

/// Inputs of the attention beside the state: (rows, width) each, width a whole number of heads.
#[derive(Clone, Copy, Debug)]
pub struct Wkv7Inputs<'a> {
    /// What is read, the receptance.
    pub r: &'a [f32],
    /// The decay, a factor for each key's channel.
    pub w: &'a [f32],
    /// The key that is written.
    pub k: &'a [f32],
    /// The value that is written.
    pub v: &'a [f32],
    /// κ, the key whose value is taken away, of length 1 in each head.
    pub kk: &'a [f32],
    /// How much of it, from 0 to 1.
    pub a: &'a [f32],
    /// Channels of all heads together.
    pub width: usize,
    /// Channels of a head, N.
    pub head: usize,
}

impl Wkv7Inputs<'_> {
    /// The number of heads, once all lengths agree.
    fn check(&self, segments: &[Range<usize>]) -> usize {
        let Self { r, w, k, v, kk, a, width, head } = *self;
        assert!((1..=MOST_HEAD).contains(&head) && width.is_multiple_of(head), "heads of {head} in {width}");
        check_segments(segments, rows(r.len(), width));
        for len in [w, k, v, kk, a].map(<[f32]>::len) {
            assert_eq!(len, r.len());
        }
        width / head
    }

    /// The vectors of one head at a row.
    #[inline(always)]
    fn at(&self, row: usize, first: usize) -> Token<'_> {
        let range = row * self.width + first..row * self.width + first + self.head;
        let Self { r, w, k, v, kk, a, .. } = self;
        Token {
            r: &r[range.clone()],
            w: &w[range.clone()],
            k: &k[range.clone()],
            v: &v[range.clone()],
            kk: &kk[range.clone()],
            a: &a[range],
        }
    }
}

/// A token, as one head sees it.
struct Token<'a> {
    r: &'a [f32],
    w: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    kk: &'a [f32],
    a: &'a [f32],
}

/// The state of a segment: (heads, N, N) floats, value by key in each head.
#[derive(Debug)]
pub struct Wkv7State<'a> {
    /// Before the segment's first token; none if that is in `to`.
    pub from: Option<&'a [f32]>,
    /// After its last one.
    pub to: &'a mut [f32],
}

/// `y (rows, width)`: the attention above, of each segment of rows.
///
/// `states` has a state for each segment. With none at all every segment starts from zeros and nothing is left. Rows
/// in no segment are left alone.
///
/// # Panics
/// If the lengths disagree, or the segments are not in ascending order.
pub fn wkv7(
    cpu: &Cpu,
    segments: &[Range<usize>],
    states: &mut [Wkv7State<'_>],
    inputs: Wkv7Inputs<'_>,
    y: &mut [f32],
) {
    let heads = inputs.check(segments);
    assert_eq!(y.len(), inputs.r.len());
    assert!(states.is_empty() || states.len() == segments.len(), "a state for each segment, or none");
    let len = inputs.width * inputs.head;
    let states: Vec<_> = states
        .iter_mut()
        .map(|Wkv7State { from, to }| {
            assert!(to.len() == len && from.is_none_or(|from| from.len() == len), "states of {len} floats");
            (*from, Parts::new(to))
        })
        .collect();
    let y = Parts::new(y);
    let parts = inputs.head.div_ceil(TILE * TILES);
    let part = |index: usize| {
        let (segment, head, part) = (index / parts / heads, index / parts % heads, index % parts);
        let tiles = part * TILES..((part + 1) * TILES).min(inputs.head.div_ceil(TILE));
        let rows = segments[segment].clone();
        for tile in tiles {
            let first = tile * TILE;
            let of_tile = first..inputs.head.min(first + TILE);
            let state = states.get(segment).copied();
            dispatch(cpu.isa(), Forward { rows: rows.clone(), head, of_tile, state, inputs, y });
        }
    };
    let n = segments.len() * heads * parts;
    if inputs.r.len() * inputs.head < ALONE {
        (0..n).for_each(part);
    } else {
        cpu.run(n, part);
    }
}

/// One segment, a tile of one head's rows of S. Only those channels of `y` and those rows of `state` are touched.
struct Forward<'a> {
    rows: Range<usize>,
    head: usize,
    /// Rows of S, which are channels of the head's values.
    of_tile: Range<usize>,
    state: Option<(Option<&'a [f32]>, Parts<'a, f32>)>,
    inputs: Wkv7Inputs<'a>,
    y: Parts<'a, f32>,
}

impl Forward<'_> {
    /// Where row `i` of the head's S is in a state.
    #[inline(always)]
    fn place(&self, i: usize) -> Range<usize> {
        let n = self.inputs.head;
        let at = (self.head * n + i) * n;
        at..at + n
    }

    #[inline(always)]
    fn load(&self) -> [f32; TILE_LEN] {
        let mut tile = [0.0; TILE_LEN];
        if let Some((from, to)) = &self.state {
            for (row, i) in tile.chunks_mut(stride(self.inputs.head)).zip(self.of_tile.clone()) {
                let place = self.place(i);
                // SAFETY: these rows of this segment's state are ours alone.
                let before =
                    from.map_or_else(|| &*unsafe { to.part(place.clone()) }, |from| &from[place.clone()]);
                row[..self.inputs.head].copy_from_slice(before);
            }
        }
        tile
    }

    #[inline(always)]
    fn leave(&self, tile: &[f32]) {
        if let Some((_, to)) = &self.state {
            for (row, i) in tile.chunks(stride(self.inputs.head)).zip(self.of_tile.clone()) {
                // SAFETY: as above.
                unsafe { to.part(self.place(i)) }.copy_from_slice(&row[..self.inputs.head]);
            }
        }
    }

    /// The channels of y that are ours, at a row.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    fn out(&self, row: usize) -> &mut [f32] {
        let at = row * self.inputs.width + self.head * self.inputs.head;
        // SAFETY: these channels of these rows are ours alone.
        unsafe { self.y.part(at + self.of_tile.start..at + self.of_tile.end) }
    }
}

impl Operation for Forward<'_> {
    type Output = ();

    #[allow(clippy::needless_range_loop)] // as the equations are written
    fn scalar(self) {
        let n = self.inputs.head;
        let mut tile = self.load();
        for row in self.rows.clone() {
            let t = self.inputs.at(row, self.head * n);
            for ((s, i), y) in tile.chunks_mut(stride(n)).zip(self.of_tile.clone()).zip(self.out(row)) {
                let taken = -(0..n).map(|j| s[j] * t.kk[j]).sum::<f32>();
                for j in 0..n {
                    s[j] = s[j] * t.w[j] + taken * (t.kk[j] * t.a[j]) + t.v[i] * t.k[j];
                }
                *y = (0..n).map(|j| s[j] * t.r[j]).sum();
            }
        }
        self.leave(&tile);
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.inputs.head.is_multiple_of(S::LANES) {
            self.lanes::<S, true>(s);
        } else {
            self.lanes::<S, false>(s);
        }
    }
}

impl Forward<'_> {
    /// With vectors that are all full, or with the last one of a head perhaps not.
    #[inline(always)]
    fn lanes<S: Simd, const FULL: bool>(&self, s: S) {
        let n = self.inputs.head;
        let stride = stride(n);
        let mut tile = self.load();
        for row in self.rows.clone() {
            let t = self.inputs.at(row, self.head * n);
            let taken = taken::<S, FULL>(s, n, &tile, t.kk);
            let values = values(s, &t.v[self.of_tile.clone()]);
            let mut y = [s.zero(); TILE];
            for j in (0..n).step_by(S::LANES) {
                let [w, k, r] =
                    [get::<S, FULL>(s, t.w, j), get::<S, FULL>(s, t.k, j), get::<S, FULL>(s, t.r, j)];
                let b = s.mul(get::<S, FULL>(s, t.kk, j), get::<S, FULL>(s, t.a, j));
                for i in 0..TILE {
                    let moved = s.mul(of_tile(s, &tile, i * stride + j), w);
                    let moved = s.mul_add(values[i], k, s.mul_add(taken[i], b, moved));
                    into_tile(s, &mut tile, i * stride + j, moved);
                    y[i] = s.mul_add(moved, r, y[i]);
                }
            }
            let [y] = s.sum_fours([y]);
            let out = self.out(row);
            out.copy_from_slice(&y[..out.len()]);
        }
        self.leave(&tile);
    }
}

/// The lanes of a head's vector from `j` on, a multiple of their number; zeros beyond its end, where there can be
/// some: not if it is `FULL`.
#[inline(always)]
fn get<S: Simd, const FULL: bool>(s: S, x: &[f32], j: usize) -> S::V {
    if FULL {
        debug_assert!(j + S::LANES <= x.len());
        // SAFETY: the vector is whole lanes, and `j` is at the beginning of some.
        unsafe { s.load_at(x.as_ptr().add(j)) }
    } else {
        s.load(&x[j..])
    }
}

/// The lanes of a tile from `at` on, which is the beginning of some in a row. Beyond the head a row has zeros, and
/// they stay: every input is zero there.
#[inline(always)]
fn of_tile<S: Simd>(s: S, tile: &[f32], at: usize) -> S::V {
    debug_assert!(at + S::LANES <= tile.len());
    // SAFETY: rows are whole vectors of any tier, and a tile has all of its rows.
    unsafe { s.load_at(tile.as_ptr().add(at)) }
}

/// Writes them.
#[inline(always)]
fn into_tile<S: Simd>(s: S, tile: &mut [f32], at: usize, x: S::V) {
    debug_assert!(at + S::LANES <= tile.len());
    // SAFETY: as above.
    unsafe { s.store_at(tile.as_mut_ptr().add(at), x) }
}

/// `−S κ` for the rows of a tile, each in all lanes.
#[inline(always)]
fn taken<S: Simd, const FULL: bool>(s: S, n: usize, tile: &[f32], kk: &[f32]) -> [S::V; TILE] {
    let mut sums = [s.zero(); TILE];
    for j in (0..n).step_by(S::LANES) {
        let kk = get::<S, FULL>(s, kk, j);
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = s.neg_mul_add(of_tile(s, tile, i * stride(n) + j), kk, *sum);
        }
    }
    let [sums] = s.sum_fours([sums]);
    values(s, &sums)
}

/// Up to four numbers, each in all lanes; zeros beyond them.
#[inline(always)]
fn values<S: Simd>(s: S, numbers: &[f32]) -> [S::V; TILE] {
    let mut vectors = [s.zero(); TILE];
    for (vector, &number) in vectors.iter_mut().zip(numbers) {
        *vector = s.splat(number);
    }
    vectors
}
