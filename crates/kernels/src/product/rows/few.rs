//! Few tokens: weights are read in place.
//!
//! Bound by memory's bandwidth. So the loop over rows is the outer one, the second strip of tokens finds a
//! tile's rows in the cache, and nothing is copied. One token has no tile, or one of eight rows: see [`one`].

use std::ops::Range;

use super::format::RowFormat;
use super::tile::{ROWS, Source, tile, tile_tokens, with_tokens};
use super::{column_block, one, strips};
use crate::Parts;
use crate::product::Weights;
use crate::simd::Simd;

/// The outputs of `rows` for all tokens of `x`.
///
/// # Safety
/// No one else writes the outputs of `rows`.
#[inline(always)]
pub(super) unsafe fn outputs<S: Simd, F: RowFormat>(
    s: S,
    w: Weights<'_>,
    x: &[f32],
    rows: Range<usize>,
    y: &Parts<'_, f32>,
) {
    let tokens = x.len() / w.cols;
    if tokens == 1 && one::is_faster::<S>(w.cols) {
        // SAFETY: passed on.
        unsafe { one::outputs::<S, F>(s, w, x, rows, y) };
        return;
    }
    let mut row = rows.start;
    if tokens == 1 {
        while rows.end - row >= 2 * ROWS {
            // SAFETY: passed on.
            unsafe { outputs_of::<S, F, 2, 1>(s, w, x, 0, row..row + 2 * ROWS, y) };
            row += 2 * ROWS;
        }
    }
    while row < rows.end {
        let four = row..rows.end.min(row + ROWS);
        for (token, count) in strips(tokens, tile_tokens::<S>()) {
            // SAFETY: passed on.
            with_tokens!(count, N => unsafe { outputs_of::<S, F, 1, N>(s, w, x, token, four.clone(), y) });
        }
        row = four.end;
    }
}

/// The outputs of `rows`, at most `FOURS · ROWS`, for `N` tokens from `token` on.
///
/// # Safety
/// As [`outputs`].
#[inline(always)]
unsafe fn outputs_of<S: Simd, F: RowFormat, const FOURS: usize, const N: usize>(
    s: S,
    w: Weights<'_>,
    x: &[f32],
    token: usize,
    rows: Range<usize>,
    y: &Parts<'_, f32>,
) {
    let block = column_block(w.cols);
    let x = &x[token * w.cols..][..N * w.cols];
    let mut outputs = [[[0.0; ROWS]; N]; FOURS];
    // The next tile's rows: those of short rows would else come too late. A second strip finds them in the
    // cache; it prefetches what it reads, because a condition in the inner loop would keep sums out of
    // registers.
    let ahead = Some(if token == 0 { FOURS * ROWS * w.row_bytes } else { 0 });
    let step = S::LANES * F::BYTES;
    let mut source = Source { rows: [[w.bytes.as_ptr(); ROWS]; FOURS], step, ahead };
    let mut col = 0;
    while col < w.cols {
        for (i, data) in source.rows.as_flattened_mut().iter_mut().enumerate() {
            // A tile that is not full computes its last row more than once.
            *data = w.row((rows.start + i).min(rows.end - 1))[col * F::BYTES..].as_ptr();
        }
        let cols = block.min(w.cols - col);
        // SAFETY: these columns are there, of each of the rows and tokens.
        let part = unsafe { tile::<S, F, FOURS, N>(s, source, x.as_ptr().add(col), w.cols, cols) };
        for f in 0..FOURS {
            for j in 0..N {
                for i in 0..ROWS {
                    outputs[f][j][i] += part[f][j][i];
                }
            }
        }
        col += cols;
    }
    for (f, outputs) in outputs.iter().enumerate() {
        let start = rows.start + f * ROWS;
        let height = ROWS.min(rows.end - start);
        for (j, outputs) in outputs.iter().enumerate() {
            let first = (token + j) * w.rows + start;
            // SAFETY: these are outputs of `rows`.
            unsafe { y.part(first..first + height) }.copy_from_slice(&outputs[..height]);
        }
    }
}
