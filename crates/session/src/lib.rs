//! Texts that RWKV language models read and write, many at a time.
//!
//! A [`Session`] is one text. [`Session::generate`] is the loop that writes: it chooses tokens
//! ([`rwkv_core::Sampler`]), makes whole characters of them ([`rwkv_text::Decoder`]), and ends where it is told to, at
//! a string, at the end that the model gives the text, or after so many tokens. The crate for training, the Node
//! binding and the command line use the same.
//!
//! Whatever sessions do at the same time shares passes over the model ([`rwkv_core::schedule`]), on threads that all
//! models have in common; on how many threads, and how, they are called does not matter.
//!
//! - **A session's text is what was taken of it**: a stop is in neither the text nor the state, and a loop that is left
//!   early leaves the state after the last piece that it got.
//! - **Calls can be given up at any moment**, and leave the text as it was.

mod evaluate;
mod options;
mod outlet;
mod pen;
mod piece;
mod reading;
mod session;
mod stop;
#[cfg(test)]
mod tests;
mod text;

pub use evaluate::{TextLoss, evaluate_texts};
pub use options::GenerateOptions;
pub use outlet::Taker;
pub use piece::{End, Piece};
pub use reading::{Done, Reading};
pub use session::{Generation, Session};

/// The program in README.md, which is to compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
