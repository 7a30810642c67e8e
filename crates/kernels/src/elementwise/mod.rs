//! Elementwise operators: `y = f(x)`, `y = f(a, b)`, and those with a number for each channel, as three families.
//!
//! An operator is its formula and its derivative, each for one element and for a vector of them: an
//! [`Operator`]. Blocks, threads, tiers, what is set and what is added, and the tests are here, once. To add
//! one is to implement the trait, to name it in its family and to state its formula in f64 for the tests.

mod binary;
mod channelwise;
mod unary;

use std::marker::PhantomData;

pub use binary::{Binary, add, binary, binary_backward, sigmoid_mul, sigmoid_mul_backward};
pub use channelwise::{Channelwise, channelwise, channelwise_backward};
pub use unary::{Unary, relu_squared, relu_squared_backward, unary, unary_backward};

use crate::block::BLOCK;
use crate::simd::{Operation, Simd, dispatch};
use crate::{Cpu, Parts, Store};

/// An elementwise operator of `N` inputs. The scalar code is the specification.
///
/// The methods over vectors must be `#[inline(always)]`, see `simd.rs`.
trait Operator<const N: usize> {
    /// `f(x)`.
    fn scalar(x: [f32; N]) -> f32;
    /// The same for the lanes of vectors.
    fn vector<S: Simd>(s: S, x: [S::V; N]) -> S::V;

    /// `dy · ∂f/∂xᵢ` for each of the inputs.
    fn scalar_backward(x: [f32; N], dy: f32) -> [f32; N];
    /// The same for the lanes of vectors.
    fn vector_backward<S: Simd>(s: S, x: [S::V; N], dy: S::V) -> [S::V; N];
}

/// Declares a family: an enum of operators of `$n` inputs, each of which is a type of the same name.
macro_rules! family {
    ($(#[$doc:meta])* $family:ident, $n:literal, [$($(#[$of:meta])* $name:ident,)*]) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $family {
            $($(#[$of])* $name),*
        }

        $(struct $name;)*

        impl $family {
            /// Every operator of the family.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The operator's name, as it is written here.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name)),*
                }
            }

            fn forward(self, cpu: &Cpu, x: [&[f32]; $n], y: &mut [f32]) {
                match self {
                    $(Self::$name => forward::<$name, $n>(cpu, x, y)),*
                }
            }

            fn backward(self, cpu: &Cpu, x: [&[f32]; $n], dy: &[f32], dx: [(&mut [f32], Store); $n]) {
                match self {
                    $(Self::$name => backward::<$name, $n>(cpu, x, dy, dx)),*
                }
            }
        }
    };
}

use family;

/// `y = f(x)`.
fn forward<O: Operator<N>, const N: usize>(cpu: &Cpu, x: [&[f32]; N], y: &mut [f32]) {
    let len = y.len();
    for x in x {
        assert_eq!(x.len(), len);
    }
    let y = Parts::new(y);
    cpu.run_blocks(len, BLOCK, |range| {
        // SAFETY: blocks do not overlap.
        let y = unsafe { y.part(range.clone()) };
        dispatch(cpu.isa(), Forward::<O, N> { x: x.map(|x| &x[range.clone()]), y, operator: PhantomData });
    });
}

/// `dxᵢ = dy · ∂f/∂xᵢ`, each set or added.
fn backward<O: Operator<N>, const N: usize>(
    cpu: &Cpu,
    x: [&[f32]; N],
    dy: &[f32],
    dx: [(&mut [f32], Store); N],
) {
    let len = dy.len();
    for len_of_input in x.iter().map(|x| x.len()).chain(dx.iter().map(|(dx, _)| dx.len())) {
        assert_eq!(len_of_input, len);
    }
    let dx = dx.map(|(dx, store)| (Parts::new(dx), store));
    cpu.run_blocks(len, BLOCK, |range| {
        // SAFETY: blocks do not overlap.
        let dx = dx.map(|(dx, store)| (unsafe { dx.part(range.clone()) }, store));
        let (x, dy) = (x.map(|x| &x[range.clone()]), &dy[range]);
        dispatch(cpu.isa(), Backward::<O, N> { x, dy, dx, operator: PhantomData });
    });
}

struct Forward<'a, O, const N: usize> {
    x: [&'a [f32]; N],
    y: &'a mut [f32],
    operator: PhantomData<O>,
}

impl<O: Operator<N>, const N: usize> Operation for Forward<'_, O, N> {
    type Output = ();

    fn scalar(self) {
        for i in 0..self.y.len() {
            self.y[i] = O::scalar(self.x.map(|x| x[i]));
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // The lengths are equal; told so, the compiler checks one.
        let x = self.x.map(|x| &x[..self.y.len()]);
        for i in (0..self.y.len()).step_by(S::LANES) {
            let y = O::vector(s, load(s, x, i));
            s.store(&mut self.y[i..], y);
        }
    }
}

struct Backward<'a, O, const N: usize> {
    x: [&'a [f32]; N],
    dy: &'a [f32],
    dx: [(&'a mut [f32], Store); N],
    operator: PhantomData<O>,
}

impl<O: Operator<N>, const N: usize> Operation for Backward<'_, O, N> {
    type Output = ();

    fn scalar(mut self) {
        for i in 0..self.dy.len() {
            let results = O::scalar_backward(self.x.map(|x| x[i]), self.dy[i]);
            for ((dx, store), result) in self.dx.iter_mut().zip(results) {
                store.put(&mut dx[i], result);
            }
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let len = self.dy.len();
        let x = self.x.map(|x| &x[..len]);
        let mut dx = self.dx.map(|(dx, store)| (&mut dx[..len], store));
        for i in (0..len).step_by(S::LANES) {
            let results = O::vector_backward(s, load(s, x, i), s.load(&self.dy[i..]));
            for ((dx, store), result) in dx.iter_mut().zip(results) {
                s.put(*store, &mut dx[i..], result);
            }
        }
    }
}

/// The elements of each input from `i` on.
#[inline(always)]
fn load<S: Simd, const N: usize>(s: S, x: [&[f32]; N], i: usize) -> [S::V; N] {
    let mut vectors = [s.zero(); N];
    for (vector, x) in vectors.iter_mut().zip(x) {
        *vector = s.load(&x[i..]);
    }
    vectors
}

#[cfg(test)]
mod tests;
