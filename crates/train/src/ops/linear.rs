//! `y = x Wᵀ`, x (T, K), W (N, K); `dx += dy W`, `dW += dyᵀ x`.

use rwkv::params::Matrix;
use rwkv_kernels::{linear, linear_dw, linear_dx};

use crate::tape::{Backward, Tape, Tensor};

/// Remembers x.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Matrix,
    x: Tensor,
    y: Tensor,
}

impl Linear {
    pub(crate) fn forward(tape: &mut Tape, weight: Matrix, x: Tensor) -> Tensor {
        let (rows, inputs) = (tape.values.rows(x), tape.params.cols(weight));
        let y = tape.compute(rows, tape.params.rows(weight), |t, y| {
            linear(&t.cpu, t.values.get(x), &t.params[weight], inputs, y);
        });
        tape.record(Self { weight, x, y });
        y
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let (x, inputs) = (t.values.get(self.x), t.params.cols(self.weight));
        let dy = t.gradients.take(self.y);
        let mut dx = t.gradients.open(self.x, x.len());
        let store = dx.store;
        linear_dx(t.cpu, &dy, &t.params[self.weight], inputs, dx.values(), store);
        linear_dw(t.cpu, &dy, x, inputs, t.param_gradients.matrix(self.weight));
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
        let weight = layout.matrix("weight", 5, 6, Initial::ZEROS);
        let case = Case::new(layout, &[(4, 6)], 4);
        case.check(|tape, x| vec![Linear::forward(tape, weight, x[0])]);
    }

    #[test]
    fn gradient_of_two_products_of_one_input() {
        let mut layout = Layout::default();
        let (a, b) = (layout.matrix("a", 5, 6, Initial::ZEROS), layout.matrix("b", 3, 6, Initial::ZEROS));
        let case = Case::new(layout, &[(4, 6)], 4);
        case.check(|tape, x| vec![Linear::forward(tape, a, x[0]), Linear::forward(tape, b, x[0])]);
    }
}
