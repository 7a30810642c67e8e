//! Text for RWKV language models: tokenizers, corpora, token files.

pub mod documents;
#[cfg(feature = "download")]
pub mod download;
pub mod prepare;
pub mod source;
pub mod token_file;
pub mod tokenizer;

pub use tokenizer::{Characters, Decoder, Tokenize, Tokenizer, TokenizerKind, Unknown};

/// The program in README.md, which is to compile and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
