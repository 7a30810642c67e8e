//! `.safetensors` files as lists of tensors, whatever model they make.
//!
//! # The format
//! ```text
//! u64 header_length   header: JSON   data
//! {"name": {"dtype": "F32", "shape": [rows, cols], "data_offsets": [begin, end]}, …, "__metadata__": {"key": "text", …}}
//! ```
//!
//! Little-endian; offsets count from the first byte after the header, and the tensors fill the data without a
//! gap. Source: <https://github.com/huggingface/safetensors#format>.
//!
//! # Trust
//! None: see [`super`]. The crate `safetensors`, which reads our adapters, does not say where in the file it
//! found something wrong, takes the last of two tensors of one name, and panics on data that end near 2⁶⁴ where
//! overflow is checked.

mod header;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use self::header::{Described, Header};
use super::{TensorInfo, fault, read, unsupported};
use crate::data_type::DataType;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Fault, Result};

/// Bytes of the header's length, which the header follows.
const LENGTH: usize = 8;
/// The largest published RWKV needs some 300 kB.
const MAX_HEADER: u64 = 32 << 20;

/// Formats that other programs write, refused by name.
#[rustfmt::skip] // a table
const OTHERS: [&str; 19] = [
    "BOOL", "F4", "F6_E2M3", "F6_E3M2", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E5M2FNUZ", "F8_E4M3FNUZ", "F64", "C64",
    "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64",
];

/// What a file says of itself besides its tensors: texts with names, its `__metadata__`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata(BTreeMap<String, String>);

impl Metadata {
    /// The text of this name.
    #[allow(dead_code)] // for the fingerprints of adapters next
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All names with their texts, sorted.
    #[allow(dead_code)] // as above
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// Reads the header: the tensors in the order of their data, and the file's metadata. Names are the file's own;
/// dimensions are row length first, which is the reverse of its shapes. `path` is for messages.
///
/// # Errors
/// [`Error::ModelFile`] if `bytes` are no sound file; [`Error::Unsupported`] if a tensor is stored as anything
/// but F32, F16 and BF16, or the bytes are the index of a model that was split into several files.
pub(super) fn directory(path: &Path, bytes: &[u8]) -> Result<(Vec<TensorInfo>, Metadata)> {
    let json = json(path, bytes)?;
    let header = header::parse(json)
        .map_err(|error| fault(path, error.tensor.as_deref(), LENGTH + error.at, error.what))?;
    let Header { tensors, metadata } = header;
    refuse_doubles(path, &tensors)?;
    Ok((place(path, bytes.len(), LENGTH + json.len(), tensors)?, metadata))
}

/// The bytes of the header.
fn json<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a [u8]> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else {
        let problem = format!(
            "the file has {} bytes; a .safetensors file starts with the length of its header in {LENGTH}; {}",
            bytes.len(),
            read::GET_IT_AGAIN
        );
        return Err(fault(path, None, bytes.len(), problem).of_kind(Fault::Truncated));
    };
    if header::is_index(bytes) {
        let what = "this is the index of a model that was split into several files, which this version does not read; \
                    join them, for example with Python's transformers: load the model and call \
                    save_pretrained(folder, max_shard_size=\"100GB\"), and use that folder's model.safetensors";
        return Err(unsupported(path, what));
    }
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER && length.to_le_bytes()[0] == b'{' {
        let problem = "this is no model, but a text in JSON, such as a model's config.json";
        return Err(fault(path, None, 0, problem).of_kind(Fault::Magic));
    }
    if length > MAX_HEADER {
        let problem = format!(
            "a header of {length} bytes is announced; expected at most {MAX_HEADER}: this is not a .safetensors file, \
             or it is damaged"
        );
        return Err(fault(path, None, 0, problem).of_kind(Fault::Magic));
    }
    let Some(header) = rest.get(..length as usize) else {
        let problem = format!(
            "a header of {length} bytes is announced; the file has {} left; {}",
            rest.len(),
            read::GET_IT_AGAIN
        );
        return Err(fault(path, None, 0, problem).of_kind(Fault::Truncated));
    };
    if header.first() != Some(&b'{') {
        let problem = "the header does not start with '{': this is not a .safetensors file, or it is damaged";
        return Err(fault(path, None, LENGTH, problem).of_kind(Fault::Magic));
    }
    Ok(header)
}

fn refuse_doubles(path: &Path, tensors: &[Described]) -> Result<()> {
    let mut names: Vec<_> = tensors.iter().map(|tensor| (&tensor.name, tensor.at)).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        None => Ok(()),
        Some(pair) => {
            let (name, at) = pair[1];
            Err(fault(path, Some(name), LENGTH + at, "it is there twice").of_kind(Fault::Name))
        }
    }
}

/// Finds the data of `tensors` in a file of `len` bytes whose data begin at byte `base`.
fn place(path: &Path, len: usize, base: usize, mut tensors: Vec<Described>) -> Result<Vec<TensorInfo>> {
    tensors.sort_by_key(|tensor| tensor.data);
    let data_len = (len - base) as u64;
    let mut expected = 0;
    let mut placed = Vec::new();
    for tensor in tensors {
        let found = describe(path, &tensor)?;
        let [begin, end] = tensor.data;
        let refused = |problem: String| fault(path, Some(&tensor.name), found.offset, problem);
        if begin < expected {
            return Err(refused(format!(
                "its data_offsets {begin} to {end} overlap those that end at {expected}"
            )));
        }
        if begin > expected {
            let problem =
                format!("its data_offsets {begin} to {end} leave a gap after those that end at {expected}");
            return Err(refused(problem));
        }
        let size = read::data_size(&found.dims, found.data_type);
        let Some(size) = size else {
            let problem = format!("shape {:?} makes more values than there can be", tensor.shape);
            return Err(refused(problem).of_kind(Fault::Shape));
        };
        if end.checked_sub(begin) != Some(size) {
            let problem = format!(
                "its data_offsets are {begin} to {end}, but {:?} values of {} are {size} bytes",
                tensor.shape, tensor.dtype
            );
            return Err(refused(problem).of_kind(Fault::Shape));
        }
        if end > data_len {
            let problem = format!(
                "its data end {end} bytes after the header, which has {data_len} bytes after it; {}",
                read::GET_IT_AGAIN
            );
            return Err(refused(problem).of_kind(Fault::Truncated));
        }
        expected = end;
        let data = base + begin as usize..base + end as usize;
        placed.push(TensorInfo { name: tensor.name, data, ..found });
    }
    if expected < data_len {
        let problem = format!("{} trailing bytes that belong to no tensor", data_len - expected);
        return Err(fault(path, None, base + expected as usize, problem));
    }
    Ok(placed)
}

/// The format and the dimensions of `tensor`; its name and its data are not there yet.
fn describe(path: &Path, tensor: &Described) -> Result<TensorInfo> {
    let Described { name, at, dtype, shape, .. } = tensor;
    let offset = LENGTH + at;
    let refused = |problem: String, kind| Err(fault(path, Some(name), offset, problem).of_kind(kind));
    let data_type = match &**dtype {
        "F32" => DataType::F32,
        "F16" => DataType::F16,
        "BF16" => DataType::BF16,
        other if OTHERS.contains(&other) => {
            let what = format!(
                "tensor {name:?} is stored as {other}; expected F32, F16 or BF16; write the model in one of these"
            );
            return Err(unsupported(path, what).of_kind(Fault::DataType));
        }
        other => {
            return refused(
                format!("unknown dtype {:?}; expected F32, F16 or BF16", header::shorten(other)),
                Fault::DataType,
            );
        }
    };
    if shape.is_empty() {
        return refused("a tensor without dimensions; expected 1 to 4".to_owned(), Fault::Shape);
    }
    let dims: Option<Vec<_>> =
        shape.iter().rev().map(|&dim| usize::try_from(dim).ok().filter(|&dim| dim > 0)).collect();
    let Some(dims) = dims else {
        return refused(
            format!("shape {shape:?}; each dimension should be at least 1 and fit this machine's memory"),
            Fault::Shape,
        );
    };
    Ok(TensorInfo { name: String::new(), data_type, dims, offset, data: 0..0 })
}
