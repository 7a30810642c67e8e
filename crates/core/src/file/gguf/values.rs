//! The metadata: keys, each with a value whose type the file states.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::unsupported;
use super::cursor::{Cursor, Within};
use crate::error::{Fault, Result};

/// No published file has more than two hundred keys.
const MAX_KEYS: u64 = 1 << 16;
/// The specification allows 65,535 bytes; no published key has a hundred.
const MAX_KEY: usize = 1024;
/// Sixteen times the entries of the largest vocabularies.
const MAX_ARRAY: u64 = 1 << 22;
/// Longer strings (licences, chat templates) stay in the file: nothing that a loader asks for is as long.
const MAX_STRING: usize = 1024;

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Type {
    /// In the order of their numbers in files, which is that of the declaration.
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// Its number in files.
    pub(crate) fn number(self) -> u32 {
        self as u32
    }

    /// Bytes of a value; of strings and arrays, of their length.
    fn size(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String | Self::Array => 8,
        }
    }
}

/// A list of values, which stays in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Array {
    /// What its elements are.
    pub(in super::super) of: Type,
    /// How many there are.
    pub(in super::super) count: usize,
    /// Where in the file they lie, one after the other; strings with their lengths.
    pub(in super::super) at: Range<usize>,
}

impl Array {
    #[allow(dead_code)] // a tokenizer is made of them next
    /// The strings of an array of [`Type::String`], in the `bytes` of the file that it was found in. (Of other
    /// arrays and bytes something else, but never a panic.)
    pub(in super::super) fn strings<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut left = bytes.get(self.at.clone()).unwrap_or_default();
        std::iter::from_fn(move || {
            let (len, rest) = left.split_first_chunk()?;
            let (string, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
            left = rest;
            Some(string)
        })
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Any of the integers; those of [`Type::U64`] are not negative.
    Integer(Type, i128),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    /// One that is too long to be copied, and where it is.
    Long(Range<usize>),
    Array(Array),
}

impl Value {
    /// What it is, for messages about a value of the wrong type.
    pub(super) fn kind(&self) -> String {
        match self {
            Self::Integer(of, value) => format!("the {of:?} {value}"),
            Self::F32(value) => format!("the F32 {value:?}"),
            Self::F64(value) => format!("the F64 {value:?}"),
            Self::Bool(value) => format!("the Bool {value}"),
            Self::String(value) if value.len() <= 64 => format!("the String {value:?}"),
            Self::String(value) => format!("a String of {} bytes", value.len()),
            Self::Long(at) => format!("a String of {} bytes", at.len()),
            Self::Array(Array { of, count, .. }) => format!("an array of {count} {of:?}"),
        }
    }
}

/// A value, and where in the file it begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) at: usize,
    pub(super) value: Value,
}

/// Reads `count` keys with their values.
pub(super) fn read(cursor: &mut Cursor<'_>, count: u64) -> Result<BTreeMap<String, Entry>> {
    // The length of a key, one letter, a type, and a value of one byte.
    let least = 8 + 1 + 4 + 1;
    let possible = (cursor.left() as u64 / least).min(MAX_KEYS);
    if count > possible {
        let problem = format!("{count} keys are announced; expected at most {possible} here");
        return Err(cursor.fault(16, problem).of_kind(Fault::Truncated));
    }
    let mut entries = BTreeMap::new();
    for _ in 0..count {
        let key_at = cursor.at;
        let key = cursor.name("a key", MAX_KEY)?;
        cursor.within = Within::Key(key);
        if entries.contains_key(key) {
            return Err(cursor.fault(key_at, "it is there twice").of_kind(Fault::Name));
        }
        let of = of_number(cursor, "the type of its value")?;
        let at = cursor.at;
        let value = value(cursor, of)?;
        entries.insert(key.to_owned(), Entry { at, value });
        cursor.within = Within::File;
    }
    Ok(entries)
}

fn of_number(cursor: &mut Cursor<'_>, what: &str) -> Result<Type> {
    let at = cursor.at;
    let number = cursor.u32(what)?;
    Type::ALL.get(number as usize).copied().ok_or_else(|| {
        let problem = format!("{what} is {number}; expected 0 to {}", Type::ALL.len() - 1);
        cursor.fault(at, problem).of_kind(Fault::DataType)
    })
}

fn value(cursor: &mut Cursor<'_>, of: Type) -> Result<Value> {
    let at = cursor.at;
    match of {
        Type::String => {
            let bytes = cursor.string("its string")?;
            if bytes.len() > MAX_STRING {
                return Ok(Value::Long(cursor.at - bytes.len()..cursor.at));
            }
            let text = std::str::from_utf8(bytes);
            text.map(|text| Value::String(text.to_owned()))
                .map_err(|_| cursor.fault(at, "its string is not UTF-8"))
        }
        Type::Array => Ok(Value::Array(array(cursor)?)),
        Type::Bool => match cursor.take(1, "its value")? {
            [0] => Ok(Value::Bool(false)),
            [1] => Ok(Value::Bool(true)),
            other => Err(cursor.fault(at, format!("its Bool is {}; expected 0 or 1", other[0]))),
        },
        Type::F32 => Ok(Value::F32(f32::from_bits(cursor.u32("its value")?))),
        Type::F64 => Ok(Value::F64(f64::from_bits(cursor.u64("its value")?))),
        _ => {
            let bytes = cursor.take(of.size(), "its value")?;
            let mut wide = [0; 8];
            wide[..bytes.len()].copy_from_slice(bytes);
            let unsigned = u64::from_le_bytes(wide);
            // The sign, where there is one, is moved to the top and spread from there.
            let shift = 64 - 8 * bytes.len();
            let signed = (unsigned << shift).cast_signed() >> shift;
            let is_signed = matches!(of, Type::I8 | Type::I16 | Type::I32 | Type::I64);
            Ok(Value::Integer(of, if is_signed { signed.into() } else { unsigned.into() }))
        }
    }
}

/// An array: the type of its elements, their number, and they; what is in it stays in the file.
fn array(cursor: &mut Cursor<'_>) -> Result<Array> {
    let of = of_number(cursor, "the type of its array's elements")?;
    if of == Type::Array {
        let Within::Key(key) = cursor.within else {
            return Err(cursor.fault(cursor.at, "an array of arrays"));
        };
        let what = format!("key {key:?} is an array of arrays, which no RWKV model needs");
        return Err(unsupported(cursor.path, what).of_kind(Fault::DataType));
    }
    let count_at = cursor.at;
    let count = cursor.u64("the number of its array's elements")?;
    let possible = (cursor.left() as u64 / of.size()).min(MAX_ARRAY);
    if count > possible {
        let problem = format!("an array of {count} {of:?}; expected at most {possible} here");
        return Err(cursor.fault(count_at, problem).of_kind(Fault::Truncated));
    }
    let start = cursor.at;
    if of == Type::String {
        for index in 0..count {
            let at = cursor.at;
            let len = cursor.u64("the length of a string of its array")?;
            if len > cursor.left() as u64 {
                let problem = format!(
                    "string {index} of its array takes {len} bytes, but the file has {} left",
                    cursor.left()
                );
                return Err(cursor.fault(at, problem).of_kind(Fault::Truncated));
            }
            cursor.at += len as usize;
        }
    } else {
        cursor.take(count * of.size(), "its array")?;
    }
    Ok(Array { of, count: count as usize, at: start..cursor.at })
}
