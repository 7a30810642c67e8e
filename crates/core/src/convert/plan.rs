//! The tensors of the output: names, dimensions, formats, and the parameters that they hold.

use super::ConvertOptions;
use crate::config::Version;
use crate::data_type::DataType;
use crate::error::{Error, Fault, Result};
use crate::file::{FileFormat, Form, ModelFile};
use crate::model::names::{Dialect, of_block, pattern};
use crate::params::{ParamSpec, Stored};

/// A tensor of the output.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Row length first.
    pub(crate) dims: Vec<usize>,
    pub(crate) data_type: DataType,
    /// The parameters whose values it holds, one after the other.
    pub(super) parts: Vec<Part>,
}

/// A parameter in a tensor of the output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Its place in the model's [`Layout`](crate::params::Layout).
    pub(super) index: usize,
    /// How the tensor's values relate to what operators read of it.
    pub(super) form: Form,
}

impl Tensor {
    /// One of FP32, whose values are not those of parameters.
    pub(super) fn of_floats(name: String, dims: Vec<usize>) -> Self {
        Self { name, dims, data_type: DataType::F32, parts: Vec::new() }
    }

    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Number of bytes.
    pub(super) fn bytes(&self) -> usize {
        bytes_of(self.data_type, self.len())
    }
}

/// Bytes of `count` values, which are whole blocks.
pub(super) fn bytes_of(data_type: DataType, count: usize) -> usize {
    let (values, bytes) = data_type.block();
    count / values * bytes
}

/// The format of a matrix that the input holds as `from`.
pub(super) fn matrix_type(options: &ConvertOptions<'_>, from: DataType) -> DataType {
    options.data_type.unwrap_or(match (options.to, from) {
        (FileFormat::RwkvCpp, DataType::BF16) => DataType::F32,
        (FileFormat::Pth | FileFormat::Safetensors, from) if from.is_quantized() => DataType::F32,
        _ => from,
    })
}

/// The tensors of `file` as the output holds them, in the order of checkpoints.
pub(super) fn tensors(file: &ModelFile, options: &ConvertOptions<'_>) -> Result<Vec<Tensor>> {
    check_data_type(options)?;
    let plan = Plan { file, options, version: file.config().version };
    if options.to == FileFormat::Gguf {
        check_gguf(file, options)?;
    }
    let specs = file.layout().specs();
    // After all else of the first block, whose tensors they are.
    let last = specs.iter().rposition(|spec| spec.name.starts_with("blocks.0."));
    let mut tensors = Vec::with_capacity(specs.len());
    for (index, spec) in specs.iter().enumerate() {
        tensors.extend(plan.tensor(index, spec)?);
        if Some(index) == last {
            plan.add_stand_ins(&mut tensors)?;
        }
    }
    Ok(tensors)
}

fn check_data_type(options: &ConvertOptions<'_>) -> Result<()> {
    let Some(data_type) = options.data_type else { return Ok(()) };
    match (options.to, data_type) {
        (FileFormat::RwkvCpp, DataType::BF16) => {
            Err(Error::option("data_type", data_type, "FP32 or FP16, because .bin files cannot hold BF16"))
        }
        (_, DataType::F32 | DataType::F16 | DataType::BF16) => Ok(()),
        _ => {
            let expected = "FP32, FP16 or BF16; quantize makes quantized files";
            Err(Error::option("data_type", data_type, expected))
        }
    }
}

fn check_gguf(file: &ModelFile, options: &ConvertOptions<'_>) -> Result<()> {
    let config = file.config();
    let version = config.version;
    if version.names().iter().all(|names| names.gguf.is_none()) {
        let what = format!(
            "this is an RWKV {version} model, which llama.cpp cannot run, so there are no GGUF files of it; convert it to \
             .bin, .pth or .safetensors"
        );
        return Err(file.unsupported(what).of_kind(Fault::Version));
    }
    // The other sizes have been seen to fit.
    if u32::try_from(config.n_ffn).is_err() {
        return Err(Error::option("n_ffn", config.n_ffn, format!("at most {}", u32::MAX)));
    }
    let tokens = options.tokens.map_or(0, <[_]>::len);
    if tokens > config.n_vocab {
        let expected = format!("at most {}, the size of this model's vocabulary", config.n_vocab);
        return Err(Error::option("tokens", tokens, expected));
    }
    Ok(())
}

struct Plan<'a> {
    file: &'a ModelFile,
    options: &'a ConvertOptions<'a>,
    version: Version,
}

impl Plan<'_> {
    /// The tensor that begins with a parameter, if one does.
    fn tensor(&self, index: usize, spec: &ParamSpec) -> Result<Option<Tensor>> {
        let part = Part { index, form: self.form(spec) };
        let of = |name: String, dims: Vec<usize>, parts: Vec<Part>| {
            Ok(Some(Tensor { name, dims, data_type: self.data_type(index, spec), parts }))
        };
        match self.options.to {
            FileFormat::RwkvCpp => match &spec.packed {
                None => of(spec.name.clone(), spec.dims.clone(), vec![part]),
                // They are declared one after the other.
                Some(packed) if packed.index == 0 => {
                    let parts = (index..index + packed.of).map(|index| Part { index, ..part });
                    of(packed.tensor.clone(), spec.dims.clone(), parts.collect())
                }
                Some(_) => Ok(None),
            },
            FileFormat::Pth | FileFormat::Safetensors => {
                of(self.name(&spec.name)?, self.official_dims(spec), vec![part])
            }
            FileFormat::Gguf => {
                let (name, block) = pattern(&spec.name);
                let fused = self.version.fused().filter(|(_, parts)| parts.contains(&&*name));
                match fused {
                    None if spec.is_matrix() => {
                        of(self.name(&spec.name)?, vec![spec.cols, spec.rows], vec![part])
                    }
                    None => of(self.name(&spec.name)?, vec![spec.len()], vec![part]),
                    Some((fused, parts)) if parts[0] == name => {
                        let find = |name: &&str| self.file.layout().find(&of_block(name, block));
                        let parts: Vec<_> =
                            parts.iter().filter_map(find).map(|index| Part { index, ..part }).collect();
                        of(of_block(fused, block), vec![spec.len(), 1, 1, parts.len()], parts)
                    }
                    Some(_) => Ok(None),
                }
            }
        }
    }

    /// What the output calls the official tensor `name`.
    fn name(&self, name: &str) -> Result<String> {
        let (of, block) = pattern(name);
        let known = |dialect: Dialect| {
            let names = self.version.names();
            let own = names.iter().find(|names| names.official == name || names.official == of)?;
            Some(of_block(own.of(dialect)?, block))
        };
        let found = match self.options.to {
            FileFormat::Safetensors if !name.starts_with("head.") => {
                known(Dialect::Official).map(|name| format!("{}{name}", self.version.prefix()))
            }
            FileFormat::Gguf => known(Dialect::Gguf),
            _ => known(Dialect::Official),
        };
        found.ok_or_else(|| {
            let what = format!("{} files have no tensor for {name:?}", self.options.to);
            self.file.unsupported(what).of_kind(Fault::Name)
        })
    }

    fn form(&self, spec: &ParamSpec) -> Form {
        let is_official = matches!(self.options.to, FileFormat::Pth | FileFormat::Safetensors);
        match (is_official, spec.stored) {
            (true, _) if self.version.low_rank(&spec.name).is_some() => Form::Transposed,
            (true, stored) if stored != Stored::Raw => Form::Raw,
            _ => Form::AsRead,
        }
    }

    /// Row length first.
    fn official_dims(&self, spec: &ParamSpec) -> Vec<usize> {
        let mut dims = spec.dims.clone();
        if self.version.low_rank(&spec.name).is_some() {
            dims.reverse();
        }
        // rwkv.cpp's tensor has the parts in its last dimension.
        if let (Some(_), Some(last)) = (&spec.packed, dims.last_mut()) {
            *last = 1;
        }
        if self.version.has_ones(&spec.name) {
            dims.extend([1, 1]);
        }
        dims
    }

    fn data_type(&self, index: usize, spec: &ParamSpec) -> DataType {
        let has_plain_vectors = matches!(self.options.to, FileFormat::RwkvCpp | FileFormat::Gguf);
        if has_plain_vectors && !spec.is_matrix() {
            return DataType::F32;
        }
        matrix_type(self.options, self.file.tensor(index).0.data_type)
    }

    /// rwkv.cpp needs none.
    fn add_stand_ins(&self, tensors: &mut Vec<Tensor>) -> Result<()> {
        let layout = self.file.layout();
        for stand_in in self.version.stand_ins() {
            let of = match self.options.to {
                FileFormat::RwkvCpp => continue,
                FileFormat::Gguf => layout.find(stand_in.gguf),
                FileFormat::Pth | FileFormat::Safetensors => {
                    layout.find(stand_in.checkpoint).or_else(|| layout.find(stand_in.gguf))
                }
            };
            let Some(index) = of else { continue };
            if let Some(tensor) = self.tensor(index, &layout.specs()[index])? {
                tensors.push(Tensor { name: self.name(stand_in.tensor)?, ..tensor });
            }
        }
        Ok(())
    }
}
