//! Which program's format a file has: by its first bytes, never by its name.

use std::fmt;
use std::path::Path;

use super::{
    Header, MAGIC, Mapped, Place, TensorInfo, check, fault, gguf, official, pth, read, safetensors,
    unsupported,
};
use crate::config::{ModelConfig, Version};
use crate::data_type::DataType;
use crate::error::{Error, Fault, Result};
use crate::model::names::pattern;
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

/// How zip archives begin: PyTorch's checkpoints are such.
const ZIP: &[u8] = b"PK";
/// How a pickle begins, before the number of its protocol: of PyTorch before 1.6.
const PICKLE: u8 = 0x80;
/// Where a tar archive says that it is one.
const TAR: (usize, &[u8]) = (257, b"ustar");

/// The format of the regular file at `path`, as its first bytes tell it; rwkv.cpp's if they tell nothing.
pub(crate) fn format_of(path: &Path) -> Result<FileFormat> {
    let map = Mapped::open(path)?;
    map.read(|bytes| Ok(recognise(bytes)))
}

/// The format that the first bytes of a file tell; rwkv.cpp's if they tell nothing.
pub(crate) fn recognise(bytes: &[u8]) -> FileFormat {
    let starts = |with: &[u8]| bytes.starts_with(with);
    let is_tar = bytes.get(TAR.0..).is_some_and(|rest| rest.starts_with(TAR.1));
    // Before anything that is told by a later byte, which is any number here.
    if starts(&MAGIC.to_le_bytes()) {
        FileFormat::RwkvCpp
    } else if starts(&gguf::MAGIC.to_le_bytes()) {
        FileFormat::Gguf
    } else if starts(ZIP) || matches!(bytes, [PICKLE, 2..=5, ..]) || is_tar {
        FileFormat::Pth
    } else if bytes.get(8) == Some(&b'{') || starts(b"{") {
        FileFormat::Safetensors
    } else {
        FileFormat::RwkvCpp
    }
}

/// How files begin that are no models and have come in place of one, what they are, and what to do.
#[rustfmt::skip] // a table
const OTHERS: [(&[u8], &str); 15] = [
    (b"version https://git-lfs", "a pointer of Git LFS, which stands for the model in a repository: fetch the file itself, with git lfs pull"),
    (b"<", "a page of a web site (HTML or XML), such as an error or a request to log in: download the file itself"),
    (b"\x89PNG", "a picture (PNG)"),
    (b"\xff\xd8\xff", "a picture (JPEG)"),
    (b"\x93NUMPY", "an array of NumPy's (.npy)"),
    (b"\x89HDF", "an HDF5 file, as Keras writes them"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a compressed file (gzip): unpack it first"),
    (b"\xfd7zXZ", "a compressed file (xz): unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a compressed file (zstd): unpack it first"),
    (b"7z\xbc\xaf", "a compressed file (7-Zip): unpack it first"),
    (b"BZh", "a compressed file (bzip2): unpack it first"),
    (b"Rar!", "a compressed file (RAR): unpack it first"),
    (b"lmgg", "a file of llama.cpp from before GGUF: convert the original model again"),
    (b"tjgg", "a file of llama.cpp from before GGUF: convert the original model again"),
];

/// Refuses what is no model by the name of what it is.
fn refuse_others(path: &Path, bytes: &[u8]) -> Result<()> {
    let Some(start) = bytes.first_chunk() else { return Ok(()) };
    let start = u32::from_le_bytes(*start);
    if start == MAGIC {
        return Ok(());
    }
    // An editor may have put a byte order mark and empty lines before a text.
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let is = |(with, _): &&(&[u8], &str)| bytes.starts_with(with) || text.starts_with(with);
    let problem = match OTHERS.iter().find(is) {
        Some((_, what)) => format!("this is no model, but {what}"),
        None => format!(
            "the file starts with {start:#010x}, not {MAGIC:#010x}: this is not an rwkv.cpp model, nor a .pth, \
             .safetensors or .gguf"
        ),
    };
    Err(fault(path, None, 0, problem).of_kind(Fault::Magic))
}

/// Reads a file's directory, and finds the model that it holds.
pub(super) fn open(path: &Path, bytes: &[u8]) -> Result<Opened> {
    let format = recognise(bytes);
    let (tensors, source) = match format {
        FileFormat::RwkvCpp => {
            refuse_others(path, bytes)?;
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
                let problem = format!("{}; this version computes norms with 0.00001", gguf.f32(&eps)?);
                return Err(gguf.fault(&eps, &problem));
            }
            let head_size = head_size(&gguf, &key("wkv.head_size"))?;
            check_sizes(&gguf, &key)?;
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

/// The tensors of a file, whatever model they make.
pub(crate) fn tensors(path: &Path, bytes: &[u8]) -> Result<Vec<TensorInfo>> {
    match recognise(bytes) {
        FileFormat::RwkvCpp => Ok(read::directory(path, bytes)?.1),
        FileFormat::Pth => pth::directory(path, bytes),
        FileFormat::Safetensors => Ok(safetensors::directory(path, bytes)?.0),
        FileFormat::Gguf => Ok(gguf::directory(path, bytes)?.tensors),
    }
}

/// The size of heads that `key` says: nothing else in the file does.
fn head_size(gguf: &gguf::Gguf, key: &str) -> Result<usize> {
    let size = gguf.u32(key)? as usize;
    let embedding = gguf.tensors.iter().find(|tensor| tensor.name == "token_embd.weight");
    let n_embd = embedding.and_then(|tensor| tensor.dims.first().copied()).unwrap_or(0);
    if size == 0 || !n_embd.is_multiple_of(size) {
        let problem = format!("{size}; expected a number that divides n_embd, which is {n_embd}");
        return Err(gguf.fault(key, &problem).of_kind(Fault::Dimensions));
    }
    Ok(size)
}

/// Holds what the metadata says of the model's size against tensors, from which the size is taken.
fn check_sizes(gguf: &gguf::Gguf, key: &impl Fn(&str) -> String) -> Result<()> {
    let dim = |name: &str, at: usize| {
        let tensor = gguf.tensors.iter().find(|tensor| tensor.name == name);
        tensor.and_then(|tensor| tensor.dims.get(at).copied())
    };
    let block = |tensor: &TensorInfo| pattern(&tensor.name).1;
    let n_layer = gguf.tensors.iter().filter_map(block).max().map(|last: usize| last.saturating_add(1));
    for (name, found) in [
        ("embedding_length", dim("token_embd.weight", 0)),
        ("block_count", n_layer),
        ("feed_forward_length", dim("blk.0.channel_mix_key.weight", 1)),
    ] {
        let name = key(name);
        let Some(found) = found.filter(|_| gguf.has(&name)) else { continue };
        let said = gguf.u32(&name)?;
        if said as usize != found {
            let problem = format!("{said}, but its tensors have {found}");
            return Err(gguf.fault(&name, &problem).of_kind(Fault::Dimensions));
        }
    }
    Ok(())
}

/// The version that llama.cpp calls `architecture`.
fn version_of(path: &Path, architecture: &str) -> Result<Version> {
    let has_names = |version: &Version| version.names().iter().any(|names| names.gguf.is_some());
    let name = architecture.strip_prefix("rwkv").map(|number| format!("v{number}"));
    let mut known = Version::ALL.iter().copied().filter(has_names);
    known.find(|version| Some(version.name()) == name.as_deref()).ok_or_else(|| {
        let what = format!("its architecture is {architecture:?}; of GGUF files, rwkv7 can be run");
        unsupported(path, what).of_kind(Fault::Version)
    })
}

fn as_u32(path: &Path, name: &str, size: usize) -> Result<u32> {
    u32::try_from(size)
        .map_err(|_| unsupported(path, format!("{name} is {size}; expected at most {}", u32::MAX)))
}
