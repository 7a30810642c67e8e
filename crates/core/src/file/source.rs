//! Where a model's bytes are: in a file, or in memory.

use std::path::Path;
use std::sync::Arc;

use super::mapped::{Mapped, Stamp};
use crate::error::Result;

/// What stands in messages for the path of a model that is not in a file.
const NAME: &str = "the buffer";

/// The bytes of a model, to be read where they are.
#[derive(Debug)]
pub(super) enum Source {
    /// A file, which may change meanwhile.
    Mapped(Mapped),
    /// Bytes of our own, which nobody changes.
    Memory(Arc<Vec<u8>>),
}

impl Source {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map.bytes(),
            Self::Memory(bytes) => bytes,
        }
    }

    /// The file's path, or else what bytes in memory are called in messages.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Mapped(map) => map.path(),
            Self::Memory(_) => Path::new(NAME),
        }
    }

    /// Whether what was read so far can be believed, as [`Mapped::check`] says it.
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::Mapped(map) => map.check(),
            Self::Memory(_) => Ok(()),
        }
    }

    /// What `read` makes of the bytes, if they can be believed.
    pub(super) fn read<T>(&self, read: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        let found = read(self.bytes());
        self.check()?;
        found
    }

    /// Fills `into` with the bytes from `at` on: those of a file are read, not mapped, so that they take no
    /// memory besides. All of them were seen to be there.
    pub(super) fn read_at(&self, at: usize, into: &mut [u8]) -> Result<()> {
        match self {
            Self::Mapped(map) => map.read_at(at, into),
            Self::Memory(bytes) => {
                into.copy_from_slice(&bytes[at..at + into.len()]);
                Ok(())
            }
        }
    }

    /// What is kept of the source for a checksum of its bytes.
    pub(super) fn backing(&self) -> Backing {
        match self {
            Self::Mapped(map) => Backing::File(Arc::clone(map.stamp())),
            Self::Memory(bytes) => Backing::Memory(Arc::clone(bytes)),
        }
    }
}

/// Where bytes can be read again, without a map.
#[derive(Clone, Debug)]
pub(crate) enum Backing {
    /// An open file.
    File(Arc<Stamp>),
    /// Bytes that nobody changes.
    Memory(Arc<Vec<u8>>),
}
