//! Reading texts to learn or to be tested on: regular files and pipes, within a limit of memory.

use std::fs::{File, FileType};
use std::io::{self, Read};
use std::path::Path;

use crate::control::{Control, ask};
use crate::error::{Error, Result};
use crate::machine::{self, Bytes, Limit, LimitOf};
use crate::regular::{name_of, open};

/// A text may take one part in so many of the machine's memory: as tokens it takes four times as much again,
/// and there is a model beside it.
const PART: f64 = 8.0;

/// Bytes between two questions to the control.
const CHUNK: usize = 1 << 20;

/// The bytes of the file or pipe `path`; of a pipe, all until its writers have closed it.
///
/// `control` is asked now and then, with bytes, also while a pipe has no writer yet.
///
/// # Errors
/// [`Error::Io`] if it cannot be read; [`Error::Data`] if it is a directory, a device or a socket, or larger
/// than an eighth of the memory that this process may use: a file is then not read at all, and a pipe no further than that;
/// [`Error::Aborted`] if `control` says so.
pub fn read_text(path: &Path, control: impl Control) -> Result<Vec<u8>> {
    let Limit { bytes, of } = machine::limit();
    read_within(path, ((bytes / PART) as usize, &of), control)
}

fn read_within(path: &Path, (limit, of): (usize, &LimitOf), mut control: impl Control) -> Result<Vec<u8>> {
    // Opening a device may do something to it, so it is not even opened.
    let there = std::fs::metadata(path).map_err(Error::io("read", path))?;
    check(path, there.file_type())?;
    // A pipe without a writer does not keep us waiting here: `Pipe` does that.
    let mut file = Pipe(open(path).map_err(Error::io("open", path))?);
    let opened = file.0.metadata().map_err(Error::io("read", path))?;
    check(path, opened.file_type())?;
    let len = opened.len();
    if len > limit as u64 {
        return Err(too_large(path, &Bytes(len as f64).to_string(), limit, of));
    }

    let mut bytes = Vec::new();
    reserve(&mut bytes, len as usize).map_err(Error::io("read", path))?;
    let mut chunk = vec![0; CHUNK];
    loop {
        ask(&mut control, bytes.len() as u64, len)?;
        let count = match file.read(&mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                continue;
            }
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        if count > limit - bytes.len() {
            return Err(too_large(path, &format!("more than {}", Bytes(limit as f64)), limit, of));
        }
        reserve(&mut bytes, count).map_err(Error::io("read", path))?;
        bytes.extend_from_slice(&chunk[..count]);
    }
}

/// Room for `more` bytes, or an error instead of the end of the process.
fn reserve(bytes: &mut Vec<u8>, more: usize) -> io::Result<()> {
    bytes.try_reserve(more).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))
}

fn too_large(path: &Path, size: &str, limit: usize, of: &LimitOf) -> Error {
    let limit = Bytes(limit as f64);
    let problem = format!("the text has {size}; a text may have {limit} here, an eighth of {of}");
    Error::Data { path: path.to_owned(), problem }
}

/// Refuses what is neither a file nor a pipe.
fn check(path: &Path, kind: FileType) -> Result<()> {
    if kind.is_file() || is_pipe(kind) {
        return Ok(());
    }
    let problem = format!("it is {}; the text must be a regular file or a pipe", name_of(kind));
    Err(Error::Data { path: path.to_owned(), problem })
}

/// Whether a file is a pipe, which is read like a regular one.
#[cfg(unix)]
fn is_pipe(kind: FileType) -> bool {
    std::os::unix::fs::FileTypeExt::is_fifo(&kind)
}

#[cfg(not(unix))]
fn is_pipe(kind: FileType) -> bool {
    !kind.is_dir() && !kind.is_file()
}

/// A pipe, or what else may keep its readers waiting, such as a terminal. Reading waits for 50 ms at most, and then
/// is [`WouldBlock`](io::ErrorKind::WouldBlock), so that whoever reads can be asked whether to go on.
///
/// On Windows, which cannot wait for a pipe for some time only, reading waits until there is something.
#[derive(Debug)]
pub struct Pipe(File);

impl Pipe {
    /// Standard input, without what somebody else in this process has read ahead of it.
    ///
    /// # Errors
    /// If it cannot be opened once more.
    #[cfg(unix)]
    pub fn stdin() -> io::Result<Self> {
        use std::os::fd::AsFd;
        Ok(Self(io::stdin().as_fd().try_clone_to_owned()?.into()))
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if is_ready(&self.0)? { self.0.read(buffer) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }
}

/// Waits a moment for a pipe to have bytes or to have been closed by its last writer; false if neither
/// came. A regular file is ready at once.
#[cfg(unix)]
fn is_ready(pipe: &File) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let moment = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&moment)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(unix))]
fn is_ready(_: &File) -> io::Result<bool> {
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::control::go_on;

    const NEVER: fn(u64, u64) -> ControlFlow<()> = go_on;

    #[test]
    fn a_file_within_the_limit_is_read_and_a_larger_one_is_not_even_begun() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("text");
        let text: Vec<u8> = (0..CHUNK + 77).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &text).unwrap();
        assert!(read_text(&path, NEVER).unwrap() == text);
        assert!(read_within(&path, (text.len(), &LimitOf::Machine), NEVER).unwrap() == text);
        let error =
            read_within(&path, (text.len() - 1, &LimitOf::Machine), |_, _| panic!("reading has begun"))
                .unwrap_err();
        assert!(error.code() == "DATA" && error.to_string().contains("the text has 1.0 MB"), "{error}");
        assert_eq!(
            read_within(&path, (text.len(), &LimitOf::Machine), |_, _| ControlFlow::Break(()))
                .unwrap_err()
                .code(),
            "ABORTED"
        );
    }

    #[test]
    fn a_file_of_more_than_an_eighth_of_the_memory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sparse");
        File::create(&path).unwrap().set_len((machine::memory() / PART) as u64 + 1).unwrap();
        let error = read_text(&path, |_, _| panic!("reading has begun")).unwrap_err();
        assert!(error.to_string().contains("an eighth of the machine's memory"), "{error}");
    }

    #[test]
    fn directories_are_refused_and_missing_files_are_the_systems_matter() {
        let directory = tempfile::tempdir().unwrap();
        let error = read_text(directory.path(), NEVER).unwrap_err();
        assert!(error.code() == "DATA" && error.to_string().contains("it is a directory"), "{error}");
        assert_eq!(read_text(&directory.path().join("none"), NEVER).unwrap_err().code(), "IO");
    }

    #[cfg(unix)]
    mod unix {
        use std::cell::Cell;
        use std::os::unix::net::UnixListener;
        use std::process::Command;

        use super::*;

        #[test]
        fn devices_and_sockets_are_refused() {
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join("socket");
            let _listener = UnixListener::bind(&socket).unwrap();
            for (path, what) in [(Path::new("/dev/zero"), "a device"), (&socket, "a socket")] {
                let error = read_text(path, NEVER).unwrap_err();
                let says = format!("it is {what}; the text must be a regular file or a pipe");
                assert!(error.code() == "DATA" && error.to_string().contains(&says), "{error}");
            }
        }

        #[test]
        fn a_pipe_is_read_to_its_end_or_to_the_limit_and_waiting_for_it_can_be_stopped() {
            let directory = tempfile::tempdir().unwrap();
            let pipe = directory.path().join("pipe");
            assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());

            // No writer: three questions, then the end.
            let looks = Cell::new(0);
            let stop = |_, _| {
                if looks.replace(looks.get() + 1) == 3 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            assert_eq!(read_text(&pipe, stop).unwrap_err().code(), "ABORTED");

            let text: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
            std::thread::scope(|scope| {
                scope.spawn(|| std::fs::write(&pipe, &text).unwrap());
                assert!(read_within(&pipe, (text.len(), &LimitOf::Machine), NEVER).unwrap() == text);
            });
            std::thread::scope(|scope| {
                // The reader gives up before the writer does.
                scope.spawn(|| std::fs::write(&pipe, &text).unwrap_err());
                let error = read_within(&pipe, (100_000, &LimitOf::Machine), NEVER).unwrap_err();
                assert!(error.to_string().contains("the text has more than 0.1 MB; a text may have 0.1 MB"));
            });
            std::thread::scope(|scope| {
                // Opened and closed: an empty text.
                scope.spawn(|| std::fs::write(&pipe, "").unwrap());
                assert!(read_text(&pipe, NEVER).unwrap().is_empty());
            });
        }
    }
}
