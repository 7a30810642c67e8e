//! The inner loop: a tile of rows × tokens of sums in registers, along one block of columns.

// Indices are those of the formula.
#![allow(clippy::needless_range_loop)]

use super::vector::{F32, ROWS, RowFormat, Vector};

/// Calls `$f` with `$n`, a number of tokens known when the code is compiled: only then do the sums stay in registers.
macro_rules! with_tokens {
    ($tokens:expr, $n:ident => $call:expr) => {
        match $tokens {
            1 => {
                const $n: usize = 1;
                $call
            }
            2 => {
                const $n: usize = 2;
                $call
            }
            3 => {
                const $n: usize = 3;
                $call
            }
            4 => {
                const $n: usize = 4;
                $call
            }
            5 => {
                const $n: usize = 5;
                $call
            }
            6 => {
                const $n: usize = 6;
                $call
            }
            tokens => unreachable!("a tile of {tokens} tokens"),
        }
    };
}

pub(super) use with_tokens;

/// A tile's weights: `ROWS` rows for each of `FOURS`. Row r's vector of columns v is at `rows[r] + v * step` bytes.
#[derive(Clone, Copy)]
pub(super) struct Source<const FOURS: usize> {
    pub(super) rows: [[*const u8; ROWS]; FOURS],
    pub(super) step: usize,
    /// How far behind what is read lies what to ask memory for; nothing if 0.
    pub(super) ahead: usize,
}

/// `cols` columns' part of the sums of `FOURS` × `ROWS` rows for `N` tokens, whose activations begin at `x` and are
/// `x_stride` apart. Lane l of a vector sums the columns p ≡ l (mod `LANES`) in ascending order; then the lanes are summed.
///
/// # Safety
/// The CPU has V's instruction set; `cols` activations and weights can be read of each token and row.
#[inline(always)]
pub(super) unsafe fn tile<V: Vector, F: RowFormat, const FOURS: usize, const N: usize>(
    w: Source<FOURS>,
    x: *const f32,
    x_stride: usize,
    cols: usize,
) -> [[[f32; ROWS]; N]; FOURS] {
    let mut outputs = [[[0.0; ROWS]; N]; FOURS];
    // SAFETY: whole vectors are read below `whole`, and of the rest no more than there is.
    unsafe {
        let mut sums = [[[V::zero(); ROWS]; N]; FOURS];
        let whole = cols / V::LANES;
        for v in 0..whole {
            let mut xs = [V::zero(); N];
            for j in 0..N {
                xs[j] = V::load(x.add(j * x_stride + v * V::LANES));
            }
            for f in 0..FOURS {
                for i in 0..ROWS {
                    let data = w.rows[f][i].add(v * w.step);
                    if w.ahead > 0 {
                        V::prefetch(data.wrapping_add(w.ahead));
                    }
                    let weights = F::load::<V>(data);
                    for j in 0..N {
                        sums[f][j][i] = sums[f][j][i].add_product(weights, xs[j]);
                    }
                }
            }
        }
        let rest = cols % V::LANES;
        if rest > 0 {
            let mut xs = [V::zero(); N];
            for j in 0..N {
                xs[j] = F32::load_rest::<V>(x.add(j * x_stride + whole * V::LANES).cast(), rest);
            }
            for f in 0..FOURS {
                for i in 0..ROWS {
                    let weights = F::load_rest::<V>(w.rows[f][i].add(whole * w.step), rest);
                    for j in 0..N {
                        sums[f][j][i] = sums[f][j][i].add_product(weights, xs[j]);
                    }
                }
            }
        }
        for f in 0..FOURS {
            outputs[f] = V::sum_lanes(sums[f]);
        }
    }
    outputs
}
