//! Operators of one to three inputs and a vector with a number p for each channel.

use std::marker::PhantomData;

use super::unary::{finite_sigmoid, finite_vector_sigmoid, sigmoid};
use crate::block::{elements, rows, rows_per_block, sum_rows};
use crate::exp;
use crate::simd::{Operation, Simd, dispatch};
use crate::{Cpu, Parts, Store};

/// The most inputs of such an operator.
pub(super) const MOST: usize = 3;

/// An operator of `INPUTS` inputs x and a number p for each channel. Inputs beyond those repeat the first; what is
/// said to be their derivative is not used. The scalar code is the specification.
trait Operator {
    const INPUTS: usize;

    /// `f(x, p)`.
    fn scalar(x: [f32; MOST], p: f32) -> f32;
    /// The same for the lanes of vectors.
    fn vector<S: Simd>(s: S, x: [S::V; MOST], p: S::V) -> S::V;

    /// `dy · ∂f/∂xᵢ` for each of the inputs, and `dy · ∂f/∂p`.
    fn scalar_backward(x: [f32; MOST], p: f32, dy: f32) -> ([f32; MOST], f32);
    /// The same for the lanes of vectors.
    fn vector_backward<S: Simd>(s: S, x: [S::V; MOST], p: S::V, dy: S::V) -> ([S::V; MOST], S::V);
}

macro_rules! family {
    ($($(#[$of:meta])* $name:ident,)*) => {
        /// An elementwise operator of one to three inputs a, b, c and a number p for each channel; see
        /// [`channelwise`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Channelwise {
            $($(#[$of])* $name),*
        }

        $(struct $name;)*

        impl Channelwise {
            /// Every operator of the family.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The operator's name, as it is written here.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name)),*
                }
            }

            /// Number of inputs beside p.
            pub const fn inputs(self) -> usize {
                match self {
                    $(Self::$name => <$name as Operator>::INPUTS),*
                }
            }

            fn forward(self, cpu: &Cpu, x: [&[f32]; MOST], p: &[f32], y: &mut [f32]) {
                match self {
                    $(Self::$name => forward::<$name>(cpu, x, p, y)),*
                }
            }

            fn backward(
                self,
                cpu: &Cpu,
                x: [&[f32]; MOST],
                p: &[f32],
                dy: &[f32],
                dx: [Option<(&mut [f32], Store)>; MOST],
                dp: &mut [f32],
            ) {
                match self {
                    $(Self::$name => backward::<$name>(cpu, x, p, dy, dx, dp)),*
                }
            }
        }
    };
}

family!(
    /// `a + p`.
    Shift,
    /// `a·p`.
    Scale,
    /// `σ(a + p)`.
    SigmoidOfSum,
    /// `exp(−e^(−1/2)·σ(a + p))`: RWKV-7's decay, from 0.545 to 1.
    Decay,
    /// `a·(1 + (b − 1)·p)`: a, of which a part p goes through the gate b.
    PartlyGated,
    /// `a + (b − a)·σ(c + p)`: from a towards b.
    Towards,
);

/// `y = f(x, p)`, element by element: x and y (rows, width), p (width).
///
/// # Panics
/// If the lengths disagree, or the operator has another number of inputs.
pub fn channelwise<const N: usize>(cpu: &Cpu, f: Channelwise, x: [&[f32]; N], p: &[f32], y: &mut [f32]) {
    assert_eq!(N, f.inputs(), "inputs of {f:?}");
    f.forward(cpu, std::array::from_fn(|i| x[if i < N { i } else { 0 }]), p, y);
}

/// The gradients of [`channelwise`]: `dxᵢ = dy ⊙ ∂f/∂xᵢ`, each set or added, and `dp += Σ_rows dy ⊙ ∂f/∂p`.
///
/// # Panics
/// As [`channelwise`].
pub fn channelwise_backward<const N: usize>(
    cpu: &Cpu,
    f: Channelwise,
    x: [&[f32]; N],
    p: &[f32],
    dy: &[f32],
    dx: [(&mut [f32], Store); N],
    dp: &mut [f32],
) {
    assert_eq!(N, f.inputs(), "inputs of {f:?}");
    let mut dx = dx.into_iter();
    let dx = std::array::from_fn(|_| dx.next());
    f.backward(cpu, std::array::from_fn(|i| x[if i < N { i } else { 0 }]), p, dy, dx, dp);
}

fn forward<O: Operator>(cpu: &Cpu, x: [&[f32]; MOST], p: &[f32], y: &mut [f32]) {
    let (len, width) = (y.len(), p.len());
    for x in x {
        assert_eq!(x.len(), len);
    }
    let y = Parts::new(y);
    cpu.run_blocks(rows(len, width), rows_per_block(width), |rows| {
        let range = elements(&rows, width);
        // SAFETY: blocks of rows do not overlap.
        let y = unsafe { y.part(range.clone()) };
        dispatch(cpu.isa(), Forward::<O> { x: x.map(|x| &x[range.clone()]), p, y, operator: PhantomData });
    });
}

fn backward<O: Operator>(
    cpu: &Cpu,
    x: [&[f32]; MOST],
    p: &[f32],
    dy: &[f32],
    dx: [Option<(&mut [f32], Store)>; MOST],
    dp: &mut [f32],
) {
    let (len, width) = (dy.len(), p.len());
    for x in x {
        assert_eq!(x.len(), len);
    }
    let dx = dx.map(|dx| {
        dx.map(|(dx, store)| {
            assert_eq!(dx.len(), len);
            (Parts::new(dx), store)
        })
    });
    sum_rows(cpu, rows(len, width), width, [dp], |rows, [dp]| {
        let range = elements(&rows, width);
        // SAFETY: blocks of rows do not overlap.
        let dx = dx.map(|dx| dx.map(|(dx, store)| (unsafe { dx.part(range.clone()) }, store)));
        let (x, dy) = (x.map(|x| &x[range.clone()]), &dy[range]);
        dispatch(cpu.isa(), Backward::<O> { x, p, dy, dx, dp, operator: PhantomData });
    });
}

struct Forward<'a, O> {
    x: [&'a [f32]; MOST],
    p: &'a [f32],
    y: &'a mut [f32],
    operator: PhantomData<O>,
}

impl<O: Operator> Operation for Forward<'_, O> {
    type Output = ();

    fn scalar(self) {
        let width = self.p.len();
        for i in 0..self.y.len() {
            self.y[i] = O::scalar(self.x.map(|x| x[i]), self.p[i % width]);
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.p.len();
        for start in (0..self.y.len()).step_by(width) {
            let x = self.x.map(|x| &x[start..start + width]);
            let y = &mut self.y[start..start + width];
            for i in (0..width).step_by(S::LANES) {
                let result = O::vector(s, super::load(s, x, i), s.load(&self.p[i..]));
                s.store(&mut y[i..], result);
            }
        }
    }
}

struct Backward<'a, O> {
    x: [&'a [f32]; MOST],
    p: &'a [f32],
    dy: &'a [f32],
    dx: [Option<(&'a mut [f32], Store)>; MOST],
    dp: &'a mut [f32],
    operator: PhantomData<O>,
}

impl<O: Operator> Operation for Backward<'_, O> {
    type Output = ();

    fn scalar(mut self) {
        let width = self.p.len();
        for i in 0..self.dy.len() {
            let (dx, dp) = O::scalar_backward(self.x.map(|x| x[i]), self.p[i % width], self.dy[i]);
            for (out, dx) in self.dx.iter_mut().flatten().zip(dx) {
                out.1.put(&mut out.0[i], dx);
            }
            self.dp[i % width] += dp;
        }
    }

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let width = self.p.len();
        for start in (0..self.dy.len()).step_by(width) {
            let x = self.x.map(|x| &x[start..start + width]);
            let dy = &self.dy[start..start + width];
            for i in (0..width).step_by(S::LANES) {
                let (dx, dp) =
                    O::vector_backward(s, super::load(s, x, i), s.load(&self.p[i..]), s.load(&dy[i..]));
                for (out, dx) in self.dx.iter_mut().flatten().zip(dx) {
                    s.put(out.1, &mut out.0[start + i..start + width], dx);
                }
                s.put(Store::Add, &mut self.dp[i..], dp);
            }
        }
    }
}

// `0·x` in the forward ones is the rule of `finite.rs`, as in the other families.

impl Operator for Shift {
    const INPUTS: usize = 1;

    fn scalar([a, ..]: [f32; MOST], p: f32) -> f32 {
        a + p
    }

    #[inline(always)]
    fn vector<S: Simd>(s: S, [a, ..]: [S::V; MOST], p: S::V) -> S::V {
        s.add(a, p)
    }

    fn scalar_backward(_: [f32; MOST], _: f32, dy: f32) -> ([f32; MOST], f32) {
        ([dy; MOST], dy)
    }

    #[inline(always)]
    fn vector_backward<S: Simd>(_: S, _: [S::V; MOST], _: S::V, dy: S::V) -> ([S::V; MOST], S::V) {
        ([dy; MOST], dy)
    }
}

impl Operator for Scale {
    const INPUTS: usize = 1;

    fn scalar([a, ..]: [f32; MOST], p: f32) -> f32 {
        a * p
    }

    #[inline(always)]
    fn vector<S: Simd>(s: S, [a, ..]: [S::V; MOST], p: S::V) -> S::V {
        s.mul(a, p)
    }

    fn scalar_backward([a, ..]: [f32; MOST], p: f32, dy: f32) -> ([f32; MOST], f32) {
        ([dy * p; MOST], dy * a)
    }

    #[inline(always)]
    fn vector_backward<S: Simd>(s: S, [a, ..]: [S::V; MOST], p: S::V, dy: S::V) -> ([S::V; MOST], S::V) {
        ([s.mul(dy, p); MOST], s.mul(dy, a))
    }
}

impl Operator for SigmoidOfSum {
    const INPUTS: usize = 1;

    fn scalar([a, ..]: [f32; MOST], p: f32) -> f32 {
        finite_sigmoid(a + p)
    }

    #[inline(always)]
    fn vector<S: Simd>(s: S, [a, ..]: [S::V; MOST], p: S::V) -> S::V {
        finite_vector_sigmoid(s, s.add(a, p))
    }

    fn scalar_backward([a, ..]: [f32; MOST], p: f32, dy: f32) -> ([f32; MOST], f32) {
        let d = dy * slope(a + p);
        ([d; MOST], d)
    }

    #[inline(always)]
    fn vector_backward<S: Simd>(s: S, [a, ..]: [S::V; MOST], p: S::V, dy: S::V) -> ([S::V; MOST], S::V) {
        let d = s.mul(dy, vector_slope(s, s.add(a, p)));
        ([d; MOST], d)
    }
}

/// `−e^(−1/2)`: the logarithm of the fastest decay.
const FASTEST: f32 = -0.606_530_66;

impl Operator for Decay {
    const INPUTS: usize = 1;

    fn scalar([a, ..]: [f32; MOST], p: f32) -> f32 {
        exp::scalar_exp(FASTEST * finite_sigmoid(a + p))
    }

    #[inline(always)]
    fn vector<S: Simd>(s: S, [a, ..]: [S::V; MOST], p: S::V) -> S::V {
        exp::exp_nonpositive(s, s.mul(s.splat(FASTEST), finite_vector_sigmoid(s, s.add(a, p))))
    }

    fn scalar_backward(x: [f32; MOST], p: f32, dy: f32) -> ([f32; MOST], f32) {
        let d = dy * Self::scalar(x, p) * FASTEST * slope(x[0] + p);
        ([d; MOST], d)
    }

    #[inline(always)]
    fn vector_backward<S: Simd>(s: S, x: [S::V; MOST], p: S::V, dy: S::V) -> ([S::V; MOST], S::V) {
        let slope = s.mul(s.splat(FASTEST), vector_slope(s, s.add(x[0], p)));
        let d = s.mul(s.mul(dy, Self::vector(s, x, p)), slope);
        ([d; MOST], d)
    }
}

impl Operator for PartlyGated {
    const INPUTS: usize = 2;

    fn scalar([a, b, _]: [f32; MOST], p: f32) -> f32 {
        a * (1.0 + (b - 1.0) * p)
    }

    #[inline(always)]
    fn vector<S: Simd>(s: S, [a, b, _]: [S::V; MOST], p: S::V) -> S::V {
        let one = s.splat(1.0);
        s.mul(a, s.mul_add(s.sub(b, one), p, one))
    }

    fn scalar_backward([a, b, _]: [f32; MOST], p: f32, dy: f32) -> ([f32; MOST], f32) {
        let by_b = dy * a * p;
        ([dy * (1.0 + (b - 1.0) * p), by_b, by_b], dy * a * (b - 1.0))
    }

    #[inline(always)]
    fn vector_backward<S: Simd>(s: S, [a, b, _]: [S::V; MOST], p: S::V, dy: S::V) -> ([S::V; MOST], S::V) {
        let (one, of_a) = (s.splat(1.0), s.mul(dy, a));
        let (less, by_b) = (s.sub(b, one), s.mul(of_a, p));
        ([s.mul(dy, s.mul_add(less, p, one)), by_b, by_b], s.mul(of_a, less))
    }
}

impl Operator for Towards {
    const INPUTS: usize = 3;

    fn scalar([a, b, c]: [f32; MOST], p: f32) -> f32 {
        a + (b - a) * finite_sigmoid(c + p)
    }

    #[inline(always)]
    fn vector<S: Simd>(s: S, [a, b, c]: [S::V; MOST], p: S::V) -> S::V {
        s.mul_add(s.sub(b, a), finite_vector_sigmoid(s, s.add(c, p)), a)
    }

    fn scalar_backward([a, b, c]: [f32; MOST], p: f32, dy: f32) -> ([f32; MOST], f32) {
        let by_b = dy * sigmoid(c + p);
        let by_c = dy * (b - a) * slope(c + p);
        ([dy - by_b, by_b, by_c], by_c)
    }

    #[inline(always)]
    fn vector_backward<S: Simd>(s: S, [a, b, c]: [S::V; MOST], p: S::V, dy: S::V) -> ([S::V; MOST], S::V) {
        let z = s.add(c, p);
        let by_b = s.mul(dy, exp::sigmoid(s, z));
        let by_c = s.mul(s.mul(dy, s.sub(b, a)), vector_slope(s, z));
        ([s.sub(dy, by_b), by_b, by_c], by_c)
    }
}

/// σ′, which would cancel as `σ(1 − σ)`: `e/(1 + e)²` with `e = exp(−|x|)`.
fn slope(x: f32) -> f32 {
    let e = exp::scalar_exp(-x.abs());
    e / ((1.0 + e) * (1.0 + e))
}

/// The same of the lanes of a vector.
#[inline(always)]
fn vector_slope<S: Simd>(s: S, x: S::V) -> S::V {
    let e = exp::exp_nonpositive(s, s.neg_abs(x));
    let sum = s.add(s.splat(1.0), e);
    s.div(e, s.mul(sum, sum))
}

#[cfg(test)]
mod tests;
