//! Megatron's indexed sets of tokens, which RWKV-LM trains on: `<name>.bin` and `<name>.idx`.
//!
//! ```text
//! "MMIDIDX\0\0"   u64 version 1   u8 type of a token   u64 sequences s   u64 boundaries d
//! s × i32 tokens of each sequence   s × i64 first byte of each in the .bin   d × i64 boundaries
//! ```
//!
//! A boundary is the number of a document's first sequence. Facts from `RWKV-v5/src/binidx.py` of
//! github.com/BlinkDL/RWKV-LM.

use std::ops::Range;
use std::path::Path;

use rwkv_core::{Mapped, Result};

use super::{Format, Layout, TokenFile, Width, fault, is_there, name};

pub(super) const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";

/// Bytes before the sequences' sizes.
const HEADER: usize = 34;

/// Where documents begin in a set of tokens; mapped like the tokens.
#[derive(Debug)]
pub struct Documents {
    map: Mapped,
    tables: Tables,
    width: Width,
    len: u64,
    n_tokens: u64,
}

/// An index's three tables, each found to be within it.
#[derive(Clone, Copy, Debug)]
struct Tables {
    sequences: usize,
    boundaries: usize,
}

impl Tables {
    fn pointers(self) -> usize {
        HEADER + 4 * self.sequences
    }

    fn pointer(self, bytes: &[u8], at: usize) -> Option<i64> {
        let at = self.pointers() + 8 * at;
        bytes.get(at..)?.first_chunk().copied().map(i64::from_le_bytes)
    }

    fn boundary_at(self, at: usize) -> usize {
        HEADER + 12 * self.sequences + 8 * at
    }

    fn boundary(self, bytes: &[u8], at: usize) -> Option<i64> {
        bytes.get(self.boundary_at(at)..)?.first_chunk().copied().map(i64::from_le_bytes)
    }
}

impl Documents {
    /// How many documents there are, at least one.
    #[allow(clippy::len_without_is_empty)] // a set of nothing is refused
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The tokens of a document, counted from 0. They follow each other without a gap; one may be empty.
    ///
    /// # Errors
    /// [`Error::Data`](rwkv_core::Error::Data) if there is no such document;
    /// [`Error::FileChanged`](rwkv_core::Error::FileChanged); [`Error::Io`](rwkv_core::Error::Io).
    pub fn get(&self, document: u64) -> Result<Range<u64>> {
        if document >= self.len {
            let problem =
                format!("document {document} was asked for; there are {}, counted from 0", self.len);
            return Err(fault(self.map.path(), problem));
        }
        let document = document as usize;
        self.map.read(|bytes| {
            let Range { start, end } = document..document + 1;
            Ok(self.first_token(bytes, start)..self.first_token(bytes, end))
        })
    }

    /// The first token of a document, all tokens for the one after the last. What is not as it was when it
    /// was checked is the caller's to find out, whatever this says then.
    fn first_token(&self, bytes: &[u8], document: usize) -> u64 {
        // Beyond the last boundary, or at the last sequence's end: all.
        let first = || {
            let boundary = (document < self.tables.boundaries).then_some(document)?;
            let sequence = usize::try_from(self.tables.boundary(bytes, boundary)?).ok()?;
            let sequence = (sequence < self.tables.sequences).then_some(sequence)?;
            u64::try_from(self.tables.pointer(bytes, sequence)?).ok()
        };
        first().map_or(self.n_tokens, |byte| byte / self.width.bytes() as u64)
    }
}

/// Tokens of a sequence.
fn size_of(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(HEADER + 4 * at..)?.first_chunk().copied().map(i32::from_le_bytes)
}

/// Opens a pair.
pub(super) fn open(bin: &Path, idx: &Path) -> Result<TokenFile> {
    // The one that is missing is the news, not that it cannot be opened.
    for (there, missing, problem) in [
        (idx, bin, format!("the tokens beside it, {}, are not there", name(bin))),
        (
            bin,
            idx,
            format!(
                "the index beside it, {}, is not there; name {} to read it as raw u16",
                name(idx),
                name(bin)
            ),
        ),
    ] {
        if is_there(there)? && !is_there(missing)? {
            return Err(fault(there, format!("{problem}; copy or make both files again")));
        }
    }
    let (index, map) = (Mapped::open(idx)?, Mapped::open(bin)?);
    let size = map.bytes().len();
    if size == 0 {
        return Err(fault(bin, "the file is empty; a file of tokens has at least one"));
    }
    let (width, tables, len) = index.read(|bytes| check(idx, bytes, (bin, size)))?;
    map.check()?;
    let layout = Layout { format: Format::Binidx, width, start: 0, len: size / width.bytes() };
    let documents = Documents { map: index, tables, width, len, n_tokens: layout.len as u64 };
    Ok(TokenFile::new(map, layout, Some(documents), None))
}

/// Checks all that the index says; returns the tokens' width, the tables, and the number of documents.
fn check(path: &Path, bytes: &[u8], tokens: (&Path, usize)) -> Result<(Width, Tables, u64)> {
    let bad =
        |at: usize, problem: String| fault(path, format!("byte {at}: {problem}; make both files again"));
    if bytes.len() < HEADER {
        let expected = if bytes.starts_with(MAGIC) { "the file is cut" } else { "this is no index" };
        let problem = format!("{expected}: it has {} bytes, and an index at least {HEADER}", bytes.len());
        return Err(fault(path, format!("{problem}; copy or make both files again")));
    }
    if !bytes.starts_with(MAGIC) {
        return Err(fault(
            path,
            format!(
                "byte 0: this is no index of tokens, which begins with \"MMIDIDX\\0\\0\"; if it does not belong to {}, \
                 move it elsewhere, and that is read as raw u16",
                name(tokens.0)
            ),
        ));
    }
    let long = |at: usize| {
        bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .map(u64::from_le_bytes)
            .unwrap_or_default()
    };
    if long(9) != 1 {
        return Err(bad(9, format!("version {} of the index; expected 1, the only one there is", long(9))));
    }
    let width = width_of(bytes[17]).map_err(|problem| bad(17, problem))?;
    let (sequences, boundaries) = (long(18), long(26));
    let announced = u128::from(sequences) * 12 + u128::from(boundaries) * 8 + HEADER as u128;
    if announced != bytes.len() as u128 {
        return Err(bad(
            18,
            format!(
                "{sequences} sequences and {boundaries} boundaries of documents are announced, which makes {announced} \
                 bytes of index; it has {}",
                bytes.len()
            ),
        ));
    }
    // Both are less than the file's size now.
    let tables = Tables { sequences: sequences as usize, boundaries: boundaries as usize };
    check_sequences(bytes, tables, width, tokens).map_err(|(at, problem)| bad(at, problem))?;
    let len = check_boundaries(bytes, tables).map_err(|(at, problem)| bad(at, problem))?;
    Ok((width, tables, len))
}

/// How the type of a token is stored, by its number in the index.
fn width_of(code: u8) -> std::result::Result<Width, String> {
    let name = match code {
        8 => return Ok(Width::U16),
        4 => return Ok(Width::U32),
        1 => "u8",
        2 => "i8",
        3 => "i16",
        5 => "i64",
        6 | 7 => "floating-point numbers",
        _ => return Err(format!("type {code} of tokens is unknown; expected 8 (u16) or 4 (i32)")),
    };
    Err(format!("type {code} of tokens ({name}) is not read; expected 8 (u16) or 4 (i32)"))
}

/// Sequences lie one after the other and fill the tokens' file: so do those of every known writer, and
/// RWKV-LM's trainer reads across their ends.
fn check_sequences(
    bytes: &[u8],
    tables: Tables,
    width: Width,
    (bin, size): (&Path, usize),
) -> std::result::Result<(), (usize, String)> {
    let (mut next, width) = (0u64, width.bytes() as u64);
    for at in 0..tables.sequences {
        let len = size_of(bytes, at).unwrap_or(-1);
        let Ok(len) = u64::try_from(len) else {
            return Err((HEADER + 4 * at, format!("sequence {at} has {len} tokens; expected none or more")));
        };
        let pointer = tables.pointer(bytes, at).unwrap_or(-1);
        if u64::try_from(pointer) != Ok(next) {
            return Err((
                tables.pointers() + 8 * at,
                format!(
                    "sequence {at} begins at byte {pointer} of the tokens; expected {next}, after the one before"
                ),
            ));
        }
        // Below 2^33 for each of fewer than 2^61 sequences that have 12 bytes each in a file: never beyond
        // what `next` was compared with, which ends at the size.
        next += len * width;
        if next > size as u64 {
            return Err((
                HEADER + 4 * at,
                format!("sequence {at} ends at byte {next} of {}, which has {size}", name(bin)),
            ));
        }
    }
    if next != size as u64 {
        let problem = format!("the sequences end at byte {next} of {}, which has {size}", name(bin));
        return Err((18, problem));
    }
    Ok(())
}

/// Boundaries never go back. Returns the number of documents; what is behind the last boundary is one more,
/// as in an index whose only boundary is the beginning.
fn check_boundaries(bytes: &[u8], tables: Tables) -> std::result::Result<u64, (usize, String)> {
    let (mut last, sequences) = (0, tables.sequences as u64);
    for at in 0..tables.boundaries {
        let boundary = tables.boundary(bytes, at).unwrap_or(-1);
        let allowed = if at == 0 { 0..=0 } else { last..=sequences };
        last =
            u64::try_from(boundary).ok().filter(|boundary| allowed.contains(boundary)).ok_or_else(|| {
                let [from, to] = [allowed.start(), allowed.end()];
                let problem =
                    format!("document {at} begins with sequence {boundary}; expected {from} to {to}");
                (tables.boundary_at(at), problem)
            })?;
    }
    if tables.boundaries == 0 {
        return Err((26, "no boundary of documents is announced; expected at least the first, 0".to_owned()));
    }
    let rest = u64::from(last < sequences);
    Ok(tables.boundaries as u64 - 1 + rest)
}
