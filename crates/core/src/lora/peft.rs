//! Adapters of other programs: PEFT's and RWKV-PEFT's.
//!
//! | | file | names of a factor | alpha |
//! |---|---|---|---|
//! | Hugging Face's PEFT | `adapter_model.safetensors` (older: `.bin`, a `.pth`) | `base_model.model.` + the layer in the model's own naming + `.lora_A.weight` | `lora_alpha` in `adapter_config.json` beside it |
//! | RWKV-PEFT | `.pth` | the official name, with `.lora_A` in place of `.weight` | not there |
//!
//! A is (rank, inputs) and B (outputs, rank) in both, as in this program's own files. None of them says on which
//! weights it was trained, so whoever uses one says that it fits ([`LoraOptions::allow_other_base`]).
//!
//! Facts from PEFT's `src/peft/utils/save_and_load.py` and `tuners/lora/config.py`, and RWKV-PEFT's `merge/merge.py` and
//! `rwkvt/lightning_train/trainer.py`.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{Factors, Lora, LoraInfo, LoraOptions, of_embedding};
use crate::data_type::DataType;
use crate::error::{Error, Result};
use crate::file::{FileFormat, Mapped, TensorInfo, format_of, official_name, tensors_of};
use crate::machine;
use crate::params::Layout;
use crate::place::resolve;
use crate::regular::open_regular;

/// Names in PEFT's directories; the second of a model's is that of its older versions.
pub(super) const CONFIG: &str = "adapter_config.json";
pub(super) const MODELS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
/// What PEFT puts before the names of the model that it wraps.
pub(super) const PREFIX: &str = "base_model.model.";
/// What the names of both factors end with, in either program's files.
pub(super) const FACTORS: [&str; 2] = [".lora_A", ".lora_B"];
/// A configuration may have so many bytes; it has some hundred.
const MOST_CONFIG: u64 = 1 << 20;

/// The file of the adapter that `path` names: itself, or what is in a directory of a run or of PEFT's.
///
/// # Errors
/// [`Error::Adapter`] for a directory of PEFT's without a model.
pub(super) fn find(path: &Path) -> Result<PathBuf> {
    let own = resolve(path).adapter;
    if !path.is_dir() || own.exists() {
        return Ok(own);
    }
    let found = MODELS.map(|name| path.join(name)).into_iter().find(|model| model.exists());
    match found {
        None if path.join(CONFIG).exists() => {
            let problem = format!("there is {CONFIG:?}, but the adapter itself, {:?}, is missing", MODELS[0]);
            Err(Error::Adapter { path: path.to_owned(), problem })
        }
        found => Ok(found.unwrap_or(own)),
    }
}

/// Whether the file at `path` is for [`read`] rather than an adapter of this program, sound or not.
pub(super) fn is_one(path: &Path) -> bool {
    if LoraInfo::is_one(path) {
        return false;
    }
    match format_of(path) {
        Ok(FileFormat::Pth) => true,
        Ok(FileFormat::Safetensors) => has_factors(path),
        _ => false,
    }
}

/// Whether the file at `path` can be read and has factors of low rank by the names that these programs give them.
pub(super) fn has_factors(path: &Path) -> bool {
    let is_some =
        |bytes: &[u8]| Ok(tensors_of(path, bytes)?.iter().any(|tensor| factor(&tensor.name).is_some()));
    matches!(format_of(path), Ok(FileFormat::Pth | FileFormat::Safetensors))
        && Mapped::open(path).and_then(|map| map.read(is_some)).unwrap_or(false)
}

/// What an adapter says of itself, without the model that it is for.
pub(super) fn info(path: &Path) -> Result<LoraInfo> {
    let fault = |problem: String| Error::Adapter { path: path.to_owned(), problem };
    let map = Mapped::open(path)?;
    map.read(|bytes| {
        let tensors = tensors_of(path, bytes)?;
        let found = tensors.iter().filter_map(|tensor| Some((factor(&tensor.name)?, &tensor.dims)));
        let downs: Vec<_> = found.filter(|((_, which), _)| *which == 0).collect();
        let Some(rank) = downs.first().and_then(|(_, dims)| dims.get(1).copied()) else {
            return Err(fault("it has no factors of matrices (lora_A, lora_B)".to_owned()));
        };
        let mut targets: Vec<_> =
            downs.iter().map(|((layer, _), _)| official_name(&format!("{layer}.weight"))).collect();
        targets.sort();
        let alpha = if is_peft(&tensors) { stated_alpha(path, rank)?.map(|(alpha, _)| alpha) } else { None };
        let n_params = tensors.iter().map(|tensor| tensor.dims.iter().product::<usize>()).sum();
        Ok(LoraInfo { base: None, rank, alpha, targets, n_params, bytes: bytes.len() as u64 })
    })
}

fn is_peft(tensors: &[TensorInfo]) -> bool {
    tensors.iter().any(|tensor| tensor.name.starts_with(PREFIX))
}

/// Reads the adapter at `path` for a model of these parameters.
pub(super) fn read(path: &Path, layout: &Layout, options: &LoraOptions) -> Result<Lora> {
    let fault = |problem: String| Error::Adapter { path: path.to_owned(), problem };
    if !options.allow_other_base {
        let problem = "it does not say which model it was trained on; if that is this one, also in another precision, say \
            so with the option allowOtherBase: with any other model the text is wrong, and no message says so";
        return Err(fault(problem.to_owned()));
    }
    let map = Mapped::open(path)?;
    map.read(|bytes| {
        let tensors = tensors_of(path, bytes)?;
        let pairs = pairs(path, &tensors, layout)?;
        let Some(rank) = pairs.iter().find_map(|pair| pair[0]?.dims.get(1).copied()) else {
            return Err(fault("it has no factors of matrices (lora_A, lora_B)".to_owned()));
        };
        let alpha = alpha(path, is_peft(&tensors), rank, options)?;
        let values = tensors.iter().map(|tensor| tensor.dims.iter().product::<usize>() as f64);
        machine::limit().check(4.0 * values.sum::<f64>()).map_err(Error::io("read", path))?;
        let mut factors = Vec::new();
        for (spec, pair) in layout.specs().iter().zip(pairs) {
            let [down, up] = match pair {
                [None, None] => continue,
                [Some(down), Some(up)] => [down, up],
                [Some(one), None] | [None, Some(one)] => {
                    return Err(fault(format!("tensor {:?} has no other factor beside it", one.name)));
                }
            };
            let down = values_of(path, bytes, down, [spec.cols, rank])?;
            let up = values_of(path, bytes, up, [rank, spec.rows])?;
            factors.push(Factors { name: spec.name.clone(), down, up });
        }
        Ok(Lora { base: None, rank, alpha, factors })
    })
}

/// The factors A and B of each parameter.
fn pairs<'a>(
    path: &Path,
    tensors: &'a [TensorInfo],
    layout: &Layout,
) -> Result<Vec<[Option<&'a TensorInfo>; 2]>> {
    let fault = |problem: String| Error::Adapter { path: path.to_owned(), problem };
    let mut pairs = vec![[None; 2]; layout.specs().len()];
    for tensor in tensors {
        let name = &tensor.name;
        let Some((layer, which)) = factor(name) else {
            let problem = format!(
                "tensor {name:?} is no factor of low rank (lora_A, lora_B); only LoRA of matrices can be used, without \
                 biases, magnitudes (DoRA) or parameters that were trained as a whole"
            );
            return Err(fault(problem));
        };
        let official = official_name(&format!("{layer}.weight"));
        let Some(index) = layout.find(&official).filter(|&index| layout.specs()[index].is_matrix()) else {
            return Err(fault(format!("tensor {name:?} is for {official:?}, which this model has not")));
        };
        if layout.specs()[index].is_embedding() {
            return Err(fault(of_embedding(&official)));
        }
        if let Some(first) = pairs[index][which].replace(tensor) {
            return Err(fault(format!("tensors {:?} and {name:?} are the same factor", first.name)));
        }
    }
    Ok(pairs)
}

/// The layer that a factor is for, as the program names it, and which factor that is: A or B.
fn factor(name: &str) -> Option<(&str, usize)> {
    let layer = name.strip_prefix(PREFIX).unwrap_or(name);
    let layer = layer.strip_suffix(".weight").unwrap_or(layer);
    // The adapter's own name, which only a wrapped model's state_dict() has.
    let layer = layer.strip_suffix(".default").unwrap_or(layer);
    let is = |(which, suffix)| Some((layer.strip_suffix(suffix)?, which));
    FACTORS.into_iter().enumerate().find_map(is)
}

/// The values of a factor of these dimensions, row length first.
fn values_of(path: &Path, bytes: &[u8], tensor: &TensorInfo, dims: [usize; 2]) -> Result<Vec<f32>> {
    let fault = |problem: String| Error::Adapter { path: path.to_owned(), problem };
    let TensorInfo { name, data_type, .. } = tensor;
    if tensor.dims != dims {
        let problem = format!(
            "tensor {name:?} has dimensions {:?}; it should have {dims:?} (row length first), for one rank in all matrices",
            tensor.dims
        );
        return Err(fault(problem));
    }
    if !matches!(data_type, DataType::F32 | DataType::F16 | DataType::BF16) {
        return Err(fault(format!("tensor {name:?} is {data_type}; it should be FP32, FP16 or BF16")));
    }
    let mut values = vec![0.0; dims[0] * dims[1]];
    data_type.decode(&bytes[tensor.data()], &mut values);
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(at) => Err(fault(format!("value {at} of tensor {name:?} is {}", values[at]))),
    }
}

/// What PEFT's configuration says, as far as it matters here.
#[derive(Deserialize)]
struct Config {
    peft_type: Option<String>,
    r: usize,
    lora_alpha: f32,
    use_rslora: Option<bool>,
    rank_pattern: Option<HashMap<String, Value>>,
    alpha_pattern: Option<HashMap<String, Value>>,
    init_lora_weights: Option<Value>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// Alpha, so that what is added is multiplied by alpha / rank.
fn alpha(path: &Path, is_peft: bool, rank: usize, options: &LoraOptions) -> Result<f32> {
    let fault = |problem: String| Error::Adapter { path: path.to_owned(), problem };
    let stated = if is_peft { stated_alpha(path, rank)? } else { None };
    let alpha = match (stated, options.alpha) {
        (None, None) if is_peft => {
            let problem = format!(
                "{CONFIG:?}, which says its alpha, is missing beside it; put it there, or give the option loraAlpha"
            );
            return Err(fault(problem));
        }
        (None, None) => {
            let problem = "files of RWKV-PEFT do not say their alpha; give the lora_alpha that it was trained with, with \
                the option loraAlpha";
            return Err(fault(problem.to_owned()));
        }
        (Some((_, written)), Some(_)) => {
            return Err(fault(format!("{CONFIG:?} says its alpha, {written}: leave out loraAlpha")));
        }
        (None, Some(alpha)) | (Some((alpha, _)), None) => alpha,
    };
    if alpha.is_finite() { Ok(alpha) } else { Err(fault(format!("its alpha is {alpha}"))) }
}

/// The alpha that PEFT's configuration beside `path` says, and how it is written there, if the configuration is there.
fn stated_alpha(path: &Path, rank: usize) -> Result<Option<(f32, f32)>> {
    let Some((config, file)) = config(path)? else { return Ok(None) };
    check(&file, &config, rank)?;
    // Rank-stabilized: it divides by the rank's root.
    let by = if config.use_rslora == Some(true) { (rank as f32).sqrt() } else { 1.0 };
    Ok(Some((config.lora_alpha * by, config.lora_alpha)))
}

/// PEFT's configuration beside `path`, and its own path, if it is there.
fn config(path: &Path) -> Result<Option<(Config, PathBuf)>> {
    let path = path.with_file_name(CONFIG);
    let file = match open_regular(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(Error::io("open", &path))?,
    };
    let mut text = Vec::new();
    file.take(MOST_CONFIG).read_to_end(&mut text).map_err(Error::io("read", &path))?;
    match serde_json::from_slice(&text) {
        Ok(config) => Ok(Some((config, path))),
        Err(error) => Err(Error::Adapter { path, problem: format!("not a configuration of PEFT: {error}") }),
    }
}

/// Refuses what the factors alone do not tell.
fn check(path: &Path, config: &Config, rank: usize) -> Result<()> {
    let fault = |problem: String| Err(Error::Adapter { path: path.to_owned(), problem });
    if let Some(kind) = config.peft_type.as_ref().filter(|kind| *kind != "LORA") {
        return fault(format!("\"peft_type\" is {kind:?}; only LORA can be used"));
    }
    if config.r != rank {
        return fault(format!("\"r\" is {}, and the factors have rank {rank}", config.r));
    }
    let is_variant = |name: &str| name.starts_with("use_") || name == "fan_in_fan_out";
    let is_true = |(name, value): &(&String, &Value)| is_variant(name) && **value == Value::Bool(true);
    if let Some((name, _)) = config.others.iter().find(is_true) {
        return fault(format!("{name:?} is true; only plain LoRA of linear layers can be used"));
    }
    for (name, pattern) in [("rank_pattern", &config.rank_pattern), ("alpha_pattern", &config.alpha_pattern)]
    {
        if pattern.as_ref().is_some_and(|pattern| !pattern.is_empty()) {
            return fault(format!("{name:?} is not empty; all matrices need the same rank and alpha"));
        }
    }
    // These take a part of the base's weights out when training begins.
    if let Some(Value::String(how)) = &config.init_lora_weights
        && ["pissa", "olora", "corda", "loftq", "lora_ga"].iter().any(|of| how.starts_with(of))
    {
        return fault(format!(
            "\"init_lora_weights\" is {how:?}, which changes the base; convert it to LoRA with PEFT \
             (save_pretrained with path_initial_model_for_weight_conversion)"
        ));
    }
    Ok(())
}
