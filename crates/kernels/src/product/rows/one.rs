//! One token: weights are read sequentially.
//!
//! A core prefetches one stream of memory better than the eight of a tile, and one token needs no tile. The
//! sums are the same, so which of the two it is may depend on the machine.
//!
//! With 16 lanes a row's sum is a chain of dependent multiply-adds, but out-of-order execution begins the
//! next rows before one ends. With eight, two chains go side by side, and weights are asked for long before
//! they are needed.

use std::ops::Range;

use super::column_block;
use super::format::{F32, RowFormat};
use super::tile::ROWS;
use crate::Parts;
use crate::prefetch::{LINE, line_to_l2};
use crate::product::Weights;
use crate::simd::Simd;

/// Lanes that are enough for one chain: it takes one vector in some four cycles.
const LANES: usize = 16;

/// The most columns for such a chain: each row reads all activations again, and these must not fill the L1
/// cache.
const COLS: usize = 2048;

/// Bytes from what is read to what is first asked for. What is asked for while memory has too much to do does
/// not come, so each line is asked for four times.
const AHEAD: usize = 1 << 14;

/// Whether this is faster than a tile of eight rows.
///
/// With eight lanes it is where the CPU has no more. On a Zen 3 eight streams read half as fast as memory
/// gives; rows one after the other decoded 7.7 to 9.0 tokens a second of a model of 1.5B in FP16, where eight
/// streams decoded 5.6 to 6.6. (That was a trial on 28 November 2026 with other prefetches; this code has not
/// been on a Zen 3.) A Zen 4 that is held to AVX2 reads eight streams as well: 0.93 to 0.95 of what only
/// reading gives, and this 0.89, but for rows of 768 halves: 0.92 and 1.0. NEON reads eight; that was not
/// measured.
#[inline(always)]
pub(super) fn is_faster<S: Simd>(cols: usize) -> bool {
    match S::LANES {
        LANES => cols <= COLS,
        #[cfg(target_arch = "x86_64")]
        8 => !std::arch::is_x86_feature_detected!("avx512f"),
        _ => false,
    }
}

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
        let mut blocks = [Block { weights: w.bytes.as_ptr(), x: x.as_ptr(), cols: 0 }; ROWS];
        let mut count = 0;
        while count < ROWS && row < rows.end {
            let cols = col..w.cols.min(col + block);
            blocks[count] = Block {
                weights: w.row(row)[cols.start * F::BYTES..cols.end * F::BYTES].as_ptr(),
                x: x[cols.clone()].as_ptr(),
                cols: cols.len(),
            };
            of[count] = row;
            count += 1;
            (row, col) = if cols.end == w.cols { (row + 1, 0) } else { (row, cols.end) };
        }
        let mut sums = [s.zero(); ROWS];
        // SAFETY: each block has its weights and activations; one that is not there has none.
        unsafe {
            if S::LANES == LANES {
                for i in 0..ROWS {
                    [sums[i]] = block_sums::<S, F, 1>(s, [blocks[i]]);
                }
            } else {
                for i in (0..ROWS).step_by(2) {
                    [sums[i], sums[i + 1]] = block_sums::<S, F, 2>(s, [blocks[i], blocks[i + 1]]);
                }
            }
        }
        let [parts] = s.sum_fours([sums]);
        for (&row, part) in of.iter().zip(parts).take(count) {
            y[row - rows.start] += part;
        }
    }
}

/// A block of a row, and the activations that it meets.
#[derive(Clone, Copy)]
struct Block {
    weights: *const u8,
    x: *const f32,
    cols: usize,
}

/// The products of each block's weights and activations, summed lane by lane in ascending order.
///
/// # Safety
/// So many weights and activations can be read.
#[inline(always)]
unsafe fn block_sums<S: Simd, F: RowFormat, const N: usize>(s: S, blocks: [Block; N]) -> [S::V; N] {
    let mut sums = [s.zero(); N];
    let step = LINE / F::BYTES;
    let mut common = blocks[0].cols;
    for block in blocks {
        common = common.min(block.cols);
    }
    common -= common % step;
    // SAFETY: what is read lies below `cols`.
    unsafe {
        for col in (0..common).step_by(step) {
            if N > 1 {
                for block in blocks {
                    for quarter in 1..=4 {
                        line_to_l2(block.weights.wrapping_add(col * F::BYTES + quarter * AHEAD / 4));
                    }
                }
            }
            for v in (0..step).step_by(S::LANES) {
                for i in 0..N {
                    sums[i] = add_vector::<S, F>(s, blocks[i], col + v, sums[i]);
                }
            }
        }
        for i in 0..N {
            let Block { weights, x, cols } = blocks[i];
            let mut col = common;
            while col + S::LANES <= cols {
                sums[i] = add_vector::<S, F>(s, blocks[i], col, sums[i]);
                col += S::LANES;
            }
            if col < cols {
                let weights = F::load_rest(s, weights.add(col * F::BYTES), cols - col);
                let x = F32::load_rest(s, x.add(col).cast(), cols - col);
                sums[i] = s.mul_add(weights, x, sums[i]);
            }
        }
    }
    sums
}

/// # Safety
/// The block has a vector at `col`.
#[inline(always)]
unsafe fn add_vector<S: Simd, F: RowFormat>(s: S, block: Block, col: usize, sum: S::V) -> S::V {
    // SAFETY: passed on.
    unsafe { s.mul_add(F::load(s, block.weights.add(col * F::BYTES)), s.load_at(block.x.add(col)), sum) }
}
