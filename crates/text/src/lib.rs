//! Text for RWKV language models: tokenizers, corpora, token files.

#[cfg(feature = "download")]
pub mod download;
pub mod prepare;
pub mod source;
pub mod token_file;
pub mod tokenizer;

pub use tokenizer::{Characters, Decoder, Tokenize, Tokenizer, TokenizerKind, Unknown};
