//! What texts are read from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a text in memory is called in messages.
const NAME: &str = "the text";

/// What texts are read from. In JSON a path is a string, and a text `{"text": "…"}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A file, a folder, a pattern such as `books/*.txt`, or `-` for standard input.
    Path(PathBuf),
    /// A text in memory: one document, as a file of plain text is.
    Text(Bytes),
}

/// The bytes of a text in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(Arc<[u8]>);

impl Input {
    /// A text in memory.
    pub fn text(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Text(Bytes(bytes.into().into()))
    }

    /// The path, or else what stands for it in messages.
    pub fn name(&self) -> &Path {
        match self {
            Self::Path(path) => path,
            Self::Text(_) => Path::new(NAME),
        }
    }

    /// The path; none of a text in memory.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::Text(_) => None,
        }
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl<P: Into<PathBuf>> From<P> for Input {
    fn from(path: P) -> Self {
        Self::Path(path.into())
    }
}

/// A text in JSON: an enum, because serde takes an array for a struct too.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum InJson<T> {
    Text(T),
}

impl Serialize for Input {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Path(path) => path.serialize(serializer),
            Self::Text(Bytes(bytes)) => {
                let text = std::str::from_utf8(bytes).map_err(S::Error::custom)?;
                InJson::Text(text).serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Path(PathBuf),
            Text(InJson<String>),
        }
        match Either::deserialize(deserializer) {
            Ok(Either::Path(path)) => Ok(Self::Path(path)),
            Ok(Either::Text(InJson::Text(text))) => Ok(Self::text(text)),
            Err(_) => Err(D::Error::custom("expected a path, or a text as {\"text\": \"…\"}")),
        }
    }
}
