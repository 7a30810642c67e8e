//! All documents of all files, piece by piece.

use std::ops::ControlFlow;

use rwkv_core::Error;

use super::json_lines::JsonLines;
use super::plain::PlainText;
use super::stream::GoOn;
use super::table::Table;
use super::{Kind, Position, Result, Source, SourceOptions, Sources, data};

/// A part of a document's text.
///
/// Documents of JSON Lines and Parquet come whole. Plain text comes in pieces of at most 1 MiB of the file, cut
/// between characters; an empty file is one empty piece.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Piece {
    /// UTF-8, unless [`Invalid::Keep`](super::Invalid::Keep) was asked for.
    pub text: Vec<u8>,
    /// Whether the document ends with it.
    pub is_last: bool,
    /// Where it begins. Reading that goes on from here begins with this piece.
    pub at: Position,
    /// Where reading goes on after it.
    pub next: Position,
    /// Bytes of the files, as they are on the disk, that were read so far, for progress: those before the
    /// position that reading began with count. For Parquet it is an estimate, of the number of rows.
    pub bytes_read: u64,
}

/// A part of a document within a file, whose positions are a document and a byte.
pub(super) struct Part {
    pub(super) text: Vec<u8>,
    pub(super) is_last: bool,
    pub(super) at: (u64, u64),
    /// None if the file ends with it, so far as is known.
    pub(super) next: Option<(u64, u64)>,
    /// Of this file.
    pub(super) bytes_read: u64,
}

/// The pieces of the documents of [`Sources`], from [`Sources::pieces`]. After an error there are no more.
pub struct Pieces {
    sources: Sources,
    /// The file that is read or is to be opened next, and where in it to begin.
    from: Position,
    reader: Option<Reader>,
    /// Bytes of the files before.
    before: u64,
    has_ended: bool,
}

enum Reader {
    Text(PlainText),
    Lines(JsonLines),
    Table(Box<Table>),
}

impl Pieces {
    pub(super) fn new(sources: Sources, from: Position) -> Self {
        let before = sources.files.iter().take(from.file).filter_map(|file| file.bytes).sum();
        Self { sources, from, reader: None, before, has_ended: false }
    }

    fn advance(&mut self, go_on: GoOn<'_>) -> Result<Option<Piece>> {
        let n_files = self.sources.files.len();
        if self.from.file > n_files {
            return Err(Error::option(
                "file",
                self.from.file,
                format!("a position in one of {n_files} files"),
            ));
        }
        while let Some(source) = self.sources.files.get(self.from.file) {
            let reader = match &mut self.reader {
                Some(reader) => reader,
                none => none.insert(Reader::open(source, &self.sources.options, self.from, go_on)?),
            };
            let file = self.from.file;
            if let Some(part) = reader.next(go_on)? {
                let at = Position { file, document: part.at.0, byte: part.at.1 };
                let next = match part.next {
                    Some((document, byte)) => Position { file, document, byte },
                    None => Position { file: file + 1, ..Position::default() },
                };
                let bytes_read = self.before + part.bytes_read;
                return Ok(Some(Piece { text: part.text, is_last: part.is_last, at, next, bytes_read }));
            }
            self.before += source.bytes.unwrap_or(0);
            self.from = Position { file: file + 1, ..Position::default() };
            self.reader = None;
        }
        Ok(None)
    }
}

impl Pieces {
    /// The next piece, as [`next`](Iterator::next) gives it, unless `go_on` ends the work: it is asked after every
    /// MiB that is read, and some twenty times a second while standard input has nothing yet (but not on Windows).
    ///
    /// # Errors
    /// Those of reading; [`Error::Aborted`] if `go_on` says so.
    pub fn next_with(
        &mut self,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Option<rwkv_core::Result<Piece>> {
        if self.has_ended {
            return None;
        }
        let piece = self.advance(go_on).transpose();
        self.has_ended = !matches!(piece, Some(Ok(_)));
        piece
    }
}

impl Iterator for Pieces {
    type Item = rwkv_core::Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_with(&mut || ControlFlow::Continue(()))
    }
}

impl std::iter::FusedIterator for Pieces {}

impl Reader {
    fn open(source: &Source, options: &SourceOptions, from: Position, go_on: GoOn<'_>) -> Result<Self> {
        let Position { document, byte, .. } = from;
        if source.is_stdin() && (document, byte) != (0, 0) {
            return Err(data(&source.path, "standard input cannot be gone on with; save it as a file"));
        }
        Ok(match source.kind {
            Kind::Text => Self::Text(PlainText::open(source, options.invalid, byte, go_on)?),
            Kind::JsonLines => Self::Lines(JsonLines::open(source, options, (document, byte), go_on)?),
            Kind::Parquet => Self::Table(Box::new(Table::open(source, options, document)?)),
        })
    }

    fn next(&mut self, go_on: GoOn<'_>) -> Result<Option<Part>> {
        match self {
            Self::Text(text) => text.next(go_on),
            Self::Lines(lines) => lines.next(go_on),
            Self::Table(table) => table.next(),
        }
    }
}
