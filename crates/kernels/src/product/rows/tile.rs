//! The inner loop: a tile of rows × tokens of sums in registers, along one block of columns.

// Indices are those of the formula.
#![allow(clippy::needless_range_loop)]

use super::format::{F32, RowFormat};
use crate::prefetch;
use crate::simd::Simd;

/// Rows of a tile. Four rows' lanes are summed together.
pub(super) const ROWS: usize = 4;

/// Tokens of a full tile: [`ROWS`] · tokens sums, tokens inputs and a vector of weights fit the registers.
pub(super) const fn tile_tokens<S: Simd>() -> usize {
    (S::REGISTERS - 1) / (ROWS + 1)
}

/// Evaluates `$call` with `$n`, the number of tokens, as a constant: only then do the sums stay in registers.
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

/// A tile's weights: `ROWS` rows for each of `FOURS`. Row r's vector of columns v is at `rows[r] + v * step`
/// bytes.
#[derive(Clone, Copy)]
pub(super) struct Source<const FOURS: usize> {
    pub(super) rows: [[*const u8; ROWS]; FOURS],
    pub(super) step: usize,
    /// Bytes from what is read to what is prefetched, if anything is.
    pub(super) ahead: Option<usize>,
}

/// `cols` columns' part of the sums of `FOURS` × `ROWS` rows for `N` tokens, whose activations begin at `x`
/// and are `x_stride` apart. Lane l of a vector sums the columns p ≡ l (mod `LANES`) in ascending order; then
/// the lanes are summed.
///
/// # Safety
/// `cols` activations and weights can be read of each token and row.
#[inline(always)]
pub(super) unsafe fn tile<S: Simd, F: RowFormat, const FOURS: usize, const N: usize>(
    s: S,
    w: Source<FOURS>,
    x: *const f32,
    x_stride: usize,
    cols: usize,
) -> [[[f32; ROWS]; N]; FOURS] {
    let mut outputs = [[[0.0; ROWS]; N]; FOURS];
    // SAFETY: whole vectors are read below `whole`, and of the rest no more than there is.
    unsafe {
        let mut sums = [[[s.zero(); ROWS]; N]; FOURS];
        let whole = cols / S::LANES;
        for v in 0..whole {
            let mut xs = [s.zero(); N];
            for j in 0..N {
                xs[j] = s.load_at(x.add(j * x_stride + v * S::LANES));
            }
            for f in 0..FOURS {
                for i in 0..ROWS {
                    let data = w.rows[f][i].add(v * w.step);
                    if let Some(ahead) = w.ahead {
                        prefetch::line_to_l2(data.wrapping_add(ahead));
                    }
                    let weights = F::load(s, data);
                    for j in 0..N {
                        sums[f][j][i] = s.mul_add(weights, xs[j], sums[f][j][i]);
                    }
                }
            }
        }
        let rest = cols % S::LANES;
        if rest > 0 {
            let mut xs = [s.zero(); N];
            for j in 0..N {
                xs[j] = F32::load_rest(s, x.add(j * x_stride + whole * S::LANES).cast(), rest);
            }
            for f in 0..FOURS {
                for i in 0..ROWS {
                    let weights = F::load_rest(s, w.rows[f][i].add(whole * w.step), rest);
                    for j in 0..N {
                        sums[f][j][i] = s.mul_add(weights, xs[j], sums[f][j][i]);
                    }
                }
            }
        }
        for f in 0..FOURS {
            outputs[f] = s.sum_fours(sums[f]);
        }
    }
    outputs
}
