//! The names of the kinds of tokenizers.

use serde::{Deserialize, Serialize};

/// What a tokenizer's tokens are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerKind {
    /// The distinct characters of the text, and bytes for all others.
    Character,
    /// The 256 bytes: any file.
    Byte,
    /// Byte pairs (BPE), or what else a file of Hugging Face's says.
    Bpe,
    /// The 50,257 tokens of GPT-2.
    Gpt2,
    /// The 50,277 tokens of the RWKV-4 models of the Pile, which are GPT-NeoX-20B's.
    #[serde(rename = "20b")]
    Pile,
    /// The 65,536 tokens of the RWKV "World" models.
    World,
}

impl TokenizerKind {
    /// The word of each.
    pub const WORDS: &'static [&'static str] = &["character", "byte", "bpe", "gpt2", "20b", "world"];

    /// Its word.
    pub fn word(self) -> &'static str {
        Self::WORDS[self as usize]
    }

    /// The kind of a word.
    pub fn of_word(word: &str) -> Option<Self> {
        let all = [Self::Character, Self::Byte, Self::Bpe, Self::Gpt2, Self::Pile, Self::World];
        all.into_iter().find(|kind| kind.word() == word)
    }

    /// What one of its tokens is called, in messages.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Character => "character",
            Self::Byte => "byte",
            Self::Bpe | Self::Gpt2 | Self::Pile | Self::World => "token",
        }
    }
}
