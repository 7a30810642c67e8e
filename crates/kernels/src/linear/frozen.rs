//! Products through frozen weights: a matrix that is not trained and stays in the format of its file.
//!
//! The weights are decoded to f32 some rows at a time, and the blocked product takes them from there. So the
//! result is exactly the function of the decoded weights, in f32 or bf16 as the [`Cpu`] says, and `dx` is
//! exactly its gradient; [`products`](crate::products), which is for inference, rounds the activations that
//! meet FP16 and quantized weights. With at least some hundred tokens the decoding is small beside the
//! product, and the memory is that of a few megabytes whatever the size of the matrix.

use std::ops::Range;

use super::blocked::{DECODED, with_scratch};
use super::{Extent, View, ViewMut, product};
use crate::product::Matrix;
use crate::{Cpu, Store};

/// The most rows that are decoded at once: one block of the shared index in `dx`, and columns enough in `y`
/// that packing the activations anew for each block costs little.
const ROWS: usize = 384;

/// Weights that are decoded at once, unless a panel of rows is more: 4 MB.
const WEIGHTS: usize = 1 << 20;

/// Rows decoded at once are a multiple of this: whole panels of either kind, of files and of the blocked
/// product.
const PANEL: usize = 32;

/// `y = x wᵀ`, with `x` (T, `w.cols()`) and `y` (T, `w.rows()`). [`Matrix::Rows`] may be of any format here.
///
/// # Panics
/// If the lengths do not fit.
pub fn linear_frozen(cpu: &Cpu, x: &[f32], w: Matrix<'_>, y: &mut [f32]) {
    let (t, n, k) = dims(x, w, y);
    for_each_block(cpu, w, |rows, w| {
        let a = View { data: x, row: k, col: 1 };
        let b = View { data: w, row: 1, col: k };
        let data = y.get_mut(rows.start..).unwrap_or_default();
        product(cpu, [t, rows.len(), k], a, b, ViewMut { data, row: n }, Store::Set, Extent::Whole);
    });
}

/// `dx = dy w` or `dx += dy w`, with `dy` (T, `w.rows()`) and `dx` (T, `w.cols()`).
///
/// # Panics
/// If the lengths do not fit.
pub fn linear_frozen_dx(cpu: &Cpu, dy: &[f32], w: Matrix<'_>, dx: &mut [f32], store: Store) {
    let (t, n, k) = dims(dx, w, dy);
    if n == 0 && store == Store::Set {
        dx.fill(0.0);
    }
    for_each_block(cpu, w, |rows, w| {
        let store = if rows.start == 0 { store } else { Store::Add };
        let a = View { data: dy.get(rows.start..).unwrap_or_default(), row: n, col: 1 };
        let b = View { data: w, row: k, col: 1 };
        product(cpu, [t, k, rows.len()], a, b, ViewMut { data: dx, row: k }, store, Extent::Whole);
    });
}

/// T, rows and columns, from x (T, columns) and y (T, rows).
fn dims(x: &[f32], w: Matrix<'_>, y: &[f32]) -> (usize, usize, usize) {
    let (n, k) = (w.rows(), w.cols());
    assert!(k > 0 && x.len().is_multiple_of(k), "{} inputs of rows of {k}", x.len());
    let t = x.len() / k;
    assert_eq!(y.len(), t * n, "({t}, {n}) outputs");
    (t, n, k)
}

/// Calls `body(rows, weights)` with the weights of some rows after the other. Which rows are together depends
/// on the shape of `w` alone.
fn for_each_block(cpu: &Cpu, w: Matrix<'_>, mut body: impl FnMut(Range<usize>, &[f32])) {
    let block = (WEIGHTS / w.cols() / PANEL * PANEL).clamp(PANEL, ROWS);
    for start in (0..w.rows()).step_by(block) {
        let rows = start..w.rows().min(start + block);
        if let Some(weights) = w.as_f32(rows.clone()) {
            body(rows, weights);
        } else {
            with_scratch(&DECODED, rows.len() * w.cols(), |weights: &mut [f32]| {
                w.decode_rows(cpu, rows.clone(), weights);
                body(rows, weights);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::{linear, linear_dx};
    use crate::testing::{stored_matrix, values};
    use crate::{DataType, Isa, Panels, Precision, Weights};

    /// Rows and columns: the edges of a panel and of what is decoded at once, by rows and by weights.
    const SHAPES: [(usize, usize); 7] =
        [(1, 32), (17, 64), (383, 32), (384, 32), (385, 96), (801, 32), (65, WEIGHTS / 40 / 32 * 32)];

    /// Calls `body` with the matrix as it lies in a file, at an odd address and an even one, and as panels if
    /// it is quantized; and with its decoded weights.
    fn every_matrix(rows: usize, cols: usize, body: impl Fn(&str, Matrix<'_>, &[f32])) {
        for format in DataType::EVERY {
            let stored = stored_matrix(format, rows, cols);
            let mut weights = vec![0.0; rows * cols];
            for (row, out) in stored.chunks_exact(stored.len() / rows).zip(weights.chunks_exact_mut(cols)) {
                format.decode(row, out);
            }
            let mut moved = vec![0; 4 + stored.len()];
            let aligned = moved.as_ptr().align_offset(4);
            for at in [aligned, (aligned + 1) % 4] {
                moved[at..at + stored.len()].copy_from_slice(&stored);
                let w = Weights::new(format, rows, cols, &moved[at..at + stored.len()]).expect("it fits");
                body(&format!("{format:?} rows ({rows}, {cols})"), Matrix::Rows(w), &weights);
            }
            if let Some(len) = Panels::len(format, rows, cols) {
                let w = Weights::new(format, rows, cols, &stored).expect("it fits");
                let mut packed = vec![0; len];
                let panels = Panels::pack(&Cpu::new(Isa::Scalar, 1), w, &mut packed);
                body(&format!("{format:?} panels ({rows}, {cols})"), Matrix::Panels(panels), &weights);
            }
        }
    }

    /// Each element within n·ε of the sum of its terms' magnitudes, which bounds a sum of n products in f32.
    fn check(what: &str, got: &[f32], before: f32, n: usize, term: impl Fn(usize, usize) -> f64) {
        for (index, &got) in got.iter().enumerate() {
            let terms = (0..n).map(|p| term(index, p));
            let (sum, size) =
                terms.fold((f64::from(before), 1.0), |(sum, size), t| (sum + t, size + t.abs()));
            let bound = (n + 2) as f64 * f64::from(f32::EPSILON) * size;
            assert!((f64::from(got) - sum).abs() <= bound, "{what}[{index}]: {got}, not {sum} ± {bound:e}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "millions of weights")]
    fn products_are_those_of_the_decoded_weights() {
        for (rows, cols) in SHAPES {
            // The scalar code takes seconds for the widest.
            let tokens: &[usize] = if cols > 100 { &[1] } else { &[0, 1, 3, 65] };
            every_matrix(rows, cols, |what, matrix, w| {
                for &t in tokens {
                    let (x, dy) = (values(1, t * cols, 1.0), values(2, t * rows, 1.0));
                    for isa in Isa::available() {
                        let what = format!("{isa}, {what}, {t} tokens");
                        let cpu = Cpu::new(isa, 2);
                        let (mut y, mut dx) = (vec![f32::NAN; t * rows], vec![f32::NAN; t * cols]);
                        linear_frozen(&cpu, &x, matrix, &mut y);
                        check(&format!("y, {what}"), &y, 0.0, cols, |i, c| {
                            f64::from(x[i / rows * cols + c]) * f64::from(w[i % rows * cols + c])
                        });
                        let dx_term = |i: usize, r: usize| {
                            f64::from(dy[i / cols * rows + r]) * f64::from(w[r * cols + i % cols])
                        };
                        linear_frozen_dx(&cpu, &dy, matrix, &mut dx, Store::Set);
                        check(&format!("dx, {what}"), &dx, 0.0, rows, dx_term);
                        dx.fill(0.5);
                        linear_frozen_dx(&cpu, &dy, matrix, &mut dx, Store::Add);
                        check(&format!("dx added, {what}"), &dx, 0.5, rows, dx_term);
                    }
                }
            });
        }
    }

    /// Every sum is taken in the order of its terms however the rows are cut, so frozen weights and trained
    /// ones of the same values give the same bits, in bf16 too. Scalar code adds a block's sum to what is
    /// there, which is another order.
    #[test]
    fn bits_are_those_of_the_products_with_weights_in_memory_for_any_number_of_threads() {
        let (t, rows, cols) = (37, 801, 96);
        let (x, dy) = (values(1, t * cols, 1.0), values(2, t * rows, 1.0));
        every_matrix(rows, cols, |what, matrix, w| {
            for isa in Isa::available() {
                for precision in [Precision::F32, Precision::Bf16] {
                    if !precision.is_supported(isa) {
                        continue;
                    }
                    let run = |threads| {
                        let cpu = Cpu::new(isa, threads).with_precision(precision);
                        let (mut y, mut dx) = (vec![f32::NAN; t * rows], vec![0.5; t * cols]);
                        linear_frozen(&cpu, &x, matrix, &mut y);
                        linear_frozen_dx(&cpu, &dy, matrix, &mut dx, Store::Add);
                        [y, dx]
                    };
                    let got = run(1);
                    for threads in [2, 3] {
                        assert_eq!(got, run(threads), "{isa} {precision:?}, {what}, {threads} threads");
                    }
                    let cpu = Cpu::new(isa, 2).with_precision(precision);
                    let (mut y, mut dx) = (vec![f32::NAN; t * rows], vec![0.5; t * cols]);
                    linear(&cpu, &x, w, cols, &mut y);
                    linear_dx(&cpu, &dy, w, cols, &mut dx, Store::Add);
                    assert_eq!(got[0], y, "{isa} {precision:?}, {what}: y");
                    assert!(isa == Isa::Scalar || got[1] == dx, "{isa} {precision:?}, {what}: dx");
                }
            }
        });
    }
}
