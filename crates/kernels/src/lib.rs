//! The numbers behind `rwkv`.

// Vectors must not cross a call: see `simd`.
#![allow(clippy::inline_always)]

mod adamw;
mod add;
mod block;
mod cpu;
mod cross_entropy;
mod embed;
mod exp;
mod isa;
mod layer_norm;
mod lerp;
mod linear;
mod product;
mod relu_squared;
mod shift;
mod sigmoid_mul;
mod simd;
mod store;
mod team;
#[cfg(test)]
mod testing;
mod wkv4;

pub use adamw::{AdamWStep, adamw, sum_of_squares};
pub use add::{accumulate, add};
pub use cpu::{Cpu, Parts, Precision};
pub use cross_entropy::{cross_entropy, cross_entropy_backward};
pub use embed::{embed, embed_backward};
pub use isa::{Isa, IsaError};
pub use layer_norm::{layer_norm, layer_norm_backward};
pub use lerp::{lerp, lerp_backward};
pub use linear::{linear, linear_dw, linear_dx};
pub use product::{Format, Weights, product};
pub use relu_squared::{relu_squared, relu_squared_backward};
pub use shift::{shift, shift_backward};
pub use sigmoid_mul::{sigmoid_mul, sigmoid_mul_backward};
pub use store::Store;
pub use team::Team;
pub use wkv4::{wkv4, wkv4_backward};
