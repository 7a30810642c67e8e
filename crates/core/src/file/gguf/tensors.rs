//! The tensors: names, dimensions, types and places.

use std::collections::HashSet;

use super::super::{TensorInfo, read, unsupported};
use super::cursor::{Cursor, Within};
use crate::data_type::DataType;
use crate::error::{Fault, Result};

/// The largest published RWKV has some two thousand tensors.
const MAX_TENSORS: u64 = 1 << 16;
/// ggml's own limit is 63.
const MAX_NAME: usize = 256;
const MAX_DIMS: u32 = 4;

/// ggml's numbers for types, their names, and what they are here; those without are refused by name.
#[rustfmt::skip] // a table
const TYPES: [(u32, &str, Option<DataType>); 42] = [
    (0, "F32", Some(DataType::F32)), (1, "F16", Some(DataType::F16)),
    (2, "Q4_0", Some(DataType::Q4_0)), (3, "Q4_1", Some(DataType::Q4_1)), (4, "Q4_2", None), (5, "Q4_3", None),
    (6, "Q5_0", Some(DataType::Q5_0)), (7, "Q5_1", Some(DataType::Q5_1)),
    (8, "Q8_0", Some(DataType::Q8_0)), (9, "Q8_1", None),
    (10, "Q2_K", None), (11, "Q3_K", None), (12, "Q4_K", None), (13, "Q5_K", None), (14, "Q6_K", None),
    (15, "Q8_K", None),
    (16, "IQ2_XXS", None), (17, "IQ2_XS", None), (18, "IQ3_XXS", None), (19, "IQ1_S", None),
    (20, "IQ4_NL", None), (21, "IQ3_S", None), (22, "IQ2_S", None), (23, "IQ4_XS", None),
    (24, "I8", None), (25, "I16", None), (26, "I32", None), (27, "I64", None), (28, "F64", None),
    (29, "IQ1_M", None), (30, "BF16", Some(DataType::BF16)),
    (31, "Q4_0_4_4", None), (32, "Q4_0_4_8", None), (33, "Q4_0_8_8", None),
    (34, "TQ1_0", None), (35, "TQ2_0", None),
    (36, "IQ4_NL_4_4", None), (37, "IQ4_NL_4_8", None), (38, "IQ4_NL_8_8", None),
    (39, "MXFP4", None), (40, "NVFP4", None), (41, "Q1_0", None),
];

/// ggml's number for `data_type`.
pub(crate) fn number_of(data_type: DataType) -> Option<u32> {
    TYPES.iter().find(|known| known.2 == Some(data_type)).map(|known| known.0)
}

/// What the directory says of a tensor, and where it says so.
struct Described<'a> {
    name: &'a str,
    data_type: DataType,
    dims: Vec<usize>,
    at: usize,
    /// Of its data; checked, with `size`, when all of the directory is known.
    offset: u64,
    offset_at: usize,
    size: u64,
}

/// Reads `count` tensors' descriptions, and finds their data in the rest of the file.
pub(super) fn read(cursor: &mut Cursor<'_>, count: u64, alignment: u64) -> Result<Vec<TensorInfo>> {
    // A name's length, one letter, the number of dimensions, one of them, the type and the offset.
    let least = 8 + 1 + 4 + 8 + 4 + 8;
    let possible = (cursor.left() as u64 / least).min(MAX_TENSORS);
    if count > possible {
        let problem = format!("{count} tensors are announced; expected at most {possible} here");
        return Err(cursor.fault(8, problem).of_kind(Fault::Truncated));
    }
    let mut names = HashSet::new();
    let mut tensors = Vec::new();
    for _ in 0..count {
        let tensor = describe(cursor)?;
        if !names.insert(tensor.name) {
            cursor.within = Within::Tensor(tensor.name);
            return Err(cursor.fault(tensor.at, "it is there twice").of_kind(Fault::Name));
        }
        tensors.push(tensor);
    }
    place(cursor, tensors, alignment)
}

fn describe<'a>(cursor: &mut Cursor<'a>) -> Result<Described<'a>> {
    let at = cursor.at;
    let name = cursor.name("a tensor's name", MAX_NAME)?;
    cursor.within = Within::Tensor(name);
    let dims_at = cursor.at;
    let dim_count = cursor.u32("the number of its dimensions")?;
    if !(1..=MAX_DIMS).contains(&dim_count) {
        let problem = format!("a tensor of {dim_count} dimensions; expected 1 to {MAX_DIMS}");
        return Err(cursor.fault(dims_at, problem).of_kind(Fault::Shape));
    }
    let mut dims = Vec::new();
    for _ in 0..dim_count {
        let at = cursor.at;
        let dim = cursor.u64("one of its dimensions")?;
        let Some(dim) = usize::try_from(dim).ok().filter(|&dim| dim > 0) else {
            let problem =
                format!("a dimension of {dim}; it should be at least 1 and fit this machine's memory");
            return Err(cursor.fault(at, problem).of_kind(Fault::Shape));
        };
        dims.push(dim);
    }
    let data_type = data_type(cursor, name)?;
    let (block, _) = data_type.block();
    if !dims[0].is_multiple_of(block) {
        let problem = format!("rows of {} values, stored as {data_type} in blocks of {block}", dims[0]);
        return Err(cursor.fault(dims_at, problem).of_kind(Fault::Shape));
    }
    let Some(size) = read::data_size(&dims, data_type) else {
        let problem = format!("dimensions {dims:?} make more values than there can be");
        return Err(cursor.fault(dims_at, problem).of_kind(Fault::Shape));
    };
    let offset_at = cursor.at;
    let offset = cursor.u64("the offset of its data")?;
    cursor.within = Within::File;
    Ok(Described { name, data_type, dims, at, offset, offset_at, size })
}

fn data_type(cursor: &mut Cursor<'_>, name: &str) -> Result<DataType> {
    let at = cursor.at;
    let number = cursor.u32("its type")?;
    match TYPES.iter().find(|known| known.0 == number) {
        Some(&(_, _, Some(data_type))) => Ok(data_type),
        Some(&(_, of, None)) => {
            let what = format!(
                "tensor {name:?} is stored as {of}, which this version does not read; convert it from a BF16, F16 or \
                 Q8_0 file of the same model"
            );
            Err(unsupported(cursor.path, what).of_kind(Fault::DataType))
        }
        None => {
            let known: Vec<_> = TYPES
                .iter()
                .filter(|known| known.2.is_some())
                .map(|(number, name, _)| format!("{number} ({name})"))
                .collect();
            let problem = format!("unknown type {number}; expected {}", known.join(", "));
            Err(cursor.fault(at, problem).of_kind(Fault::DataType))
        }
    }
}

/// Finds the data of `tensors`: in their order, each where the one before it ends but for the padding to
/// `alignment`, and nothing after the last. (ggml's reader wants the same. A gap would mean that a dimension
/// is not what it says, and bytes after the end that there are more tensors than it says.)
fn place<'a>(
    cursor: &mut Cursor<'a>,
    tensors: Vec<Described<'a>>,
    alignment: u64,
) -> Result<Vec<TensorInfo>> {
    let len = cursor.bytes.len() as u64;
    // No overflow: lengths of files and alignments are far below 2⁶³.
    let base = (cursor.at as u64).next_multiple_of(alignment);
    let (mut expected, mut end) = (0, cursor.at as u64);
    let mut placed = Vec::new();
    for tensor in tensors {
        let Described { name, data_type, dims, at, offset, offset_at, size } = tensor;
        cursor.within = Within::Tensor(name);
        if offset != expected {
            let how = if !offset.is_multiple_of(alignment) {
                format!("is no multiple of the alignment, {alignment}")
            } else if offset < expected {
                "overlaps the tensor before it".to_owned()
            } else {
                "leaves a gap after the tensor before it".to_owned()
            };
            let problem = format!("its data's offset {offset} {how}; expected {expected}");
            return Err(cursor.fault(offset_at, problem));
        }
        let start = base + offset;
        if size > len.saturating_sub(start) {
            let problem = format!(
                "{dims:?} values of {data_type} are {size} bytes from byte {start} on; the file ends at {len}; {}",
                read::GET_IT_AGAIN
            );
            return Err(cursor.fault(at, problem).of_kind(Fault::Truncated));
        }
        end = start + size;
        expected = (offset + size).next_multiple_of(alignment);
        let data = start as usize..end as usize;
        placed.push(TensorInfo { name: name.to_owned(), data_type, dims, offset: at, data });
    }
    cursor.within = Within::File;
    if len - end >= alignment {
        let problem = format!(
            "{} trailing bytes after the last tensor; expected less than the alignment, {alignment}: what is before them \
             is damaged, or something was appended",
            len - end
        );
        return Err(cursor.fault(end as usize, problem));
    }
    Ok(placed)
}
