//! What the kernels' tests share: inputs, every tier and number of threads, central differences.

use half::{bf16, f16};

use crate::{Cpu, DataType, Isa, Store, WEIGHTS_PER_BLOCK};

/// `len` numbers spread evenly over (−scale, scale), in an order that looks random: the fractional parts of
/// multiples of an irrational number.
pub(crate) fn values(seed: usize, len: usize, scale: f32) -> Vec<f32> {
    (0..len)
        .map(|i| {
            let fraction = ((i + 1 + seed * 7919) as f64 * 0.754_877_666_246_692_8).fract();
            (fraction * 2.0 - 1.0) as f32 * scale
        })
        .collect()
}

/// A matrix of weights as a file holds it: small numbers, or any integers with small scales and minima.
pub(crate) fn stored_matrix(format: DataType, rows: usize, cols: usize) -> Vec<u8> {
    let halves = |x: f32| f16::from_f32(x).to_le_bytes();
    match format {
        DataType::F32 => values(3, rows * cols, 0.1).iter().flat_map(|x| x.to_le_bytes()).collect(),
        DataType::F16 => values(3, rows * cols, 0.1).iter().flat_map(|&x| halves(x)).collect(),
        DataType::BF16 => {
            values(3, rows * cols, 0.1).iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()
        }
        _ => {
            let blocks = rows * cols / WEIGHTS_PER_BLOCK;
            let numbers = values(3, 2 * blocks, 0.01);
            let mut state = 0x1234_5678_u32;
            let mut out = Vec::with_capacity(blocks * format.block().1);
            for number in numbers.chunks_exact(2) {
                let block = out.len();
                out.extend((0..format.block().1).map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                }));
                out[block..][..2].copy_from_slice(&halves(number[0]));
                if format.has_minimum() {
                    out[block + 2..][..2].copy_from_slice(&halves(number[1]));
                }
            }
            out
        }
    }
}

/// `(rows, width)`: widths around those of vectors and tiles; rows from none to enough for several blocks.
pub(crate) fn shapes() -> Vec<(usize, usize)> {
    let mut shapes = Vec::new();
    for width in [1, 3, 15, 16, 17, 128, 200] {
        for rows in [0, 1, 5, 20_000 / width] {
            shapes.push((rows, width));
        }
    }
    shapes
}

/// Runs `kernel` with every tier that this machine has, on 1, 2 and 3 threads, and returns what scalar code
/// gives.
///
/// # Panics
/// If a bit depends on the number of threads, or if a tier differs from scalar by more than `tolerance` times
/// the element's magnitude plus the array's root mean square.
pub(crate) fn every_tier(
    what: &str,
    tolerance: f32,
    kernel: impl Fn(&Cpu) -> Vec<Vec<f32>>,
) -> Vec<Vec<f32>> {
    let want = kernel(&Cpu::new(Isa::Scalar, 1));
    for isa in Isa::available() {
        let alone = kernel(&Cpu::new(isa, 1));
        for threads in [2, 3] {
            for (array, (alone, shared)) in alone.iter().zip(kernel(&Cpu::new(isa, threads))).enumerate() {
                let same = alone.iter().zip(&shared).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{what}, {isa}, array {array}: {threads} threads differ from one");
            }
        }
        for (array, (want, got)) in want.iter().zip(&alone).enumerate() {
            assert_eq!(want.len(), got.len());
            let rms = (want.iter().map(|x| x * x).sum::<f32>() / want.len().max(1) as f32).sqrt();
            for (i, (want, got)) in want.iter().zip(got).enumerate() {
                assert!(
                    (want - got).abs() <= tolerance * (want.abs() + rms),
                    "{what}, {isa}, array {array}[{i}]: {got}, scalar {want}"
                );
            }
        }
    }
    want
}

/// What `kernel` sets in `len` elements that were NaN; it must add the same to what is there.
pub(crate) fn set_and_add(len: usize, kernel: impl Fn(&mut [f32], Store)) -> Vec<f32> {
    let (mut set, mut added) = (vec![f32::NAN; len], vec![0.5; len]);
    kernel(&mut set, Store::Set);
    kernel(&mut added, Store::Add);
    let want: Vec<_> = set.iter().map(|set| 0.5 + set).collect();
    assert_eq!(added, want);
    set
}

/// Asserts that `got` is what was computed in f64, within `tolerance` times the largest magnitude.
pub(crate) fn assert_close(what: &str, tolerance: f64, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
    for (i, (&got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(error <= tolerance * largest + 1e-30, "{what}[{i}]: {got}, not {want}");
    }
}

/// Asserts that `gradient` is the derivative of `loss` at `x`, by central differences in f64.
pub(crate) fn assert_gradient(what: &str, x: &[f32], gradient: &[f32], loss: impl Fn(&[f64]) -> f64) {
    // Truncation, about h², and cancellation, about 1e-16/h, are both far below an f32's rounding.
    const H: f64 = 1e-5;
    let mut x = f64s(x);
    let want: Vec<_> = (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + H;
            let above = loss(&x);
            x[i] = at - H;
            let below = loss(&x);
            x[i] = at;
            (above - below) / (2.0 * H)
        })
        .collect();
    assert_close(what, 1e-5, gradient, &want);
}

/// The same numbers in f64.
pub(crate) fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// `Σ a·b`.
pub(crate) fn dot(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, &b)| a * f64::from(b)).sum()
}
