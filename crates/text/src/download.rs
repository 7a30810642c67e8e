//! Downloading a file, so that a cut loses nothing and a damaged file is never taken for a sound one.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rwkv_core::{Control, Error, Result, ask, open_regular, read_regular, write_atomically};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::token_file::{open_locked, sync_directory, with_ending};

/// How a download deals with trouble.
#[derive(Clone, Debug)]
pub struct DownloadOptions {
    /// How often in succession it may fail without a single byte before it is given up.
    pub retries: u32,
    /// The wait before the first retry; each further one is twice as long.
    pub wait: Duration,
    /// How long the server may be silent.
    pub silence: Duration,
    /// Whether the variables of the environment that name proxies are heeded.
    pub environment_proxies: bool,
}

impl Default for DownloadOptions {
    fn default() -> Self {
        Self {
            retries: 5,
            wait: Duration::from_millis(500),
            silence: Duration::from_secs(60),
            environment_proxies: true,
        }
    }
}

/// Downloads `url`, of HTTP or HTTPS, to the file `to`; [`download_with`] with the default options.
///
/// # Errors
/// As [`download_with`].
pub fn download(url: &str, to: &Path, sha256: Option<&str>, control: impl Control) -> Result<()> {
    download_with(url, to, sha256, &DownloadOptions::default(), control)
}

/// Downloads `url`, of HTTP or HTTPS, to the file `to`.
///
/// `sha256` is the checksum that the file must have, in hexadecimal digits. A file that is there already and
/// has it is left alone, and the network with it; without a checksum the file is downloaded anew.
///
/// The bytes are kept in `<to>.partial` until all of them are there and the checksum fits. After a cut, also
/// one by a kill, the rest is asked for, if it is certain to belong to the same file: by the server's own
/// mark of it (`ETag` or `Last-Modified`, in `If-Range`), or by the checksum. A server that knows no parts
/// sends all of it again.
///
/// Redirects are followed, from HTTPS to HTTPS only, and the variables `HTTPS_PROXY`, `HTTP_PROXY`,
/// `ALL_PROXY` and `NO_PROXY` are heeded. `control` is asked several times a second, with bytes; the total is
/// 0 while it is not known.
///
/// # Errors
/// [`Error::Io`], which names the address, if it cannot be downloaded or is another file than it should be, or
/// the file if that cannot be written; [`Error::Data`] if it is being downloaded already;
/// [`Error::InvalidOption`] if `sha256` is no checksum; [`Error::Aborted`] if `control` says so, and the
/// partial file stays.
pub fn download_with(
    url: &str,
    to: &Path,
    sha256: Option<&str>,
    options: &DownloadOptions,
    mut control: impl Control,
) -> Result<()> {
    let expected = sha256.map(parse).transpose()?;
    if let Some(expected) = expected
        && to.try_exists().map_err(Error::io("open", to))?
    {
        let mut file = open_regular(to).map_err(Error::io("open", to))?;
        if hash(&mut file, to, &mut control)?.finalize()[..] == expected {
            return Ok(());
        }
    }
    let mut partial = Partial::open(url, to, expected.is_some(), &mut control)?;
    // A retry is free if it brought more than there ever was: so there is an end to them.
    let (mut failures, mut most, mut has_mismatched) = (0, partial.len, false);
    loop {
        let resumed = partial.len > 0;
        let problem = match attempt(url, &mut partial, options, &mut control)? {
            Outcome::Whole => {
                let found = partial.hash.clone().finalize();
                let Some(expected) = expected.filter(|expected| found[..] != expected[..]) else {
                    return partial.commit(to);
                };
                partial.clear()?;
                let problem = format!(
                    "what is there is another file than expected: its SHA-256 is {}, and it must be {}",
                    hex(&found),
                    hex(&expected)
                );
                if !resumed || has_mismatched {
                    partial.remove()?;
                    return Err(failed(url, problem));
                }
                // Perhaps two halves of different files: once more, from the beginning.
                has_mismatched = true;
                problem
            }
            Outcome::Refused(problem) => return Err(failed(url, problem)),
            Outcome::Cut(problem) => problem,
        };
        if partial.len > most {
            (failures, most) = (0, partial.len);
        }
        if failures == options.retries {
            return Err(failed(url, format!("{problem}; tried {} times", failures + 1)));
        }
        let wait = options.wait.saturating_mul(1 << failures.min(16));
        failures += 1;
        let until = Instant::now() + wait;
        while let left = until.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            ask(&mut control, partial.len, partial.total())?;
            std::thread::sleep(left.min(PAUSE));
        }
    }
}

/// Time between two questions to the control.
const PAUSE: Duration = Duration::from_millis(100);

/// Bytes that are read at once.
const CHUNK: usize = 1 << 16;

/// What is said of a download that failed.
fn failed(url: &str, problem: impl std::fmt::Display) -> Error {
    let problem = format!("{problem}; the file can be fetched by other means and named with --from");
    Error::io("download", shown(url))(io::Error::other(problem))
}

/// An address without a name and password in it.
fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = rest[..end].rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}://{}", &rest[host..])
}

fn parse(sha256: &str) -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    let is_hex = sha256.len() == 64 && sha256.bytes().all(|digit| digit.is_ascii_hexdigit());
    for (at, byte) in bytes.iter_mut().enumerate() {
        let digits = sha256.get(2 * at..2 * at + 2).filter(|_| is_hex);
        *byte = digits
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .ok_or_else(|| Error::option("sha256", sha256, "64 hexadecimal digits"))?;
    }
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or('?');
    bytes.iter().flat_map(|&byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The checksum under way of all that is in a file.
fn hash(file: &mut File, path: &Path, control: &mut impl Control) -> Result<Sha256> {
    let total = file.metadata().map_err(Error::io("read", path))?.len();
    let (mut hash, mut done, mut chunk) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        ask(control, done, total)?;
        match file.read(&mut chunk) {
            Ok(0) => return Ok(hash),
            Ok(count) => {
                hash.update(&chunk[..count]);
                done += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read", path)(error)),
        }
    }
}

/// What is there of a file so far, locked.
struct Partial {
    path: PathBuf,
    file: File,
    len: u64,
    hash: Sha256,
    source: Source,
}

/// Where the bytes of a partial file are from; beside it as `<to>.partial.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
struct Source {
    /// SHA-256 of the address, which may hold what is nobody's business.
    address: String,
    /// The server's mark of this version of the file.
    mark: Option<String>,
    total: Option<u64>,
}

impl Partial {
    fn open(url: &str, to: &Path, has_checksum: bool, control: &mut impl Control) -> Result<Self> {
        let path = with_ending(to, ".partial");
        let mut file = open_locked(to, &path)?;
        let address = hex(&Sha256::digest(url.as_bytes()));
        // One that is not there or damaged says nothing; then there is the checksum, or the beginning.
        let beside = read_regular(with_ending(&path, ".json"), 1 << 16).ok();
        let source: Option<Source> = beside.and_then(|json| serde_json::from_slice(&json).ok());
        let source =
            source.filter(|source| source.address == address && (source.mark.is_some() || has_checksum));
        if source.is_none() {
            file.set_len(0).map_err(Error::io("write", &path))?;
        }
        let hash = hash(&mut file, &path, control)?;
        let len = file.metadata().map_err(Error::io("read", &path))?.len();
        let source = source.unwrap_or(Source { address, mark: None, total: None });
        Ok(Self { path, file, len, hash, source })
    }

    /// The file's size; 0 if it is not known.
    fn total(&self) -> u64 {
        self.source.total.unwrap_or(0)
    }

    fn clear(&mut self) -> Result<()> {
        let cleared = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        cleared.map_err(Error::io("write", &self.path))?;
        (self.len, self.hash) = (0, Sha256::new());
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// What the server says of what it is about to send.
    fn describe(&mut self, mark: Option<String>, total: Option<u64>) -> Result<()> {
        let source = Source { mark, total, ..self.source.clone() };
        if source != self.source || self.len == 0 {
            write_atomically(&with_ending(&self.path, ".json"), |to| {
                Ok(serde_json::to_writer(to, &source)?)
            })?;
            self.source = source;
        }
        Ok(())
    }

    fn commit(self, to: &Path) -> Result<()> {
        self.file.sync_all().map_err(Error::io("write", &self.path))?;
        std::fs::rename(&self.path, to).map_err(Error::io("write", to))?;
        let _ = std::fs::remove_file(with_ending(&self.path, ".json"));
        sync_directory(to);
        Ok(())
    }

    fn remove(self) -> Result<()> {
        let _ = std::fs::remove_file(with_ending(&self.path, ".json"));
        std::fs::remove_file(&self.path).map_err(Error::io("remove", &self.path))
    }
}

enum Outcome {
    Whole,
    /// To be tried again.
    Cut(String),
    /// Not to be tried again.
    Refused(String),
}

/// What the thread that talks to the server says.
enum Message {
    Head(Head),
    Bytes(Vec<u8>),
    End,
    Failed(Box<ureq::Error>),
    Broke(io::Error),
}

struct Head {
    status: u16,
    /// The status in words.
    reason: &'static str,
    mark: Option<String>,
    length: Option<u64>,
    /// Of a part: the first byte, if it is said.
    range: Option<(Option<u64>, Option<u64>)>,
}

/// Asks the server for what is not there yet, once.
fn attempt(
    url: &str,
    partial: &mut Partial,
    options: &DownloadOptions,
    control: &mut impl Control,
) -> Result<Outcome> {
    // Reading may take as long as the server likes, and we are to be stopped meanwhile.
    let (sender, receiver) = sync_channel(16);
    let (address, mark, at, options) =
        (url.to_owned(), partial.source.mark.clone(), partial.len, options.clone());
    let thread = std::thread::Builder::new().name("download".to_owned());
    thread
        .spawn(move || talk(&address, at, mark.as_deref(), &options, &sender))
        .map_err(Error::io("download", shown(url)))?;
    // The thread ends when nobody listens any more, at the latest after a silence.
    let Some(head) = receive(&receiver, partial, control)? else {
        return Ok(Outcome::Cut("the transfer ended".to_owned()));
    };
    let head = match head {
        Message::Head(head) => head,
        other => return Ok(trouble(other)),
    };
    match (head.status, head.range) {
        (200, _) => {
            partial.clear()?;
            partial.describe(head.mark, head.length)?;
        }
        (206, Some((Some(first), total))) if first == partial.len => {
            let is_other = partial.source.total.is_some_and(|was| total.is_some_and(|is| is != was));
            if is_other {
                partial.clear()?;
                return Ok(Outcome::Cut("the file became another one".to_owned()));
            }
            partial.describe(head.mark.or_else(|| partial.source.mark.clone()), total)?;
        }
        // Perhaps all is there, and only the rename was not.
        (416, Some((_, Some(total)))) if total == partial.len => return Ok(Outcome::Whole),
        (206 | 416, _) if partial.len > 0 => {
            partial.clear()?;
            return Ok(Outcome::Cut("the server did not send the part that was asked for".to_owned()));
        }
        (status, _) => {
            let problem = format!("the server answered {status} {}", head.reason).trim_end().to_owned();
            let passes = matches!(status, 408 | 425 | 429 | 500 | 502..=504);
            return Ok(if passes { Outcome::Cut(problem) } else { Outcome::Refused(problem) });
        }
    }
    loop {
        match receive(&receiver, partial, control)? {
            Some(Message::Bytes(bytes)) => partial.append(&bytes)?,
            Some(Message::End) => break,
            Some(other) => return Ok(trouble(other)),
            None => return Ok(Outcome::Cut("the transfer ended".to_owned())),
        }
    }
    let Some(total) = partial.source.total.filter(|&total| total != partial.len) else {
        return Ok(Outcome::Whole);
    };
    let problem = format!("the connection ended after {} bytes of {total}", partial.len);
    if partial.len > total {
        partial.clear()?;
    }
    Ok(Outcome::Cut(problem))
}

/// The next message, with questions to the control meanwhile. None if the thread is gone.
fn receive(
    receiver: &Receiver<Message>,
    partial: &Partial,
    control: &mut impl Control,
) -> Result<Option<Message>> {
    loop {
        ask(control, partial.len, partial.total())?;
        match receiver.recv_timeout(PAUSE) {
            Ok(message) => return Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

/// Whether trouble may pass.
fn trouble(message: Message) -> Outcome {
    match message {
        Message::Failed(error) => match *error {
            // What is wrong with a certificate is invalid data for a socket.
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                Outcome::Refused(error.to_string())
            }
            error @ (ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::Protocol(_)
            | ureq::Error::BodyStalled) => Outcome::Cut(error.to_string()),
            error => Outcome::Refused(error.to_string()),
        },
        Message::Broke(error) => Outcome::Cut(error.to_string()),
        Message::Head(_) | Message::Bytes(_) | Message::End => {
            Outcome::Cut("the server's answer is out of order".to_owned())
        }
    }
}

/// Asks for the bytes from `at` on and sends on what comes.
fn talk(url: &str, at: u64, mark: Option<&str>, options: &DownloadOptions, to: &SyncSender<Message>) {
    let silence = options.silence;
    let mut config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .https_only(url.starts_with("https://"))
        .user_agent(concat!("rwkv/", env!("CARGO_PKG_VERSION")))
        // Parts and sizes are those of the file itself.
        .accept_encoding("identity")
        .timeout_connect(Some(silence))
        .timeout_recv_response(Some(silence))
        .timeout_per_read(Some(silence));
    if !options.environment_proxies {
        config = config.proxy(None);
    }
    let mut request = ureq::Agent::new_with_config(config.build()).get(url);
    if at > 0 {
        request = request.header("Range", format!("bytes={at}-"));
        if let Some(mark) = mark {
            request = request.header("If-Range", mark);
        }
    }
    let response = match request.call() {
        Ok(response) => response,
        Err(error) => {
            let _ = to.send(Message::Failed(Box::new(error)));
            return;
        }
    };
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    // A weak mark says that a file means the same, not that its bytes are.
    let strong = header("etag").filter(|mark| !mark.starts_with("W/"));
    let head = Head {
        status: response.status().as_u16(),
        reason: response.status().canonical_reason().unwrap_or(""),
        mark: strong.or(header("last-modified")).map(str::to_owned),
        length: header("content-length").and_then(|length| length.trim().parse().ok()),
        range: header("content-range").and_then(range_of),
    };
    if to.send(Message::Head(head)).is_err() {
        return;
    }
    let mut body = response.into_body().into_reader();
    loop {
        let mut bytes = vec![0; CHUNK];
        let message = match body.read(&mut bytes) {
            Ok(0) => Message::End,
            Ok(count) => {
                bytes.truncate(count);
                Message::Bytes(bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Message::Broke(error),
        };
        let is_last = !matches!(message, Message::Bytes(_));
        if to.send(message).is_err() || is_last {
            return;
        }
    }
}

/// The first byte and the file's size of `bytes 5-9/10`, `bytes 5-9/*` or `bytes */10`.
fn range_of(value: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split_once('-').and_then(|(first, _)| first.trim().parse().ok());
    Some((first, total.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_addresses() {
        assert_eq!(range_of("bytes 5-9/10"), Some((Some(5), Some(10))));
        assert_eq!(range_of("bytes 5-9/*"), Some((Some(5), None)));
        assert_eq!(range_of("bytes */10"), Some((None, Some(10))));
        assert_eq!((range_of("5-9/10"), range_of("bytes 5-9")), (None, None));
        assert_eq!(shown("https://me:secret@host/a@b?c"), "https://host/a@b?c");
        assert_eq!(shown("http://host?user=a@b"), "http://host?user=a@b");
    }
}
