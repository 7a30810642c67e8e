//! Rows with AMX: tiles of bf16 numbers.
//!
//! A bf16 has 8 bits of precision and a half 11, an f32 24. So each number is taken apart into two or three
//! bf16 numbers ([`split`]), whose products are exact in f32, and a product of two numbers is a sum of such
//! products:
//!
//! | | parts | products |
//! |---|---|---|
//! | FP16 | w = hi + lo, x = hi + lo | all four |
//! | FP32 | w = a + b + c, x = a + b + c | aa, ab, ba, ac, bb, ca; bc, cb and cc come to some 2⁻²³ \|w·x\| at most |
//! | BF16 | w = w, x = a + b + c | all three |
//!
//! # The order of a sum
//!
//! Columns are taken in steps of 32. For each, the products of parts follow one another in a fixed order
//! (`multiply.rs`), each one instruction: it sums 16 terms for even and 16 for odd halves of a line's words,
//! in order, each addition rounded, adds the two, and adds that to the output. That is so for any number of
//! tokens, also for one: an element of a tile is computed alike whatever the tile's other elements are, and
//! between blocks of columns sums are stored as they are. Where a block ends therefore does not matter.
//!
//! # What tiles do differently
//!
//! They take numbers below 2⁻¹²⁶ as zero, and make zero of such results. No part or product of halves is that
//! small. Of f32 numbers below some 1e-33 bits are lost: less than 2⁻¹²⁶ times the other number, for each
//! part. What is 3.3953e38 or more, or not finite, makes its outputs NaN, or if it is a bf16 weight perhaps
//! infinite.
//!
//! # The loops
//!
//! ```text
//! for each product
//!     the activations' parts, transposed, to tiles of 16 column pairs × up to 16 tokens (a strip)
//! for each task of up to 64 rows (4 groups of 16)
//!     for each block of up to 32 steps
//!         copy the weights' parts to tiles of 16 rows × 32 columns        (stay in L2)
//!         for some of the steps, two groups                               (their weights stay in L1)
//!             for two strips: products of tiles, added to sums
//!         for a strip that is left: products of all groups, all steps
//!     write the sums, transposed, to y
//! ```
//!
//! For up to 16 tokens the last of these loops is all there is, and strips are as wide as there are tokens.

// Indices are those of the formula.
#![allow(clippy::needless_range_loop)]

mod multiply;
mod split;
#[cfg(test)]
mod tests;

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use multiply::{Multiplier, Multiply, Operands, PREFETCH_BYTES};
use split::{Activations, BF16, F16, F32, LANES, STEP, Stored, masks, transpose};

use super::many::Prefetch;
use super::{Lines, ROWS_OF_MANY};
use crate::block::BLOCK;
use crate::prefetch::prefetch_to_write;
use crate::product::Weights;
use crate::product::tiles::ROWS;
use crate::{Cpu, DataType, Parts};

/// Words, or sums, of a tile.
const TILE: usize = ROWS * LANES;

/// Groups of 16 rows of a task.
const GROUPS: usize = ROWS_OF_MANY / ROWS;
const _: () = assert!(GROUPS == 4, "the loops of `multiply.rs` are written for four");

/// Steps of a block: 64 rows' parts are 128 KB for BF16, 256 for FP16, 384 for FP32.
const BLOCK_STEPS: usize = 32;

/// Weights of two groups that stay in an L1 cache of 48 KB beside what is streamed through it.
const INNER_BYTES: usize = 1 << 15;

thread_local! {
    /// A thread's buffers, reused between tasks: a block's weights, and sums.
    static BUFFERS: RefCell<(Lines, Lines)> = RefCell::default();
}

/// How the activations of a product lie: by strip, by step, by part, by pair of columns, by token.
#[derive(Clone, Copy)]
struct Layout {
    tokens: usize,
    steps: usize,
    /// Of an activation.
    parts: usize,
}

impl Layout {
    fn new(format: DataType, tokens: usize, cols: usize) -> Self {
        let parts = if format == DataType::F16 { 2 } else { 3 };
        Self { tokens, steps: cols.div_ceil(STEP), parts }
    }

    /// Tokens of a strip; in the last one some may be missing.
    fn width(self) -> usize {
        self.tokens.min(ROWS)
    }

    fn strips(self) -> usize {
        self.tokens.div_ceil(ROWS)
    }

    /// Words of a strip's step.
    fn step(self) -> usize {
        self.parts * LANES * self.width()
    }

    /// Words of a strip.
    fn strip(self) -> usize {
        self.steps * self.step()
    }
}

/// Takes `x` (T, cols) apart into `tiles`, for weights of `format`; for FP16 it has been rounded to half
/// precision.
pub(super) fn prepare(cpu: &Cpu, format: DataType, x: &[f32], cols: usize, tiles: &mut Lines) {
    let layout = Layout::new(format, x.len() / cols, cols);
    if layout.tokens == 0 {
        return;
    }
    let out = tiles.reserve(layout.strips() * layout.strip());
    prefetch_to_write(out);
    let out = Parts::new(out);
    let block = (BLOCK / (STEP * layout.width())).max(1);
    let blocks = layout.steps.div_ceil(block);
    cpu.run(layout.strips() * blocks, |index| {
        let (strip, first) = (index / blocks, index % blocks * block);
        let steps = first..layout.steps.min(first + block);
        let start = strip * layout.strip();
        // SAFETY: each task has its own steps of a strip; `Cpu::new` has checked that this machine has the
        // tier.
        unsafe {
            let out = out.part(start + steps.start * layout.step()..start + steps.end * layout.step());
            let tokens = strip * ROWS..layout.tokens.min((strip + 1) * ROWS);
            match format {
                DataType::F16 => pack_tokens::<F16, 2>(layout, x, cols, tokens, steps, out),
                DataType::BF16 => pack_tokens::<BF16, 3>(layout, x, cols, tokens, steps, out),
                _ => pack_tokens::<F32, 3>(layout, x, cols, tokens, steps, out),
            }
        }
    });
}

/// Some tokens' `steps`, zeros where there is no token or column.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn pack_tokens<A: Activations<P>, const P: usize>(
    layout: Layout,
    x: &[f32],
    cols: usize,
    tokens: Range<usize>,
    steps: Range<usize>,
    out: &mut [f32],
) {
    let width = layout.width();
    let [words, _] = masks(width);
    for (step, out) in steps.zip(out.chunks_exact_mut(layout.step())) {
        let mut parts = [[_mm512_setzero_si512(); LANES]; P];
        let col = step * STEP;
        let picked = masks(cols - col);
        for (lane, token) in tokens.clone().enumerate() {
            // SAFETY: the masks pick what there is of the row, the features are this function's.
            let lines = unsafe { A::lines(x.as_ptr().add(token * cols + col), picked) };
            for p in 0..P {
                parts[p][lane] = lines[p];
            }
        }
        for (part, out) in parts.iter().zip(out.chunks_exact_mut(LANES * width)) {
            // SAFETY: `out` has 16 rows of `width` words; the features are this function's.
            unsafe {
                if width == 1 {
                    _mm512_storeu_si512(out.as_mut_ptr().cast(), part[0]);
                    continue;
                }
                for (row, out) in transpose(part).into_iter().zip(out.chunks_exact_mut(width)) {
                    _mm512_mask_storeu_epi32(out.as_mut_ptr().cast(), words, row);
                }
            }
        }
    }
}

/// `rows`, at most [`ROWS_OF_MANY`], of the products of `tokens` tokens, which [`prepare`] has made `tiles`
/// of.
pub(super) fn task(w: Weights<'_>, tokens: usize, tiles: &Lines, rows: Range<usize>, y: &Parts<'_, f32>) {
    let layout = Layout::new(w.format, tokens, w.cols);
    if tokens == 0 {
        return;
    }
    // SAFETY: `Cpu::new` has checked that this machine has the tier; the thread uses tiles nowhere else
    // meanwhile.
    unsafe {
        let multiplier = Multiplier::new(layout.width());
        match w.format {
            DataType::F32 => outputs::<F32, _, 3, 3>(&multiplier, w, layout, tiles, rows, y),
            DataType::F16 => outputs::<F16, _, 2, 2>(&multiplier, w, layout, tiles, rows, y),
            DataType::BF16 => outputs::<BF16, _, 1, 3>(&multiplier, w, layout, tiles, rows, y),
            _ => unreachable!("quantized weights are multiplied as panels"),
        }
    }
}

/// The outputs of `rows`, for weights of `P` parts and activations of `X`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn outputs<S: Stored<P>, M: Multiply<P, X>, const P: usize, const X: usize>(
    multiplier: &M,
    w: Weights<'_>,
    layout: Layout,
    tiles: &Lines,
    rows: Range<usize>,
    y: &Parts<'_, f32>,
) {
    BUFFERS.with_borrow_mut(|(panels, sums)| {
        let panels =
            panels.reserve(layout.steps.min(BLOCK_STEPS) * P * GROUPS * TILE).as_mut_ptr().cast::<u32>();
        let sums = sums.reserve(layout.strips() * GROUPS * TILE);
        sums.fill(0.0);
        let tiles = tiles.get(layout.strips() * layout.strip());
        for first in (0..layout.steps).step_by(BLOCK_STEPS) {
            let steps = first..layout.steps.min(first + BLOCK_STEPS);
            // SAFETY: there is room for the weights of these rows and steps, and the features are this
            // function's.
            unsafe {
                pack_weights::<S, P>(w, rows.clone(), steps.clone(), panels);
                multiply(multiplier, w, layout, tiles, rows.clone(), steps, panels, sums.as_mut_ptr());
            }
        }
        // SAFETY: these are outputs of `rows`.
        unsafe { write(w, layout, sums, rows, y) };
    });
}

/// The parts of `rows` for `steps`. They lie by step, by two groups, by part, by group, row and pair of
/// columns. Lines beyond the last row keep their old contents: the outputs of such lines are not used.
///
/// # Safety
/// `panels` has room for whole steps; the CPU has the tier.
#[inline(always)]
unsafe fn pack_weights<S: Stored<P>, const P: usize>(
    w: Weights<'_>,
    rows: Range<usize>,
    steps: Range<usize>,
    panels: *mut u32,
) {
    /// Distance of the prefetch, in bytes: the same columns of a later row, which for all but the longest
    /// rows is further on in the same stream.
    const AHEAD: usize = 2048;
    let cols = steps.start * STEP..w.cols.min(steps.end * STEP);
    let ahead = AHEAD.div_ceil(cols.len() * S::BYTES) * w.row_bytes;
    for (i, row) in rows.enumerate() {
        let data = w.row(row)[cols.start * S::BYTES..cols.end * S::BYTES].as_ptr();
        let (group, line) = (i / ROWS, i % ROWS);
        let panel = panels.wrapping_add((group / 2 * P * 2 + group % 2) * TILE + line * LANES);
        let whole = cols.len() / STEP;
        // SAFETY: a row has whole steps and the rest that the masks pick; lines lie within the panels; passed
        // on.
        unsafe {
            for step in 0..whole {
                let panel = panel.add(step * GROUPS * P * TILE);
                pack_step::<S, P>(data.add(step * STEP * S::BYTES), masks(STEP), ahead, panel);
            }
            if whole < steps.len() {
                let panel = panel.add(whole * GROUPS * P * TILE);
                pack_step::<S, P>(data.add(whole * STEP * S::BYTES), masks(cols.len() % STEP), ahead, panel);
            }
        }
    }
}

/// The lines of the weights that `picked` picks of 32, a pair of groups' part apart.
///
/// # Safety
/// Those weights can be read and the lines written; the CPU has the tier.
#[inline(always)]
unsafe fn pack_step<S: Stored<P>, const P: usize>(
    data: *const u8,
    picked: [__mmask16; 2],
    ahead: usize,
    panel: *mut u32,
) {
    // SAFETY: the address ahead need not exist; the rest is the caller's promise.
    unsafe {
        for line in 0..STEP * S::BYTES / 64 {
            _mm_prefetch::<_MM_HINT_T0>(data.wrapping_add(ahead + 64 * line).cast());
        }
        let lines = S::lines(data, picked);
        for p in 0..P {
            _mm512_storeu_si512(panel.add(2 * p * TILE).cast(), lines[p]);
        }
    }
}

/// Adds the products of a block of columns to the sums, which lie by strip, by group, by row and token.
///
/// # Safety
/// The panels have the weights, there are sums for every strip, and the CPU has the tier.
#[inline(always)]
unsafe fn multiply<M: Multiply<P, X>, const P: usize, const X: usize>(
    multiplier: &M,
    w: Weights<'_>,
    layout: Layout,
    tiles: &[f32],
    rows: Range<usize>,
    steps: Range<usize>,
    panels: *const u32,
    sums: *mut f32,
) {
    let cols = steps.start * STEP..w.cols.min(steps.end * STEP);
    let operands = |strip: usize, pair: usize, from: usize, count: usize| Operands {
        weights: panels.wrapping_add(((from - steps.start) * GROUPS + 2 * pair) * P * TILE),
        x: tiles[strip * layout.strip() + from * layout.step()..].as_ptr().cast(),
        x_strip: layout.strip(),
        sums: sums.wrapping_add((strip * GROUPS + 2 * pair) * TILE),
        steps: count,
    };
    let (pairs, squares) = (rows.len().div_ceil(2 * ROWS), layout.strips() / 2);
    if squares > 0 {
        let inner = INNER_BYTES / (2 * P * TILE * size_of::<u32>());
        let calls = steps.len().div_ceil(inner) * pairs * squares;
        let mut prefetch = Prefetch::after(&w, rows.clone(), cols.clone(), BLOCK_STEPS * STEP, calls);
        for from in steps.clone().step_by(inner) {
            for (pair, square) in (0..pairs).flat_map(|pair| (0..squares).map(move |square| (pair, square))) {
                // SAFETY: the operands are there by the caller's promise; each square has its own sums.
                unsafe {
                    prefetch.step();
                    multiplier.square(operands(2 * square, pair, from, inner.min(steps.end - from)));
                }
            }
        }
    }
    if layout.strips() % 2 == 1 {
        let data = w.bytes.as_ptr();
        let (prefetch, stride) = if cols.end < w.cols {
            (data.wrapping_add(rows.start * w.row_bytes + cols.end * (w.row_bytes / w.cols)), w.row_bytes)
        } else {
            // A thread takes its tasks in the order of the rows. If a block is a row, they are one stretch.
            let stride = if cols.start == 0 { PREFETCH_BYTES } else { w.row_bytes };
            (data.wrapping_add(rows.end * w.row_bytes), stride)
        };
        // SAFETY: as above.
        unsafe {
            multiplier.column(operands(layout.strips() - 1, 0, steps.start, steps.len()), prefetch, stride);
        }
    }
}

/// Writes the sums of `rows` to `y` (T, rows).
///
/// # Safety
/// No one else writes these outputs, and the CPU has the tier.
#[inline(always)]
unsafe fn write(w: Weights<'_>, layout: Layout, sums: &[f32], rows: Range<usize>, y: &Parts<'_, f32>) {
    for (index, tile) in sums.as_chunks::<TILE>().0.iter().enumerate() {
        let first = rows.start + index % GROUPS * ROWS;
        if first >= rows.end {
            continue;
        }
        let height = ROWS.min(rows.end - first);
        let tokens = index / GROUPS * ROWS..layout.tokens.min((index / GROUPS + 1) * ROWS);
        // SAFETY: a tile has 16 lines of 16 floats, and `y` as many from `out` on as the mask picks; passed
        // on.
        unsafe {
            let mut lines = [_mm512_setzero_si512(); ROWS];
            for (line, sums) in lines.iter_mut().zip(tile.as_chunks::<LANES>().0) {
                *line = _mm512_loadu_si512(sums.as_ptr().cast());
            }
            for (token, outputs) in tokens.zip(transpose(&lines)) {
                let out = token * w.rows + first;
                let [rows, _] = masks(height);
                let y = y.part(out..out + height);
                _mm512_mask_storeu_epi32(y.as_mut_ptr().cast(), rows, outputs);
            }
        }
    }
}
