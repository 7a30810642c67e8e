//! The bytes of a file, unpacked as they are read.

use std::fs::{File, Metadata};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use rwkv_core::{Error, open_regular};

use super::{Bytes, Compression, Result, Source, data};

/// Bytes of a packed file that are read at a time.
const PACKED_CHUNK: usize = 1 << 17;

/// Unpacked bytes between two questions whether to go on: some ms.
const ASKED: u64 = 1 << 20;

/// Asked while something is waited for or takes long, whether to go on.
pub(super) type GoOn<'a> = &'a mut dyn FnMut() -> ControlFlow<()>;

#[cfg(unix)]
type Stdin = rwkv_core::Pipe;
/// Windows cannot wait for some time only for what may be a pipe or a console: while nothing comes, nobody is asked.
#[cfg(not(unix))]
type Stdin = io::Stdin;

#[cfg(unix)]
fn stdin() -> io::Result<Stdin> {
    rwkv_core::Pipe::stdin()
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps)] // as the other one
fn stdin() -> io::Result<Stdin> {
    Ok(io::stdin())
}

/// Zstandard's own programs refuse larger windows too, unless told otherwise: it takes that much memory.
pub(super) const ZSTD_WINDOW_LOG: u32 = 27;

/// A source that is read from its beginning to its end.
pub(super) struct Stream {
    source: Source,
    inner: Inner,
}

enum Inner {
    Stdin(Counted<Stdin>),
    Memory(Counted<io::Cursor<Bytes>>),
    Plain(Counted<File>),
    Gzip(Box<MultiGzDecoder<BufReader<Counted<File>>>>),
    Zstd(zstd::stream::read::Decoder<'static, BufReader<Counted<File>>>),
}

impl Stream {
    pub(super) fn open(source: &Source) -> Result<Self> {
        let path = &source.path;
        if source.is_stdin() {
            let inner = Inner::Stdin(Counted::new(stdin().map_err(Error::io("open", path))?));
            return Ok(Self { source: source.clone(), inner });
        }
        if let Some(text) = &source.text {
            let inner = Inner::Memory(Counted::new(io::Cursor::new(text.clone())));
            return Ok(Self { source: source.clone(), inner });
        }
        let file = Counted::new(open(source)?);
        if source.compression != Compression::None && source.bytes == Some(0) {
            return Err(data(path, "it is empty, which no archive is; make or fetch it again"));
        }
        let packed = |file| BufReader::with_capacity(PACKED_CHUNK, file);
        let inner = match source.compression {
            Compression::None => Inner::Plain(file),
            Compression::Gzip => Inner::Gzip(Box::new(MultiGzDecoder::new(packed(file)))),
            Compression::Zstd => {
                let decoder =
                    zstd::stream::read::Decoder::with_buffer(packed(file)).and_then(|mut decoder| {
                        decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                        Ok(decoder)
                    });
                Inner::Zstd(decoder.map_err(Error::io("read", path))?)
            }
        };
        Ok(Self { source: source.clone(), inner })
    }

    pub(super) fn path(&self) -> &Path {
        &self.source.path
    }

    /// Reads until `buffer` has `len` bytes; false if there are no more than it then has. `go_on` is asked from
    /// time to time, also while nothing comes.
    pub(super) fn fill(&mut self, buffer: &mut Vec<u8>, len: usize, go_on: GoOn<'_>) -> Result<bool> {
        if buffer.try_reserve_exact(len.saturating_sub(buffer.len())).is_err() {
            return Err(Error::io("read", self.path())(io::ErrorKind::OutOfMemory.into()));
        }
        while buffer.len() < len {
            let more = ((len - buffer.len()) as u64).min(ASKED);
            // What came before an error, such as that nothing more is there yet, is in the buffer.
            match self.reader().take(more).read_to_end(buffer) {
                Ok(count) if (count as u64) < more => return self.check_unchanged().map(|()| false),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(self.explain(error)),
            }
            check(go_on)?;
        }
        Ok(true)
    }

    /// Leaves out the next `bytes` bytes; `go_on` is asked from time to time.
    pub(super) fn skip(&mut self, bytes: u64, go_on: GoOn<'_>) -> Result<()> {
        let skipped = match &mut self.inner {
            Inner::Plain(file) if Some(bytes) <= self.source.bytes => file.seek(bytes),
            _ => self.read_over(bytes, go_on)?,
        };
        match skipped {
            Ok(skipped) if skipped == bytes => Ok(()),
            Ok(skipped) => {
                let problem = format!(
                    "reading is to go on at byte {bytes} of its text, which has {skipped} only: it is not the file \
                     that was read before; begin anew"
                );
                Err(data(self.path(), problem))
            }
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Reads `bytes` bytes, or as many as there are, and returns how many.
    fn read_over(&mut self, bytes: u64, go_on: GoOn<'_>) -> Result<io::Result<u64>> {
        let mut done = 0;
        while done < bytes {
            let more = (bytes - done).min(ASKED);
            match io::copy(&mut self.reader().take(more), &mut io::sink()) {
                Ok(count) if count < more => return Ok(Ok(done + count)),
                Ok(count) => done += count,
                Err(error) => return Ok(Err(error)),
            }
            check(go_on)?;
        }
        Ok(Ok(done))
    }

    /// Bytes of the file that were read so far, as they are on the disk.
    pub(super) fn bytes_read(&self) -> u64 {
        match &self.inner {
            Inner::Stdin(stdin) => stdin.bytes,
            Inner::Memory(text) => text.bytes,
            Inner::Plain(file) => file.bytes,
            Inner::Gzip(decoder) => taken(decoder.get_ref()),
            Inner::Zstd(decoder) => taken(decoder.get_ref()),
        }
    }

    pub(super) fn is_packed(&self) -> bool {
        self.source.compression != Compression::None
    }

    /// "byte 7", of what: a packed file has two countings.
    pub(super) fn byte(&self, byte: u64) -> String {
        match self.source.compression {
            Compression::None => format!("byte {byte}"),
            Compression::Gzip | Compression::Zstd => format!("byte {byte} of the unpacked text"),
        }
    }

    fn reader(&mut self) -> &mut dyn Read {
        match &mut self.inner {
            Inner::Stdin(stdin) => stdin,
            Inner::Memory(text) => text,
            Inner::Plain(file) => file,
            Inner::Gzip(decoder) => decoder,
            Inner::Zstd(decoder) => decoder,
        }
    }

    fn file(&self) -> Option<&Counted<File>> {
        match &self.inner {
            Inner::Stdin(_) | Inner::Memory(_) => None,
            Inner::Plain(file) => Some(file),
            Inner::Gzip(decoder) => Some(decoder.get_ref().get_ref()),
            Inner::Zstd(decoder) => Some(decoder.get_ref().get_ref()),
        }
    }

    fn check_unchanged(&self) -> Result<()> {
        self.file().map_or(Ok(()), |file| check_unchanged(&self.source, &file.inner))
    }

    fn explain(&self, error: io::Error) -> Error {
        if let Err(changed) = self.check_unchanged() {
            return changed;
        }
        let format = match self.source.compression {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::None => return Error::io("read", self.path())(error),
        };
        if self.file().is_some_and(|file| file.has_failed) {
            return Error::io("read", self.path())(error);
        }
        let at = self.bytes_read();
        let problem = if error.kind() == io::ErrorKind::UnexpectedEof {
            format!(
                "the {format} archive is cut off: it ends at byte {at} in the middle; make or fetch it again"
            )
        } else if error.to_string().contains("too much memory") {
            // What the library says of a window above the limit.
            let most = 1_u64 << (ZSTD_WINDOW_LOG - 20);
            format!(
                "at byte {at}: the zstd archive needs a window of more than {most} MiB; pack it without --ultra or --long"
            )
        } else {
            format!("the {format} archive is damaged at or before byte {at}: {error}; make or fetch it again")
        };
        data(self.path(), problem)
    }
}

/// # Errors
/// [`Error::Aborted`] if work is not to go on.
fn check(go_on: GoOn<'_>) -> Result<()> {
    if go_on().is_break() { Err(Error::Aborted) } else { Ok(()) }
}

/// Bytes that whoever reads from `reader` has had.
fn taken(reader: &BufReader<Counted<File>>) -> u64 {
    reader.get_ref().bytes - reader.buffer().len() as u64
}

/// Opens the file of a source, as it was found.
pub(super) fn open(source: &Source) -> Result<File> {
    let file = open_regular(&source.path).map_err(Error::io("open", &source.path))?;
    check_unchanged(source, &file)?;
    Ok(file)
}

/// Whether an open file is as it was found. One that is written to while it is read has no size, and positions
/// in it mean nothing.
pub(super) fn check_unchanged(source: &Source, file: &File) -> Result<()> {
    let now: Metadata = file.metadata().map_err(Error::io("read", &source.path))?;
    let how = match source.bytes {
        Some(bytes) if bytes != now.len() => {
            format!("it had {bytes} bytes when it was found and has {} now", now.len())
        }
        // Some file systems have no such times.
        _ if source.modified.is_some_and(|then| now.modified().is_ok_and(|now| now != then)) => {
            "it was written to".to_owned()
        }
        _ => return Ok(()),
    };
    Err(Error::FileChanged { path: PathBuf::from(&source.path), how })
}

/// A reader that counts its bytes, and knows whether an error is its own.
struct Counted<R> {
    inner: R,
    bytes: u64,
    has_failed: bool,
}

impl<R> Counted<R> {
    fn new(inner: R) -> Self {
        Self { inner, bytes: 0, has_failed: false }
    }
}

impl Counted<File> {
    fn seek(&mut self, byte: u64) -> io::Result<u64> {
        self.bytes = self.inner.seek(SeekFrom::Start(byte))?;
        Ok(self.bytes)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        match &read {
            Ok(count) => self.bytes += *count as u64,
            Err(error) => {
                let is_final =
                    !matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock);
                self.has_failed |= is_final;
            }
        }
        read
    }
}
