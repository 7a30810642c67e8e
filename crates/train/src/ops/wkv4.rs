//! RWKV-4's attention, with w = −exp(decay):
//! `y_t = (Σ_{i<t} e^{(t−1−i)w + k_i} v_i + e^{u + k_t} v_t) / (Σ_{i<t} e^{(t−1−i)w + k_i} + e^{u + k_t})`.
//!
//! The recurrence that computes it without overflow, and its gradient in two sweeps over the text, stand in
//! `rwkv_kernels::wkv4`. It gives `dw`; `ddecay += dw · ∂w/∂decay = dw · w`.

use rwkv::params::{Stored, Vector};
use rwkv_kernels::{Store, Wkv4Gradients, Wkv4Inputs, wkv4, wkv4_backward};

use crate::tape::{Backward, Tape, Tensor};

/// Remembers w, k, v and y; the running sums are computed again.
#[derive(Debug)]
pub(crate) struct Wkv4 {
    decay: Vector,
    first: Vector,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
}

impl Wkv4 {
    pub(crate) fn forward(tape: &mut Tape, decay: Vector, first: Vector, k: Tensor, v: Tensor) -> Tensor {
        let (rows, width) = (tape.values.rows(k), tape.values.width(k));
        let w = tape.compute(1, width, |t, w| {
            // The very numbers that a model file holds: training and inference compute the same function.
            let stored = t.params.stored(decay);
            debug_assert_eq!(stored, Stored::NegExp, "backward differentiates -exp");
            w.iter_mut().zip(&t.params[decay]).for_each(|(w, &raw)| *w = stored.to_file(raw));
        });
        let y = tape.compute(rows, width, |t, y| {
            let Tape { cpu, values, batch, params, .. } = t;
            let inputs =
                Wkv4Inputs { w: values.get(w), u: &params[first], k: values.get(k), v: values.get(v) };
            wkv4(cpu, &batch.segments, &mut [], 0, inputs, y);
        });
        tape.record(Self { decay, first, w, k, v, y });
        y
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let [w, k, v, y] = [self.w, self.k, self.v, self.y].map(|tensor| t.values.get(tensor));
        let u = &t.params[self.first];
        let gradients = &mut *t.gradients;
        let dy = gradients.take(self.y);
        let [mut dw, mut dk, mut dv] =
            [(self.w, w), (self.k, k), (self.v, v)].map(|(x, value)| gradients.open(x, value.len()));
        let (dk_store, dv_store) = (dk.store, dv.store);
        debug_assert_eq!(dw.store, Store::Set);
        dw.values().fill(0.0);
        let [ddecay, du] = t.param_gradients.vectors([self.decay, self.first]);
        let wanted = Wkv4Gradients {
            dw: dw.values(),
            du,
            dk: dk.values(),
            dk_store,
            dv: dv.values(),
            dv_store,
            dstates: &mut [],
        };
        let inputs = Wkv4Inputs { w, u, k, v };
        wkv4_backward(t.cpu, &t.batch.segments, &[], 0, inputs, y, &dy, wanted);
        for ((ddecay, &dw), &w) in ddecay.iter_mut().zip(&*dw.values()).zip(w) {
            *ddecay += dw * w;
        }
        for gradient in [dk, dv] {
            gradients.close(gradient);
        }
        gradients.discard(dw);
        gradients.release(dy);
    }
}

#[cfg(test)]
mod tests {
    use rwkv::params::Layout;

    use super::*;
    use crate::ops::check::Case;

    #[test]
    fn gradient_over_texts_of_four_four_and_two_tokens() {
        let mut layout = Layout::default();
        let decay = layout.stored_vector("decay", 5, Stored::NegExp);
        let first = layout.vector("first", 5);
        let case = Case::new(layout, &[(10, 5), (10, 5)], 4);
        case.check(|tape, x| vec![Wkv4::forward(tape, decay, first, x[0], x[1])]);
    }
}
