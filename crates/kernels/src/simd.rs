//! An operation written once, run with the instructions of any tier.
//!
//! An [`Operation`] is the inner part of a kernel: what one thread does on one block. It has two bodies.
//! `scalar` is plain loops over `f32`, the specification. `run` is the same over the trait [`Simd`], a vector
//! of floats whose width it does not know; [`dispatch`] compiles one copy of it for each tier and picks one
//! at run time. (The design of Highway, <https://github.com/google/highway>, and of the `rten-simd` crate.)
//!
//! A value of a type that implements [`Simd`] is a *token*: there is one only where the CPU has the
//! instructions, so its methods are safe to call. A new tier is one more file with one more token.
//!
//! Two rules for `run`:
//! - It, and every function it calls with vectors, is `#[inline(always)]`, and there are no closures over
//!   vectors: a function that is not inlined into the tier's entry point is compiled without the tier's
//!   instructions.
//! - The rest of a row, less than a vector, is loaded and stored in part, and goes through the same
//!   arithmetic. So a channel's result does not depend on where in a vector it falls, nor on how a width is
//!   cut into tiles.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;

use crate::isa::Vectors;
use crate::{Isa, Store};

/// The inner part of a kernel: what one thread does on one block.
pub(crate) trait Operation {
    /// What the operation returns.
    type Output;

    /// The specification: plain loops.
    fn scalar(self) -> Self::Output;

    /// The same with vectors. Must be `#[inline(always)]`.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Runs `operation` with the instructions of `isa`.
pub(crate) fn dispatch<O: Operation>(isa: Isa, operation: O) -> O::Output {
    match isa.vectors() {
        Vectors::Scalar => operation.scalar(),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` in use is one that this CPU has: `Cpu::new` refuses others.
        Vectors::Avx2 => unsafe { avx2::run(operation) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Vectors::Avx512 => unsafe { avx512::run(operation) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Vectors::Neon => unsafe { neon::run(operation) },
    }
}

/// Vectors of `f32` and what can be done with them.
pub(crate) trait Simd: Copy {
    /// [`LANES`](Self::LANES) floats.
    type V: Copy;
    /// A truth value for each lane.
    type Mask: Copy;
    /// Floats in a vector, at most 16.
    const LANES: usize;
    /// Vectors that the registers hold.
    const REGISTERS: usize;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::V;
    /// The first `LANES` elements of `from`; where it has fewer, the lanes of `absent` for the rest.
    fn load_or(self, from: &[f32], absent: Self::V) -> Self::V;
    /// The first `LANES` elements of `from`; where it has fewer, zeros for the rest.
    fn load(self, from: &[f32]) -> Self::V;
    /// Writes the first `LANES` elements of `into`, or all where it has fewer.
    fn store(self, into: &mut [f32], x: Self::V);

    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a − b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, rounded once.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c − a · b`, rounded once.
    fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `√x`.
    fn sqrt(self, x: Self::V) -> Self::V;
    /// `−|x|`.
    fn neg_abs(self, x: Self::V) -> Self::V;
    /// The nearest integer, ties to even.
    fn round(self, x: Self::V) -> Self::V;
    /// `x · 2ⁿ`, rounded once, for integers n from −252 to 254.
    fn scale(self, x: Self::V, n: Self::V) -> Self::V;

    /// The greater; `b` if either is a NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` if either is a NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a ≥ b`; false if either is a NaN.
    fn ge(self, a: Self::V, b: Self::V) -> Self::Mask;
    /// `a` where the mask is set, `b` elsewhere.
    fn select(self, mask: Self::Mask, a: Self::V, b: Self::V) -> Self::V;

    /// The sum of the lanes: halves are added until one is left.
    fn sum(self, x: Self::V) -> f32;
    /// The greatest lane.
    fn max_lane(self, x: Self::V) -> f32;
    /// The sums of the lanes of four vectors, for each of `N` fours: in one order, whatever `N` is.
    fn sum_fours<const N: usize>(self, fours: [[Self::V; 4]; N]) -> [[f32; 4]; N];

    /// Each float rounded to half precision, to the nearest, ties to even; what is too large becomes
    /// infinite.
    fn round_to_half(self, x: Self::V) -> Self::V;

    /// As [`load`](Self::load), for inner loops that have checked their bounds, at any alignment.
    ///
    /// # Safety
    /// `LANES` floats can be read.
    unsafe fn load_at(self, from: *const f32) -> Self::V;
    /// The same of halves, made floats.
    ///
    /// # Safety
    /// `LANES` halves can be read.
    unsafe fn load_halves_at(self, from: *const u16) -> Self::V;
    /// The same of bf16 numbers, the upper halves of floats.
    ///
    /// # Safety
    /// `LANES` of them can be read.
    unsafe fn load_bf16_at(self, from: *const u16) -> Self::V;
    /// As [`store`](Self::store), for inner loops that have checked their bounds, at any alignment.
    ///
    /// # Safety
    /// `LANES` floats can be written.
    unsafe fn store_at(self, into: *mut f32, x: Self::V);

    /// Zero in every lane.
    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }

    /// Sets or adds `x` to the first `LANES` elements of `into`, or all where it has fewer.
    #[inline(always)]
    fn put(self, store: Store, into: &mut [f32], x: Self::V) {
        let x = match store {
            Store::Set => x,
            Store::Add => self.add(self.load(into), x),
        };
        self.store(into, x);
    }
}
