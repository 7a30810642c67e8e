//! Writing a file of tokens, so that a kill loses little.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rwkv_core::{Error, Result};

use super::description::Description;
use super::{Width, fault, is_there, name, with_ending};

/// Appends tokens to a raw file, under a temporary name until it is whole.
///
/// The tokens are in `<name>.partial` beside `path`, and stay there when the writer is dropped or the process
/// killed: [`reopen`](Self::reopen) goes on with it. [`finish`](Self::finish) brings them to the disk, writes
/// the [`Description`] and renames the file, over what is there: a link is replaced, not followed.
#[derive(Debug)]
pub struct TokenWriter {
    path: PathBuf,
    partial: PathBuf,
    /// Locked, so that no two processes write the same file.
    file: BufWriter<File>,
    width: Width,
    len: u64,
}

impl TokenWriter {
    /// Begins the file that is to be at `path`; what an earlier one left of it is overwritten.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Data`] if it is being written already, by any process.
    pub fn create(path: impl AsRef<Path>, width: Width) -> Result<Self> {
        Self::open(path.as_ref(), width, 0)
    }

    /// Goes on with a file after `len` tokens; what was written behind them is dropped.
    ///
    /// `len` is what [`sync`](Self::sync) returned: what was not synced may be lost after a crash of the
    /// machine.
    ///
    /// # Errors
    /// As [`create`](Self::create); [`Error::Data`] if there are not so many.
    pub fn reopen(path: impl AsRef<Path>, width: Width, len: u64) -> Result<Self> {
        Self::open(path.as_ref(), width, len)
    }

    /// Where the file that is to be at `path` is until it is whole.
    pub fn partial_path(path: &Path) -> PathBuf {
        with_ending(path, ".partial")
    }

    fn open(path: &Path, width: Width, len: u64) -> Result<Self> {
        let partial = Self::partial_path(path);
        if len > 0 && !is_there(&partial)? {
            return Err(fault(
                &partial,
                format!("the file to go on with after {len} tokens is not there; begin it anew"),
            ));
        }
        let mut file = open_locked(path, &partial)?;
        let there = file.metadata().map_err(Error::io("write", &partial))?.len();
        let bytes = len.checked_mul(width.bytes() as u64).filter(|&bytes| bytes <= there);
        let Some(bytes) = bytes else {
            let there = there / width.bytes() as u64;
            return Err(fault(
                &partial,
                format!("the file to go on with after {len} tokens has only {there}; begin it anew"),
            ));
        };
        let start = file.set_len(bytes).and_then(|()| file.seek(SeekFrom::Start(bytes)));
        start.map_err(Error::io("write", &partial))?;
        let file = BufWriter::with_capacity(1 << 18, file);
        Ok(Self { path: path.to_owned(), partial, file, width, len })
    }

    /// Appends tokens.
    ///
    /// # Errors
    /// [`Error::Data`] if one is too large for the width: then none of them is appended; [`Error::Io`].
    pub fn push(&mut self, tokens: &[u32]) -> Result<()> {
        let mut buffer = [0; 1 << 12];
        let most = match self.width {
            Width::U16 => u32::from(u16::MAX),
            Width::U32 => u32::MAX,
        };
        if let Some(at) = tokens.iter().position(|&token| token > most) {
            return Err(fault(
                &self.path,
                format!(
                    "token {} is {}, and a token of 2 bytes is at most {most}; write tokens of 4 bytes",
                    self.len + at as u64,
                    tokens[at]
                ),
            ));
        }
        let width = self.width.bytes();
        for tokens in tokens.chunks(buffer.len() / width) {
            let bytes = &mut buffer[..tokens.len() * width];
            for (place, token) in bytes.chunks_exact_mut(width).zip(tokens) {
                place.copy_from_slice(&token.to_le_bytes()[..width]);
            }
            self.file.write_all(bytes).map_err(Error::io("write", &self.partial))?;
            self.len += tokens.len() as u64;
        }
        Ok(())
    }

    /// Tokens so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Brings all tokens so far to the disk. Returns how many there are, for [`reopen`](Self::reopen).
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&mut self) -> Result<u64> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_data());
        synced.map_err(Error::io("write", &self.partial))?;
        Ok(self.len)
    }

    /// Puts the whole file in its place, and its [`Description`] beside it.
    ///
    /// # Errors
    /// [`Error::Data`] if there are no tokens; [`Error::Io`]. The partial file is still there then.
    pub fn finish(mut self, n_vocab: Option<u32>) -> Result<()> {
        if self.is_empty() {
            return Err(fault(
                &self.path,
                "there are no tokens to be written; a file of tokens has at least one",
            ));
        }
        let tokens = self.sync()?;
        // First, because 4-byte tokens without it would be taken for twice as many of 2. With the old file
        // still in its place it is found out by the number of tokens.
        Description { width: self.width, tokens: Some(tokens), n_vocab }.write(&self.path)?;
        std::fs::rename(&self.partial, &self.path).map_err(Error::io("write", &self.path))?;
        sync_directory(&self.path);
        Ok(())
    }

    /// Removes the partial file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn discard(self) -> Result<()> {
        std::fs::remove_file(&self.partial).map_err(Error::io("remove", &self.partial))
    }
}

/// Opens the file `partial`, for reading and writing what is to be at `path`, or begins it; nobody else has it
/// while it is open.
///
/// # Errors
/// [`Error::Io`], also if something else than a file is at either path; [`Error::Data`] if somebody has it.
pub(crate) fn open_locked(path: &Path, partial: &Path) -> Result<File> {
    // A pipe would keep us waiting.
    for path in [path, partial] {
        check_regular(path).map_err(Error::io("write", path))?;
    }
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(partial);
    let file = file.map_err(Error::io("write", partial))?;
    let is_taken = match file.try_lock() {
        Err(TryLockError::WouldBlock) => true,
        // Some file systems know no locks.
        Ok(()) | Err(TryLockError::Error(_)) => !is_at(&file, partial),
    };
    if is_taken {
        let problem =
            "this file is being written already; wait until that is done, or stop it, or take another name";
        return Err(fault(partial, problem));
    }
    Ok(file)
}

/// Whether the name still stands for this file: whoever had it locked may have renamed it since it was opened.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let [opened, named] = [file.metadata(), std::fs::metadata(path)];
    opened.is_ok_and(|opened| {
        named.is_ok_and(|named| (opened.dev(), opened.ino()) == (named.dev(), named.ino()))
    })
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Nothing, or a regular file.
fn check_regular(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path) {
        Ok(there) if !there.is_file() => {
            let problem = format!("{} is there already, and not a regular file", name(path));
            Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
        }
        _ => Ok(()),
    }
}

/// A rename reaches the disk with the directory. Not every system can open one; the file is whole regardless.
pub(crate) fn sync_directory(path: &Path) {
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    if let Ok(directory) = File::open(directory) {
        let _ = directory.sync_all();
    }
}
