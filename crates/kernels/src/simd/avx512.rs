//! AVX-512 F, BW, DQ, VL: sixteen floats, and masks in registers of their own.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;
use std::mem::transmute;

use super::{Operation, Simd, avx2};

/// Proof that this CPU has the tier's instructions: only [`run`], compiled for them, makes one.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// Runs `operation` with sixteen floats at a time.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn run<O: Operation>(operation: O) -> O::Output {
    operation.run(Avx512(()))
}

/// An intrinsic that touches no memory.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: there is a token (`self`), so the CPU has the instruction.
        unsafe { $call }
    };
}

/// The first `n` of sixteen lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    (1_u16 << n) - 1
}

/// One stage of a sum of lanes for two vectors at once: of every two groups of lanes that are added, `a`'s
/// sum goes where the first is and `b`'s where the second is. The mask has the lanes of all second groups.
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

impl Simd for Avx512 {
    type V = __m512;
    type Mask = __mmask16;
    const LANES: usize = 16;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        intrinsic!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    fn load_or(self, from: &[f32], absent: __m512) -> __m512 {
        if from.len() >= Self::LANES {
            // SAFETY: there are that many elements, and there is a token.
            unsafe { _mm512_loadu_ps(from.as_ptr()) }
        } else {
            // SAFETY: only lanes below the length are read, and there is a token.
            unsafe { _mm512_mask_loadu_ps(absent, first(from.len()), from.as_ptr()) }
        }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m512 {
        if from.len() >= Self::LANES {
            // SAFETY: there are that many elements, and there is a token.
            unsafe { _mm512_loadu_ps(from.as_ptr()) }
        } else {
            // SAFETY: only lanes below the length are read, and there is a token.
            unsafe { _mm512_maskz_loadu_ps(first(from.len()), from.as_ptr()) }
        }
    }

    #[inline(always)]
    fn store(self, into: &mut [f32], x: __m512) {
        if into.len() >= Self::LANES {
            // SAFETY: there are that many elements, and there is a token.
            unsafe { _mm512_storeu_ps(into.as_mut_ptr(), x) }
        } else {
            // SAFETY: only lanes below the length are written, and there is a token.
            unsafe { _mm512_mask_storeu_ps(into.as_mut_ptr(), first(into.len()), x) }
        }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        intrinsic!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn neg_mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        intrinsic!(_mm512_fnmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn sqrt(self, x: __m512) -> __m512 {
        intrinsic!(_mm512_sqrt_ps(x))
    }

    #[inline(always)]
    fn neg_abs(self, x: __m512) -> __m512 {
        intrinsic!(_mm512_or_ps(x, _mm512_set1_ps(-0.0)))
    }

    #[inline(always)]
    fn round(self, x: __m512) -> __m512 {
        intrinsic!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x))
    }

    #[inline(always)]
    fn scale(self, x: __m512, n: __m512) -> __m512 {
        intrinsic!(_mm512_scalef_ps(x, n))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn ge(self, a: __m512, b: __m512) -> __mmask16 {
        intrinsic!(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b))
    }

    #[inline(always)]
    fn select(self, mask: __mmask16, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_mask_blend_ps(mask, b, a))
    }

    #[inline(always)]
    fn sum(self, x: __m512) -> f32 {
        intrinsic!({
            let (low, high) = (_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
            avx2::sum(_mm256_add_ps(low, high))
        })
    }

    #[inline(always)]
    fn max_lane(self, x: __m512) -> f32 {
        intrinsic!({
            let (low, high) = (_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
            avx2::max_lane(_mm256_max_ps(low, high))
        })
    }

    /// The upper half of the lanes is added to the lower, then quarters, pairs and ones: eight and eight,
    /// four and four… Vectors that are at the same stage share an addition. Of up to four fours, quarter q
    /// ends with four q's sums, lane i of a quarter with vector i's; of a single four, quarter i with vector
    /// i's.
    #[inline(always)]
    fn sum_fours<const N: usize>(self, fours: [[Self::V; 4]; N]) -> [[f32; 4]; N] {
        let mut out = [[0.0; 4]; N];
        let mut first = 0;
        if N == 1 {
            // SAFETY: there is a token.
            unsafe {
                let [a, b, c, d] = fours[0];
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
            // SAFETY: there is a token.
            unsafe {
                let mut vectors = [_mm512_setzero_ps(); 4];
                for i in 0..4 {
                    // Where there is no such four another stands in, and its sums are not used.
                    let a = fours[first][i];
                    let b = fours[first + 1 % count][i];
                    vectors[i] = if count <= 2 {
                        add_quarters(add_halves(a, a), add_halves(b, b))
                    } else {
                        let c = fours[first + 2 % count][i];
                        let d = if count == 4 { fours[first + 3 % count][i] } else { b };
                        add_quarters(add_halves(a, c), add_halves(b, d))
                    };
                }
                let sums = add_ones(add_pairs(vectors[0], vectors[2]), add_pairs(vectors[1], vectors[3]));
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
    fn round_to_half(self, x: __m512) -> __m512 {
        intrinsic!(_mm512_cvtph_ps(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)))
    }

    #[inline(always)]
    unsafe fn load_at(self, from: *const f32) -> __m512 {
        // SAFETY: readable by the caller's promise, and there is a token.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    #[allow(clippy::cast_ptr_alignment)] // any alignment will do
    unsafe fn load_halves_at(self, from: *const u16) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast::<__m256i>())) }
    }

    #[inline(always)]
    #[allow(clippy::cast_ptr_alignment)] // any alignment will do
    unsafe fn load_bf16_at(self, from: *const u16) -> __m512 {
        // SAFETY: as above.
        unsafe {
            // Word i to the upper half of lane i, and zeros to the lower: one instruction where widening and
            // shifting are two.
            let places = _mm512_slli_epi32::<16>(_mm512_setr_epi32(
                0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
            ));
            let numbers = _mm512_castsi256_si512(_mm256_loadu_si256(from.cast::<__m256i>()));
            _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaa_aaaa, places, numbers))
        }
    }

    #[inline(always)]
    unsafe fn store_at(self, into: *mut f32, x: __m512) {
        // SAFETY: writable by the caller's promise, and there is a token.
        unsafe { _mm512_storeu_ps(into, x) }
    }
}
