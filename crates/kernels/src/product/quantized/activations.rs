//! Activations quantized to 8 bits, for products with quantized weights.

#[allow(clippy::wildcard_imports)] // intrinsics
#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[allow(clippy::wildcard_imports)] // intrinsics
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::unsigned_zero_point;
use crate::block::rows_per_block;
use crate::data_type::WEIGHTS_PER_BLOCK;
use crate::isa::Vectors;
use crate::prefetch::prefetch_to_write;
use crate::{Cpu, DataType, Parts};

/// 32 activations: `scale · integer`, and what a product with them needs besides.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(crate) struct Quantized {
    /// The largest magnitude / 127; NaN if an activation is not finite.
    pub(crate) scale: f32,
    /// scale · Σ integer: what a minimum is multiplied by.
    pub(crate) offset: f32,
    /// −zero · Σ integer: where a sum of products with unsigned weights starts.
    pub(crate) start: i32,
    /// −127…127.
    pub(crate) integers: [i8; WEIGHTS_PER_BLOCK],
}

/// The activations of a product, (T, cols) in blocks of 32. Kept between products, so that none allocates.
///
/// Tokens are cut into tiles of 16 and then, of what is left, of 8, 4, 2 and 1. A tile lies together, and in
/// it the blocks of the same columns: a kernel goes through it in order, with one address.
#[derive(Debug, Default)]
pub(crate) struct Activations {
    blocks: Vec<Quantized>,
    tokens: usize,
    per_token: usize,
}

/// Less than this, times any weight, is lost in any sum; and 127 divided by it is still finite.
const TINY: f32 = 1e-30;

/// The most tokens of a tile.
pub(super) const TILE: usize = 16;

impl Activations {
    /// Takes `x` (T, cols), for weights of `format`.
    pub(crate) fn set(&mut self, cpu: &Cpu, format: DataType, x: &[f32], cols: usize) {
        let (tokens, per_token) = (x.len() / cols, cols / WEIGHTS_PER_BLOCK);
        (self.tokens, self.per_token) = (tokens, per_token);
        if self.blocks.len() < tokens * per_token {
            self.blocks.resize(tokens * per_token, Quantized::default());
        }
        prefetch_to_write(&self.blocks[..tokens * per_token]);
        let (vectors, zero) = (cpu.isa().vectors(), unsigned_zero_point(format));
        let parts = Parts::new(&mut self.blocks);
        cpu.run_blocks(tokens, rows_per_block(cols), |range| {
            for token in range {
                let (first, width) = tile_of(token, tokens);
                for (b, x) in x[token * cols..][..cols].as_chunks().0.iter().enumerate() {
                    // SAFETY: each token is one index's, and its blocks are no other token's.
                    let block = unsafe { parts.item(first * per_token + b * width + token - first) };
                    quantize(vectors, x, zero, block);
                }
            }
        });
    }

    /// Number of tokens.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// The tile that begins at token `first`: its width, and for each 32 columns the blocks of its tokens.
    pub(super) fn tile(&self, first: usize) -> (usize, &[Quantized]) {
        let (start, width) = tile_of(first, self.tokens);
        debug_assert_eq!(start, first);
        (width, &self.blocks[start * self.per_token..][..width * self.per_token])
    }

    /// The blocks of a token.
    pub(super) fn of(&self, token: usize) -> impl Iterator<Item = &Quantized> {
        let (first, width) = tile_of(token, self.tokens);
        self.blocks[first * self.per_token..][..width * self.per_token]
            .iter()
            .skip(token - first)
            .step_by(width)
    }
}

/// Where the tile of `token` begins, and its width.
fn tile_of(token: usize, tokens: usize) -> (usize, usize) {
    let mut first = tokens / TILE * TILE;
    if token < first {
        return (token / TILE * TILE, TILE);
    }
    let mut width = TILE / 2;
    loop {
        if tokens & width != 0 {
            if token < first + width {
                return (first, width);
            }
            first += width;
        }
        width /= 2;
    }
}

/// Each tier writes where the block belongs: a block that is returned is copied in pieces that straddle those
/// just written, and the copy waits for all of them.
fn quantize(vectors: Vectors, x: &[f32; WEIGHTS_PER_BLOCK], zero: i32, out: &mut Quantized) {
    match vectors {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Cpu::new` has checked that this machine has the tier.
        Vectors::Avx2 => unsafe { avx2(x, zero, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Vectors::Avx512 => unsafe { avx512(x, zero, out) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Vectors::Neon => unsafe { neon(x, zero, out) },
        Vectors::Scalar => scalar(x, zero, out),
    }
}

/// The specification.
fn scalar(x: &[f32; WEIGHTS_PER_BLOCK], zero: i32, out: &mut Quantized) {
    // As integers, magnitudes are in the same order, and NaN comes last.
    let largest = x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0);
    let (scale, inverse) = scales(f32::from_bits(largest));
    out.integers = x.map(|x| (x * inverse).round_ties_even() as i8);
    let sum = out.integers.iter().map(|&q| i32::from(q)).sum();
    finish(scale, zero, sum, out);
}

/// The scale, and what a value is multiplied with before it is rounded.
#[inline(always)]
fn scales(largest: f32) -> (f32, f32) {
    if largest < TINY {
        (0.0, 0.0)
    } else if largest.is_finite() {
        (largest / 127.0, 127.0 / largest)
    } else {
        (f32::NAN, 0.0)
    }
}

#[inline(always)]
fn finish(scale: f32, zero: i32, sum: i32, out: &mut Quantized) {
    (out.scale, out.offset, out.start) = (scale, scale * sum as f32, -zero * sum);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(x: &[f32; WEIGHTS_PER_BLOCK], zero: i32, out: &mut Quantized) {
    let magnitude = _mm256_set1_epi32(0x7fff_ffff);
    // SAFETY: 32 floats are read.
    let x: [__m256; 4] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(x.as_ptr().add(8 * i)) });
    let bits = x.map(|x| _mm256_and_si256(_mm256_castps_si256(x), magnitude));
    let eight = _mm256_max_epi32(_mm256_max_epi32(bits[0], bits[1]), _mm256_max_epi32(bits[2], bits[3]));
    let four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
    let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    let one = _mm_max_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
    let (scale, inverse) = scales(f32::from_bits(_mm_cvtsi128_si32(one).cast_unsigned()));
    let inverse = _mm256_set1_ps(inverse);
    // What is not finite would become the smallest integer; the specification has 0 there.
    let finite = _mm256_castsi256_ps(_mm256_set1_epi32(if scale.is_nan() { 0 } else { -1 }));
    let q = x.map(|x| _mm256_cvtps_epi32(_mm256_and_ps(_mm256_mul_ps(x, inverse), finite)));
    let words = [_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3])];
    // Packing works within halves: the four quarters of each word vector lie 0 2 1 3.
    let bytes = _mm256_permutevar8x32_epi32(
        _mm256_packs_epi16(words[0], words[1]),
        _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7),
    );
    let pairs = _mm256_madd_epi16(_mm256_add_epi16(words[0], words[1]), _mm256_set1_epi16(1));
    let four = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
    // SAFETY: 32 bytes are written.
    unsafe { _mm256_storeu_si256(out.integers.as_mut_ptr().cast(), bytes) };
    finish(scale, zero, _mm_cvtsi128_si32(one), out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn avx512(x: &[f32; WEIGHTS_PER_BLOCK], zero: i32, out: &mut Quantized) {
    // SAFETY: 32 floats are read.
    let (a, b) = unsafe { (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))) };
    let bits = [a, b].map(|x| _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fff_ffff)));
    let largest = _mm512_reduce_max_epu32(_mm512_max_epu32(bits[0], bits[1]));
    let (scale, inverse) = scales(f32::from_bits(largest));
    let inverse = _mm512_set1_ps(inverse);
    // As in `avx2`.
    let finite = if scale.is_nan() { 0 } else { 0xffff };
    let q = [a, b].map(|x| _mm512_maskz_cvtps_epi32(finite, _mm512_mul_ps(x, inverse)));
    let sum = _mm512_reduce_add_epi32(_mm512_add_epi32(q[0], q[1]));
    // SAFETY: 2 × 16 bytes are written.
    unsafe {
        _mm_storeu_si128(out.integers.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(q[0]));
        _mm_storeu_si128(out.integers.as_mut_ptr().add(16).cast(), _mm512_cvtepi32_epi8(q[1]));
    }
    finish(scale, zero, sum, out);
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn neon(x: &[f32; WEIGHTS_PER_BLOCK], zero: i32, out: &mut Quantized) {
    // SAFETY: 32 floats are read.
    let x: [float32x4_t; 8] = std::array::from_fn(|i| unsafe { vld1q_f32(x.as_ptr().add(4 * i)) });
    let bits = x.map(|x| vreinterpretq_u32_f32(vabsq_f32(x)));
    let largest = bits.into_iter().fold(vdupq_n_u32(0), |a, b| vmaxq_u32(a, b));
    let (scale, inverse) = scales(f32::from_bits(vmaxvq_u32(largest)));
    // To the nearest, ties to even; a NaN, as of an infinity times 0, becomes 0 as in the specification.
    let q = x.map(|x| vcvtnq_s32_f32(vmulq_n_f32(x, inverse)));
    let sum = vaddvq_s32(q.into_iter().fold(vdupq_n_s32(0), |a, b| vaddq_s32(a, b)));
    for (out, q) in out.integers.as_chunks_mut::<8>().0.iter_mut().zip(q.as_chunks::<2>().0) {
        let words = vcombine_s16(vqmovn_s32(q[0]), vqmovn_s32(q[1]));
        // SAFETY: 8 bytes are written.
        unsafe { vst1_s8(out.as_mut_ptr(), vqmovn_s16(words)) };
    }
    finish(scale, zero, sum, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::values;

    fn quantized(isa: Isa, x: &[f32], cols: usize) -> Vec<Quantized> {
        let mut activations = Activations::default();
        activations.set(&Cpu::new(isa, 2), DataType::Q5_0, x, cols);
        (0..activations.tokens())
            .flat_map(|token| activations.of(token).copied().collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn integers_are_the_nearest_and_sums_are_right() {
        let (tokens, cols) = (5, 96);
        let x = values(1, tokens * cols, 3.0);
        for (x, block) in x.as_chunks::<WEIGHTS_PER_BLOCK>().0.iter().zip(quantized(Isa::Scalar, &x, cols)) {
            let largest = x.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            assert!((block.scale * 127.0 - largest).abs() < 1e-6);
            for (x, q) in x.iter().zip(block.integers) {
                assert!((x / block.scale - f32::from(q)).abs() <= 0.5001, "{x} as {q} × {}", block.scale);
            }
            let sum: i32 = block.integers.iter().map(|&q| i32::from(q)).sum();
            assert_eq!(block.start, -16 * sum);
            assert!((block.offset - block.scale * sum as f32).abs() < 1e-6);
        }
    }

    #[test]
    fn tiles_cover_all_tokens_once() {
        for tokens in 0..70 {
            let (mut token, mut widths) = (0, Vec::new());
            while token < tokens {
                let (first, width) = tile_of(token, tokens);
                assert_eq!(first, token);
                assert!((first..first + width).all(|token| tile_of(token, tokens) == (first, width)));
                widths.push(width);
                token += width;
            }
            assert_eq!(token, tokens);
            assert!(widths.is_sorted_by(|a, b| a > b || *a == TILE && *b == TILE), "{widths:?}");
        }
    }

    #[test]
    fn every_tier_gives_the_same_bits() {
        let mut x = values(1, 40 * 160, 3.0);
        x[..32].fill(0.0);
        x[32..64].fill(1e-38);
        x[64] = 3e38;
        x[100] = f32::INFINITY;
        x[130] = f32::NAN;
        // Halves are rounded to even.
        x[160..192].iter_mut().zip(-16_i16..).for_each(|(x, i)| *x = f32::from(i) + 0.5);
        x[192] = 127.0;
        let bits = |blocks: Vec<Quantized>| {
            let bits = |b: &Quantized| (b.scale.to_bits(), b.offset.to_bits(), b.start, b.integers);
            blocks.iter().map(bits).collect::<Vec<_>>()
        };
        let want = bits(quantized(Isa::Scalar, &x, 160));
        for isa in Isa::available() {
            assert_eq!(bits(quantized(isa, &x, 160)), want, "{isa}");
        }
    }

    #[test]
    fn what_is_not_finite_shows() {
        let mut x = [1.0; 96];
        x[40] = f32::NEG_INFINITY;
        x[70] = f32::NAN;
        for isa in Isa::available() {
            let blocks = quantized(isa, &x, 96);
            assert_eq!(
                blocks.iter().map(|b| b.scale.is_nan()).collect::<Vec<_>>(),
                [false, true, true],
                "{isa}"
            );
        }
    }
}
