//! PyTorch's model files (`.pth`, `.pt`), as `torch.save` writes a dictionary from names to tensors.
//!
//! # The format
//! A zip archive whose entries are stored as they are, in one folder: `data.pkl`, a pickle of the dictionary;
//! `data/0`, `data/1` …, each the bytes of one storage; `byteorder`; and versions of this and that. In the
//! pickle, a tensor is a call of `torch._utils._rebuild_tensor_v2` with a reference to a storage (its type,
//! its entry, how many values), where in it the tensor begins, sizes and strides.
//!
//! # Trust
//! None. Python would run what the pickle says; here it is data (see [`crate::pickle`]), and a file that names
//! anything but tensors is refused with that name. What is accepted is exact: each storage is its whole entry,
//! no entry lies over another, tensors are contiguous, and two of them share bytes only if both are all of
//! their storage (tied weights). So every tensor can be used where the file is mapped.
//!
//! Facts from PyTorch's `torch/serialization.py`, `torch/_utils.py` and `caffe2/serialize/inline_container.cc`.

mod archive;
mod shape;
mod tensors;
#[cfg(test)]
mod tests;

use std::path::Path;

use super::{TensorInfo, fault, unsupported};
use crate::error::{Fault, Result};
use archive::{Archive, Entry};

/// What to do with a file that is not whole.
const GET_IT_AGAIN: &str = "it is cut short or damaged, so copy or make it again";

/// What to do with a file of another kind that PyTorch can read.
const SAVE_AGAIN: &str = "load and save it again with PyTorch: \
     torch.save(torch.load(\"old.pth\", map_location=\"cpu\", weights_only=True), \"new.pth\")";

/// The file's pickle may have so many bytes: of a model of 60 layers it has half a million, and reading one
/// takes some 50 times its bytes at most.
const MOST_PICKLE: usize = 1 << 22;

/// What PyTorch's files began with before version 1.6, pickled: 0x1950a86a20f9469cfc6c, little-endian.
const LEGACY: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// All tensors of the file's dictionary, in its order: dimensions with the row length first, `offset` that of
/// the zip's entry, and the data where the file has them. Nothing but the directory and the pickle is read.
pub(super) fn directory(path: &Path, bytes: &[u8]) -> Result<Vec<TensorInfo>> {
    recognise(path, bytes)?;
    let archive = Archive::read(path, bytes)?;
    // Before compressed entries are refused, since a TorchScript archive has some and needs other advice.
    let (prefix, pickle) = find_pickle(path, &archive)?;
    archive.check_stored(path)?;
    check_byte_order(path, bytes, archive.get(&format!("{prefix}byteorder")))?;
    let len = pickle.data.len();
    if len > MOST_PICKLE {
        let problem = format!("{:?} of the zip has {len} bytes; expected {MOST_PICKLE} at most", pickle.name);
        return Err(fault(path, None, pickle.at, problem));
    }
    tensors::read(path, bytes, &archive, prefix, pickle.data.clone())
}

/// Refuses what is no zip archive, by the name of what it is.
fn recognise(path: &Path, bytes: &[u8]) -> Result<()> {
    let begins = bytes.get(..32).unwrap_or(bytes);
    let what = match begins {
        [b'P', b'K', 3, 4, ..] => return Ok(()),
        _ if bytes.get(257..262) == Some(b"ustar") => {
            "this is a tar archive, PyTorch's format before version 0.1.10, and such files can run code even in readers \
             that promise to load weights only (CVE-2025-32434); get the model in another format"
                .to_owned()
        }
        [0x80, 2..=5, ..] if begins.windows(LEGACY.len()).any(|window| window == LEGACY) => {
            format!("this is PyTorch's format before version 1.6, without a zip archive; {SAVE_AGAIN}")
        }
        [0x80, 2..=5, ..] => {
            "this is a bare pickle, not what torch.save writes; save the model with torch.save".to_owned()
        }
        [] => return Err(fault(path, None, 0, "the file is empty").of_kind(Fault::Truncated)),
        _ => {
            let start = &bytes[..bytes.len().min(4)];
            let problem = format!("the file starts with bytes {start:02x?}: this is not a .pth of PyTorch");
            return Err(fault(path, None, 0, problem).of_kind(Fault::Magic));
        }
    };
    Err(unsupported(path, what).of_kind(Fault::FormatVersion))
}

/// The entry of the pickle, and the folder of it and all others, with its slash.
fn find_pickle<'a>(path: &Path, archive: &'a Archive) -> Result<(&'a str, &'a Entry)> {
    let folder = |entry: &'a Entry| {
        let folder = entry.name.strip_suffix("data.pkl")?;
        (folder.is_empty() || folder.ends_with('/')).then_some((folder, entry))
    };
    let mut pickles = archive.entries().iter().filter_map(folder);
    let Some((prefix, pickle)) = pickles.next() else {
        let is_array =
            |entry: &Entry| Path::new(&entry.name).extension().is_some_and(|extension| extension == "npy");
        let problem = if archive.entries().iter().any(is_array) {
            "this is an archive of NumPy's arrays (.npz), not a .pth of PyTorch"
        } else {
            "the zip has no \"data.pkl\": this is not a .pth of PyTorch"
        };
        return Err(fault(path, None, 0, problem).of_kind(Fault::Missing));
    };
    if let Some((_, second)) = pickles.next() {
        let problem = format!(
            "the zip has {:?} and {:?}; expected one \"data.pkl\", so that everybody reads the same model",
            pickle.name, second.name
        );
        return Err(fault(path, None, second.at, problem).of_kind(Fault::Name));
    }
    let (constants, code) = (format!("{prefix}constants.pkl"), format!("{prefix}code/"));
    let is_script = |entry: &Entry| entry.name == constants || entry.name.starts_with(&code);
    if archive.entries().iter().any(is_script) {
        let what = "this is a TorchScript archive (torch.jit.save), a program rather than weights; save the weights alone: \
                    torch.save(torch.jit.load(\"old.pt\").state_dict(), \"new.pth\")";
        return Err(unsupported(path, what).of_kind(Fault::FormatVersion));
    }
    Ok((prefix, pickle))
}

/// Refuses numbers of another byte order. Files of PyTorch before 2.1 do not say it, and are little-endian.
fn check_byte_order(path: &Path, bytes: &[u8], entry: Option<&Entry>) -> Result<()> {
    let Some(entry) = entry else { return Ok(()) };
    match &bytes[entry.data.clone()] {
        b"little" => Ok(()),
        b"big" => {
            let what = "its numbers are big-endian; load and save it again with PyTorch on a machine that is little-endian";
            Err(unsupported(path, what).of_kind(Fault::DataType))
        }
        _ => {
            let problem =
                format!("{:?} of the zip says neither \"little\" nor \"big\"; {GET_IT_AGAIN}", entry.name);
            Err(fault(path, None, entry.data.start, problem))
        }
    }
}
