//! A stretch of tokens, in memory or in files.

use std::ops::Range;
use std::sync::Arc;

use rwkv_core::Result;
use rwkv_text::token_file::TokenFile;

/// Tokens that are learned or tested on, one after the other: in memory, or mapped from files and never loaded.
/// Clones share them.
#[derive(Clone, Debug)]
pub struct Part {
    stretches: Arc<[Stretch]>,
    /// Of all stretches together.
    range: Range<usize>,
}

/// Tokens of one place, and how many there are up to their end.
#[derive(Debug)]
struct Stretch {
    tokens: Tokens,
    end: usize,
}

#[derive(Debug)]
enum Tokens {
    Memory(Vec<u32>),
    File(TokenFile),
}

impl From<Vec<u32>> for Part {
    fn from(tokens: Vec<u32>) -> Self {
        let end = tokens.len();
        Self { stretches: Arc::new([Stretch { tokens: Tokens::Memory(tokens), end }]), range: 0..end }
    }
}

impl From<Vec<TokenFile>> for Part {
    fn from(files: Vec<TokenFile>) -> Self {
        let mut end = 0;
        let stretches = files.into_iter().map(|file| {
            end += file.len() as usize;
            Stretch { tokens: Tokens::File(file), end }
        });
        let stretches: Arc<[Stretch]> = stretches.collect();
        Self { range: 0..stretches.last().map_or(0, |last| last.end), stretches }
    }
}

impl Part {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The tokens before `at`, and those from there on.
    pub(super) fn split_at(&self, at: usize) -> (Self, Self) {
        let at = self.range.start + at.min(self.len());
        let part = |range| Self { stretches: Arc::clone(&self.stretches), range };
        (part(self.range.start..at), part(at..self.range.end))
    }

    /// Appends the tokens of a range to `out`.
    ///
    /// # Errors
    /// Those of reading a file: [`rwkv_core::Error::FileChanged`] if it has changed since it was opened.
    ///
    /// # Panics
    /// If there are not so many tokens.
    pub fn read(&self, range: Range<usize>, out: &mut Vec<u32>) -> Result<()> {
        assert!(range.end <= self.len(), "tokens {range:?} of {}", self.len());
        let range = range.start + self.range.start..range.end + self.range.start;
        let mut at = range.start;
        let first = self.stretches.partition_point(|stretch| stretch.end <= at);
        for (index, stretch) in self.stretches.iter().enumerate().skip(first) {
            if at >= range.end {
                break;
            }
            let begin = index.checked_sub(1).map_or(0, |before| self.stretches[before].end);
            let here = at - begin..range.end.min(stretch.end) - begin;
            at = begin + here.end;
            match &stretch.tokens {
                Tokens::Memory(tokens) => out.extend_from_slice(&tokens[here]),
                Tokens::File(file) => {
                    let mut tokens = Vec::new();
                    file.read(here.start as u64..here.end as u64, &mut tokens)?;
                    out.append(&mut tokens);
                }
            }
        }
        Ok(())
    }

    /// The first `count` tokens, or all if there are fewer.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn first(&self, count: usize) -> Result<Vec<u32>> {
        let count = count.min(self.len());
        let mut tokens = Vec::with_capacity(count);
        self.read(0..count, &mut tokens)?;
        Ok(tokens)
    }

    /// Whether all tokens are the same, as far as a look at the first ones tells.
    pub(super) fn is_monotonous(&self) -> Result<bool> {
        // Whoever has more than this has more than one.
        let tokens = self.first(1 << 16)?;
        Ok(self.len() == tokens.len() && tokens.iter().all(|token| Some(token) == tokens.first()))
    }
}

#[cfg(test)]
mod tests {
    use rwkv_text::token_file::{TokenWriter, Width};

    use super::*;

    #[test]
    fn tokens_of_files_are_those_of_memory() {
        let directory = tempfile::tempdir().expect("a directory");
        let tokens: Vec<u32> = (0..100).map(|i| i * 7 % 1000).collect();
        let mut files = Vec::new();
        for (name, range) in [("a.bin", 0..33), ("b.bin", 33..34), ("c.bin", 34..100)] {
            let path = directory.path().join(name);
            let mut writer = TokenWriter::create(&path, Width::U16).expect("a file");
            writer.push(&tokens[range]).expect("tokens");
            writer.finish(None).expect("a file");
            files.push(TokenFile::open(&path).expect("the file"));
        }
        let (whole, (_, rest)) = (Part::from(files), Part::from(tokens.clone()).split_at(20));
        let (head, tail) = whole.split_at(20);
        assert_eq!((whole.len(), head.len(), tail.len(), rest.len()), (100, 20, 80, 80));
        for start in 0..80 {
            for end in start..=80 {
                let (mut mapped, mut held) = (Vec::new(), Vec::new());
                tail.read(start..end, &mut mapped).expect("tokens");
                rest.read(start..end, &mut held).expect("tokens");
                assert_eq!(
                    (&mapped[..], &held[..]),
                    (&tokens[20 + start..20 + end], &tokens[20 + start..20 + end])
                );
            }
        }
        assert_eq!(head.first(1000).expect("tokens"), tokens[..20]);
    }
}
