//! One token: weights are read in the very order in which they lie.
//!
//! A core follows one stream of memory better than the eight of a tile, and one token needs no tile: a row's sum is a
//! chain of multiply-adds that wait for each other, but the processor is at the next row long before one ends.

use std::ops::Range;

use super::column_block;
use super::vector::{F32, ROWS, RowFormat, Vector};
use crate::Parts;
use crate::product::Weights;

/// Of the vectors that are long enough. A chain takes one vector in four cycles or so; with eight lanes that was a
/// quarter slower than eight rows side by side, where memory was fast.
pub(super) const LANES: usize = 16;

/// Of rows that are short enough: each reads all activations again, and these must not fill the first cache.
pub(super) const COLS: usize = 2048;

/// The outputs of `rows` for the token `x`.
///
/// # Safety
/// The CPU has V's instruction set, and no one else writes the outputs of `rows`.
#[inline(always)]
pub(super) unsafe fn outputs<V: Vector, F: RowFormat>(
    w: Weights<'_>,
    x: &[f32],
    rows: Range<usize>,
    y: &Parts<'_, f32>,
) {
    let block = column_block(w.cols);
    // SAFETY: the caller's promise.
    let y = unsafe { y.part(rows.clone()) };
    y.fill(0.0);
    // The blocks of all rows, as they lie: four at a time, because four vectors' lanes are summed together.
    let (mut row, mut col) = (rows.start, 0);
    while row < rows.end {
        let mut of = [row; ROWS];
        let mut count = 0;
        // SAFETY: passed on.
        unsafe {
            let mut sums = [V::zero(); ROWS];
            for i in 0..ROWS {
                if row < rows.end {
                    let cols = col..w.cols.min(col + block);
                    let weights = &w.row(row)[cols.start * F::BYTES..cols.end * F::BYTES];
                    sums[i] = sum::<V, F>(weights.as_ptr(), x[cols.clone()].as_ptr(), cols.len());
                    of[i] = row;
                    count += 1;
                    (row, col) = if cols.end == w.cols { (row + 1, 0) } else { (row, cols.end) };
                }
            }
            let [parts] = V::sum_lanes([sums]);
            for (&row, part) in of.iter().zip(parts).take(count) {
                y[row - rows.start] += part;
            }
        }
    }
}

/// The products of `cols` weights and activations, summed lane by lane in ascending order.
///
/// # Safety
/// The CPU has V's instruction set; so many weights and activations can be read.
#[inline(always)]
unsafe fn sum<V: Vector, F: RowFormat>(weights: *const u8, x: *const f32, cols: usize) -> V {
    let (whole, rest) = (cols / V::LANES, cols % V::LANES);
    // SAFETY: whole vectors are read below `whole`, and of the rest no more than there is.
    unsafe {
        let mut sum = V::zero();
        for v in 0..whole {
            let weights = F::load::<V>(weights.add(v * V::LANES * F::BYTES));
            sum = sum.add_product(weights, V::load(x.add(v * V::LANES)));
        }
        if rest > 0 {
            let weights = F::load_rest::<V>(weights.add(whole * V::LANES * F::BYTES), rest);
            let x = F32::load_rest::<V>(x.add(whole * V::LANES).cast(), rest);
            sum = sum.add_product(weights, x);
        }
        sum
    }
}
