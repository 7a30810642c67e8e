//! AVX2 and AVX-512.

// Unaligned loads take pointers to vectors.
#![allow(clippy::cast_ptr_alignment)]

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;
use std::mem::transmute;
use std::ops::Range;

use super::vector::{F16, F32, ROWS, Vector};
use super::{FEW, few, many};
use crate::product::Weights;
use crate::{DataType, Parts};

/// One tier's entry point.
macro_rules! entry {
    ($name:ident, $vector:ty, $features:literal, $doc:literal) => {
        #[doc = $doc]
        pub(super) fn $name(w: Weights<'_>, x: &[f32], rows: Range<usize>, y: &Parts<'_, f32>) {
            #[target_feature(enable = $features)]
            fn few(w: Weights<'_>, x: &[f32], rows: Range<usize>, y: &Parts<'_, f32>) {
                // SAFETY: this function has the features; the outputs are the task's own.
                unsafe {
                    match w.format {
                        DataType::F32 => few::outputs::<$vector, F32>(w, x, rows, y),
                        DataType::F16 => few::outputs::<$vector, F16>(w, x, rows, y),
                        _ => unreachable!("quantized weights are multiplied as panels"),
                    }
                }
            }
            #[target_feature(enable = $features)]
            fn many(w: Weights<'_>, x: &[f32], rows: Range<usize>, y: &Parts<'_, f32>, panels: *mut f32) {
                // SAFETY: as above; the panels are this task's.
                unsafe {
                    match w.format {
                        DataType::F32 => many::outputs::<$vector, F32>(w, x, rows, y, panels),
                        DataType::F16 => many::outputs::<$vector, F16>(w, x, rows, y, panels),
                        _ => unreachable!("quantized weights are multiplied as panels"),
                    }
                }
            }
            if x.len() / w.cols <= FEW {
                // SAFETY: `Cpu::new` has checked that this machine has the tier.
                unsafe { few(w, x, rows, y) }
            } else {
                many::with_panels(rows.len(), w.cols, |panels| {
                    // SAFETY: as above.
                    unsafe { many(w, x, rows, y, panels) }
                });
            }
        }
    };
}

entry!(avx2, __m256, "avx2,fma,f16c", "The outputs of `rows` for every token, with AVX2, FMA and F16C.");
entry!(avx512, __m512, "avx512f,avx2,fma,f16c", "The outputs of `rows` for every token, with AVX-512.");

// SAFETY (all methods): the callers have the instruction set, by the trait's contract.
impl Vector for __m512 {
    const LANES: usize = 16;
    const TOKENS: usize = 6;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: as above.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(data: *const f32) -> Self {
        // SAFETY: readable by the caller's promise.
        unsafe { _mm512_loadu_ps(data) }
    }

    #[inline(always)]
    unsafe fn load_half(data: *const u16) -> Self {
        // SAFETY: readable by the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(data.cast::<__m256i>())) }
    }

    #[inline(always)]
    unsafe fn store(self, data: *mut f32) {
        // SAFETY: writable by the caller's promise.
        unsafe { _mm512_storeu_ps(data, self) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, self) }
    }

    /// The upper half of the lanes is added to the lower, then quarters, pairs and ones: eight and eight, four and four…
    /// Vectors that are at the same stage share an addition. Of up to four tokens, quarter q ends with token q's sums,
    /// lane i of a quarter with row i's; of a single token, quarter i with row i's.
    #[inline(always)]
    unsafe fn sum_lanes<const N: usize>(tokens: [[Self; ROWS]; N]) -> [[f32; ROWS]; N] {
        let mut out = [[0.0; ROWS]; N];
        let mut first = 0;
        if N == 1 {
            // SAFETY: as above.
            unsafe {
                let [a, b, c, d] = tokens[0];
                let quarters = add_quarters(add_halves(a, c), add_halves(b, d));
                let pairs = add_pairs(quarters, quarters);
                let ones = add_ones(pairs, pairs);
                let first_of_each = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
                let sums = _mm512_permutexvar_ps(first_of_each, ones);
                out[0] = transmute::<__m128, [f32; 4]>(_mm512_castps512_ps128(sums));
            }
            first = 1;
        }
        while first < N {
            let count = if N - first < 4 { N - first } else { 4 };
            // SAFETY: as above.
            unsafe {
                let mut rows = [_mm512_setzero_ps(); ROWS];
                for i in 0..ROWS {
                    // Where there is no such token another stands in, and its sums are not used.
                    let a = tokens[first][i];
                    let b = tokens[first + 1 % count][i];
                    rows[i] = if count <= 2 {
                        add_quarters(add_halves(a, a), add_halves(b, b))
                    } else {
                        let c = tokens[first + 2 % count][i];
                        let d = if count == 4 { tokens[first + 3 % count][i] } else { b };
                        add_quarters(add_halves(a, c), add_halves(b, d))
                    };
                }
                let sums = add_ones(add_pairs(rows[0], rows[2]), add_pairs(rows[1], rows[3]));
                out[first] = transmute::<__m128, [f32; 4]>(_mm512_castps512_ps128(sums));
                if count > 1 {
                    out[first + 1] = transmute::<__m128, [f32; 4]>(_mm512_extractf32x4_ps::<1>(sums));
                }
                if count > 2 {
                    out[first + 2] = transmute::<__m128, [f32; 4]>(_mm512_extractf32x4_ps::<2>(sums));
                }
                if count > 3 {
                    out[first + 3] = transmute::<__m128, [f32; 4]>(_mm512_extractf32x4_ps::<3>(sums));
                }
            }
            first += 4;
        }
        out
    }

    #[inline(always)]
    unsafe fn prefetch(data: *const u8) {
        // SAFETY: a prefetch of any address does no harm.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(data.cast()) }
    }

    #[inline(always)]
    unsafe fn prefetch_to_write(data: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(data.cast_const().cast()) }
    }
}

/// One stage of a sum of lanes for two vectors at once: of every two groups of lanes that are added, `a`'s sum goes
/// where the first is and `b`'s where the second is. The mask has the lanes of all second groups.
macro_rules! stage {
    ($name:ident, $mask:literal, $moved:ident => $swapped:expr) => {
        #[inline(always)]
        unsafe fn $name(a: __m512, b: __m512) -> __m512 {
            // SAFETY: only called with the tier's instructions.
            unsafe {
                let kept = _mm512_mask_blend_ps($mask, a, b);
                let $moved = _mm512_mask_blend_ps($mask, b, a);
                _mm512_add_ps(kept, $swapped)
            }
        }
    };
}

stage!(add_halves, 0xFF00, v => _mm512_shuffle_f32x4::<0x4E>(v, v));
stage!(add_quarters, 0xF0F0, v => _mm512_shuffle_f32x4::<0xB1>(v, v));
stage!(add_pairs, 0xCCCC, v => _mm512_permute_ps::<0x4E>(v));
stage!(add_ones, 0xAAAA, v => _mm512_permute_ps::<0xB1>(v));

// SAFETY (all methods): as for the other.
impl Vector for __m256 {
    const LANES: usize = 8;
    const TOKENS: usize = 3;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: as above.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(data: *const f32) -> Self {
        // SAFETY: readable by the caller's promise.
        unsafe { _mm256_loadu_ps(data) }
    }

    #[inline(always)]
    unsafe fn load_half(data: *const u16) -> Self {
        // SAFETY: readable by the caller's promise.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(data.cast::<__m128i>())) }
    }

    #[inline(always)]
    unsafe fn store(self, data: *mut f32) {
        // SAFETY: writable by the caller's promise.
        unsafe { _mm256_storeu_ps(data, self) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(a, b, self) }
    }

    /// The upper half of the lanes is added to the lower, then pairs, then ones; vectors share additions as above.
    #[inline(always)]
    unsafe fn sum_lanes<const N: usize>(tokens: [[Self; ROWS]; N]) -> [[f32; ROWS]; N] {
        let mut out = [[0.0; ROWS]; N];
        for j in 0..N {
            let [a, b, c, d] = tokens[j];
            // SAFETY: as above. Each letter stands for a lane.
            unsafe {
                let ac = _mm256_add_ps(_mm256_blend_ps::<0xF0>(a, c), _mm256_permute2f128_ps::<0x21>(a, c)); // aaaacccc
                let bd = _mm256_add_ps(_mm256_blend_ps::<0xF0>(b, d), _mm256_permute2f128_ps::<0x21>(b, d)); // bbbbdddd
                let pairs = _mm256_add_ps(_mm256_blend_ps::<0xCC>(ac, bd), _mm256_shuffle_ps::<0x4E>(ac, bd)); // aabbccdd
                let ones = _mm256_add_ps(pairs, _mm256_permute_ps::<0xB1>(pairs));
                let (ab, cd) = (_mm256_castps256_ps128(ones), _mm256_extractf128_ps::<1>(ones));
                out[j] = transmute::<__m128, [f32; 4]>(_mm_shuffle_ps::<0x88>(ab, cd));
            }
        }
        out
    }

    #[inline(always)]
    unsafe fn prefetch(data: *const u8) {
        // SAFETY: a prefetch of any address does no harm.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(data.cast()) }
    }

    #[inline(always)]
    unsafe fn prefetch_to_write(data: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(data.cast_const().cast()) }
    }
}
