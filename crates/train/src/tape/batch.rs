//! What a pass reads: tokens, what follows each of them, and the sequences with their states.

use std::ops::Range;

/// The tokens of a pass, and the states that its sequences start from and leave.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) tokens: Vec<u32>,
    pub(crate) targets: Vec<u32>,
    /// The rows of each stretch of tokens that are read one after the other: a sequence, or a document's part of one.
    pub(crate) segments: Vec<Range<usize>>,
    /// The first segment of each sequence.
    sequences: Vec<usize>,
    /// How many rows of the pass come before.
    pub(crate) first_row: usize,
    /// The sum of the losses of all tokens, once it is computed.
    pub(crate) loss: f64,
    /// Where each segment starts; none if all start from the empty state and nobody asks what they leave.
    initial: Vec<Vec<f32>>,
    /// The states as operators move them on.
    moved: Vec<Vec<f32>>,
    /// Gradients of `initial`; none if they are not wanted.
    gradients: Vec<Vec<f32>>,
}

/// The parts of `tokens` that are read one after the other from a state: sequences of `ctx_len` tokens (the last may
/// be shorter), each cut before every token `boundary`, if there is one.
pub(crate) fn cut(
    tokens: &[u32],
    ctx_len: usize,
    boundary: Option<u32>,
) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    (1..=tokens.len()).filter_map(move |end| {
        let next = tokens.get(end);
        let is_cut = next.is_none()
            || end.is_multiple_of(ctx_len)
            || (boundary.is_some() && next == boundary.as_ref());
        is_cut.then(|| std::mem::replace(&mut start, end)..end)
    })
}

/// What the backward of an operator with a state reads and adds to.
pub(crate) struct States<'a> {
    /// The rows of each segment.
    pub(crate) segments: &'a [Range<usize>],
    /// What each segment started from; none if all started from the empty state.
    pub(crate) initial: Vec<&'a [f32]>,
    /// Gradients of those; none if they are not wanted.
    pub(crate) gradients: Vec<&'a mut [f32]>,
}

impl Batch {
    /// Sequences of `ctx_len` tokens (the last may be shorter), after `first_row` rows of the pass, each cut before
    /// every token `boundary`, if there is one. All parts start from `state`, or from the empty one.
    pub(super) fn begin(
        &mut self,
        tokens: &[u32],
        ctx_len: usize,
        first_row: usize,
        state: Option<&[f32]>,
        boundary: Option<u32>,
    ) {
        self.first_row = first_row;
        self.tokens.clear();
        self.tokens.extend_from_slice(tokens);
        self.segments.clear();
        self.segments.extend(cut(tokens, ctx_len, boundary));
        let firsts = self.segments.iter().enumerate().filter(|(_, rows)| rows.start.is_multiple_of(ctx_len));
        self.sequences.clear();
        self.sequences.extend(firsts.map(|(segment, _)| segment));
        self.initial.clear();
        if let Some(state) = state {
            self.initial.resize(self.segments.len(), state.to_vec());
        }
        self.moved.clone_from(&self.initial);
    }

    /// Number of sequences.
    pub(super) fn count(&self) -> usize {
        self.sequences.len()
    }

    /// Each sequence starts from one of the states, unless its first token is the `boundary`, and each later part of
    /// one from `empty`.
    pub(super) fn start_from(&mut self, states: &[Vec<f32>], boundary: Option<(u32, &[f32])>) {
        self.initial.clear();
        self.initial.resize(self.segments.len(), boundary.map_or(Vec::new(), |(_, empty)| empty.to_vec()));
        for (&first, state) in self.sequences.iter().zip(states) {
            let token = self.tokens[self.segments[first].start];
            if boundary.is_none_or(|(boundary, _)| boundary != token) {
                self.initial[first].clone_from(state);
            }
        }
        self.moved.clone_from(&self.initial);
    }

    /// The state that each sequence has left; none if nobody asked for it.
    pub(super) fn left(&self) -> impl Iterator<Item = &Vec<f32>> {
        let ends = self.sequences.iter().skip(1).copied().chain([self.segments.len()]);
        ends.filter_map(|end| self.moved.get(end.checked_sub(1)?))
    }

    /// Runs an operator on the states, whose part in `slot` is as it was when the pass began: an operator may
    /// run again.
    pub(crate) fn with_states(
        &mut self,
        slot: Range<usize>,
        run: impl FnOnce(&[Range<usize>], &mut [&mut [f32]]),
    ) {
        for (moved, initial) in self.moved.iter_mut().zip(&self.initial) {
            moved[slot.clone()].copy_from_slice(&initial[slot.clone()]);
        }
        let mut states: Vec<_> = self.moved.iter_mut().map(Vec::as_mut_slice).collect();
        run(&self.segments, &mut states);
    }

    /// The states that sequences start from, and their gradients to add to.
    pub(crate) fn states_and_gradients(&mut self) -> States<'_> {
        States {
            segments: &self.segments,
            initial: self.initial.iter().map(Vec::as_slice).collect(),
            gradients: self.gradients.iter_mut().map(Vec::as_mut_slice).collect(),
        }
    }

    /// Begins with the gradients of the initial states, or without if they are not wanted.
    pub(super) fn zero_gradients(&mut self, are_wanted: bool) {
        self.gradients.clear();
        if are_wanted {
            self.gradients.extend(self.initial.iter().map(|state| vec![0.0; state.len()]));
        }
    }

    /// Adds the gradients of all sequences, in their order, to that of the state that they all started from.
    pub(super) fn add_gradients(&self, into: &mut [f32]) {
        for gradient in &self.gradients {
            into.iter_mut().zip(gradient).for_each(|(sum, gradient)| *sum += gradient);
        }
    }
}
