//! NEON: four floats.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::aarch64::*;
use std::arch::asm;
use std::mem::transmute;

use super::{Operation, Simd};

/// Proof that this CPU has the tier's instructions: only [`run`], compiled for them, makes one.
#[derive(Clone, Copy)]
pub(super) struct Neon(());

/// Runs `operation` with four floats at a time.
#[target_feature(enable = "neon")]
pub(super) fn run<O: Operation>(operation: O) -> O::Output {
    operation.run(Neon(()))
}

/// An intrinsic that touches no memory.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: there is a token (`self`), so the CPU has the instruction.
        unsafe { $call }
    };
}

/// 2ⁿ, for n from −126 to 127: the float's exponent bits.
#[inline]
#[target_feature(enable = "neon")]
fn power(n: int32x4_t) -> float32x4_t {
    vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127))))
}

/// The sum of the lanes, by halves.
#[inline]
#[target_feature(enable = "neon")]
fn sum(x: float32x4_t) -> f32 {
    vpadds_f32(vadd_f32(vget_low_f32(x), vget_high_f32(x)))
}

/// The four floats of `x`.
#[inline]
#[target_feature(enable = "neon")]
fn vector(x: [f32; 4]) -> float32x4_t {
    // SAFETY: there are four.
    unsafe { vld1q_f32(x.as_ptr()) }
}

/// The sums of a's two halves, and of b's.
#[inline(always)]
unsafe fn add_halves(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: only called with NEON.
    unsafe {
        let (a, b) = (vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b));
        vaddq_f32(vreinterpretq_f32_f64(vtrn1q_f64(a, b)), vreinterpretq_f32_f64(vtrn2q_f64(a, b)))
    }
}

/// From half precision, exactly. The instruction itself, as below: their intrinsics need a type that Rust
/// 1.89 lacks.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
pub(crate) unsafe fn widen(halves: uint16x4_t) -> float32x4_t {
    let floats: float32x4_t;
    // SAFETY: the CPU has the instruction; it touches no memory.
    unsafe {
        asm!(
            "fcvtl {floats:v}.4s, {halves:v}.4h",
            floats = out(vreg) floats, halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    floats
}

/// To half precision, to the nearest, ties to even.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn narrow(floats: float32x4_t) -> uint16x4_t {
    let halves: uint16x4_t;
    // SAFETY: as above.
    unsafe {
        asm!(
            "fcvtn {halves:v}.4h, {floats:v}.4s",
            halves = out(vreg) halves, floats = in(vreg) floats,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    halves
}

impl Simd for Neon {
    type V = float32x4_t;
    type Mask = uint32x4_t;
    const LANES: usize = 4;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        intrinsic!(vdupq_n_f32(x))
    }

    /// NEON has no loads and stores in part: what fills no vector is taken element by element.
    #[inline(always)]
    fn load_or(self, from: &[f32], absent: float32x4_t) -> float32x4_t {
        if from.len() >= Self::LANES {
            return self.load(from);
        }
        let mut lanes = [0.0; 4];
        self.store(&mut lanes, absent);
        match *from {
            [a] => lanes[0] = a,
            [a, b] => lanes[..2].copy_from_slice(&[a, b]),
            [a, b, c] => lanes[..3].copy_from_slice(&[a, b, c]),
            _ => {}
        }
        intrinsic!(vector(lanes))
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> float32x4_t {
        let lanes = match *from {
            // SAFETY: there are that many elements, and there is a token.
            [_, _, _, _, ..] => return unsafe { vld1q_f32(from.as_ptr()) },
            [a, b, c] => [a, b, c, 0.0],
            [a, b] => [a, b, 0.0, 0.0],
            [a] => [a, 0.0, 0.0, 0.0],
            [] => [0.0; 4],
        };
        intrinsic!(vector(lanes))
    }

    #[inline(always)]
    fn store(self, into: &mut [f32], x: float32x4_t) {
        match into {
            // SAFETY: there are that many elements, and there is a token.
            [_, _, _, _, ..] => unsafe { vst1q_f32(into.as_mut_ptr(), x) },
            [a, b, c] => {
                [*a, *b] = [intrinsic!(vgetq_lane_f32::<0>(x)), intrinsic!(vgetq_lane_f32::<1>(x))];
                *c = intrinsic!(vgetq_lane_f32::<2>(x));
            }
            [a, b] => [*a, *b] = [intrinsic!(vgetq_lane_f32::<0>(x)), intrinsic!(vgetq_lane_f32::<1>(x))],
            [a] => *a = intrinsic!(vgetq_lane_f32::<0>(x)),
            [] => {}
        }
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        intrinsic!(vaddq_f32(a, b))
    }

    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        intrinsic!(vsubq_f32(a, b))
    }

    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        intrinsic!(vmulq_f32(a, b))
    }

    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        intrinsic!(vdivq_f32(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        intrinsic!(vfmaq_f32(c, a, b))
    }

    #[inline(always)]
    fn neg_mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        intrinsic!(vfmsq_f32(c, a, b))
    }

    #[inline(always)]
    fn sqrt(self, x: float32x4_t) -> float32x4_t {
        intrinsic!(vsqrtq_f32(x))
    }

    #[inline(always)]
    fn neg_abs(self, x: float32x4_t) -> float32x4_t {
        intrinsic!(vnegq_f32(vabsq_f32(x)))
    }

    #[inline(always)]
    fn round(self, x: float32x4_t) -> float32x4_t {
        intrinsic!(vrndnq_f32(x))
    }

    /// In two steps, because 2ⁿ need not be a normal float. Only the second can round: if x · 2ⁿ is
    /// subnormal, x times half the power is not, for the n allowed.
    #[inline(always)]
    fn scale(self, x: float32x4_t, n: float32x4_t) -> float32x4_t {
        intrinsic!({
            let n = vcvtnq_s32_f32(n);
            let half = vshrq_n_s32::<1>(n);
            vmulq_f32(vmulq_f32(x, power(half)), power(vsubq_s32(n, half)))
        })
    }

    /// NEON's own maximum is a NaN if either is one.
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        intrinsic!(vbslq_f32(vcgtq_f32(a, b), a, b))
    }

    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        intrinsic!(vbslq_f32(vcltq_f32(a, b), a, b))
    }

    #[inline(always)]
    fn ge(self, a: float32x4_t, b: float32x4_t) -> uint32x4_t {
        intrinsic!(vcgeq_f32(a, b))
    }

    #[inline(always)]
    fn select(self, mask: uint32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        intrinsic!(vbslq_f32(mask, a, b))
    }

    #[inline(always)]
    fn sum(self, x: float32x4_t) -> f32 {
        intrinsic!(sum(x))
    }

    #[inline(always)]
    fn max_lane(self, x: float32x4_t) -> f32 {
        intrinsic!(vmaxvq_f32(x))
    }

    /// The upper half of the lanes is added to the lower, then ones; two vectors share each first addition,
    /// four the second.
    #[inline(always)]
    fn sum_fours<const N: usize>(self, fours: [[Self::V; 4]; N]) -> [[f32; 4]; N] {
        let mut out = [[0.0; 4]; N];
        for j in 0..N {
            // SAFETY: as above; both types are four floats.
            unsafe {
                let [ab, cd] = [add_halves(fours[j][0], fours[j][1]), add_halves(fours[j][2], fours[j][3])];
                out[j] = transmute::<float32x4_t, [f32; 4]>(vpaddq_f32(ab, cd));
            }
        }
        out
    }

    #[inline(always)]
    fn round_to_half(self, x: float32x4_t) -> float32x4_t {
        intrinsic!(widen(narrow(x)))
    }

    #[inline(always)]
    unsafe fn load_at(self, from: *const f32) -> float32x4_t {
        // SAFETY: readable by the caller's promise, and there is a token.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn load_halves_at(self, from: *const u16) -> float32x4_t {
        // SAFETY: as above.
        unsafe { widen(vld1_u16(from)) }
    }

    #[inline(always)]
    unsafe fn load_bf16_at(self, from: *const u16) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(vld1_u16(from)))) }
    }

    #[inline(always)]
    unsafe fn store_at(self, into: *mut f32, x: float32x4_t) {
        // SAFETY: writable by the caller's promise, and there is a token.
        unsafe { vst1q_f32(into, x) }
    }
}
