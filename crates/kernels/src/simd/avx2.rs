//! AVX2 with FMA: eight floats.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

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

    /// In two steps, because 2ⁿ need not be a normal float. Only the second can round: if x · 2ⁿ is subnormal, x times
    /// half the power is not, for the n allowed.
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
}
