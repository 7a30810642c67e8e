//! Activations rounded to half precision, for products with FP16 weights.

use half::f16;

use crate::prefetch::prefetch_to_write;
use crate::simd::{Operation, Simd, dispatch};
use crate::{Cpu, Parts};

/// The largest finite half.
const LARGEST: f32 = 65504.0;

/// Elements of a task: some µs.
const ROUND_TASK: usize = 1 << 14;

/// `out = x`, each rounded to half precision: to the nearest, ties to even. What is beyond the largest half
/// becomes the largest, with its sign; what is infinite or NaN becomes NaN.
///
/// # Panics
/// If the lengths differ.
pub(in crate::product) fn round_to_half(cpu: &Cpu, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    prefetch_to_write(out);
    let parts = Parts::new(out);
    cpu.run_blocks(x.len(), ROUND_TASK, |block| {
        let x = &x[block.clone()];
        // SAFETY: each task takes its own block.
        let out = unsafe { parts.part(block) };
        dispatch(cpu.isa(), Round { x, out });
    });
}

/// One block.
struct Round<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Operation for Round<'_> {
    type Output = ();

    fn scalar(self) {
        for (out, x) in self.out.iter_mut().zip(self.x) {
            // The rule of `finite.rs`: an infinity is not a large number.
            *out = f16::from_f32(x.clamp(-LARGEST, LARGEST)).to_f32() + 0.0 * x;
        }
    }

    /// Minimum and maximum keep a NaN, which is their second operand.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (largest, smallest) = (s.splat(LARGEST), s.splat(-LARGEST));
        for (out, x) in self.out.chunks_mut(S::LANES).zip(self.x.chunks(S::LANES)) {
            let x = s.load(x);
            let half = s.round_to_half(s.max(smallest, s.min(largest, x)));
            s.store(out, s.mul_add(x, s.zero(), half));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    /// Every half, what lies halfway to the next and a little on both sides of that, and what is no half at
    /// all.
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
                let same = if x.is_finite() { out.to_bits() == want.to_bits() } else { out.is_nan() };
                assert!(same, "{isa}: {x:e} becomes {out:e}, not {want:e}");
            }
        }
    }
}
