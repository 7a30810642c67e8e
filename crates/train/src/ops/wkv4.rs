//! RWKV-4's attention, with w = −exp(decay):
//! `y_t = (Σ_{i<t} e^{(t−1−i)w + k_i} v_i + e^{u + k_t} v_t) / (Σ_{i<t} e^{(t−1−i)w + k_i} + e^{u + k_t})`.
//!
//! The recurrence that computes it without overflow, from the empty state or a given one, and its gradient in
//! two sweeps over the sequence stand in `rwkv_kernels::wkv4`. The gradient is by w, which is what operators read of
//! `decay`; the tape makes that by `decay` of it.

use rwkv_core::Slot;
use rwkv_core::params::Vector;
use rwkv_kernels::{Wkv4Gradients, Wkv4Inputs, wkv4, wkv4_backward};

use crate::ops::Read;
use crate::tape::{Backward, Forward, States, Tape, Tensor};

/// Saves k, v and y; the running sums are computed again. The parameters hold w, which is what model files
/// hold: training and inference compute the same function.
#[derive(Debug)]
pub(crate) struct Wkv4 {
    decay: Vector,
    first: Vector,
    k: Tensor,
    v: Tensor,
    slot: Slot,
    y: Tensor,
}

impl Wkv4 {
    pub(crate) fn forward(
        tape: &mut Tape,
        decay: Vector,
        first: Vector,
        k: Tensor,
        v: Tensor,
        slot: Slot,
    ) -> Tensor {
        let y = tape.declare(tape.width(k));
        tape.apply(Self { decay, first, k, v, slot, y });
        y
    }

    pub(crate) fn reads(&self, read: &mut dyn FnMut(Tensor, Read)) {
        read(self.k, Read::Both);
        read(self.v, Read::Both);
        read(self.y, Read::Backward);
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn name(&self) -> &'static str {
        "wkv"
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        let Forward { cpu, params, batch, values, .. } = t;
        let mut y = values.take(self.y);
        let (w, u) = (params.vector(self.decay), params.vector(self.first));
        let inputs = Wkv4Inputs { w, u, k: values.get(self.k), v: values.get(self.v) };
        batch.with_states(self.slot.range(), |segments, states| {
            wkv4(cpu, segments, states, self.slot.at, inputs, &mut y);
        });
        values.put(self.y, y);
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let [k, v, y] = [self.k, self.v, self.y].map(|tensor| t.values.get(tensor));
        let (w, u) = (t.params.vector(self.decay), t.params.vector(self.first));
        let gradients = &mut *t.gradients;
        let dy = gradients.take(self.y);
        let [mut dk, mut dv] = [(self.k, k), (self.v, v)].map(|(x, value)| gradients.open(x, value.len()));
        let (dk_store, dv_store) = (dk.store, dv.store);
        let [dw, du] = t.param_gradients.vectors([self.decay, self.first]);
        let States { segments, initial, gradients: mut dstates } = t.batch.states_and_gradients();
        let wanted = Wkv4Gradients {
            dw,
            du,
            dk: dk.values(),
            dk_store,
            dv: dv.values(),
            dv_store,
            dstates: &mut dstates,
        };
        let inputs = Wkv4Inputs { w, u, k, v };
        wkv4_backward(t.cpu, segments, &initial, self.slot.at, inputs, y, &dy, wanted);
        for gradient in [dk, dv] {
            gradients.close(gradient);
        }
        gradients.release(dy);
    }
}

#[cfg(test)]
mod tests {
    use rwkv_core::params::{Initial, Layout, Stored};

    use super::*;
    use crate::ops::check::Case;

    const SLOT: Slot = Slot { at: 1, len: 15 };

    fn case() -> (Case, Vector, Vector) {
        let mut layout = Layout::default();
        let decay = layout.stored_vector("decay", &[5], Stored::NegExp, Initial::ZEROS);
        let first = layout.vector("first", 5, Initial::ZEROS);
        (Case::new(layout, &[(10, 5), (10, 5)], 4), decay, first)
    }

    #[test]
    fn gradient_over_sequences_of_four_four_and_two_tokens() {
        let (case, decay, first) = case();
        case.check(|tape, x| vec![Wkv4::forward(tape, decay, first, x[0], x[1], SLOT)]);
    }

    #[test]
    fn gradient_from_a_state_and_by_it() {
        let (case, decay, first) = case();
        let mut case = case.with_state(17);
        // bb is a sum of weights, and positive.
        let state = case.params.last_mut().expect("the state");
        state[6..11].iter_mut().for_each(|bb| *bb = bb.abs() + 0.5);
        case.check(|tape, x| vec![Wkv4::forward(tape, decay, first, x[0], x[1], SLOT)]);
    }
}
