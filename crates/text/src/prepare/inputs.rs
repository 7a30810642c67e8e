//! The files that a data set is made of, and whether they are still the same.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, UNIX_EPOCH};

use rwkv_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::source::{Kind, SourceOptions, Sources};

/// How a file is known again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Input {
    path: String,
    bytes: u64,
    /// Nanoseconds since 1970, where the file system has such times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    modified: Option<u64>,
    /// Of standard input, which has no such time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crc32: Option<u32>,
}

/// Standard input, saved as a file because it is read more than once.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) path: PathBuf,
    crc32: u32,
}

/// The files of `inputs`, with those of standard input in the place of `-`.
pub(super) fn find(
    inputs: &[String],
    options: &SourceOptions,
    stdin: Option<&Saved>,
) -> Result<(Sources, Vec<Input>)> {
    let named = |input: &String| match stdin {
        Some(saved) if input == "-" => saved.path.to_string_lossy().into_owned(),
        _ => input.clone(),
    };
    let inputs: Vec<String> = inputs.iter().map(named).collect();
    let sources = Sources::find(&inputs, options)?;
    let of = |source: &crate::source::Source| {
        let (path, bytes) = (&source.path, source.bytes.unwrap_or(0));
        if let Some(saved) = stdin.filter(|saved| saved.path == *path) {
            return Ok(Input { path: "-".to_owned(), bytes, modified: None, crc32: Some(saved.crc32) });
        }
        let metadata = std::fs::metadata(path).map_err(Error::io("open", path))?;
        let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified = since.and_then(|since| u64::try_from(since.as_nanos()).ok());
        Ok(Input { path: path.display().to_string(), bytes, modified, crc32: None })
    };
    let found = sources.files().iter().map(of).collect::<Result<_>>()?;
    Ok((sources, found))
}

/// # Errors
/// [`Error::Data`] that names the first file that is not as it was.
pub(super) fn check_same(then: &[Input], now: &[Input], out: &Path) -> Result<()> {
    let what = match then.iter().zip(now).find(|(then, now)| then != now) {
        None if then.len() == now.len() => return Ok(()),
        None if then.len() > now.len() => (&then[now.len()], "is missing now".to_owned()),
        None => (&now[then.len()], "is new".to_owned()),
        Some((then, now)) if then.path != now.path => (now, format!("is in the place of {}", then.path)),
        Some((then, now)) if then.bytes != now.bytes => {
            (now, format!("had {} bytes and has {}", then.bytes, now.bytes))
        }
        Some((_, now)) => (now, "was written to".to_owned()),
    };
    let problem = format!(
        "this input {} since {} was begun; put the former files back, take another folder, or begin anew (force)",
        what.1,
        out.display()
    );
    Err(Error::Data { path: what.0.path.clone().into(), problem })
}

/// Saves standard input in the folder `out`. `go_on` is asked with bytes, also while nothing comes.
pub(super) fn save_stdin(out: &Path, kind: Kind, mut go_on: impl FnMut(u64) -> Result<()>) -> Result<Saved> {
    let path = stdin_path(out, kind);
    let mut file = File::create(&path).map_err(Error::io("write", &path))?;
    let (give, chunks) = sync_channel::<io::Result<Vec<u8>>>(1);
    // Nobody waits for this thread: it may be reading from a terminal for ever.
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        loop {
            let mut chunk = Vec::new();
            let read = stdin.by_ref().take(1 << 20).read_to_end(&mut chunk).map(|_| chunk);
            let is_last = !read.as_ref().is_ok_and(|chunk| !chunk.is_empty());
            if give.send(read).is_err() || is_last {
                break;
            }
        }
    });
    let (mut crc32, mut done) = (crc32fast::Hasher::new(), 0);
    loop {
        match chunks.recv_timeout(Duration::from_millis(50)) {
            Ok(Ok(chunk)) if chunk.is_empty() => break,
            Ok(Ok(chunk)) => {
                file.write_all(&chunk).map_err(Error::io("write", &path))?;
                crc32.update(&chunk);
                done += chunk.len() as u64;
            }
            Ok(Err(error)) => return Err(Error::io("read", "-")(error)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::io("read", "-")(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        go_on(done)?;
    }
    Ok(Saved { path, crc32: crc32.finalize() })
}

/// Where standard input is saved; the ending says what it is.
pub(super) fn stdin_path(out: &Path, kind: Kind) -> PathBuf {
    out.join(if kind == Kind::JsonLines { "stdin.partial.jsonl" } else { "stdin.partial.txt" })
}
