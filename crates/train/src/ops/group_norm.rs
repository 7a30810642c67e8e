//! As `layer_norm.rs`, with mean and variance over each head of some channels.

use rwkv_core::params::Vector;
use rwkv_kernels::{group_norm, group_norm_backward};

use crate::ops::Read;
use crate::tape::{Backward, Forward, Tape, Tensor};

/// Saves x; mean and variance are computed again.
#[derive(Debug)]
pub(crate) struct GroupNorm {
    x: Tensor,
    size: usize,
    weight: Vector,
    bias: Vector,
    eps: f32,
    y: Tensor,
}

impl GroupNorm {
    pub(crate) fn forward(
        tape: &mut Tape,
        x: Tensor,
        size: usize,
        weight: Vector,
        bias: Vector,
        eps: f32,
    ) -> Tensor {
        let y = tape.declare(tape.width(x));
        tape.apply(Self { x, size, weight, bias, eps, y });
        y
    }

    pub(crate) fn reads(&self, read: &mut dyn FnMut(Tensor, Read)) {
        read(self.x, Read::Both);
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn name(&self) -> &'static str {
        "group norm"
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        t.fill_rows([self.y], |cpu, params, values, rows, [y]| {
            let (weight, bias) = (params.vector(self.weight), params.vector(self.bias));
            group_norm(cpu, values.rows_of(self.x, rows), self.size, weight, bias, self.eps, y);
        });
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let (x, weight) = (t.values.get(self.x), t.params.vector(self.weight));
        let dy = t.gradients.take(self.y);
        let mut dx = t.gradients.open(self.x, x.len());
        let store = dx.store;
        let [dweight, dbias] = t.param_gradients.vectors([self.weight, self.bias]);
        let into = dx.values();
        group_norm_backward(t.cpu, x, self.size, weight, self.eps, &dy, into, store, dweight, dbias);
        t.gradients.close(dx);
        t.gradients.release(dy);
    }
}

#[cfg(test)]
mod tests {
    use rwkv_core::params::{Initial, Layout};

    use super::*;
    use crate::ops::check::Case;

    #[test]
    fn gradient() {
        let mut layout = Layout::default();
        let weight = layout.vector("weight", 8, Initial::ONES);
        let bias = layout.vector("bias", 8, Initial::ZEROS);
        let case = Case::new(layout, &[(3, 8)], 3);
        // The variance of four numbers in ±1 can be small; with this eps its curvature is no matter.
        case.check(|tape, x| vec![GroupNorm::forward(tape, x[0], 4, weight, bias, 0.1)]);
    }
}
