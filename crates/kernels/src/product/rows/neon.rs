//! NEON.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::aarch64::*;
use std::arch::asm;
use std::mem::transmute;
use std::ops::Range;

use super::vector::{F16, F32, ROWS, Vector};
use super::{FEW, few, many};
use crate::product::Weights;
use crate::product::neon::widen;
use crate::{DataType, Parts};

/// The outputs of `rows` for every token, with NEON.
pub(super) fn neon(w: Weights<'_>, x: &[f32], rows: Range<usize>, y: &Parts<'_, f32>) {
    #[target_feature(enable = "neon")]
    fn few(w: Weights<'_>, x: &[f32], rows: Range<usize>, y: &Parts<'_, f32>) {
        // SAFETY: this function has the feature; the outputs are the task's own.
        unsafe {
            match w.format {
                DataType::F32 => few::outputs::<float32x4_t, F32>(w, x, rows, y),
                DataType::F16 => few::outputs::<float32x4_t, F16>(w, x, rows, y),
                _ => unreachable!("quantized weights are multiplied as panels"),
            }
        }
    }
    #[target_feature(enable = "neon")]
    fn many(w: Weights<'_>, x: &[f32], rows: Range<usize>, y: &Parts<'_, f32>, panels: *mut f32) {
        // SAFETY: as above; the panels are this task's.
        unsafe {
            match w.format {
                DataType::F32 => many::outputs::<float32x4_t, F32>(w, x, rows, y, panels),
                DataType::F16 => many::outputs::<float32x4_t, F16>(w, x, rows, y, panels),
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

// SAFETY (all methods): the callers have NEON, by the trait's contract.
impl Vector for float32x4_t {
    const LANES: usize = 4;
    const TOKENS: usize = 6;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: as above.
        unsafe { vdupq_n_f32(0.0) }
    }

    #[inline(always)]
    unsafe fn load(data: *const f32) -> Self {
        // SAFETY: readable by the caller's promise.
        unsafe { vld1q_f32(data) }
    }

    #[inline(always)]
    unsafe fn load_half(data: *const u16) -> Self {
        // SAFETY: readable by the caller's promise.
        unsafe { widen(vld1_u16(data)) }
    }

    #[inline(always)]
    unsafe fn store(self, data: *mut f32) {
        // SAFETY: writable by the caller's promise.
        unsafe { vst1q_f32(data, self) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { vfmaq_f32(self, a, b) }
    }

    /// The upper half of the lanes is added to the lower, then ones; two vectors share each first addition, four the second.
    #[inline(always)]
    unsafe fn sum_lanes<const N: usize>(tokens: [[Self; ROWS]; N]) -> [[f32; ROWS]; N] {
        let mut out = [[0.0; ROWS]; N];
        for j in 0..N {
            // SAFETY: as above; both types are four floats.
            unsafe {
                let [ab, cd] =
                    [add_halves(tokens[j][0], tokens[j][1]), add_halves(tokens[j][2], tokens[j][3])];
                out[j] = transmute::<float32x4_t, [f32; 4]>(vpaddq_f32(ab, cd));
            }
        }
        out
    }

    #[inline(always)]
    unsafe fn prefetch(data: *const u8) {
        // SAFETY: a prefetch of any address does no harm.
        unsafe {
            asm!("prfm pldl2keep, [{data}]", data = in(reg) data, options(nostack, readonly, preserves_flags));
        }
    }

    #[inline(always)]
    unsafe fn prefetch_to_write(data: *mut f32) {
        // SAFETY: as above.
        unsafe {
            asm!("prfm pstl1keep, [{data}]", data = in(reg) data, options(nostack, readonly, preserves_flags));
        }
    }
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
