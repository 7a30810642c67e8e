//! Training data: tokens, in a part to learn and a part to be tested on.

mod part;
mod read;
mod windows;

use std::path::{Path, PathBuf};

use rwkv_core::{Control, Error, Result};
use rwkv_text::Tokenizer;

use crate::options::TrainOptions;

pub use part::Part;
pub use windows::{Windows, adjoining_windows};

/// What a run learns, and what it is tested on.
#[derive(Clone, Debug)]
pub struct Dataset {
    train: Part,
    validation: Part,
    crc32: u32,
}

impl Dataset {
    /// Reads the data that the options name, in tokens of `tokenizer`; without one, in those of the data (a
    /// prepared folder has its own), or of a tokenizer that is made of the text.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::InvalidUtf8`]; [`Error::UnknownCharacter`] if the tokenizer does not know one of the
    /// text; [`Error::Data`] if there is nothing to learn, less than a window of `ctx_len` tokens and what follows
    /// its last one, more text than memory, or tokens that the tokenizer does not have; [`Error::Aborted`] if
    /// `control` says so, which is told bytes.
    pub fn read(
        options: &TrainOptions,
        tokenizer: Option<&Tokenizer>,
        control: impl Control,
    ) -> Result<(Self, Tokenizer)> {
        read::read(options, tokenizer, control)
    }

    /// Reads data that was read before, when its checksum was `crc32`.
    ///
    /// # Errors
    /// [`Error::Data`] if it is other data now, and as [`read`](Self::read).
    pub fn read_again(
        options: &TrainOptions,
        tokenizer: &Tokenizer,
        crc32: u32,
        control: impl Control,
    ) -> Result<Self> {
        let (found, _) = Self::read(options, Some(tokenizer), control)?;
        if found.crc32 != crc32 {
            let problem = "this is not the text that the run began with; a new text takes a new run";
            return Err(fault(&options.data.name(), problem.to_owned()));
        }
        Ok(found)
    }

    /// The tokens to learn.
    pub fn train(&self) -> &Part {
        &self.train
    }

    /// The tokens to be tested on.
    pub fn validation(&self) -> &Part {
        &self.validation
    }

    /// CRC-32 of what was read: a run can only go on with the same.
    pub fn crc32(&self) -> u32 {
        self.crc32
    }
}

fn fault(path: &Path, problem: String) -> Error {
    Error::Data { path: PathBuf::from(path), problem }
}
#[cfg(test)]
mod tests {
    use rwkv_core::go_on;
    use rwkv_text::TokenizerKind;

    use super::*;

    fn dataset(text: &[u8], kind: TokenizerKind, ctx_len: usize) -> Result<(Dataset, Tokenizer)> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("book.txt");
        std::fs::write(&path, text).expect("a file");
        let options = TrainOptions { ctx_len, tokenizer: Some(kind), ..TrainOptions::new(&path, "") };
        Dataset::read(&options, Tokenizer::of_kind(kind)?.as_ref(), go_on)
    }

    #[test]
    fn the_first_nine_tenths_are_learned() {
        let text: String = ('a'..='z').cycle().take(1_115).collect();
        let (data, tokenizer) = dataset(text.as_bytes(), TokenizerKind::Character, 64).expect("a text");
        assert_eq!(
            (data.train().len(), data.validation().len(), tokenizer.n_vocab()),
            (1003, 112, 26 + 102 + 64 + 51)
        );
        let (data, tokenizer) = dataset("ä€".repeat(40).as_bytes(), TokenizerKind::Byte, 8).expect("bytes");
        assert_eq!((data.train().len(), data.validation().len(), tokenizer.n_vocab()), (180, 20, 256));
    }

    #[test]
    fn texts_that_cannot_be_learned_are_refused_with_what_would_do() {
        struct Case {
            text: &'static [u8],
            ctx_len: usize,
            says: &'static str,
        }
        let cases = [
            Case { text: b"", ctx_len: 8, says: "empty" },
            Case { text: b"a", ctx_len: 8, says: "a single character" },
            Case { text: b"aaaaaaaaaaaaaaaaaaaaaaaaaaaa", ctx_len: 8, says: "all of them the same" },
            Case { text: b"abcabcabca", ctx_len: 2, says: "only 10 characters; training takes at least 11" },
            Case { text: b"abcabcabcabcabcabcab", ctx_len: 18, says: "ctx_len of at most 17" },
            Case { text: b"abcabc\xff", ctx_len: 2, says: "byte 6 is not UTF-8" },
        ];
        for Case { text, ctx_len, says } in cases {
            let error = dataset(text, TokenizerKind::Character, ctx_len).expect_err(says).to_string();
            assert!(error.contains(says) && error.contains("book.txt"), "{error}");
        }
        dataset(b"abcabcabcabcabcabcab", TokenizerKind::Character, 17).expect("just long enough");
        dataset(b"abcabcabcab", TokenizerKind::Character, 8).expect("the shortest text");
        assert!(Dataset::read(&TrainOptions::new("/no/such/book.txt", ""), None, go_on).is_err());
    }
}
