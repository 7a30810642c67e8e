//! The versions of RWKV, each written once over [`Exec`].
//!
//! A version is one file that implements [`Rwkv`], and one line in the list below.

pub mod layer_norm;
pub(crate) mod names;
pub mod v4;
pub mod v7;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::{ModelConfig, Sizes};
use crate::exec::Exec;
use crate::model::names::Names;
use crate::params::Layout;
use crate::state::StateLayout;

/// Dimensions of a file's tensors by name, row length first; none for a tensor that is not there.
pub type Dims<'a> = &'a dyn Fn(&str) -> Option<&'a [usize]>;

/// What is wrong with a tensor whose dimensions tell a model's shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadTensor {
    /// Its name.
    pub name: String,
    /// What is wrong; none if it is not there.
    pub problem: Option<String>,
}

/// A factor of a product of low rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LowRank {
    /// From n_embd to the rank.
    Down,
    /// From the rank to n_embd.
    Up,
}

/// A tensor that files of other programs hold although no equation uses it, and whose values stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandIn {
    /// Its official name.
    pub tensor: &'static str,
    /// In GGUF files: the parameter that it is a copy of.
    pub gguf: &'static str,
    /// In checkpoints: the parameter that it is a copy of, if the model has that, and else the one before.
    pub checkpoint: &'static str,
}

/// A version of RWKV: its parameters, its state, its equations, and how its files tell its shape.
pub trait Rwkv: Sized {
    /// Names of the numbers beyond [`ModelConfig`]'s own that fix the shape, in camelCase; at most
    /// [`Sizes::MOST`].
    const SIZES: &'static [&'static str];

    /// The values of [`SIZES`](Self::SIZES) in a file with these tensors.
    ///
    /// # Errors
    /// What is wrong with which of the tensors that tell.
    fn sizes(dims: Dims<'_>) -> Result<Sizes, BadTensor>;

    /// The shape that a new model of this version usually has.
    ///
    /// # Errors
    /// Which widths there can be instead.
    fn usual(n_vocab: usize, n_embd: usize, n_layer: usize) -> Result<ModelConfig, String>;

    /// The names of all tensors in files of other programs.
    const NAMES: &'static [Names];

    /// A tensor of GGUF files that holds several vectors one after the other, and their official names; `N` stands
    /// for the block.
    const FUSED: Option<(&'static str, &'static [&'static str])> = None;

    /// Keys of GGUF files, after the architecture and a dot, for each of [`SIZES`](Self::SIZES).
    const GGUF_SIZES: &'static [&'static str] = &[];

    /// What stands in `.safetensors` before the official names of all tensors but the head's.
    const PREFIX: &'static str = "";

    /// What stands before Hugging Face's names of all tensors but the head's.
    const HUGGING_FACE_PREFIX: &'static str;

    /// Tensors that readers of other programs want although no equation uses them.
    const STAND_INS: &'static [StandIn] = &[];

    /// Whether official checkpoints hold this vector with shape (1, 1, len), and rwkv.cpp's files with (len).
    fn has_ones(_tensor: &str) -> bool {
        false
    }

    /// Whether files may have this tensor although no equation uses it.
    fn is_unused(_tensor: &str) -> bool {
        false
    }

    /// Which factor of a product of low rank the official tensor of this name is, if any: official checkpoints hold
    /// both as (inputs, outputs), other programs as (outputs, inputs).
    fn low_rank(_tensor: &str) -> Option<LowRank> {
        None
    }

    /// Declares all parameters, in the order of published checkpoints, and the state.
    fn declare(config: &ModelConfig, params: &mut Layout, state: &mut StateLayout) -> Self;

    /// `(outputs, n_vocab)` logits of the rows that were asked for.
    fn forward<E: Exec>(&self, e: &mut E) -> E::Tensor;
}

/// Declares [`Version`] and [`Network`] over the versions' own types, each of which implements [`Rwkv`].
macro_rules! versions {
    ($($(#[$doc:meta])* $name:ident ($text:literal, $code:literal) = $model:ty;)*) => {
        /// A version of the RWKV architecture that this crate can run.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Version {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Version {
            /// Every version, the latest first.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name of each.
            pub const NAMES: &'static [&'static str] = &[$($text),*];

            /// Its name, such as `v4`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The number that stands for it in the bytes of states.
            pub fn code(self) -> u32 {
                match self {
                    $(Self::$name => $code,)*
                }
            }

            /// Names of the numbers in [`ModelConfig::sizes`].
            pub fn size_names(self) -> &'static [&'static str] {
                match self {
                    $(Self::$name => <$model as Rwkv>::SIZES,)*
                }
            }

            /// See [`Rwkv::sizes`].
            pub(crate) fn sizes(self, dims: Dims<'_>) -> Result<Sizes, BadTensor> {
                match self {
                    $(Self::$name => <$model as Rwkv>::sizes(dims),)*
                }
            }

            /// See [`Rwkv::usual`].
            pub(crate) fn usual(
                self,
                n_vocab: usize,
                n_embd: usize,
                n_layer: usize,
            ) -> Result<ModelConfig, String> {
                match self {
                    $(Self::$name => <$model as Rwkv>::usual(n_vocab, n_embd, n_layer),)*
                }
            }

            /// See [`Rwkv::NAMES`].
            pub(crate) fn names(self) -> &'static [Names] {
                match self {
                    $(Self::$name => <$model as Rwkv>::NAMES,)*
                }
            }

            /// See [`Rwkv::FUSED`].
            pub(crate) fn fused(self) -> Option<(&'static str, &'static [&'static str])> {
                match self {
                    $(Self::$name => <$model as Rwkv>::FUSED,)*
                }
            }

            /// See [`Rwkv::GGUF_SIZES`].
            pub(crate) fn gguf_sizes(self) -> &'static [&'static str] {
                match self {
                    $(Self::$name => <$model as Rwkv>::GGUF_SIZES,)*
                }
            }

            /// See [`Rwkv::PREFIX`].
            pub(crate) fn prefix(self) -> &'static str {
                match self {
                    $(Self::$name => <$model as Rwkv>::PREFIX,)*
                }
            }

            /// See [`Rwkv::HUGGING_FACE_PREFIX`].
            pub(crate) fn hugging_face_prefix(self) -> &'static str {
                match self {
                    $(Self::$name => <$model as Rwkv>::HUGGING_FACE_PREFIX,)*
                }
            }

            /// See [`Rwkv::STAND_INS`].
            pub(crate) fn stand_ins(self) -> &'static [StandIn] {
                match self {
                    $(Self::$name => <$model as Rwkv>::STAND_INS,)*
                }
            }

            /// See [`Rwkv::has_ones`].
            pub(crate) fn has_ones(self, tensor: &str) -> bool {
                match self {
                    $(Self::$name => <$model as Rwkv>::has_ones(tensor),)*
                }
            }

            /// See [`Rwkv::low_rank`].
            pub(crate) fn low_rank(self, tensor: &str) -> Option<LowRank> {
                match self {
                    $(Self::$name => <$model as Rwkv>::low_rank(tensor),)*
                }
            }

            /// See [`Rwkv::is_unused`].
            pub(crate) fn is_unused(self, tensor: &str) -> bool {
                match self {
                    $(Self::$name => <$model as Rwkv>::is_unused(tensor),)*
                }
            }
        }

        /// The equations of one model, with handles of its parameters.
        #[derive(Clone, Debug)]
        pub enum Network {
            $($(#[$doc])* $name($model),)*
        }

        impl Network {
            /// Declares the parameters and the state of the model that `config` describes.
            pub fn new(config: &ModelConfig) -> (Self, Layout, StateLayout) {
                let (mut params, mut state) = (Layout::default(), StateLayout::default());
                let network = match config.version {
                    $(Version::$name => {
                        Self::$name(<$model as Rwkv>::declare(config, &mut params, &mut state))
                    })*
                };
                (network, params, state)
            }

            /// `(outputs, n_vocab)` logits of the rows that were asked for.
            pub fn forward<E: Exec>(&self, e: &mut E) -> E::Tensor {
                match self {
                    $(Self::$name(model) => Rwkv::forward(model, e),)*
                }
            }
        }
    };
}

// Latest first.
versions! {
    /// RWKV-7 "Goose": <https://arxiv.org/abs/2503.14456>.
    V7 ("v7", 7) = v7::Rwkv7;
    /// RWKV-4 "Dove": <https://arxiv.org/abs/2305.13048>.
    V4 ("v4", 4) = v4::Rwkv4;
}

/// Every version there is, by tensors that only it and later ones have: latest first, and [`OLDEST`] after them.
/// Those that are in [`Version::ALL`] can be run. The names of RWKV-5's versions are rwkv.cpp's.
const MARKS: [(&str, &str); 8] = [
    ("v8", "blocks.0.ffn.enn.weight"),
    ("v7b", "blocks.0.qkv.qq.weight"),
    ("v7a", "blocks.0.ffn.s_emb.weight"),
    ("v7", "blocks.0.att.r_k"),
    // Of a file that lacks the other, it should be said that it does.
    ("v7", "blocks.0.att.k_k"),
    ("v6", "blocks.0.att.time_maa_x"),
    ("v5.2", "blocks.0.att.gate.weight"),
    ("v5.1", "blocks.0.att.ln_x.weight"),
];

/// The version of files with none of those.
const OLDEST: &str = "v4";

impl Version {
    /// Which version a file with these tensors is of; files do not say so otherwise.
    ///
    /// # Errors
    /// The name of a version that cannot be run yet.
    pub(crate) fn of_file(dims: Dims<'_>) -> Result<Self, &'static str> {
        let mark = MARKS.iter().find(|(_, tensor)| dims(tensor).is_some());
        let name = mark.map_or(OLDEST, |(name, _)| name);
        Self::ALL.iter().copied().find(|version| version.name() == name).ok_or(name)
    }

    /// The version that `code` stands for.
    pub(crate) fn from_code(code: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|version| version.code() == code)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_of_the_latest_version_that_it_has_a_tensor_of() {
        for (at, (name, tensor)) in MARKS.into_iter().enumerate() {
            // Later versions have the tensors of earlier ones too.
            let has: Vec<_> = MARKS[at..].iter().map(|(_, tensor)| *tensor).collect();
            let found = Version::of_file(&|name| has.contains(&name).then_some(&[1]));
            assert_eq!(found.map_or_else(|name| name, Version::name), name, "{tensor}");
        }
        assert_eq!(Version::of_file(&|_| None).map(Version::name), Ok(OLDEST));
    }

    /// Whatever its name, else no file would be of it.
    #[test]
    fn every_version_that_runs_can_be_recognised() {
        for version in Version::ALL {
            let name = version.name();
            assert!(name == OLDEST || MARKS.iter().any(|(marked, _)| *marked == name), "{name}");
        }
    }
}
