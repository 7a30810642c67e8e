//! From texts of any length to passes of a bounded number of tokens.

use std::ops::Range;

use super::arena::Arena;
use crate::state::State;

/// Tokens of one pass at most. Enough to use each weight often while it is near, few enough that the
/// activations of a pass stay in some MB and a long prompt needs no more memory than a short one. Twice as
/// many gain nothing, half as many cost 4 % where weights are FP32.
pub(crate) const PASS: usize = 256;

/// Consecutive tokens of one text, and the state that they are read from and leave.
#[derive(Debug)]
pub struct Segment<'a> {
    /// At least one token.
    pub tokens: &'a [u32],
    /// A state of the model.
    pub state: &'a mut State,
}

/// A segment of a run: the state that it is read from stays as it is, and the one after it is new.
pub(crate) struct Reading<'a> {
    pub(crate) tokens: &'a [u32],
    pub(crate) from: &'a State,
    /// As long as `from`, and means nothing before the segment has been read.
    pub(crate) to: &'a mut [f32],
    pub(crate) outputs: Outputs,
}

/// Which logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// None: only the states are moved forward, and the head is not computed.
    None,
    /// Those after the last token of each segment.
    Last,
    /// Those after every token.
    All,
}

impl Outputs {
    /// Number of rows of logits for a segment of `tokens` tokens.
    pub(super) fn count(self, tokens: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Last => 1,
            Self::All => tokens,
        }
    }
}

/// What passes need besides the model: kept from one to the next, so that a pass allocates next to nothing.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) arena: Arena,
    pub(super) activations: rwkv_kernels::ProductScratch,
    /// Of the present pass.
    pub(super) tokens: Vec<u32>,
    pub(super) rows: Vec<Range<usize>>,
    pub(super) outputs: Vec<usize>,
    /// See [`Needed`].
    pub(super) kept: Vec<Range<usize>>,
    pub(super) needed_rows: Vec<Range<usize>>,
    pub(super) needed_outputs: Vec<usize>,
    pub(super) parts: Vec<Part>,
    /// Memory for states.
    pub(super) states: Vec<Vec<f32>>,
}

/// The part of a segment that one pass reads.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) segment: usize,
    pub(super) tokens: Range<usize>,
    /// Number of rows of logits.
    pub(super) outputs: usize,
}

/// The next token to read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Position {
    segment: usize,
    token: usize,
    /// Segments before this one have been in a pass.
    pub(super) planned: usize,
}

impl Scratch {
    /// Takes the next tokens, up to [`PASS`], from consecutive segments; false if none are left.
    pub(super) fn plan(&mut self, segments: &[Reading<'_>], next: &mut Position) -> bool {
        self.tokens.clear();
        self.rows.clear();
        self.outputs.clear();
        self.kept.clear();
        self.needed_rows.clear();
        self.needed_outputs.clear();
        self.parts.clear();
        while self.tokens.len() < PASS
            && let Some(segment) = segments.get(next.segment)
        {
            let first = self.tokens.len();
            let end = segment.tokens.len().min(next.token + PASS - first);
            let tokens = next.token..end;
            let done = end == segment.tokens.len();
            self.tokens.extend_from_slice(&segment.tokens[tokens.clone()]);
            self.rows.push(first..self.tokens.len());
            let count = match segment.outputs {
                Outputs::None => 0,
                Outputs::Last => usize::from(done),
                Outputs::All => tokens.len(),
            };
            self.outputs.extend(self.tokens.len() - count..self.tokens.len());
            // The outputs and the row before them; at least the last row, which the state takes.
            let kept = (count + 1).min(tokens.len());
            self.kept.push(self.tokens.len() - kept..self.tokens.len());
            let first = self.needed_rows.last().map_or(0, |rows| rows.end);
            self.needed_rows.push(first..first + kept);
            self.needed_outputs.extend(first + kept - count..first + kept);
            self.parts.push(Part { segment: next.segment, tokens, outputs: count });
            next.planned = next.segment + 1;
            (next.segment, next.token) = if done { (next.segment + 1, 0) } else { (next.segment, end) };
        }
        !self.tokens.is_empty()
    }
}
