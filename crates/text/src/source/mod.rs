//! Documents of files, folders, patterns and standard input, read in a stream and in little memory.
//!
//! [`Sources::find`] makes a list of files of what a user names, and [`Sources::pieces`] reads their documents,
//! from the beginning or from where an earlier reading came to:
//!
//! | file | documents |
//! | --- | --- |
//! | `.jsonl`, `.ndjson` | one a line: the string in the field [`text_field`](SourceOptions::text_field) of a JSON object; blank lines are skipped |
//! | `.parquet` | one a row: the string in the column of that name (a field of a struct is `struct.field`) |
//! | any other, such as `.txt` and `.md` | the file, in pieces of 1 MiB |
//!
//! Each but Parquet may be packed by gzip (`.gz`) or Zstandard (`.zst`). A UTF-8 byte order mark at the beginning
//! of a file is no part of its text, and is dropped.
//!
//! ```
//! use rwkv_text::source::{Position, SourceOptions, Sources};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let directory = tempfile::tempdir()?;
//! std::fs::write(directory.path().join("a.txt"), "One document.")?;
//! std::fs::write(directory.path().join("b.jsonl"), "{\"text\": \"A second.\"}\n{\"text\": \"A third.\"}\n")?;
//!
//! let inputs = [directory.path().display().to_string()];
//! let sources = Sources::find(&inputs, &SourceOptions::default())?;
//! let pieces = sources.pieces(Position::default()).collect::<Result<Vec<_>, _>>()?;
//! assert_eq!(pieces.iter().map(|piece| &*piece.text).collect::<Vec<_>>(), [
//!     &b"One document."[..],
//!     b"A second.",
//!     b"A third."
//! ]);
//! # Ok(())
//! # }
//! ```

mod find;
mod input;
mod json_lines;
mod layout;
mod pages;
mod pieces;
mod plain;
mod stream;
mod table;
mod thrift;
mod utf8;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rwkv_core::Error;
use serde::{Deserialize, Serialize};

pub use input::{Bytes, Input};
pub use pieces::{Piece, Pieces};

/// How inputs are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceOptions {
    /// The field of JSON Lines, and the column of Parquet, that has the text. `text` unless said otherwise.
    pub text_field: String,
    /// What becomes of bytes that are not UTF-8. An error unless said otherwise.
    pub invalid: Invalid,
    /// The most bytes of a line of JSON, and of a page of Parquet (a part of a column, some 1 MiB as a rule),
    /// each unpacked: more are refused before they take memory. 256 MiB unless said otherwise.
    pub max_line: u64,
    /// What comes from standard input: plain text unless said otherwise, or JSON Lines.
    pub stdin: Kind,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            text_field: "text".to_owned(),
            invalid: Invalid::Error,
            max_line: 256 << 20,
            stdin: Kind::Text,
        }
    }
}

/// What becomes of bytes that are not UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Invalid {
    /// Reading ends with an error that says where they are.
    #[default]
    Error,
    /// U+FFFD takes the place of each sequence of them, as in [`String::from_utf8_lossy`]; in JSON also that of
    /// an escaped half of a surrogate pair, such as `\ud800`.
    Replace,
    /// They stay as they are, for tokenizers of bytes. In JSON Lines, which then are none, an error nevertheless.
    Keep,
}

/// How documents stand in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The file is one document.
    Text,
    /// One document a line.
    JsonLines,
    /// One document a row.
    Parquet,
}

/// How a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// It is not.
    None,
    /// gzip, of one member or of several.
    Gzip,
    /// Zstandard, with a window of at most 128 MiB.
    Zstd,
}

/// One file, standard input, or a text in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Source {
    /// Its name, as it was given or found; `-` for standard input, `the text` for one in memory.
    pub path: PathBuf,
    /// How documents stand in it.
    pub kind: Kind,
    /// How it is packed.
    pub compression: Compression,
    /// Bytes on the disk; none of standard input.
    pub bytes: Option<u64>,
    modified: Option<SystemTime>,
    /// What is in memory, and in no file.
    text: Option<Bytes>,
}

impl Source {
    fn is_stdin(&self) -> bool {
        self.bytes.is_none()
    }
}

/// Where a document, or a piece of one, begins, and from where reading can go on.
///
/// It holds for the same files in the same order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The file, counted from 0 in [`Sources::files`].
    pub file: usize,
    /// The line of JSON Lines (blank ones count) or row of Parquet in that file, counted from 0; 0 in plain text.
    pub document: u64,
    /// The byte of the unpacked file, counted from 0; 0 in Parquet.
    pub byte: u64,
}

/// The files that were found, in the order in which they are read.
#[derive(Clone, Debug)]
pub struct Sources {
    files: Arc<[Source]>,
    options: Arc<SourceOptions>,
}

impl Sources {
    /// The files that `inputs` name, in their order:
    ///
    /// - a file. What its name ends with says what is in it (see the [module](self)).
    /// - a folder: of the files in it and in its folders, those that end with `.txt`, `.text`, `.md`, `.jsonl`,
    ///   `.ndjson` or `.parquet`, or with one of these but the last and `.gz` or `.zst`; in the order of their
    ///   paths. Hidden ones, whose names begin with a dot, are left out, and links to folders are not followed.
    /// - a pattern with `*`, `?`, `[...]` within names, or `**` for any folders: the files that match, in the
    ///   order of their paths. Hidden ones are left out unless the pattern has the dot. If there is a file or
    ///   folder of exactly that name, it is that.
    /// - `-`, standard input, once.
    ///
    /// A file that several inputs name is read once, in the first place.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] of options that make no sense or if there are no inputs; [`Error::Io`] for what
    /// does not exist or cannot be looked into; [`Error::Data`] for what is not a regular file, has an ending
    /// of another kind of archive, for a pattern that nothing matches and a folder without texts.
    pub fn find(inputs: &[String], options: &SourceOptions) -> rwkv_core::Result<Self> {
        let inputs: Vec<Input> = inputs.iter().map(Input::from).collect();
        Self::of_inputs(&inputs, options)
    }

    /// As [`find`](Self::find), with texts in memory among the inputs: each of them is a document, in its place.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn of_inputs(inputs: &[Input], options: &SourceOptions) -> rwkv_core::Result<Self> {
        options.check()?;
        Ok(Self { files: find::all(inputs, options)?.into(), options: Arc::new(options.clone()) })
    }

    /// The files, in the order in which they are read.
    pub fn files(&self) -> &[Source] {
        &self.files
    }

    /// Bytes of all files on the disk; none if standard input is among them.
    pub fn total_bytes(&self) -> Option<u64> {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The documents, from `from` on: [`Position::default`] is the beginning, and [`Piece::at`] and
    /// [`Piece::next`] are others.
    ///
    /// Going on within a packed file reads and skips what was before; standard input is read from its beginning
    /// only. Nothing is opened before the first piece is asked for.
    pub fn pieces(&self, from: Position) -> Pieces {
        Pieces::new(self.clone(), from)
    }
}

impl SourceOptions {
    fn check(&self) -> Result<()> {
        if self.text_field.is_empty() {
            return Err(Error::option("text_field", "empty", "the name of a field, such as \"text\""));
        }
        if self.max_line == 0 {
            return Err(Error::option("max_line", 0, "at least 1 byte"));
        }
        if self.stdin == Kind::Parquet {
            let expected = "text or json-lines: Parquet is read from its end, so it must be a file";
            return Err(Error::option("stdin", "parquet", expected));
        }
        Ok(())
    }
}

/// An error of a file.
fn data(path: &Path, problem: impl Into<String>) -> Error {
    Error::Data { path: path.to_owned(), problem: problem.into() }
}

/// That of `rwkv_core`, with room for other errors on the way.
type Result<T, E = Error> = std::result::Result<T, E>;
