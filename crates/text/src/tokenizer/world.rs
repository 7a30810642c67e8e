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

use super::{Tokenize, TokenizerKind};

/// Turns bytes into tokens of the World vocabulary and back.
pub struct World {
    vocabulary: Vocabulary,
    trie: Trie,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

impl World {
    /// Number of tokens of the models, six more than have a meaning: those from 65,530 on stand for nothing.
    pub const N_VOCAB: usize = 1 << 16;
    /// The token between documents. No text contains it.
    pub const END_OF_TEXT: u32 = 0;

    /// The tokenizer, which the first call builds, in about 15 ms.
    pub fn get() -> &'static Self {
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

impl Tokenize for &'static World {
    fn kind(&self) -> TokenizerKind {
        TokenizerKind::World
    }

    fn n_vocab(&self) -> usize {
        World::N_VOCAB
    }

    fn encode_into(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        self.encode(text.as_bytes(), out);
        Ok(())
    }

    fn encode_bytes_into(&self, bytes: &[u8], out: &mut Vec<u32>) -> Option<Result<()>> {
        self.encode(bytes, out);
        Some(Ok(()))
    }

    /// A model may write one of the six tokens that stand for nothing; they are no text, and no error.
    fn decode_into(&self, token: u32, out: &mut Vec<u8>) -> Result<()> {
        match self.vocabulary.get(token) {
            Some(bytes) => out.extend(bytes),
            None if (token as usize) < World::N_VOCAB => {}
            None => return Err(Error::TokenOutOfRange { token, n_vocab: World::N_VOCAB }),
        }
        Ok(())
    }

    fn end_of_text(&self) -> Option<u32> {
        Some(World::END_OF_TEXT)
    }

    fn cut(&self, text: &[u8]) -> usize {
        World::cut(self, text)
    }

    /// Greedy matching of bytes is no model of Hugging Face's format.
    fn to_json(&self) -> String {
        "{\"type\": \"world\"}\n".to_owned()
    }
}
