//! Which program's format a file has: by its first bytes, never by its name.

use std::fmt;
use std::path::Path;

use super::{Header, Place, TensorInfo, check, gguf, official, pth, read, safetensors, unsupported};
use crate::config::{ModelConfig, Version};
use crate::data_type::DataType;
use crate::error::{Error, Fault, Result};
use crate::params::Layout;

/// A format of model files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// rwkv.cpp's, `.bin`.
    RwkvCpp,
    /// PyTorch's, `.pth`.
    Pth,
    /// Hugging Face's, `.safetensors`.
    Safetensors,
    /// llama.cpp's, `.gguf`.
    Gguf,
}

impl FileFormat {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::RwkvCpp, Self::Pth, Self::Safetensors, Self::Gguf];

    /// Its name, which files of it end with.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RwkvCpp => "bin",
            Self::Pth => "pth",
            Self::Safetensors => "safetensors",
            Self::Gguf => "gguf",
        }
    }

    /// The format called `name`: `bin`, `pth`, `safetensors` or `gguf`, in capitals or not.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for every other name.
    pub fn named(name: &str) -> Result<Self> {
        Self::find(name).ok_or_else(|| Error::option("to", name, "bin, pth, safetensors or gguf"))
    }

    /// The format that the name of a file to be written tells by its end: `.bin`, `.pth` or `.pt`, `.safetensors`,
    /// `.gguf`. (Of a file that is there, its first bytes tell.)
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for every other name.
    pub fn of_name(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let found = match path.extension().and_then(|extension| extension.to_str()) {
            Some("pt") => Some(Self::Pth),
            extension => extension.and_then(Self::find),
        };
        found.ok_or_else(|| {
            let expected =
                "a name that ends with .bin, .pth, .safetensors or .gguf, unless the format is named (to)";
            Error::option("output", path.display(), expected)
        })
    }

    fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for FileFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a file says of itself, found sound.
pub(super) struct Opened {
    pub(super) format: FileFormat,
    /// rwkv.cpp's own, or what it would be.
    pub(super) header: Header,
    /// In the file's own order.
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) config: ModelConfig,
    pub(super) layout: Layout,
    pub(super) places: Vec<Place>,
}

/// How zip archives begin, of which PyTorch's checkpoints are one kind; `BZ` and pickles are its older ones.
const ZIP: &[u8] = b"PK";
/// How a pickle begins: of PyTorch before 1.6.
const PICKLE: &[u8] = &[0x80, 0x02];
/// Where a tar archive says that it is one.
const TAR: (usize, &[u8]) = (257, b"ustar");

fn recognise(bytes: &[u8]) -> FileFormat {
    let starts = |with: &[u8]| bytes.starts_with(with);
    let is_tar = bytes.get(TAR.0..).is_some_and(|rest| rest.starts_with(TAR.1));
    if starts(&gguf::MAGIC.to_le_bytes()) || starts(&gguf::MAGIC.to_be_bytes()) {
        FileFormat::Gguf
    } else if starts(ZIP) || starts(PICKLE) || is_tar {
        FileFormat::Pth
    } else if bytes.get(8) == Some(&b'{') || starts(b"{") {
        FileFormat::Safetensors
    } else {
        FileFormat::RwkvCpp
    }
}

/// Reads a file's directory, and finds the model that it holds.
pub(super) fn open(path: &Path, bytes: &[u8]) -> Result<Opened> {
    let format = recognise(bytes);
    let (tensors, source) = match format {
        FileFormat::RwkvCpp => {
            let (header, tensors) = read::directory(path, bytes)?;
            let (config, layout, places) = check::against_layout(path, bytes.len(), &header, &tensors)?;
            return Ok(Opened { format, header, tensors, config, layout, places });
        }
        FileFormat::Pth => (pth::directory(path, bytes)?, official::Source::Checkpoint),
        FileFormat::Safetensors => (safetensors::directory(path, bytes)?.0, official::Source::Checkpoint),
        FileFormat::Gguf => {
            let gguf = gguf::directory(path, bytes)?;
            let version = version_of(path, &gguf.architecture)?;
            let key = |name: &str| format!("{}.{name}", gguf.architecture);
            let eps = key("attention.layer_norm_epsilon");
            if gguf.has(&eps) && (gguf.f32(&eps)? - 1e-5).abs() > 1e-9 {
                let problem = format!("{}; norms with 1e-5 can be run", gguf.f32(&eps)?);
                return Err(gguf.fault(&eps, &problem));
            }
            let head_size = gguf.u32(&key("wkv.head_size"))? as usize;
            (gguf.tensors, official::Source::Gguf { version, head_size })
        }
    };
    let (config, layout, places) = official::against_layout(path, bytes.len(), &tensors, source)?;
    let of_key = layout.find("blocks.0.att.key.weight").map(|index| tensors[places[index].tensor].data_type);
    let header = Header {
        version: 101,
        n_vocab: as_u32(path, "n_vocab", config.n_vocab)?,
        n_embd: as_u32(path, "n_embd", config.n_embd)?,
        n_layer: as_u32(path, "n_layer", config.n_layer)?,
        data_type: of_key.unwrap_or(DataType::F32),
    };
    Ok(Opened { format, header, tensors, config, layout, places })
}

/// The version that llama.cpp calls `architecture`.
fn version_of(path: &Path, architecture: &str) -> Result<Version> {
    let name = architecture.replacen("rwkv", "v", 1);
    let found = Version::ALL.iter().copied().find(|version| version.name() == name);
    found.ok_or_else(|| {
        let what = format!("its architecture is {architecture:?}; of GGUF files, rwkv7 can be run");
        unsupported(path, what).of_kind(Fault::Version)
    })
}

fn as_u32(path: &Path, name: &str, size: usize) -> Result<u32> {
    u32::try_from(size)
        .map_err(|_| unsupported(path, format!("{name} is {size}; expected at most {}", u32::MAX)))
}
