//! Tensors of checkpoints, under whatever names, against the model that they make.
//!
//! A file's names are first brought to those of official checkpoints ([`Dialect`]); the version follows from the
//! names, the shape from dimensions that are there. How a tensor's values relate to a parameter's is said in its
//! [`Place`].

use std::collections::{HashMap, HashSet};
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

/// How a checkpoint names the tensors of its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Naming {
    Authors,
    HuggingFace,
}

impl Naming {
    fn whose(self) -> &'static str {
        match self {
            Self::Authors => "as RWKV's authors name them",
            Self::HuggingFace => "as Hugging Face's models do",
        }
    }
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
    /// Known once names are.
    version: Version,
    /// Of a checkpoint: how it names the tensors of its blocks, and the first that tells.
    naming: Option<(Naming, usize)>,
}

/// The model's shape and parameters, and where each parameter is.
pub(super) fn against_layout(
    path: &Path,
    file_len: usize,
    tensors: &[TensorInfo],
    source: Source,
) -> Result<(ModelConfig, Layout, Vec<Place>)> {
    let mut file = Checkpoint {
        path,
        file_len,
        tensors,
        named: HashMap::with_capacity(tensors.len()),
        source,
        version: Version::ALL[0],
        naming: None,
    };
    file.name_all()?;
    let version = file.version()?;
    file.version = version;
    file.turn_factors()?;
    let config = file.config()?;
    let (_, layout, _) = Network::new(&config);
    let places = layout.specs().iter().map(|spec| file.place(spec, &config)).collect::<Result<Vec<_>>>()?;
    let used: HashSet<_> = layout.specs().iter().map(|spec| spec.name.as_str()).collect();
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
                    let (name, naming) = official(&info.name);
                    add(self, name, (0, 1))?;
                    self.refuse_mixture(tensor, naming)?;
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
                            let Some(name) = look_up(*version, Dialect::Gguf, &info.name) else {
                                let problem = format!("RWKV {version} has no such tensor in GGUF files");
                                let error = fault(self.path, Some(&info.name), info.offset, problem);
                                return Err(error.of_kind(Fault::Name));
                            };
                            add(self, name, (0, 1))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Refuses a checkpoint of two namings: of two models, or half converted.
    fn refuse_mixture(&mut self, tensor: usize, naming: Option<Naming>) -> Result<()> {
        let Some(naming) = naming else { return Ok(()) };
        let (first, at) = *self.naming.get_or_insert((naming, tensor));
        if first == naming {
            return Ok(());
        }
        let (own, other) = (&self.tensors[tensor], &self.tensors[at].name);
        let problem = format!(
            "it is named {}, but {other:?} {}: the file mixes two models, or was converted in part; get the original",
            naming.whose(),
            first.whose()
        );
        Err(fault(self.path, Some(&own.name), own.offset, problem).of_kind(Fault::Name))
    }

    fn version(&self) -> Result<Version> {
        if let Source::Gguf { version, .. } = self.source {
            return Ok(version);
        }
        let dims = |name: &str| self.named.get(name).map(|named| named.dims.as_slice());
        for name in ["emb.weight", "blocks.0.ln1.weight"] {
            if dims(name).is_none() {
                let problem = format!(
                    "there is no tensor {name:?}, nor what other programs call it: this is no RWKV model"
                );
                return Err(fault(self.path, None, self.file_len, problem).of_kind(Fault::Missing));
            }
        }
        if dims("blocks.0.ln0.weight").is_none() {
            let what = "the norm of its embedding (blocks.0.ln0) is not there: some programs multiply it into the \
                        embedding when they convert a model, which cannot be undone; use the model that this was made from";
            return Err(unsupported(self.path, what).of_kind(Fault::Missing));
        }
        Version::of_file(&dims).map_err(|found| {
            let ours: Vec<_> = Version::ALL.iter().map(|version| version.name()).collect();
            let what = format!("this is an RWKV {found} model; only RWKV {} can be run yet", ours.join(", "));
            unsupported(self.path, what).of_kind(Fault::Version)
        })
    }

    /// Width of the residual stream.
    fn n_embd(&self) -> usize {
        self.named.get("emb.weight").and_then(|named| named.dims.first().copied()).unwrap_or(0)
    }

    /// Finds out how factors of low rank lie, and gives the bonus the dimensions of heads.
    ///
    /// A factor has n_embd on one side, and the rank, which is smaller, on the other; all factors of a file lie
    /// alike. Only if every rank is n_embd does the dialect tell.
    fn turn_factors(&mut self) -> Result<()> {
        let (version, n_embd) = (self.version, self.n_embd());
        let lies_turned = |side: LowRank, dims: &[usize]| {
            let &[row, rows] = dims else { return None };
            let of_width = [row == n_embd, rows == n_embd];
            match (side, of_width) {
                (_, [true, true] | [false, false]) => None,
                (LowRank::Down, [is_row, _]) => Some(!is_row),
                (LowRank::Up, [_, is_rows]) => Some(!is_rows),
            }
        };
        // In the file's order, so that it is always the same that is named.
        let mut factors: Vec<_> = self
            .named
            .iter()
            .filter(|(name, _)| !version.is_unused(name))
            .filter_map(|(name, named)| Some((version.low_rank(name)?, named)))
            .collect();
        factors.sort_by_key(|(_, named)| named.tensor);
        let told = |(side, named): &(LowRank, &Named)| lies_turned(*side, &named.dims);
        let turned = factors.iter().filter(|factor| told(factor) == Some(true)).count();
        let as_read = factors.iter().filter(|factor| told(factor) == Some(false)).count();
        let is_turned = if turned + as_read > 0 {
            turned > as_read
        } else {
            // As the authors' checkpoints hold them, unless they are named as layers.
            self.naming.is_some_and(|(naming, _)| naming == Naming::Authors)
                && !factors.iter().any(|(_, named)| is_layer(&self.tensors[named.tensor].name))
        };
        if let Some((_, other)) = factors.iter().find(|factor| told(factor) == Some(!is_turned)) {
            let tensor = &self.tensors[other.tensor];
            let problem = format!(
                "dimensions {:?} (row length first); the other factors of low rank lie the other way round in this file",
                tensor.dims
            );
            let error = fault(self.path, Some(&tensor.name), tensor.offset, problem);
            return Err(error.of_kind(Fault::Dimensions));
        }
        for (name, named) in &mut self.named {
            if version.low_rank(name).is_some() && is_turned {
                named.is_transposed = true;
                named.dims.reverse();
            }
        }
        if let Source::Gguf { head_size, .. } = self.source {
            for (name, named) in &mut self.named {
                // It was seen to divide the embedding's width.
                if name.ends_with("att.r_k") && named.dims == [n_embd] {
                    named.dims = vec![head_size, n_embd / head_size];
                }
            }
        }
        Ok(())
    }

    /// The shape, once it is certain that the file has all that it implies: as `check.rs` does for rwkv.cpp's files.
    fn config(&self) -> Result<ModelConfig> {
        let (version, n_embd) = (self.version, self.n_embd());
        let n_vocab = match self.find("emb.weight")?.dims.as_slice() {
            [_, n_vocab] => *n_vocab,
            _ => return Err(self.wrong_dims("emb.weight", "two dimensions")),
        };
        let n_layer = self.n_layer()?;
        let dims = |name: &str| self.named.get(name).map(|named| named.dims.as_slice());
        let sizes = version.sizes(&dims).map_err(|BadTensor { name, problem }| match self.find(&name) {
            Err(missing) => missing,
            Ok(named) => {
                let problem =
                    problem.unwrap_or_else(|| format!("dimensions {:?} tell no size of a model", named.dims));
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

    /// The number of layers: a tensor of each is there.
    fn n_layer(&self) -> Result<usize> {
        let of_block = |(name, named): (&String, &Named)| {
            let block: usize = name.strip_prefix("blocks.")?.split('.').next()?.parse().ok()?;
            Some((block, named.tensor))
        };
        let mut blocks: Vec<_> = self.named.iter().filter_map(of_block).collect();
        blocks.sort_unstable();
        let mut expected = 0;
        for (block, tensor) in blocks {
            if block > expected {
                let tensor = &self.tensors[tensor];
                let problem = format!(
                    "a tensor of block {block}, but the file has none of block {expected}, counted from 0"
                );
                let error = fault(self.path, Some(&tensor.name), tensor.offset, problem);
                return Err(error.of_kind(Fault::Missing));
            }
            // No overflow: there are fewer tensors.
            expected = block + 1;
        }
        Ok(expected)
    }

    fn find(&self, name: &str) -> Result<&Named> {
        let missing = || {
            let problem = format!(
                "the file has no such tensor, and RWKV {} needs it; {}",
                self.version,
                super::read::GET_IT_AGAIN
            );
            fault(self.path, Some(&self.own_name(name)), self.file_len, problem).of_kind(Fault::Missing)
        };
        self.named.get(name).ok_or_else(missing)
    }

    /// What the file would call the tensor `name`, which it does not have.
    fn own_name(&self, name: &str) -> String {
        let (of, block) = pattern(name);
        let translated = |dialect| {
            let names =
                self.version.names().iter().find(|names| names.official == of || names.official == name);
            names.and_then(|names| names.of(dialect)).map(|of| of_block(of, block))
        };
        match (&self.source, self.naming) {
            (Source::Gguf { .. }, _) => {
                let fused = self.version.fused().filter(|(_, parts)| parts.contains(&of.as_str()));
                let fused = fused.map(|(fused, _)| of_block(fused, block));
                fused.or_else(|| translated(Dialect::Gguf)).unwrap_or_else(|| name.to_owned())
            }
            (_, Some((Naming::HuggingFace, first))) => {
                let prefix = prefix(&self.tensors[first].name);
                // The head stands beside the model.
                let prefix = if name.starts_with("head.") { "" } else { prefix };
                translated(Dialect::HuggingFace)
                    .map_or_else(|| name.to_owned(), |own| format!("{prefix}{own}"))
            }
            (_, Some((Naming::Authors, first))) if !name.starts_with("head.") => {
                let first = &self.tensors[first].name;
                let is_layer = self.version.low_rank(name).is_some()
                    && self.tensors.iter().any(|tensor| is_layer(&tensor.name));
                format!("{}{name}{}", prefix(first), if is_layer { ".weight" } else { "" })
            }
            _ => name.to_owned(),
        }
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
            let expected = match (spec.is_matrix(), named.is_transposed) {
                (true, false) => vec![spec.cols, spec.rows],
                (true, true) => vec![spec.rows, spec.cols],
                (false, _) => vec![spec.cols],
            };
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

/// The official name of a tensor of a checkpoint, its own if nothing else is known.
pub(crate) fn official_name(name: &str) -> String {
    official(name).0
}

/// The official name of a tensor of a checkpoint, its own if nothing else is known, and whose names it tells to be the
/// file's: those outside of blocks tell nothing, and some are the same.
fn official(name: &str) -> (String, Option<Naming>) {
    let stripped = &name[prefix(name).len()..];
    let found = Version::ALL.iter().find_map(|&version| look_up(version, Dialect::HuggingFace, stripped));
    let is_of_block = pattern(stripped).1.is_some();
    if let Some(found) = found {
        let naming = (is_of_block && found != stripped).then_some(Naming::HuggingFace);
        return (found, naming);
    }
    // Checkpoints of transformers-rwkv hold official names, but factors of low rank as layers.
    let own = if is_layer(name) { stripped.strip_suffix(".weight").unwrap_or(stripped) } else { stripped };
    let is_known = |&version: &Version| look_up(version, Dialect::Official, own).is_some();
    let naming = (is_of_block && Version::ALL.iter().any(is_known)).then_some(Naming::Authors);
    (own.to_owned(), naming)
}

/// What stands before names in files of Hugging Face's.
fn prefix(name: &str) -> &str {
    ["model.", "rwkv7.", "rwkv."].into_iter().find(|&prefix| name.starts_with(prefix)).unwrap_or("")
}

/// Whether a tensor is a factor of low rank that is named as the weight of a layer.
fn is_layer(name: &str) -> bool {
    let factor = name[prefix(name).len()..].strip_suffix(".weight");
    factor.is_some_and(|factor| Version::ALL.iter().any(|version| version.low_rank(factor).is_some()))
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
