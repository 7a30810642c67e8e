//! Numbers split into sums of bf16 numbers, and their layout in tiles.
//!
//! | | parts, smallest first | how |
//! |---|---|---|
//! | a half, 11 bits | lo, hi | hi is the upper 8 bits and lo the rest |
//! | an f32, 24 bits | c, b, a | a is x rounded to 8 bits, b what is left rounded to 8 bits, c what is still left |
//! | a bf16 | itself | |
//!
//! The parts' sum is the number, exactly: rounding to nearest leaves 16 bits of 24 and 8 of 16, cutting off
//! leaves 3 of 11. All parts of halves are far from what is not exact: a part below 2⁻¹²⁶ may lose bits, and
//! tiles take it as zero anyway; what rounds to infinity, 3.3953e38 and more, and what is not finite has a
//! NaN among its parts.
//!
//! # A line
//!
//! The parts of 32 columns of a row or token are 16 words of two bf16 numbers. Which two of the 32 share a
//! word does not matter as long as weights and activations agree: columns k and 16 + k, lower half and upper
//! half, take two instructions for two registers of floats. With bf16 weights they are columns 2k and 2k + 1,
//! as the weights lie: it is the activations, of which there are fewer, that are put into that order.

// Indices are those of the formula.
#![allow(clippy::needless_range_loop)]

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

/// Columns of a line.
pub(super) const STEP: usize = 32;

/// Floats of a register, and words of a line.
pub(super) const LANES: usize = 16;

/// How numbers become `P` parts.
pub(super) trait Split<const P: usize> {
    /// The parts, smallest first, each in the upper halves of the lanes.
    ///
    /// # Safety
    /// The CPU has the tier. As everything here that takes or returns vectors, this is inlined.
    unsafe fn split(x: __m512) -> [__m512; P];
}

/// How a format's weights become `P` parts.
pub(super) trait Stored<const P: usize> {
    /// Bytes of a weight.
    const BYTES: usize;

    /// The lines of the weights that the masks pick of the 32 at `data`, and of zeros.
    ///
    /// # Safety
    /// Those can be read, at any alignment; the CPU has the tier.
    unsafe fn lines(data: *const u8, picked: [__mmask16; 2]) -> [__m512i; P];
}

/// How the activations that meet a format's weights become `P` parts.
pub(super) trait Activations<const P: usize> {
    /// The lines of the activations that the masks pick of the 32 at `data`, and of zeros.
    ///
    /// # Safety
    /// Those can be read; the CPU has the tier.
    unsafe fn lines(data: *const f32, picked: [__mmask16; 2]) -> [__m512i; P];
}

/// [`DataType::F32`](crate::DataType::F32) and activations as they are.
pub(super) struct F32;

/// [`DataType::F16`](crate::DataType::F16) and activations rounded to half precision.
pub(super) struct F16;

/// [`DataType::BF16`](crate::DataType::BF16) and activations as they are.
pub(super) struct BF16;

/// The bits of an f32 that a bf16 has.
const UPPER: i32 = 0xffff_0000_u32.cast_signed();

impl Split<3> for F32 {
    #[inline(always)]
    unsafe fn split(x: __m512) -> [__m512; 3] {
        // SAFETY: the caller's promise.
        unsafe {
            let a = nearest(x);
            let rest = _mm512_sub_ps(x, a);
            let b = nearest(rest);
            [_mm512_sub_ps(rest, b), b, a]
        }
    }
}

impl Split<2> for F16 {
    #[inline(always)]
    unsafe fn split(x: __m512) -> [__m512; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let hi = _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(UPPER)));
            [_mm512_sub_ps(x, hi), hi]
        }
    }
}

impl Stored<3> for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    #[allow(clippy::cast_ptr_alignment)] // any alignment will do
    unsafe fn lines(data: *const u8, picked: [__mmask16; 2]) -> [__m512i; 3] {
        // SAFETY: the caller's promise.
        unsafe { <Self as Activations<3>>::lines(data.cast(), picked) }
    }
}

impl Stored<2> for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn lines(data: *const u8, picked: [__mmask16; 2]) -> [__m512i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let upper = _mm256_maskz_loadu_epi16(picked[1], data.wrapping_add(2 * LANES).cast());
            let lower = _mm256_maskz_loadu_epi16(picked[0], data.cast());
            lines::<Self, 2>(_mm512_cvtph_ps(lower), _mm512_cvtph_ps(upper))
        }
    }
}

impl Stored<1> for BF16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn lines(data: *const u8, picked: [__mmask16; 2]) -> [__m512i; 1] {
        let mask = u32::from(picked[1]) << LANES | u32::from(picked[0]);
        // SAFETY: the caller's promise.
        unsafe { [_mm512_maskz_loadu_epi16(mask, data.cast())] }
    }
}

impl Activations<3> for F32 {
    #[inline(always)]
    unsafe fn lines(data: *const f32, picked: [__mmask16; 2]) -> [__m512i; 3] {
        // SAFETY: the caller's promise.
        unsafe {
            let [lower, upper] = load(data, picked);
            lines::<Self, 3>(lower, upper)
        }
    }
}

impl Activations<2> for F16 {
    #[inline(always)]
    unsafe fn lines(data: *const f32, picked: [__mmask16; 2]) -> [__m512i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let [lower, upper] = load(data, picked);
            lines::<Self, 2>(lower, upper)
        }
    }
}

impl Activations<3> for BF16 {
    #[inline(always)]
    unsafe fn lines(data: *const f32, picked: [__mmask16; 2]) -> [__m512i; 3] {
        // SAFETY: the caller's promise.
        unsafe {
            let [first, second] = load(data, picked);
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
            let lower = _mm512_permutex2var_ps(first, even, second);
            let upper = _mm512_permutex2var_ps(first, odd, second);
            lines::<F32, 3>(lower, upper)
        }
    }
}

/// The floats that the masks pick of 32, and zeros.
///
/// # Safety
/// Those can be read, at any alignment; the CPU has the tier.
#[inline(always)]
unsafe fn load(data: *const f32, picked: [__mmask16; 2]) -> [__m512; 2] {
    // SAFETY: the caller's promise; of an address beyond the data nothing is read.
    unsafe {
        [_mm512_maskz_loadu_ps(picked[0], data), _mm512_maskz_loadu_ps(picked[1], data.wrapping_add(LANES))]
    }
}

/// Rounded to 8 bits, ties away from zero. A NaN may become something else, but what is left of it is one.
#[inline(always)]
unsafe fn nearest(x: __m512) -> __m512 {
    // SAFETY: the callers have the tier.
    unsafe {
        let up = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(1 << 15));
        _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(UPPER)))
    }
}

/// The lines of 32 numbers.
///
/// # Safety
/// The CPU has the tier.
#[inline(always)]
pub(super) unsafe fn lines<S: Split<P>, const P: usize>(lower: __m512, upper: __m512) -> [__m512i; P] {
    /// The first operand, or the second where the third has bits.
    const FIRST_OR_SECOND_AND_THIRD: i32 = 0xf8;
    // SAFETY: the caller's promise.
    unsafe {
        let (lower, upper) = (S::split(lower), S::split(upper));
        let mask = _mm512_set1_epi32(UPPER);
        let mut lines = [_mm512_setzero_si512(); P];
        for p in 0..P {
            let first = _mm512_srli_epi32::<16>(_mm512_castps_si512(lower[p]));
            let second = _mm512_castps_si512(upper[p]);
            lines[p] = _mm512_ternarylogic_epi32::<FIRST_OR_SECOND_AND_THIRD>(first, second, mask);
        }
        lines
    }
}

/// The lanes of at most `count` numbers, in two registers.
#[inline(always)]
pub(super) fn masks(count: usize) -> [__mmask16; 2] {
    let mask = if count < STEP { (1_u32 << count) - 1 } else { u32::MAX };
    [mask as u16, (mask >> LANES) as u16]
}

/// Lane i of register j becomes lane j of register i.
///
/// # Safety
/// The CPU has the tier.
#[inline(always)]
pub(super) unsafe fn transpose(rows: &[__m512i; LANES]) -> [__m512i; LANES] {
    // SAFETY: the caller's promise.
    unsafe {
        let zero = [_mm512_setzero_si512(); LANES];
        // Quarter q of `fours[4i + c]` has column 4q + c of the rows 4i to 4i + 3.
        let (mut twos, mut fours, mut columns) = (zero, zero, zero);
        for i in (0..LANES).step_by(2) {
            twos[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
            twos[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
        }
        for i in (0..LANES).step_by(4) {
            fours[i] = _mm512_unpacklo_epi64(twos[i], twos[i + 2]);
            fours[i + 1] = _mm512_unpackhi_epi64(twos[i], twos[i + 2]);
            fours[i + 2] = _mm512_unpacklo_epi64(twos[i + 1], twos[i + 3]);
            fours[i + 3] = _mm512_unpackhi_epi64(twos[i + 1], twos[i + 3]);
        }
        for c in 0..4 {
            let even = _mm512_shuffle_i32x4::<0x88>(fours[c], fours[4 + c]);
            let odd = _mm512_shuffle_i32x4::<0xdd>(fours[c], fours[4 + c]);
            let more_even = _mm512_shuffle_i32x4::<0x88>(fours[8 + c], fours[12 + c]);
            let more_odd = _mm512_shuffle_i32x4::<0xdd>(fours[8 + c], fours[12 + c]);
            columns[c] = _mm512_shuffle_i32x4::<0x88>(even, more_even);
            columns[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd, more_odd);
            columns[8 + c] = _mm512_shuffle_i32x4::<0xdd>(even, more_even);
            columns[12 + c] = _mm512_shuffle_i32x4::<0xdd>(odd, more_odd);
        }
        columns
    }
}
