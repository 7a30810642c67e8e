//! AVX-512 F, BW, DQ, VL: sixteen floats, and masks in registers of their own.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

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

impl Simd for Avx512 {
    type V = __m512;
    type Mask = __mmask16;
    const LANES: usize = 16;

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
}
