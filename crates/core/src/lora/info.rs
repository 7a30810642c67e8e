//! The header of an adapter's file, which can be read without its model.

use std::io::Read;
use std::path::Path;

use safetensors::tensor::Metadata;

use super::{Description, ENTRY, describe, open, peft};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;

/// Largest header that is read, in bytes: a model of a hundred blocks has some 100 KB.
const MOST: u64 = 1 << 24;

/// An adapter as its file's header describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraInfo {
    /// The model that it was trained on; None for files of other programs, which do not say it.
    pub base: Option<Fingerprint>,
    /// Rank.
    pub rank: usize,
    /// Alpha: what the adapter adds is multiplied by alpha / rank. None where neither the file nor PEFT's configuration
    /// beside it says it.
    pub alpha: Option<f32>,
    /// Names of the adapted matrices in official checkpoints, in alphabetical order.
    pub targets: Vec<String>,
    /// Number of values of all factors.
    pub n_params: usize,
    /// Size of the file in bytes.
    pub bytes: u64,
}

impl LoraInfo {
    /// Whether the file at `path` is an adapter of this program, sound or not: models can be `.safetensors` too.
    pub fn is_one(path: impl AsRef<Path>) -> bool {
        let read = || -> Option<bool> {
            let (mut file, bytes) = open(path.as_ref()).ok()?;
            let mut length = [0; 8];
            file.read_exact(&mut length).ok()?;
            let length = u64::from_le_bytes(length).min(MOST).min(bytes.saturating_sub(8));
            let mut header = vec![0; length as usize];
            file.read_exact(&mut header).ok()?;
            Some(header.windows(ENTRY.len()).any(|part| part == ENTRY.as_bytes()))
        };
        read().unwrap_or(false)
    }

    /// Whether `path` names an adapter, of this program, PEFT or RWKV-PEFT: its file, or a directory with one.
    pub fn is_any(path: impl AsRef<Path>) -> bool {
        let Ok(path) = peft::find(path.as_ref()) else { return true };
        Self::is_one(&path) || peft::has_factors(&path)
    }

    /// Reads the header of an adapter's file, or of the `lora.safetensors` of a training run's directory; also of what
    /// PEFT and RWKV-PEFT wrote.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Adapter`] if the file is no adapter or is damaged.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = &*peft::find(path.as_ref())?;
        if !Self::is_one(path) && peft::has_factors(path) {
            return peft::info(path);
        }
        let fault = |problem: String| Error::Adapter { path: path.to_owned(), problem };
        let (mut file, bytes) = open(path)?;
        if bytes < 8 {
            return Err(fault(format!("not an adapter: {bytes} bytes")));
        }
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(Error::io("read", path))?;
        let length = u64::from_le_bytes(length);
        if length > MOST.min(bytes - 8) {
            return Err(fault(format!("not an adapter: its header would have {length} bytes")));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(Error::io("read", path))?;
        let header: Metadata = serde_json::from_slice(&header)
            .map_err(|error| fault(format!("not an adapter: its header is damaged: {error}")))?;
        let (Description { rank, alpha, .. }, base) = describe(path, &header)?;
        let tensors = header.tensors();
        let mut targets: Vec<_> =
            tensors.keys().filter_map(|name| name.strip_suffix(".lora_a").map(str::to_owned)).collect();
        targets.sort();
        let n_params = tensors
            .values()
            .try_fold(0_usize, |sum, tensor| {
                let len = tensor.shape.iter().try_fold(1_usize, |len, &dim| len.checked_mul(dim));
                sum.checked_add(len?)
            })
            .filter(|&values| values as u64 <= (bytes - 8 - length) / 4)
            .ok_or_else(|| fault("its tensors have more values than the file: it is cut off".to_owned()))?;
        Ok(Self { base: Some(base), rank, alpha: Some(alpha), targets, n_params, bytes })
    }
}
