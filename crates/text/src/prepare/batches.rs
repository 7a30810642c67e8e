//! The stream of documents, cut into pieces of work.

use std::collections::VecDeque;
use std::path::PathBuf;

use rwkv_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::division::{Division, Set};
use super::parallel::Stop;
use crate::source::{Pieces, Position};

/// The most of a text that is held while a place is looked for at which it can be cut.
const MOST: usize = 64 << 20;

/// Text for one thread.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) text: Vec<u8>,
    pub(super) parts: Vec<Part>,
    /// Where reading goes on after it.
    pub(super) next: Place,
    /// Of the files, as [`Piece::bytes_read`](crate::source::Piece::bytes_read).
    pub(super) bytes_read: u64,
}

/// A document, or a part of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Bytes, behind those of the parts before.
    pub(super) len: usize,
    pub(super) set: Set,
    /// Whether the document's share of the set ends with it.
    pub(super) ends: bool,
    /// Where the piece of the source began that it is of, for messages.
    pub(super) at: Position,
}

/// A place in the stream, between two batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// A piece of the source, and how many bytes of its text are done.
    position: Position,
    used: u64,
    /// The number of the document that goes on or begins here.
    document: u64,
    /// Characters before, of all documents.
    characters: u64,
    /// Whether this is behind the place at which the only document is divided.
    is_past: bool,
}

/// Cuts a stream into batches. Where it cuts does not change the tokens.
pub(super) struct Batches<'a> {
    pieces: Pieces,
    cut: &'a (dyn Fn(&[u8]) -> usize + Sync),
    path_of: &'a (dyn Fn(Position) -> PathBuf + Sync),
    division: Division,
    size: usize,
    /// Text of one document that was read and is not yet in a batch: from `start` on.
    text: Vec<u8>,
    start: usize,
    /// The pieces that `text` is made of.
    origins: VecDeque<Origin>,
    /// Whether the document ends with it.
    is_whole: bool,
    /// Where in `text` the part for training ends, if that is in it.
    boundary: Option<usize>,
    /// Characters that were read, up to the end of `text`.
    characters_read: u64,
    /// How much text must be there before it is cut.
    wanted: usize,
    /// Bytes to be left out of the first piece.
    left_out: u64,
    place: Place,
    /// Where reading goes on after `text`.
    next_piece: Position,
    bytes_read: u64,
}

/// A piece of the source within `text`.
struct Origin {
    at: Position,
    /// Its bytes before `begin`.
    used: u64,
    begin: usize,
    end: usize,
}

impl<'a> Batches<'a> {
    /// `cut` is [`Tokenizer::cut`](crate::Tokenizer::cut), or that of words. `size`: bytes of text in a batch,
    /// about. `path_of` names files in messages.
    pub(super) fn new(
        pieces: impl FnOnce(Position) -> Pieces,
        division: Division,
        size: usize,
        from: Place,
        cut: &'a (dyn Fn(&[u8]) -> usize + Sync),
        path_of: &'a (dyn Fn(Position) -> PathBuf + Sync),
    ) -> Self {
        Self {
            pieces: pieces(from.position),
            cut,
            path_of,
            division,
            size,
            text: Vec::new(),
            start: 0,
            origins: VecDeque::new(),
            is_whole: false,
            boundary: None,
            characters_read: from.characters,
            wanted: size,
            left_out: from.used,
            place: from,
            next_piece: from.position,
            bytes_read: 0,
        }
    }

    /// The next batch; none at the end.
    ///
    /// # Errors
    /// Those of reading; [`Error::Aborted`] if `stop` says so; [`Error::Data`] for a long document that cannot be cut.
    pub(super) fn next(&mut self, stop: &Stop) -> Result<Option<Batch>> {
        let (mut text, mut parts) = (Vec::with_capacity(self.size + self.size / 8), Vec::new());
        // Documents without text are many parts and no bytes.
        while text.len() + parts.len() < self.size && self.take(&mut text, &mut parts, stop)? {}
        if parts.is_empty() {
            return Ok(None);
        }
        Ok(Some(Batch { text, parts, next: self.place, bytes_read: self.bytes_read }))
    }

    /// Takes over one part; false at the end.
    fn take(&mut self, text: &mut Vec<u8>, parts: &mut Vec<Part>, stop: &Stop) -> Result<bool> {
        loop {
            let there = self.boundary.unwrap_or(self.text.len()) - self.start;
            let is_end = self.boundary.is_some() || self.is_whole;
            if is_end || there >= self.wanted {
                if let Some(len) = self.find_cut(there, is_end) {
                    self.move_part(len, is_end && len == there, text, parts);
                    return Ok(true);
                }
                if there >= MOST {
                    return Err(self.too_long());
                }
                // Twice as much each time: looking through it all again and again takes long.
                self.wanted = 2 * there;
            }
            if !self.read(stop)? {
                return Ok(false);
            }
        }
    }

    /// How long the next part is, of the `there` bytes that there are.
    fn find_cut(&self, there: usize, is_end: bool) -> Option<usize> {
        let mut window = self.size;
        loop {
            if there <= window && is_end {
                return Some(there);
            }
            let len = (self.cut)(&self.text[self.start..self.start + window.min(there)]);
            if len > 0 {
                return Some(len);
            }
            if window >= there.min(MOST) {
                return None;
            }
            window *= 2;
        }
    }

    fn move_part(&mut self, len: usize, ends: bool, text: &mut Vec<u8>, parts: &mut Vec<Part>) {
        let part = &self.text[self.start..self.start + len];
        let set = self.division.set(self.place.document, self.place.is_past);
        let at = self.origins.front().map_or(self.place.position, |origin| origin.at);
        parts.push(Part { len, set, ends, at });
        text.extend_from_slice(part);
        self.place.characters += characters(part);
        self.start += len;
        self.wanted = self.size;
        if ends && self.boundary.take().is_some() {
            // The document goes on, in the other set.
            self.place.is_past = true;
        } else if ends {
            self.is_whole = false;
            self.place.document += 1;
        }
        while self.origins.front().is_some_and(|origin| origin.end <= self.start) {
            self.origins.pop_front();
        }
        (self.place.position, self.place.used) = match self.origins.front() {
            Some(origin) => (origin.at, origin.used + (self.start - origin.begin) as u64),
            None => (self.next_piece, 0),
        };
    }

    /// Reads another piece; false at the end.
    fn read(&mut self, stop: &Stop) -> Result<bool> {
        let Some(piece) = self.pieces.next_with(&mut || stop.go_on()).transpose()? else { return Ok(false) };
        let mut new = piece.text;
        let left_out = std::mem::take(&mut self.left_out);
        if left_out > new.len() as u64 {
            let problem = format!(
                "reading is to go on {left_out} bytes into a text that has {} there: it is not the file that was \
                 read before; begin anew (force)",
                new.len()
            );
            return Err(Error::Data { path: (self.path_of)(piece.at), problem });
        }
        new.drain(..left_out as usize);
        self.text.drain(..self.start);
        for origin in &mut self.origins {
            origin.used += self.start.saturating_sub(origin.begin) as u64;
            origin.begin = origin.begin.saturating_sub(self.start);
            origin.end -= self.start;
        }
        self.start = 0;
        if let Division::Characters(for_training) = self.division {
            let count = characters(&new);
            let before = for_training.checked_sub(self.characters_read);
            if let Some(before) = before.filter(|&before| before < count && !self.place.is_past) {
                self.boundary = Some(self.text.len() + offset_of(&new, before));
            }
            self.characters_read += count;
        }
        let begin = self.text.len();
        if begin == 0 {
            self.text = new;
        } else {
            self.text.extend_from_slice(&new);
        }
        self.origins.push_back(Origin { at: piece.at, used: left_out, begin, end: self.text.len() });
        self.is_whole = piece.is_last;
        (self.next_piece, self.bytes_read) = (piece.next, piece.bytes_read);
        Ok(true)
    }

    fn too_long(&self) -> Error {
        let at = self.origins.front().map_or(self.place.position, |origin| origin.at);
        let problem = format!(
            "{} is longer than {} MiB, and has no place at which this tokenizer can cut a text (after a line break, as \
             a rule); break its lines, divide it into several documents, or use another tokenizer, such as world",
            name_of(at),
            MOST >> 20
        );
        Error::Data { path: (self.path_of)(at), problem }
    }
}

/// What is at a position, for messages.
pub(super) fn name_of(at: Position) -> String {
    match at {
        Position { document: 0, byte: 0, .. } => "the first document".to_owned(),
        Position { document: 0, byte, .. } => format!("the text from byte {byte} on"),
        Position { document, byte: 0, .. } => format!("the text in row {document} (from 0)"),
        Position { document, byte, .. } => format!("the text in line {} (byte {byte})", document + 1),
    }
}

/// How many characters begin in these bytes.
pub(super) fn characters(text: &[u8]) -> u64 {
    text.iter().filter(|&&byte| byte & 0xc0 != 0x80).count() as u64
}

/// Where the character of this number begins, from 0.
fn offset_of(text: &[u8], number: u64) -> usize {
    let mut begins = text.iter().enumerate().filter(|(_, byte)| **byte & 0xc0 != 0x80);
    begins.nth(usize::try_from(number).unwrap_or(usize::MAX)).map_or(text.len(), |(at, _)| at)
}
