//! From texts of any length to passes of a bounded number of tokens.

use std::ops::Range;
use std::sync::PoisonError;

use rwkv_kernels::all_finite;

use super::arena::Arena;
use super::exec::{Infer, Needed};
use super::model::Model;
use crate::error::{Error, Result};
use crate::state::State;
use crate::store::NotFinite;

/// Tokens of one pass at most. Enough to use each weight often while it is near, few enough that the activations of a
/// pass stay in some MB and a long prompt needs no more memory than a short one. Twice as many gain nothing, half as many
/// cost 4 % where weights are FP32.
pub(super) const PASS: usize = 256;

/// Consecutive tokens of one text, and the state that they are read from and leave.
#[derive(Debug)]
pub struct Segment<'a> {
    /// At least one token.
    pub tokens: &'a [u32],
    /// A state of the model.
    pub state: &'a mut State,
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
    arena: Arena,
    activations: rwkv_kernels::ProductScratch,
    /// Of the present pass.
    tokens: Vec<u32>,
    rows: Vec<Range<usize>>,
    outputs: Vec<usize>,
    /// See [`Needed`].
    kept: Vec<Range<usize>>,
    needed_rows: Vec<Range<usize>>,
    needed_outputs: Vec<usize>,
    parts: Vec<Part>,
    /// The states of all segments as they were, one after the other.
    states: Vec<f32>,
}

/// The part of a segment that one pass reads.
#[derive(Debug)]
struct Part {
    segment: usize,
    tokens: Range<usize>,
    /// Number of rows of logits.
    outputs: usize,
}

impl Model {
    /// Reads all segments, in as many passes as it takes.
    ///
    /// Calls `sink(segment, tokens, logits)` with the logits (tokens, n_vocab) of those tokens of the segment for which
    /// they are wanted, in order within a segment. On an error, that of `sink` too, all states are as they were.
    pub(super) fn run(
        &self,
        segments: &mut [Segment<'_>],
        outputs: Outputs,
        sink: impl FnMut(usize, Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        for segment in segments.iter() {
            self.check_tokens(segment.tokens)?;
            segment.state.check(&self.shared.fingerprint, &self.shared.state_layout)?;
        }
        self.shared.parameters.check_file()?;
        let pool = || self.shared.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = pool().pop().unwrap_or_default();
        scratch.states.clear();
        scratch.states.extend(segments.iter().flat_map(|segment| segment.state.as_slice()));
        let result = self.run_with(&mut scratch, segments, outputs, sink);
        if result.is_err() {
            let mut before = scratch.states.as_slice();
            for Segment { state, .. } in segments {
                let (own, rest) = before.split_at(state.as_slice().len());
                state.as_mut_slice().copy_from_slice(own);
                before = rest;
            }
        }
        pool().push(scratch);
        result
    }

    fn run_with(
        &self,
        scratch: &mut Scratch,
        segments: &mut [Segment<'_>],
        outputs: Outputs,
        mut sink: impl FnMut(usize, Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let n_vocab = self.shared.config.n_vocab;
        let mut next = Position::default();
        while scratch.plan(segments, outputs, &mut next) {
            let Scratch {
                arena,
                activations,
                tokens,
                rows,
                outputs,
                kept,
                needed_rows,
                needed_outputs,
                parts,
                states: _,
            } = &mut *scratch;
            // A pass takes consecutive segments, so its states are a stretch too.
            let members = parts.first().map_or(0, |part| part.segment)..next.planned;
            let mut states: Vec<_> =
                segments[members].iter_mut().map(|segment| segment.state.as_mut_slice()).collect();
            arena.clear();
            let mut infer = Infer {
                parameters: &self.shared.parameters,
                cpu: &self.cpu,
                arena,
                activations,
                tokens,
                segments: rows,
                states: &mut states,
                outputs,
                needed: Needed { kept, segments: needed_rows, outputs: needed_outputs },
                not_finite: None,
            };
            let logits = self.shared.network.forward(&mut infer);
            let not_finite = infer.not_finite;
            let mut logits = arena.get(logits);
            self.check_pass(not_finite, logits, &states)?;
            for Part { segment, tokens, outputs } in &*parts {
                let (rows, rest) = logits.split_at(outputs * n_vocab);
                logits = rest;
                if *outputs > 0 {
                    sink(*segment, tokens.end - outputs..tokens.end, rows)?;
                }
            }
        }
        Ok(())
    }

    /// Whether what a pass computed means anything.
    ///
    /// # Errors
    /// [`Error::FileChanged`] if the weights changed meanwhile, which explains all else; [`Error::ModelFile`] or
    /// [`Error::NotFinite`] for what is infinite or not a number.
    fn check_pass(&self, not_finite: Option<NotFinite>, logits: &[f32], states: &[&mut [f32]]) -> Result<()> {
        let parameters = &self.shared.parameters;
        parameters.check_file()?;
        if let Some(found) = not_finite {
            let error = parameters.explain(&self.cpu, found);
            parameters.check_file()?;
            return Err(error);
        }
        // Whatever goes wrong reaches the logits. Where none are wanted, the states show it.
        let finite =
            if logits.is_empty() { states.iter().all(|state| all_finite(state)) } else { all_finite(logits) };
        if finite { Ok(()) } else { Err(Error::NotFinite { what: "what the model computes".to_owned() }) }
    }

    /// Whether there are tokens, and the model has all of them.
    pub(super) fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        let n_vocab = self.shared.config.n_vocab;
        if tokens.is_empty() {
            return Err(Error::option("tokens", "empty", "at least one token"));
        }
        match tokens.iter().find(|&&token| token as usize >= n_vocab) {
            Some(&token) => Err(Error::TokenOutOfRange { token, n_vocab }),
            None => Ok(()),
        }
    }
}

/// The next token to read.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    segment: usize,
    token: usize,
    /// Segments before this one have been in a pass.
    planned: usize,
}

impl Scratch {
    /// Takes the next tokens, up to [`PASS`], from consecutive segments; false if none are left.
    fn plan(&mut self, segments: &[Segment<'_>], outputs: Outputs, next: &mut Position) -> bool {
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
            let count = match outputs {
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
