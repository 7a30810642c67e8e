//! The numbers that fix a model's shape.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A version of the RWKV architecture that this crate can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// RWKV-4 "Dove": <https://arxiv.org/abs/2305.13048>.
    V4,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "v4",
        })
    }
}

/// A model's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelConfig {
    /// Which equations.
    pub version: Version,
    /// Tokens in the vocabulary.
    pub n_vocab: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Number of blocks.
    pub n_layer: usize,
    /// Width of the channel mix's hidden layer.
    pub n_ffn: usize,
}

impl ModelConfig {
    /// An RWKV-4 with the usual hidden width, four times `n_embd`.
    pub const fn v4(n_vocab: usize, n_embd: usize, n_layer: usize) -> Self {
        Self { version: Version::V4, n_vocab, n_embd, n_layer, n_ffn: 4 * n_embd }
    }
}
