//! What is written.

use rwkv_core::LogProbabilities;

/// Why writing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As many tokens were written as were asked for.
    Length,
    /// A stop came.
    Stop,
    /// The model ended the text.
    EndOfText,
}

/// A part of what is written: whole characters, and the tokens that they are made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// May be empty.
    pub text: String,
    /// What the session has read: the tokens of the text. Those of a stop, and the token that ends a text, are not
    /// among them.
    pub tokens: Vec<u32>,
    /// For each of the tokens, if that is asked for: how likely the model held it. None for one that was not chosen,
    /// but is what a stop has left of one that was.
    pub log_probabilities: Vec<Option<LogProbabilities>>,
    /// Why writing ended, if this is the last piece.
    pub end: Option<End>,
}

impl Piece {
    pub(crate) fn append(&mut self, other: Self) {
        self.text += &other.text;
        self.tokens.extend(other.tokens);
        self.log_probabilities.extend(other.log_probabilities);
        self.end = self.end.or(other.end);
    }
}
