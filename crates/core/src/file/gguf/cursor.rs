//! Numbers and strings, one after the other, each seen to be in the file before it is read.

use std::path::Path;

use super::super::{fault, read::GET_IT_AGAIN};
use crate::error::{Error, Fault, Result};

/// What is being read, for messages.
#[derive(Clone, Copy)]
pub(super) enum Within<'a> {
    /// None of the others.
    File,
    /// An entry of the metadata.
    Key(&'a str),
    /// A tensor.
    Tensor(&'a str),
}

/// Where we are in a file.
pub(super) struct Cursor<'a> {
    pub(super) path: &'a Path,
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) within: Within<'a>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, bytes, at: 0, within: Within::File }
    }

    /// Bytes from here to the end of the file.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `count` bytes; `what` they are is for the message.
    pub(super) fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8]> {
        let taken = usize::try_from(count).ok().and_then(|count| self.bytes[self.at..].get(..count));
        let Some(taken) = taken else {
            let problem =
                format!("{what} takes {count} bytes, but the file has {} left; {GET_IT_AGAIN}", self.left());
            return Err(self.fault(self.at, problem).of_kind(Fault::Truncated));
        };
        self.at += taken.len();
        Ok(taken)
    }

    fn number<const BYTES: usize>(&mut self, what: &str) -> Result<[u8; BYTES]> {
        let mut number = [0; BYTES];
        number.copy_from_slice(self.take(BYTES as u64, what)?);
        Ok(number)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.number(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.number(what)?))
    }

    /// A string: its length in 8 bytes, and as many bytes.
    pub(super) fn string(&mut self, what: &str) -> Result<&'a [u8]> {
        let count = self.u64(what)?;
        self.take(count, what)
    }

    /// The name of a tensor or a key: a short string of UTF-8.
    pub(super) fn name(&mut self, what: &str, most: usize) -> Result<&'a str> {
        let at = self.at;
        let bytes = self.string(what)?;
        let refused = |problem: String| Err(self.fault(at, problem).of_kind(Fault::Name));
        if !(1..=most).contains(&bytes.len()) {
            return refused(format!("{what} of {} bytes; expected 1 to {most}", bytes.len()));
        }
        match std::str::from_utf8(bytes) {
            Ok(name) => Ok(name),
            Err(_) => refused(format!("{what} is not UTF-8")),
        }
    }

    /// An [`Error::ModelFile`] at byte `offset`, about what is being read.
    pub(super) fn fault(&self, offset: usize, problem: impl Into<String>) -> Error {
        let problem = problem.into();
        match self.within {
            Within::File => fault(self.path, None, offset, problem),
            Within::Key(key) => fault(self.path, None, offset, format!("key {key:?}: {problem}")),
            Within::Tensor(name) => fault(self.path, Some(name), offset, problem),
        }
    }
}
