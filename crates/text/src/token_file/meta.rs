//! nanoGPT's `meta.pkl`: the characters that the tokens of its character data sets stand for.

use std::collections::HashSet;
use std::path::Path;

use rwkv_core::pickle::codes::{
    BINGET, BININT, BININT1, BININT2, EMPTY_DICT, FRAME, LONG_BINGET, MARK, MEMOIZE, PROTO, SETITEM,
    SETITEMS, SHORT_BINUNICODE, STOP,
};
use rwkv_core::pickle::{Known, Pickle, Value, read};
use rwkv_core::{Error, Result, read_regular, write_atomically};

use super::fault;

/// Such a file may have so many bytes: twice what all characters that Unicode has named take.
const MOST_BYTES: u64 = 1 << 23;

/// Reads a `meta.pkl`, `{'vocab_size': int, 'itos': {int: str}, 'stoi': {str: int}}`: the character of each
/// token, from 0 on.
///
/// Nothing in the pickle is executed: what is there besides dictionaries, strings and whole numbers is
/// refused (see [`rwkv_core::pickle`]).
///
/// # Errors
/// [`Error::Io`] if it cannot be read; [`Error::Data`] if it is damaged or something else, if a token is not
/// one character, if the two dictionaries disagree, or if an id is missing.
pub fn read_meta(path: impl AsRef<Path>) -> Result<Vec<char>> {
    let path = path.as_ref();
    let bytes = read_regular(path, MOST_BYTES)?;
    let advice = "expected what nanoGPT's shakespeare_char/prepare.py writes; make it again, or move it elsewhere and name \
                  the vocabulary";
    let pickle = read(&bytes, Known::NOTHING)
        .map_err(|problem| fault(path, format!("byte {}: {}; {advice}", problem.at, problem.what)))?;
    characters(&pickle).map_err(|problem| fault(path, format!("{problem}; {advice}")))
}

/// The size of the vocabulary that a `meta.pkl` beside the file `path` says, if there is one.
pub(super) fn n_vocab_of(path: &Path) -> Result<Option<u32>> {
    match read_meta(path.with_file_name("meta.pkl")) {
        // No more than bytes of the file.
        Ok(characters) => Ok(Some(characters.len() as u32)),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn characters(pickle: &Pickle) -> std::result::Result<Vec<char>, String> {
    let field =
        |name: &str| pickle.get(pickle.result(), name).ok_or_else(|| format!("there is no {name:?} in it"));
    let dict = |name: &str| pickle.entries(field(name)?).ok_or_else(|| format!("{name:?} is no dictionary"));
    let (itos, stoi) = (dict("itos")?, dict("stoi")?);
    let n_vocab = itos.len();
    let Value::Int(size) = field("vocab_size")? else { return Err("\"vocab_size\" is no number".to_owned()) };
    if n_vocab == 0 {
        return Err("the vocabulary is empty".to_owned());
    }
    if usize::try_from(size) != Ok(n_vocab) || stoi.len() != n_vocab {
        return Err(format!(
            "\"vocab_size\" is {size}, \"itos\" has {n_vocab} entries and \"stoi\" {}; they must be the same",
            stoi.len()
        ));
    }
    let id = |name: &str, value: Value| match value {
        Value::Int(id) => usize::try_from(id)
            .ok()
            .filter(|&id| id < n_vocab)
            .ok_or_else(|| format!("{name:?} has token {id}; expected 0 to {}", n_vocab - 1)),
        _ => Err(format!("{name:?} has a token that is no number")),
    };
    let character = |name: &str, value: Value| {
        let text = pickle.text(value).ok_or_else(|| format!("{name:?} has a character that is no string"))?;
        let mut characters = text.chars();
        match (characters.next(), characters.next()) {
            (Some(character), None) => Ok(character),
            _ => Err(format!("{name:?} has {text:?}; expected one character")),
        }
    };
    let mut found = vec![None; n_vocab];
    for &(key, value) in itos {
        let id = id("itos", key)?;
        if found[id].replace(character("itos", value)?).is_some() {
            return Err(format!("\"itos\" has token {id} twice"));
        }
    }
    let mut seen = HashSet::new();
    for &(key, value) in stoi {
        let (character, id) = (character("stoi", key)?, id("stoi", value)?);
        if found[id] != Some(character) {
            return Err(format!(
                "\"stoi\" has {character:?} as token {id}, which is {:?} in \"itos\"",
                found[id]
            ));
        }
        if !seen.insert(character) {
            return Err(format!("\"stoi\" has {character:?} twice"));
        }
    }
    // As many as there are places, none twice: no place is left.
    Ok(found.into_iter().flatten().collect())
}

/// Writes a `meta.pkl`; see [`meta_pickle`].
///
/// # Errors
/// As [`meta_pickle`]; [`Error::Io`].
pub fn write_meta(path: impl AsRef<Path>, characters: &[char]) -> Result<()> {
    let bytes = meta_pickle(characters)?;
    write_atomically(path.as_ref(), |to| to.write_all(&bytes))
}

/// The bytes of a `meta.pkl`: those that `pickle.dump(meta, file)` of CPython 3.8 to 3.13 writes, byte for
/// byte, which is protocol 4. (3.14 writes protocol 5 unless it is asked for 4; every one reads both.)
///
/// # Errors
/// [`Error::InvalidOption`] if there are no characters, or one twice.
pub fn meta_pickle(characters: &[char]) -> Result<Vec<u8>> {
    let distinct: HashSet<_> = characters.iter().collect();
    if characters.is_empty() || distinct.len() != characters.len() {
        let value = format!("a list of {}, {} of them distinct", characters.len(), distinct.len());
        return Err(Error::option("characters", value, "at least one character, and none twice"));
    }
    let mut writer = Writer { out: vec![PROTO, 4], frame: None, memoized: 0 };
    writer.dict();
    writer.op(&[MARK]);
    writer.text("vocab_size");
    writer.int(characters.len() as u32);
    writer.text("itos");
    writer.dict();
    // Python writes a string once, and refers to it from then on.
    let first = writer.memoized;
    writer.items(characters.len(), |writer, at| {
        writer.int(at as u32);
        writer.text(characters[at].encode_utf8(&mut [0; 4]));
    });
    writer.text("stoi");
    writer.dict();
    writer.items(characters.len(), |writer, at| {
        writer.again(first + at as u32);
        writer.int(at as u32);
    });
    writer.op(&[SETITEMS]);
    writer.op(&[STOP]);
    writer.end_frame();
    Ok(writer.out)
}

/// Writes as CPython's `Modules/_pickle.c` does.
struct Writer {
    out: Vec<u8>,
    /// Where the frame under way begins.
    frame: Option<usize>,
    memoized: u32,
}

/// A frame ends before the value at which it has so many bytes.
const FRAME_BYTES: usize = 64 << 10;

/// What is shorter is written without a frame.
const LEAST_FRAME_BYTES: usize = 4;

/// Bytes of a frame's own instruction.
const FRAME_HEADER: usize = 9;

/// Items of a dictionary that are set at once.
const BATCH: usize = 1000;

impl Writer {
    /// To be called before every value.
    fn begin_value(&mut self) {
        if self.frame.is_some_and(|start| self.out.len() - start - FRAME_HEADER >= FRAME_BYTES) {
            self.end_frame();
        }
    }

    fn end_frame(&mut self) {
        let Some(start) = self.frame.take() else { return };
        let body = start + FRAME_HEADER;
        let len = self.out.len() - body;
        if len < LEAST_FRAME_BYTES {
            self.out.drain(start..body);
        } else {
            self.out[start] = FRAME;
            self.out[start + 1..body].copy_from_slice(&(len as u64).to_le_bytes());
        }
    }

    fn op(&mut self, bytes: &[u8]) {
        if self.frame.is_none() {
            self.frame = Some(self.out.len());
            self.out.extend([0; FRAME_HEADER]);
        }
        self.out.extend(bytes);
    }

    fn memoize(&mut self) {
        self.op(&[MEMOIZE]);
        self.memoized += 1;
    }

    fn dict(&mut self) {
        self.begin_value();
        self.op(&[EMPTY_DICT]);
        self.memoize();
    }

    /// A string of fewer than 256 bytes.
    fn text(&mut self, text: &str) {
        self.begin_value();
        self.op(&[SHORT_BINUNICODE, text.len() as u8]);
        self.op(text.as_bytes());
        self.memoize();
    }

    /// A whole number below 2^31.
    fn int(&mut self, value: u32) {
        self.begin_value();
        match value.to_le_bytes() {
            [a, 0, 0, 0] => self.op(&[BININT1, a]),
            [a, b, 0, 0] => self.op(&[BININT2, a, b]),
            [a, b, c, d] => self.op(&[BININT, a, b, c, d]),
        }
    }

    /// What was memoized before.
    fn again(&mut self, at: u32) {
        self.begin_value();
        match at.to_le_bytes() {
            [a, 0, 0, 0] => self.op(&[BINGET, a]),
            [a, b, c, d] => self.op(&[LONG_BINGET, a, b, c, d]),
        }
    }

    fn items(&mut self, count: usize, mut item: impl FnMut(&mut Self, usize)) {
        if count == 1 {
            item(self, 0);
            self.op(&[SETITEM]);
            return;
        }
        // After a last batch that is full there is an empty one.
        for batch in 0..=count / BATCH {
            self.op(&[MARK]);
            for at in batch * BATCH..count.min((batch + 1) * BATCH) {
                item(self, at);
            }
            self.op(&[SETITEMS]);
        }
    }
}
