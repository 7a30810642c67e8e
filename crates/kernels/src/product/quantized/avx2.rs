//! Panels with AVX2, and with AVX-VNNI: a register holds 4 columns of 8 rows, half a panel.

#![allow(clippy::needless_range_loop)] // indices name registers

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;
use std::ops::Range;

use super::activations::Quantized;
use super::{Activations, PANEL, Panels, prefetch_ahead, put};
use crate::data_type::with_quantized;
use crate::{DataType, Parts};

/// The outputs of the panels `range` for every token, with AVX2 alone.
pub(super) fn task(panels: Panels<'_>, range: Range<usize>, x: &Activations, y: &Parts<'_, f32>) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn run(panels: Panels<'_>, range: Range<usize>, x: &Activations, y: &Parts<'_, f32>) {
        // SAFETY: this function has the features; the task has the rows.
        unsafe { formats::<MaddUbs>(panels, range, x, y) }
    }
    // SAFETY: `Cpu::new` has checked that this machine has the tier.
    unsafe { run(panels, range, x, y) }
}

/// The same with AVX-VNNI.
pub(super) fn task_vnni(panels: Panels<'_>, range: Range<usize>, x: &Activations, y: &Parts<'_, f32>) {
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    fn run(panels: Panels<'_>, range: Range<usize>, x: &Activations, y: &Parts<'_, f32>) {
        // SAFETY: this function has the features; the task has the rows.
        unsafe { formats::<Vnni>(panels, range, x, y) }
    }
    // SAFETY: `Cpu::new` has checked that this machine has the tier.
    unsafe { run(panels, range, x, y) }
}

/// How bytes are multiplied and products summed. Sums are first kept in whatever the instruction makes, and
/// flushed to 32 bits before they could overflow.
trait Dot {
    /// Whether Q8_0's weights are multiplied with 128 added, as the others are unsigned, and the sum starts
    /// at `Quantized::start`; else as they are.
    const UNSIGNED_Q8: bool;
    /// Groups of `format` that can be summed between flushes.
    fn capacity(format: DataType) -> usize;
    /// Adds the products of four columns: `w` unsigned, or signed where `SIGNED`.
    ///
    /// # Safety
    /// The CPU has the tier, as for all of these.
    unsafe fn step<const SIGNED: bool>(sum: __m256i, w: __m256i, x: __m256i) -> __m256i;
    /// `total + sum`, in 32 bits.
    unsafe fn flush(total: __m256i, sum: __m256i) -> __m256i;
}

/// `vpmaddubsw`: pairs of products in 16 bits.
struct MaddUbs;

impl Dot for MaddUbs {
    const UNSIGNED_Q8: bool = false;

    fn capacity(format: DataType) -> usize {
        match format.highest() {
            15 => 8, // 8 · 2 · 15 · 127 = 30480
            31 => 4, // 4 · 2 · 31 · 127 = 31496
            _ => 1,  // 2 · 128 · 127 = 32512
        }
    }

    #[inline(always)]
    unsafe fn step<const SIGNED: bool>(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the CPU has AVX2.
        unsafe {
            if SIGNED {
                // w·x = |w|·(x with the sign of w), and |w| is unsigned.
                _mm256_add_epi16(sum, _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)))
            } else {
                _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x))
            }
        }
    }

    #[inline(always)]
    unsafe fn flush(total: __m256i, sum: __m256i) -> __m256i {
        // SAFETY: the CPU has AVX2.
        unsafe { _mm256_add_epi32(total, _mm256_madd_epi16(sum, _mm256_set1_epi16(1))) }
    }
}

/// `vpdpbusd`: four products in 32 bits.
struct Vnni;

impl Dot for Vnni {
    const UNSIGNED_Q8: bool = true;

    fn capacity(_: DataType) -> usize {
        8
    }

    #[inline(always)]
    unsafe fn step<const SIGNED: bool>(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the CPU has AVX-VNNI.
        unsafe { _mm256_dpbusd_avx_epi32(sum, w, x) }
    }

    #[inline(always)]
    unsafe fn flush(total: __m256i, sum: __m256i) -> __m256i {
        // SAFETY: the CPU has AVX2.
        unsafe { _mm256_add_epi32(total, sum) }
    }
}

/// # Safety
/// The CPU has D's tier, and no one else has the outputs (as for all below).
#[inline(always)]
unsafe fn formats<D: Dot>(panels: Panels<'_>, range: Range<usize>, x: &Activations, y: &Parts<'_, f32>) {
    // SAFETY: passed on.
    unsafe { with_quantized!(panels.format(), FORMAT => tokens::<D, FORMAT>(panels, range, x, y)) }
}

#[inline(always)]
unsafe fn tokens<D: Dot, const FORMAT: usize>(
    panels: Panels<'_>,
    range: Range<usize>,
    x: &Activations,
    y: &Parts<'_, f32>,
) {
    let mut token = 0;
    while token < x.tokens() {
        let (width, tile) = x.tile(token);
        for panel in range.clone() {
            // SAFETY: passed on. One or two tokens take both halves of the panel at once, so that weights are
            // read from memory in order; four take one after the other, for which there are registers enough.
            unsafe {
                match width {
                    1 => self::tile::<D, FORMAT, 2, 1>(panels, panel, 0, (tile, width, 0), token, y),
                    2 => self::tile::<D, FORMAT, 2, 2>(panels, panel, 0, (tile, width, 0), token, y),
                    _ => {
                        for (t, half) in (0..width).step_by(4).flat_map(|t| [(t, 0), (t, 1)]) {
                            self::tile::<D, FORMAT, 1, 4>(
                                panels,
                                panel,
                                half,
                                (tile, width, t),
                                token + t,
                                y,
                            );
                        }
                    }
                }
            }
        }
        token += width;
    }
}

/// Rows of half a panel, and its bytes in a group.
const HALF: usize = 8;
const HALF_BYTES: usize = 32;

/// The outputs of `T` tokens for `H` halves of the panel from `half` on: in the tile `x` of the given width
/// those from `t` on, which are the tokens from `token` on.
#[inline(always)]
unsafe fn tile<D: Dot, const FORMAT: usize, const H: usize, const T: usize>(
    panels: Panels<'_>,
    panel: usize,
    half: usize,
    (x, width, t): (&[Quantized], usize, usize),
    token: usize,
    y: &Parts<'_, f32>,
) {
    let format = const { DataType::EVERY[FORMAT] };
    let block_bytes = PANEL * format.block().1;
    let blocks = panels.panel(panel).chunks_exact(block_bytes);
    // SAFETY: the offsets lie within a block; the rest is passed on.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); T]; H];
        for (block, x) in blocks.zip(x.chunks_exact(width)) {
            let block = block.as_ptr();
            if H == 2 {
                prefetch_ahead(block, block_bytes);
            }
            let xs: &[Quantized; T] = &x[t..].as_chunks().0[0];
            for h in 0..H {
                let dots = dots::<D, FORMAT, T>(block, half + h, xs);
                let scale = halves(block, half + h);
                for t in 0..T {
                    let scale = _mm256_mul_ps(scale, _mm256_set1_ps(xs[t].scale));
                    sums[h][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[t]), scale, sums[h][t]);
                }
                if format.has_minimum() {
                    let minimum = halves(block.add(2 * PANEL), half + h);
                    for t in 0..T {
                        sums[h][t] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(xs[t].offset), sums[h][t]);
                    }
                }
            }
        }
        for h in 0..H {
            for t in 0..T {
                let mut lanes = [0.0; HALF];
                _mm256_storeu_ps(lanes.as_mut_ptr(), sums[h][t]);
                put(panels, panel, HALF * (half + h), token + t, &lanes, y);
            }
        }
    }
}

/// The integer dot products of half a panel block with a block of each token.
#[inline(always)]
unsafe fn dots<D: Dot, const FORMAT: usize, const T: usize>(
    block: *const u8,
    half: usize,
    xs: &[Quantized; T],
) -> [__m256i; T] {
    let format = const { DataType::EVERY[FORMAT] };
    let (fifth, integers) = const {
        let (fifth, integers) = DataType::EVERY[FORMAT].parts();
        (PANEL * fifth.start, PANEL * integers.start)
    };
    // SAFETY: all offsets lie within a panel block; the rest is passed on.
    unsafe {
        let load = |at: usize| _mm256_loadu_si256(block.add(at + half * HALF_BYTES).cast());
        let four = |x: &Quantized, j: usize| {
            _mm256_set1_epi32(x.integers.as_ptr().add(4 * j).cast::<i32>().read_unaligned())
        };
        let starts_at_zero = format.has_bytes() && !D::UNSIGNED_Q8;
        let mut totals = [_mm256_setzero_si256(); T];
        if !starts_at_zero {
            for t in 0..T {
                totals[t] = _mm256_set1_epi32(xs[t].start);
            }
        }
        let mut partial = [_mm256_setzero_si256(); T];
        if format.has_bytes() {
            for j in 0..8 {
                let mut w = load(integers + 64 * j);
                if D::UNSIGNED_Q8 {
                    w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
                }
                for t in 0..T {
                    partial[t] = D::step::<true>(partial[t], w, four(&xs[t], j));
                }
                if (j + 1) % D::capacity(format) == 0 {
                    for t in 0..T {
                        totals[t] = D::flush(totals[t], partial[t]);
                        partial[t] = _mm256_setzero_si256();
                    }
                }
            }
            return totals;
        }
        let nibble = _mm256_set1_epi8(15);
        let sixteen = _mm256_set1_epi8(16);
        let bits = if format.has_fifth_bits() { load(fifth) } else { sixteen };
        for j in 0..4_u8 {
            let pair = load(integers + 64 * usize::from(j));
            let mut low = _mm256_and_si256(pair, nibble);
            let mut high = _mm256_and_si256(_mm256_srli_epi16::<4>(pair), nibble);
            if format.has_fifth_bits() {
                // Bit j of each byte to bit 4 of the low group, bit 4 + j to that of the high one.
                let left = _mm256_sll_epi16(bits, _mm_cvtsi32_si128(4 - i32::from(j)));
                let right = _mm256_srl_epi16(bits, _mm_cvtsi32_si128(i32::from(j)));
                low = _mm256_or_si256(low, _mm256_and_si256(left, sixteen));
                high = _mm256_or_si256(high, _mm256_and_si256(right, sixteen));
            }
            for t in 0..T {
                partial[t] = D::step::<false>(partial[t], low, four(&xs[t], usize::from(j)));
                partial[t] = D::step::<false>(partial[t], high, four(&xs[t], usize::from(4 + j)));
            }
            if usize::from(2 * j + 2) % D::capacity(format) == 0 {
                for t in 0..T {
                    totals[t] = D::flush(totals[t], partial[t]);
                    partial[t] = _mm256_setzero_si256();
                }
            }
        }
        totals
    }
}

/// The half-precision numbers of half a panel's rows.
#[inline(always)]
unsafe fn halves(data: *const u8, half: usize) -> __m256 {
    // SAFETY: 16 halves can be read, by the caller's promise.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(data.add(2 * HALF * half).cast())) }
}
