//! `y = max(x, 0)²`; `dx += 2 max(x, 0) dy`.

use rwkv_kernels::{relu_squared, relu_squared_backward};

use crate::tape::{Backward, Forward, Tape, Tensor};

/// Saves x.
#[derive(Debug)]
pub(crate) struct ReluSquared {
    x: Tensor,
    y: Tensor,
}

impl ReluSquared {
    pub(crate) fn forward(tape: &mut Tape, x: Tensor) -> Tensor {
        let (rows, width) = (tape.values.rows(x), tape.values.width(x));
        let y = tape.declare(rows, width);
        tape.apply(Self { x, y });
        y
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        t.fill([self.y], |t, [y]| relu_squared(t.cpu, t.values.get(self.x), y));
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let x = t.values.get(self.x);
        let dy = t.gradients.take(self.y);
        let mut dx = t.gradients.open(self.x, x.len());
        let store = dx.store;
        relu_squared_backward(t.cpu, x, &dy, dx.values(), store);
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
        let mut case = Case::new(Layout::default(), &[(4, 5)], 4);
        for x in &mut case.inputs[0].2 {
            // The second derivative jumps at zero, which no difference quotient across it can see.
            *x += 0.1_f32.copysign(*x);
        }
        case.check(|tape, x| vec![ReluSquared::forward(tape, x[0])]);
    }
}
