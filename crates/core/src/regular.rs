//! Opening and reading regular files, and nothing else that a name may stand for.
//!
//! A named pipe keeps whoever opens or reads it waiting, perhaps for ever; a device may have no end.

use std::fs::{File, FileType};
use std::io::{self, Read};
use std::path::Path;

use crate::error::{Error, Result};

/// The bytes of the regular file `path`, if it has at most `most_bytes` of them.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, is not a regular file, or is larger than that.
pub fn read_regular(path: impl AsRef<Path>, most_bytes: u64) -> Result<Vec<u8>> {
    let path = path.as_ref();
    read(path, most_bytes).map_err(Error::io("read", path))
}

fn read(path: &Path, most_bytes: u64) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    let len = file.metadata()?.len();
    let mut bytes = Vec::new();
    if len <= most_bytes {
        let out_of_memory = |_| io::Error::from(io::ErrorKind::OutOfMemory);
        bytes.try_reserve_exact(len as usize).map_err(out_of_memory)?;
        // One more than is allowed, for a file that grows meanwhile.
        file.take(most_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    }
    let len = len.max(bytes.len() as u64);
    if len > most_bytes {
        let problem = format!("it has {len} bytes; such a file has at most {most_bytes}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    Ok(bytes)
}

/// Opens the regular file `path` for reading. A pipe under that name does not keep us waiting.
///
/// # Errors
/// If it cannot be opened, or is not a regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    // Opening a device may do something to it, so it is not even opened.
    check(std::fs::metadata(path)?.file_type())?;
    let file = open(path)?;
    // What the name stands for may have changed meanwhile.
    check(file.metadata()?.file_type())?;
    Ok(file)
}

fn check(kind: FileType) -> io::Result<()> {
    if kind.is_file() {
        return Ok(());
    }
    let problem = format!("it is {}, not a regular file", name_of(kind));
    Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
}

/// What a file is that is not regular.
#[cfg(unix)]
pub(crate) fn name_of(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a pipe",
        _ if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(not(unix))]
pub(crate) fn name_of(kind: FileType) -> &'static str {
    if kind.is_dir() { "a directory" } else { "a device" }
}

/// Opens for reading, without waiting for a pipe's other end.
#[cfg(unix)]
pub(crate) fn open(path: &Path) -> io::Result<File> {
    use std::fs::OpenOptions;
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

#[cfg(not(unix))]
pub(crate) fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_at_most_the_limit_is_read_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, b"12345").unwrap();
        for most in [5, 6, u64::MAX] {
            assert_eq!(read_regular(&path, most).unwrap(), b"12345");
        }
        let error = read_regular(&path, 4).unwrap_err();
        let says = "it has 5 bytes; such a file has at most 4";
        assert!(error.code() == "IO" && error.to_string().contains(says), "{error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        std::fs::write(&path, b"").unwrap();
        assert!(read_regular(&path, 0).unwrap().is_empty());
    }

    #[test]
    fn a_directory_is_refused_and_a_missing_file_is_the_systems_matter() {
        let directory = tempfile::tempdir().unwrap();
        let error = read_regular(directory.path(), 10).unwrap_err();
        assert!(error.to_string().contains("it is a directory, not a regular file"), "{error}");
        let error = read_regular(directory.path().join("none"), 10).unwrap_err();
        assert!(matches!(&error, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound));
    }

    #[cfg(unix)]
    #[test]
    fn pipes_sockets_and_devices_are_refused_without_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let [pipe, socket] = ["pipe", "socket"].map(|name| directory.path().join(name));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        // The name is asked first; that the open file is asked too shows where that answer is too old.
        let opened = open(&pipe).unwrap();
        assert!(check(opened.metadata().unwrap().file_type()).is_err());
        for (path, what) in [(&*pipe, "a pipe"), (&socket, "a socket"), (Path::new("/dev/zero"), "a device")]
        {
            let error = read_regular(path, 10).unwrap_err();
            let says = format!("cannot read {}: it is {what}, not a regular file", path.display());
            assert!(error.code() == "IO" && error.to_string() == says, "{error}");
        }
    }
}
