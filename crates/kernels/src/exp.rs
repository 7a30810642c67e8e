//! The exponential, the logistic function and the hyperbolic tangent of a vector.
//!
//! `exp(x) = 2ⁿ·exp(r)` with `n = round(x/ln 2)` and `r = x − n·ln 2` in ±0.347; `exp(r)` is the polynomial
//! `1 + r + r²·c(r)` of degree 6 with the least greatest relative error, 3.1e-9, found by Remez' algorithm.
//! (The method of the Cephes library, <https://www.netlib.org/cephes/>.) ln 2 is subtracted in two parts
//! (Cody and Waite), so that r is exact to a few bits beyond a float's.
//!
//! The result is within 0.9 units in the last place of the true value over the whole range, subnormal results
//! included; the tests say so. It is 0 below −104, infinite above 88.73, and a NaN for a NaN.

use crate::simd::Simd;

const LN_2_HIGH: f32 = std::f32::consts::LN_2;
/// ln 2 − LN_2_HIGH.
const LN_2_LOW: f32 = -1.904_654_3e-9;

/// Beyond these the result is 0 or infinite, and n is still an exponent that [`Simd::scale`] takes.
const LOWEST: f32 = -105.0;
const HIGHEST: f32 = 90.0;

/// `exp(x)`.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // In this order of arguments a NaN stays one.
    exp_nonpositive(s, s.min(s.splat(HIGHEST), x))
}

/// `exp(x)` for x ≤ 0, one instruction shorter; correct up to x = 90.
#[inline(always)]
pub(crate) fn exp_nonpositive<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.max(s.splat(LOWEST), x);
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.neg_mul_add(n, s.splat(LN_2_HIGH), x);
    let r = s.neg_mul_add(n, s.splat(LN_2_LOW), r);
    let mut p = s.splat(0.001_381_454);
    for c in [0.008_368_745, 0.041_668_39, 0.166_665_21, 0.499_999_94, 1.0, 1.0] {
        p = s.mul_add(p, r, s.splat(c));
    }
    s.scale(p, n)
}

/// `σ(x) = 1/(1 + exp(−x))`, within 2.5 units in the last place where that is a normal float, 0 below −88.73.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.zero(), x))))
}

/// Below this `tanh` is a polynomial.
const SMALL: f32 = 0.625;

/// `tanh x`, within 2.5 units in the last place where that is a normal float.
///
/// With `e = exp(−2|x|)`, `(1 − e)/(1 + e)` and the sign of x; where |x| is small and that cancels,
/// `x + x³·p(x²)` with the polynomial of the Cephes library.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let (zero, one, down) = (s.zero(), s.splat(1.0), s.neg_abs(x));
    let e = exp_nonpositive(s, s.add(down, down));
    let large = s.div(s.sub(one, e), s.add(one, e));
    let large = s.select(s.ge(zero, x), s.sub(zero, large), large);
    let square = s.mul(x, x);
    let mut p = s.splat(-5.704_988_7e-3);
    for c in [2.063_908_8e-2, -5.373_971_5e-2, 0.133_314_42, -0.333_332_8] {
        p = s.mul_add(p, square, s.splat(c));
    }
    let small = s.mul_add(s.mul(p, square), x, x);
    s.select(s.ge(down, s.splat(-SMALL)), small, large)
}

/// `exp(x)` of one number, in plain Rust: every system's C library has another `expf`, and the scalar tier is
/// to give the same bits on all of them. With doubles, so that only the last rounding counts: within 0.501
/// units in the last place.
#[inline]
pub(crate) fn scalar_exp(x: f32) -> f32 {
    double_exp(f64::from(x)) as f32
}

/// `tanh x` of one number, likewise.
#[inline]
pub(crate) fn scalar_tanh(x: f32) -> f32 {
    let wide = f64::from(x);
    let square = wide * wide;
    if x.abs() < 0.02 {
        // Where 1 − e cancels. The next term is below 4e-12 of the sum.
        return (wide + wide * square * (-1.0 / 3.0 + square * (2.0 / 15.0))) as f32;
    }
    let e = double_exp(-2.0 * wide.abs());
    ((1.0 - e) / (1.0 + e)).copysign(wide) as f32
}

/// `exp(x)` within 1e-11 of itself, in the range where a float is neither 0 nor infinite; beyond, what
/// becomes one of those.
#[inline]
fn double_exp(x: f64) -> f64 {
    use std::f64::consts::{LN_2, LOG2_E};
    /// Added and taken away, it leaves the nearest integer: doubles of this size have no fraction.
    const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5·2⁵²
    let x = x.clamp(-110.0, 100.0); // a NaN stays one
    let n = (x * LOG2_E + ROUND) - ROUND;
    let r = x - n * LN_2;
    // Taylor's series: r is in ±0.347, and r¹⁰/10! below 7e-12.
    let mut p = 1.0 / 362_880.0;
    for c in [1.0 / 40_320.0, 1.0 / 5_040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    p * f64::from_bits(((n as i64 + 1023) << 52).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::simd::{Operation, dispatch};

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Function {
        Exp,
        Sigmoid,
        Tanh,
    }
    use Function::{Exp, Sigmoid, Tanh};

    struct Map<'a> {
        function: Function,
        x: &'a [f32],
        y: &'a mut [f32],
    }

    impl Operation for Map<'_> {
        type Output = ();

        fn scalar(self) {
            for (x, y) in self.x.iter().zip(self.y) {
                *y = match self.function {
                    Exp => scalar_exp(*x),
                    Sigmoid => 1.0 / (1.0 + scalar_exp(-x)),
                    Tanh => scalar_tanh(*x),
                }
            }
        }

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for i in (0..self.x.len()).step_by(S::LANES) {
                let x = s.load(&self.x[i..]);
                let y = match self.function {
                    Exp => exp(s, x),
                    Sigmoid => sigmoid(s, x),
                    Tanh => tanh(s, x),
                };
                s.store(&mut self.y[i..], y);
            }
        }
    }

    fn map(isa: Isa, function: Function, x: &[f32]) -> Vec<f32> {
        let mut y = vec![f32::NAN; x.len()];
        dispatch(isa, Map { function, x, y: &mut y });
        y
    }

    /// The distance between neighbouring floats at `x`.
    fn unit(x: f64) -> f64 {
        let exponent = x.abs().log2().floor().clamp(-126.0, 127.0);
        (exponent - 23.0).exp2()
    }

    /// Every 499th float between −104 and 88.72, of both signs.
    fn inputs() -> Vec<f32> {
        let positive = (0..88.72_f32.to_bits()).step_by(499).map(f32::from_bits);
        let negative = ((-0.0_f32).to_bits()..(-104.0_f32).to_bits()).step_by(499).map(f32::from_bits);
        positive.chain(negative).collect()
    }

    #[test]
    fn errors_are_within_the_stated_units_in_the_last_place() {
        let x = inputs();
        for (function, bound) in [(Exp, 0.9), (Sigmoid, 2.5), (Tanh, 2.5)] {
            let exact = |x: f64| match function {
                Exp => x.exp(),
                Sigmoid => 1.0 / (1.0 + (-x).exp()),
                Tanh => x.tanh(),
            };
            // Where the result is a normal float.
            let is_normal = |x: f32| match function {
                Exp => true,
                Sigmoid => x >= -87.0,
                Tanh => x.is_normal(),
            };
            let x: Vec<_> = x.iter().copied().filter(|&x| is_normal(x)).collect();
            let want: Vec<_> = x.iter().map(|&x| exact(f64::from(x))).map(|y| (y, unit(y))).collect();
            for isa in Isa::available() {
                let errors = map(isa, function, &x).into_iter().zip(&want);
                let errors = errors.map(|(y, (want, unit))| (f64::from(y) - want).abs() / unit);
                let (worst, at) = errors
                    .zip(&x)
                    .fold((0.0, 0.0), |worst, (error, &x)| if error > worst.0 { (error, x) } else { worst });
                assert!(worst <= bound, "{isa}, {function:?}: {worst} units at {at}");
            }
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        let x = [f32::NEG_INFINITY, -1e30, -104.0, -0.0, 0.0, 88.9, 1e30, f32::INFINITY];
        let e = [0.0, 0.0, 0.0, 1.0, 1.0, f32::INFINITY, f32::INFINITY, f32::INFINITY];
        let s = [0.0, 0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.0];
        let t = [-1.0, -1.0, -1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
        for isa in Isa::available() {
            assert_eq!(map(isa, Exp, &x), e, "{isa}");
            assert_eq!(map(isa, Tanh, &x), t, "{isa}");
            assert_eq!(map(isa, Sigmoid, &x)[3..], s[3..], "{isa}");
            assert!(map(isa, Sigmoid, &x)[..3].iter().all(|&s| (0.0..1e-44).contains(&s)), "{isa}");
            for function in [Exp, Sigmoid, Tanh] {
                let y = map(isa, function, &[f32::NAN, -f32::NAN, 1.0]);
                assert!(y[0].is_nan() && y[1].is_nan() && !y[2].is_nan(), "{isa}");
            }
        }
    }

    #[test]
    fn a_lane_does_not_depend_on_its_place() {
        let x: Vec<f32> = (0..67).map(|i| i as f32 * 1.7 - 60.0).collect();
        for isa in Isa::available() {
            let whole = map(isa, Exp, &x);
            for start in 0..x.len() {
                assert_eq!(map(isa, Exp, &x[start..]), whole[start..], "{isa}");
            }
        }
    }
}
