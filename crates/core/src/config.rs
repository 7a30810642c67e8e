//! The shape of a model: its version and its sizes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::model::Version;

/// A model's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
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
    /// What only this version has.
    pub sizes: Sizes,
}

/// Shape numbers that only some versions have, such as the size of a head or the rank of a low-rank product:
/// in the order of [`Version::size_names`], and 0 beyond. RWKV-4 has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sizes([u32; Sizes::MOST]);

impl Sizes {
    /// As many as any version has, with room to spare.
    pub const MOST: usize = 8;

    /// No sizes.
    pub const NONE: Self = Self([0; Self::MOST]);

    /// These sizes, and 0 beyond.
    ///
    /// # Panics
    /// If there are more than [`MOST`](Self::MOST).
    pub fn new(sizes: &[u32]) -> Self {
        let mut all = Self::NONE;
        all.0[..sizes.len()].copy_from_slice(sizes);
        all
    }

    /// The size at `index`; 0 beyond those of the version.
    pub fn get(&self, index: usize) -> usize {
        self.0.get(index).map_or(0, |&size| size as usize)
    }

    /// All of them, those of the version first.
    pub(crate) fn all_mut(&mut self) -> &mut [u32] {
        &mut self.0
    }

    /// Those that `version` has.
    pub(crate) fn of(&self, version: Version) -> &[u32] {
        &self.0[..version.size_names().len()]
    }
}

impl ModelConfig {
    /// A model of the shape that is usual for `version`: in RWKV-4 a hidden width of four times `n_embd`.
    ///
    /// # Errors
    /// Where the version has no such shape: which widths there can be instead.
    pub fn usual(version: Version, n_vocab: usize, n_embd: usize, n_layer: usize) -> Result<Self, String> {
        version.usual(n_vocab, n_embd, n_layer)
    }

    /// An RWKV-4 of its usual shape.
    pub const fn v4(n_vocab: usize, n_embd: usize, n_layer: usize) -> Self {
        Self { version: Version::V4, n_vocab, n_embd, n_layer, n_ffn: 4 * n_embd, sizes: Sizes::NONE }
    }

    /// The sizes that only this version has, by name.
    pub fn named_sizes(&self) -> impl Iterator<Item = (&'static str, u32)> {
        self.version.size_names().iter().copied().zip(self.sizes.of(self.version).iter().copied())
    }

    /// The numbers by name, for messages: `v4, n_vocab 65, n_embd 128, n_layer 4, n_ffn 512`.
    pub fn describe(&self) -> String {
        let Self { version, n_vocab, n_embd, n_layer, n_ffn, .. } = self;
        let own: Vec<_> = self.named_sizes().map(|(name, size)| format!(", {name} {size}")).collect();
        let own = own.concat();
        format!("{version}, n_vocab {n_vocab}, n_embd {n_embd}, n_layer {n_layer}, n_ffn {n_ffn}{own}")
    }
}

/// The form in files of a training run.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    version: Version,
    n_vocab: usize,
    n_embd: usize,
    n_layer: usize,
    n_ffn: usize,
    /// By name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    sizes: BTreeMap<String, u32>,
}

impl From<ModelConfig> for Written {
    fn from(config: ModelConfig) -> Self {
        let ModelConfig { version, n_vocab, n_embd, n_layer, n_ffn, sizes } = config;
        let names = version.size_names().iter().map(|&name| name.to_owned());
        let sizes = names.zip(sizes.of(version).iter().copied()).collect();
        Self { version, n_vocab, n_embd, n_layer, n_ffn, sizes }
    }
}

impl TryFrom<Written> for ModelConfig {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { version, n_vocab, n_embd, n_layer, n_ffn, sizes: named } = written;
        let names = version.size_names();
        if let Some(unknown) = named.keys().find(|name| !names.contains(&name.as_str())) {
            return Err(format!("RWKV {version} has no size called {unknown}"));
        }
        let mut sizes = Sizes::NONE;
        for (size, name) in sizes.0.iter_mut().zip(names) {
            *size =
                *named.get(*name).ok_or_else(|| format!("the size {name} of RWKV {version} is missing"))?;
        }
        Ok(Self { version, n_vocab, n_embd, n_layer, n_ffn, sizes })
    }
}
