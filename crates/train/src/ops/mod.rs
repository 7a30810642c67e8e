//! The operators of [`Exec`]: forward, what is saved for backward, backward, and the test of the gradient of
//! each are in one file.
//!
//! In the formulas a `d` before a name is the gradient of the loss by it: `dy` is given, `dx` is wanted. A
//! gradient of an activation is written by its first contribution and added to by later ones; that of a
//! parameter is always added to. The numbers themselves are computed in `rwkv-kernels`.

mod binary;
mod bonus;
mod channelwise;
mod cross_entropy;
mod dropout;
mod embed;
mod group_norm;
mod head_loss;
mod layer_norm;
#[cfg(test)]
mod leaf;
mod lerp;
mod linear;
mod scale;
mod shift;
mod unary;
mod unit_heads;
mod wkv4;
mod wkv7;

#[cfg(test)]
pub(crate) mod check;

use rwkv_core::Exec;
use rwkv_core::Slot;
use rwkv_core::params::{Matrix, Vector};

pub(crate) use head_loss::rows_of_logits;

use crate::tape::{Backward, Forward, Tape, Tensor};

/// When an operator reads the values of a tensor: this decides for how long they are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// When it runs.
    Forward,
    /// In its backward; it wrote them itself.
    Backward,
    /// Both.
    Both,
}

/// Declares [`Op`] over the operators' own types, each of which has `reads`, a `run(&self, &mut Forward)`
/// that fills its outputs and a `backward(&self, &mut Backward)`.
macro_rules! ops {
    ($($(#[$when:meta])? $module:ident::$name:ident),* $(,)?) => {
        $($(#[$when])? pub(crate) use $module::$name;)*

        /// One operator of a pass: what it read and made.
        #[derive(Debug)]
        pub(crate) enum Op {
            $($(#[$when])? $name($name)),*
        }

        impl Op {
            /// Calls `read` with each tensor that the operator reads, and when it does.
            pub(crate) fn reads(&self, read: &mut dyn FnMut(Tensor, Read)) {
                match self {
                    $($(#[$when])? Self::$name(op) => op.reads(read)),*
                }
            }

            /// What to call it in a profile.
            pub(crate) fn name(&self) -> &'static str {
                match self {
                    $($(#[$when])? Self::$name(op) => op.name()),*
                }
            }

            /// Fills the operator's outputs, for the first time or again.
            pub(crate) fn run(&self, tape: &mut Forward<'_>) {
                match self {
                    $($(#[$when])? Self::$name(op) => op.run(tape)),*
                }
            }

            /// Adds to the gradients of the operator's inputs and parameters, given those of its outputs.
            pub(crate) fn backward(&self, tape: &mut Backward<'_>) {
                match self {
                    $($(#[$when])? Self::$name(op) => op.backward(tape)),*
                }
            }
        }

        $($(#[$when])? impl From<$name> for Op {
            fn from(op: $name) -> Self {
                Self::$name(op)
            }
        })*
    };
}

ops!(
    binary::Binary,
    bonus::Bonus,
    channelwise::Channelwise,
    cross_entropy::CrossEntropy,
    dropout::Dropout,
    embed::Embed,
    group_norm::GroupNorm,
    head_loss::HeadLoss,
    layer_norm::LayerNorm,
    #[cfg(test)]
    leaf::Leaf,
    lerp::Lerp,
    linear::Linear,
    scale::Scale,
    shift::Shift,
    unary::Unary,
    unit_heads::UnitHeads,
    wkv4::Wkv4,
    wkv7::Wkv7,
);

impl Op {
    /// The matrix that it multiplies by, if it does.
    pub(crate) fn weight(&self) -> Option<Matrix> {
        match self {
            Self::Linear(op) => Some(op.weight()),
            Self::HeadLoss(op) => Some(op.weight()),
            _ => None,
        }
    }
}

/// Forward only; what each operator saves for backward, and its backward, are in its own file.
impl Exec for Tape {
    type Tensor = Tensor;

    fn embed(&mut self, table: Matrix) -> Tensor {
        Embed::forward(self, table)
    }

    fn layer_norm(&mut self, x: Tensor, weight: Vector, bias: Vector, eps: f32) -> Tensor {
        LayerNorm::forward(self, x, weight, bias, eps)
    }

    fn shift(&mut self, x: Tensor, slot: Slot) -> Tensor {
        Shift::forward(self, x, slot)
    }

    fn lerp<const N: usize>(&mut self, x: Tensor, y: Tensor, mix: [Vector; N]) -> [Tensor; N] {
        Lerp::forward(self, x, y, mix)
    }

    /// With an adapter a product is `x Wᵀ + (scale · x downᵀ) upᵀ`, of the operators that are there anyway.
    fn linears<const N: usize>(&mut self, products: [(Matrix, Tensor); N]) -> [Tensor; N] {
        products.map(|(weight, x)| {
            let y = Linear::forward(self, weight, x);
            let Some(adapter) = self.params.adapter(weight) else { return y };
            let h = Linear::forward(self, adapter.down, x);
            let h = Scale::forward(self, h, adapter.scale);
            let delta = Linear::forward(self, adapter.up, h);
            self.add(y, delta)
        })
    }

    fn unary(&mut self, f: rwkv_core::Unary, x: Tensor) -> Tensor {
        Unary::forward(self, f, x)
    }

    fn binary(&mut self, f: rwkv_core::Binary, x: Tensor, y: Tensor) -> Tensor {
        Binary::forward(self, f, x, y)
    }

    fn channelwise<const N: usize>(
        &mut self,
        f: rwkv_core::Channelwise,
        x: [Tensor; N],
        p: Vector,
    ) -> Tensor {
        Channelwise::forward(self, f, x, p)
    }

    fn group_norm(&mut self, x: Tensor, size: usize, weight: Vector, bias: Vector, eps: f32) -> Tensor {
        GroupNorm::forward(self, x, size, weight, bias, eps)
    }

    fn unit_heads(&mut self, x: Tensor, size: usize) -> Tensor {
        UnitHeads::forward(self, x, size)
    }

    fn bonus(&mut self, rkv: [Tensor; 3], p: Vector, size: usize) -> Tensor {
        Bonus::forward(self, rkv, p, size)
    }

    fn wkv7(&mut self, inputs: rwkv_core::Wkv7<Tensor>, size: usize, slot: Slot) -> Tensor {
        Wkv7::forward(self, inputs, size, slot)
    }

    fn wkv4(&mut self, decay: Vector, first: Vector, k: Tensor, v: Tensor, slot: Slot) -> Tensor {
        Wkv4::forward(self, decay, first, k, v, slot)
    }

    fn dropout(&mut self, x: Tensor) -> Tensor {
        match self.next_dropout() {
            None => x,
            Some((p, seed)) => Dropout::forward(self, x, p, seed),
        }
    }

    /// The loss is over every token: all rows are outputs.
    fn needed(&mut self, x: Tensor) -> Tensor {
        x
    }

    /// As above.
    fn outputs(&mut self, x: Tensor) -> Tensor {
        x
    }

    fn keep<const N: usize>(&mut self, live: [Tensor; N]) -> [Tensor; N] {
        self.end_block(&live);
        live
    }
}
