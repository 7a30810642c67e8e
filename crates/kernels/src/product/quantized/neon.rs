//! Panels with NEON, with its dot products (`sdot`) and with its matrix products of bytes (`smmla`): a
//! register holds 4 columns of 4 rows, a quarter of a panel's group.
//!
//! The 32 columns of four rows are eight registers. They are unpacked once for all tokens of a tile; a tile
//! is a panel for four tokens or half of one for eight, whose sums take 16 of the 32 registers.

#![allow(clippy::needless_range_loop)] // indices name registers

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

use super::activations::Quantized;
use super::{Activations, PANEL, Panels, put};
use crate::data_type::with_quantized;
use crate::simd::neon::widen;
use crate::{DataType, Parts};

/// The outputs of the panels `range` for every token, with NEON alone.
pub(super) fn task(panels: Panels<'_>, range: Range<usize>, x: &Activations, y: &Parts<'_, f32>) {
    #[target_feature(enable = "neon")]
    fn run(panels: Panels<'_>, range: Range<usize>, x: &Activations, y: &Parts<'_, f32>) {
        // SAFETY: this function has the feature; the task has the rows.
        unsafe { formats::<Words, Words>(panels, range, x, y) }
    }
    // SAFETY: `Cpu::new` has checked that this machine has the tier.
    unsafe { run(panels, range, x, y) }
}

/// The same with `sdot`.
pub(super) fn task_dotprod(panels: Panels<'_>, range: Range<usize>, x: &Activations, y: &Parts<'_, f32>) {
    #[target_feature(enable = "neon,dotprod")]
    fn run(panels: Panels<'_>, range: Range<usize>, x: &Activations, y: &Parts<'_, f32>) {
        // SAFETY: this function has the features; the task has the rows.
        unsafe { formats::<Sdot, Sdot>(panels, range, x, y) }
    }
    // SAFETY: `Cpu::new` has checked that this machine has the tier.
    unsafe { run(panels, range, x, y) }
}

/// The same with `smmla`, for two tokens at a time.
pub(super) fn task_i8mm(panels: Panels<'_>, range: Range<usize>, x: &Activations, y: &Parts<'_, f32>) {
    #[target_feature(enable = "neon,dotprod,i8mm")]
    fn run(panels: Panels<'_>, range: Range<usize>, x: &Activations, y: &Parts<'_, f32>) {
        // SAFETY: this function has the features; the task has the rows.
        unsafe { formats::<Sdot, Smmla>(panels, range, x, y) }
    }
    // SAFETY: `Cpu::new` has checked that this machine has the tier.
    unsafe { run(panels, range, x, y) }
}

/// The eight groups of four rows: byte 4r + c of register j is the integer of row r and column 4j + c.
type Four = [int8x16_t; 8];

/// How bytes are multiplied and products summed.
trait Dot {
    /// Tokens that are multiplied together: 1 or 2.
    const TOKENS: usize;
    /// The dot products of four rows with a block of each token, `Quantized::start` included except for
    /// signed weights, those of Q8_0. Where `TOKENS` is 1, the first block's twice.
    ///
    /// # Safety
    /// The CPU has the tier (as for all below).
    unsafe fn dots<const SIGNED: bool>(w: Four, x: [&Quantized; 2]) -> [int32x4_t; 2];
}

/// Where a sum with the block `x` starts.
#[inline(always)]
unsafe fn start<const SIGNED: bool>(x: &Quantized) -> int32x4_t {
    // SAFETY: the loads are within the block; the rest is passed on.
    unsafe { vdupq_n_s32(if SIGNED { 0 } else { x.start }) }
}

/// `smull` and `smlal`: products in 16 bits.
struct Words;

impl Dot for Words {
    const TOKENS: usize = 1;

    #[inline(always)]
    unsafe fn dots<const SIGNED: bool>(w: Four, [x, _]: [&Quantized; 2]) -> [int32x4_t; 2] {
        // Columns that 16 bits have room for: 8 · 31 · 127 = 31496, 2 · 128 · 127 = 32512.
        let room = const { if SIGNED { 2 } else { 8 } };
        // SAFETY: 32 bytes are read; the rest is passed on.
        unsafe {
            let x_groups = x.integers.as_ptr().cast::<i32>();
            let mut totals = [vdupq_n_s32(0); 2];
            for first in (0..8).step_by(room) {
                // Rows 0 and 1, rows 2 and 3: four columns of each.
                let mut sums = [vdupq_n_s16(0); 2];
                for j in first..first + room {
                    let four = vreinterpretq_s8_s32(vdupq_n_s32(x_groups.add(j).read_unaligned()));
                    sums[0] = vmlal_s8(sums[0], vget_low_s8(w[j]), vget_low_s8(four));
                    sums[1] = vmlal_high_s8(sums[1], w[j], four);
                }
                totals = [vpadalq_s16(totals[0], sums[0]), vpadalq_s16(totals[1], sums[1])];
            }
            let dots = vaddq_s32(start::<SIGNED>(x), vpaddq_s32(totals[0], totals[1]));
            [dots, dots]
        }
    }
}

/// `sdot`: four products in 32 bits, of four rows with four columns of a token.
struct Sdot;

/// `sum + w · x` for each row, x being the group `GROUP` of four that the register holds.
#[inline(always)]
unsafe fn sdot<const GROUP: i32>(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: by the caller, the CPU has the instruction; it touches no memory.
    unsafe {
        asm!(
            ".arch_extension dotprod", // for a build that does not inline this into a function with the feature
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{group}]",
            sum = inout(vreg) sum, w = in(vreg) w, x = in(vreg) x, group = const GROUP,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

impl Dot for Sdot {
    const TOKENS: usize = 1;

    #[inline(always)]
    unsafe fn dots<const SIGNED: bool>(w: Four, [x, _]: [&Quantized; 2]) -> [int32x4_t; 2] {
        // SAFETY: passed on.
        unsafe {
            let [low, high] = integers(x);
            let mut dots = start::<SIGNED>(x);
            dots = sdot::<0>(dots, w[0], low);
            dots = sdot::<1>(dots, w[1], low);
            dots = sdot::<2>(dots, w[2], low);
            dots = sdot::<3>(dots, w[3], low);
            dots = sdot::<0>(dots, w[4], high);
            dots = sdot::<1>(dots, w[5], high);
            dots = sdot::<2>(dots, w[6], high);
            dots = sdot::<3>(dots, w[7], high);
            [dots, dots]
        }
    }
}

/// `smmla`: eight products in 32 bits, of two rows with eight columns of two tokens.
struct Smmla;

/// `sum + w x` for the rows of w (2, 8) and x (2, 8): lane 2i + j is row i of w with row j of x.
#[inline(always)]
unsafe fn smmla(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: by the caller, the CPU has the instruction; it touches no memory.
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "smmla {sum:v}.4s, {w:v}.16b, {x:v}.16b",
            sum = inout(vreg) sum, w = in(vreg) w, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

impl Dot for Smmla {
    const TOKENS: usize = 2;

    #[inline(always)]
    unsafe fn dots<const SIGNED: bool>(w: Four, x: [&Quantized; 2]) -> [int32x4_t; 2] {
        // SAFETY: passed on.
        unsafe {
            let [a, b] = [integers(x[0]), integers(x[1])];
            let mut sums = [vdupq_n_s32(0); 2];
            for k in 0..4 {
                // Columns 8k to 8k + 7: of both tokens, of rows 0 and 1, of rows 2 and 3.
                let [a, b] = [a, b].map(|x| vreinterpretq_s64_s8(x[k / 2]));
                let x = vreinterpretq_s8_s64(if k % 2 == 0 { vzip1q_s64(a, b) } else { vzip2q_s64(a, b) });
                let [left, right] = [w[2 * k], w[2 * k + 1]].map(|w| vreinterpretq_s32_s8(w));
                sums[0] = smmla(sums[0], vreinterpretq_s8_s32(vzip1q_s32(left, right)), x);
                sums[1] = smmla(sums[1], vreinterpretq_s8_s32(vzip2q_s32(left, right)), x);
            }
            // Each lane of a sum is a row and a token: the even ones are the first token's.
            [
                vaddq_s32(start::<SIGNED>(x[0]), vuzp1q_s32(sums[0], sums[1])),
                vaddq_s32(start::<SIGNED>(x[1]), vuzp2q_s32(sums[0], sums[1])),
            ]
        }
    }
}

/// The integers of a block: columns 0 to 15, and 16 to 31.
#[inline(always)]
unsafe fn integers(x: &Quantized) -> [int8x16_t; 2] {
    // SAFETY: the loads are within the block; the rest is passed on.
    unsafe { [vld1q_s8(x.integers.as_ptr()), vld1q_s8(x.integers.as_ptr().add(16))] }
}

/// # Safety
/// The CPU has the tiers of `One`, which takes one token at a time, and of `D`; no one else has the outputs
/// (as for all below).
#[inline(always)]
unsafe fn formats<One: Dot, D: Dot>(
    panels: Panels<'_>,
    range: Range<usize>,
    x: &Activations,
    y: &Parts<'_, f32>,
) {
    // SAFETY: passed on.
    unsafe { with_quantized!(panels.format(), FORMAT => tokens::<One, D, FORMAT>(panels, range, x, y)) }
}

#[inline(always)]
unsafe fn tokens<One: Dot, D: Dot, const FORMAT: usize>(
    panels: Panels<'_>,
    range: Range<usize>,
    x: &Activations,
    y: &Parts<'_, f32>,
) {
    let mut token = 0;
    while token < x.tokens() {
        let (width, tile) = x.tile(token);
        for panel in range.clone() {
            // SAFETY: passed on. Up to four tokens take the whole panel at once, so that weights are read
            // from memory in order; eight take one half after the other, for which there are registers
            // enough.
            unsafe {
                match width {
                    1 => self::tile::<One, FORMAT, 4, 1>(panels, panel, 0, (tile, width, 0), token, y),
                    2 => self::tile::<D, FORMAT, 4, 2>(panels, panel, 0, (tile, width, 0), token, y),
                    4 => self::tile::<D, FORMAT, 4, 4>(panels, panel, 0, (tile, width, 0), token, y),
                    _ => {
                        for (t, quarter) in (0..width).step_by(8).flat_map(|t| [(t, 0), (t, 2)]) {
                            let x = (tile, width, t);
                            self::tile::<D, FORMAT, 2, 8>(panels, panel, quarter, x, token + t, y);
                        }
                    }
                }
            }
        }
        token += width;
    }
}

/// Rows of a quarter of a panel, and its bytes in a group.
const QUARTER: usize = 4;
const QUARTER_BYTES: usize = 16;

/// The outputs of `T` tokens for `Q` quarters of the panel from `quarter` on: in the tile `x` of the given
/// width those from `t` on, which are the tokens from `token` on.
#[inline(always)]
unsafe fn tile<D: Dot, const FORMAT: usize, const Q: usize, const T: usize>(
    panels: Panels<'_>,
    panel: usize,
    quarter: usize,
    (x, width, t): (&[Quantized], usize, usize),
    token: usize,
    y: &Parts<'_, f32>,
) {
    let format = const { DataType::EVERY[FORMAT] };
    let block_bytes = PANEL * format.block().1;
    let blocks = panels.panel(panel).chunks_exact(block_bytes);
    // SAFETY: the offsets lie within a block; the rest is passed on.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); T]; Q];
        for (block, x) in blocks.zip(x.chunks_exact(width)) {
            let block = block.as_ptr();
            let xs: &[Quantized; T] = &x[t..].as_chunks().0[0];
            for q in 0..Q {
                let w = unpack::<FORMAT>(block, quarter + q);
                let scale = halves(block, quarter + q);
                for t in (0..T).step_by(D::TOKENS) {
                    let pair = [&xs[t], &xs[t + D::TOKENS - 1]];
                    let dots =
                        if format.has_bytes() { D::dots::<true>(w, pair) } else { D::dots::<false>(w, pair) };
                    for i in 0..D::TOKENS {
                        let scale = vmulq_n_f32(scale, xs[t + i].scale);
                        sums[q][t + i] = vfmaq_f32(sums[q][t + i], vcvtq_f32_s32(dots[i]), scale);
                    }
                }
                if format.has_minimum() {
                    let minimum = halves(block.add(2 * PANEL), quarter + q);
                    for t in 0..T {
                        sums[q][t] = vfmaq_n_f32(sums[q][t], minimum, xs[t].offset);
                    }
                }
            }
        }
        for t in 0..T {
            for q in 0..Q {
                let mut lanes = [0.0; QUARTER];
                vst1q_f32(lanes.as_mut_ptr(), sums[q][t]);
                put(panels, panel, QUARTER * (quarter + q), token + t, &lanes, y);
            }
        }
    }
}

/// The integers of a quarter of a panel block, as they are stored: unsigned with their zero point, or signed.
#[inline(always)]
unsafe fn unpack<const FORMAT: usize>(block: *const u8, quarter: usize) -> Four {
    let format = const { DataType::EVERY[FORMAT] };
    let (fifth, integers) = const {
        let (fifth, integers) = DataType::EVERY[FORMAT].parts();
        (PANEL * fifth.start, PANEL * integers.start)
    };
    // SAFETY: all offsets lie within a panel block, which the caller lets us read.
    unsafe {
        let load = |at: usize| vld1q_u8(block.add(at + quarter * QUARTER_BYTES));
        let mut w = [vdupq_n_u8(0); 8];
        if format.has_bytes() {
            for j in 0..8 {
                w[j] = load(integers + 64 * j);
            }
        } else {
            for j in 0..4 {
                let pair = load(integers + 64 * j);
                w[j] = vandq_u8(pair, vdupq_n_u8(15));
                w[4 + j] = vshrq_n_u8::<4>(pair);
            }
        }
        if format.has_fifth_bits() {
            let bits = load(fifth);
            for j in 0..8 {
                // Bit j of each byte to bit 4.
                let moved = vshlq_u8(bits, vdupq_n_s8(4 - j as i8));
                w[j] = vorrq_u8(w[j], vandq_u8(moved, vdupq_n_u8(16)));
            }
        }
        w.map(|w| vreinterpretq_s8_u8(w))
    }
}

/// The half-precision numbers of a quarter of a panel's rows.
#[inline(always)]
unsafe fn halves(data: *const u8, quarter: usize) -> float32x4_t {
    // SAFETY: 16 halves can be read, by the caller's promise.
    unsafe { widen(vld1_u16(data.add(2 * QUARTER * quarter).cast())) }
}
