//! llama.cpp's model files (`.gguf`), versions 2 and 3, as lists of tensors.
//!
//! # The format
//! Little-endian; a string is a u64 length and as many bytes.
//!
//! ```text
//! u32 magic "GGUF"   u32 version   u64 tensors   u64 keys
//! then for each key     string name   u32 type   value
//! then for each tensor  string name   u32 dim_count   u64 × dim_count dims, row length first   u32 type   u64 offset
//! padding to the alignment   data, each tensor's padded to the alignment; offsets count from here
//! ```
//!
//! An array is a u32 type, a u64 count and the values. The alignment is the key `general.alignment`, or 32.
//! Source: the specification, <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
//!
//! # Trust
//! None: see [`super`]. Counts are held against the bytes that are left, and what is copied is bounded; long
//! strings and arrays stay where they are.

mod cursor;
mod tensors;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use self::cursor::Cursor;
pub(crate) use self::tensors::number_of;
pub(super) use self::values::Array;
pub(crate) use self::values::Type;
use self::values::{Entry, Value};
use super::{TensorInfo, fault, unsupported};
use crate::error::{Error, Fault, Result};

/// "GGUF", read as a little-endian number.
pub(crate) const MAGIC: u32 = 0x4655_4747;
const HEADER: usize = 24;

const ARCHITECTURE: &str = "general.architecture";
const ALIGNMENT: &str = "general.alignment";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SPLIT: &str = "split.count";

/// What stands where there is no [`ALIGNMENT`].
const USUAL_ALIGNMENT: u64 = 32;
/// A page of the machines with the largest ones; files have 32.
const MAX_ALIGNMENT: u32 = 1 << 16;

/// The directory of a file.
#[derive(Clone, Debug)]
pub(super) struct Gguf {
    path: PathBuf,
    /// Which model it is, such as `rwkv7`.
    pub(super) architecture: String,
    /// The vocabulary's strings, if the file has one; they stay in the file.
    pub(super) tokens: Option<Array>,
    /// In the file's own order; no two of the same name, and their data in this order too.
    pub(super) tensors: Vec<TensorInfo>,
    entries: BTreeMap<String, Entry>,
}

/// Reads the header, the metadata and the directory of all tensors. `path` is for messages.
///
/// # Errors
/// [`Error::ModelFile`] if `bytes` are no sound GGUF file; [`Error::Unsupported`] if one that holds types of
/// tensors that are not read here, is of another version or byte order, or is one part of several.
pub(super) fn directory(path: &Path, bytes: &[u8]) -> Result<Gguf> {
    let mut cursor = Cursor::new(path, bytes);
    let (n_tensors, n_keys) = header(&mut cursor)?;
    let entries = values::read(&mut cursor, n_keys)?;
    let mut gguf = Gguf {
        path: path.to_owned(),
        architecture: String::new(),
        tokens: None,
        tensors: Vec::new(),
        entries,
    };
    gguf.refuse_parts()?;
    gguf.architecture = gguf.string(ARCHITECTURE)?.to_owned();
    gguf.tokens = gguf.strings(TOKENS)?;
    let alignment = gguf.alignment()?;
    gguf.tensors = tensors::read(&mut cursor, n_tensors, alignment)?;
    Ok(gguf)
}

/// Reads the first [`HEADER`] bytes: the numbers of tensors and of keys.
fn header(cursor: &mut Cursor<'_>) -> Result<(u64, u64)> {
    let len = cursor.bytes.len();
    if len < HEADER {
        let problem = format!("the file has {len} bytes; a GGUF file starts with a header of {HEADER} bytes");
        return Err(cursor.fault(len, problem).of_kind(Fault::Truncated));
    }
    let magic = cursor.u32("the magic number")?;
    if magic != MAGIC {
        let problem =
            format!("the file starts with {magic:#010x}, not {MAGIC:#010x}: this is not a GGUF file");
        return Err(cursor.fault(0, problem).of_kind(Fault::Magic));
    }
    let version = cursor.u32("the version")?;
    let refused = |what: &str| Err(unsupported(cursor.path, what).of_kind(Fault::FormatVersion));
    match version {
        2 | 3 => {}
        1 => {
            return refused(
                "a GGUF file of version 1; convert the original model again with a current llama.cpp",
            );
        }
        _ if matches!(version.swap_bytes(), 1..=3) => {
            return refused(
                "a big-endian GGUF file; turn it into a little-endian one with llama.cpp's gguf_convert_endian.py",
            );
        }
        _ => {
            let problem = format!("GGUF version {version}; expected 2 or 3");
            return Err(cursor.fault(4, problem).of_kind(Fault::FormatVersion));
        }
    }
    Ok((cursor.u64("the number of tensors")?, cursor.u64("the number of keys")?))
}

impl Gguf {
    /// Whether the metadata has `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// The integer, of any width, that `key` has.
    ///
    /// # Errors
    /// [`Error::ModelFile`] if the key is not there, or is no integer from 0 to 2³² − 1.
    pub(super) fn u32(&self, key: &str) -> Result<u32> {
        let entry = self.entry(key)?;
        let found = if let Value::Integer(_, value) = entry.value { u32::try_from(value).ok() } else { None };
        found.ok_or_else(|| self.wrong(key, entry, "an integer from 0 to 4294967295"))
    }

    /// The finite F32 that `key` has.
    ///
    /// # Errors
    /// [`Error::ModelFile`] if the key is not there, or is something else.
    pub(super) fn f32(&self, key: &str) -> Result<f32> {
        match self.entry(key)? {
            Entry { value: Value::F32(value), .. } if value.is_finite() => Ok(*value),
            entry => Err(self.wrong(key, entry, "a finite F32")),
        }
    }

    /// The string, of at most 1024 bytes, that `key` has.
    ///
    /// # Errors
    /// [`Error::ModelFile`] if the key is not there, or is something else.
    pub(super) fn string(&self, key: &str) -> Result<&str> {
        match self.entry(key)? {
            Entry { value: Value::String(value), .. } => Ok(value),
            entry => Err(self.wrong(key, entry, "a String of at most 1024 bytes")),
        }
    }

    /// An [`Error::ModelFile`] about the value of `key`, for one that makes no sense.
    pub(super) fn fault(&self, key: &str, problem: &str) -> Error {
        let at = self.entries.get(key).map_or(HEADER, |entry| entry.at);
        fault(&self.path, None, at, format!("key {key:?}: {problem}"))
    }

    /// The array of strings that `key` has, if it is there.
    fn strings(&self, key: &str) -> Result<Option<Array>> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(Entry { value: Value::Array(array), .. }) if array.of == Type::String => {
                Ok(Some(array.clone()))
            }
            Some(entry) => Err(self.wrong(key, entry, "an array of String")),
        }
    }

    fn alignment(&self) -> Result<u64> {
        let Some(entry) = self.entries.get(ALIGNMENT) else { return Ok(USUAL_ALIGNMENT) };
        let found = match entry.value {
            Value::Integer(Type::U32, value) => u32::try_from(value).ok(),
            _ => None,
        };
        found
            .filter(|alignment| alignment.is_power_of_two() && *alignment <= MAX_ALIGNMENT)
            .map(u64::from)
            .ok_or_else(|| self.wrong(ALIGNMENT, entry, "a power of two from 1 to 65536, of type U32"))
    }

    fn refuse_parts(&self) -> Result<()> {
        if !self.has(SPLIT) {
            return Ok(());
        }
        match self.u32(SPLIT)? {
            0 | 1 => Ok(()),
            parts => {
                let what = format!(
                    "one part of a model that was split into {parts} files; join them with llama-gguf-split --merge"
                );
                Err(unsupported(&self.path, what))
            }
        }
    }

    fn entry(&self, key: &str) -> Result<&Entry> {
        self.entries.get(key).ok_or_else(|| self.fault(key, "it is missing").of_kind(Fault::Missing))
    }

    fn wrong(&self, key: &str, entry: &Entry, expected: &str) -> Error {
        self.fault(key, &format!("it is {}; expected {expected}", entry.value.kind()))
    }
}
