//! AVX2 with FMA: eight floats.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;
use std::mem::transmute;

use super::{Operation, Simd};

/// Proof that this CPU has the tier's instructions: only [`run`], compiled for them, makes one.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Runs `operation` with eight floats at a time.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run<O: Operation>(operation: O) -> O::Output {
    operation.run(Avx2(()))
}

/// An intrinsic that touches no memory.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: there is a token (`self`), so the CPU has the instruction.
        unsafe { $call }
    };
}

/// All bits set in the first `n` of eight lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn first(n: usize) -> __m256i {
    let n = i32::try_from(n).unwrap_or(8);
    _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

/// 2ⁿ, for n from −126 to 127: the float's exponent bits.
#[inline]
#[target_feature(enable = "avx2")]
fn power(n: __m256i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))))
}

/// The sum of the lanes, by halves.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

/// The greatest lane.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn max_lane(x: __m256) -> f32 {
    let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
}

impl Simd for Avx2 {
    type V = __m256;
    type Mask = __m256;
    const LANES: usize = 8;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        intrinsic!(_mm256_set1_ps(x))
    }

    #[inline(always)]
    fn load_or(self, from: &[f32], absent: __m256) -> __m256 {
        if from.len() >= Self::LANES {
            return self.load(from);
        }
        intrinsic!(_mm256_blendv_ps(absent, self.load(from), _mm256_castsi256_ps(first(from.len()))))
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m256 {
        if from.len() >= Self::LANES {
            // SAFETY: there are that many elements, and there is a token.
            unsafe { _mm256_loadu_ps(from.as_ptr()) }
        } else {
            // SAFETY: only lanes below the length are read, and there is a token.
            unsafe { _mm256_maskload_ps(from.as_ptr(), first(from.len())) }
        }
    }

    #[inline(always)]
    fn store(self, into: &mut [f32], x: __m256) {
        if into.len() >= Self::LANES {
            // SAFETY: there are that many elements, and there is a token.
            unsafe { _mm256_storeu_ps(into.as_mut_ptr(), x) }
        } else {
            // SAFETY: only lanes below the length are written, and there is a token.
            unsafe { _mm256_maskstore_ps(into.as_mut_ptr(), first(into.len()), x) }
        }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        intrinsic!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn neg_mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        intrinsic!(_mm256_fnmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn sqrt(self, x: __m256) -> __m256 {
        intrinsic!(_mm256_sqrt_ps(x))
    }

    #[inline(always)]
    fn neg_abs(self, x: __m256) -> __m256 {
        intrinsic!(_mm256_or_ps(x, _mm256_set1_ps(-0.0)))
    }

    #[inline(always)]
    fn round(self, x: __m256) -> __m256 {
        intrinsic!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x))
    }

    /// In two steps, because 2ⁿ need not be a normal float. Only the second can round: if x · 2ⁿ is
    /// subnormal, x times half the power is not, for the n allowed.
    #[inline(always)]
    fn scale(self, x: __m256, n: __m256) -> __m256 {
        intrinsic!({
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            _mm256_mul_ps(_mm256_mul_ps(x, power(half)), power(_mm256_sub_epi32(n, half)))
        })
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_min_ps(a, b))
    }

    #[inline(always)]
    fn ge(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_cmp_ps::<_CMP_GE_OQ>(a, b))
    }

    #[inline(always)]
    fn select(self, mask: __m256, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_blendv_ps(b, a, mask))
    }

    #[inline(always)]
    fn sum(self, x: __m256) -> f32 {
        intrinsic!(sum(x))
    }

    #[inline(always)]
    fn max_lane(self, x: __m256) -> f32 {
        intrinsic!(max_lane(x))
    }

    /// The upper half of the lanes is added to the lower, then pairs, then ones; four vectors share
    /// additions.
    #[inline(always)]
    fn sum_fours<const N: usize>(self, fours: [[Self::V; 4]; N]) -> [[f32; 4]; N] {
        let mut out = [[0.0; 4]; N];
        for j in 0..N {
            let [a, b, c, d] = fours[j];
            // SAFETY: there is a token. Each letter stands for a lane of its vector.
            unsafe {
                // aaaacccc
                let ac = _mm256_add_ps(_mm256_blend_ps::<0xF0>(a, c), _mm256_permute2f128_ps::<0x21>(a, c));
                // bbbbdddd
                let bd = _mm256_add_ps(_mm256_blend_ps::<0xF0>(b, d), _mm256_permute2f128_ps::<0x21>(b, d));
                // aabbccdd
                let pairs = _mm256_add_ps(_mm256_blend_ps::<0xCC>(ac, bd), _mm256_shuffle_ps::<0x4E>(ac, bd));
                let ones = _mm256_add_ps(pairs, _mm256_permute_ps::<0xB1>(pairs));
                let (ab, cd) = (_mm256_castps256_ps128(ones), _mm256_extractf128_ps::<1>(ones));
                out[j] = transmute::<__m128, [f32; 4]>(_mm_shuffle_ps::<0x88>(ab, cd));
            }
        }
        out
    }

    #[inline(always)]
    fn round_to_half(self, x: __m256) -> __m256 {
        intrinsic!(_mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)))
    }

    #[inline(always)]
    unsafe fn load_at(self, from: *const f32) -> __m256 {
        // SAFETY: readable by the caller's promise, and there is a token.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    #[allow(clippy::cast_ptr_alignment)] // any alignment will do
    unsafe fn load_halves_at(self, from: *const u16) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast::<__m128i>())) }
    }

    #[inline(always)]
    #[allow(clippy::cast_ptr_alignment)] // any alignment will do
    unsafe fn load_bf16_at(self, from: *const u16) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let numbers = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast::<__m128i>()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(numbers))
        }
    }

    #[inline(always)]
    unsafe fn store_at(self, into: *mut f32, x: __m256) {
        // SAFETY: writable by the caller's promise, and there is a token.
        unsafe { _mm256_storeu_ps(into, x) }
    }
}
