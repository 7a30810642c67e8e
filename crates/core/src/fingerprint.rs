//! Fingerprints of models: they say which model a state belongs to.

use crate::config::{ModelConfig, Sizes, Version};

/// A model's shape and a checksum over a sample of its weights.
///
/// A state is meaningful only to the weights that made it, so it carries their fingerprint and is refused by
/// a model with another one. A checksum over all weights of a large file would cost a read of the whole file
/// at load, just what mapping avoids. So the sample is up to three stretches of 4 KiB of every tensor
/// (beginning, middle, end; all of a small tensor), as stored: less than 10 MB of the largest model. Training
/// moves every weight at every step, and conversion to another format changes every byte, so two models agree
/// in the sample only if they are the same, or were made by editing a few weights by hand.
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
            let (was, is) = (self.config.describe(), model.config.describe());
            return Some(format!("it was made by another model ({was}), and this one is ({is})"));
        }
        (self.weights != model.weights)
            .then(|| "it was made by a model of this shape, but with other weights".to_owned())
    }

    /// The byte form in hexadecimal digits, for files of text.
    pub fn to_hex(self) -> String {
        let digit = |digit: u8| char::from(b"0123456789abcdef"[usize::from(digit)]);
        self.to_bytes().into_iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }

    /// The fingerprint that [`to_hex`](Self::to_hex) made these digits of.
    pub fn from_hex(hex: &str) -> Option<Self> {
        if !hex.is_ascii() || !hex.len().is_multiple_of(2) {
            return None;
        }
        let digits = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok());
        let bytes = digits.collect::<Option<Vec<_>>>()?;
        let (fingerprint, rest) = Self::from_bytes(&bytes).ok()?;
        rest.is_empty().then_some(fingerprint)
    }

    /// The byte form, as little-endian u32: version, n_vocab, n_embd, n_layer, n_ffn, the version's own
    /// sizes, CRC-32 of the weights.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let ModelConfig { version, n_vocab, n_embd, n_layer, n_ffn, sizes } = self.config;
        // Shapes come from, or go to, files that count in 32 bits.
        let common = [n_vocab, n_embd, n_layer, n_ffn].map(|size| size as u32);
        let own = sizes.of(version).iter().copied();
        let numbers = [version.code()].into_iter().chain(common).chain(own).chain([self.weights]);
        numbers.flat_map(u32::to_le_bytes).collect()
    }

    /// The fingerprint that `bytes` begin with, and the bytes after it.
    ///
    /// # Errors
    /// What is wrong: a version that this crate does not know, or too few bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<(Self, &[u8]), String> {
        let mut rest = bytes;
        let mut next = || {
            let (number, after) =
                rest.split_first_chunk().ok_or("too few bytes for a model's fingerprint")?;
            rest = after;
            Ok::<_, String>(u32::from_le_bytes(*number))
        };
        let code = next()?;
        let version = Version::from_code(code)
            .ok_or_else(|| format!("it is from an RWKV version {code} that this program does not know"))?;
        let [n_vocab, n_embd, n_layer, n_ffn] = [next()?, next()?, next()?, next()?].map(|n| n as usize);
        let mut sizes = Sizes::NONE;
        for size in sizes.all_mut().iter_mut().take(version.size_names().len()) {
            *size = next()?;
        }
        let weights = next()?;
        let config = ModelConfig { version, n_vocab, n_embd, n_layer, n_ffn, sizes };
        Ok((Self { config, weights }, rest))
    }
}
