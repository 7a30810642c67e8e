//! `y = x Wᵀ`, x (T, K), W (N, K); `dx += dy W`, `dW += dyᵀ x`.
//!
//! W may be frozen, and then be in any format of a file: there is no dW, and dx is the gradient through the
//! decoded weights.

use rwkv::params::Matrix;
use rwkv_kernels::{linear, linear_dw, linear_dx, linear_frozen, linear_frozen_dx};

use crate::tape::{Backward, Forward, Tape, Tensor};

/// Saves x.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Matrix,
    x: Tensor,
    y: Tensor,
}

impl Linear {
    pub(crate) fn forward(tape: &mut Tape, weight: Matrix, x: Tensor) -> Tensor {
        let outputs = tape.params.layout().specs()[weight.index()].rows;
        let y = tape.declare(tape.values.rows(x), outputs);
        tape.apply(Self { weight, x, y });
        y
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        t.fill([self.y], |t, [y]| {
            let x = t.values.get(self.x);
            match t.params.f32_matrix(self.weight) {
                Some(weight) => linear(t.cpu, x, weight, t.values.width(self.x), y),
                None => linear_frozen(t.cpu, x, t.params.matrix(self.weight), y),
            }
        });
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let (x, inputs) = (t.values.get(self.x), t.values.width(self.x));
        let dy = t.gradients.take(self.y);
        let mut dx = t.gradients.open(self.x, x.len());
        let store = dx.store;
        match t.params.f32_matrix(self.weight) {
            Some(weight) => linear_dx(t.cpu, &dy, weight, inputs, dx.values(), store),
            None => linear_frozen_dx(t.cpu, &dy, t.params.matrix(self.weight), dx.values(), store),
        }
        if let Some(dweight) = t.param_gradients.matrix(self.weight) {
            linear_dw(t.cpu, &dy, x, inputs, dweight);
        }
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
