//! RWKV-7's attention: `S_t = S_{t−1} diag(w) − (S_{t−1} κ)(κ ⊙ a)ᵀ + v kᵀ`, `y_t = S_t r`, in each head.
//!
//! The recurrence and its gradient stand in `rwkv_kernels::wkv7`.

use rwkv_core::Slot;
use rwkv_core::Wkv7 as Inputs;
use rwkv_kernels::{Wkv7Gradients, Wkv7Inputs, Wkv7State, wkv7, wkv7_backward};

use crate::ops::Read;
use crate::tape::{Backward, Forward, States, Tape, Tensor, Values};

/// Saves its inputs, six different tensors; the states are computed again.
#[derive(Debug)]
pub(crate) struct Wkv7 {
    /// r, w, k, v, κ, a.
    inputs: [Tensor; 6],
    size: usize,
    slot: Slot,
    y: Tensor,
}

impl Wkv7 {
    pub(crate) fn forward(tape: &mut Tape, inputs: Inputs<Tensor>, size: usize, slot: Slot) -> Tensor {
        let y = tape.declare(tape.width(inputs.r));
        let Inputs { r, w, k, v, kk, a } = inputs;
        tape.apply(Self { inputs: [r, w, k, v, kk, a], size, slot, y });
        y
    }

    pub(crate) fn reads(&self, read: &mut dyn FnMut(Tensor, Read)) {
        self.inputs.iter().for_each(|&x| read(x, Read::Both));
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn name(&self) -> &'static str {
        "wkv"
    }

    fn given<'a>(&self, values: &'a Values) -> Wkv7Inputs<'a> {
        let [r, w, k, v, kk, a] = self.inputs.map(|x| values.get(x));
        Wkv7Inputs { r, w, k, v, kk, a, width: values.width(self.y), head: self.size }
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        let Forward { cpu, batch, values, .. } = t;
        let mut y = values.take(self.y);
        let inputs = self.given(values);
        batch.with_states(self.slot.range(), |segments, states| {
            let part = |state| Wkv7State { from: None, to: state };
            let mut states: Vec<_> =
                states.iter_mut().map(|state| part(&mut state[self.slot.range()])).collect();
            wkv7(cpu, segments, &mut states, inputs, &mut y);
        });
        values.put(self.y, y);
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let inputs = self.given(t.values);
        let gradients = &mut *t.gradients;
        let dy = gradients.take(self.y);
        let mut out = self.inputs.map(|x| gradients.open(x, dy.len()));
        let States { segments, initial, gradients: mut dstates } = t.batch.states_and_gradients();
        let states: Vec<_> = initial.iter().map(|state| &state[self.slot.range()]).collect();
        let mut dstates: Vec<_> = dstates.iter_mut().map(|state| &mut state[self.slot.range()]).collect();
        let [dr, dw, dk, dv, dkk, da] =
            out.each_mut().map(|out| (out.store, out.values())).map(|(store, out)| (out, store));
        let wanted = Wkv7Gradients { dr, dw, dk, dv, dkk, da, dstates: &mut dstates };
        wkv7_backward(t.cpu, segments, &states, inputs, &dy, wanted);
        for out in out {
            gradients.close(out);
        }
        gradients.release(dy);
    }
}

#[cfg(test)]
mod tests {
    use rwkv_core::params::Layout;

    use super::*;
    use crate::ops::check::Case;

    const SLOT: Slot = Slot { at: 1, len: 18 };

    fn forward(tape: &mut Tape, x: &[Tensor]) -> Vec<Tensor> {
        let inputs = Inputs { r: x[0], w: x[1], k: x[2], v: x[3], kk: x[4], a: x[5] };
        vec![Wkv7::forward(tape, inputs, 3, SLOT)]
    }

    #[test]
    fn gradient_over_sequences_of_four_four_and_two_tokens() {
        Case::new(Layout::default(), &[(10, 6); 6], 4).check(forward);
    }

    #[test]
    fn gradient_from_a_state_and_by_it() {
        Case::new(Layout::default(), &[(10, 6); 6], 4).with_state(20).check(forward);
    }
}
