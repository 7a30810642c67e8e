//! `y_t = x_{t−1}` within each text, zero for its first token; `dx_{t−1} += dy_t`.

use rwkv_kernels::{shift, shift_backward};

use crate::tape::{Backward, Tape, Tensor};

/// Remembers nothing; where texts begin stays in the batch.
#[derive(Debug)]
pub(crate) struct Shift {
    x: Tensor,
    y: Tensor,
}

impl Shift {
    pub(crate) fn forward(tape: &mut Tape, x: Tensor) -> Tensor {
        let (rows, width) = (tape.values.rows(x), tape.values.width(x));
        let y = tape.compute(rows, width, |t, y| {
            shift(&t.cpu, &t.batch.segments, &mut [], 0, width, t.values.get(x), y);
        });
        tape.record(Self { x, y });
        y
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let dy = t.gradients.take(self.y);
        let mut dx = t.gradients.open(self.x, dy.len());
        let store = dx.store;
        let width = t.values.width(self.x);
        shift_backward(t.cpu, &t.batch.segments, &mut [], 0, width, &dy, dx.values(), store);
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
    fn gradient_over_texts_of_three_three_and_two_tokens() {
        let case = Case::new(Layout::default(), &[(8, 5)], 3);
        case.check(|tape, x| vec![Shift::forward(tape, x[0])]);
    }

    #[test]
    fn gradient_beside_another_use_of_the_input() {
        let case = Case::new(Layout::default(), &[(8, 5)], 4);
        case.check(|tape, x| vec![Shift::forward(tape, x[0]), Shift::forward(tape, x[0])]);
    }
}
