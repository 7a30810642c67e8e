//! Files of tokens, mapped and never loaded: a set of tokens may be larger than the machine's memory.
//!
//! # Formats
//! [`TokenFile::open`] finds out by a file's content and by what stands beside it which one it is. All numbers
//! are little-endian.
//!
//! | format | what is in it |
//! |---|---|
//! | raw, as nanoGPT's `prepare.py` writes it | one u16 per token and nothing else; u32 if a [`Description`] beside the file says so |
//! | llm.c | 256 i32 (a magic number, a version, the number of tokens, zeros), then the tokens: u16 for magic 20240520, version 1 (GPT-2), u32 for magic 20240801, version 7 (Llama 3) |
//! | binidx, of Megatron and RWKV-LM | the tokens in `<name>.bin`, and in `<name>.idx` where sequences and documents begin; see [`Documents`] |
//!
//! # Trust
//! None. Everything that a header or an index says is checked against the files' sizes before anything is
//! read by it or allocated, and what is wrong is an [`Error::Data`] that names the file, the byte, what was
//! expected and what to do. Token ids themselves are not looked at until [`TokenFile::check_vocab`] is asked
//! to. A file that changes while it is in use is an [`Error::FileChanged`], never a signal.

mod binidx;
mod description;
mod meta;
mod raw;
mod scan;
mod writer;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rwkv_core::{Error, Mapped, Result};

pub use binidx::Documents;
pub use description::Description;
pub use meta::{meta_pickle, read_meta, write_meta};
pub use writer::TokenWriter;
pub(crate) use writer::open_locked;
#[cfg(feature = "download")]
pub(crate) use writer::sync_directory;

/// How a file stores a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// 2 bytes, for vocabularies of up to 65,536 tokens.
    U16,
    /// 4 bytes.
    U32,
}

impl Width {
    /// Bytes of a token.
    pub const fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }

    /// The narrowest for a vocabulary of `n_vocab` tokens.
    pub const fn of(n_vocab: u32) -> Self {
        if n_vocab <= 1 << 16 { Self::U16 } else { Self::U32 }
    }
}

/// Which format a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Tokens and nothing else.
    Raw,
    /// With llm.c's header.
    LlmC,
    /// With an index beside it.
    Binidx,
}

/// The tokens in a file, mapped. Cheap to clone; clones share the map.
#[derive(Clone, Debug)]
pub struct TokenFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    map: Mapped,
    layout: Layout,
    documents: Option<Documents>,
    n_vocab: Option<u32>,
}

/// Where the tokens are in a file.
#[derive(Clone, Copy, Debug)]
struct Layout {
    format: Format,
    width: Width,
    /// The first token's byte.
    start: usize,
    /// Tokens.
    len: usize,
}

impl TokenFile {
    /// Maps the file at `path` and checks all of it but the tokens themselves.
    ///
    /// For binidx `path` may be that of the `.bin`, that of the `.idx`, or either without its ending, as
    /// RWKV-LM takes it.
    ///
    /// # Errors
    /// [`Error::Io`] if a file is not there or cannot be read; [`Error::Data`] if it is empty, cut, damaged,
    /// or of an unknown version, or if what describes it does not fit it; [`Error::FileChanged`] if it is
    /// being written to.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.extension().is_some_and(|extension| extension == "idx") {
            return binidx::open(&path.with_extension("bin"), path);
        }
        let [bin, idx] = [".bin", ".idx"].map(|ending| with_ending(path, ending));
        if !is_there(path)? && (is_there(&bin)? || is_there(&idx)?) {
            return binidx::open(&bin, &idx);
        }
        let map = Mapped::open(path)?;
        let idx = path.with_extension("idx");
        if path.extension().is_some_and(|extension| extension == "bin") && is_there(&idx)? {
            return binidx::open(path, &idx);
        }
        raw::open(map)
    }

    fn new(map: Mapped, layout: Layout, documents: Option<Documents>, n_vocab: Option<u32>) -> Self {
        Self(Arc::new(Inner { map, layout, documents, n_vocab }))
    }

    /// The file with the tokens.
    pub fn path(&self) -> &Path {
        self.0.map.path()
    }

    /// Which format it has.
    pub fn format(&self) -> Format {
        self.0.layout.format
    }

    /// How it stores a token.
    pub fn width(&self) -> Width {
        self.0.layout.width
    }

    /// Its tokens, at least one.
    #[allow(clippy::len_without_is_empty)] // an empty file is refused
    pub fn len(&self) -> u64 {
        self.0.layout.len as u64
    }

    /// The size of the vocabulary, if a [`Description`] or nanoGPT's `meta.pkl` beside the file says it. No
    /// token was compared with it; see [`check_vocab`](Self::check_vocab).
    pub fn n_vocab(&self) -> Option<u32> {
        self.0.n_vocab
    }

    /// Where documents begin, if the format says it.
    pub fn documents(&self) -> Option<&Documents> {
        self.0.documents.as_ref()
    }

    /// Puts the tokens of `range` in the place of what is in `out`. Where it fails, `out` is empty.
    ///
    /// A negative id of an index's i32 tokens is read as the u32 of the same bits.
    ///
    /// # Errors
    /// [`Error::Data`] if the file has not so many; [`Error::FileChanged`]; [`Error::Io`].
    pub fn read(&self, range: Range<u64>, out: &mut Vec<u32>) -> Result<()> {
        out.clear();
        let bytes = self.bytes(&range)?;
        let count = (range.end - range.start) as usize;
        out.try_reserve(count).map_err(|_| out_of_memory(self.path()))?;
        match self.width() {
            Width::U16 => {
                out.extend(bytes.as_chunks().0.iter().map(|&token| u32::from(u16::from_le_bytes(token))));
            }
            Width::U32 => out.extend(bytes.as_chunks().0.iter().map(|&token| u32::from_le_bytes(token))),
        }
        // Only now is it known whether those were the file's bytes.
        self.0.map.check().inspect_err(|_| out.clear())
    }

    /// The bytes of the tokens of `range`.
    fn bytes(&self, range: &Range<u64>) -> Result<&[u8]> {
        let Layout { width, start, len, .. } = self.0.layout;
        if range.start > range.end || range.end > len as u64 {
            let Range { start, end } = range;
            return Err(fault(
                self.path(),
                format!("tokens {start} to {end} were asked for; it has {len}, counted from 0"),
            ));
        }
        // Both products are within the file, as `len` is.
        let [from, to] = [range.start, range.end].map(|at| start + at as usize * width.bytes());
        Ok(&self.0.map.bytes()[from..to])
    }
}

/// An [`Error::Data`].
fn fault(path: &Path, problem: impl Into<String>) -> Error {
    Error::Data { path: path.to_owned(), problem: problem.into() }
}

fn out_of_memory(path: &Path) -> Error {
    Error::io("read", path)(std::io::ErrorKind::OutOfMemory.into())
}

/// `path` with `ending` after its whole name.
pub(crate) fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Whether there is anything under that name.
fn is_there(path: &Path) -> Result<bool> {
    path.try_exists().map_err(Error::io("open", path))
}

/// A file's name without its directories, for messages about a file beside another one.
fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
