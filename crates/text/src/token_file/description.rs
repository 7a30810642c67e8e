//! What our own writer says of a raw file, in a small file beside it.

use std::path::{Path, PathBuf};

use rwkv_core::{Error, Result, read_regular, write_atomically};
use serde::{Deserialize, Serialize};

use super::{Width, fault, name, with_ending};

/// A description may have so many bytes.
const MOST_BYTES: u64 = 1 << 16;

/// What is known of a raw file of tokens, in the file `<its name>.json` beside it, such as `train.bin.json`:
///
/// ```json
/// {"bytes_per_token": 4, "tokens": 1003854, "n_vocab": 65536}
/// ```
///
/// Only `bytes_per_token` must be there; other names are not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// How tokens are stored.
    pub width: Width,
    /// How many there are: a file that was cut between two tokens is known by it.
    pub tokens: Option<u64>,
    /// The size of the vocabulary, at least 1.
    pub n_vocab: Option<u32>,
}

#[derive(Deserialize, Serialize)]
struct Json {
    bytes_per_token: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n_vocab: Option<u32>,
}

impl Description {
    /// Where the description of the file `path` is.
    pub fn path_of(path: &Path) -> PathBuf {
        with_ending(path, ".json")
    }

    /// Reads the description of the file `path`, if there is one.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Data`] if it is damaged.
    pub fn beside(path: &Path) -> Result<Option<Self>> {
        let path = Self::path_of(path);
        let bytes = match read_regular(&path, MOST_BYTES) {
            Ok(bytes) => bytes,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let json: Json = serde_json::from_slice(&bytes).map_err(|error| {
            fault(
                &path,
                format!("this is no description of a file of tokens: {error}; make both files again"),
            )
        })?;
        let width = match json.bytes_per_token {
            2 => Width::U16,
            4 => Width::U32,
            other => return Err(fault(&path, format!("bytes_per_token is {other}; it must be 2 or 4"))),
        };
        if json.n_vocab == Some(0) {
            return Err(fault(&path, "n_vocab is 0; a vocabulary has at least one token"));
        }
        Ok(Some(Self { width, tokens: json.tokens, n_vocab: json.n_vocab }))
    }

    /// Writes the description of the file `path`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let &Self { width, tokens, n_vocab } = self;
        let json = Json { bytes_per_token: width.bytes() as u64, tokens, n_vocab };
        write_atomically(&Self::path_of(path), |to| {
            serde_json::to_writer(&mut *to, &json)?;
            to.write_all(b"\n")
        })
    }

    /// # Errors
    /// [`Error::Data`] if there should be another number of tokens in the file `path`.
    pub(super) fn check_len(&self, path: &Path, len: u64) -> Result<()> {
        let Some(tokens) = self.tokens.filter(|&tokens| tokens != len) else { return Ok(()) };
        let beside = name(&Self::path_of(path));
        Err(fault(
            path,
            format!(
                "it has {len} tokens, and {beside} says that it has {tokens}: one of the two files is cut or old; copy or \
                 make both again"
            ),
        ))
    }
}
