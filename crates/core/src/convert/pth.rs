//! PyTorch's `.pth`, as `torch.save` writes a dictionary from names to tensors (see [`file`](crate::file)).
//!
//! Facts from PyTorch's `torch/serialization.py` and `caffe2/serialize/inline_container.cc`.

use std::io::{self, Write};

use rawzip::extra_fields::ExtraFieldId;
use rawzip::{Header, ZipArchiveWriter};

use super::plan::Tensor;
use super::values::Values;
use super::{Job, Written};
use crate::control::Control;
use crate::data_type::DataType;
use crate::pickle::codes;
use crate::quantize::{Counted, Failure};

/// The folder of all entries. PyTorch takes the first entry's, whatever it is.
const FOLDER: &str = "archive";
/// What an entry's bytes are aligned to, so that tensors can be used where the file is mapped.
const ALIGNMENT: u64 = 64;
/// Bytes of an entry's header before its name, and of an extra field before what is in it.
const LOCAL_HEADER: u64 = 30;
const EXTRA_HEADER: u64 = 4;
/// Of the extra field that PyTorch pads with: "FB".
const PADDING: ExtraFieldId = ExtraFieldId::new(0x4246);

pub(super) fn write(out: &mut Counted<'_>, job: &Job<'_>, values: &mut Values<'_, impl Control>) -> Written {
    write_tensors(out, job.tensors, |tensor, w| values.write(tensor, w))
}

/// Writes these tensors, each with the values that `body` writes.
pub(super) fn write_tensors(
    out: &mut Counted<'_>,
    tensors: &[Tensor],
    mut body: impl FnMut(&Tensor, &mut dyn Write) -> Written,
) -> Written {
    let mut zip = ZipArchiveWriter::new(&mut *out);
    entry(&mut zip, "data.pkl", |w| Ok(w.write_all(&pickle(tensors)?)?))?;
    let small: [(&str, &[u8]); 3] =
        [(".format_version", b"1"), (".storage_alignment", b"64"), ("byteorder", b"little")];
    for (name, text) in small {
        entry(&mut zip, name, |w| Ok(w.write_all(text)?))?;
    }
    for (index, tensor) in tensors.iter().enumerate() {
        entry(&mut zip, &format!("data/{index}"), |w| body(tensor, w))?;
    }
    entry(&mut zip, "version", |w| Ok(w.write_all(b"3\n")?))?;
    zip.finish().map_err(reason)?;
    Ok(())
}

/// Writes one entry. Its checksum and size follow it, as in the files of PyTorch itself.
fn entry<W: Write>(
    zip: &mut ZipArchiveWriter<W>,
    name: &str,
    body: impl FnOnce(&mut dyn Write) -> Written,
) -> Written {
    let name = format!("{FOLDER}/{name}");
    let begin = zip.stream_offset() + LOCAL_HEADER + name.len() as u64 + EXTRA_HEADER;
    let padding = vec![b'Z'; (begin.next_multiple_of(ALIGNMENT) - begin) as usize];
    let entry = zip.new_file(&*name).extra_field(PADDING, &padding, Header::LOCAL).map_err(reason)?;
    let (mut entry, config) = entry.start().map_err(reason)?;
    let mut writer = config.wrap(&mut entry);
    body(&mut writer)?;
    let (_, sums) = writer.finish().map_err(reason)?;
    entry.finish(sums).map_err(reason)?;
    Ok(())
}

/// What the system said, rather than that the zip could not be written.
fn reason(error: rawzip::Error) -> Failure {
    Failure::Write(match error.into_kind() {
        rawzip::ErrorKind::IO(error) => error,
        other => io::Error::other(other.to_string()),
    })
}

/// A pickle of the dictionary, of protocol 2.
fn pickle(tensors: &[Tensor]) -> io::Result<Vec<u8>> {
    let mut pickle = Pickle { bytes: vec![codes::PROTO, 2, codes::EMPTY_DICT], memo: Vec::new() };
    for (index, tensor) in tensors.iter().enumerate() {
        let storage = match tensor.data_type {
            DataType::F32 => "torch\nFloatStorage\n",
            DataType::F16 => "torch\nHalfStorage\n",
            DataType::BF16 => "torch\nBFloat16Storage\n",
            other => return Err(io::Error::other(format!(".pth cannot hold {other}"))),
        };
        pickle.text(&tensor.name);
        pickle.global("torch._utils\n_rebuild_tensor_v2\n");
        pickle.code(codes::MARK);
        // The storage, and where in it the tensor begins.
        pickle.code(codes::MARK);
        pickle.text("storage");
        pickle.global(storage);
        pickle.text(&index.to_string());
        pickle.text("cpu");
        pickle.number(tensor.len());
        pickle.code(codes::TUPLE);
        pickle.code(codes::BINPERSID);
        pickle.number(0);
        pickle.numbers(tensor.dims.iter().rev().copied());
        let mut strides: Vec<_> = tensor
            .dims
            .iter()
            .scan(1, |next, dim| {
                let stride = *next;
                *next *= dim;
                Some(stride)
            })
            .collect();
        strides.reverse();
        pickle.numbers(strides.into_iter());
        // It needs no gradient, and has no hooks.
        pickle.code(codes::NEWFALSE);
        pickle.global("collections\nOrderedDict\n");
        pickle.code(codes::EMPTY_TUPLE);
        pickle.code(codes::REDUCE);
        pickle.code(codes::TUPLE);
        pickle.code(codes::REDUCE);
        pickle.code(codes::SETITEM);
    }
    pickle.code(codes::STOP);
    Ok(pickle.bytes)
}

struct Pickle {
    bytes: Vec<u8>,
    /// The names that were imported.
    memo: Vec<&'static str>,
}

impl Pickle {
    fn code(&mut self, code: u8) {
        self.bytes.push(code);
    }

    fn text(&mut self, text: &str) {
        self.code(codes::BINUNICODE);
        self.bytes.extend((text.len() as u32).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    /// A number of values, which a file's length bounds.
    fn number(&mut self, number: usize) {
        if let Ok(number) = i32::try_from(number) {
            self.code(codes::BININT);
            self.bytes.extend(number.to_le_bytes());
        } else {
            // Eight bytes, of which the last has the sign.
            self.bytes.extend([codes::LONG1, 8]);
            self.bytes.extend((number as u64).to_le_bytes());
        }
    }

    fn numbers(&mut self, numbers: impl Iterator<Item = usize>) {
        self.code(codes::MARK);
        numbers.for_each(|number| self.number(number));
        self.code(codes::TUPLE);
    }

    /// A module and a name in it, each with the end of its line.
    fn global(&mut self, name: &'static str) {
        // There are five names.
        if let Some(at) = self.memo.iter().position(|&known| known == name) {
            self.bytes.extend([codes::BINGET, at as u8]);
        } else {
            self.code(codes::GLOBAL);
            self.bytes.extend(name.as_bytes());
            self.bytes.extend([codes::BINPUT, self.memo.len() as u8]);
            self.memo.push(name);
        }
    }
}
