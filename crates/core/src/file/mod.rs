//! Model files: mapped, checked, read; those of rwkv.cpp (`.bin`) are written too.
//!
//! PyTorch's (`pth`), safetensors and GGUF have files of their own here, which find tensors: name, format, dimensions,
//! place. Which parameter a tensor is, under whatever name, is found in `official.rs`.
//!
//! # rwkv.cpp's format
//! Little-endian, nothing aligned, read until the end of the file.
//!
//! ```text
//! u32 magic "ggmf"   u32 version 100 or 101   u32 n_vocab   u32 n_embd   u32 n_layer   u32 data_type
//! then for each tensor
//! u32 dim_count 1–3  u32 name_length  u32 data_type  u32 × dim_count dims, row length first  name  data
//! ```
//!
//! # Trust
//! None. Everything that a header says is checked against the file's length and against the model's
//! [`Layout`] before anything of that size is allocated or read; what is wrong is an [`Error::ModelFile`]
//! that names the file, the tensor, the byte and what was expected. And a file may change while it is in use:
//! that is an [`Error::FileChanged`], never a signal and never another model's numbers.

mod check;
mod format;
mod gguf;
mod guard;
mod mapped;
mod official;
mod pth;
mod read;
mod safetensors;
mod source;
mod tensors;
mod write;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rwkv_kernels::Cpu;

use crate::atomic::write_atomically;
use crate::checksum::{FileChecksum, Part, checksum};
use crate::config::ModelConfig;
use crate::data_type::DataType;
use crate::error::{Error, Fault, Result};
use crate::fingerprint::Fingerprint;
use crate::params::Layout;

pub use format::FileFormat;
use format::Opened;
pub(crate) use format::{format_of, recognise, tensors as tensors_of};
/// What the writer of GGUF files shares with their reader.
pub(crate) use gguf::{MAGIC as GGUF_MAGIC, Type as GgufType, number_of as gguf_number_of};
pub use mapped::Mapped;
pub(crate) use mapped::Stamp;
pub(crate) use official::official_name;
pub(crate) use source::Backing;
use source::Source;
pub(crate) use tensors::TensorFile;
pub(crate) use write::{check_formats, header as write_header, tensor_header as write_tensor_header};
pub use write::{stage_model, write_model};

#[cfg(target_endian = "big")]
compile_error!("model files are used in place where they are mapped, and they are little-endian");

/// "ggmf", read as a little-endian number.
const MAGIC: u32 = 0x6767_6d66;

/// What the first 24 bytes of a file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) n_vocab: u32,
    pub(crate) n_embd: u32,
    pub(crate) n_layer: u32,
    pub(crate) data_type: DataType,
}

/// Bytes of a [`Header`], with the magic number.
pub(crate) const HEADER: usize = 24;

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, such as `blocks.0.att.key.weight`.
    pub name: String,
    /// How its values are stored.
    pub data_type: DataType,
    /// Its dimensions, row length first; each at least 1.
    pub dims: Vec<usize>,
    /// Where in the file it begins (its header, not its data).
    pub offset: usize,
    data: Range<usize>,
}

/// Where a parameter is: in which tensor, and where in the file its own values are.
#[derive(Clone, Debug)]
struct Place {
    tensor: usize,
    data: Range<usize>,
    form: Form,
}

/// How a tensor's values relate to what operators read of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// They are that.
    AsRead,
    /// A matrix as (inputs, outputs).
    Transposed,
    /// The raw parameter, of which operators read a function (see [`Stored`](crate::params::Stored)).
    Raw,
}

/// A model file, mapped into memory and found sound; or its bytes, which were in memory already.
///
/// Programs that replace files by renaming, as this crate does, leave a map intact, and so does removing the
/// file. What is written into the file itself shows in the map: [`check`](Self::check) says whether that
/// happened.
#[derive(Debug)]
pub struct ModelFile {
    source: Source,
    format: FileFormat,
    header: Header,
    config: ModelConfig,
    layout: Layout,
    /// In the file's own order.
    tensors: Vec<TensorInfo>,
    /// Where each parameter of `layout` is.
    places: Vec<Place>,
    checksum: Arc<FileChecksum>,
}

impl ModelFile {
    /// Maps the file at `path` and checks all of it but the weights' values.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no such file or it cannot be read; [`Error::ModelFile`] if it is damaged;
    /// [`Error::Unsupported`] if it holds another version of RWKV; [`Error::FileChanged`] if it is being
    /// written to.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::of_source(Source::Mapped(Mapped::open(path.as_ref())?))
    }

    /// Takes the bytes of a model file, and checks them as [`open`](Self::open) checks a file's.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), with `the buffer` in place of a path; none of them is [`Error::Io`] or
    /// [`Error::FileChanged`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::of_source(Source::Memory(Arc::new(bytes)))
    }

    fn of_source(source: Source) -> Result<Self> {
        let path = source.path();
        let Opened { format, header, tensors, config, layout, places } =
            source.read(|bytes| format::open(path, bytes))?;
        let ranges = places.iter().map(|place| place.data.clone()).collect();
        let checksum = FileChecksum::new(source.backing(), ranges);
        Ok(Self { source, format, header, config, layout, tensors, places, checksum })
    }

    /// Where the file was opened; of bytes that were given, `the buffer`.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Whether what was read from the file so far can be believed: to be asked after reading, not before.
    ///
    /// # Errors
    /// [`Error::FileChanged`] if the file was written to since it was opened, or a part of it could not be
    /// read.
    pub fn check(&self) -> Result<()> {
        self.source.check()
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The model's parameters; [`tensor`](Self::tensor) counts in this order.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Which program's format it has.
    pub fn format(&self) -> FileFormat {
        self.format
    }

    /// The format that the header announces for the matrices; without such a header that of the first block's key.
    pub fn data_type(&self) -> DataType {
        self.header.data_type
    }

    /// The version of rwkv.cpp's format, 100 or 101: of a file of another program, the one that is written.
    pub fn format_version(&self) -> u32 {
        self.header.version
    }

    /// All tensors in the file's own order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The parameter at `index` of the [`layout`](Self::layout): the tensor that holds it, perhaps beside others,
    /// and its own data.
    ///
    /// # Panics
    /// If the layout has no such parameter.
    pub fn tensor(&self, index: usize) -> (&TensorInfo, &[u8]) {
        let Place { tensor, data, .. } = &self.places[index];
        (&self.tensors[*tensor], &self.source.bytes()[data.clone()])
    }

    /// How those data relate to what operators read.
    pub(crate) fn form(&self, index: usize) -> Form {
        self.places[index].form
    }

    /// The values of the parameter at `index` of the [`layout`](Self::layout), as operators read them (see
    /// [`Stored`](crate::params::Stored)), row by row.
    ///
    /// # Panics
    /// If the layout has no such parameter.
    pub fn read(&self, index: usize) -> Vec<f32> {
        let (tensor, bytes) = self.tensor(index);
        let mut values = vec![0.0; self.layout.specs()[index].len()];
        // Rows are whole blocks, so that a tensor's bytes read like one long row's.
        tensor.data_type.decode(bytes, &mut values);
        let spec = &self.layout.specs()[index];
        match self.places[index].form {
            Form::AsRead => values,
            Form::Raw => values.into_iter().map(|raw| spec.stored.to_file(raw)).collect(),
            Form::Transposed => transposed(&values, spec.cols),
        }
    }

    /// The bytes of a matrix that the file holds as (inputs, outputs), as (outputs, inputs).
    pub(crate) fn turned(&self, index: usize) -> Vec<u8> {
        let (tensor, bytes) = self.tensor(index);
        let inputs = self.layout.specs()[index].cols;
        match tensor.data_type.block() {
            (1, 2) => transposed::<[u8; 2]>(bytes.as_chunks().0, inputs).into_flattened(),
            _ => transposed::<[u8; 4]>(bytes.as_chunks().0, inputs).into_flattened(),
        }
    }

    /// What a model of this file is recognised by. The first call reads all of the file, on the threads of
    /// `cpu` if there is one.
    ///
    /// # Errors
    /// [`Error::FileChanged`], [`Error::Io`].
    pub fn fingerprint(&self, cpu: Option<&Cpu>) -> Result<Fingerprint> {
        let weights = checksum(&[self.weights()], cpu)?;
        Ok(Fingerprint { config: self.config, weights })
    }

    /// All parameters, for a checksum.
    pub(crate) fn weights(&self) -> Part {
        Part::File(Arc::clone(&self.checksum))
    }

    /// The parameter at `index` of the [`layout`](Self::layout), for a checksum.
    pub(crate) fn weights_at(&self, index: usize) -> Part {
        Part::Tensor(self.source.backing(), self.places[index].data.clone())
    }

    /// Bytes of the file.
    #[allow(clippy::len_without_is_empty)] // an empty file is refused
    pub fn len(&self) -> u64 {
        self.source.bytes().len() as u64
    }

    /// Fills `into` with what begins `at` bytes into the data of the parameter at `index`: read, not mapped,
    /// so that it takes no memory besides.
    pub(crate) fn read_at(&self, index: usize, at: usize, into: &mut [u8]) -> Result<()> {
        self.source.read_at(self.places[index].data.start + at, into)
    }

    /// As [`read_at`](Self::read_at), for one of [`tensors`](Self::tensors).
    pub(crate) fn read_tensor(&self, tensor: &TensorInfo, at: usize, into: &mut [u8]) -> Result<()> {
        self.source.read_at(tensor.data.start + at, into)
    }

    /// The header.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// # Errors
    /// [`Error::Unsupported`] for a file of another program than rwkv.cpp.
    pub(crate) fn expect_rwkv_cpp(&self) -> Result<()> {
        if self.format == FileFormat::RwkvCpp {
            return Ok(());
        }
        let what = format!("this needs a .bin file of rwkv.cpp's, and it is a {} file", self.format);
        Err(unsupported(self.path(), what))
    }

    /// An [`Error::ModelFile`] about `tensor`.
    pub(crate) fn fault(&self, tensor: &TensorInfo, problem: impl Into<String>) -> Error {
        fault(self.path(), Some(&tensor.name), tensor.offset, problem)
    }

    /// An [`Error::Unsupported`] about the file.
    pub(crate) fn unsupported(&self, what: impl Into<String>) -> Error {
        unsupported(self.path(), what)
    }

    /// Writes the model again, in the file's own order: the same bytes.
    ///
    /// # Errors
    /// [`Error::Io`] if `path` cannot be written, [`Error::FileChanged`], [`Error::Unsupported`] if a file of
    /// rwkv.cpp cannot hold this one's tensors; `path` is then as it was.
    pub fn write_to(&self, path: impl AsRef<Path>) -> Result<()> {
        self.expect_rwkv_cpp()?;
        write::check_formats(self.path(), &self.header, &self.tensors)?;
        let mut sound = Ok(());
        let written = write_atomically(path.as_ref(), |w| {
            write::header(w, &self.header)?;
            let written = self.tensors.iter().try_for_each(|tensor| {
                write::tensor_header(w, &tensor.name, &tensor.dims, tensor.data_type)?;
                w.write_all(&self.source.bytes()[tensor.data.clone()])
            });
            sound = self.check();
            written.and_then(
                |()| if sound.is_ok() { Ok(()) } else { Err(io::Error::other("the input changed")) },
            )
        });
        sound?;
        written
    }
}

/// All tensors of the file at `path`, of whatever model and in any of the formats, with their values, row length first:
/// for tools and tests, since it takes memory for all of them.
///
/// # Errors
/// As [`ModelFile::open`], but for what concerns the model.
pub fn read_tensors(path: impl AsRef<Path>) -> Result<Vec<(TensorInfo, Vec<f32>)>> {
    let source = Source::Mapped(Mapped::open(path.as_ref())?);
    source.read(|bytes| {
        let tensors = format::tensors(source.path(), bytes)?;
        let values = tensors.into_iter().map(|tensor| {
            let mut values = vec![0.0; tensor.dims.iter().product()];
            tensor.data_type.decode(&bytes[tensor.data.clone()], &mut values);
            (tensor, values)
        });
        Ok(values.collect())
    })
}

/// A matrix of so many rows, by its columns.
fn transposed<T: Copy>(values: &[T], rows: usize) -> Vec<T> {
    let cols = values.len() / rows.max(1);
    (0..values.len()).map(|i| values[i % rows * cols + i / rows]).collect()
}

/// An [`Error::ModelFile`]; [`Error::of_kind`] says of which kind.
fn fault(path: &Path, tensor: Option<&str>, offset: usize, problem: impl Into<String>) -> Error {
    Error::ModelFile {
        path: path.to_owned(),
        tensor: tensor.map(str::to_owned),
        offset: offset as u64,
        problem: problem.into(),
        fault: Fault::Other,
    }
}

/// An [`Error::Unsupported`]; [`Error::of_kind`] says of which kind.
fn unsupported(path: &Path, what: impl Into<String>) -> Error {
    Error::Unsupported { path: path.to_owned(), what: what.into(), fault: Fault::Other }
}
