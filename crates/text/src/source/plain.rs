//! Plain text: the file is one document.

use super::pieces::Part;
use super::stream::{GoOn, Stream};
use super::{Invalid, Result, Source, data, utf8};

/// The most bytes of a file in a piece.
pub(super) const PIECE: usize = 1 << 20;

/// Bytes more than a piece that are read, for it to be known whether it is the last.
const AHEAD: usize = 4;

pub(super) struct PlainText {
    stream: Stream,
    invalid: Invalid,
    /// What was read and is not yet part of a piece.
    buffer: Vec<u8>,
    /// Of `buffer`, in the unpacked file.
    byte: u64,
    has_ended: bool,
}

impl PlainText {
    pub(super) fn open(source: &Source, invalid: Invalid, byte: u64, go_on: GoOn<'_>) -> Result<Self> {
        let mut stream = Stream::open(source)?;
        stream.skip(byte, go_on)?;
        Ok(Self { stream, invalid, buffer: Vec::new(), byte, has_ended: false })
    }

    pub(super) fn next(&mut self, go_on: GoOn<'_>) -> Result<Option<Part>> {
        if self.has_ended {
            return Ok(None);
        }
        let at = self.byte;
        if at == 0 {
            self.stream.fill(&mut self.buffer, 3, go_on)?;
            let mark = utf8::mark_len(&self.buffer);
            self.buffer.drain(..mark);
            self.byte += mark as u64;
        }
        self.stream.fill(&mut self.buffer, PIECE + AHEAD, go_on)?;
        self.has_ended = self.buffer.len() <= PIECE;
        let len = if self.has_ended { self.buffer.len() } else { PIECE - utf8::begun(&self.buffer[..PIECE]) };
        let rest = self.buffer.split_off(len);
        let bytes = std::mem::replace(&mut self.buffer, rest);

        let beginning: [u8; 2] = std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(0));
        let text = utf8::settle(bytes, self.invalid).map_err(|invalid| {
            let advice = utf8::advice(if at == 0 { &beginning } else { &[] });
            let byte = self.stream.byte(self.byte + invalid as u64);
            data(self.stream.path(), format!("{byte} is not UTF-8; {advice}"))
        })?;
        self.byte += len as u64;
        let next = (!self.has_ended).then_some((0, self.byte));
        let bytes_read = self.stream.bytes_read();
        Ok(Some(Part { text, is_last: self.has_ended, at: (0, at), next, bytes_read }))
    }
}
