//! Every operator of both families, against scalar code, its formula in f64 and central differences.

use super::*;
use crate::Isa;
use crate::testing::{assert_close, assert_gradient, dot, every_tier, f64s, set_and_add, shapes, values};

/// The formulas.
fn exact_unary(f: Unary, x: f64) -> f64 {
    match f {
        Unary::ReluSquared => x.max(0.0).powi(2),
        Unary::Tanh => x.tanh(),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Silu => x / (1.0 + (-x).exp()),
    }
}

fn exact_binary(f: Binary, a: f64, b: f64) -> f64 {
    match f {
        Binary::Add => a + b,
        Binary::Mul => a * b,
        Binary::SigmoidMul => b / (1.0 + (-a).exp()),
    }
}

/// An operator of either family.
#[derive(Clone, Copy, Debug)]
enum Any {
    Unary(Unary),
    Binary(Binary),
}

impl Any {
    fn all() -> impl Iterator<Item = Self> {
        let unary = Unary::ALL.iter().map(|&f| Self::Unary(f));
        unary.chain(Binary::ALL.iter().map(|&f| Self::Binary(f)))
    }

    /// What tiers may differ by: nothing, unless there is an exponential, or a product and a sum that some
    /// round once.
    fn tolerance(self) -> f32 {
        match self {
            Self::Unary(Unary::ReluSquared) | Self::Binary(Binary::Add | Binary::Mul) => 0.0,
            // x·(1 − σ(x)), where σ is near 1, is good to x units in the last place of 1, here 30.
            Self::Unary(Unary::Silu) => 4e-6,
            _ => 1e-6,
        }
    }

    fn exact(self, a: &[f64], b: &[f64]) -> Vec<f64> {
        let f = |(&a, &b): (&f64, &f64)| match self {
            Self::Unary(f) => exact_unary(f, a),
            Self::Binary(f) => exact_binary(f, a, b),
        };
        a.iter().zip(b).map(f).collect()
    }

    /// y, da, db (zeros if there is one input).
    fn run(self, cpu: &Cpu, a: &[f32], b: &[f32], dy: &[f32]) -> Vec<Vec<f32>> {
        let len = a.len();
        let mut y = vec![f32::NAN; len];
        let rest = || vec![0.0; len];
        let (da, db) = match self {
            Self::Unary(f) => {
                unary(cpu, f, a, &mut y);
                (set_and_add(len, |da, store| unary_backward(cpu, f, a, dy, da, store)), rest())
            }
            Self::Binary(f) => {
                binary(cpu, f, a, b, &mut y);
                let backward = |da: &mut [f32], da_store, db: &mut [f32], db_store| {
                    binary_backward(cpu, f, a, b, dy, da, da_store, db, db_store);
                };
                (
                    set_and_add(len, |da, store| backward(da, store, &mut rest(), Store::Set)),
                    set_and_add(len, |db, store| backward(&mut rest(), Store::Add, db, store)),
                )
            }
        };
        vec![y, da, db]
    }
}

#[test]
fn every_tier_and_thread_count_agrees() {
    for f in Any::all() {
        for (rows, width) in shapes() {
            let [a, b, dy] = [(1, 30.0), (2, 1.0), (3, 1.0)].map(|(s, scale)| values(s, rows * width, scale));
            let got = every_tier(&format!("{f:?}"), f.tolerance(), |cpu| f.run(cpu, &a, &b, &dy));
            assert_close(&format!("{f:?}"), 1e-6, &got[0], &f.exact(&f64s(&a), &f64s(&b)));
        }
    }
}

#[test]
fn the_backward_is_the_derivative() {
    for f in Any::all() {
        let [a, b, dy] = [(1, 5.0), (2, 2.0), (3, 1.0)].map(|(seed, scale)| values(seed, 37, scale));
        let got = every_tier(&format!("{f:?}"), f.tolerance(), |cpu| f.run(cpu, &a, &b, &dy));
        assert_gradient(&format!("{f:?} da"), &a, &got[1], |a| dot(&f.exact(a, &f64s(&b)), &dy));
        assert_gradient(&format!("{f:?} db"), &b, &got[2], |b| dot(&f.exact(&f64s(&a), b), &dy));
    }
}

#[test]
fn a_nan_stays_one_and_large_inputs_do_not_make_any() {
    for f in Any::all() {
        for isa in Isa::available() {
            let cpu = Cpu::new(isa, 1);
            for large in [-1e4, 1e4] {
                let got = f.run(&cpu, &[large; 3], &[1.0; 3], &[1.0; 3]);
                assert!(got.iter().flatten().all(|x| x.is_finite()), "{f:?}, {isa}, {large}: {got:?}");
            }
            let y = |a: [f32; 3], b: [f32; 3]| {
                let mut y = [0.0; 3];
                match f {
                    Any::Unary(f) => unary(&cpu, f, &a, &mut y),
                    Any::Binary(f) => binary(&cpu, f, &a, &b, &mut y),
                }
                y.map(f32::is_nan)
            };
            assert_eq!(y([f32::NAN, -1.0, 3.0], [1.0; 3]), [true, false, false], "{f:?}, {isa}");
            if matches!(f, Any::Binary(_)) {
                assert_eq!(y([1.0; 3], [1.0, f32::NAN, 3.0]), [false, true, false], "{f:?}, {isa}");
            }
        }
    }
}

/// An infinity has a finite result by most formulas.
#[test]
fn an_infinite_input_shows() {
    for f in Any::all() {
        for isa in Isa::available() {
            for (bad, at) in
                [f32::INFINITY, f32::NEG_INFINITY].into_iter().flat_map(|bad| [(bad, 0), (bad, 18)])
            {
                let (mut a, b) = ([1.0; 19], [1.0; 19]);
                a[at] = bad;
                let mut results = vec![[0.0; 19]; 2];
                match f {
                    Any::Unary(f) => {
                        unary(&Cpu::new(isa, 1), f, &a, &mut results[0]);
                        results.pop();
                    }
                    Any::Binary(f) => {
                        binary(&Cpu::new(isa, 1), f, &a, &b, &mut results[0]);
                        binary(&Cpu::new(isa, 1), f, &b, &a, &mut results[1]);
                    }
                }
                for y in results {
                    let shows: Vec<_> = (0..19).filter(|&i| !y[i].is_finite()).collect();
                    assert_eq!(shows, [at], "{f:?}, {isa}, {bad}: {y:?}");
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "left == right")]
fn lengths_that_disagree_are_refused() {
    binary(&Cpu::new(Isa::Scalar, 1), Binary::Mul, &[1.0; 2], &[1.0; 3], &mut [0.0; 3]);
}
