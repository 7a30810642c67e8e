//! Shapes on both sides of every border of a block: lanes, tiles, strips, column blocks, tasks, few and many
//! tokens.

use half::{bf16, f16};

use super::format::F16;
use super::one;
use crate::simd::{Operation, Simd, dispatch};
use crate::testing::values;
use crate::{Cpu, DataType, Isa, Parts, Weights, product};

/// The weights behind a byte that misaligns them, as a file does.
pub(super) fn encode(format: DataType, weights: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0xff];
    for &w in weights {
        match format {
            DataType::F32 => bytes.extend(w.to_le_bytes()),
            DataType::BF16 => bytes.extend(bf16::from_f32(w).to_le_bytes()),
            _ => bytes.extend(f16::from_f32(w).to_le_bytes()),
        }
    }
    bytes
}

/// (rows, cols): less than a tile and more, tasks of all and of some rows; one block of columns, and several
/// with a rest.
const SHAPES: [(usize, usize); 9] =
    [(1, 1), (3, 31), (8, 128), (13, 1024), (66, 48), (130, 7), (67, 1040), (5, 2061), (70, 1100)];
const TOKENS: [usize; 21] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 33, 37, 64, 73];

#[test]
fn every_tier_multiplies_every_shape() {
    for ((rows, cols), format) in SHAPES.into_iter().flat_map(|s| DataType::ROWS.map(|f| (s, f))) {
        let bytes = encode(format, &values(1, rows * cols, 1.0));
        let w = Weights::new(format, rows, cols, &bytes[1..]).expect("the length fits");
        let mut weights = vec![0.0; rows * cols];
        weights.chunks_exact_mut(cols).enumerate().for_each(|(row, out)| w.read_row(row, out));
        let most = TOKENS[TOKENS.len() - 1];
        let mut x = values(2, most * cols, 1.0);
        if format == DataType::F16 {
            // Halves already: what is not, the next test has.
            for x in &mut x {
                *x = f16::from_f32(*x).to_f32();
            }
        }
        let want: Vec<_> =
            x.chunks_exact(cols).flat_map(|x| weights.chunks_exact(cols).map(|w| dot(w, x))).collect();
        for isa in Isa::available() {
            let cpu = Cpu::new(isa, 1);
            let mut alone = vec![f32::NAN; most * rows];
            for (x, y) in x.chunks_exact(cols).zip(alone.chunks_exact_mut(rows)) {
                product(&cpu, w, x, y);
            }
            for (index, (&y, (sum, size))) in alone.iter().zip(&want).enumerate() {
                let bound = match isa {
                    // No number is so small that tiles lose anything.
                    Isa::Amx => amx_bound(format, cols, *size, 0.0),
                    // A sum of `cols` terms, each rounded once at most, and their sums.
                    _ => size * (cols + 2) as f64 * f64::from(f32::EPSILON),
                };
                let error = (f64::from(y) - sum).abs();
                assert!(error <= bound, "{isa} {format:?} ({rows}, {cols}) [{index}]: {y}, not {sum}");
            }
            let cpu = Cpu::new(isa, 3);
            for tokens in TOKENS {
                let mut y = vec![f32::NAN; tokens * rows];
                product(&cpu, w, &x[..tokens * cols], &mut y);
                let same = y.iter().zip(&alone).all(|(y, alone)| y.to_bits() == alone.to_bits());
                assert!(same, "{isa} {format:?} ({rows}, {cols}): {tokens} tokens differ from one at a time");
            }
        }
    }
}

/// What a machine reads faster must not show in the sums.
#[test]
fn rows_one_by_one_and_eight_at_a_time_have_the_same_sums() {
    struct OneByOne<'a>(Weights<'a>, &'a [f32], &'a Parts<'a, f32>);

    impl Operation for OneByOne<'_> {
        type Output = ();

        fn scalar(self) {}

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Self(w, x, y) = self;
            // SAFETY: nobody else writes `y`.
            unsafe { one::outputs::<S, F16>(s, w, x, 0..w.rows, y) }
        }
    }

    for (rows, cols) in SHAPES.into_iter().chain([(9, 2048), (7, 8192)]) {
        let bytes = encode(DataType::F16, &values(1, rows * cols, 1.0));
        let w = Weights::new(DataType::F16, rows, cols, &bytes[1..]).expect("the length fits");
        let x: Vec<_> = values(2, cols, 1.0).into_iter().map(|x| f16::from_f32(x).to_f32()).collect();
        let vectors = Isa::available().into_iter().filter(|isa| !matches!(isa, Isa::Scalar | Isa::Amx));
        for isa in vectors {
            // Two equal tokens are never read one by one.
            let mut want = vec![f32::NAN; 2 * rows];
            product(&Cpu::new(isa, 1), w, &x.repeat(2), &mut want);
            let mut got = vec![f32::NAN; rows];
            dispatch(isa, OneByOne(w, &x, &Parts::new(&mut got)));
            let same = got.iter().zip(&want).all(|(got, want)| got.to_bits() == want.to_bits());
            assert!(same, "{isa} ({rows}, {cols})");
        }
    }
}

/// How far an output of the tier `amx` may be from the sum of terms whose magnitudes sum to `size`; `sides`
/// is the sum of the magnitudes of what is multiplied, where numbers may be so small that tiles lose parts of
/// them.
///
/// A term's products of parts go through 16 additions of one instruction, one of the two halves' sums, and
/// one of each instruction to the output. The magnitudes of a half's parts sum to its own; those of an f32 to
/// at most (1 + 2⁻⁷ + 2⁻¹⁶) times its own, and three products of two f32 numbers that are left out come to
/// 2 · 2⁻⁸ · 2⁻¹⁶ + 2⁻³² times the term; a bf16 is its only part, and of its products none is left out. Each
/// part that is less than 2⁻¹²⁶, and each result, may become zero.
pub(super) fn amx_bound(format: DataType, cols: usize, size: f64, sides: f64) -> f64 {
    let tiny = f64::from(f32::MIN_POSITIVE);
    let unit = f64::from(f32::EPSILON) / 2.0;
    let steps = cols.div_ceil(32) as f64;
    let of_f32 = 1.0 + 1.0 / 128.0 + 1.0 / 65536.0;
    let (products, parts, left_out) = match format {
        DataType::F16 => (4.0, [1.0, 1.0], 0.0),
        DataType::BF16 => (3.0, [1.0, of_f32], 0.0),
        _ => (6.0, [of_f32, of_f32], 2.0_f64.powi(-23) + 2.0_f64.powi(-32)),
    };
    let additions = 17.0 + products * steps;
    let rounding = additions * unit / (1.0 - additions * unit);
    // Three parts on either side; an instruction's additions for an output are 32, 1 and 1.
    let lost = if sides > 0.0 { tiny * (3.0 * parts[1] * sides + 34.0 * products * steps) } else { 0.0 };
    size * (rounding * parts[0] * parts[1] + left_out) + lost
}

/// The dot product, and the sum of its terms' magnitudes.
fn dot(a: &[f32], b: &[f32]) -> (f64, f64) {
    let terms = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
    terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
}

#[test]
fn halves_meet_activations_rounded_to_halves() {
    let bytes = encode(DataType::F16, &[1.0, 0.5]);
    let w = Weights::new(DataType::F16, 1, 2, &bytes[1..]).expect("the length fits");
    for isa in Isa::available() {
        let mut y = [0.0; 2];
        // 1 + 2⁻¹² is no half, and 1e6 is beyond all of them.
        product(&Cpu::new(isa, 1), w, &[1.0 + 1.0 / 4096.0, 2.0, 1e6, 0.0], &mut y);
        assert_eq!(y.map(f32::to_bits), [2.0_f32, 65504.0].map(f32::to_bits), "{isa}");
    }
}

/// Of 24 bits, all count: they are neither rounded to eight nor to a half's eleven and its range.
#[test]
fn bf16_weights_meet_activations_as_they_are() {
    let weights = [1.0, 0.5, -1.0, 3.0];
    let bytes = encode(DataType::BF16, &weights);
    let w = Weights::new(DataType::BF16, 2, 2, &bytes[1..]).expect("the length fits");
    let x = 1.0 + 1.0 / 4_194_304.0;
    for isa in Isa::available() {
        for tokens in [1, 3, 20] {
            let mut y = vec![f32::NAN; 2 * tokens];
            product(&Cpu::new(isa, 2), w, &[x, 0.0].repeat(tokens), &mut y);
            assert_eq!(y, [x, -x].repeat(tokens), "{isa}, {tokens} tokens");
            product(&Cpu::new(isa, 2), w, &[0.0, 1.5e38].repeat(tokens), &mut y);
            assert_eq!(y, [0.75e38, f32::INFINITY].repeat(tokens), "{isa}, {tokens} tokens");
        }
    }
}

/// Every bf16 number, alone in its row: zero, subnormal, largest, infinite and not a number too.
#[test]
fn every_bf16_weight_is_multiplied_as_it_is() {
    let bytes: Vec<_> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let w = Weights::new(DataType::BF16, 1 << 16, 1, &bytes).expect("the length fits");
    for isa in Isa::available() {
        for tokens in [1, 2, 17] {
            let mut y = vec![0.0; tokens << 16];
            product(&Cpu::new(isa, 2), w, &vec![1.0; tokens], &mut y);
            for (bits, &y) in (0..=u16::MAX).cycle().zip(&y) {
                let want = f32::from_bits(u32::from(bits) << 16);
                let same = |want: f32| y.to_bits() == want.to_bits() || (y.is_nan() && want.is_nan());
                let same = match isa {
                    // Tiles take what is subnormal as zero; an infinity times the parts of 1 that are 0 is NaN.
                    Isa::Amx if want.is_subnormal() => y.abs().to_bits() == 0,
                    Isa::Amx if want.is_infinite() => !y.is_finite(),
                    // A sum begins with 0, which takes the sign of a zero.
                    _ if want.to_bits() == (-0.0_f32).to_bits() => same(0.0),
                    _ => same(want),
                };
                assert!(same, "{isa}, {tokens} tokens: {want:e} becomes {y:e}");
            }
        }
    }
}
