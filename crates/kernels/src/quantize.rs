//! `quantize`: weights to ggml's blocks of small integers, byte for byte as ggml makes them.
//!
//! Of the 32 weights x of a block,
//!
//! | format | scale d | minimum m | integer q |
//! |---|---|---|---|
//! | Q4_0, Q5_0 | x\* / −8, x\* / −16 | 0 | ⌊x/d + 8½⌋, ⌊x/d + 16½⌋ |
//! | Q4_1, Q5_1 | (max x − min x) / 15, / 31 | min x | ⌊(x − m)/d + ½⌋ |
//! | Q8_0 | max \|x\| / 127 | 0 | x/d to the nearest, halves away from zero |
//!
//! where x\* is the weight of the largest magnitude, with its sign, the first of them if there are several.
//! It gets the lowest integer, which is one further from zero than the highest; what would be higher becomes
//! the highest.
//!
//! Files are compared by their bytes, so every rounding is part of the format. d and m are f32 until the
//! integers are made and are rounded to half precision only when they are stored. Division by d is
//! multiplication by 1/d, which is rounded, and that product and the sum after it are rounded once together,
//! as ggml's compilers make of them wherever there is a fused multiply-add. All tiers give the same bytes:
//! they are one code, compiled for each.

use std::sync::atomic::{AtomicUsize, Ordering};

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::data_type::{WEIGHTS_PER_BLOCK, with_quantized};
use crate::simd::{Operation, Simd, dispatch};
use crate::{Cpu, DataType, Parts};

/// Weights of a task: some tens of µs.
const QUANTIZE_TASK: usize = 1 << 14;

/// A block that cannot be made: one of its weights is infinite or NaN, or its scale or minimum is beyond half
/// precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unquantizable {
    /// Which of the weights is its first.
    pub weight: usize,
}

/// Writes `weights`, stored as `from`, one of [`DataType::ROWS`], to `out` as blocks of `to`.
///
/// Rows are whole blocks, so any number of rows may be passed at once.
///
/// # Errors
/// The first block that cannot be made. The contents of `out` are then undefined.
///
/// # Panics
/// If `from` is quantized, `to` is not, or `weights` and `out` are not the bytes of the same number of whole
/// blocks.
pub fn quantize(
    cpu: &Cpu,
    from: DataType,
    weights: &[u8],
    to: DataType,
    out: &mut [u8],
) -> Result<(), Unquantizable> {
    assert!(!from.is_quantized() && to.is_quantized(), "{from:?} to {to:?}");
    let (stored, encoded) = (WEIGHTS_PER_BLOCK * from.block().1, to.block().1);
    let blocks = weights.len() / stored;
    assert_eq!((weights.len(), out.len()), (blocks * stored, blocks * encoded), "whole blocks");
    let bad = AtomicUsize::new(usize::MAX);
    let out = Parts::new(out);
    cpu.run_blocks(blocks, QUANTIZE_TASK / WEIGHTS_PER_BLOCK, |range| {
        // SAFETY: ranges of blocks do not overlap.
        let out = unsafe { out.part(range.start * encoded..range.end * encoded) };
        let weights = &weights[range.start * stored..range.end * stored];
        if let Some(block) = dispatch(cpu.isa(), Encode { from, weights, to, out }) {
            bad.fetch_min(range.start + block, Ordering::Relaxed);
        }
    });
    match bad.into_inner() {
        usize::MAX => Ok(()),
        block => Err(Unquantizable { weight: block * WEIGHTS_PER_BLOCK }),
    }
}

/// What one thread encodes at once. Its result is the first block that cannot be made.
struct Encode<'a> {
    from: DataType,
    weights: &'a [u8],
    to: DataType,
    out: &'a mut [u8],
}

impl Operation for Encode<'_> {
    type Output = Option<usize>;

    fn scalar(self) -> Option<usize> {
        self.blocks()
    }

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Option<usize> {
        self.blocks()
    }
}

impl Encode<'_> {
    /// A loop of its own for each format, so that the compiler sees which it is.
    #[inline(always)]
    fn blocks(self) -> Option<usize> {
        with_quantized!(self.to, FORMAT => self.blocks_of::<FORMAT>())
    }

    #[inline(always)]
    fn blocks_of<const FORMAT: usize>(self) -> Option<usize> {
        let to = const { DataType::EVERY[FORMAT] };
        let mut bad = None;
        let mut x = [0.0; WEIGHTS_PER_BLOCK];
        let stored = self.weights.chunks_exact(WEIGHTS_PER_BLOCK * self.from.block().1);
        for (i, (stored, out)) in stored.zip(self.out.chunks_exact_mut(to.block().1)).enumerate() {
            widen(self.from, stored, &mut x);
            if !encode(to, &x, out) && bad.is_none() {
                bad = Some(i);
            }
        }
        bad
    }
}

/// A stored block of single numbers, which may lie at any address.
#[inline(always)]
fn widen(format: DataType, stored: &[u8], x: &mut [f32; WEIGHTS_PER_BLOCK]) {
    match format {
        DataType::F16 => {
            let mut halves = [f16::ZERO; WEIGHTS_PER_BLOCK];
            for (half, stored) in halves.iter_mut().zip(stored.as_chunks().0) {
                *half = f16::from_le_bytes(*stored);
            }
            halves.convert_to_f32_slice(x);
        }
        format => format.decode(stored, x),
    }
}

/// Writes the block; false if it cannot be made.
#[inline(always)]
fn encode(format: DataType, x: &[f32; WEIGHTS_PER_BLOCK], out: &mut [u8]) -> bool {
    let highest = format.highest();
    let zero = format.zero_point() as f32;
    let (scale, minimum) = if format.has_bytes() {
        (largest(x).abs() / f32::from(highest), 0.0)
    } else if format.has_minimum() {
        let (min, max) = range(x);
        ((max - min) / f32::from(highest), min)
    } else {
        (largest(x) / -zero, 0.0)
    };
    let mut inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut offset = zero + 0.5;
    if inverse.is_infinite() {
        // Weights below 1e-37: as half precision the scale is zero, and ggml's integers, infinity cast, are
        // too.
        (inverse, offset) = (0.0, 0.0);
    }

    let half = f16::from_f32(scale);
    out[..2].copy_from_slice(&half.to_le_bytes());
    let (fifth, integers) = format.parts();
    if format.has_bytes() {
        for (out, &x) in out[integers].iter_mut().zip(x) {
            *out = to_nearest(x * inverse).cast_unsigned();
        }
    } else {
        let mut q = [0_u8; WEIGHTS_PER_BLOCK];
        for (q, &x) in q.iter_mut().zip(x) {
            *q = ((x - minimum).mul_add(inverse, offset) as u8).min(highest);
        }
        if format.has_minimum() {
            out[2..4].copy_from_slice(&f16::from_f32(minimum).to_le_bytes());
        }
        if format.has_fifth_bits() {
            let bits = q.iter().enumerate().fold(0, |bits, (i, &q)| bits | u32::from(q >> 4) << i);
            out[fifth].copy_from_slice(&bits.to_le_bytes());
        }
        let (low, high) = q.split_at(WEIGHTS_PER_BLOCK / 2);
        for (out, (low, high)) in out[integers].iter_mut().zip(low.iter().zip(high)) {
            *out = low & 15 | high << 4;
        }
    }
    half.is_finite() && f16::from_f32(minimum).is_finite() && are_finite(x)
}

/// The weight of the largest magnitude, the first of them if there are several.
#[inline(always)]
fn largest(x: &[f32; WEIGHTS_PER_BLOCK]) -> f32 {
    let mut largest = 0.0_f32;
    for &x in x {
        largest = if largest.abs() < x.abs() { x } else { largest };
    }
    largest
}

/// The least and the greatest weight; of 0 and −0, which are equal, the first.
#[inline(always)]
fn range(x: &[f32; WEIGHTS_PER_BLOCK]) -> (f32, f32) {
    let (mut min, mut max) = (f32::MAX, f32::MIN);
    for &x in x {
        min = if x < min { x } else { min };
        max = if x > max { x } else { max };
    }
    (min, max)
}

#[inline(always)]
fn are_finite(x: &[f32; WEIGHTS_PER_BLOCK]) -> bool {
    let mut infinite = false;
    for &x in x {
        infinite |= !x.is_finite();
    }
    !infinite
}

/// The nearest integer, halves away from zero, for |x| below 2²².
///
/// What is cut off after adding the number just below ½: adding ½ itself would round 0.49999997 up.
#[inline(always)]
fn to_nearest(x: f32) -> i8 {
    (x + 0.5_f32.next_down().copysign(x)) as i8
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;
    use crate::Isa;
    use crate::testing::values;

    fn stored(format: DataType, weights: &[f32]) -> Vec<u8> {
        let bytes = |&x: &f32| match format {
            DataType::F32 => x.to_le_bytes().to_vec(),
            DataType::BF16 => bf16::from_f32(x).to_le_bytes().to_vec(),
            _ => f16::from_f32(x).to_le_bytes().to_vec(),
        };
        weights.iter().flat_map(bytes).collect()
    }

    fn quantized(cpu: &Cpu, from: DataType, weights: &[u8], to: DataType) -> Result<Vec<u8>, Unquantizable> {
        let mut out = vec![0xff; to.row_bytes(weights.len() / from.block().1).unwrap()];
        quantize(cpu, from, weights, to, &mut out).map(|()| out)
    }

    fn scalar(format: DataType, x: &[f32]) -> Vec<u8> {
        quantized(&Cpu::new(Isa::Scalar, 1), DataType::F32, &stored(DataType::F32, x), format).unwrap()
    }

    /// A block of zeros but for these.
    fn block(weights: &[(usize, f32)]) -> [f32; WEIGHTS_PER_BLOCK] {
        let mut x = [0.0; WEIGHTS_PER_BLOCK];
        for &(i, weight) in weights {
            x[i] = weight;
        }
        x
    }

    /// The bytes before the integers, and some of the integers.
    fn parts(format: DataType, x: &[f32; WEIGHTS_PER_BLOCK], at: &[usize]) -> (Vec<u8>, Vec<i8>) {
        let bytes = scalar(format, x);
        let q = format.block_of(&bytes).integers;
        (bytes[..format.parts().0.start].to_vec(), at.iter().map(|&i| q[i]).collect())
    }

    fn halves(numbers: &[f32]) -> Vec<u8> {
        numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect()
    }

    /// By hand, from the table above.
    #[test]
    fn small_blocks_are_as_the_table_says() {
        // The largest magnitude gets −8, and half a step is rounded up; 8 would be too high.
        let x = block(&[(0, -8.0), (1, 0.5), (2, 0.49), (3, -0.5), (4, -0.51), (5, 7.4), (16, 7.6)]);
        assert_eq!(
            parts(DataType::Q4_0, &x, &[0, 1, 2, 3, 4, 5, 16, 31]),
            (halves(&[1.0]), vec![-8, 1, 0, 0, -1, 7, 7, 0])
        );
        // Of two largest the first has its sign kept.
        let x = block(&[(3, 4.0), (9, -4.0), (20, 1.0)]);
        assert_eq!(parts(DataType::Q4_0, &x, &[3, 9, 20, 0]), (halves(&[-0.5]), vec![-8, 7, -2, 0]));
        assert_eq!(parts(DataType::Q5_0, &x, &[3, 9, 20, 0]), (halves(&[-0.25]), vec![-16, 15, -4, 0]));
        // −2 to 13 in fifteen steps of one.
        let x = block(&[(0, -2.0), (1, 13.0), (2, 3.5), (3, 3.49), (30, -1.5)]);
        assert_eq!(
            parts(DataType::Q4_1, &x, &[0, 1, 2, 3, 30, 4]),
            (halves(&[1.0, -2.0]), vec![0, 15, 6, 5, 1, 2])
        );
        let x = block(&[(0, -2.0), (1, 29.0), (2, 20.5), (30, -1.5)]);
        assert_eq!(
            parts(DataType::Q5_1, &x, &[0, 1, 2, 30, 4]),
            (halves(&[1.0, -2.0]), vec![0, 31, 23, 1, 2])
        );
        // Halves away from zero.
        let x = block(&[(0, -127.0), (1, 2.5), (2, -2.5), (3, 0.49), (4, -0.5), (31, 126.5)]);
        assert_eq!(
            parts(DataType::Q8_0, &x, &[0, 1, 2, 3, 4, 31]),
            (halves(&[1.0]), vec![-127, 3, -3, 0, -1, 127])
        );
    }

    #[test]
    fn the_scale_is_rounded_only_when_it_is_stored() {
        // As half precision the scale 1/3 is 0.33325; by that, 2.4999 thirds would be more than 2½ steps.
        let third = 1.0_f32 / 3.0;
        let x = block(&[(0, -8.0 * third), (1, 2.4999 * third), (2, 2.5001 * third)]);
        assert!(2.4999 * third / f16::from_f32(third).to_f32() > 2.5);
        assert_eq!(parts(DataType::Q4_0, &x, &[0, 1, 2]), (halves(&[third]), vec![-8, 2, 3]));
    }

    #[test]
    fn zeros_and_weights_too_small_for_a_scale() {
        for tiny in [0.0, -0.0, 1e-38, -1e-40, f32::from_bits(1)] {
            for format in DataType::QUANTIZED {
                let mut out = [1.0; WEIGHTS_PER_BLOCK];
                format.decode(&scalar(format, &[tiny; WEIGHTS_PER_BLOCK]), &mut out);
                assert!(out.iter().all(|&x| x == 0.0), "{tiny} as {format:?}");
            }
        }
        // ggml's zero block: a negative zero for a scale where it divides by −8, and integers at the zero
        // point.
        assert_eq!(scalar(DataType::Q4_0, &[0.0; WEIGHTS_PER_BLOCK])[..4], [0, 0x80, 0x88, 0x88]);
        assert_eq!(scalar(DataType::Q8_0, &[0.0; WEIGHTS_PER_BLOCK]), [0; 34]);
        // Where 1/d is infinite the integers are zero, not the zero point.
        assert_eq!(scalar(DataType::Q4_0, &[1e-39; WEIGHTS_PER_BLOCK])[2..], [0; 16]);
    }

    #[test]
    fn rounding_is_to_nearest_with_halves_away_from_zero() {
        for half_steps in -254..=254_i16 {
            let x = f32::from(half_steps) / 2.0;
            for x in [x.next_down(), x, x.next_up()] {
                assert_eq!(to_nearest(x), x.round() as i8, "{x}");
            }
        }
    }

    #[test]
    fn every_tier_and_number_of_threads_gives_the_same_bytes() {
        // Several tasks, from any address; shorter numbers as the F32 that they stand for.
        let mut x = values(1, 3 * QUANTIZE_TASK + 5 * WEIGHTS_PER_BLOCK, 3.0);
        for (i, x) in x.iter_mut().enumerate() {
            *x *= ((i / 50 % 40) as f32 - 30.0).exp2();
        }
        for short in [DataType::F16, DataType::BF16] {
            let round = |x: f32| match short {
                DataType::F16 => f16::from_f32(x).to_f32(),
                _ => bf16::from_f32(x).to_f32(),
            };
            let x: Vec<_> = x.iter().map(|&x| round(x)).collect();
            for to in DataType::QUANTIZED {
                let want = scalar(to, &x);
                for isa in Isa::available() {
                    for (threads, from) in [(1, DataType::F32), (3, DataType::F32), (2, short)] {
                        let mut bytes = vec![0xff];
                        bytes.extend(stored(from, &x));
                        let got = quantized(&Cpu::new(isa, threads), from, &bytes[1..], to).unwrap();
                        assert!(got == want, "{from:?} to {to:?} with {isa}, {threads} threads");
                    }
                }
            }
        }
    }

    #[test]
    fn weights_that_no_block_holds_are_found() {
        struct Case {
            weight: f32,
            refused: &'static [DataType],
        }
        use DataType::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
        let cases = [
            Case { weight: f32::NAN, refused: &DataType::QUANTIZED },
            Case { weight: f32::NEG_INFINITY, refused: &DataType::QUANTIZED },
            Case { weight: f32::MAX, refused: &DataType::QUANTIZED },
            // A minimum has no integer to help it.
            Case { weight: -70_000.0, refused: &[Q4_1, Q5_1] },
            Case { weight: 70_000.0, refused: &[] },
            Case { weight: 600_000.0, refused: &[Q4_0] },
            Case { weight: 1e6, refused: &[Q4_0, Q4_1] },
            Case { weight: 8e6, refused: &[Q4_0, Q4_1, Q5_0, Q5_1] },
            Case { weight: 1e7, refused: &[Q4_0, Q4_1, Q5_0, Q5_1, Q8_0] },
        ];
        for Case { weight, refused } in cases {
            let mut x = vec![1.0; 2 * QUANTIZE_TASK];
            x[5 * WEIGHTS_PER_BLOCK + 8] = weight;
            x[6 * WEIGHTS_PER_BLOCK] = weight;
            x[QUANTIZE_TASK] = weight;
            let bytes = stored(DataType::F32, &x);
            for isa in Isa::available() {
                for format in DataType::QUANTIZED {
                    let found = quantized(&Cpu::new(isa, 2), DataType::F32, &bytes, format).err();
                    let want =
                        refused.contains(&format).then_some(Unquantizable { weight: 5 * WEIGHTS_PER_BLOCK });
                    assert_eq!(found, want, "{weight} as {format:?}");
                }
            }
        }
    }

    proptest! {
        /// No weight is further from what is stored than half a step, but for the one integer that is missing
        /// on the side opposite to the largest weight, and for the rounding of scale and minimum to half
        /// precision.
        #[test]
        fn what_is_decoded_is_within_half_a_step(
            x in prop::collection::vec(-1.0_f32..1.0, WEIGHTS_PER_BLOCK),
            exponent in -8_i32..12,
        ) {
            let x: Vec<_> = x.iter().map(|x| x * (exponent as f32).exp2()).collect();
            let largest = x.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            for format in DataType::QUANTIZED {
                let bytes = scalar(format, &x);
                let step = format.block_of(&bytes).scale.abs();
                let reach = if matches!(format, DataType::Q4_0 | DataType::Q5_0) { 1.0 } else { 0.5 };
                let mut decoded = [0.0; WEIGHTS_PER_BLOCK];
                format.decode(&bytes, &mut decoded);
                for (x, decoded) in x.iter().zip(decoded) {
                    let limit = reach * step * 1.001 + largest / 512.0;
                    prop_assert!((x - decoded).abs() <= limit, "{x} became {decoded}: {format:?}, {step}");
                }
            }
        }

        #[test]
        fn any_bits_give_a_block_or_are_refused(
            bits in prop::collection::vec(any::<u32>(), WEIGHTS_PER_BLOCK),
        ) {
            let bytes: Vec<_> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
            for format in DataType::QUANTIZED {
                if let Ok(out) = quantized(&Cpu::new(Isa::detect(), 1), DataType::F32, &bytes, format) {
                    let mut decoded = [f32::NAN; WEIGHTS_PER_BLOCK];
                    format.decode(&out, &mut decoded);
                    prop_assert!(decoded.iter().all(|x| x.is_finite()));
                }
            }
        }
    }
}
