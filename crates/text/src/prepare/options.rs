//! How a data set is prepared.

use std::path::PathBuf;
use std::time::Duration;

use rwkv_core::{Error, Result};
use serde_json::{Map, Value, json};

use super::{BATCH, Recipe, Vocabulary};
use crate::TokenizerKind;
use crate::source::{Kind, SourceOptions};

/// How a data set is prepared.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// The folder that the files are written into; it is made if it is not there.
    pub out: PathBuf,
    /// The data set's own files, in the place of the download: what [`Recipe::Inputs`] takes.
    pub from: Option<Vec<String>>,
    /// The tokenizer. If none is named: characters for `shakespeare_char`, which has no other, and else GPT-2's:
    /// that of nanoGPT, made for English, and the smallest that is known (a larger vocabulary makes a small model
    /// mostly a table of tokens).
    pub tokenizer: Option<Vocabulary>,
    /// How files are read.
    pub source: SourceOptions,
    /// A validation set of its own, all of it: what [`Recipe::Inputs`] takes.
    pub val: Option<Vec<String>>,
    /// The share for validation, from 0, for none, to 0.5: of the documents, or of the characters of a single
    /// one. If none is named 0.1, and 0.0005 for `OpenWebText`.
    pub val_fraction: Option<f64>,
    /// It chooses the documents for validation.
    pub seed: u64,
    /// Threads that make tokens; 0 stands for one for each core.
    pub threads: usize,
    /// Whether files that are in the folder are replaced, whatever made them. Tokens that were made with the same
    /// options are not made anew.
    pub force: bool,
    /// The longest time between two savings of the state.
    pub save_every: Duration,
    /// Bytes of text that a thread works on at a time. They change nothing in the files.
    pub batch: usize,
}

impl PrepareOptions {
    /// Those that are used unless said otherwise.
    pub fn new(out: impl Into<PathBuf>) -> Self {
        Self {
            out: out.into(),
            from: None,
            tokenizer: None,
            source: SourceOptions::default(),
            val: None,
            val_fraction: None,
            seed: 1,
            threads: 0,
            force: false,
            save_every: Duration::from_secs(5),
            batch: BATCH,
        }
    }

    pub(super) fn check(&self, recipe: &Recipe) -> Result<()> {
        let is_stdin = |inputs: &[String]| inputs.iter().any(|input| input == "-");
        if let Recipe::Inputs(inputs) = recipe {
            if self.from.is_some() {
                return Err(Error::option("from", "given", "left out: the inputs are named already"));
            }
            if is_stdin(inputs) && self.val.as_deref().is_some_and(is_stdin) {
                return Err(Error::option("val", "-", "files: standard input is read for training"));
            }
        }
        if recipe.is_shakespeare() && self.from.as_ref().is_some_and(|from| from.len() != 1) {
            return Err(Error::option("from", "several files", "one file: this data set is one text"));
        }
        if let Some(fraction) = self.val_fraction {
            if !(0.0..=0.5).contains(&fraction) {
                return Err(Error::option("val_fraction", fraction, "from 0 to 0.5"));
            }
            if self.val.is_some() {
                return Err(Error::option(
                    "val_fraction",
                    fraction,
                    "left out: there is a validation set of its own",
                ));
            }
        }
        if self.batch == 0 {
            return Err(Error::option("batch", 0, "at least 1 byte"));
        }
        match self.tokenizer {
            Some(Vocabulary::Kind(TokenizerKind::Bpe)) => {
                Err(Error::option("vocab_size", "not set", "the number of tokens of the BPE to be trained"))
            }
            Some(Vocabulary::Trained { vocab_size: ..257 }) => {
                Err(Error::option("vocab_size", "below 257", "at least 257: bytes and an end of text"))
            }
            Some(ref other)
                if *recipe == Recipe::ShakespeareChar
                    && *other != Vocabulary::Kind(TokenizerKind::Character) =>
            {
                Err(Error::option("tokenizer", "another one", "character for shakespeare_char"))
            }
            _ => Ok(()),
        }
    }

    /// The share for validation of what is not a validation set.
    pub(super) fn val_fraction(&self, recipe: &Recipe) -> f64 {
        if self.val.is_some() { 0.0 } else { self.val_fraction.unwrap_or_else(|| recipe.val_fraction()) }
    }

    /// What the files depend on. `crc32` is that of the tokenizer's file.
    pub(super) fn to_json(&self, recipe: &Recipe, crc32: Option<u32>) -> Map<String, Value> {
        let tokenizer = match self.tokenizer.clone().unwrap_or_else(|| recipe.tokenizer()) {
            Vocabulary::Kind(kind) => json!(kind),
            Vocabulary::Trained { vocab_size } => json!({"bpe": vocab_size}),
            Vocabulary::File(path) => json!({"file": path.to_string_lossy(), "crc32": crc32}),
        };
        let inputs = match recipe {
            Recipe::Inputs(inputs) => Some(inputs),
            _ => self.from.as_ref(),
        };
        let SourceOptions { text_field, invalid, stdin, .. } = &self.source;
        let all = [
            ("recipe", json!(recipe.word())),
            ("inputs", json!(inputs)),
            ("tokenizer", tokenizer),
            ("val", json!(self.val)),
            ("val_fraction", json!(self.val_fraction(recipe))),
            ("seed", json!(self.seed)),
            ("text_field", json!(text_field)),
            ("invalid", json!(invalid)),
            ("stdin", json!(if *stdin == Kind::JsonLines { "json-lines" } else { "text" })),
        ];
        all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}
