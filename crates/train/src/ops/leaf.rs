//! A tensor that is given: an operator's input in tests.

use crate::ops::Read;
use crate::tape::{Backward, Forward, Tape, Tensor};

/// Its gradient stays where it is.
#[derive(Debug)]
pub(crate) struct Leaf {
    values: Vec<f32>,
    y: Tensor,
}

impl Leaf {
    pub(crate) fn forward(tape: &mut Tape, width: usize, values: &[f32]) -> Tensor {
        let y = tape.declare(width);
        tape.apply(Self { values: values.to_vec(), y });
        y
    }

    pub(crate) fn reads(&self, read: &mut dyn FnMut(Tensor, Read)) {
        read(self.y, Read::Backward);
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn name(&self) -> &'static str {
        "leaf"
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        let first = t.batch.first_row * t.values.width(self.y);
        t.fill([self.y], |_, [y]| y.copy_from_slice(&self.values[first..first + y.len()]));
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn backward(&self, _: &mut Backward<'_>) {}
}
