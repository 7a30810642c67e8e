//! A file's directory against the model that its header describes.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::{Form, HEADER, Header, Place, TensorInfo, fault, unsupported};
use crate::config::{ModelConfig, Version};
use crate::error::{Error, Fault, Result};
use crate::model::{BadTensor, Network};
use crate::params::{Layout, ParamSpec};

/// The model's shape and parameters, and where each parameter is.
pub(super) fn against_layout(
    path: &Path,
    file_len: usize,
    header: &Header,
    tensors: &[TensorInfo],
) -> Result<(ModelConfig, Layout, Vec<Place>)> {
    let file = Directory::new(path, file_len, tensors)?;
    let config = file.config(header)?;
    let (_, layout, _) = Network::new(&config);
    let specs = layout.specs().iter();
    let places = specs.map(|spec| file.expect(spec.tensor(), spec, header)).collect::<Result<Vec<_>>>()?;
    let mut extra: Vec<_> = tensors.iter().map(|tensor| !config.version.is_unused(&tensor.name)).collect();
    for place in &places {
        extra[place.tensor] = false;
    }
    if let Some((_, extra)) = extra.iter().zip(tensors).find(|(extra, _)| **extra) {
        let problem = format!("RWKV {} with {} layers has no such tensor", config.version, config.n_layer);
        return Err(fault(path, Some(&extra.name), extra.offset, problem).of_kind(Fault::Name));
    }
    Ok((config, layout, places))
}

/// Refuses a file with two tensors of one name, or without one that its model has: it was cut between two.
///
/// Files of every version have some tensors, and blocks that are alike. Those of versions that can be run have
/// all of the layout besides.
pub(super) fn whole(path: &Path, file_len: usize, header: &Header, tensors: &[TensorInfo]) -> Result<()> {
    let file = Directory::new(path, file_len, tensors)?;
    file.find("emb.weight")?;
    // Before anything takes memory by this number.
    let n_layer = file.n_layer(header)?;
    // First what is so in all versions: of what was cut within its first block, the version is not known.
    file.blocks_alike(n_layer, tensors)?;
    for name in ["ln_out.weight", "ln_out.bias", "head.weight"] {
        file.find(name)?;
    }
    let dims = |name: &str| file.tensors.get(name).map(|(_, tensor)| tensor.dims.as_slice());
    let Ok(version) = Version::of_file(&dims) else { return Ok(()) };
    let sizes = version.sizes(&dims).unwrap_or_default();
    let config = ModelConfig { version, n_vocab: 1, n_embd: 1, n_layer, n_ffn: 1, sizes };
    let (_, layout, _) = Network::new(&config);
    layout.specs().iter().try_for_each(|spec| file.find(spec.tensor()).map(drop))
}

/// What the first block alone has, in files of any version: the norm of the embedding.
const FIRST_ALONE: [&str; 2] = ["ln0.weight", "ln0.bias"];
/// What it alone has not: RWKV-7 mixes the first block's value into those of the later ones.
const LATER_ALONE: [&str; 3] = ["att.v0", "att.v1", "att.v2"];

/// The tensors of a file by name.
struct Directory<'a> {
    path: &'a Path,
    file_len: usize,
    tensors: HashMap<&'a str, (usize, &'a TensorInfo)>,
}

impl<'a> Directory<'a> {
    fn new(path: &'a Path, file_len: usize, tensors: &'a [TensorInfo]) -> Result<Self> {
        let mut by_name = HashMap::with_capacity(tensors.len());
        for (position, tensor) in tensors.iter().enumerate() {
            if let Some((_, first)) = by_name.insert(tensor.name.as_str(), (position, tensor)) {
                let problem = format!("a second tensor of this name; the first is at byte {}", first.offset);
                return Err(fault(path, Some(&tensor.name), tensor.offset, problem).of_kind(Fault::Name));
            }
        }
        Ok(Self { path, file_len, tensors: by_name })
    }

    /// The shape, once it is certain that the file has all that it implies.
    ///
    /// Layouts and states are allocated by the shape, and a few bytes of a header must not ask for gigabytes
    /// of those. So each number is first compared with tensors that are there: the widths with two matrices,
    /// and then the number of layers by looking for what a second layer would have in every further one.
    fn config(&self, header: &Header) -> Result<ModelConfig> {
        let Header { n_vocab, n_embd, n_layer, .. } = *header;
        let (n_vocab, n_embd, n_layer) = (n_vocab as usize, n_embd as usize, n_layer as usize);
        let emb = self.find("emb.weight")?.1;
        self.expect_dims(emb, &[n_embd, n_vocab], header)?;
        let dims = |name: &str| self.tensors.get(name).map(|(_, tensor)| tensor.dims.as_slice());
        let version = Version::of_file(&dims).map_err(|found| {
            let ours: Vec<_> = Version::ALL.iter().map(|version| version.name()).collect();
            let what = format!("this is an RWKV {found} model; only RWKV {} can be run yet", ours.join(", "));
            unsupported(self.path, what).of_kind(Fault::Version)
        })?;
        let sizes = version.sizes(&dims).map_err(|bad| self.explain(bad))?;
        // Four times n_embd in published models, but small ones differ, and nothing in the header says so.
        let key = self.find("blocks.0.ffn.key.weight")?.1;
        let n_ffn = key.dims.get(1).copied().unwrap_or(1);
        self.expect_dims(key, &[n_embd, n_ffn], header)?;
        self.n_layer(header)?;
        let config = ModelConfig { version, n_vocab, n_embd, n_layer, n_ffn, sizes };
        let (_, two_layers, _) = Network::new(&ModelConfig { n_layer: 2, ..config });
        let of_a_layer: Vec<_> = two_layers
            .specs()
            .iter()
            .filter_map(|spec| Some((spec.tensor().strip_prefix("blocks.1.")?, spec)))
            .collect();
        for layer in 1..n_layer {
            for (name, spec) in &of_a_layer {
                self.expect(&format!("blocks.{layer}.{name}"), spec, header)?;
            }
        }
        Ok(config)
    }

    /// The number of layers, if there are as many tensors.
    fn n_layer(&self, header: &Header) -> Result<usize> {
        let (n_layer, n_tensors) = (header.n_layer as usize, self.tensors.len());
        if n_layer <= n_tensors {
            return Ok(n_layer);
        }
        let problem = format!("n_layer is {n_layer}, but the file has {n_tensors} tensors in all");
        Err(fault(self.path, None, HEADER - 8, problem).of_kind(Fault::Missing))
    }

    /// Refuses a file without a tensor that another block of it has.
    fn blocks_alike(&self, n_layer: usize, tensors: &[TensorInfo]) -> Result<()> {
        for name in FIRST_ALONE {
            self.find(&format!("blocks.0.{name}"))?;
        }
        let mut seen = HashSet::new();
        // In the order in which the file first has them, so that the first missing one is named.
        let names = tensors.iter().filter_map(|tensor| {
            let (layer, name) = tensor.name.strip_prefix("blocks.")?.split_once('.')?;
            let is_ours = layer.parse::<usize>().is_ok_and(|layer| layer < n_layer);
            (is_ours && !FIRST_ALONE.contains(&name) && seen.insert(name)).then_some(name)
        });
        let names: Vec<_> = names.collect();
        for layer in 0..n_layer {
            for name in names.iter().filter(|name| layer > 0 || !LATER_ALONE.contains(name)) {
                self.find(&format!("blocks.{layer}.{name}"))?;
            }
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<(usize, &'a TensorInfo)> {
        let missing = || fault(self.path, Some(name), self.file_len, "the file ended without this tensor");
        self.tensors.get(name).copied().ok_or_else(|| missing().of_kind(Fault::Missing))
    }

    /// What a version said of a tensor.
    fn explain(&self, BadTensor { name, problem }: BadTensor) -> Error {
        match (self.find(&name), problem) {
            (Err(missing), _) => missing,
            (Ok((_, tensor)), problem) => {
                let problem = problem.unwrap_or_else(|| format!("dimensions {:?}", tensor.dims));
                fault(self.path, Some(&name), tensor.offset, problem).of_kind(Fault::Dimensions)
            }
        }
    }

    /// Where the parameter is that `spec` describes, in the tensor `name`.
    fn expect(&self, name: &str, spec: &ParamSpec, header: &Header) -> Result<Place> {
        let (position, tensor) = self.find(name)?;
        self.expect_dims(tensor, &spec.dims, header)?;
        if tensor.data_type.is_quantized() && !spec.is_matrix() {
            let problem = format!("a vector stored as {}; expected FP32 or FP16", tensor.data_type);
            return Err(fault(self.path, Some(name), tensor.offset, problem).of_kind(Fault::DataType));
        }
        let mut data = tensor.data.clone();
        if let Some(packed) = &spec.packed {
            // The tensor has the dimensions of all its parts, so it can be cut.
            let len = data.len() / packed.of;
            data = data.start + packed.index * len..data.start + (packed.index + 1) * len;
        }
        Ok(Place { tensor: position, data, form: Form::AsRead })
    }

    fn expect_dims(&self, tensor: &TensorInfo, dims: &[usize], header: &Header) -> Result<()> {
        if tensor.dims == dims {
            return Ok(());
        }
        Err(self.wrong_dims(tensor, dims, header))
    }

    fn wrong_dims(&self, tensor: &TensorInfo, dims: &[usize], header: &Header) -> Error {
        let Header { n_vocab, n_embd, n_layer, .. } = header;
        let problem = format!(
            "dimensions {:?}; a model with n_vocab {n_vocab}, n_embd {n_embd}, n_layer {n_layer} has {dims:?} here \
             (row length first)",
            tensor.dims
        );
        fault(self.path, Some(&tensor.name), tensor.offset, problem).of_kind(Fault::Dimensions)
    }
}
