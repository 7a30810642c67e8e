//! Fingerprints of models: they say which model a state belongs to.

use crate::config::{ModelConfig, Sizes, Version};

/// A model's shape and a checksum of its weights.
///
/// A state or an adapter is meaningful only to the weights that it was made with, so it carries their
/// fingerprint and is refused by a model with another one. The checksum is CRC-32 of every tensor's bytes, as
/// stored: two models that differ in one weight differ in it, but for one chance in 2³². It costs a read of
/// the whole file, so a model computes it when it is first needed (`checksum.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// The model's shape.
    pub config: ModelConfig,
    /// CRC-32 of all weights as they are stored, in the order of the model's layout.
    pub weights: u32,
}

/// What to say of a file whose fingerprint is of the kind before this one.
pub const OF_A_PART: &str = "made by an older version of this program, whose fingerprint of the model \
    looked at a part of the weights only";

/// What else to do about a model of the same shape with other weights.
pub(crate) const OR_ALLOW: &str = ", or, if this is that model in another precision, say so with the option \
    allowOtherBase: with any other model the text is wrong, and no message says so";

impl Fingerprint {
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
