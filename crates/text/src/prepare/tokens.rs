//! The pass that writes the tokens, and can be gone on with.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rwkv_core::{Error, Result};

use super::batches::{Batch, Batches, Place};
use super::division::{Division, Set};
use super::parallel::{Stop, run};
use super::state::{Counts, State, partial_path, save};
use super::vocabulary::{fault, path_of};
use crate::Tokenizer;
use crate::source::{Position, Sources};
use crate::token_file::{TokenWriter, Width};

/// Text after which the state is saved, if that takes less than the time between two.
const SAVED_BYTES: u64 = 256 << 20;

/// What a batch becomes.
struct Encoded {
    train: Share,
    val: Share,
    next: Place,
    bytes_read: u64,
}

/// What one file gets of a batch.
#[derive(Default)]
struct Share {
    tokens: Vec<u32>,
    documents: u64,
    bytes: u64,
}

impl Share {
    fn add_to(&self, counts: &mut Counts, writer: &mut TokenWriter) -> Result<()> {
        writer.push(&self.tokens)?;
        counts.documents += self.documents;
        counts.bytes += self.bytes;
        counts.tokens = writer.len();
        Ok(())
    }
}

/// Where the files of tokens are.
pub(super) fn paths(out: &Path) -> [PathBuf; 2] {
    [out.join("train.bin"), out.join("val.bin")]
}

pub(super) fn width(n_vocab: usize) -> Width {
    Width::of(u32::try_from(n_vocab).unwrap_or(u32::MAX))
}

/// The two files under way, and the state that says how far they are.
pub(super) struct Output<'a> {
    pub(super) state: &'a mut State,
    out: &'a Path,
    train: TokenWriter,
    val: Option<TokenWriter>,
    every: Duration,
    saved: Instant,
    unsaved: u64,
}

impl<'a> Output<'a> {
    pub(super) fn open(state: &'a mut State, out: &'a Path, every: Duration) -> Result<Self> {
        let [train, val] = paths(out);
        let width = width(state.tokenizer.n_vocab);
        let train = TokenWriter::reopen(train, width, state.train.tokens)?;
        let val = state.val.map(|counts| TokenWriter::reopen(val, width, counts.tokens)).transpose()?;
        Ok(Self { state, out, train, val, every, saved: Instant::now(), unsaved: 0 })
    }

    /// Brings the tokens to the disk, and then where reading goes on.
    pub(super) fn save(&mut self) -> Result<()> {
        self.train.sync()?;
        self.val.as_mut().map(TokenWriter::sync).transpose()?;
        save(&partial_path(self.out), &self.state)?;
        (self.saved, self.unsaved) = (Instant::now(), 0);
        Ok(())
    }

    fn push(&mut self, encoded: &Encoded) -> Result<()> {
        encoded.train.add_to(&mut self.state.train, &mut self.train)?;
        if let (Some(counts), Some(writer)) = (&mut self.state.val, &mut self.val) {
            encoded.val.add_to(counts, writer)?;
        }
        self.state.place = encoded.next;
        self.unsaved += encoded.train.bytes + encoded.val.bytes;
        if self.saved.elapsed() >= self.every || self.unsaved >= SAVED_BYTES {
            self.save()?;
        }
        Ok(())
    }
}

/// How the text of a stage becomes tokens.
pub(super) struct Encoding<'a> {
    pub(super) sources: &'a Sources,
    pub(super) division: Division,
    pub(super) tokenizer: &'a Tokenizer,
    /// What is behind each document.
    pub(super) end: Option<u32>,
    pub(super) batch: usize,
    pub(super) threads: usize,
}

impl Encoding<'_> {
    /// Appends the tokens of all that is not done yet. `go_on` is asked with bytes of the inputs and tokens; when
    /// it ends the work, that is saved.
    pub(super) fn run(
        &self,
        output: &mut Output<'_>,
        mut go_on: impl FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let cut = |text: &[u8]| self.tokenizer.cut(text);
        let path_of = |at: Position| path_of(self.sources, at);
        let pieces = |at| self.sources.pieces(at);
        let place = output.state.place;
        let mut batches = Batches::new(pieces, self.division, self.batch, place, &cut, &path_of);
        let mut done = 0;
        run(
            self.threads,
            |stop| batches.next(stop),
            || |batch, stop: &Stop| self.encode(&batch, stop),
            |encoded| {
                if let Some(encoded) = encoded {
                    output.push(&encoded)?;
                    done = encoded.bytes_read;
                }
                let tokens = output.state.train.tokens + output.state.val.map_or(0, |val| val.tokens);
                go_on(done, tokens).inspect_err(|_| {
                    // Less is lost so; if it cannot be saved, the state of before is still there.
                    let _ = output.save();
                })
            },
        )
    }

    fn encode(&self, batch: &Batch, stop: &Stop) -> Result<Encoded> {
        let (mut train, mut val) = (Share::default(), Share::default());
        let mut rest = &*batch.text;
        for part in &batch.parts {
            let (text, behind) = rest.split_at(part.len);
            rest = behind;
            let share = if part.set == Set::Val { &mut val } else { &mut train };
            let control = |_, _| stop.go_on();
            let encoded = match std::str::from_utf8(text) {
                Ok(text) => self.tokenizer.encode_into_with(text, control, &mut share.tokens),
                Err(_) => self
                    .tokenizer
                    .encode_bytes_with(text, &path_of(self.sources, part.at), control)
                    .map(|tokens| share.tokens.extend(tokens)),
            };
            encoded.map_err(|error| match error {
                Error::InvalidUtf8 { .. } | Error::Aborted => error,
                error => fault(self.sources, part.at, &error.to_string()),
            })?;
            share.bytes += part.len as u64;
            if part.ends {
                share.documents += 1;
                share.tokens.extend(self.end);
            }
        }
        Ok(Encoded { train, val, next: batch.next, bytes_read: batch.bytes_read })
    }
}

/// Gives the files their names; those that have them already, from a call before, keep them.
pub(super) fn finish(state: &State, out: &Path) -> Result<()> {
    let n_vocab = state.tokenizer.n_vocab;
    let width = width(n_vocab);
    for (path, counts) in paths(out).into_iter().zip([Some(state.train), state.val]) {
        let Some(Counts { tokens, .. }) = counts else { continue };
        if TokenWriter::partial_path(&path).try_exists().map_err(Error::io("open", &path))? {
            TokenWriter::reopen(&path, width, tokens)?.finish(u32::try_from(n_vocab).ok())?;
        } else {
            check_len(&path, tokens, width)?;
        }
    }
    Ok(())
}

/// # Errors
/// [`Error::Data`] if a finished file has another length than it should.
pub(super) fn check_len(path: &Path, tokens: u64, width: Width) -> Result<()> {
    let there = std::fs::metadata(path).map_err(Error::io("open", path))?.len();
    let expected = tokens * width.bytes() as u64;
    if there == expected {
        return Ok(());
    }
    let problem = format!("it has {there} bytes and was prepared with {expected}; begin anew (force)");
    Err(Error::Data { path: path.to_owned(), problem })
}
