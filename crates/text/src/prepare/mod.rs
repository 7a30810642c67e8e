//! Data sets of tokens, as nanoGPT's `data` folder prepares them: the same bytes, in a stream.
//!
//! [`prepare`] reads a data set with a name, which it downloads, or files, and writes into a folder:
//!
//! | file | what is in it |
//! |---|---|
//! | `train.bin`, `val.bin` | tokens and nothing else, little-endian: u16, or u32 if the vocabulary has more than 65,536 tokens; the file beside each, `train.bin.json`, says which |
//! | `tokenizer.json` | the tokenizer |
//! | `meta.pkl` | the characters, for nanoGPT's own programs; for `shakespeare_char` only |
//! | `prepare.json` | the options, inputs and numbers of all this; it is written last, so that a folder without it is not finished |
//!
//! # Documents
//! Where there are several, each ends with the tokenizer's end of text, and whole documents are for validation:
//! one out of each stretch of 1 / [`val_fraction`](field@PrepareOptions::val_fraction) of them, by
//! [`seed`](field@PrepareOptions::seed). A single document has no end, and its last characters are for validation.
//!
//! # Streams
//! A thread reads, all cores make tokens, and one writes; memory does not grow with the text. The bytes are the
//! same with any number of threads. Before tokens are made, the text is read once more if a single document is
//! to be divided, and for a tokenizer that is made of it. (The words of a BPE stay in memory: it is trained on
//! the first 1 GiB at most.) Standard input is saved in the folder first.
//!
//! # After a kill
//! The tokens so far and the place in the inputs are brought to the disk every few seconds. The next call with
//! the same options goes on from there, and the files have the same bytes in the end. Passes before the first
//! token are made anew.

mod batches;
mod division;
mod inputs;
mod options;
mod parallel;
mod recipe;
mod state;
mod steps;
mod tokens;
mod vocabulary;

use std::ops::ControlFlow;
use std::path::PathBuf;

use rwkv_core::{Error, Result, ask};

pub use options::PrepareOptions;
pub use recipe::Recipe;
pub use state::Counts;
pub use vocabulary::Vocabulary;

use crate::source::Sources;
use crate::{Tokenizer, TokenizerKind};

/// Bytes of text that a thread works on at a time, unless told otherwise.
const BATCH: usize = 1 << 20;

/// How far the work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub step: Step,
    /// Bytes of the inputs, as they are on the disk; tokens of the vocabulary while that is trained.
    pub done: u64,
    /// The same of the whole step; 0 if it is not known.
    pub total: u64,
    /// Tokens written.
    pub tokens: u64,
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A data set is downloaded, or the checksum of its copy taken.
    Download,
    /// Standard input is saved.
    Save,
    /// Documents are counted, or the characters of a single one.
    Count,
    /// The characters of the text are collected.
    Characters,
    /// The words of the text are counted.
    Words,
    /// The tokenizer is trained.
    Train,
    /// Tokens are written.
    Tokens,
}

/// A data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The folder.
    pub out: PathBuf,
    /// What its tokens are.
    pub kind: TokenizerKind,
    /// Number of different tokens.
    pub n_vocab: usize,
    /// The token behind each document, if there are several.
    pub end_of_text: Option<u32>,
    /// What `train.bin` has.
    pub train: Counts,
    /// What `val.bin` has, if anything was for validation.
    pub val: Option<Counts>,
    /// Whether the folder was finished before, and has been left as it was.
    pub was_finished: bool,
    /// What is to be told.
    pub notes: Vec<String>,
}

/// Trains a BPE of `vocab_size` tokens on texts, on the first 1 GiB of them if they are longer; `threads` of 0 are as
/// many as there are cores. The tokenizer does not depend on their number.
///
/// # Errors
/// Those of reading; [`Error::InvalidOption`] for a `vocab_size` below 257, above 2²⁰, or beyond what the text has
/// pairs for; [`Error::Aborted`] if `control` ends it.
pub fn train_bpe(
    sources: &Sources,
    vocab_size: usize,
    threads: usize,
    mut control: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Tokenizer> {
    let threads = if threads == 0 { available_threads() } else { threads };
    let text = vocabulary::Text {
        sources,
        division: division::Division::All(division::Set::Train),
        batch: BATCH,
        threads,
    };
    let total = sources.total_bytes().unwrap_or(0);
    let mut tell = |step, done, total| control(Progress { step, done, total, tokens: 0 });
    let (words, _) =
        text.words(|done| ask(&mut |done, total| tell(Step::Words, done, total), done, total))?;
    words.train(vocab_size, |done, total| tell(Step::Train, done, total))
}

/// As many threads as there are cores.
fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Prepares a data set in the folder [`out`](PrepareOptions::out); see the [module](self).
///
/// `control` is asked several times a second. When it ends the work, what is done is saved.
///
/// A folder that is finished with the same options and inputs is left as it is.
///
/// # Errors
/// [`Error::InvalidOption`]; those of [`Sources::find`](crate::source::Sources::find), of reading, and of
/// [`download`](crate::download::download); [`Error::Data`] if the folder has files of somebody else, was begun
/// with other options or inputs, is being prepared already, or if there is no text; [`Error::Aborted`].
pub fn prepare(
    recipe: &Recipe,
    options: &PrepareOptions,
    mut control: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Prepared> {
    options.check(recipe)?;
    let out = &options.out;
    std::fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let lock = out.join("prepare.lock");
    let file = crate::token_file::open_locked(&state::finished_path(out), &lock)?;
    let prepared = steps::Steps { recipe, options, control: &mut control }.run();
    // While it is locked: nobody can have it then.
    let removed = std::fs::remove_file(&lock).map_err(Error::io("remove", &lock));
    drop(file);
    if prepared.is_err() {
        // Nothing is left of what could not begin; a folder with something in it stays.
        let _ = std::fs::remove_dir(out);
    }
    prepared.and_then(|prepared| removed.map(|()| prepared))
}
