//! Atomic writing: files that are either whole or not there.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Writes `path` through `body` so that a crash, a full disk or an error at any point leaves the old file, or
/// none: [`Staged::write`] and [`Staged::commit`] in one.
///
/// # Errors
/// [`Error::Io`] that names `path`.
pub fn write_atomically(path: &Path, body: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    Staged::write(path, body)?.commit()
}

/// A file that is whole and on the disk, and not yet at its place: what is there is still the old one.
/// Dropped, it is gone.
///
/// The bytes are in a new file in the same directory. [`commit`](Self::commit) renames it over `path`; if that
/// is a link to a file, over that file. What is there and is no file, such as `/dev/null` or a pipe, is
/// refused.
///
/// On Linux the new file has no name until it takes its place, so that a killed process leaves no half of one
/// behind. (If `path` is there already, it is called `.<name>.<random>.tmp` for the moment before it is
/// renamed.) Elsewhere, and on file systems that know no such files, it has that name all the time, and keeps
/// it if the process is killed.
#[derive(Debug)]
pub struct Staged {
    /// As it was given, for messages.
    path: PathBuf,
    /// Where the file goes.
    target: PathBuf,
    file: New,
    len: u64,
    crc32: u32,
}

#[derive(Debug)]
enum New {
    Unnamed(File),
    Named(tempfile::NamedTempFile),
}

impl Staged {
    /// Writes the file that is to be at `path` through `body`.
    ///
    /// # Errors
    /// [`Error::Io`] that names `path`; nothing is left behind.
    pub fn write(path: &Path, body: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<Self> {
        stage(path, body).map_err(Error::io("write", path))
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// [`Error::Io`] that names the path; what was there still is.
    pub fn commit(self) -> Result<()> {
        let path = self.path.clone();
        commit(self).map_err(Error::io("write", path))
    }

    /// Bytes of the file.
    #[allow(clippy::len_without_is_empty)] // a file, of which nobody asks that
    pub fn len(&self) -> u64 {
        self.len
    }

    /// CRC-32 of its bytes.
    pub fn crc32(&self) -> u32 {
        self.crc32
    }
}

/// The directory of a file, and how a new one beside it is called.
fn beside(target: &Path) -> io::Result<(&Path, std::ffi::OsString)> {
    let name =
        target.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))?;
    let directory = match target.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    Ok((directory, prefix))
}

fn temporary(prefix: &std::ffi::OsStr) -> tempfile::Builder<'_, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).suffix(".tmp");
    #[cfg(unix)]
    {
        // As for any new file: what the umask leaves, not the owner-only mode of temporary files.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder
}

fn stage(path: &Path, body: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<Staged> {
    let target = target(path)?;
    let (directory, prefix) = beside(&target)?;
    let (file, len, crc32) = if let Some(file) = unnamed::create(directory) {
        let (file, len, crc32) = fill(file, body)?;
        file.sync_all()?;
        (New::Unnamed(file), len, crc32)
    } else {
        let file =
            temporary(&prefix).tempfile_in(directory).map_err(|error| cannot_create(directory, error))?;
        let (file, len, crc32) = fill(file, body)?;
        file.as_file().sync_all()?;
        (New::Named(file), len, crc32)
    };
    Ok(Staged { path: path.to_owned(), target, file, len, crc32 })
}

fn commit(staged: Staged) -> io::Result<()> {
    let target = &*staged.target;
    let (directory, prefix) = beside(target)?;
    match staged.file {
        New::Unnamed(file) => match unnamed::link(&file, target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let named = temporary(&prefix).make_in(directory, |name| unnamed::link(&file, name))?;
                named.persist(target).map_err(|error| error.error)?;
            }
            linked => linked?,
        },
        New::Named(file) => {
            file.persist(target).map_err(|error| error.error)?;
        }
    }
    // The rename itself reaches the disk with the directory. Not every system can open one; the file is whole
    // regardless.
    if let Ok(directory) = File::open(directory) {
        let _ = directory.sync_all();
    }
    Ok(())
}

/// Writes the body; returns the file, its length and its CRC-32.
fn fill<W: Write>(file: W, body: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<(W, u64, u32)> {
    let mut writer =
        BufWriter::with_capacity(1 << 18, Summed { file, len: 0, crc32: crc32fast::Hasher::new() });
    body(&mut writer)?;
    let Summed { file, len, crc32 } = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok((file, len, crc32.finalize()))
}

/// A writer that counts what it writes, and takes its checksum.
struct Summed<W> {
    file: W,
    len: u64,
    crc32: crc32fast::Hasher,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.len += written as u64;
        self.crc32.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Files without a name (`O_TMPFILE`), which the system frees when the process ends, however it ends.
#[cfg(target_os = "linux")]
mod unnamed {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;
    use std::path::{Path, PathBuf};

    use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};

    /// A new file on the file system of `directory`. None if that has no such files, or if they could not be
    /// named later; what else may be wrong with the directory is found out when a file with a name is tried.
    pub(super) fn create(directory: &Path) -> Option<File> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        // As for any new file: what the umask leaves of this.
        let file = File::from(open(directory, flags, Mode::from_raw_mode(0o666)).ok()?);
        path_of(&file).exists().then_some(file)
    }

    /// Gives the file a name.
    pub(super) fn link(file: &File, name: &Path) -> io::Result<()> {
        linkat(CWD, path_of(file), CWD, name, AtFlags::SYMLINK_FOLLOW).map_err(io::Error::from)
    }

    /// Where the system shows an open file. Linking an open file itself takes a privilege; linking this does
    /// not.
    fn path_of(file: &File) -> PathBuf {
        format!("/proc/self/fd/{}", file.as_raw_fd()).into()
    }
}

#[cfg(not(target_os = "linux"))]
mod unnamed {
    use std::fs::File;
    use std::io;
    use std::path::Path;

    pub(super) fn create(_: &Path) -> Option<File> {
        None
    }

    pub(super) fn link(_: &File, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The file that is to be replaced. Renaming would put a file in the place of a device, a pipe or a link.
fn target(path: &Path) -> io::Result<PathBuf> {
    let Ok(there) = std::fs::metadata(path) else { return Ok(path.to_owned()) };
    if there.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory; name a file in it"));
    }
    if !there.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    if std::fs::symlink_metadata(path)?.is_symlink() {
        return std::fs::canonicalize(path);
    }
    Ok(path.to_owned())
}

/// Why there can be no new file in `directory`, without its own name, which means nothing to anyone.
fn cannot_create(directory: &Path, error: io::Error) -> io::Error {
    let kind = error.kind();
    let problem = match kind {
        _ if directory.is_file() => format!("{} is a file, not a directory", directory.display()),
        _ if !directory.is_dir() => {
            format!("directory {} does not exist; create it first", directory.display())
        }
        io::ErrorKind::PermissionDenied => format!("no permission to make a file in {}", directory.display()),
        _ => return error,
    };
    io::Error::new(kind, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.bin");
        for text in ["first", "second, and longer"] {
            write_atomically(&path, |w| w.write_all(text.as_bytes())).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert_eq!(names(directory.path()), ["a.bin"]);
        }
    }

    #[test]
    fn an_error_half_way_leaves_the_old_file_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.bin");
        write_atomically(&path, |w| w.write_all(b"old")).unwrap();
        let full = |w: &mut dyn Write| {
            w.write_all(&vec![7; 1 << 20])?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        };
        for path in [&path, &directory.path().join("b.bin")] {
            let error = write_atomically(path, full).unwrap_err();
            assert_eq!(error.code(), "IO");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
        assert_eq!(names(directory.path()), ["a.bin"]);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn a_staged_file_takes_its_place_when_it_is_told_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.bin");
        std::fs::write(&path, "old").unwrap();
        drop(Staged::write(&path, |w| w.write_all(b"dropped")).unwrap());
        let staged = Staged::write(&path, |w| w.write_all(b"123456789")).unwrap();
        // The check value of CRC-32 in the catalogue of parametrised CRC algorithms.
        assert_eq!((staged.len(), staged.crc32()), (9, 0xcbf4_3926));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        staged.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"123456789");
        assert_eq!(names(directory.path()), ["a.bin"]);
    }

    /// What a kill at any moment leaves behind.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_is_being_written_has_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.bin");
        assert!(unnamed::create(directory.path()).is_some(), "this file system has no files without a name");
        write_atomically(&path, |w| {
            w.write_all(&vec![7; 1 << 20])?;
            w.flush()?;
            assert_eq!(names(directory.path()), Vec::<String>::new());
            Ok(())
        })
        .unwrap();
        assert_eq!(names(directory.path()), ["a.bin"]);
    }

    #[test]
    fn a_directory_that_cannot_take_the_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "x").unwrap();
        for (path, says) in [
            (directory.path().join("missing/a.bin"), "missing does not exist; create it first"),
            (file.join("a.bin"), "file is a file, not a directory"),
            (directory.path().to_owned(), "it is a directory"),
        ] {
            let error = write_atomically(&path, |w| w.write_all(b"x")).unwrap_err();
            assert!(matches!(&error, Error::Io { path: named, .. } if *named == path), "{error}");
            assert!(error.to_string().contains(says) && !error.to_string().contains("at path"), "{error}");
        }
        assert_eq!(names(directory.path()), ["file"]);
        let denied = cannot_create(directory.path(), io::ErrorKind::PermissionDenied.into());
        assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
        assert!(denied.to_string().contains(&directory.path().display().to_string()), "{denied}");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_is_replaced_through_a_link_and_nothing_else_by_a_file() {
        use std::os::unix::fs::{FileTypeExt, symlink};
        use std::os::unix::net::UnixListener;
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let (link, file) = (directory.path().join("link"), elsewhere.path().join("file"));
        std::fs::write(&file, "old").unwrap();
        symlink(&file, &link).unwrap();
        write_atomically(&link, |w| w.write_all(b"new")).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(names(elsewhere.path()), ["file"]);

        let socket = directory.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let error = write_atomically(&socket, |w| w.write_all(b"x")).unwrap_err();
        assert!(error.to_string().contains("it is not a regular file"), "{error}");
        assert!(std::fs::symlink_metadata(&socket).unwrap().file_type().is_socket());
        assert_eq!(names(directory.path()), ["link", "socket"]);
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_the_file_as_far_as_the_umask_lets_them() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let (ours, plain) = (directory.path().join("ours"), directory.path().join("plain"));
        write_atomically(&ours, |w| w.write_all(b"x")).unwrap();
        std::fs::write(&plain, "x").unwrap();
        let mode = |path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }
}
