//! A file mapped into memory, and whether it still is the file that was mapped.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use memmap2::Mmap;

use super::guard::Guarded;
use crate::error::{Error, Result};
use crate::regular::open_regular;

/// A read-only map of a file that other programs may change meanwhile.
///
/// What is read from it is to be believed only if [`check`](Self::check) finds the file unchanged
/// *afterwards*: until then it may be another file's bytes, or zeros where the file has become shorter.
#[derive(Debug)]
pub struct Mapped {
    // Dropped in this order: the guard before the memory that it looks after.
    guard: Guarded,
    map: Mmap,
    stamp: Arc<Stamp>,
}

impl Mapped {
    /// Maps the regular file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::FileChanged`] if it is being written to.
    pub fn open(path: &Path) -> Result<Self> {
        let stamp = Arc::new(Stamp::open(path)?);
        // SAFETY: the map is read-only. Nothing in this process writes in place to a file that it maps. Another
        // program may, and then the bytes change under a shared reference: they are plain numbers, of which
        // no value is invalid, every length and index was computed from a copy, and results are given out
        // only after `check`. Pages that are gone are replaced by `guard`.
        let map = unsafe { Mmap::map(&stamp.file) }.map_err(Error::io("open", path))?;
        let guard = Guarded::new(&map).map_err(Error::io("open", path))?;
        Ok(Self { guard, map, stamp })
    }

    /// The file's bytes; see above.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// What `read` makes of the bytes, if they can be believed.
    ///
    /// # Errors
    /// Those of `read`, and as [`check`](Self::check), which comes first.
    pub fn read<T>(&self, read: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        let found = read(self.bytes());
        self.check()?;
        found
    }

    /// Where the file was opened.
    pub fn path(&self) -> &Path {
        self.stamp.path()
    }

    /// Whether what was read so far can be believed.
    ///
    /// # Errors
    /// [`Error::FileChanged`] if the file was written to since it was mapped, or could not be read.
    pub fn check(&self) -> Result<()> {
        self.stamp.check()?;
        if self.guard.is_lost() {
            return Err(self.stamp.changed("a part of it could not be read".to_owned()));
        }
        Ok(())
    }

    /// The open file without its map.
    pub(crate) fn stamp(&self) -> &Arc<Stamp> {
        &self.stamp
    }

    /// Fills `into` with the bytes from `at` on: read, not mapped, so that they take no memory besides.
    ///
    /// # Errors
    /// [`Error::FileChanged`] if the file has become shorter, [`Error::Io`].
    pub(crate) fn read_at(&self, at: usize, into: &mut [u8]) -> Result<()> {
        self.stamp.read_at(at, into)
    }
}

/// An open file, and its size and time of writing as they were then.
///
/// Replacing the file under its name, or removing it, leaves the open one as it is; writing to it changes its
/// size or time.
#[derive(Debug)]
pub(crate) struct Stamp {
    path: PathBuf,
    file: File,
    len: u64,
    modified: Option<SystemTime>,
}

/// Longer than the clock that files are stamped with takes for a tick, on any system.
const TICK: Duration = Duration::from_millis(20);

/// How many ticks a file may go on changing before we stop waiting for it.
const PATIENCE: usize = 25;

impl Stamp {
    /// Opens the regular file at `path`.
    ///
    /// # Errors
    /// [`Error::FileChanged`] if it goes on being written to for as long as half a second, [`Error::Io`].
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, || std::thread::sleep(TICK))
    }

    /// [`open`](Self::open), with what waits for the end of a tick.
    fn open_with(path: &Path, mut wait: impl FnMut()) -> Result<Self> {
        let mut stamp = Self {
            path: path.to_owned(),
            file: open_regular(path).map_err(Error::io("open", path))?,
            len: 0,
            modified: None,
        };
        // A file that was written in this tick of the clock could be written again within it, unseen: so it
        // is looked at again when the tick is over. A time in the future is as good as none.
        for _ in 0..PATIENCE {
            // Before the look: a thread may be interrupted in between for any time.
            let now = SystemTime::now();
            stamp.take().map_err(Error::io("open", path))?;
            let is_old = |modified| now.duration_since(modified).is_ok_and(|age| age > TICK);
            if stamp.modified.is_none_or(is_old) {
                return Ok(stamp);
            }
            wait();
            if stamp.check().is_ok() {
                return Ok(stamp);
            }
        }
        Err(stamp.changed("it is being written to".to_owned()))
    }

    /// Takes the file as it is now.
    fn take(&mut self) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        (self.len, self.modified) = (metadata.len(), metadata.modified().ok());
        Ok(())
    }

    /// Where it was opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `into` with the bytes from `at` on; several threads may do so at the same time.
    ///
    /// # Errors
    /// [`Error::FileChanged`] if the file has become shorter, [`Error::Io`].
    pub(crate) fn read_at(&self, at: usize, into: &mut [u8]) -> Result<()> {
        read_exact_at(&self.file, at as u64, into).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.changed("it became shorter while it was read".to_owned()),
            _ => Error::io("read", &self.path)(error),
        })
    }

    /// Its size in bytes when it was opened.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// # Errors
    /// [`Error::FileChanged`] if it was written to since.
    pub(crate) fn check(&self) -> Result<()> {
        let metadata = self.file.metadata().map_err(Error::io("read", &self.path))?;
        let (was, is) = (self.len, metadata.len());
        if was != is {
            return Err(self.changed(format!("it had {was} bytes and has {is}")));
        }
        if self.modified != metadata.modified().ok() {
            return Err(self.changed("it was written to".to_owned()));
        }
        Ok(())
    }

    /// An [`Error::FileChanged`].
    pub(crate) fn changed(&self, how: String) -> Error {
        Error::FileChanged { path: self.path.clone(), how }
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, at: u64, into: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, at)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut at: u64, mut into: &mut [u8]) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !into.is_empty() {
        match file.seek_read(into, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                at += count as u64;
                into = &mut into[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that says it was written in the future, a second later each time.
    fn write_later(path: &Path, seconds: u64) {
        let file = File::options().write(true).open(path).expect("the file");
        let later = SystemTime::now() + Duration::from_secs(3600 + seconds);
        file.set_modified(later).expect("a time");
    }

    #[test]
    fn a_file_that_is_being_written_is_waited_for_and_then_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("model.bin");
        std::fs::write(&path, [7; 100]).expect("a file");
        for writes in [0, 1, PATIENCE - 1, PATIENCE, usize::MAX] {
            write_later(&path, 0);
            let mut waits = 0;
            let opened = Stamp::open_with(&path, || {
                waits += 1;
                if waits <= writes {
                    write_later(&path, waits as u64);
                }
            });
            assert_eq!(waits, PATIENCE.min(writes.saturating_add(1)), "{writes}");
            if writes < PATIENCE {
                opened.expect("it is as it was when the tick began").check().expect("unchanged");
                continue;
            }
            let error = opened.expect_err("still being written to");
            let text = error.to_string();
            assert!(error.code() == "FILE_CHANGED" && text.contains("being written to"), "{text}");
        }
    }

    #[test]
    fn a_file_of_long_ago_is_not_waited_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("model.bin");
        std::fs::write(&path, [7; 100]).expect("a file");
        let file = File::options().write(true).open(&path).expect("the file");
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)).expect("a time");
        Stamp::open_with(&path, || panic!("a wait")).expect("a file");
    }
}
