//! The operators of [`rwkv::Exec`], each with its forward, what it saves, its backward and the test of its
//! gradient in one file.
//!
//! In the formulas a `d` before a name is the gradient of the loss by it: `dy` is given, `dx` is wanted. A gradient
//! of an activation is written by its first contribution and added to by later ones; that of a parameter is always
//! added to. The numbers themselves are computed in `rwkv-kernels`.

mod binary;
mod cross_entropy;
mod dropout;
mod embed;
mod layer_norm;
mod lerp;
mod linear;
mod scale;
mod shift;
mod unary;
mod wkv4;

#[cfg(test)]
mod check;

pub(crate) use binary::Binary;
pub(crate) use cross_entropy::CrossEntropy;
pub(crate) use dropout::Dropout;
pub(crate) use embed::Embed;
pub(crate) use layer_norm::LayerNorm;
pub(crate) use lerp::Lerp;
pub(crate) use linear::Linear;
pub(crate) use scale::Scale;
pub(crate) use shift::Shift;
pub(crate) use unary::Unary;
pub(crate) use wkv4::Wkv4;

use crate::tape::{Backward, Forward};

/// Declares [`Op`] over the operators' own types, each of which has a `run(&self, &mut Forward)` that fills its outputs and
/// a `backward(&self, &mut Backward)`.
macro_rules! ops {
    ($($name:ident),*) => {
        /// One operator of a pass: what it read and made.
        #[derive(Debug)]
        pub(crate) enum Op {
            $($name($name)),*
        }

        impl Op {
            /// Fills the operator's outputs, for the first time or again.
            pub(crate) fn run(&self, tape: &mut Forward<'_>) {
                match self {
                    $(Self::$name(op) => op.run(tape)),*
                }
            }

            /// Sends the gradient of the operator's outputs on to its inputs and parameters.
            pub(crate) fn backward(&self, tape: &mut Backward<'_>) {
                match self {
                    $(Self::$name(op) => op.backward(tape)),*
                }
            }
        }

        $(impl From<$name> for Op {
            fn from(op: $name) -> Self {
                Self::$name(op)
            }
        })*
    };
}

ops!(Binary, CrossEntropy, Dropout, Embed, LayerNorm, Lerp, Linear, Scale, Shift, Unary, Wkv4);
