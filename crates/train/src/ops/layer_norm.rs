//! `y = n ⊙ w + b` with `n = (x − mean x) · s`, `s = 1/√(var x + eps)` over each row.
//!
//! With `g = dy ⊙ w`: `dx = s (g − mean g − n · mean(g ⊙ n))`, `dw += Σ_rows dy ⊙ n`, `db += Σ_rows dy`.

use rwkv::params::Vector;
use rwkv_kernels::{layer_norm, layer_norm_backward};

use crate::ops::Read;
use crate::tape::{Backward, Forward, Tape, Tensor};

/// Saves x; mean and variance are computed again, which costs less than to store them and n.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    x: Tensor,
    weight: Vector,
    bias: Vector,
    eps: f32,
    y: Tensor,
}

impl LayerNorm {
    pub(crate) fn forward(tape: &mut Tape, x: Tensor, weight: Vector, bias: Vector, eps: f32) -> Tensor {
        let y = tape.declare(tape.width(x));
        tape.apply(Self { x, weight, bias, eps, y });
        y
    }

    pub(crate) fn reads(&self, read: &mut dyn FnMut(Tensor, Read)) {
        read(self.x, Read::Both);
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn name(&self) -> &'static str {
        "layer norm"
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        t.fill_rows([self.y], |cpu, params, values, rows, [y]| {
            let (weight, bias) = (params.vector(self.weight), params.vector(self.bias));
            layer_norm(cpu, values.rows_of(self.x, rows), weight, bias, self.eps, y);
        });
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let (x, weight) = (t.values.get(self.x), t.params.vector(self.weight));
        let dy = t.gradients.take(self.y);
        let mut dx = t.gradients.open(self.x, x.len());
        let store = dx.store;
        let [dweight, dbias] = t.param_gradients.vectors([self.weight, self.bias]);
        layer_norm_backward(t.cpu, x, weight, self.eps, &dy, dx.values(), store, dweight, dbias);
        t.gradients.close(dx);
        t.gradients.release(dy);
    }
}

#[cfg(test)]
mod tests {
    use rwkv::params::{Initial, Layout};

    use super::*;
    use crate::ops::check::Case;

    #[test]
    fn gradient() {
        let mut layout = Layout::default();
        let (weight, bias) =
            (layout.vector("weight", 7, Initial::ZEROS), layout.vector("bias", 7, Initial::ZEROS));
        let case = Case::new(layout, &[(4, 7)], 4);
        case.check(|tape, x| vec![LayerNorm::forward(tape, x[0], weight, bias, 1e-5)]);
    }
}
