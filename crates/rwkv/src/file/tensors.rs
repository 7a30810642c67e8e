//! A file as a list of tensors, whatever model they make.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{Header, TensorInfo, check, fault, map_file, open_file, read, unsupported};
use crate::error::{Error, Result};

/// A model file of any version of RWKV, to be rewritten rather than run.
///
/// Its directory has been checked against the file's length. Data are read, not mapped: memory stays small however
/// large the file is, and a file that another program shortens meanwhile is an error and no signal.
#[derive(Debug)]
pub(crate) struct TensorFile {
    path: PathBuf,
    file: File,
    len: u64,
    pub(crate) header: Header,
    /// In the file's own order; no two of the same name.
    pub(crate) tensors: Vec<TensorInfo>,
}

impl TensorFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = open_file(path).map_err(Error::io("open", path))?;
        let map = map_file(&file).map_err(Error::io("open", path))?;
        let (header, tensors) = read::directory(path, &map)?;
        check::no_duplicates(path, map.len(), &tensors)?;
        Ok(Self { path: path.to_owned(), file, len: map.len() as u64, header, tensors })
    }

    /// The file's bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `into` with what begins `at` bytes into the data of `tensor`.
    pub(crate) fn read(&self, tensor: &TensorInfo, at: usize, into: &mut [u8]) -> Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start((tensor.data.start + at) as u64))
            .and_then(|_| file.read_exact(into))
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    self.fault(tensor, tensor.data.start + at, "the file became shorter while it was read")
                }
                _ => Error::io("read", &self.path)(error),
            })
    }

    /// An [`Error::ModelFile`] about `tensor`.
    pub(crate) fn fault(&self, tensor: &TensorInfo, offset: usize, problem: impl Into<String>) -> Error {
        fault(&self.path, Some(&tensor.name), offset, problem)
    }

    /// An [`Error::Unsupported`] about the file.
    pub(crate) fn unsupported(&self, what: impl Into<String>) -> Error {
        unsupported(&self.path, what)
    }
}

impl TensorInfo {
    /// Where in the file its data are.
    pub(crate) fn data(&self) -> Range<usize> {
        self.data.clone()
    }
}
