//! Products with weights that are rows of f32, f16 or bf16, where their file is mapped, at any alignment.
//!
//! # The order of a sum
//!
//! A row is cut into blocks of columns, equal but for the last, by its length alone. Within a block a tier
//! with L lanes sums the elements p ≡ l (mod L) in lane l, in order, with fused multiply-adds, and then the
//! lanes in a fixed tree; blocks are added in order. None of that depends on the number of tokens or threads,
//! nor on which rows or tokens a tile holds. So one token at a time, chunks, whole prompts and batches of
//! sessions all get the same bits.
//!
//! # Few tokens and many
//!
//! Few tokens are bound by memory and many by arithmetic: [`few`] reads weights in place, [`many`] copies a
//! task's weights into panels first. Both multiply with the same [`tile`]. A single token needs no tile:
//! [`one`] reads row after row.
//!
//! The tier `amx` has an order of its own, the same for any number of tokens (`amx.rs`); it, too, depends on
//! nothing but the row and the token.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod few;
mod format;
mod half;
mod input;
mod lines;
mod many;
mod one;
#[cfg(test)]
mod tests;
mod tile;

use std::ops::Range;

use format::{BF16, F16, F32};
pub(super) use input::{Input, Inputs};
use lines::Lines;

use super::Weights;
use crate::simd::{Operation, Simd, dispatch};
use crate::{DataType, Isa, Parts};

/// The longest block of columns. For six tokens it takes 24 KB of an L1 cache of 32 KB; a shorter one would
/// sum lanes more often than once in 1,500 multiply-adds.
const COLUMNS: usize = 1024;

/// Weights times tokens of a task of few tokens: a few µs from memory.
const ROWS_TASK: usize = 1 << 15;

/// Rows of a task of many tokens: 256 KB of panels, a quarter of an L2 cache of 1 MB. Each value of x that a
/// strip loads into the L1 cache is used that often.
const ROWS_OF_MANY: usize = 64;

/// The largest number of tokens for which packing weights does not pay.
const FEW: usize = 16;

/// How many rows of `w` to give to a [`task`]: a question of sizes alone.
pub(super) fn rows_per_task(isa: Isa, w: &Weights<'_>, tokens: usize) -> usize {
    // Tiles multiply four groups of 16 rows in turn, also for one token.
    if tokens > FEW || isa == Isa::Amx {
        return ROWS_OF_MANY;
    }
    // Whole tiles to a task; fewer rows the more tokens they meet.
    (ROWS_TASK / (w.cols * tokens.max(1))).next_multiple_of(8).max(8)
}

/// `rows` of `y = x wᵀ`: `x` (T, cols), `y` (T, w.rows).
///
/// No one else may write these rows' outputs.
pub(super) fn task(isa: Isa, w: Weights<'_>, x: Input<'_>, rows: Range<usize>, y: &Parts<'_, f32>) {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if isa == Isa::Amx {
        return amx::task(w, x.values.len() / w.cols, x.tiles, rows, y);
    }
    let x = x.values;
    if x.len() / w.cols <= FEW {
        dispatch(isa, FewTokens { w, x, rows, y });
    } else {
        dispatch(isa, ManyTokens { w, x, rows, y });
    }
}

/// The outputs of `rows` for a few tokens.
struct FewTokens<'a> {
    w: Weights<'a>,
    x: &'a [f32],
    rows: Range<usize>,
    y: &'a Parts<'a, f32>,
}

/// The same for many.
struct ManyTokens<'a> {
    w: Weights<'a>,
    x: &'a [f32],
    rows: Range<usize>,
    y: &'a Parts<'a, f32>,
}

impl Operation for FewTokens<'_> {
    type Output = ();

    fn scalar(self) {
        scalar(self.w, self.x, self.rows, self.y);
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { w, x, rows, y } = self;
        // SAFETY: the outputs are the task's own.
        unsafe {
            match w.format {
                DataType::F32 => few::outputs::<S, F32>(s, w, x, rows, y),
                DataType::F16 => few::outputs::<S, F16>(s, w, x, rows, y),
                DataType::BF16 => few::outputs::<S, BF16>(s, w, x, rows, y),
                _ => unreachable!("quantized weights are multiplied as panels"),
            }
        }
    }
}

impl Operation for ManyTokens<'_> {
    type Output = ();

    fn scalar(self) {
        scalar(self.w, self.x, self.rows, self.y);
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { w, x, rows, y } = self;
        // SAFETY: the outputs are the task's own.
        unsafe {
            match w.format {
                DataType::F32 => many::outputs::<S, F32>(s, w, x, rows, y),
                DataType::F16 => many::outputs::<S, F16>(s, w, x, rows, y),
                DataType::BF16 => many::outputs::<S, BF16>(s, w, x, rows, y),
                _ => unreachable!("quantized weights are multiplied as panels"),
            }
        }
    }
}

/// The specification: each output is one sum in the order of the columns.
fn scalar(w: Weights<'_>, x: &[f32], rows: Range<usize>, y: &Parts<'_, f32>) {
    let mut weights = vec![0.0; w.cols];
    for row in rows {
        w.read_row(row, &mut weights);
        for (token, x) in x.chunks_exact(w.cols).enumerate() {
            let out = token * w.rows + row;
            // SAFETY: each task writes its own rows' outputs.
            let y = unsafe { y.part(out..out + 1) };
            y[0] = weights.iter().zip(x).fold(0.0, |sum, (w, x)| sum + w * x);
        }
    }
}

/// Columns of a block: as equal as whole vectors of any tier allow.
#[inline(always)]
fn column_block(cols: usize) -> usize {
    cols.div_ceil(cols.div_ceil(COLUMNS).max(1)).next_multiple_of(16)
}

/// Cuts tokens into strips of at most `most`, as equal as can be: the first token of each, and how many.
#[inline]
fn strips(tokens: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = tokens.div_ceil(most);
    (0..count).map(move |strip| {
        let first = strip * tokens / count;
        (first, (strip + 1) * tokens / count - first)
    })
}
