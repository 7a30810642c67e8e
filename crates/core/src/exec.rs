//! The operators that models are written in.
//!
//! A model is a function over [`Exec`] and nothing else. The implementation of the trait decides how it runs:
//! [`Infer`](crate::Infer) computes each operator and updates the states; the training tape also records it,
//! and can then compute gradients.
//!
//! # Rows
//! An activation is a tensor of `(rows, width)`: one row a token. The rows of one pass are cut into
//! *segments*, each a stretch of consecutive tokens of one text with a state of its own. One segment of one
//! row is the RNN; one segment of many rows is sequence mode (or prefill); many segments of one row are
//! batched decoding; many of many are a training batch. Only [`shift`](Exec::shift) and the wkv operators
//! look across rows, and only within a segment; all others treat each row alone. So a model need not
//! distinguish these cases.

pub use rwkv_kernels::{Binary, Channelwise, Unary};

use crate::params::{Matrix, Vector};
use crate::state::Slot;

/// Inputs of [`Exec::wkv7`]: (rows, n_embd) each.
#[derive(Clone, Copy, Debug)]
pub struct Wkv7<T> {
    /// The receptance, by which S is read.
    pub r: T,
    /// The decay, a factor.
    pub w: T,
    /// The key that is written.
    pub k: T,
    /// The value that is written.
    pub v: T,
    /// The key whose value is taken away, of length 1 in each head.
    pub kk: T,
    /// How much of it, from 0 to 1.
    pub a: T,
}

/// Operators over tensors of `(rows, width)` that their executor owns.
///
/// The model is responsible for shapes: an executor may panic on tensors whose shapes do not fit an operator,
/// because they follow from the model's source and not from any input.
pub trait Exec {
    /// Handle of a tensor.
    type Tensor: Copy;

    /// `(rows, n_embd)`: the row of `table` (n_vocab, n_embd) for each token of this pass.
    fn embed(&mut self, table: Matrix) -> Self::Tensor;

    /// `(x − mean) / √(variance + eps) · weight + bias`, mean and variance over each row.
    fn layer_norm(&mut self, x: Self::Tensor, weight: Vector, bias: Vector, eps: f32) -> Self::Tensor;

    /// Each row's predecessor within its segment. A segment's first row gets the vector at `slot` of its
    /// state, and its last row is left there: this is how a text goes on across chunks.
    fn shift(&mut self, x: Self::Tensor, slot: Slot) -> Self::Tensor;

    /// `x·μ + y·(1 − μ)` for each vector μ of `mix`.
    fn lerp<const N: usize>(
        &mut self,
        x: Self::Tensor,
        y: Self::Tensor,
        mix: [Vector; N],
    ) -> [Self::Tensor; N];

    /// `x Wᵀ` for each pair: independent products, so that an executor may run them as one.
    fn linears<const N: usize>(&mut self, products: [(Matrix, Self::Tensor); N]) -> [Self::Tensor; N];

    /// `x Wᵀ`: (rows, inputs) to (rows, outputs).
    fn linear(&mut self, weight: Matrix, x: Self::Tensor) -> Self::Tensor {
        let [y] = self.linears([(weight, x)]);
        y
    }

    /// `f(x)`, element by element.
    fn unary(&mut self, f: Unary, x: Self::Tensor) -> Self::Tensor;

    /// `f(x, y)`, element by element, of tensors of one shape.
    fn binary(&mut self, f: Binary, x: Self::Tensor, y: Self::Tensor) -> Self::Tensor;

    /// `f(x…, p)`, element by element, of tensors of one shape and a number for each channel.
    fn channelwise<const N: usize>(
        &mut self,
        f: Channelwise,
        x: [Self::Tensor; N],
        p: Vector,
    ) -> Self::Tensor;

    /// `x + y`.
    fn add(&mut self, x: Self::Tensor, y: Self::Tensor) -> Self::Tensor {
        self.binary(Binary::Add, x, y)
    }

    /// `x ⊙ y`.
    fn mul(&mut self, x: Self::Tensor, y: Self::Tensor) -> Self::Tensor {
        self.binary(Binary::Mul, x, y)
    }

    /// `σ(r) ⊙ x`.
    fn sigmoid_mul(&mut self, r: Self::Tensor, x: Self::Tensor) -> Self::Tensor {
        self.binary(Binary::SigmoidMul, r, x)
    }

    /// `max(x, 0)²`.
    fn relu_squared(&mut self, x: Self::Tensor) -> Self::Tensor {
        self.unary(Unary::ReluSquared, x)
    }

    /// RWKV-4's attention: for each channel, the average of the values `v` so far, weighted by `exp(k)` and
    /// decaying by `exp(w)` a step, where w = −exp(`decay`); the present one weighs `exp(first + k)`. `slot`
    /// holds (aa, bb, pp), n_embd values each.
    fn wkv4(
        &mut self,
        decay: Vector,
        first: Vector,
        k: Self::Tensor,
        v: Self::Tensor,
        slot: Slot,
    ) -> Self::Tensor;

    /// As [`layer_norm`](Self::layer_norm), mean and variance over each head of `size` channels.
    fn group_norm(
        &mut self,
        x: Self::Tensor,
        size: usize,
        weight: Vector,
        bias: Vector,
        eps: f32,
    ) -> Self::Tensor;

    /// Each head of `size` channels, of length 1: `x/max(‖x‖, 1e-12)`.
    fn unit_heads(&mut self, x: Self::Tensor, size: usize) -> Self::Tensor;

    /// `v (Σ r·k·p)`, the sum over each head of `size` channels.
    fn bonus(&mut self, rkv: [Self::Tensor; 3], p: Vector, size: usize) -> Self::Tensor;

    /// RWKV-7's attention: `S_t = S_{t−1} diag(w) − (S_{t−1} κ)(κ ⊙ a)ᵀ + v kᵀ` and `y_t = S_t r` in each head of
    /// `size` channels. `slot` holds S of each head, value by key.
    fn wkv7(&mut self, inputs: Wkv7<Self::Tensor>, size: usize, slot: Slot) -> Self::Tensor;

    /// In training with dropout: x with some of its elements zero and the others larger in proportion. Else x
    /// itself.
    fn dropout(&mut self, x: Self::Tensor) -> Self::Tensor {
        x
    }

    /// The rows that the rest of the pass depends on, of whose tensors only `x` is used from here on: those
    /// whose logits were asked for, the row before each of them (for [`shift`](Exec::shift)), and the last of
    /// each segment (for its state). An executor may return all rows, and has to where all logits were asked
    /// for.
    ///
    /// The first row of a segment may be one that is there for its successor's sake alone: what is computed
    /// of it from the state by `shift` means nothing and is not an output.
    fn needed(&mut self, x: Self::Tensor) -> Self::Tensor;

    /// The rows whose logits were asked for, in order.
    fn outputs(&mut self, x: Self::Tensor) -> Self::Tensor;

    /// Ends a block: of all tensors made so far only `live` are used from here on. Infer frees the others, so
    /// that memory does not grow with the number of layers; a tape may recompute from here.
    fn keep<const N: usize>(&mut self, live: [Self::Tensor; N]) -> [Self::Tensor; N];
}
