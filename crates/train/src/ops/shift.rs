//! `y_t = x_{t−1}` within each sequence; for its first token what its state holds: zeros if that is empty.
//!
//! `dx_{t−1} += dy_t`, and the state's vector gets the gradient of the first row.

use rwkv::state::Slot;
use rwkv_kernels::{shift, shift_backward};

use crate::ops::Read;
use crate::tape::{Backward, Forward, States, Tape, Tensor};

/// Saves nothing; where sequences begin stays in the batch.
#[derive(Debug)]
pub(crate) struct Shift {
    x: Tensor,
    slot: Slot,
    y: Tensor,
}

impl Shift {
    pub(crate) fn forward(tape: &mut Tape, x: Tensor, slot: Slot) -> Tensor {
        let y = tape.declare(tape.width(x));
        tape.apply(Self { x, slot, y });
        y
    }

    pub(crate) fn reads(&self, read: &mut dyn FnMut(Tensor, Read)) {
        read(self.x, Read::Forward);
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn name(&self) -> &'static str {
        "shift"
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        let Forward { cpu, batch, values, .. } = t;
        let mut y = values.take(self.y);
        let (x, width) = (values.get(self.x), values.width(self.x));
        batch.with_states(self.slot.range(), |segments, states| {
            shift(cpu, segments, states, self.slot.at, width, x, &mut y);
        });
        values.put(self.y, y);
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let dy = t.gradients.take(self.y);
        let mut dx = t.gradients.open(self.x, dy.len());
        let store = dx.store;
        let width = t.values.width(self.x);
        let States { segments, mut gradients, .. } = t.batch.states_and_gradients();
        shift_backward(t.cpu, segments, &mut gradients, self.slot.at, width, &dy, dx.values(), store);
        t.gradients.close(dx);
        t.gradients.release(dy);
    }
}

#[cfg(test)]
mod tests {
    use rwkv::params::Layout;

    use super::*;
    use crate::ops::check::Case;

    const SLOT: Slot = Slot { at: 2, len: 5 };

    #[test]
    fn gradient_over_texts_of_three_three_and_two_tokens() {
        let case = Case::new(Layout::default(), &[(8, 5)], 3);
        case.check(|tape, x| vec![Shift::forward(tape, x[0], SLOT)]);
    }

    #[test]
    fn gradient_beside_another_use_of_the_input() {
        let case = Case::new(Layout::default(), &[(8, 5)], 4);
        case.check(|tape, x| vec![Shift::forward(tape, x[0], SLOT), Shift::forward(tape, x[0], SLOT)]);
    }

    #[test]
    fn gradient_of_the_state_that_sequences_start_from() {
        let case = Case::new(Layout::default(), &[(8, 5)], 3).with_state(9);
        case.check(|tape, x| vec![Shift::forward(tape, x[0], SLOT)]);
    }
}
