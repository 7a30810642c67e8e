//! The versions of RWKV, each written once over [`Exec`].
//!
//! A version is one file that implements [`Rwkv`], and one line in the list below.

pub mod v4;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::{ModelConfig, Sizes};
use crate::exec::Exec;
use crate::params::Layout;
use crate::state::StateLayout;

/// Dimensions of a file's tensors by name, row length first; none for a tensor that is not there.
pub type Dims<'a> = &'a dyn Fn(&str) -> Option<&'a [usize]>;

/// A version of RWKV: its parameters, its state, its equations, and how its files are recognised.
pub trait Rwkv: Sized {
    /// Names of the numbers beyond [`ModelConfig`]'s own that fix the shape, in camelCase; at most
    /// [`Sizes::MOST`].
    const SIZES: &'static [&'static str];

    /// Whether a file with these tensors is of this version; later versions are asked first.
    fn recognise(dims: Dims<'_>) -> bool;

    /// The values of [`SIZES`](Self::SIZES) in a file with these tensors; none if the tensors that tell are
    /// not there.
    fn sizes(dims: Dims<'_>) -> Option<Sizes>;

    /// The shape that a new model of this version usually has.
    fn usual(n_vocab: usize, n_embd: usize, n_layer: usize) -> ModelConfig;

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

            /// See [`Rwkv::recognise`].
            pub(crate) fn recognise(self, dims: Dims<'_>) -> bool {
                match self {
                    $(Self::$name => <$model as Rwkv>::recognise(dims),)*
                }
            }

            /// See [`Rwkv::sizes`].
            pub(crate) fn sizes(self, dims: Dims<'_>) -> Option<Sizes> {
                match self {
                    $(Self::$name => <$model as Rwkv>::sizes(dims),)*
                }
            }

            /// See [`Rwkv::usual`].
            pub(crate) fn usual(self, n_vocab: usize, n_embd: usize, n_layer: usize) -> ModelConfig {
                match self {
                    $(Self::$name => <$model as Rwkv>::usual(n_vocab, n_embd, n_layer),)*
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

// Latest first: an older version recognises what no later one does.
versions! {
    /// RWKV-4 "Dove": <https://arxiv.org/abs/2305.13048>.
    V4 ("v4", 4) = v4::Rwkv4;
}

/// Versions that cannot be run yet, by a tensor that only they and later ones have: latest first.
const NOT_YET: [(&str, &str); 4] = [
    ("blocks.0.att.r_k", "v7"),
    ("blocks.0.att.time_maa_x", "v6"),
    ("blocks.0.att.gate.weight", "v5.2"),
    ("blocks.0.att.ln_x.weight", "v5.1"),
];

impl Version {
    /// Which version a file with these tensors is of; files do not say so otherwise.
    ///
    /// # Errors
    /// The name of a version that cannot be run yet.
    pub(crate) fn of_file(dims: Dims<'_>) -> Result<Self, &'static str> {
        if let Some((_, name)) = NOT_YET.iter().find(|(tensor, _)| dims(tensor).is_some()) {
            return Err(name);
        }
        Ok(*Self::ALL.iter().find(|version| version.recognise(dims)).unwrap_or(&Self::V4))
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
