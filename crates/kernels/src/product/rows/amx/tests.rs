//! What needs no AMX is tested on every CPU with AVX-512: splitting numbers, and the whole product with
//! simulated tiles. Where there are tiles, they must give the same bits as the simulated ones.

// Parts are exact.
#![allow(clippy::float_cmp)]

use half::{bf16, f16};

use super::split::Split;
use super::*;
use crate::testing::values;
use crate::{Isa, product};

/// 2⁻¹²⁶: what is smaller may be lost.
const TINY: f64 = f32::MIN_POSITIVE as f64;

/// The parts as the table in `split.rs` has them.
fn halves_parts(x: f32) -> [f32; 2] {
    let hi = f32::from_bits(x.to_bits() & 0xffff_0000);
    [x - hi, hi]
}

/// The same for f32 numbers.
fn floats_parts(x: f32) -> [f32; 3] {
    let nearest = |x: f32| f32::from_bits(x.to_bits().wrapping_add(0x8000) & 0xffff_0000);
    let a = nearest(x);
    let b = nearest(x - a);
    [x - a - b, b, a]
}

/// What lines have of `x`: the upper halves of its parts.
fn upper(part: f32) -> f32 {
    f32::from_bits(part.to_bits() & 0xffff_0000)
}

/// 1, and every power of two with what is around it, what lies halfway between bf16 numbers, and bits of all
/// sorts.
fn floats() -> Vec<f32> {
    let mut floats = vec![0.0, -0.0];
    for exponent in 0..255_u32 {
        for mantissa in [0, 1, 0x40, 0x7f, 0x80, 0x81, 0x7fff, 0x8000, 0x8001, 0xffff, 0x1_8000, 0x7f_ffff] {
            floats.push(f32::from_bits(exponent << 23 | mantissa));
        }
    }
    floats.extend(
        (0..100_000_u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9))).filter(|x| x.is_finite()),
    );
    let negative: Vec<_> = floats.iter().map(|x| -x).collect();
    floats.extend(negative);
    floats
}

#[test]
fn halves_are_their_parts_sum() {
    for half in (0..=u16::MAX).map(f16::from_bits).filter(|half| half.is_finite()) {
        let parts = halves_parts(half.to_f32());
        assert_eq!(parts[0] + parts[1], half.to_f32());
        for part in parts {
            assert!(part == upper(part) && (part == 0.0 || part.is_normal()), "{part:e} of {half:e}");
        }
    }
}

#[test]
fn floats_are_their_parts_sum() {
    let mut exact = 0;
    for x in floats() {
        // Beyond this they round to infinity.
        if x.abs() >= f32::from_bits(0x7f7f_8000) {
            assert!(floats_parts(x).map(upper).iter().any(|part| part.is_nan()), "{x:e}");
            continue;
        }
        let parts = floats_parts(x).map(|part| f64::from(upper(part)));
        let lost = (f64::from(x) - parts.iter().sum::<f64>()).abs();
        // The last bit of 2⁻¹⁰³ is that of the smallest normal number.
        if x.abs() >= 2.0_f32.powi(-103) {
            assert_eq!(lost, 0.0, "{x:e}");
            exact += 1;
        }
        assert!(lost < 3.0 * TINY, "{x:e}: {lost:e}");
        let [c, b, a] = parts.map(f64::abs);
        let size = f64::from(x.abs());
        assert!(a <= size * (1.0 + 1.0 / 256.0) || size < TINY, "{x:e}");
        assert!(b <= size / 256.0 + TINY && c <= size / 65536.0 + TINY, "{x:e}");
    }
    assert!(exact > 10_000);
    for x in
        [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::from_bits(0x7fff_ffff), f32::from_bits(0xff80_0001)]
    {
        assert!(floats_parts(x).map(upper).iter().any(|part| part.is_nan()), "{x:e}");
    }
}

/// Lines of registers, as parts of 32 numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn registers<S: Split<P>, const P: usize>(x: &[f32]) -> [[[f32; 2]; LANES]; P] {
    // SAFETY: the masks pick what there is.
    let lines = unsafe {
        let [lower, upper] = masks(x.len());
        let upper = _mm512_maskz_loadu_ps(upper, x.as_ptr().wrapping_add(LANES));
        split::lines::<S, P>(_mm512_maskz_loadu_ps(lower, x.as_ptr()), upper)
    };
    lines.map(|line| words(line).map(halves))
}

/// The words of a line.
#[target_feature(enable = "avx512f")]
fn words(line: __m512i) -> [u32; LANES] {
    let mut words = [0_u32; LANES];
    // SAFETY: 16 words are written.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), line) };
    words
}

/// The two bf16 numbers of a word.
fn halves(word: u32) -> [f32; 2] {
    [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)]
}

#[test]
fn registers_take_numbers_apart_alike() {
    fn check<S: Split<P>, const P: usize>(x: &[f32], parts: impl Fn(f32) -> [f32; P]) {
        for x in x.chunks(STEP).chain([&x[..1], &x[..16], &x[..17]]) {
            // SAFETY: only called with the tier.
            let lines = unsafe { registers::<S, P>(x) };
            for i in 0..STEP {
                let parts = parts(x.get(i).copied().unwrap_or(0.0)).map(upper);
                let got = lines.map(|line| line[i % LANES][i / LANES]);
                let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
                assert!(got.iter().zip(&parts).all(same), "{:e}: {got:?}, not {parts:?}", x[i]);
            }
        }
    }
    if !Isa::Avx512.is_supported() {
        return;
    }
    check::<F32, 3>(&floats(), floats_parts);
    let finite = |half: &f16| half.is_finite();
    let all: Vec<_> = (0..=u16::MAX).map(f16::from_bits).filter(finite).map(f16::to_f32).collect();
    check::<F16, 2>(&all, halves_parts);
}

/// The same columns share a word, and no number gets lost.
#[test]
fn lines_of_bf16_weights_and_their_activations_have_the_same_order() {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn both(count: usize) -> [[[f32; 2]; LANES]; 2] {
        let x: [f32; STEP] = std::array::from_fn(|i| i as f32 + 1.0);
        let stored = x.map(|x| bf16::from_f32(x).to_bits());
        // SAFETY: there are 32 numbers, and the features are this function's.
        unsafe {
            let [weights] = <BF16 as Stored<1>>::lines(stored.as_ptr().cast(), masks(count));
            let [c, b, a] = <BF16 as Activations<3>>::lines(x.as_ptr(), masks(count));
            assert!([c, b].into_iter().all(|part| words(part) == [0; LANES]));
            [weights, a].map(|line| words(line).map(halves))
        }
    }
    if !Isa::Avx512.is_supported() {
        return;
    }
    for count in 1..=STEP {
        let want: [[f32; 2]; LANES] = std::array::from_fn(|word| {
            [2 * word, 2 * word + 1].map(|col| if col < count { col as f32 + 1.0 } else { 0.0 })
        });
        // SAFETY: the tier has just been found.
        assert_eq!(unsafe { both(count) }, [want; 2], "{count} columns");
    }
}

#[test]
fn lanes_and_registers_change_places() {
    fn numbers() -> [[u32; LANES]; LANES] {
        std::array::from_fn(|i| std::array::from_fn(|j| (100 * i + j) as u32))
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn transposed() -> [[u32; LANES]; LANES] {
        let mut out = [[0; LANES]; LANES];
        // SAFETY: the features are this function's; 16 words are read and written of each row.
        unsafe {
            let rows = numbers().map(|row| _mm512_loadu_si512(row.as_ptr().cast()));
            for (out, row) in out.iter_mut().zip(transpose(&rows)) {
                _mm512_storeu_si512(out.as_mut_ptr().cast(), row);
            }
        }
        out
    }
    if !Isa::Avx512.is_supported() {
        return;
    }
    // SAFETY: it has just been found.
    let out = unsafe { transposed() };
    assert_eq!(out, std::array::from_fn(|i| numbers().map(|row| row[i])));
}

/// Tiles of plain Rust, for strips of a width and that many groups of a task: the others' sums are not looked
/// at.
struct Simulated {
    width: usize,
    groups: usize,
}

/// Numbers that tiles take as zero.
fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0_f32.copysign(x) } else { x }
}

/// `tdpbf16ps`, as Intel's manual has it: `sums` is 16 × 16, of which `width` columns are in use, `a` 16 × 16
/// and `b` 16 × `width` pairs.
#[target_feature(enable = "avx2,fma")]
fn tdpbf16ps(sums: &mut [f32], a: &[u32], b: &[u32], width: usize) {
    for (sums, a) in sums.chunks_exact_mut(LANES).zip(a.chunks_exact(LANES)) {
        for (n, sum) in sums[..width].iter_mut().enumerate() {
            let mut both = [0.0; 2];
            for (k, &a) in a.iter().enumerate() {
                let (a, b) = (halves(a).map(flush), halves(b[k * width + n]).map(flush));
                both = [0, 1].map(|i| flush(a[i].mul_add(b[i], both[i])));
            }
            *sum = flush(flush(*sum) + flush(both[0] + both[1]));
        }
    }
}

impl Simulated {
    /// One group by one strip, `weights` and `x` in steps that far apart, parts that far apart.
    unsafe fn tile<const P: usize, const X: usize>(
        &self,
        o: Operands,
        weights: *const u32,
        x: *const u32,
        sums: *mut f32,
    ) {
        let order: &[(usize, usize)] = match P {
            1 => &[(0, 0), (0, 1), (0, 2)],
            2 => &[(0, 0), (1, 0), (1, 1), (0, 1)],
            _ => &[(2, 0), (2, 1), (1, 1), (1, 2), (2, 2), (0, 2)],
        };
        // SAFETY: the operands have all of this, by the contract of `Multiply`.
        unsafe {
            let sums = std::slice::from_raw_parts_mut(sums, TILE);
            for step in 0..o.steps {
                for (a, b) in order {
                    let a = weights.add((step * GROUPS * P + 2 * a) * TILE);
                    let b = x.add((step * X + b) * LANES * self.width);
                    let a = std::slice::from_raw_parts(a, TILE);
                    let b = std::slice::from_raw_parts(b, LANES * self.width);
                    tdpbf16ps(sums, a, b, self.width);
                }
            }
        }
    }
}

impl<const P: usize, const X: usize> Multiply<P, X> for Simulated {
    unsafe fn square(&self, o: Operands) {
        for (group, strip) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            // SAFETY: passed on.
            unsafe {
                let (weights, x) = (o.weights.add(group * TILE), o.x.add(strip * o.x_strip));
                self.tile::<P, X>(o, weights, x, o.sums.add((strip * GROUPS + group) * TILE));
            }
        }
    }

    unsafe fn column(&self, o: Operands, _: *const u8, _: usize) {
        for group in 0..self.groups {
            // SAFETY: passed on.
            unsafe {
                let weights = o.weights.add((group / 2 * 2 * P + group % 2) * TILE);
                self.tile::<P, X>(o, weights, o.x, o.sums.add(group * TILE));
            }
        }
    }
}

/// y (T, rows) by simulated tiles.
fn simulated(w: Weights<'_>, x: &[f32]) -> Vec<f32> {
    let tokens = x.len() / w.cols;
    let mut y = vec![f32::NAN; tokens * w.rows];
    let mut tiles = Lines::default();
    prepare(&Cpu::new(Isa::Avx512, 2), w.format, x, w.cols, &mut tiles);
    let layout = Layout::new(w.format, tokens, w.cols);
    let y_parts = Parts::new(&mut y);
    for first in (0..w.rows).step_by(ROWS_OF_MANY) {
        let rows = first..w.rows.min(first + ROWS_OF_MANY);
        let simulated = Simulated { width: layout.width(), groups: rows.len().div_ceil(ROWS) };
        // SAFETY: only called with AVX-512.
        unsafe {
            match w.format {
                DataType::F16 => outputs::<F16, _, 2, 2>(&simulated, w, layout, &tiles, rows, &y_parts),
                DataType::BF16 => outputs::<BF16, _, 1, 3>(&simulated, w, layout, &tiles, rows, &y_parts),
                _ => outputs::<F32, _, 3, 3>(&simulated, w, layout, &tiles, rows, &y_parts),
            }
        }
    }
    y
}

/// Compares with sums in f64.
fn check(what: &str, w: Weights<'_>, x: &[f32], y: &[f32]) {
    let mut weights = vec![0.0; w.cols];
    for row in 0..w.rows {
        w.read_row(row, &mut weights);
        for (token, x) in x.chunks_exact(w.cols).enumerate() {
            let (mut sum, mut size, mut sides) = (0.0, 0.0, 0.0);
            for (&w, &x) in weights.iter().zip(x) {
                let (w, x) = (f64::from(w), f64::from(x));
                sum += w * x;
                size += (w * x).abs();
                sides += w.abs() + x.abs();
            }
            let y = y[token * w.rows + row];
            let error = (f64::from(y) - sum).abs();
            let bound = super::super::tests::amx_bound(w.format, w.cols, size, sides);
            assert!(error <= bound, "{what} {:?} row {row}, token {token}: {y}, not {sum}", w.format);
        }
    }
}

/// Weights of a format behind a byte that misaligns them, and activations that have been rounded as they
/// want.
fn operands(format: DataType, rows: usize, cols: usize, tokens: usize, scale: f32) -> (Vec<u8>, Vec<f32>) {
    let (weights, mut x) = (values(3, rows * cols, scale), values(4, tokens * cols, 1.0));
    let bytes = super::super::tests::encode(format, &weights);
    if format == DataType::F16 {
        for x in &mut x {
            *x = f16::from_f32(*x).to_f32();
        }
    }
    (bytes, x)
}

/// (rows, cols): a column, a step and a bit more or less, several blocks; a group, two and three, a task, and
/// a bit more.
const SHAPES: [(usize, usize); 6] = [(1, 1), (5, 31), (17, 33), (70, 64), (33, 97), (18, 1100)];

#[test]
fn simulated_tiles_multiply_every_shape() {
    if !Isa::Avx512.is_supported() {
        return;
    }
    for ((rows, cols), format) in SHAPES.into_iter().flat_map(|s| DataType::ROWS.map(|f| (s, f))) {
        let (bytes, x) = operands(format, rows, cols, 64, 1.0);
        let w = Weights::new(format, rows, cols, &bytes[1..]).expect("the length fits");
        let all = simulated(w, &x);
        check("simulated", w, &x, &all);
        for tokens in [0..0, 0..1, 20..21, 63..64, 40..49, 16..33, 0..64] {
            let what = format!("{format:?} ({rows}, {cols}), tokens {tokens:?}");
            let x = &x[tokens.start * cols..tokens.end * cols];
            let same = |y: &[f32]| {
                let all = &all[tokens.start * rows..tokens.end * rows];
                y.len() == all.len() && y.iter().zip(all).all(|(y, all)| y.to_bits() == all.to_bits())
            };
            assert!(tokens.len() == 64 || same(&simulated(w, x)), "{what}: not as all tokens");
            if Isa::Amx.is_supported() {
                let mut y = vec![f32::NAN; tokens.len() * rows];
                product(&Cpu::new(Isa::Amx, 2), w, x, &mut y);
                assert!(same(&y), "{what}: not as simulated");
            }
        }
    }
}

#[test]
fn tiny_weights_lose_no_more_than_they_may() {
    if !Isa::Avx512.is_supported() {
        return;
    }
    let formats = [DataType::F32, DataType::BF16];
    for (scale, format) in
        [1e-30, 1e-34, 1e-36, 1e-38, 1e-41].into_iter().flat_map(|s| formats.map(|f| (s, f)))
    {
        let (bytes, x) = operands(format, 20, 70, 3, scale);
        let w = Weights::new(format, 20, 70, &bytes[1..]).expect("the length fits");
        check("simulated", w, &x, &simulated(w, &x));
        if Isa::Amx.is_supported() {
            let mut y = vec![f32::NAN; 60];
            product(&Cpu::new(Isa::Amx, 1), w, &x, &mut y);
            check("tiles", w, &x, &y);
        }
    }
}

#[test]
fn what_is_not_finite_shows_in_its_own_outputs_alone() {
    if !Isa::Avx512.is_supported() {
        return;
    }
    let formats = [DataType::F32, DataType::BF16];
    for (bad, format) in
        [f32::NAN, f32::INFINITY, f32::MAX].into_iter().flat_map(|bad| formats.map(|f| (bad, f)))
    {
        let (bytes, mut x) = operands(format, 5, 40, 18, 1.0);
        let w = Weights::new(format, 5, 40, &bytes[1..]).expect("the length fits");
        x[17 * 40 + 3] = bad;
        let y = simulated(w, &x);
        for (token, y) in y.chunks_exact(5).enumerate() {
            assert!(y.iter().all(|y| y.is_nan() == (token == 17)), "{bad}, token {token}: {y:?}");
        }
    }
}
