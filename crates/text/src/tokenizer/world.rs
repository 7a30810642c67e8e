//! The vocabulary of the RWKV "World" models, `rwkv_vocab_v20230424`.
//!
//! Tokens 1 to 65,529 are strings of 1 to 128 bytes, and every single byte is one of them; token 0 ends a
//! document. A text's tokens are found from its beginning, each the longest that matches: there are no merges
//! and no normalisation, and nothing is unknown, whether it is UTF-8 or not.
//!
//! The vocabulary is part of the program, packed to 182 kB (`data/world.bin`, described in `packed.rs`).
//! `data/LICENSE-world` says whose it is. The tables made of it are 2.2 MB, in `trie.rs`.
//!
//! Source: BlinkDL, <https://github.com/BlinkDL/ChatRWKV>, `rwkv_vocab_v20230424.txt`.

// Until the crate's tokenizers include this one.
#![cfg_attr(not(test), expect(dead_code))]

mod packed;
mod trie;

#[cfg(test)]
mod pack;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use rwkv_core::{Error, Result};

use packed::Vocabulary;
use trie::Trie;

/// Turns bytes into tokens of the World vocabulary and back.
pub(crate) struct World {
    vocabulary: Vocabulary,
    trie: Trie,
}

impl World {
    /// Number of tokens of the models, six more than have a meaning: those from 65,530 on stand for nothing.
    pub(crate) const N_VOCAB: usize = 1 << 16;
    /// The token between documents. No text contains it.
    pub(crate) const END_OF_TEXT: u32 = 0;

    /// The tokenizer, which the first call builds, in about 15 ms.
    pub(crate) fn get() -> &'static Self {
        static WORLD: LazyLock<World> = LazyLock::new(World::build);
        &WORLD
    }

    fn build() -> Self {
        let (vocabulary, order) = Vocabulary::unpack(include_bytes!("../../data/world.bin"));
        let trie = Trie::new(&vocabulary, &order);
        Self { vocabulary, trie }
    }

    /// Appends the tokens of `text` to `out`.
    pub(crate) fn encode(&self, text: &[u8], out: &mut Vec<u32>) {
        // English has three to four bytes a token. What has fewer makes the vector grow.
        out.reserve(text.len() / 4);
        self.trie.encode(text, out);
    }

    /// Appends the bytes that `tokens` stand for to `out`. [`END_OF_TEXT`](Self::END_OF_TEXT) stands for none.
    /// The bytes need not be whole characters, even if they come from a text.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`] from 65,530 on; then `out` is as it was.
    pub(crate) fn decode(&self, tokens: &[u32], out: &mut Vec<u8>) -> Result<()> {
        let mut n_bytes = 0;
        for &token in tokens {
            let bytes = self.vocabulary.get(token);
            n_bytes += bytes.ok_or(Error::TokenOutOfRange { token, n_vocab: Self::N_VOCAB })?.len();
        }
        out.reserve(n_bytes);
        for bytes in tokens.iter().filter_map(|&token| self.vocabulary.get(token)) {
            out.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// The last place where `text` can be cut without changing a token, whatever follows it later: the tokens
    /// of `text[..cut]`, and then those of `text[cut..]` with all that follows, are those of the whole.
    ///
    /// Fewer than 128 bytes are behind the cut, those of a token that could become longer. So it is 0 for
    /// some texts of fewer than 128 bytes, and never for a longer one.
    ///
    /// Only the end of `text` is looked at, from the last two bytes that stand in no token beside each other.
    pub(crate) fn cut(&self, text: &[u8]) -> usize {
        // Two bytes that no token has beside each other are parted in every text.
        let mut at = (1..text.len()).rev().find(|&at| !self.trie.joins(text[at - 1], text[at])).unwrap_or(0);
        while at < text.len() {
            let found = self.trie.longest(&text[at..]);
            // A longer token would begin here, and reach past the end: no later place parts two tokens then.
            if found.may_grow {
                break;
            }
            at += found.length;
        }
        at
    }
}
