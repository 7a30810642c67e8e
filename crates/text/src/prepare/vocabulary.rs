//! The tokenizer of a data set, made of its text if it is not a known one.

use std::collections::BTreeSet;
use std::path::PathBuf;

use rwkv_core::{Error, Result};

use super::batches::{Batch, Batches, Place, name_of};
use super::division::{Division, Set};
use super::parallel::{Stop, run};
use crate::source::{Position, Sources};
use crate::tokenizer::WordCounts;
use crate::{Tokenizer, TokenizerKind};

/// Which tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vocabulary {
    /// A known one, or the characters of the text.
    Kind(TokenizerKind),
    /// A BPE of so many tokens, trained on the text for training: on the first 1 GiB of it, if it is longer.
    Trained {
        /// Tokens, with the 256 bytes and an end of text.
        vocab_size: usize,
    },
    /// That of a `tokenizer.json`, or of the folder that has one.
    File(PathBuf),
}

/// Text that the words of a BPE are counted in.
const MOST_COUNTED: u64 = 1 << 30;

/// The text of a data set.
pub(super) struct Text<'a> {
    pub(super) sources: &'a Sources,
    pub(super) division: Division,
    pub(super) batch: usize,
    pub(super) threads: usize,
}

impl Text<'_> {
    /// Gives all of it to `threads` workers; see [`run`]. `most` bytes of it, about.
    pub(super) fn run<O: Send, W: FnMut(Batch, &Stop) -> Result<(O, u64)>>(
        &self,
        cut: &(dyn Fn(&[u8]) -> usize + Sync),
        most: u64,
        worker: impl Fn() -> W + Sync,
        consume: impl FnMut(Option<(O, u64)>) -> Result<()>,
    ) -> Result<()> {
        let path_of = |at: Position| path_of(self.sources, at);
        let pieces = |at| self.sources.pieces(at);
        let mut batches = Batches::new(pieces, self.division, self.batch, Place::default(), cut, &path_of);
        let mut bytes = 0;
        let read = |stop: &Stop| {
            if bytes >= most {
                return Ok(None);
            }
            let batch = batches.next(stop)?;
            bytes += batch.as_ref().map_or(0, |batch| batch.text.len() as u64);
            Ok(batch)
        };
        run(self.threads, read, worker, consume)
    }

    /// Its distinct characters. `go_on` is asked with bytes.
    pub(super) fn characters(
        &self,
        seen: &mut BTreeSet<char>,
        mut go_on: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let bytes = Tokenizer::bytes();
        let worker = || {
            let mut known = vec![false; char::MAX as usize + 1];
            move |batch: Batch, _: &Stop| {
                let mut new = Vec::new();
                each_text(&batch, self.sources, |_, text| {
                    for character in text.chars() {
                        if !std::mem::replace(&mut known[character as usize], true) {
                            new.push(character);
                        }
                    }
                    Ok(())
                })?;
                Ok((new, batch.bytes_read))
            }
        };
        let mut done = 0;
        self.run(&|text| bytes.cut(text), u64::MAX, worker, |found| {
            if let Some((new, bytes)) = found {
                seen.extend(new);
                done = bytes;
            }
            go_on(done)
        })
    }

    /// The words of what is for training, and whether there was more than what was looked at. `go_on` is asked
    /// with bytes.
    pub(super) fn words(&self, mut go_on: impl FnMut(u64) -> Result<()>) -> Result<(WordCounts, bool)> {
        let worker = || {
            |batch: Batch, stop: &Stop| {
                // Each batch by itself: with all words in every thread, memory would grow with the threads.
                let mut counts = WordCounts::new()?;
                each_text(&batch, self.sources, |set, text| match set {
                    Set::Train => counts.add_with(text, |_, _| stop.go_on()),
                    Set::Val => Ok(()),
                })?;
                Ok(((counts, batch.text.len() as u64), batch.bytes_read))
            }
        };
        let mut all = WordCounts::new()?;
        let (mut done, mut counted) = (0, 0);
        self.run(&WordCounts::cut, MOST_COUNTED, worker, |found| {
            if let Some(((counts, len), bytes)) = found {
                all.merge(counts);
                counted += len;
                done = bytes;
            }
            go_on(done)
        })?;
        Ok((all, counted >= MOST_COUNTED))
    }
}

/// The texts of a batch, with the set of each.
pub(super) fn each_text(
    batch: &Batch,
    sources: &Sources,
    mut work: impl FnMut(Set, &str) -> Result<()>,
) -> Result<()> {
    let mut rest = &*batch.text;
    for part in &batch.parts {
        let (text, behind) = rest.split_at(part.len);
        rest = behind;
        let problem = |error: &dyn std::fmt::Display| fault(sources, part.at, &error.to_string());
        let text = std::str::from_utf8(text).map_err(|error| problem(&error))?;
        work(part.set, text).map_err(|error| match error {
            Error::Aborted => error,
            error => problem(&error),
        })?;
    }
    Ok(())
}

/// What is wrong with the text at a position.
pub(super) fn fault(sources: &Sources, at: Position, problem: &str) -> Error {
    Error::Data { path: path_of(sources, at), problem: format!("{}: {problem}", name_of(at)) }
}

pub(super) fn path_of(sources: &Sources, at: Position) -> PathBuf {
    sources.files().get(at.file).map(|file| file.path.clone()).unwrap_or_default()
}
