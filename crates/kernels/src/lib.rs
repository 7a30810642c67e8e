//! The numerics of `rwkv`: the operators of its models, forward and backward, on CPUs.
//!
//! This crate computes on slices of numbers. It contains no models, files or gradient tapes; each function is
//! one operator, whose documentation gives the formula, the shapes and the source, with its backward beside
//! it.
//!
//! ```
//! use rwkv_kernels::{Cpu, Isa, Store, layer_norm, layer_norm_backward};
//!
//! let cpu = Cpu::new(Isa::detect(), 2);
//! let x = [1.0, 2.0, 3.0, 4.0, 40.0, 30.0, 20.0, 10.0]; // (2, 4)
//! let (weight, bias, eps) = ([1.0; 4], [0.5; 4], 1e-5); // (4)
//!
//! let mut y = [0.0; 8];
//! layer_norm(&cpu, &x, &weight, &bias, eps, &mut y);
//! // Each row has mean 0.5, its bias; the second row is the first in reverse, ten times as large.
//! assert!((y[0] + y[1] + y[2] + y[3] - 4.0 * 0.5).abs() < 1e-5);
//! assert!((y[0] - y[7]).abs() < 1e-4);
//!
//! let (dy, mut dx) = ([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0; 8]);
//! let (mut dweight, mut dbias) = ([0.0; 4], [0.0; 4]);
//! layer_norm_backward(&cpu, &x, &weight, eps, &dy, &mut dx, Store::Set, &mut dweight, &mut dbias);
//! // Moving a whole row changes nothing: its gradients cancel.
//! assert!((dx[0] + dx[1] + dx[2] + dx[3]).abs() < 1e-6);
//! assert_eq!(dbias, [1.0, 0.0, 0.0, 0.0]);
//! ```
//!
//! # Aims
//!
//! 1. **Checkable.** Scalar code, plain loops that read like the formula, is the specification of every
//!    kernel. It is tested against the formula in f64, the backwards against central differences; every
//!    faster tier is tested against it, on every machine, for every tier that the machine has.
//! 2. **Reproducible.** Results do not depend on the number of threads, and a row's result does
//!    not depend on which rows it is computed with: one token at a time, in chunks, or batched with other
//!    sequences. Tiers differ from one another in the last bits: they add in another order and round a
//!    multiply-add once.
//! 3. **Near the hardware's limit**, on one to some dozens of cores, for models from a hundred thousand
//!    parameters up.
//!
//! # Tiers
//!
//! [`Isa`] names the instruction sets: scalar, AVX2, AVX-512, NEON and others. A [`Cpu`] holds one that this
//! CPU has and a [`Team`] of threads; it is the first argument of every kernel. Elementwise kernels, norms,
//! [`wkv4`], [`wkv7`], losses and products with FP32 and FP16 weights are written once over a small trait of vectors
//! (`simd.rs`, which a tier implements with an intrinsic or a few for each method) and compiled once for each
//! tier. Training's products and those with quantized weights have an inner tile for each. A value in a
//! partly filled vector goes through the same arithmetic as in a full one, so no result depends on its
//! position.
//!
//! # The unit of work
//!
//! A loop is cut into blocks (rows, channels, or tiles of a product) by the sizes of its arrays alone, never
//! by the number of threads, and the team's threads take the blocks in turn. A block is some thousands of
//! elements, a few microseconds: ten times what scheduling it costs. A loop of one block runs on the caller's
//! thread, so decoding a token with a small model wakes no worker. Sums over rows (the gradient of a weight,
//! a loss) are taken by block and then over the blocks in order.
//!
//! # Conventions
//!
//! - Arrays are row-major f32; a tensor of shape (rows, width) has one row a token. Only [`shift`] and
//!   the attentions ([`wkv4`], [`wkv7`]) look across rows, within *segments*: ranges of rows, in ascending order, each
//!   the consecutive tokens of one sequence.
//! - `f_backward` takes the forward's inputs and the gradient `dy` of its result. Gradients of activations
//!   are set or added, as [`Store`] says; gradients of parameters are always added.
//! - Lengths that disagree, and tokens outside the vocabulary, are errors of the calling program, not of its
//!   input, and panic. Nothing else does.
//!
//! # What differs from a BLAS or a tensor library
//!
//! There are no strides, broadcasts, views or graphs: an operator is a loop over slices, fused as far as RWKV
//! needs (all token-shift mixes of a layer in one pass, the gate with its sigmoid), with a backward that
//! recomputes what is cheaper to compute than to load. A BLAS has none of the recurrences, and its sums
//! depend on the number of rows and threads; a general tensor library's scheduler is made for long loops,
//! where here a step is some hundred loops of microseconds.

// Without a vector tier of their own yet, other architectures run the scalar code alone.
#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, unused_imports, unused_macros)
)]
// Vectors must not cross a call: see simd.rs.
#![allow(clippy::inline_always)]
// Tests may ask the C library what is near the truth.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod accumulate;
mod adamw;
mod block;
mod cpu;
mod cross_entropy;
mod data_type;
mod dropout;
mod elementwise;
mod embed;
mod exp;
mod finite;
mod heads;
mod isa;
mod layer_norm;
mod lerp;
mod linear;
mod peak;
mod prefetch;
mod product;
mod quantize;
mod read;
mod shift;
mod simd;
mod store;
mod team;
#[cfg(test)]
mod testing;
mod wkv4;
mod wkv7;

pub use accumulate::accumulate;
pub use adamw::{AdamWStep, adamw, sum_of_squares};
pub use cpu::{Cpu, Parts, Precision};
pub use cross_entropy::{cross_entropy, cross_entropy_backward};
pub use data_type::{DataType, WEIGHTS_PER_BLOCK};
pub use dropout::{Mask, dropout, dropout_backward};
pub use elementwise::{
    Binary, Channelwise, Unary, add, binary, binary_backward, channelwise, channelwise_backward,
    relu_squared, relu_squared_backward, sigmoid_mul, sigmoid_mul_backward, unary, unary_backward,
};
pub use embed::{embed, embed_backward};
pub use finite::all_finite;
pub use heads::{
    BonusInputs, bonus, bonus_backward, group_norm, group_norm_backward, unit_heads, unit_heads_backward,
};
pub use isa::{Isa, IsaError};
pub use layer_norm::{layer_norm, layer_norm_backward};
pub use lerp::{lerp, lerp_backward};
pub use linear::{
    PackedDw, Packing, ROWS_OF_TASK, RowsOf, gram_of_columns, gram_of_rows, linear, linear_dw,
    linear_dw_packed, linear_dx, linear_dx_packed, linear_frozen, linear_frozen_dx, linear_packed, pack_rows,
    pack_weights, packed_len,
};
pub use peak::fma_peak;
pub use product::{Matrix, PANEL, Panels, Product, ProductScratch, Weights, product, products};
pub use quantize::{Unquantizable, quantize};
pub use read::read_sum;
pub use shift::{shift, shift_backward};
pub use store::Store;
pub use team::Team;
pub use wkv4::{Wkv4Gradients, Wkv4Inputs, wkv4, wkv4_backward};
pub use wkv7::{MOST_HEAD, Wkv7Gradients, Wkv7Inputs, Wkv7State, wkv7, wkv7_backward};

/// The program in README.md, which is to compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
