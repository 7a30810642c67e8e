//! Adapters of this program, written for others: PEFT and RWKV-PEFT (see `peft.rs`, which reads what they write).

use std::fs;
use std::io;
use std::path::Path;

use serde_json::json;

use super::{Lora, LoraInfo, Own, factor_names, peft, read_bytes};
use crate::atomic::Staged;
use crate::config::Version;
use crate::convert::stage_floats;
use crate::error::{Error, Result};
use crate::file::FileFormat;
use crate::fingerprint::Fingerprint;
use crate::model::names::{of_block, pattern};

/// Whose files an adapter can be written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraFormat {
    /// Hugging Face's PEFT: a directory of `adapter_model.safetensors`, with the names of
    /// flash-linear-attention (RWKV-7) or transformers (RWKV-4), and `adapter_config.json`.
    Peft,
    /// RWKV-PEFT: a `.pth` with official names. It does not hold alpha, which its user gives again.
    RwkvPeft,
}

/// Result of [`export`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exported {
    /// Whose files they are.
    pub to: LoraFormat,
    /// Rank.
    pub rank: usize,
    /// Alpha.
    pub alpha: f32,
    /// Number of adapted matrices.
    pub adapted: usize,
    /// Size of the factors' file in bytes.
    pub bytes_out: u64,
}

impl LoraFormat {
    /// The name by which options call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Peft => "peft",
            Self::RwkvPeft => "pth",
        }
    }

    /// The format of this name.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for every other name.
    pub fn named(name: &str) -> Result<Self> {
        let found = [Self::Peft, Self::RwkvPeft].into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| Error::option("to", name, "peft or pth: the input is a LoRA adapter"))
    }

    /// The format that the name of an output tells: a `.pth` is RWKV-PEFT's, and what does not end like any file of
    /// weights is a directory for PEFT.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for the names of other files of weights.
    pub fn of_name(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        match FileFormat::of_name(path) {
            Err(_) => Ok(Self::Peft),
            Ok(_) if path.is_dir() => Ok(Self::Peft),
            Ok(FileFormat::Pth) => Ok(Self::RwkvPeft),
            Ok(_) => {
                let expected = "a name that ends with .pth, for RWKV-PEFT, or that of a directory, for PEFT: the input \
                    is a LoRA adapter";
                Err(Error::option("output", path.display(), expected))
            }
        }
    }
}

/// Writes the adapter at `input`, a file of this program or the directory of the run that trained it, to `output`, as
/// the program that `to` names has it. The numbers are the same: FP32, with the same rank and alpha.
///
/// Each file is renamed into place when it is whole. A directory that is there already keeps what else is in it, but it
/// has to be empty or PEFT's.
///
/// ```no_run
/// use rwkv_core::lora::{LoraFormat, export};
///
/// # fn main() -> rwkv_core::Result<()> {
/// let written = export("runs/adapted", "adapted.pth", LoraFormat::RwkvPeft)?;
/// println!("rank {}, and say lora_alpha {} when it is merged", written.rank, written.alpha);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// - [`Error::Adapter`] if the input is damaged or is another program's, which does not say for which model it is, or if
///   it adapts a matrix that the other program does not.
/// - [`Error::InvalidOption`] if `output` is something else than the format needs, or the input.
/// - [`Error::Io`].
pub fn export(input: impl AsRef<Path>, output: impl AsRef<Path>, to: LoraFormat) -> Result<Exported> {
    let input = &*peft::find(input.as_ref())?;
    let output = output.as_ref();
    let fault = |problem: String| Error::Adapter { path: input.to_owned(), problem };
    if !LoraInfo::is_one(input) {
        let problem = "not an adapter of this program; another program's does not say for which model it is, and can be \
            merged into that";
        return Err(fault(problem.to_owned()));
    }
    let bytes = read_bytes(input, u64::MAX)?;
    let (lora, base) = read(&Own::parse(input, &bytes)?)?;
    let version = base.config.version;
    let layers = lora.factors.iter().map(|factors| {
        layer(version, to, &factors.name).ok_or_else(|| {
            let problem = format!("it adapts {:?}, which that program cannot adapt", factors.name);
            fault(problem)
        })
    });
    let layers = layers.collect::<Result<Vec<_>>>()?;
    let mut floats = Vec::new();
    for (factors, layer) in lora.factors.iter().zip(&layers) {
        for (values, suffix) in [&factors.down, &factors.up].into_iter().zip(peft::FACTORS) {
            let name = match to {
                LoraFormat::Peft => format!("{}{layer}{suffix}.weight", peft::PREFIX),
                LoraFormat::RwkvPeft => format!("{layer}{suffix}"),
            };
            // A has rows of what goes in, B of the rank; row length first.
            let is_down = suffix == peft::FACTORS[0];
            let other = values.len() / lora.rank;
            let dims = if is_down { vec![other, lora.rank] } else { vec![lora.rank, other] };
            floats.push((name, dims, &**values));
        }
    }
    let bytes_out = match to {
        LoraFormat::RwkvPeft => {
            if output.canonicalize().is_ok_and(|path| input.canonicalize().is_ok_and(|input| input == path)) {
                let expected = "another file than the input, which would be replaced";
                return Err(Error::option("output", output.display(), expected));
            }
            let staged = stage_floats(output, FileFormat::Pth, &floats)?;
            let bytes = staged.len();
            staged.commit()?;
            bytes
        }
        LoraFormat::Peft => {
            let is_new = prepare(output)?;
            write_peft(output, &lora, &layers, &floats).inspect_err(|_| {
                if is_new {
                    // It is empty, or somebody else has put something there.
                    fs::remove_dir(output).ok();
                }
            })?
        }
    };
    Ok(Exported { to, rank: lora.rank, alpha: lora.alpha, adapted: lora.factors.len(), bytes_out })
}

/// The whole of an adapter, whose matrices have the shapes that its factors say, and its base.
fn read(file: &Own<'_>) -> Result<(Lora, Fingerprint)> {
    let mut matrices = Vec::new();
    for name in file.tensors.names() {
        let Some(of) = name.strip_suffix(".lora_a") else { continue };
        let shape = |name: &str| file.tensors.tensor(name).map(|tensor| tensor.shape().to_vec());
        let [a, b] = factor_names(of).map(|name| shape(&name).unwrap_or_default());
        // Shapes that are none of a factor's are refused where their values are read.
        let of_rows = b.first().copied().unwrap_or_default();
        matrices.push((of, [of_rows, a.get(1).copied().unwrap_or_default()]));
    }
    // By block, as a person counts, and in a block by name.
    matrices.sort_by_key(|&(name, _)| (pattern(name).1, name));
    Ok((file.read(matrices.into_iter())?, file.base))
}

/// What a program calls the layer whose weights the official tensor `name` is; None if it is not a layer's.
fn layer(version: Version, to: LoraFormat, name: &str) -> Option<String> {
    let official = name.strip_suffix(".weight")?;
    if to == LoraFormat::RwkvPeft {
        return Some(official.to_owned());
    }
    let (of, block) = pattern(name);
    let names = version.names().iter().find(|names| names.official == of)?;
    let theirs = of_block(names.hugging_face?.strip_suffix(".weight")?, block);
    let prefix = if name.starts_with("head.") { "" } else { version.hugging_face_prefix() };
    Some(format!("{prefix}{theirs}"))
}

/// Makes the directory `output` if it is not there; whether it made it.
fn prepare(output: &Path) -> Result<bool> {
    if !output.exists() {
        fs::create_dir(output).map_err(Error::io("create", output))?;
        return Ok(true);
    }
    let expected = "a directory that is new, empty or an adapter of PEFT's";
    let wrong = || Error::option("output", output.display(), expected);
    if !output.is_dir() {
        return Err(wrong());
    }
    let mut entries = fs::read_dir(output).map_err(Error::io("read", output))?;
    if entries.next().is_some() && !output.join(peft::CONFIG).exists() {
        return Err(wrong());
    }
    Ok(false)
}

/// Writes both files of PEFT; the size of the factors'.
fn write_peft(
    output: &Path,
    lora: &Lora,
    layers: &[String],
    floats: &[(String, Vec<usize>, &[f32])],
) -> Result<u64> {
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": null,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": layers,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "use_rslora": false,
        "use_dora": false,
        "init_lora_weights": true,
        "inference_mode": true,
    });
    let text = serde_json::to_string_pretty(&config).map_err(io::Error::other);
    let factors = stage_floats(&output.join(peft::MODELS[0]), FileFormat::Safetensors, floats)?;
    let config = Staged::write(&output.join(peft::CONFIG), |w| w.write_all(text?.as_bytes()))?;
    let bytes = factors.len();
    factors.commit()?;
    config.commit()?;
    Ok(bytes)
}
