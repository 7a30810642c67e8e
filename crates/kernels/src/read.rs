//! Memory's read bandwidth: the limit that decoding is measured against.

use crate::simd::{Operation, Simd, dispatch};
use crate::{Cpu, Parts};

/// Elements of a task: half a megabyte, so that scheduling it costs nothing beside it.
const READ_TASK: usize = 1 << 17;

/// Streams of a task that are read in turn: a core's prefetchers follow several at once, and no addition
/// waits for the one before it.
const STREAMS: usize = 4;

/// The sum of all elements: reads each once and does little else.
///
/// On an array much larger than the caches its time is that of reading memory with the threads of `cpu`. The
/// sum depends on every element, so that no part of the reading can be left out. It is exact for whole
/// numbers whose magnitudes sum to 2²⁴ at most in each task of half a megabyte.
pub fn read_sum(cpu: &Cpu, x: &[f32]) -> f64 {
    let mut sums = vec![0.0; x.len().div_ceil(READ_TASK)];
    let parts = Parts::new(&mut sums);
    cpu.run_blocks(x.len(), READ_TASK, |range| {
        // SAFETY: each task has a sum of its own.
        let sum = unsafe { parts.item(range.start / READ_TASK) };
        *sum = dispatch(cpu.isa(), Sum(&x[range]));
    });
    sums.into_iter().fold(0.0, |all, sum| all + f64::from(sum))
}

/// The sum of some elements.
struct Sum<'a>(&'a [f32]);

impl Operation for Sum<'_> {
    type Output = f32;

    /// With as many sums as keep the additions from waiting for each other.
    fn scalar(self) -> f32 {
        let mut sums = [0.0; 16];
        let lines = self.0.chunks_exact(16);
        let rest = lines.remainder();
        for line in lines {
            sums.iter_mut().zip(line).for_each(|(sum, x)| *sum += x);
        }
        sums.iter().chain(rest).sum()
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let stream = self.0.len() / STREAMS / S::LANES * S::LANES;
        let mut sums = [s.zero(); STREAMS];
        for at in (0..stream).step_by(S::LANES) {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = s.add(*sum, s.load(&self.0[i * stream + at..]));
            }
        }
        for at in (STREAMS * stream..self.0.len()).step_by(S::LANES) {
            sums[0] = s.add(sums[0], s.load(&self.0[at..]));
        }
        sums.into_iter().map(|sum| s.sum(sum)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn every_element_counts_once_on_every_tier() {
        // Less than a vector; streams and a rest; several tasks, the last of them short.
        for len in [0, 1, 7, 32, 33, 1000, READ_TASK, 3 * READ_TASK + 77] {
            let x: Vec<_> = (0..len).map(|i| (i % 61) as f32).collect();
            let want: usize = (0..len).map(|i| i % 61).sum();
            for isa in Isa::available() {
                for threads in [1, 2, 3] {
                    let sum = read_sum(&Cpu::new(isa, threads), &x);
                    assert!(sum.to_bits() == (want as f64).to_bits(), "{isa} × {threads}, {len}: {sum}");
                }
            }
        }
    }
}
