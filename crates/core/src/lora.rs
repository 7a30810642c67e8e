//! Low-rank adapters as files: a small `.safetensors` beside the model that they change.
//!
//! For each matrix W (rows, cols) that is adapted the file has `<name>.lora_a` (rank, cols) and
//! `<name>.lora_b` (rows, rank), FP32, and the product is `x Wᵀ + α/rank · (x Aᵀ) Bᵀ` (LoRA: Hu et al.,
//! <https://arxiv.org/abs/2106.09685>). The metadata holds one entry, `rwkv_lora`: a JSON object with
//! `version` (2), `rank`, `alpha`, `base`, the [`Fingerprint`] of the model that the adapter was trained on,
//! in hexadecimal, and `crc32`, the CRC-32 of that object as compact JSON with `crc32` 0, followed by all
//! bytes after the file's header. An adapter means nothing on another base, and is refused there, unless
//! [`LoraOptions::allow_other_base`] says that the other is the same model in another precision, say. (One entry, because
//! the order of several in a file would differ from one writing to the next.)

mod export;
mod info;
mod merge;
mod peft;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorView};
use safetensors::{SafeTensors, serialize};
use serde::{Deserialize, Serialize};

use crate::atomic::Staged;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::fingerprint::{Fingerprint, OF_A_PART, OR_ALLOW};
use crate::machine;
use crate::params::{Initial, Layout, Matrix, ParamSpec};
use crate::regular::open_regular;
use crate::store::{Adapter, Parameters};

pub use self::export::{Exported, LoraFormat, export};
pub use self::info::LoraInfo;
pub use self::merge::{Merged, merge, merge_with};

/// The entry of the metadata.
const ENTRY: &str = "rwkv_lora";
const VERSION: u32 = 2;

/// What an adapter's file says of it.
#[derive(Serialize, Deserialize)]
struct Description {
    version: u32,
    rank: usize,
    alpha: f32,
    base: String,
    crc32: u32,
}

impl Description {
    /// The checksum that belongs to this description and to the factors' bytes.
    fn checksum(&self, factors: &[u8]) -> serde_json::Result<u32> {
        let text = serde_json::to_vec(&Self { base: self.base.clone(), crc32: 0, ..*self })?;
        let mut crc32 = crc32fast::Hasher::new();
        crc32.update(&text);
        crc32.update(factors);
        Ok(crc32.finalize())
    }
}

/// The names of the two factors of a parameter's adapter.
pub fn factor_names(name: &str) -> [String; 2] {
    [format!("{name}.lora_a"), format!("{name}.lora_b")]
}

/// How an adapter is read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoraOptions {
    /// Whether an adapter of another model of the same shape will do. It fits the same model in another precision about
    /// as well, and one that was trained further less; on a model that has nothing to do with it, the text is wrong,
    /// without an error.
    pub allow_other_base: bool,
    /// Alpha of an adapter whose file does not say it: RWKV-PEFT's. Others are refused with one.
    pub alpha: Option<f32>,
}

/// An adapter, read from its file.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// The model that it was trained on; None for files of other programs, which do not say it.
    pub base: Option<Fingerprint>,
    /// Width of the narrow middle.
    pub rank: usize,
    /// What the addition is multiplied by, times the rank.
    pub alpha: f32,
    /// In the order of the model's parameters.
    factors: Vec<Factors>,
}

/// What is added to one matrix.
#[derive(Clone, Debug, PartialEq)]
struct Factors {
    name: String,
    /// (rank, cols).
    down: Vec<f32>,
    /// (rows, rank).
    up: Vec<f32>,
}

impl Lora {
    /// Reads an adapter, or the `lora.safetensors` of a training run's directory, for the model that `base`
    /// describes and whose parameters `layout` declares.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Adapter`] if the file is damaged or of another model.
    pub fn read(path: impl AsRef<Path>, base: &Fingerprint, layout: &Layout) -> Result<Self> {
        Self::read_with(path, base, layout, &LoraOptions::default())
    }

    /// As [`read`](Self::read), with options. Of `base` only the shape counts if another is allowed; then adapters of
    /// PEFT and RWKV-PEFT are read too: `adapter_model.safetensors` with `adapter_config.json` beside it, or the directory
    /// of both; a `.pth`, with [`LoraOptions::alpha`].
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn read_with(
        path: impl AsRef<Path>,
        base: &Fingerprint,
        layout: &Layout,
        options: &LoraOptions,
    ) -> Result<Self> {
        let path = &*peft::find(path.as_ref())?;
        let fault = |problem: String| Error::Adapter { path: path.to_owned(), problem };
        if peft::is_one(path) {
            return peft::read(path, layout, options);
        }
        // Two factors of full rank for each matrix, and a header.
        let of = |spec: &ParamSpec| 4 * spec.rows.min(spec.cols) * (spec.rows + spec.cols) + 512;
        let most = layout.specs().iter().map(of).sum::<usize>() as u64 + 4096;
        let bytes = read_bytes(path, most)?;
        let file = Own::parse(path, &bytes)?;
        let is_of_shape = file.base.config == base.config;
        if !(is_of_shape && options.allow_other_base)
            && let Some(problem) = file.base.mismatch(base)
        {
            let or = if is_of_shape { OR_ALLOW } else { "" };
            return Err(fault(format!("{problem}; load the model that this adapter was trained on{or}")));
        }
        let matrices = layout.specs().iter().filter(|spec| spec.is_matrix());
        if let Some(spec) = matrices.clone().find(|spec| spec.is_embedding() && file.has(&spec.name)) {
            return Err(fault(of_embedding(&spec.name)));
        }
        let lora = file.read(matrices.map(|spec| (&*spec.name, [spec.rows, spec.cols])))?;
        if let Some(given) = options.alpha {
            let alpha = lora.alpha;
            return Err(fault(format!("it says its alpha, {alpha}: leave out loraAlpha, which is {given}")));
        }
        Ok(lora)
    }

    /// What the product of the factors is multiplied by: α/rank.
    fn scale(&self) -> f32 {
        self.alpha / self.rank as f32
    }

    /// Gives the parameters of the model these adapters.
    ///
    /// # Panics
    /// If the parameters are those of another model.
    pub fn apply(&self, params: &mut Parameters) {
        let scale = self.scale();
        for Factors { name, down, up } in &self.factors {
            let index = params.layout().find(name).expect("a parameter of the model that was checked");
            let matrix = params.matrix_at(index).expect("a matrix");
            let factors = [down.clone(), up.clone()];
            adapt(params, matrix, self.rank, scale, factors, [Initial::ZEROS; 2]);
        }
    }
}

/// Adds the factors [(rank, cols), (rows, rank)] to `params`, trained, and makes them the adapter of
/// `matrix`.
pub fn adapt(
    params: &mut Parameters,
    matrix: Matrix,
    rank: usize,
    scale: f32,
    [down, up]: [Vec<f32>; 2],
    [of_down, of_up]: [Initial; 2],
) {
    let spec = &params.layout().specs()[matrix.index()];
    let (rows, cols, [a, b]) = (spec.rows, spec.cols, factor_names(&spec.name));
    let down = params.add_matrix(a, [rank, cols], of_down, down);
    let up = params.add_matrix(b, [rows, rank], of_up, up);
    params.adapt(matrix, Adapter { down, up, scale });
}

/// Writes the adapters of `params`, whole or not at all, for the model of shape `config` that the other
/// parameters are.
///
/// # Errors
/// [`Error::Io`]; [`Error::FileChanged`] if the file of the model was written to.
///
/// # Panics
/// If no parameter has an adapter.
pub fn write_lora(
    path: impl AsRef<Path>,
    config: ModelConfig,
    params: &Parameters,
    alpha: f32,
) -> Result<()> {
    stage_lora(path, config, params, alpha)?.commit()
}

/// As [`write_lora`], up to the moment in which the file takes its place.
///
/// # Errors
/// Those of [`write_lora`].
///
/// # Panics
/// As [`write_lora`].
pub fn stage_lora(
    path: impl AsRef<Path>,
    config: ModelConfig,
    params: &Parameters,
    alpha: f32,
) -> Result<Staged> {
    let path = path.as_ref();
    let specs = params.layout().specs();
    let adapters = (0..params.n_model()).filter_map(|index| params.adapter(params.matrix_at(index)?));
    let factors: Vec<_> = adapters.flat_map(|adapter| [adapter.down.index(), adapter.up.index()]).collect();
    let rank = specs[*factors.first().expect("an adapter")].rows;
    let views = factors.iter().map(|&index| {
        let spec = &specs[index];
        let view =
            TensorView::new(Dtype::F32, vec![spec.rows, spec.cols], bytemuck::cast_slice(params.raw(index)));
        (spec.name.as_str(), view.expect("a matrix's values fit its shape"))
    });
    let base = params.base_fingerprint(config, None)?.to_hex();
    let fault = |problem: String| Error::Adapter { path: path.to_owned(), problem };
    let mut description = Description { version: VERSION, rank, alpha, base, crc32: 0 };
    let not_written = |error: safetensors::SafeTensorError| fault(error.to_string());
    let not_described = |error: serde_json::Error| fault(error.to_string());
    // The library says in which order the factors lie.
    let plain = serialize(views.clone(), None).map_err(not_written)?;
    let (header_len, _) = SafeTensors::read_metadata(&plain).map_err(not_written)?;
    description.crc32 = description.checksum(&plain[8 + header_len..]).map_err(not_described)?;
    let text = serde_json::to_string(&description).map_err(not_described)?;
    let metadata = HashMap::from([(ENTRY.to_owned(), text)]);
    let bytes = serialize(views, Some(metadata)).map_err(not_written)?;
    Staged::write(path, |w| w.write_all(&bytes))
}

fn of_embedding(name: &str) -> String {
    format!(
        "it adapts {name:?}; adapters are for matrices that are multiplied with, and the embedding is only looked up"
    )
}

/// What the header of an adapter's file says of it, and its base.
fn describe(path: &Path, header: &Metadata) -> Result<(Description, Fingerprint)> {
    let fault = |problem: String| Error::Adapter { path: path.to_owned(), problem };
    let entry = header.metadata().as_ref().and_then(|metadata| metadata.get(ENTRY));
    let entry = entry.ok_or_else(|| fault(format!("not an adapter of this program: it has no {ENTRY:?}")))?;
    let description: Description =
        serde_json::from_str(entry).map_err(|error| fault(format!("its {ENTRY:?} is damaged: {error}")))?;
    let Description { version, rank, alpha, .. } = description;
    if version == 1 {
        return Err(fault(format!("it was {OF_A_PART}; train it again")));
    }
    if version != VERSION {
        return Err(fault(format!("an adapter of version {version}; this program reads version {VERSION}")));
    }
    if rank == 0 || !alpha.is_finite() {
        return Err(fault(format!("its rank is {rank} and its alpha {alpha}")));
    }
    let base = Fingerprint::from_hex(&description.base)
        .ok_or_else(|| fault("its \"base\" is damaged".to_owned()))?;
    Ok((description, base))
}

/// The regular file at `path`, and its size in bytes.
fn open(path: &Path) -> Result<(File, u64)> {
    let file = open_regular(path).map_err(Error::io("open", path))?;
    let len = file.metadata().map_err(Error::io("read", path))?.len();
    Ok((file, len))
}

/// The bytes of an adapter, which has at most `most`.
fn read_bytes(path: &Path, most: u64) -> Result<Vec<u8>> {
    let fault = |problem: String| Error::Adapter { path: path.to_owned(), problem };
    let (file, len) = open(path)?;
    if len > most {
        return Err(fault(format!("{len} bytes; an adapter of this model has at most {most}")));
    }
    // The bytes, and the factors that are taken from them.
    machine::limit().check(2.0 * len as f64).map_err(Error::io("read", path))?;
    let mut bytes = Vec::new();
    // A file that grows meanwhile is cut off, and then damaged.
    file.take(most).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(bytes)
}

/// An adapter's file of this program, whose description is sound.
struct Own<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
    /// The bytes after the header.
    data: &'a [u8],
    description: Description,
    base: Fingerprint,
}

impl<'a> Own<'a> {
    fn parse(path: &'a Path, bytes: &'a [u8]) -> Result<Self> {
        let fault = |problem: String| Error::Adapter { path: path.to_owned(), problem };
        let not_one = |error: safetensors::SafeTensorError| fault(format!("not an adapter: {error}"));
        let (header_len, header) = SafeTensors::read_metadata(bytes).map_err(not_one)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(not_one)?;
        let (description, base) = describe(path, &header)?;
        // The header's length itself takes 8 bytes.
        let data = bytes.get(8 + header_len..).unwrap_or_default();
        Ok(Self { path, tensors, data, description, base })
    }

    fn fault(&self, problem: String) -> Error {
        Error::Adapter { path: self.path.to_owned(), problem }
    }

    fn has(&self, name: &str) -> bool {
        factor_names(name).iter().any(|name| self.tensors.tensor(name).is_ok())
    }

    /// The factors of these matrices, of which some may have none, by their names and shapes (rows, cols).
    fn read<'m>(&self, matrices: impl Iterator<Item = (&'m str, [usize; 2])>) -> Result<Lora> {
        let Description { rank, alpha, .. } = self.description;
        let mut factors = Vec::new();
        for (name, [rows, cols]) in matrices.filter(|(name, _)| self.has(name)) {
            let [a, b] = factor_names(name);
            let (down, up) = (self.floats(&a, [rank, cols])?, self.floats(&b, [rows, rank])?);
            factors.push(Factors { name: name.to_owned(), down, up });
        }
        let len = self.tensors.len();
        if len != 2 * factors.len() || factors.is_empty() {
            let found = 2 * factors.len();
            return Err(self.fault(format!("{found} of its {len} tensors are for parameters of this model")));
        }
        let damaged = |error: serde_json::Error| self.fault(format!("its {ENTRY:?} is damaged: {error}"));
        if self.description.checksum(self.data).map_err(damaged)? != self.description.crc32 {
            return Err(self.fault("its checksum does not fit its bytes: it is damaged".to_owned()));
        }
        Ok(Lora { base: Some(self.base), rank, alpha, factors })
    }

    fn floats(&self, name: &str, shape: [usize; 2]) -> Result<Vec<f32>> {
        let tensor =
            self.tensors.tensor(name).map_err(|_| self.fault(format!("tensor {name:?} is missing")))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
            let (found, dtype) = (tensor.shape(), tensor.dtype());
            return Err(
                self.fault(format!("tensor {name:?} is {dtype:?} {found:?}; it should be F32 {shape:?}"))
            );
        }
        let data = tensor.data().as_chunks().0;
        let values: Vec<_> = data.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(at) => Err(self.fault(format!("value {at} of tensor {name:?} is {}", values[at]))),
        }
    }
}
