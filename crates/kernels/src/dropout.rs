//! Dropout: `y = x ⊙ m / (1 − p)`, where each element of m is 0 with probability p and 1 otherwise.
//!
//! (Srivastava et al., <https://jmlr.org/papers/v15/srivastava14a.html>, with the division in training, so
//! that inference has nothing to do.) The mask is never stored: m_i is a function of a seed and of i alone,
//! by the counter-based generator Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2,
//! 3", SC 2011, <https://doi.org/10.1145/2063384.2063405>). Its key is the seed, its counter ⌊i/4⌋, and word
//! i mod 4 of the result is compared with p·2³². So the backward, a forward that is replayed, and every tier
//! and number of threads have the same mask.

use std::array::from_fn;

use crate::block::BLOCK;
use crate::simd::{Operation, Simd, dispatch};
use crate::{Cpu, Parts, Store};

/// Words of a Philox block.
const WORDS: usize = 4;

/// Blocks that are made at once, so that the compiler makes vectors of them.
const SIDE_BY_SIDE: usize = 8;

/// Which elements are dropped: those at the same place of the same seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mask {
    /// Two tensors with the same seed have the same mask: give each operator and each step a seed of its own.
    pub seed: u64,
    /// How many elements of the seed's mask are those of other tensors, which stand before this one.
    pub before: u64,
    /// The probability that an element is dropped: 0 ≤ p < 1. With 0, nothing is.
    pub p: f32,
}

/// `y = x ⊙ m / (1 − p)`, element by element, with the mask m.
///
/// # Panics
/// If the lengths disagree, or p is not in 0 ≤ p < 1.
pub fn dropout(cpu: &Cpu, mask: Mask, x: &[f32], y: &mut [f32]) {
    dropout_backward(cpu, mask, x, y, Store::Set);
}

/// The gradient of [`dropout`], set or added: `dx = dy ⊙ m / (1 − p)`, with the same mask.
///
/// # Panics
/// If the lengths disagree, or p is not in 0 ≤ p < 1.
pub fn dropout_backward(cpu: &Cpu, mask: Mask, dy: &[f32], dx: &mut [f32], store: Store) {
    let Mask { seed, before, p } = mask;
    assert!((0.0..1.0).contains(&p), "a dropout probability of {p}");
    assert_eq!(dy.len(), dx.len());
    const { assert!(BLOCK.is_multiple_of(WORDS)) };
    // p < 1 is at most 1 − 2⁻²⁴, so this fits.
    let drop_below = (f64::from(p) * 2.0_f64.powi(32)).round() as u32;
    let scale = 1.0 / (1.0 - p);
    let (first, skipped) = (before / WORDS as u64, (before % WORDS as u64) as usize);
    // The rest of a block of words that began in another tensor.
    let head = if skipped == 0 { 0 } else { (WORDS - skipped).min(dx.len()) };
    let (dy_head, dy) = dy.split_at(head);
    let (dx_head, dx) = dx.split_at_mut(head);
    if head > 0 {
        let [mut x, mut out] = [[0.0; WORDS]; 2];
        x[skipped..][..head].copy_from_slice(dy_head);
        out[skipped..][..head].copy_from_slice(dx_head);
        dispatch(cpu.isa(), Apply { seed, first, drop_below, scale, x: &x, out: &mut out, store });
        dx_head.copy_from_slice(&out[skipped..][..head]);
    }
    let first = first + u64::from(head > 0);
    let len = dx.len();
    let dx = Parts::new(dx);
    cpu.run_blocks(len, BLOCK, |range| {
        let first = first + (range.start / WORDS) as u64;
        // SAFETY: blocks do not overlap.
        let out = unsafe { dx.part(range.clone()) };
        dispatch(cpu.isa(), Apply { seed, first, drop_below, scale, x: &dy[range], out, store });
    });
}

/// The mask times the scale times `x`.
struct Apply<'a> {
    seed: u64,
    /// The counter of the first four elements.
    first: u64,
    /// Elements whose word is below this are dropped.
    drop_below: u32,
    scale: f32,
    x: &'a [f32],
    out: &'a mut [f32],
    store: Store,
}

impl Operation for Apply<'_> {
    type Output = ();

    fn scalar(self) {
        self.apply();
    }

    /// The same code: integers, and one multiplication by a number that every tier has the same bits of.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        self.apply();
    }
}

impl Apply<'_> {
    #[inline(always)]
    fn apply(self) {
        const ELEMENTS: usize = WORDS * SIDE_BY_SIDE;
        let mut counter = self.first;
        let mut factors = [0.0; ELEMENTS];
        for (x, out) in self.x.chunks(ELEMENTS).zip(self.out.chunks_mut(ELEMENTS)) {
            let words = philox::<SIDE_BY_SIDE>(self.seed, counter);
            for (word, words) in words.iter().enumerate() {
                for (block, &random) in words.iter().enumerate() {
                    let kept = random >= self.drop_below;
                    factors[block * WORDS + word] = if kept { self.scale } else { 0.0 };
                }
            }
            // A product, not a choice: a NaN stays one.
            for ((out, x), factor) in out.iter_mut().zip(x).zip(factors) {
                self.store.put(out, x * factor);
            }
            counter += SIDE_BY_SIDE as u64;
        }
    }
}

/// Philox4x32-10 of `N` counters from `first` on: the i-th word of each stands in the i-th array.
#[inline(always)]
fn philox<const N: usize>(seed: u64, first: u64) -> [[u32; N]; WORDS] {
    let counter = |n: usize| first.wrapping_add(n as u64);
    let (low, high) = (from_fn(|n| counter(n) as u32), from_fn(|n| (counter(n) >> 32) as u32));
    rounds([low, high, [0; N], [0; N]], [seed as u32, (seed >> 32) as u32])
}

/// The ten rounds: two multiplications, whose halves change places, and the key, which moves on.
///
/// A word has a lane of 64 bits, whose upper half holds anything: vectors multiply the lower halves of such
/// lanes, and nothing need be moved between rounds.
#[inline(always)]
fn rounds<const N: usize>(counters: [[u32; N]; WORDS], mut key: [u32; 2]) -> [[u32; N]; WORDS] {
    const MULTIPLIERS: [u64; 2] = [0xd251_1f53, 0xcd9e_8d57];
    /// The golden ratio and √3 − 1.
    const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
    const LOWER: u64 = 0xffff_ffff;
    let [mut a, mut b, mut c, mut d] = counters.map(|words| words.map(u64::from));
    for _ in 0..10 {
        let keys = key.map(u64::from);
        for n in 0..N {
            let first = MULTIPLIERS[0] * (a[n] & LOWER);
            let second = MULTIPLIERS[1] * (c[n] & LOWER);
            a[n] = second >> 32 ^ b[n] ^ keys[0];
            b[n] = second;
            c[n] = first >> 32 ^ d[n] ^ keys[1];
            d[n] = first;
        }
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    [a, b, c, d].map(|words| words.map(|word| word as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::{every_tier, set_and_add, values};

    const MASK: Mask = Mask { seed: 11, before: 0, p: 0.3 };

    /// The vectors of Random123, the library of the generator's authors (tests/kat_vectors).
    #[test]
    fn the_generator_gives_its_authors_known_answers() {
        struct Case {
            counter: [u32; 4],
            key: [u32; 2],
            want: [u32; 4],
        }
        let cases = [
            Case { counter: [0; 4], key: [0; 2], want: [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8] },
            Case {
                counter: [!0; 4],
                key: [!0; 2],
                want: [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            },
            Case {
                counter: [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                key: [0xa409_3822, 0x299f_31d0],
                want: [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            },
        ];
        for Case { counter, key, want } in cases {
            assert_eq!(rounds(counter.map(|word| [word]), key), want.map(|word| [word]), "{counter:x?}");
            assert_eq!(
                rounds(counter.map(|word| [word; 3]), key),
                want.map(|word| [word; 3]),
                "{counter:x?}"
            );
        }
    }

    #[test]
    fn a_mask_is_the_same_however_tensors_are_cut() {
        let (x, cpu) = (values(5, 100, 1.0), Cpu::new(Isa::detect(), 2));
        let mut whole = vec![1.0; 100];
        dropout_backward(&cpu, MASK, &x, &mut whole, Store::Add);
        for cuts in [[0, 1, 2, 100], [0, 3, 50, 100], [4, 5, 99, 100], [33, 34, 34, 100]] {
            let mut parts = vec![1.0; 100];
            let mut start = 0;
            for end in cuts {
                let mask = Mask { before: start as u64, ..MASK };
                dropout_backward(&cpu, mask, &x[start..end], &mut parts[start..end], Store::Add);
                start = end;
            }
            assert_eq!(parts, whole, "{cuts:?}");
        }
    }

    #[test]
    fn counters_go_on_across_32_bits() {
        let first = u64::from(u32::MAX) - 1;
        let side_by_side = philox::<4>(7 << 40, first);
        for n in 0..4 {
            let counter = first + n as u64;
            let alone = rounds([[counter as u32], [(counter >> 32) as u32], [0], [0]], [0, 7 << 8]);
            assert_eq!(side_by_side.map(|words| [words[n]]), alone);
        }
    }

    /// Which elements are kept, of `len`.
    fn mask(cpu: &Cpu, seed: u64, p: f32, len: usize) -> Vec<f32> {
        let mut y = vec![f32::NAN; len];
        dropout(cpu, Mask { seed, before: 0, p }, &vec![1.0 - p; len], &mut y);
        y
    }

    #[test]
    fn every_tier_and_thread_count_has_the_same_mask_and_the_backward_too() {
        // Less than a batch of the generator, one and a part, several blocks.
        for len in [0, 1, 3, 31, 33, 100, 3 * BLOCK + 77] {
            let (x, dy) = (values(1, len, 1.0), values(2, len, 1.0));
            every_tier("dropout", 0.0, |cpu| {
                let mut y = vec![f32::NAN; len];
                dropout(cpu, MASK, &x, &mut y);
                let dx = set_and_add(len, |dx, store| dropout_backward(cpu, MASK, &dy, dx, store));
                let scale = 1.0 / (1.0 - 0.3_f32);
                for (i, kept) in mask(cpu, 11, 0.3, len).into_iter().enumerate() {
                    assert!(kept == 0.0 || (kept - 1.0).abs() < 1e-6);
                    let scale = if kept == 0.0 { 0.0 } else { scale };
                    assert_eq!((y[i], dx[i]), (x[i] * scale, dy[i] * scale), "{i}");
                }
                vec![y, dx]
            });
        }
    }

    /// Element i is the generator's word i mod 4 of counter ⌊i/4⌋, wherever blocks and batches end.
    #[test]
    fn an_element_s_mask_depends_on_its_index_alone() {
        let len = 2 * BLOCK + 5;
        for isa in Isa::available() {
            let mask = mask(&Cpu::new(isa, 2), 1 << 35 | 5, 0.5, len);
            for (i, &kept) in mask.iter().enumerate() {
                let word = rounds([[(i / 4) as u32], [0], [0], [0]], [5, 8])[i % 4][0];
                assert_eq!(kept != 0.0, word >= 1 << 31, "{isa}: {i}");
            }
        }
    }

    /// The number kept of n independent elements has mean n(1 − p) and variance np(1 − p). Over 2,048 groups
    /// of n = 128 the mean is normal to a good approximation, and the variance's own standard deviation is
    /// the variance times √(2/2048), and a little more for its fourth moment. Seeds are fixed, so five
    /// standard deviations are a bound.
    #[test]
    fn mean_and_variance_are_those_of_independent_elements() {
        const GROUPS: usize = 2048;
        const N: usize = 128;
        let cpu = Cpu::new(Isa::detect(), 1);
        for (seed, p) in [(1, 0.1), (2, 0.5), (3, 0.9), (u64::MAX, 0.25)] {
            let mask = mask(&cpu, seed, p, GROUPS * N);
            // Consecutive elements, and elements that stand far apart: the words of a block and of different
            // ones.
            let consecutive: Vec<_> =
                mask.chunks_exact(N).map(|group| group.iter().filter(|&&m| m != 0.0).count()).collect();
            let apart: Vec<_> =
                (0..GROUPS).map(|g| (0..N).filter(|n| mask[n * GROUPS + g] != 0.0).count()).collect();
            let p = f64::from(p);
            let variance = N as f64 * p * (1.0 - p);
            for counts in [consecutive, apart] {
                let off = counts.iter().map(|&kept| kept as f64 - N as f64 * (1.0 - p));
                let mean = off.clone().sum::<f64>() / GROUPS as f64;
                assert!(
                    mean.abs() <= 5.0 * (variance / GROUPS as f64).sqrt(),
                    "p = {p}: the mean is off by {mean}"
                );
                let got = off.map(|off| off * off).sum::<f64>() / GROUPS as f64;
                // (2 + excess kurtosis)/groups is the relative variance of the mean of squares.
                let kurtosis = (1.0 - 6.0 * p * (1.0 - p)) / variance;
                let bound = 5.0 * variance * ((2.0 + kurtosis) / GROUPS as f64).sqrt();
                assert!(
                    (got - variance).abs() <= bound,
                    "p = {p}: a variance of {got}, not {variance} ± {bound}"
                );
            }
        }
    }

    #[test]
    fn different_seeds_have_masks_that_agree_by_chance() {
        let (len, cpu) = (1 << 16, Cpu::new(Isa::detect(), 1));
        for (a, b) in [(0, 1), (1, 1 << 32), (7, 8)] {
            let masks = [a, b].map(|seed| mask(&cpu, seed, 0.5, len));
            let same =
                masks[0].iter().zip(&masks[1]).filter(|&(&a, &b)| (a == 0.0) == (b == 0.0)).count() as f64;
            // Five standard deviations of √len / 2.
            assert!((same - len as f64 / 2.0).abs() <= 5.0 * 128.0, "{a} and {b}: {same}");
        }
    }

    #[test]
    fn nothing_is_dropped_with_probability_zero_and_a_nan_stays_one() {
        let x = values(1, 100, 1.0);
        for isa in Isa::available() {
            let cpu = Cpu::new(isa, 1);
            let mut y = vec![f32::NAN; 100];
            dropout(&cpu, Mask { seed: 3, before: 0, p: 0.0 }, &x, &mut y);
            assert_eq!(y, x, "{isa}");
            dropout(&cpu, Mask { seed: 3, before: 0, p: 0.9 }, &[f32::NAN; 100], &mut y);
            assert!(y.iter().all(|y| y.is_nan()), "{isa}");
        }
    }

    #[test]
    #[should_panic(expected = "a dropout probability of 1")]
    fn everything_cannot_be_dropped() {
        dropout(&Cpu::new(Isa::Scalar, 1), Mask { seed: 0, before: 0, p: 1.0 }, &[1.0], &mut [0.0]);
    }
}
