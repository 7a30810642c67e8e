//! The speed of multiply-adds in registers: the limit that products are measured against.

use std::hint::black_box;
use std::time::Instant;

use crate::simd::{Operation, Simd, dispatch};
use crate::{Cpu, Parts, Precision};

/// Sums that do not wait for each other: two units of a latency of five need ten.
const SUMS: usize = 12;

/// Multiply-adds of each sum in a call: some 20 µs.
const STEPS: usize = 1 << 13;

/// Billions of operations (two a multiply-add) a second that all threads of `cpu` do together at best, in
/// calls of some 20 µs during `seconds`: of a loop that multiplies and adds in registers and reads no memory, in the
/// precision in which training multiplies.
pub fn fma_peak(cpu: &Cpu, seconds: f64) -> f64 {
    let threads = cpu.threads();
    let mut lanes = vec![0; threads];
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    // Together: a core alone may be faster than beside others.
    while best.is_infinite() || begin.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        let parts = Parts::new(&mut lanes);
        cpu.run(threads, |thread| {
            let lanes = match cpu.precision() {
                Precision::F32 => dispatch(cpu.isa(), MultiplyAdds(black_box(0.5))),
                Precision::Bf16 => multiply_adds_of_bf16(),
            };
            // SAFETY: each index has its own.
            *unsafe { parts.item(thread) } = lanes;
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    (2 * SUMS * STEPS * lanes.iter().sum::<usize>()) as f64 / best / 1e9
}

/// Multiplies and adds, and returns the lanes of a vector.
struct MultiplyAdds(f32);

impl Operation for MultiplyAdds {
    type Output = usize;

    fn scalar(self) -> usize {
        let mut sums = [0.0_f32; SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = *sum * self.0 + 1.0;
            }
        }
        black_box(sums);
        1
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let (factor, one) = (s.splat(self.0), s.splat(1.0));
        let mut sums = [s.zero(); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = s.mul_add(*sum, factor, one);
            }
        }
        let mut all = s.zero();
        for sum in sums {
            all = s.add(all, sum);
        }
        black_box(s.sum(all));
        S::LANES
    }
}

/// The same in bf16, whose vectors have twice as many numbers.
#[cfg(target_arch = "x86_64")]
fn multiply_adds_of_bf16() -> usize {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_reduce_add_ps, _mm512_set1_epi16,
        _mm512_setzero_ps,
    };

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn run() -> usize {
        // SAFETY: both are 64 bytes of which any bits are valid.
        let half = unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi16(black_box(0x3f00))) };
        let mut sums = [_mm512_setzero_ps(); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, half, half);
            }
        }
        let mut all = sums[0];
        for sum in &sums[1..] {
            all = _mm512_add_ps(all, *sum);
        }
        black_box(_mm512_reduce_add_ps(all));
        32
    }
    // SAFETY: a `Cpu` has the precision bf16 only where these instructions are.
    unsafe { run() }
}

#[cfg(not(target_arch = "x86_64"))]
fn multiply_adds_of_bf16() -> usize {
    unreachable!("a `Cpu` has the precision bf16 only on x86-64")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn every_tier_has_a_speed() {
        for isa in Isa::available() {
            for precision in [Precision::F32, Precision::Bf16] {
                if precision.is_supported(isa) {
                    let peak = fma_peak(&Cpu::new(isa, 2).with_precision(precision), 0.0);
                    assert!(peak > 0.0 && peak.is_finite(), "{isa} {precision:?}: {peak}");
                }
            }
        }
    }
}
