//! The header's JSON: one object of tensors and metadata.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Metadata;

/// Of tensors, and of texts in the metadata. The largest published RWKV has some two thousand tensors.
const MAX_ENTRIES: usize = 1 << 16;
/// Of a tensor.
const MAX_NAME: usize = 256;
/// Of a shape.
const MAX_DIMS: usize = 4;
const METADATA: &str = "__metadata__";

/// What the header says, not yet held against the file.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub(super) tensors: Vec<Described>,
    pub(super) metadata: Metadata,
}

/// What the header says of a tensor.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) name: String,
    /// Where in the header its entry begins; 0 if its name is written with escapes.
    pub(super) at: usize,
    pub(super) dtype: String,
    pub(super) shape: Vec<u64>,
    /// Beginning and end, counted from the end of the header.
    pub(super) data: [u64; 2],
}

/// What is wrong with a header.
#[derive(Debug)]
pub(super) struct Problem {
    /// The tensor that it is in.
    pub(super) tensor: Option<String>,
    /// Where in the header.
    pub(super) at: usize,
    pub(super) what: String,
}

/// Parses a header, whose length was checked.
pub(super) fn parse(json: &[u8]) -> Result<Header, Problem> {
    let mut reader = Reader { json, header: Header::default(), tensor: None };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let parsed = deserializer.deserialize_map(&mut reader).and_then(|()| deserializer.end());
    match parsed {
        Ok(()) => Ok(reader.header),
        Err(error) => {
            let text = error.to_string();
            // The position is told in bytes of the file instead.
            let what = text.rsplit_once(" at line ").map_or(&*text, |(what, _)| what);
            Err(Problem {
                tensor: reader.tensor,
                at: position(json, &error),
                what: format!("the header: {}", shorten(what)),
            })
        }
    }
}

/// Whether `bytes` are the index of a model in several files: JSON with a `weight_map`.
pub(super) fn is_index(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Index {
        #[allow(dead_code)] // that it is there says enough
        weight_map: IgnoredAny,
    }
    // Where '{' is the lowest byte of a header's length instead, zeros follow, and this fails at once.
    let is_json = bytes.trim_ascii_start().first() == Some(&b'{');
    is_json && bytes.len() as u64 <= super::MAX_HEADER && serde_json::from_slice::<Index>(bytes).is_ok()
}

/// `text`, or the beginning of a long one: a message is not to be as long as a header.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(100) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Where in `json` an error is.
fn position(json: &[u8], error: &serde_json::Error) -> usize {
    let before = json.split_inclusive(|&byte| byte == b'\n').take(error.line().saturating_sub(1));
    let at = before.map(<[u8]>::len).sum::<usize>() + error.column().saturating_sub(1);
    at.min(json.len())
}

/// Reads the object, and remembers how far it came.
struct Reader<'a> {
    json: &'a [u8],
    header: Header,
    /// The tensor that is being read.
    tensor: Option<String>,
}

impl<'a> Visitor<'a> for &mut Reader<'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let mut has_metadata = false;
        while let Some(key) = map.next_key::<Text<'_>>()? {
            if &*key.0 == METADATA {
                if has_metadata {
                    return Err(A::Error::custom(format!("{METADATA} is there twice")));
                }
                has_metadata = true;
                map.next_value_seed(&mut self.header.metadata)?;
                continue;
            }
            if self.header.tensors.len() == MAX_ENTRIES {
                return Err(A::Error::custom(format!("more than {MAX_ENTRIES} tensors")));
            }
            // A key that was borrowed lies in the header itself, after its quotation mark.
            let at = match &key.0 {
                Cow::Borrowed(key) => {
                    key.as_ptr().addr().saturating_sub(self.json.as_ptr().addr()).saturating_sub(1)
                }
                Cow::Owned(_) => 0,
            };
            let name = key.0.into_owned();
            if !(1..=MAX_NAME).contains(&name.len()) {
                let problem = format!("a tensor's name of {} bytes; expected 1 to {MAX_NAME}", name.len());
                return Err(A::Error::custom(problem));
            }
            self.tensor = Some(name.clone());
            let Entry { dtype, shape: Shape(shape), data_offsets } = map.next_value()?;
            self.tensor = None;
            let dtype = dtype.0.into_owned();
            self.header.tensors.push(Described { name, at, dtype, shape, data: data_offsets });
        }
        Ok(())
    }
}

impl<'a> DeserializeSeed<'a> for &mut Metadata {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for &mut Metadata {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object of texts as {METADATA}")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            if self.0.len() == MAX_ENTRIES {
                return Err(A::Error::custom(format!("more than {MAX_ENTRIES} texts in {METADATA}")));
            }
            if self.0.contains_key(&key) {
                return Err(A::Error::custom(format!("{key:?} of {METADATA} is there twice")));
            }
            self.0.insert(key, value);
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    #[serde(borrow)]
    dtype: Text<'a>,
    shape: Shape,
    data_offsets: [u64; 2],
}

/// A string, borrowed unless it is written with escapes. (A plain `Cow` is never borrowed.)
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// At most [`MAX_DIMS`] numbers.
struct Shape(Vec<u64>);

impl<'a> Deserialize<'a> for Shape {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dims;
        impl<'a> Visitor<'a> for Dims {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a shape of 1 to {MAX_DIMS} numbers")
            }

            fn visit_seq<A: SeqAccess<'a>>(self, mut numbers: A) -> Result<Shape, A::Error> {
                let mut dims = Vec::new();
                while let Some(dim) = numbers.next_element()? {
                    if dims.len() == MAX_DIMS {
                        return Err(A::Error::custom(format!("a shape of more than {MAX_DIMS} dimensions")));
                    }
                    dims.push(dim);
                }
                Ok(Shape(dims))
            }
        }
        deserializer.deserialize_seq(Dims)
    }
}
