//! Products of a matrix with itself, which are symmetric: the half above the diagonal is copied and not computed.

use super::{Extent, View, ViewMut, product};
use crate::{Cpu, Store};

/// Rows and columns that are copied at a time, so that both squares stay in the L1 cache.
const SQUARE: usize = 16;

/// `y = x xᵀ`, with `x` (N, `k`) and `y` (N, N): the bits of [`linear`](super::linear) of `x` and `x`, in little more than
/// half the time.
///
/// # Panics
/// If the lengths do not fit.
pub fn gram_of_rows(cpu: &Cpu, x: &[f32], k: usize, y: &mut [f32]) {
    let n = sides(x, k)[0];
    let (a, b) = (View { data: x, row: k, col: 1 }, View { data: x, row: 1, col: k });
    gram(cpu, [n, k], a, b, y);
}

/// `y = xᵀ x`, with `x` (T, `n`) and `y` (`n`, `n`): the bits of [`linear_dw`](super::linear_dw) of `x` and `x`, added to
/// zeros.
///
/// # Panics
/// If the lengths do not fit.
pub fn gram_of_columns(cpu: &Cpu, x: &[f32], n: usize, y: &mut [f32]) {
    let t = sides(x, n)[0];
    let (a, b) = (View { data: x, row: 1, col: n }, View { data: x, row: n, col: 1 });
    gram(cpu, [n, t], a, b, y);
}

/// Rows and columns of `x`.
fn sides(x: &[f32], cols: usize) -> [usize; 2] {
    assert!(cols > 0 && x.len().is_multiple_of(cols), "{} are not rows of {cols}", x.len());
    [x.len() / cols, cols]
}

fn gram(cpu: &Cpu, [n, k]: [usize; 2], a: View<'_>, b: View<'_>, y: &mut [f32]) {
    assert_eq!(y.len(), n * n, "({n}, {n})");
    product(cpu, [n, n, k], a, b, ViewMut { data: y, row: n }, Store::Set, Extent::Lower);
    for first in (0..n).step_by(SQUARE) {
        for left in (0..=first).step_by(SQUARE) {
            for row in first..n.min(first + SQUARE) {
                for col in left..row.min(left + SQUARE) {
                    y[col * n + row] = y[row * n + col];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::{linear, linear_dw};
    use crate::testing::values;
    use crate::{Isa, Precision};

    /// One less than a tile, a tile, one more, of every tier; several blocks of the shared index, and none of it.
    #[test]
    fn they_are_the_products_whose_half_is_computed() {
        for (rows, cols) in [(1, 1), (5, 6), (14, 3), (15, 7), (33, 16), (66, 40), (130, 801), (31, 1600)] {
            let x = values(1, rows * cols, 1.0);
            for isa in Isa::available() {
                for precision in [Precision::F32, Precision::Bf16].into_iter().filter(|p| p.is_supported(isa))
                {
                    for threads in [1, 3] {
                        let cpu = Cpu::new(isa, threads).with_precision(precision);
                        let name = format!("{isa} {precision:?} {rows} {cols} {threads}");
                        let (mut got, mut want) = (vec![f32::NAN; rows * rows], vec![0.0; rows * rows]);
                        gram_of_rows(&cpu, &x, cols, &mut got);
                        linear(&cpu, &x, &x, cols, &mut want);
                        assert!(got == want, "rows, {name}");
                        // The same numbers as a matrix of other sides.
                        let (mut got, mut want) = (vec![f32::NAN; rows * rows], vec![0.0; rows * rows]);
                        gram_of_columns(&cpu, &x, rows, &mut got);
                        linear_dw(&cpu, &x, &x, rows, &mut want);
                        assert!(got == want, "columns, {name}");
                    }
                }
            }
        }
    }
}
