//! `linear`: the three matrix products of a layer in training.
//!
//! For activations `x` (T, K), weights `w` (N, K) and outputs `y` (T, N), all row-major:
//!
//! ```text
//! forward   y (T, N)   =  x  (T, K) · wᵀ (K, N)
//! backward  dx (T, K) (+)= dy (T, N) · w  (N, K)
//!           dw (N, K)  += dyᵀ (N, T) · x  (T, K)
//! ```
//!
//! These three are nearly all the arithmetic of training: 2·T·K·N operations each. All are one product
//! `C (+)= A·B` with different strides, computed in the way of BLIS (Van Zee and van de Geijn, "BLIS: A
//! framework for rapidly instantiating BLAS functionality", ACM TOMS 2015), see [`blocked`].
//!
//! `linear_frozen` and `linear_frozen_dx` are the first two with weights that stay in the format of their
//! file: see [`frozen`].
//!
//! With [`Precision::Bf16`] the operands are rounded to bf16 on their way into the product; sums stay f32.
//!
//! An element of C is summed in the order of the shared index by one thread, so results do not depend on the
//! number of threads, nor on the number of rows.

#[cfg(target_arch = "x86_64")]
mod bf16;
mod blocked;
mod frozen;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
mod packed;
mod scalar;
mod symmetric;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use blocked::ROWS as ROWS_OF_TASK;
pub use frozen::{linear_frozen, linear_frozen_dx};
pub use packed::{
    PackedDw, Packing, RowsOf, linear_dw_packed, linear_dx_packed, linear_packed, pack_rows, pack_weights,
    packed_len,
};

pub use symmetric::{gram_of_columns, gram_of_rows};

use crate::isa::Vectors;
use crate::{Cpu, Precision, Store};

/// `y = x wᵀ`, with `x` (T, `k`), `w` (N, `k`) and `y` (T, N).
///
/// # Panics
/// If the lengths do not fit.
pub fn linear(cpu: &Cpu, x: &[f32], w: &[f32], k: usize, y: &mut [f32]) {
    let Dims { t, n } = dims(x, w, y, k);
    let a = View { data: x, row: k, col: 1 };
    let b = View { data: w, row: 1, col: k };
    product(cpu, [t, n, k], a, b, ViewMut { data: y, row: n }, Store::Set, Extent::Whole);
}

/// `dx = dy w` or `dx += dy w`, with `dy` (T, N), `w` (N, `k`) and `dx` (T, `k`).
///
/// # Panics
/// If the lengths do not fit.
pub fn linear_dx(cpu: &Cpu, dy: &[f32], w: &[f32], k: usize, dx: &mut [f32], store: Store) {
    let Dims { t, n } = dims(dx, w, dy, k);
    let a = View { data: dy, row: n, col: 1 };
    let b = View { data: w, row: k, col: 1 };
    product(cpu, [t, k, n], a, b, ViewMut { data: dx, row: k }, store, Extent::Whole);
}

/// `dw += dyᵀ x`, with `dy` (T, N), `x` (T, `k`) and `dw` (N, `k`).
///
/// # Panics
/// If the lengths do not fit.
pub fn linear_dw(cpu: &Cpu, dy: &[f32], x: &[f32], k: usize, dw: &mut [f32]) {
    let Dims { t, n } = dims(x, dw, dy, k);
    let a = View { data: dy, row: 1, col: n };
    let b = View { data: x, row: k, col: 1 };
    product(cpu, [n, k, t], a, b, ViewMut { data: dw, row: k }, Store::Add, Extent::Whole);
}

struct Dims {
    t: usize,
    n: usize,
}

/// T and N from the lengths of (T, k), (N, k) and (T, N).
fn dims(x: &[f32], w: &[f32], y: &[f32], k: usize) -> Dims {
    assert!(
        k > 0 && x.len().is_multiple_of(k) && w.len().is_multiple_of(k),
        "rows of {k}: {} and {}",
        x.len(),
        w.len()
    );
    let (t, n) = (x.len() / k, w.len() / k);
    assert_eq!(y.len(), t * n, "({t}, {n}) outputs");
    Dims { t, n }
}

/// A matrix in memory: element (i, j) is `data[i * row + j * col]`; one of the strides is 1.
#[derive(Clone, Copy)]
struct View<'a> {
    data: &'a [f32],
    row: usize,
    col: usize,
}

/// Where a product goes: element (i, j) is `data[i * row + j]`. Between rows there may be what is none of its
/// business.
struct ViewMut<'a> {
    data: &'a mut [f32],
    row: usize,
}

/// What of C is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Whole,
    /// What is not above the diagonal; the rest may be left as it is.
    Lower,
}

/// `C (m, n) (+)= A (m, k) · B (k, n)`.
fn product(
    cpu: &Cpu,
    [m, n, k]: [usize; 3],
    a: View<'_>,
    b: View<'_>,
    mut c: ViewMut<'_>,
    store: Store,
    extent: Extent,
) {
    match (cpu.isa().vectors(), cpu.precision()) {
        #[cfg(target_arch = "x86_64")]
        (Vectors::Avx512, Precision::Bf16) => {
            blocked::product::<bf16::Avx512Bf16>(cpu, [m, n, k], a, b, c, store, extent);
        }
        #[cfg(target_arch = "x86_64")]
        (Vectors::Avx512, Precision::F32) => {
            blocked::product::<x86::Avx512>(cpu, [m, n, k], a, b, c, store, extent);
        }
        #[cfg(target_arch = "x86_64")]
        (Vectors::Avx2, Precision::F32) => {
            blocked::product::<x86::Avx2>(cpu, [m, n, k], a, b, c, store, extent);
        }
        #[cfg(target_arch = "aarch64")]
        (Vectors::Neon, Precision::F32) => {
            blocked::product::<neon::Neon>(cpu, [m, n, k], a, b, c, store, extent)
        }
        (Vectors::Scalar, Precision::F32) => by_definition([m, n, k], a, b, &mut c, store),
        (_, Precision::Bf16) => unreachable!("Cpu refuses bf16 with {} on this machine", cpu.isa()),
    }
}

/// The specification: each element of C is one sum in the order of k.
fn by_definition([m, n, k]: [usize; 3], a: View<'_>, b: View<'_>, c: &mut ViewMut<'_>, store: Store) {
    for i in 0..m {
        for j in 0..n {
            let mut sum = 0.0;
            for p in 0..k {
                sum += a.data[i * a.row + p * a.col] * b.data[p * b.row + j * b.col];
            }
            match store {
                Store::Set => c.data[i * c.row + j] = sum,
                Store::Add => c.data[i * c.row + j] += sum,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::values;

    struct Case {
        t: usize,
        k: usize,
        n: usize,
    }

    /// Every edge of a tile: one less, equal, one more; nothing; a single element; several blocks of the
    /// shared index.
    const CASES: &[Case] = &[
        Case { t: 0, k: 3, n: 5 },
        Case { t: 1, k: 1, n: 1 },
        Case { t: 3, k: 7, n: 1 },
        Case { t: 3, k: 1, n: 7 },
        Case { t: 5, k: 7, n: 3 },
        Case { t: 13, k: 16, n: 15 },
        Case { t: 14, k: 31, n: 16 },
        Case { t: 15, k: 33, n: 17 },
        Case { t: 29, k: 65, n: 49 },
        Case { t: 100, k: 128, n: 65 },
        Case { t: 37, k: 600, n: 96 },
        Case { t: 1500, k: 40, n: 33 },
    ];

    /// f64 sums, and the bound on a sum of k products in f32: k·ε times the sum of their magnitudes.
    fn exact(
        rows: usize,
        cols: usize,
        k: usize,
        term: impl Fn(usize, usize, usize) -> f64,
    ) -> Vec<(f64, f64)> {
        let mut out = Vec::new();
        for i in 0..rows {
            for j in 0..cols {
                let (mut sum, mut magnitude) = (0.0, 0.0);
                for p in 0..k {
                    sum += term(i, j, p);
                    magnitude += term(i, j, p).abs();
                }
                out.push((sum, magnitude * (k + 2) as f64 * f64::from(f32::EPSILON)));
            }
        }
        out
    }

    fn check(what: &str, got: &[f32], want: &[(f64, f64)], before: f32) {
        assert_eq!(got.len(), want.len());
        for (index, (&got, &(sum, bound))) in got.iter().zip(want).enumerate() {
            let (want, bound) = (sum + f64::from(before), bound + 1e-6);
            assert!(
                (f64::from(got) - want).abs() <= bound,
                "{what}[{index}] is {got}, not {want} ± {bound:e}"
            );
        }
    }

    #[test]
    fn every_tier_computes_all_three_products() {
        for &Case { t, k, n } in CASES {
            let (x, w, dy) = (values(1, t * k, 1.0), values(2, n * k, 1.0), values(3, t * n, 1.0));
            let at = |s: &[f32], i: usize| f64::from(s[i]);
            let y_want = exact(t, n, k, |i, j, p| at(&x, i * k + p) * at(&w, j * k + p));
            let dx_want = exact(t, k, n, |i, j, p| at(&dy, i * n + p) * at(&w, p * k + j));
            let dw_want = exact(n, k, t, |i, j, p| at(&dy, p * n + i) * at(&x, p * k + j));
            for isa in Isa::available() {
                let cpu = Cpu::new(isa, 2);
                let name = |what: &str| format!("{isa} {what} t={t} k={k} n={n}");
                let (mut y, mut dx, mut dw) =
                    (vec![f32::NAN; t * n], vec![f32::NAN; t * k], vec![0.5; n * k]);
                linear(&cpu, &x, &w, k, &mut y);
                check(&name("y"), &y, &y_want, 0.0);
                linear_dx(&cpu, &dy, &w, k, &mut dx, Store::Set);
                check(&name("dx set"), &dx, &dx_want, 0.0);
                dx.fill(2.0);
                linear_dx(&cpu, &dy, &w, k, &mut dx, Store::Add);
                check(&name("dx add"), &dx, &dx_want, 2.0);
                linear_dw(&cpu, &dy, &x, k, &mut dw);
                check(&name("dw"), &dw, &dw_want, 0.5);
            }
        }
    }

    /// To bf16 and back, to nearest, ties to even; the specification of what `Precision::Bf16` does to an
    /// operand.
    fn rounded(values: &[f32]) -> Vec<f32> {
        values.iter().map(|&value| half::bf16::from_f32(value).to_f32()).collect()
    }

    #[test]
    fn bf16_is_the_product_of_rounded_operands() {
        for isa in Isa::available().into_iter().filter(|&isa| Precision::Bf16.is_supported(isa)) {
            let cpu = Cpu::new(isa, 2).with_precision(Precision::Bf16);
            for &Case { t, k, n } in CASES {
                let (x, w, dy) = (values(1, t * k, 1.0), values(2, n * k, 1.0), values(3, t * n, 1.0));
                let (x16, w16, dy16) = (rounded(&x), rounded(&w), rounded(&dy));
                let at = |s: &[f32], i: usize| f64::from(s[i]);
                let name = |what: &str| format!("bf16 {what} t={t} k={k} n={n}");
                let (mut y, mut dx, mut dw) = (vec![f32::NAN; t * n], vec![0.25; t * k], vec![0.5; n * k]);
                linear(&cpu, &x, &w, k, &mut y);
                check(
                    &name("y"),
                    &y,
                    &exact(t, n, k, |i, j, p| at(&x16, i * k + p) * at(&w16, j * k + p)),
                    0.0,
                );
                linear_dx(&cpu, &dy, &w, k, &mut dx, Store::Add);
                check(
                    &name("dx"),
                    &dx,
                    &exact(t, k, n, |i, j, p| at(&dy16, i * n + p) * at(&w16, p * k + j)),
                    0.25,
                );
                linear_dw(&cpu, &dy, &x, k, &mut dw);
                check(
                    &name("dw"),
                    &dw,
                    &exact(n, k, t, |i, j, p| at(&dy16, p * n + i) * at(&x16, p * k + j)),
                    0.5,
                );
            }
        }
    }

    #[test]
    fn results_do_not_depend_on_threads_or_on_the_number_of_rows() {
        let (t, k, n) = (101, 130, 67);
        let (x, w) = (values(1, t * k, 1.0), values(2, n * k, 1.0));
        for isa in Isa::available() {
            let mut whole = vec![0.0; t * n];
            linear(&Cpu::new(isa, 1), &x, &w, k, &mut whole);
            for threads in [2, 3] {
                let mut again = vec![0.0; t * n];
                linear(&Cpu::new(isa, threads), &x, &w, k, &mut again);
                assert_eq!(whole, again, "{isa}, {threads} threads");
            }
            let mut one = vec![0.0; n];
            linear(&Cpu::new(isa, 1), &x[9 * k..10 * k], &w, k, &mut one);
            assert_eq!(whole[9 * n..10 * n], one, "{isa}, one row");
        }
    }
}
