//! Which model a state belongs to.

use crate::config::{ModelConfig, Version};

/// A model's shape and a checksum over a sample of its weights.
///
/// A state is meaningful only to the weights that made it, so it carries their fingerprint and is refused by a model
/// with another one. A checksum over all weights of a large file would cost a read of the whole file at load, just
/// what mapping avoids. So the sample is up to three stretches of 4 KiB of every tensor (beginning, middle, end; all of
/// a small tensor), as stored: less than 10 MB of the largest model. Training moves every weight at every step, and
/// conversion to another format changes every byte, so two models agree in the sample only if they are the same, or
/// were made by editing a few weights by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// The model's shape.
    pub config: ModelConfig,
    /// CRC-32 of the sampled weights.
    pub weights: u32,
}

const STRETCH: usize = 4096;

impl Fingerprint {
    /// The fingerprint of a model of shape `config` with these tensors' bytes, in the layout's order.
    pub(crate) fn new<'a>(config: ModelConfig, tensors: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut crc = crc32fast::Hasher::new();
        for bytes in tensors {
            if bytes.len() <= 3 * STRETCH {
                crc.update(bytes);
                continue;
            }
            for start in [0, (bytes.len() - STRETCH) / 2, bytes.len() - STRETCH] {
                crc.update(&bytes[start..start + STRETCH]);
            }
        }
        Self { config, weights: crc.finalize() }
    }

    /// Why a state of `self` cannot be used with `model`, if it cannot.
    pub(crate) fn mismatch(&self, model: &Self) -> Option<String> {
        if self.config != model.config {
            let shape = |config: &ModelConfig| {
                let ModelConfig { version, n_vocab, n_embd, n_layer, n_ffn } = config;
                format!("{version}, n_vocab {n_vocab}, n_embd {n_embd}, n_layer {n_layer}, n_ffn {n_ffn}")
            };
            let (was, is) = (shape(&self.config), shape(&model.config));
            return Some(format!("it was made by another model ({was}), and this one is ({is})"));
        }
        (self.weights != model.weights)
            .then(|| "it was made by a model of this shape, but with other weights".to_owned())
    }

    /// Bytes of the byte form.
    pub(crate) const LEN: usize = 24;

    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        let ModelConfig { version, n_vocab, n_embd, n_layer, n_ffn } = self.config;
        let version = match version {
            Version::V4 => 4,
        };
        // Shapes come from, or go to, files that count in 32 bits.
        let numbers = [version, n_vocab as u32, n_embd as u32, n_layer as u32, n_ffn as u32, self.weights];
        let mut bytes = [0; Self::LEN];
        bytes.copy_from_slice(bytemuck::cast_slice(&numbers));
        bytes
    }

    /// None if the version is not one that this crate knows.
    pub(crate) fn from_bytes(bytes: [u8; Self::LEN]) -> Option<Self> {
        let [version, n_vocab, n_embd, n_layer, n_ffn, weights]: [u32; 6] = bytemuck::cast(bytes);
        let version = match version {
            4 => Version::V4,
            _ => return None,
        };
        let size = |number: u32| number as usize;
        let config = ModelConfig {
            version,
            n_vocab: size(n_vocab),
            n_embd: size(n_embd),
            n_layer: size(n_layer),
            n_ffn: size(n_ffn),
        };
        Some(Self { config, weights })
    }
}
