//! The norm of whole rows, which every version has in the same places.

use crate::exec::Exec;
use crate::params::{Initial, Layout, Vector};

const EPS: f32 = 1e-5;

/// A norm's weight and bias, a number for each channel.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    pub(super) weight: Vector,
    pub(super) bias: Vector,
}

impl LayerNorm {
    /// Declares `name.weight` and `name.bias`, of `n_embd` channels each.
    pub fn declare(name: &str, n_embd: usize, params: &mut Layout) -> Self {
        Self {
            weight: params.vector(format!("{name}.weight"), n_embd, Initial::ONES),
            bias: params.vector(format!("{name}.bias"), n_embd, Initial::ZEROS),
        }
    }

    /// The norm of each row of `x`, (rows, n_embd).
    pub fn of<E: Exec>(&self, e: &mut E, x: E::Tensor) -> E::Tensor {
        e.layer_norm(x, self.weight, self.bias, EPS)
    }
}
