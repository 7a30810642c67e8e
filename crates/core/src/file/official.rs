//! Tensors of checkpoints, under whatever names, against the model that they make.
//!
//! A file's names are first brought to those of official checkpoints ([`Dialect`]); the version follows from the
//! names, the shape from dimensions that are there. How a tensor's values relate to a parameter's is said in its
//! [`Place`].

use std::collections::HashMap;
use std::path::Path;

use super::{Form, Place, TensorInfo, fault, unsupported};
use crate::config::{ModelConfig, Version};
use crate::error::{Error, Fault, Result};
use crate::model::names::{Dialect, of_block, pattern};
use crate::model::{BadTensor, LowRank, Network};
use crate::params::{Layout, ParamSpec, Stored};

/// What is known of a file's names before they are looked at.
pub(super) enum Source {
    /// A checkpoint of PyTorch, or safetensors.
    Checkpoint,
    /// GGUF of a version of RWKV, with heads of this size.
    Gguf { version: Version, head_size: usize },
}

/// A tensor of the file, or a part of one, under its official name.
struct Named {
    tensor: usize,
    /// Which of how many equal parts.
    part: (usize, usize),
    /// Row length first; of a factor of low rank as it is multiplied.
    dims: Vec<usize>,
    is_transposed: bool,
}

/// All tensors of a file by their official names.
struct Checkpoint<'a> {
    path: &'a Path,
    file_len: usize,
    tensors: &'a [TensorInfo],
    named: HashMap<String, Named>,
    source: Source,
}

/// The model's shape and parameters, and where each parameter is.
pub(super) fn against_layout(
    path: &Path,
    file_len: usize,
    tensors: &[TensorInfo],
    source: Source,
) -> Result<(ModelConfig, Layout, Vec<Place>)> {
    let mut file =
        Checkpoint { path, file_len, tensors, named: HashMap::with_capacity(tensors.len()), source };
    file.name_all()?;
    let version = file.version()?;
    file.turn_factors(version);
    let config = file.config(version)?;
    let (_, layout, _) = Network::new(&config);
    let places = layout.specs().iter().map(|spec| file.place(spec, &config)).collect::<Result<Vec<_>>>()?;
    let used: std::collections::HashSet<_> = layout.specs().iter().map(|spec| spec.name.as_str()).collect();
    let mut extra: Vec<_> = file
        .named
        .iter()
        .filter(|(name, _)| !used.contains(name.as_str()) && !version.is_unused(name))
        .map(|(_, named)| &tensors[named.tensor])
        .collect();
    extra.sort_by_key(|tensor| tensor.offset);
    if let Some(extra) = extra.first() {
        let problem = format!("RWKV {version} with {} layers has no such tensor", config.n_layer);
        return Err(fault(path, Some(&extra.name), extra.offset, problem).of_kind(Fault::Name));
    }
    Ok((config, layout, places))
}

impl Checkpoint<'_> {
    /// Finds the official name of every tensor.
    fn name_all(&mut self) -> Result<()> {
        for (tensor, info) in self.tensors.iter().enumerate() {
            let add = |file: &mut Self, name: String, part: (usize, usize)| {
                let mut dims = info.dims.clone();
                if part.1 > 1 {
                    // The vectors are rows of the tensor: their number is one of its other dimensions.
                    let own = dims.first().copied().unwrap_or(1);
                    if dims.iter().skip(1).product::<usize>() != part.1 {
                        let problem = format!("dimensions {dims:?}; expected {} vectors", part.1);
                        let error = fault(file.path, Some(&info.name), info.offset, problem);
                        return Err(error.of_kind(Fault::Dimensions));
                    }
                    dims = vec![own];
                }
                let named = Named { tensor, part, dims, is_transposed: false };
                match file.named.insert(name.clone(), named) {
                    None => Ok(()),
                    Some(first) => {
                        let first = &file.tensors[first.tensor].name;
                        let problem = format!("a second tensor that is {name:?}; the first is {first:?}");
                        Err(fault(file.path, Some(&info.name), info.offset, problem).of_kind(Fault::Name))
                    }
                }
            };
            match &self.source {
                Source::Checkpoint => {
                    let name = Self::official(&info.name);
                    add(self, name, (0, 1))?;
                }
                Source::Gguf { version, .. } => {
                    let (of, block) = pattern(&info.name);
                    match version.fused() {
                        Some((fused, parts)) if fused == of => {
                            for (index, part) in parts.iter().enumerate() {
                                add(self, of_block(part, block), (index, parts.len()))?;
                            }
                        }
                        _ => {
                            let name = look_up(*version, Dialect::Gguf, &info.name);
                            add(self, name.unwrap_or_else(|| info.name.clone()), (0, 1))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The official name of a tensor of a checkpoint: its own, if nothing else is known.
    fn official(name: &str) -> String {
        let stripped = ["model.", "rwkv7.", "rwkv."].iter().find_map(|prefix| name.strip_prefix(prefix));
        let name = stripped.unwrap_or(name);
        let found = Version::ALL.iter().find_map(|&version| look_up(version, Dialect::HuggingFace, name));
        if let Some(found) = found {
            return found;
        }
        // Checkpoints of transformers-rwkv hold official names, but factors of low rank as layers.
        match name.strip_suffix(".weight") {
            Some(factor) if Version::ALL.iter().any(|version| version.low_rank(factor).is_some()) => {
                factor.to_owned()
            }
            _ => name.to_owned(),
        }
    }

    fn version(&self) -> Result<Version> {
        let dims = |name: &str| self.named.get(name).map(|named| named.dims.as_slice());
        for name in ["emb.weight", "blocks.0.ln1.weight"] {
            if dims(name).is_none() {
                let problem = format!("there is no tensor {name:?} by any name; this is no RWKV model");
                return Err(fault(self.path, None, self.file_len, problem).of_kind(Fault::Missing));
            }
        }
        if dims("blocks.0.ln0.weight").is_none() {
            let what = "its embedding has the norm blocks.0.ln0 in it already; use the original checkpoint";
            return Err(unsupported(self.path, what).of_kind(Fault::Missing));
        }
        let found = Version::of_file(&dims).map_err(|found| {
            let ours: Vec<_> = Version::ALL.iter().map(|version| version.name()).collect();
            let what = format!("this is an RWKV {found} model; only RWKV {} can be run yet", ours.join(", "));
            unsupported(self.path, what).of_kind(Fault::Version)
        })?;
        match self.source {
            Source::Gguf { version, .. } if version != found => {
                let problem =
                    format!("the file says RWKV {version}, but its tensors are those of RWKV {found}");
                Err(fault(self.path, None, 0, problem).of_kind(Fault::Version))
            }
            _ => Ok(found),
        }
    }

    /// Width of the residual stream.
    fn n_embd(&self) -> usize {
        self.named.get("emb.weight").and_then(|named| named.dims.first().copied()).unwrap_or(0)
    }

    /// Finds out how factors of low rank lie, and gives the bonus the dimensions of heads.
    ///
    /// A factor has n_embd on one side, and the rank, which is smaller, on the other; all factors of a file lie
    /// alike. Only if every rank is n_embd does the dialect tell.
    fn turn_factors(&mut self, version: Version) {
        let n_embd = self.n_embd();
        let lies_turned = |side: LowRank, dims: &[usize]| {
            let &[row, rows] = dims else { return None };
            let of_width = [row == n_embd, rows == n_embd];
            match (side, of_width) {
                (_, [true, true] | [false, false]) => None,
                (LowRank::Down, [is_row, _]) => Some(!is_row),
                (LowRank::Up, [_, is_rows]) => Some(!is_rows),
            }
        };
        let sides = |name: &String| version.low_rank(name);
        let told = self.named.iter().find_map(|(name, named)| lies_turned(sides(name)?, &named.dims));
        let is_official = |named: &Named| {
            let name = &self.tensors[named.tensor].name;
            matches!(self.source, Source::Checkpoint)
                && version.low_rank(Self::official(name).as_str()).is_some()
                && !name.contains("lora")
                && !name.ends_with(".weight")
        };
        let by_default = self.named.iter().any(|(name, named)| sides(name).is_some() && is_official(named));
        let is_turned = told.unwrap_or(by_default);
        for (name, named) in &mut self.named {
            if version.low_rank(name).is_some() && is_turned {
                named.is_transposed = true;
                named.dims.reverse();
            }
        }
        if let Source::Gguf { head_size, .. } = self.source {
            for (name, named) in &mut self.named {
                if name.ends_with("att.r_k") && named.dims == [n_embd] && head_size > 0 {
                    named.dims = vec![head_size, n_embd / head_size];
                }
            }
        }
    }

    /// The shape, once it is certain that the file has all that it implies: as `check.rs` does for rwkv.cpp's files.
    fn config(&self, version: Version) -> Result<ModelConfig> {
        let n_embd = self.n_embd();
        let n_vocab = match self.find("emb.weight")?.dims.as_slice() {
            [_, n_vocab] => *n_vocab,
            _ => return Err(self.wrong_dims("emb.weight", "two dimensions")),
        };
        let blocks = self
            .named
            .keys()
            .filter_map(|name| name.strip_prefix("blocks.")?.split('.').next()?.parse().ok());
        let n_layer = blocks.max().unwrap_or(0_usize).saturating_add(1);
        if n_layer > self.named.len() {
            let last = format!("blocks.{}.", n_layer - 1);
            let name = self.named.keys().find(|name| name.starts_with(&last)).map_or("", String::as_str);
            let problem =
                format!("a tensor of block {}, but there are {} tensors", n_layer - 1, self.named.len());
            return Err(self.about(name, problem).of_kind(Fault::Name));
        }
        let dims = |name: &str| self.named.get(name).map(|named| named.dims.as_slice());
        let sizes = version.sizes(&dims).map_err(|BadTensor { name, problem }| match self.find(&name) {
            Err(missing) => missing,
            Ok(named) => {
                let problem = problem.unwrap_or_else(|| format!("dimensions {:?}", named.dims));
                self.about(&name, problem).of_kind(Fault::Dimensions)
            }
        })?;
        let key = "blocks.0.ffn.key.weight";
        let n_ffn = match self.find(key)?.dims.as_slice() {
            [_, n_ffn] => *n_ffn,
            _ => return Err(self.wrong_dims(key, "two dimensions")),
        };
        // Layouts are made by these numbers: that all layers are there is seen before all of them are declared.
        let config = ModelConfig { version, n_vocab, n_embd, n_layer, n_ffn, sizes };
        let (_, two_layers, _) = Network::new(&ModelConfig { n_layer: 2, ..config });
        for layer in 1..n_layer {
            for spec in two_layers.specs() {
                if let Some(name) = spec.name.strip_prefix("blocks.1.") {
                    self.find(&format!("blocks.{layer}.{name}"))?;
                }
            }
        }
        Ok(config)
    }

    fn find(&self, name: &str) -> Result<&Named> {
        let missing = || {
            let problem = "the file has no such tensor, by this or another name";
            fault(self.path, Some(name), self.file_len, problem).of_kind(Fault::Missing)
        };
        self.named.get(name).ok_or_else(missing)
    }

    fn place(&self, spec: &ParamSpec, config: &ModelConfig) -> Result<Place> {
        let named = self.find(&spec.name)?;
        let tensor = &self.tensors[named.tensor];
        let is_right = if spec.is_matrix() {
            named.dims == [spec.cols, spec.rows]
        } else {
            // Vectors have dimensions of 1 about them, or are cut into heads.
            named.dims.iter().try_fold(1_usize, |len, &dim| len.checked_mul(dim)) == Some(spec.len())
        };
        if !is_right {
            let ModelConfig { n_vocab, n_embd, n_layer, .. } = config;
            let expected = if spec.is_matrix() { vec![spec.cols, spec.rows] } else { vec![spec.cols] };
            let problem = format!(
                "dimensions {:?}; a model with n_vocab {n_vocab}, n_embd {n_embd}, n_layer {n_layer} has {expected:?} \
                 here (row length first)",
                tensor.dims
            );
            return Err(
                fault(self.path, Some(&tensor.name), tensor.offset, problem).of_kind(Fault::Dimensions)
            );
        }
        if tensor.data_type.is_quantized() && (!spec.is_matrix() || named.is_transposed || named.part.1 > 1) {
            let problem = format!("stored as {}; expected FP32, FP16 or BF16", tensor.data_type);
            return Err(fault(self.path, Some(&tensor.name), tensor.offset, problem).of_kind(Fault::DataType));
        }
        let (index, of) = named.part;
        let len = tensor.data.len() / of;
        let start = tensor.data.start + index * len;
        let form = match (named.is_transposed, spec.stored) {
            (true, _) => Form::Transposed,
            (false, Stored::Raw) => Form::AsRead,
            (false, _) => Form::Raw,
        };
        Ok(Place { tensor: named.tensor, data: start..start + len, form })
    }

    /// An error about the tensor that is `name`, under its own.
    fn about(&self, name: &str, problem: String) -> Error {
        let tensor = self.named.get(name).map(|named| &self.tensors[named.tensor]);
        let (own, offset) = tensor.map_or((name, self.file_len), |tensor| (&tensor.name, tensor.offset));
        fault(self.path, Some(own), offset, problem)
    }

    fn wrong_dims(&self, name: &str, expected: &str) -> Error {
        let dims = self.named.get(name).map(|named| named.dims.clone()).unwrap_or_default();
        self.about(name, format!("dimensions {dims:?}; expected {expected}")).of_kind(Fault::Dimensions)
    }
}

/// The official name of what a dialect calls `name`.
fn look_up(version: Version, dialect: Dialect, name: &str) -> Option<String> {
    let (of, block) = pattern(name);
    version.names().iter().find_map(|names| {
        let theirs = names.of(dialect)?;
        if theirs == name {
            return Some(names.official.to_owned());
        }
        (theirs == of).then(|| of_block(names.official, block))
    })
}
