//! From bytes to a directory of tensors: each number is checked against the file's length before it is
//! believed.

use std::path::Path;

use super::{HEADER, Header, MAGIC, TensorInfo, fault, unsupported};
use crate::data_type::{DataType, REMOVED};
use crate::error::{Error, Fault, Result};

/// The longest name of any published model has 32 bytes.
const MAX_NAME: usize = 256;

/// What to do with a file that ends before its time.
const GET_IT_AGAIN: &str = "it is cut short or damaged, so copy or make it again";

/// Reads the header and the directory of all tensors, to the last byte.
pub(super) fn directory(path: &Path, bytes: &[u8]) -> Result<(Header, Vec<TensorInfo>)> {
    let mut cursor = Cursor { path, bytes, at: 0 };
    let header = header(&mut cursor)?;
    let mut tensors = Vec::new();
    while cursor.left() > 0 {
        let tensor = tensor(&mut cursor)?;
        refuse_old_blocks(path, header.version, tensor.data_type)?;
        tensors.push(tensor);
    }
    Ok((header, tensors))
}

fn header(cursor: &mut Cursor<'_>) -> Result<Header> {
    let len = cursor.bytes.len();
    if len < HEADER {
        let is = if len == 0 { "the file is empty".into() } else { format!("the file has {len} bytes") };
        return Err(cursor
            .fault(None, len, format!("{is}; a model file starts with a header of {HEADER} bytes"))
            .of_kind(Fault::Truncated));
    }
    let magic = cursor.u32();
    if magic != MAGIC {
        let problem =
            format!("the file starts with {magic:#010x}, not {MAGIC:#010x}: this is not an rwkv.cpp model");
        return Err(cursor.fault(None, 0, problem).of_kind(Fault::Magic));
    }
    let version = cursor.u32();
    if !matches!(version, 100 | 101) {
        let problem = format!("file version {version}; expected 100 or 101");
        return Err(cursor.fault(None, 4, problem).of_kind(Fault::FormatVersion));
    }
    let mut size = |name: &str| {
        let at = cursor.at;
        match cursor.u32() {
            0 => Err(cursor.fault(None, at, format!("{name} is 0; it must be at least 1"))),
            size => Ok(size),
        }
    };
    let (n_vocab, n_embd, n_layer) = (size("n_vocab")?, size("n_embd")?, size("n_layer")?);
    let data_type = data_type(cursor, None)?;
    refuse_old_blocks(cursor.path, version, data_type)?;
    Ok(Header { version, n_vocab, n_embd, n_layer, data_type })
}

fn refuse_old_blocks(path: &Path, version: u32, data_type: DataType) -> Result<()> {
    if version != 100 || !data_type.is_quantized() {
        return Ok(());
    }
    let what = format!(
        "{data_type} weights in a file of version 100 use an older block layout; convert the original model again"
    );
    Err(unsupported(path, what).of_kind(Fault::DataType))
}

fn tensor(cursor: &mut Cursor<'_>) -> Result<TensorInfo> {
    let offset = cursor.at;
    let left = cursor.left();
    if left < 12 {
        let problem = format!("{left} trailing bytes; a tensor's header has at least 12; {GET_IT_AGAIN}");
        return Err(cursor.fault(None, offset, problem).of_kind(Fault::Truncated));
    }
    let dim_count = cursor.u32();
    if !(1..=3).contains(&dim_count) {
        let problem = format!("a tensor of {dim_count} dimensions; expected 1 to 3");
        return Err(cursor.fault(None, offset, problem).of_kind(Fault::Shape));
    }
    let name_len = cursor.u32() as usize;
    if !(1..=MAX_NAME).contains(&name_len) {
        let problem = format!("a tensor's name of {name_len} bytes; expected 1 to {MAX_NAME}");
        return Err(cursor.fault(None, offset + 4, problem).of_kind(Fault::Name));
    }
    // The type's error should name the tensor, whose name comes after it.
    let type_at = cursor.at;
    cursor.at += 4;
    let dims_at = cursor.at;
    let needed = 4 * dim_count as usize + name_len;
    if cursor.left() < needed {
        let problem = format!(
            "the file ends within a tensor's header: {needed} bytes expected, {} left; {GET_IT_AGAIN}",
            cursor.left()
        );
        return Err(cursor.fault(None, dims_at, problem).of_kind(Fault::Truncated));
    }
    let dims: Vec<usize> = (0..dim_count).map(|_| cursor.u32() as usize).collect();
    let name_at = cursor.at;
    let name = std::str::from_utf8(cursor.take(name_len))
        .map_err(|_| cursor.fault(None, name_at, "a tensor's name is not UTF-8").of_kind(Fault::Name))?;
    let data_at = cursor.at;

    cursor.at = type_at;
    let data_type = data_type(cursor, Some(name))?;
    cursor.at = data_at;
    let Some(size) = data_size(&dims, data_type) else {
        let problem = format!("dimensions {dims:?} make no {data_type} tensor");
        return Err(cursor.fault(Some(name), dims_at, problem).of_kind(Fault::Shape));
    };
    let left = cursor.left();
    if size > left as u64 {
        let problem = format!(
            "{dims:?} values of {data_type} are {size} bytes; the file has {left} left; {GET_IT_AGAIN}"
        );
        return Err(cursor.fault(Some(name), data_at, problem).of_kind(Fault::Truncated));
    }
    cursor.at += size as usize;
    Ok(TensorInfo { name: name.to_owned(), data_type, dims, offset, data: data_at..cursor.at })
}

fn data_type(cursor: &mut Cursor<'_>, tensor: Option<&str>) -> Result<DataType> {
    let at = cursor.at;
    let code = cursor.u32();
    let refused = || {
        if REMOVED.contains(&code) {
            let what =
                format!("data type {code} was removed from rwkv.cpp; convert the original model again");
            return unsupported(cursor.path, what);
        }
        let known = DataType::ALL
            .iter()
            .filter_map(|known| known.code().map(|code| format!("{code} ({known})")))
            .collect::<Vec<_>>();
        cursor.fault(tensor, at, format!("unknown data type {code}; expected {}", known.join(", ")))
    };
    DataType::from_code(code).ok_or_else(|| refused().of_kind(Fault::DataType))
}

/// Bytes of a tensor, if its dimensions are possible.
fn data_size(dims: &[usize], data_type: DataType) -> Option<u64> {
    let (values, bytes) = data_type.block();
    let row = *dims.first()?;
    if !row.is_multiple_of(values) {
        return None;
    }
    let count = dims.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim as u64))?;
    if count == 0 { None } else { (count / values as u64).checked_mul(bytes as u64) }
}

/// Where we are in a file.
struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `count` bytes, which the caller has seen to be there.
    fn take(&mut self, count: usize) -> &'a [u8] {
        let bytes = &self.bytes[self.at..self.at + count];
        self.at += count;
        bytes
    }

    /// The next number, which the caller has seen to be there.
    fn u32(&mut self) -> u32 {
        let mut number = [0; 4];
        number.copy_from_slice(self.take(4));
        u32::from_le_bytes(number)
    }

    fn fault(&self, tensor: Option<&str>, offset: usize, problem: impl Into<String>) -> Error {
        fault(self.path, tensor, offset, problem)
    }
}
