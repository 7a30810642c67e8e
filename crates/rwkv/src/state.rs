//! What a model remembers of a text: a few vectors a layer, however long the text.

use std::ops::Range;

/// A place in a state: `len` floats from `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// First float.
    pub at: usize,
    /// Number of floats.
    pub len: usize,
}

impl Slot {
    /// The slot's place in a state's floats.
    pub fn range(self) -> Range<usize> {
        self.at..self.at + self.len
    }
}

/// Where each layer keeps what it remembers, and what that is before the first token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateLayout {
    initial: Vec<f32>,
}

impl StateLayout {
    /// `pp`, the running maximum of v4's exponents, before the first token; rwkv.cpp's value for "minus infinity".
    const EMPTY: f32 = -1e30;

    /// A slot of `len` floats that starts as zeros.
    pub fn zeros(&mut self, len: usize) -> Slot {
        self.filled(len, 0.0)
    }

    /// v4's (aa, bb, pp) of `n_embd` floats each, in one slot: sums of nothing, and their exponent.
    pub fn wkv4(&mut self, n_embd: usize) -> Slot {
        let Slot { at, .. } = self.zeros(2 * n_embd);
        self.filled(n_embd, Self::EMPTY);
        Slot { at, len: 3 * n_embd }
    }

    /// The state before the first token; its length is the state's.
    pub fn initial(&self) -> &[f32] {
        &self.initial
    }

    fn filled(&mut self, len: usize, value: f32) -> Slot {
        let at = self.initial.len();
        self.initial.resize(at + len, value);
        Slot { at, len }
    }
}
