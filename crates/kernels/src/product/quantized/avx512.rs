//! Panels with AVX-512 VNNI: a register holds 4 columns of all 16 rows.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;
use std::ops::Range;

use super::activations::Quantized;
#[cfg(target_os = "linux")]
use super::unsigned_zero_point;
use super::{Activations, PANEL, Panels, prefetch_ahead, put};
use crate::data_type::with_quantized;
use crate::{DataType, Parts};

/// The outputs of the panels `range` for every token.
pub(super) fn task(panels: Panels<'_>, range: Range<usize>, x: &Activations, y: &Parts<'_, f32>) {
    // SAFETY: `Cpu::new` has checked that this machine has the tier.
    unsafe { with_quantized!(panels.format(), FORMAT => tokens::<FORMAT>(panels, range, x, y)) }
}

/// A panel block's weights as eight registers of unsigned bytes: `unsigned_zero_point` is what they are too
/// large by.
///
/// # Safety
/// A panel block can be read at `block`, and the CPU has the tier.
#[inline(always)]
unsafe fn groups<const FORMAT: usize>(block: *const u8) -> [__m512i; 8] {
    let format = const { DataType::EVERY[FORMAT] };
    // SAFETY: passed on; all offsets lie within a panel block.
    unsafe {
        if format.has_bytes() {
            // Adding 128 to a signed byte is flipping its highest bit.
            let signed = signed_bytes::<FORMAT>(block);
            return std::array::from_fn(|j| _mm512_xor_si512(signed[j], _mm512_set1_epi8(-128)));
        }
        let (fifth, integers) = const { DataType::EVERY[FORMAT].parts() };
        let groups = nibbles(block.add(PANEL * integers.start));
        if format.has_fifth_bits() { with_fifth_bits(groups, block.add(PANEL * fifth.start)) } else { groups }
    }
}

/// The same as signed bytes, zero point subtracted.
///
/// # Safety
/// As [`groups`].
#[cfg(target_os = "linux")] // the AMX tier
#[inline(always)]
pub(super) unsafe fn signed_groups<const FORMAT: usize>(block: *const u8) -> [__m512i; 8] {
    let format = const { DataType::EVERY[FORMAT] };
    // SAFETY: passed on.
    unsafe {
        if format.has_bytes() {
            return signed_bytes::<FORMAT>(block);
        }
        let zero = _mm512_set1_epi8(unsigned_zero_point(format) as i8);
        let groups = groups::<FORMAT>(block);
        std::array::from_fn(|j| _mm512_sub_epi8(groups[j], zero))
    }
}

/// A panel block's bytes as they are stored.
///
/// # Safety
/// As [`groups`]; the format has bytes.
#[inline(always)]
unsafe fn signed_bytes<const FORMAT: usize>(block: *const u8) -> [__m512i; 8] {
    let (_, integers) = const { DataType::EVERY[FORMAT].parts() };
    // SAFETY: passed on.
    std::array::from_fn(|j| unsafe { load(block.add(PANEL * integers.start + 64 * j)) })
}

/// # Safety
/// 64 bytes can be read, and the CPU has the tier (as below).
#[inline(always)]
unsafe fn load(data: *const u8) -> __m512i {
    // SAFETY: readable by the caller's promise.
    unsafe { _mm512_loadu_si512(data.cast()) }
}

#[inline(always)]
unsafe fn nibbles(data: *const u8) -> [__m512i; 8] {
    // SAFETY: four registers can be read, by the caller's promise.
    unsafe {
        let low = _mm512_set1_epi8(15);
        let pairs: [__m512i; 4] = std::array::from_fn(|j| load(data.add(64 * j)));
        std::array::from_fn(|j| {
            if j < 4 {
                _mm512_and_si512(pairs[j], low)
            } else {
                _mm512_and_si512(_mm512_srli_epi16::<4>(pairs[j - 4]), low)
            }
        })
    }
}

/// Adds bit j of each byte at `bits` to group j, as its bit 4.
#[inline(always)]
unsafe fn with_fifth_bits(groups: [__m512i; 8], bits: *const u8) -> [__m512i; 8] {
    /// a | (b & c), as a truth table.
    const OR_AND: i32 = 0b1111_1000;
    // SAFETY: passed on. A shift by at most four moves the bit within its byte, and the mask drops what comes
    // from the neighbour.
    unsafe {
        let bits = load(bits);
        let shifted = [
            _mm512_slli_epi16::<4>(bits),
            _mm512_slli_epi16::<3>(bits),
            _mm512_slli_epi16::<2>(bits),
            _mm512_slli_epi16::<1>(bits),
            bits,
            _mm512_srli_epi16::<1>(bits),
            _mm512_srli_epi16::<2>(bits),
            _mm512_srli_epi16::<3>(bits),
        ];
        let mask = _mm512_set1_epi8(16);
        std::array::from_fn(|j| _mm512_ternarylogic_epi32::<OR_AND>(groups[j], shifted[j], mask))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn tokens<const FORMAT: usize>(panels: Panels<'_>, range: Range<usize>, x: &Activations, y: &Parts<'_, f32>) {
    let mut token = 0;
    while token < x.tokens() {
        token += of_width::<FORMAT>(panels, range.clone(), x, token, y);
    }
}

/// The tile of tokens that begins at `token`, whatever its width; returns that.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn of_width<const FORMAT: usize>(
    panels: Panels<'_>,
    range: Range<usize>,
    x: &Activations,
    token: usize,
    y: &Parts<'_, f32>,
) -> usize {
    let (width, tile) = x.tile(token);
    // A tile stays in the L1 cache for all panels, and a token's outputs are contiguous.
    for panel in range {
        // SAFETY: this function has the features; the task has the rows.
        unsafe {
            match width {
                16 => self::tile::<FORMAT, 16>(panels, panel, tile, token, y),
                8 => self::tile::<FORMAT, 8>(panels, panel, tile, token, y),
                4 => self::tile::<FORMAT, 4>(panels, panel, tile, token, y),
                2 => self::tile::<FORMAT, 2>(panels, panel, tile, token, y),
                _ => self::tile::<FORMAT, 1>(panels, panel, tile, token, y),
            }
        }
    }
    width
}

/// Runs `$body` for each `$t` below `$n`, at most 16, without a loop: sums stay in registers only where every
/// index into their array is a constant, and the compiler leaves a loop of this size as it is.
macro_rules! unrolled {
    ($n:ident, $t:ident, $body:block) => {
        unrolled!(@ $n, $t, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $n:ident, $t:ident, $body:block, $($i:literal)*) => {
        $(if $i < $n {
            let $t = $i;
            $body
        })*
    };
}

#[cfg(target_os = "linux")] // the AMX tier
pub(super) use unrolled;

/// The outputs of the tile `x` of `T` tokens, which begins at `token`.
///
/// # Safety
/// No one else has the outputs, and the CPU has the tier.
#[inline(always)]
unsafe fn tile<const FORMAT: usize, const T: usize>(
    panels: Panels<'_>,
    panel: usize,
    x: &[Quantized],
    token: usize,
    y: &Parts<'_, f32>,
) {
    let block_bytes = PANEL * const { DataType::EVERY[FORMAT].block().1 };
    let blocks = panels.panel(panel).chunks_exact(block_bytes);
    // SAFETY: the offsets lie within a block; the rest is passed on.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); T];
        for (block, x) in blocks.zip(x.as_chunks::<T>().0) {
            let block = block.as_ptr();
            if T <= 8 {
                prefetch_ahead(block, block_bytes);
            }
            let groups = groups::<FORMAT>(block);
            // The same, but by value the compiler multiplies each register as soon as it is loaded, which
            // makes decoding 2 % faster; by reference it unpacks the block first, which suits more tokens (by
            // 7 %).
            if T == 1 {
                add_block::<FORMAT, T>(&mut sums, block, x, groups);
            } else {
                add_block::<FORMAT, T>(&mut sums, block, x, &groups);
            }
        }
        unrolled!(T, t, {
            let mut lanes = [0.0; PANEL];
            _mm512_storeu_ps(lanes.as_mut_ptr(), sums[t]);
            put(panels, panel, 0, token + t, &lanes, y);
        });
    }
}

/// The integer dot products of a panel block with the tokens of a tile.
pub(super) trait Dots {
    /// Those of the panel's 16 rows with token `t`, whose block is `x`.
    ///
    /// # Safety
    /// The CPU has the tier.
    unsafe fn of(&self, t: usize, x: &Quantized) -> __m512i;
}

/// Computed when they are asked for, from [`groups`].
impl Dots for [__m512i; 8] {
    #[inline(always)]
    unsafe fn of(&self, _: usize, x: &Quantized) -> __m512i {
        // SAFETY: passed on; the four bytes are among the block's.
        unsafe {
            let mut dot = _mm512_set1_epi32(x.start);
            for (j, &group) in self.iter().enumerate() {
                let four = x.integers.as_ptr().add(4 * j).cast::<i32>().read_unaligned();
                dot = _mm512_dpbusd_epi32(dot, group, _mm512_set1_epi32(four));
            }
            dot
        }
    }
}

impl<D: Dots> Dots for &D {
    #[inline(always)]
    unsafe fn of(&self, t: usize, x: &Quantized) -> __m512i {
        // SAFETY: passed on.
        unsafe { (**self).of(t, x) }
    }
}

/// Adds a panel block's part to the sums of `T` tokens, whose blocks are `x`: the dot products times both
/// scales, and the minima times the tokens' offsets.
///
/// # Safety
/// A panel block can be read at `block`, and the CPU has the tier.
#[inline(always)]
pub(super) unsafe fn add_block<const FORMAT: usize, const T: usize>(
    sums: &mut [__m512; T],
    block: *const u8,
    x: &[Quantized; T],
    dots: impl Dots,
) {
    // SAFETY: scales and minima lie within a block; the rest is passed on.
    unsafe {
        let scale = _mm512_cvtph_ps(_mm256_loadu_si256(block.cast()));
        unrolled!(T, t, {
            let dot = dots.of(t, &x[t]);
            let scale = _mm512_mul_ps(scale, _mm512_set1_ps(x[t].scale));
            sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, sums[t]);
        });
        if const { DataType::EVERY[FORMAT].has_minimum() } {
            let minimum = _mm512_cvtph_ps(_mm256_loadu_si256(block.add(2 * PANEL).cast()));
            unrolled!(T, t, {
                let offset = _mm512_set1_ps(x[t].offset);
                sums[t] = _mm512_fmadd_ps(minimum, offset, sums[t]);
            });
        }
    }
}
