//! One token: weights are read sequentially.
//!
//! A core prefetches one stream of memory better than the eight of a tile, and one token needs no tile: a
//! row's sum is a chain of dependent multiply-adds, but out-of-order execution begins the next rows before
//! one ends.

use std::ops::Range;

use super::column_block;
use super::format::{F32, RowFormat};
use super::tile::ROWS;
use crate::Parts;
use crate::product::Weights;
use crate::simd::Simd;

/// Lanes that are enough for this. A chain takes one vector in some four cycles; with eight lanes that was a
/// quarter slower than eight rows at a time, where memory was fast.
pub(super) const LANES: usize = 16;

/// The most columns: each row reads all activations again, and these must not fill the L1 cache.
pub(super) const COLS: usize = 2048;

/// The outputs of `rows` for the token `x`.
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
    let block = column_block(w.cols);
    // SAFETY: the caller's promise.
    let y = unsafe { y.part(rows.clone()) };
    y.fill(0.0);
    // The blocks of all rows in their order in memory: four at a time, because four vectors' lanes are summed
    // together.
    let (mut row, mut col) = (rows.start, 0);
    while row < rows.end {
        let mut of = [row; ROWS];
        let mut count = 0;
        // SAFETY: passed on.
        unsafe {
            let mut sums = [s.zero(); ROWS];
            for i in 0..ROWS {
                if row < rows.end {
                    let cols = col..w.cols.min(col + block);
                    let weights = &w.row(row)[cols.start * F::BYTES..cols.end * F::BYTES];
                    sums[i] = sum::<S, F>(s, weights.as_ptr(), x[cols.clone()].as_ptr(), cols.len());
                    of[i] = row;
                    count += 1;
                    (row, col) = if cols.end == w.cols { (row + 1, 0) } else { (row, cols.end) };
                }
            }
            let [parts] = s.sum_fours([sums]);
            for (&row, part) in of.iter().zip(parts).take(count) {
                y[row - rows.start] += part;
            }
        }
    }
}

/// The products of `cols` weights and activations, summed lane by lane in ascending order.
///
/// # Safety
/// So many weights and activations can be read.
#[inline(always)]
unsafe fn sum<S: Simd, F: RowFormat>(s: S, weights: *const u8, x: *const f32, cols: usize) -> S::V {
    let (whole, rest) = (cols / S::LANES, cols % S::LANES);
    // SAFETY: whole vectors are read below `whole`, and of the rest no more than there is.
    unsafe {
        let mut sum = s.zero();
        for v in 0..whole {
            let weights = F::load(s, weights.add(v * S::LANES * F::BYTES));
            sum = s.mul_add(weights, s.load_at(x.add(v * S::LANES)), sum);
        }
        if rest > 0 {
            let weights = F::load_rest(s, weights.add(whole * S::LANES * F::BYTES), rest);
            let x = F32::load_rest(s, x.add(whole * S::LANES).cast(), rest);
            sum = s.mul_add(weights, x, sum);
        }
        sum
    }
}
