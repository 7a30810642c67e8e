//! Activations as FP16 weights meet them.

use half::f16;

use crate::isa::Vectors;
use crate::product::again::ask_to_write;
use crate::{Cpu, Parts};

/// The largest finite half.
const LARGEST: f32 = 65504.0;

/// Elements of a task of the team's loop: some µs.
const ROUND_TASK: usize = 1 << 14;

/// `out = x`, each rounded to half precision: to the nearest, ties to even. What is beyond the largest half becomes the
/// largest, with its sign; a NaN stays one.
///
/// # Panics
/// If the lengths differ.
pub(in crate::product) fn round_to_half(cpu: &Cpu, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    ask_to_write(out);
    let parts = Parts::new(out);
    cpu.run_blocks(x.len(), ROUND_TASK, |block| {
        let x = &x[block.clone()];
        // SAFETY: each task takes its own block.
        let out = unsafe { parts.part(block) };
        match cpu.isa().vectors() {
            Vectors::Scalar => scalar(x, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Cpu::new` has checked that this machine has the tier.
            Vectors::Avx2 => unsafe { x86::avx2(x, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Vectors::Avx512 => unsafe { x86::avx512(x, out) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Vectors::Neon => unsafe { neon(x, out) },
        }
    });
}

/// The specification.
fn scalar(x: &[f32], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = f16::from_f32(x.clamp(-LARGEST, LARGEST)).to_f32();
    }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn neon(x: &[f32], out: &mut [f32]) {
    use std::arch::aarch64::{vdupq_n_f32, vld1q_f32, vmaxq_f32, vminq_f32, vst1q_f32};

    use crate::product::neon::{narrow, widen};

    let (vectors, rest) = x.as_chunks::<4>();
    let (out_vectors, out_rest) = out.as_chunks_mut::<4>();
    let (largest, smallest) = (vdupq_n_f32(LARGEST), vdupq_n_f32(-LARGEST));
    for (out, x) in out_vectors.iter_mut().zip(vectors) {
        // SAFETY: four floats are read and written; this function has the feature. Minimum and maximum keep a NaN.
        unsafe {
            let x = vmaxq_f32(vminq_f32(vld1q_f32(x.as_ptr()), largest), smallest);
            vst1q_f32(out.as_mut_ptr(), widen(narrow(x)));
        }
    }
    scalar(rest, out_rest);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _MM_FROUND_TO_NEAREST_INT, _mm256_cvtph_ps, _mm256_cvtps_ph, _mm256_max_ps,
        _mm256_min_ps, _mm256_set1_ps, _mm512_cvtph_ps, _mm512_cvtps_ph, _mm512_max_ps, _mm512_min_ps,
        _mm512_set1_ps,
    };
    use std::mem::transmute;

    use super::{LARGEST, scalar};

    /// One tier's function. `min` and `max` return their second argument if either is a NaN.
    macro_rules! tier {
        ($name:ident, $features:literal, $vector:ty, $lanes:literal, $set1:ident, $min:ident, $max:ident, $to_half:ident, $to_single:ident) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name(x: &[f32], out: &mut [f32]) {
                let (vectors, rest) = x.as_chunks::<$lanes>();
                let (out_vectors, out_rest) = out.as_chunks_mut::<$lanes>();
                let largest = $set1(LARGEST);
                let smallest = $set1(-LARGEST);
                for (out, x) in out_vectors.iter_mut().zip(vectors) {
                    // SAFETY: an array of as many floats as the vector has.
                    let x = unsafe { transmute::<[f32; $lanes], $vector>(*x) };
                    let x = $max(smallest, $min(largest, x));
                    let x = $to_single($to_half::<_MM_FROUND_TO_NEAREST_INT>(x));
                    // SAFETY: as above.
                    *out = unsafe { transmute::<$vector, [f32; $lanes]>(x) };
                }
                scalar(rest, out_rest);
            }
        };
    }

    tier!(
        avx2,
        "avx2,f16c",
        __m256,
        8,
        _mm256_set1_ps,
        _mm256_min_ps,
        _mm256_max_ps,
        _mm256_cvtps_ph,
        _mm256_cvtph_ps
    );
    tier!(
        avx512,
        "avx512f,avx2,f16c",
        __m512,
        16,
        _mm512_set1_ps,
        _mm512_min_ps,
        _mm512_max_ps,
        _mm512_cvtps_ph,
        _mm512_cvtph_ps
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    /// Every half, what lies halfway to the next and a little on both sides of that, and what is no half at all.
    fn inputs() -> Vec<f32> {
        let mut inputs = vec![f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN_POSITIVE, 1e-45];
        for bits in 0..0x7c00 {
            let (half, next) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits + 1).to_f32());
            // What follows the largest half would be 65536.
            let middle = if next.is_finite() { half.midpoint(next) } else { 65520.0 };
            for x in [half, middle.next_down(), middle, middle.next_up()] {
                inputs.extend([x, -x]);
            }
        }
        inputs
    }

    #[test]
    fn every_tier_rounds_as_the_half_crate_does_and_saturates() {
        let x = inputs();
        for isa in Isa::available() {
            let mut out = vec![0.0; x.len()];
            round_to_half(&Cpu::new(isa, 2), &x, &mut out);
            for (x, out) in x.iter().zip(out) {
                let half = f16::from_f32(*x);
                let want = if half.is_infinite() { LARGEST.copysign(*x) } else { half.to_f32() };
                let same = out.to_bits() == want.to_bits() || (out.is_nan() && x.is_nan());
                assert!(same, "{isa}: {x:e} becomes {out:e}, not {want:e}");
            }
        }
    }
}
