//! JSON Lines: one object a line, with the text in one of its fields.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use rwkv_core::Error;
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};

use super::pieces::Part;
use super::stream::{GoOn, Stream};
use super::{Invalid, Result, Source, SourceOptions, data, utf8};

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 18;

/// Room that is kept from line to line; what a longer one took is given back after it.
const KEPT: usize = 4 << 20;

pub(super) struct JsonLines {
    stream: Stream,
    field: String,
    invalid: Invalid,
    max_line: u64,
    buffer: Vec<u8>,
    /// Where in `buffer` the next line begins.
    start: usize,
    /// Of `start`, in the unpacked file.
    byte: u64,
    /// The next line's number, from 0.
    line: u64,
    has_ended: bool,
}

impl JsonLines {
    pub(super) fn open(
        source: &Source,
        options: &SourceOptions,
        (line, byte): (u64, u64),
        go_on: GoOn<'_>,
    ) -> Result<Self> {
        let mut stream = Stream::open(source)?;
        let mut buffer = Vec::new();
        if byte > 0 {
            stream.skip(byte - 1, go_on)?;
            stream.fill(&mut buffer, 1, go_on)?;
            // After the last line, the file may end without one.
            if buffer != b"\n" && stream.fill(&mut buffer, 2, go_on)? {
                let problem = format!(
                    "reading is to go on at {}, where no line begins: it is not the file that was read before; \
                     begin anew",
                    stream.byte(byte)
                );
                return Err(data(&source.path, problem));
            }
            buffer.clear();
        }
        Ok(Self {
            stream,
            field: options.text_field.clone(),
            invalid: options.invalid,
            max_line: options.max_line,
            buffer,
            start: 0,
            byte,
            line,
            has_ended: false,
        })
    }

    pub(super) fn next(&mut self, go_on: GoOn<'_>) -> Result<Option<Part>> {
        loop {
            let Some((end, next)) = self.find_line(go_on)? else { return Ok(None) };
            let at = (self.line, self.byte);
            let mark = if self.byte == 0 { utf8::mark_len(&self.buffer[..end]) } else { 0 };
            let line = &self.buffer[self.start + mark..end];
            let text = if line.trim_ascii().is_empty() { None } else { Some(self.text_of(line, mark)?) };
            self.byte += (next - self.start) as u64;
            self.line += 1;
            self.start = next;
            if let Some(text) = text {
                let next = Some((self.line, self.byte));
                let bytes_read = self.stream.bytes_read() - self.unread();
                return Ok(Some(Part { text, is_last: true, at, next, bytes_read }));
            }
        }
    }

    /// What of the buffer is still to come, if the file is not packed; else nobody can tell.
    fn unread(&self) -> u64 {
        if self.stream.is_packed() { 0 } else { (self.buffer.len() - self.start) as u64 }
    }

    /// Where the next line ends in the buffer and where the one after it begins; none at the end.
    fn find_line(&mut self, go_on: GoOn<'_>) -> Result<Option<(usize, usize)>> {
        let mut searched = self.start;
        loop {
            let newline = memchr::memchr(b'\n', &self.buffer[searched..]).map(|at| searched + at);
            let len = newline.unwrap_or(self.buffer.len()) - self.start;
            if len as u64 > self.max_line {
                let problem =
                    format!("more than {} bytes; allow more (max_line), or leave it out", self.max_line);
                return Err(self.problem(0, &format!("the line has {problem}")));
            }
            match newline {
                Some(newline) => return Ok(Some((newline, newline + 1))),
                None if self.has_ended && len == 0 => return Ok(None),
                None if self.has_ended => return Ok(Some((self.buffer.len(), self.buffer.len()))),
                None => {}
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            if self.buffer.capacity() > KEPT && len < CHUNK {
                self.buffer.shrink_to(2 * CHUNK);
            }
            searched = len;
            // One more than a line may have tells that it is too long.
            let most = usize::try_from(self.max_line).unwrap_or(usize::MAX).saturating_add(1).max(CHUNK);
            self.has_ended = !self.stream.fill(&mut self.buffer, (len + len.max(CHUNK)).min(most), go_on)?;
        }
    }

    /// The text of a line that begins `mark` bytes after the line's place.
    fn text_of(&self, line: &[u8], mark: usize) -> Result<Vec<u8>> {
        let line = match std::str::from_utf8(line) {
            Ok(line) => Cow::Borrowed(line),
            Err(_) if self.invalid == Invalid::Replace => String::from_utf8_lossy(line),
            Err(error) => {
                let advice = if line.starts_with(&[0xff, 0xfe]) || line.starts_with(&[0xfe, 0xff]) {
                    utf8::advice(line)
                } else {
                    "save the file as UTF-8, or have such bytes replaced (--invalid replace)"
                };
                return Err(self.problem(mark + error.valid_up_to(), &format!("not UTF-8; {advice}")));
            }
        };
        let mut json = serde_json::Deserializer::from_str(&line);
        let object = Object { field: &self.field, replace: self.invalid == Invalid::Replace };
        match object.deserialize(&mut json).and_then(|text| json.end().map(|()| text)) {
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err(self.missing(&line)),
            Err(error) => Err(self.explain(&error, mark)),
        }
    }

    fn explain(&self, error: &serde_json::Error, mark: usize) -> Error {
        let whole = error.to_string();
        // The line that it names is the first, of one.
        let what = whole.strip_suffix(&format!(" at line {} column {}", error.line(), error.column()));
        let what = what.unwrap_or(&whole);
        let advice = if what.contains("surrogate") || what.contains("hex escape") {
            "an escaped half of a character; have it replaced (--invalid replace)"
        } else {
            "each line must be a JSON object with the text as a string"
        };
        self.problem(mark + error.column().saturating_sub(1), &format!("{what}; {advice}"))
    }

    fn missing(&self, line: &str) -> Error {
        let names: BTreeSet<String> =
            serde_json::from_str::<Names>(line).map_or_else(|_| BTreeSet::new(), |names| names.0);
        let there = match names.len() {
            0 => "it has none".to_owned(),
            _ => format!("it has {}", list(names.iter().map(String::as_str))),
        };
        let what = format!("no field {:?}: {there}; name the one with the text (text_field)", self.field);
        self.problem(0, &what)
    }

    /// An error `column` bytes into the line.
    fn problem(&self, column: usize, what: &str) -> Error {
        let byte = self.stream.byte(self.byte + column as u64);
        data(self.stream.path(), format!("line {}, column {} ({byte}): {what}", self.line + 1, column + 1))
    }
}

/// Some names, quoted: not all, if they are many.
pub(super) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const MOST: usize = 20;
    let mut quoted: Vec<String> =
        names.take(MOST + 1).map(|name| format!("{:?}", name.chars().take(60).collect::<String>())).collect();
    if quoted.len() > MOST {
        "others".clone_into(&mut quoted[MOST]);
    }
    quoted.join(", ")
}

/// The text in a field of an object, if it is there. Nothing else of the object is kept.
struct Object<'a> {
    field: &'a str,
    replace: bool,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = Option<Vec<u8>>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Option<Vec<u8>>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut text = None;
        while let Some(is_text) = map.next_key_seed(IsField(self.field))? {
            if !is_text {
                map.next_value::<IgnoredAny>()?;
            } else if text
                .replace(map.next_value_seed(Text { field: self.field, replace: self.replace })?)
                .is_some()
            {
                return Err(A::Error::custom(format!("the field {:?} is there twice", self.field)));
            }
        }
        Ok(text)
    }
}

/// Whether a key is this one.
struct IsField<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for IsField<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for IsField<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

struct Text<'a> {
    field: &'a str,
    replace: bool,
}

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = Vec<u8>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Vec<u8>, D::Error> {
        // As bytes, serde_json has half surrogate pairs come through.
        if self.replace { json.deserialize_bytes(self) } else { json.deserialize_str(self) }
    }
}

impl Visitor<'_> for Text<'_> {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a string in the field {:?}", self.field)
    }

    fn visit_str<E>(self, text: &str) -> Result<Vec<u8>, E> {
        Ok(text.as_bytes().to_vec())
    }

    fn visit_bytes<E>(self, text: &[u8]) -> Result<Vec<u8>, E> {
        let mut text = text.to_vec();
        if std::str::from_utf8(&text).is_err() {
            // Half a pair is written like a character of three bytes, as many as those of U+FFFD.
            for at in 0..text.len().saturating_sub(2) {
                if text[at] == 0xed && text[at + 1] >= 0xa0 {
                    text[at..at + 3].copy_from_slice("\u{fffd}".as_bytes());
                }
            }
        }
        Ok(text)
    }
}

/// The fields of an object.
struct Names(BTreeSet<String>);

impl<'de> serde::Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = BTreeSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    map.next_value::<IgnoredAny>()?;
                    if names.len() < 100 {
                        names.insert(name);
                    }
                }
                Ok(Names(names))
            }
        }
        json.deserialize_map(Keys)
    }
}
