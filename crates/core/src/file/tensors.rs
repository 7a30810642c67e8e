//! A file as a list of tensors, whatever model they make.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::{Header, Mapped, Stamp, TensorInfo, check, fault, read, unsupported};
use crate::error::{Error, Result};

/// A model file of any version of RWKV, to be rewritten rather than run.
///
/// Its directory has been checked against the file's length, and no tensor is missing. Data are read, not mapped:
/// memory stays small however large the file is.
#[derive(Debug)]
pub(crate) struct TensorFile {
    stamp: Arc<Stamp>,
    pub(crate) header: Header,
    /// In the file's own order; no two of the same name.
    pub(crate) tensors: Vec<TensorInfo>,
}

impl TensorFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let map = Mapped::open(path)?;
        let (header, tensors) = map.read(|bytes| read::directory(path, bytes))?;
        check::whole(path, map.bytes().len(), &header, &tensors)?;
        Ok(Self { stamp: Arc::clone(map.stamp()), header, tensors })
    }

    /// The file's bytes.
    pub(crate) fn len(&self) -> u64 {
        self.stamp.len()
    }

    /// Whether what was read so far can be believed: to be asked after reading, not before.
    ///
    /// # Errors
    /// [`Error::FileChanged`] if the file was written to since it was opened.
    pub(crate) fn check(&self) -> Result<()> {
        self.stamp.check()
    }

    /// Fills `into` with what begins `at` bytes into the data of `tensor`.
    pub(crate) fn read(&self, tensor: &TensorInfo, at: usize, into: &mut [u8]) -> Result<()> {
        self.stamp.read_at(tensor.data.start + at, into)
    }

    /// An [`Error::ModelFile`] about `tensor`.
    pub(crate) fn fault(&self, tensor: &TensorInfo, offset: usize, problem: impl Into<String>) -> Error {
        fault(self.stamp.path(), Some(&tensor.name), offset, problem)
    }

    /// An [`Error::Unsupported`] about the file.
    pub(crate) fn unsupported(&self, what: impl Into<String>) -> Error {
        unsupported(self.stamp.path(), what)
    }
}

impl TensorInfo {
    /// Where in the file its data are.
    pub(crate) fn data(&self) -> Range<usize> {
        self.data.clone()
    }
}
