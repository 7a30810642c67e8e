//! `y = σ(r) ⊙ x`; `dx += σ(r) ⊙ dy`, `dr += σ(r) (1 − σ(r)) ⊙ x ⊙ dy`.

use rwkv_kernels::{sigmoid_mul, sigmoid_mul_backward};

use crate::tape::{Backward, Forward, Tape, Tensor};

/// Saves r and x.
#[derive(Debug)]
pub(crate) struct SigmoidMul {
    r: Tensor,
    x: Tensor,
    y: Tensor,
}

impl SigmoidMul {
    pub(crate) fn forward(tape: &mut Tape, r: Tensor, x: Tensor) -> Tensor {
        let (rows, width) = (tape.values.rows(x), tape.values.width(x));
        let y = tape.declare(rows, width);
        tape.apply(Self { r, x, y });
        y
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        t.fill([self.y], |t, [y]| sigmoid_mul(t.cpu, t.values.get(self.r), t.values.get(self.x), y));
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let (r, x) = (t.values.get(self.r), t.values.get(self.x));
        let dy = t.gradients.take(self.y);
        let mut dr = t.gradients.open(self.r, r.len());
        let mut dx = t.gradients.open(self.x, x.len());
        let (dr_store, dx_store) = (dr.store, dx.store);
        sigmoid_mul_backward(t.cpu, r, x, &dy, dr.values(), dr_store, dx.values(), dx_store);
        t.gradients.close(dr);
        t.gradients.close(dx);
        t.gradients.release(dy);
    }
}

#[cfg(test)]
mod tests {
    use rwkv::params::Layout;

    use super::*;
    use crate::ops::check::Case;

    #[test]
    fn gradient() {
        let case = Case::new(Layout::default(), &[(4, 5), (4, 5)], 4);
        case.check(|tape, x| vec![SigmoidMul::forward(tape, x[0], x[1])]);
    }
}
