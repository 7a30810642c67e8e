//! `y = x ⊙ m / (1 − p)` with a random mask m; `dx += dy ⊙ m / (1 − p)`.

use rwkv_kernels::{Mask, dropout, dropout_backward};

use crate::ops::Read;
use crate::tape::{Backward, Batch, Forward, Tape, Tensor, Values};

/// Saves nothing: the mask is a function of the seed, the same in backward and when the operator runs again.
#[derive(Debug)]
pub(crate) struct Dropout {
    x: Tensor,
    p: f32,
    seed: u64,
    y: Tensor,
}

impl Dropout {
    pub(crate) fn forward(tape: &mut Tape, x: Tensor, p: f32, seed: u64) -> Tensor {
        let y = tape.declare(tape.width(x));
        tape.apply(Self { x, p, seed, y });
        y
    }

    pub(crate) fn reads(&self, read: &mut dyn FnMut(Tensor, Read)) {
        read(self.x, Read::Forward);
    }

    /// However the rows of a batch are grouped, and whichever rank has them.
    fn mask(&self, batch: &Batch, values: &Values) -> Mask {
        Mask { seed: self.seed, before: batch.first_row as u64 * values.width(self.x) as u64, p: self.p }
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn name(&self) -> &'static str {
        "dropout"
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        let mask = self.mask(t.batch, t.values);
        t.fill([self.y], |t, [y]| dropout(t.cpu, mask, t.values.get(self.x), y));
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let dy = t.gradients.take(self.y);
        let mut dx = t.gradients.open(self.x, dy.len());
        let store = dx.store;
        dropout_backward(t.cpu, self.mask(t.batch, t.values), &dy, dx.values(), store);
        t.gradients.close(dx);
        t.gradients.release(dy);
    }
}

#[cfg(test)]
mod tests {
    use rwkv_core::params::Layout;

    use super::*;
    use crate::ops::check::Case;

    #[test]
    fn gradient_alone_and_beside_another_use_of_the_input() {
        let case = Case::new(Layout::default(), &[(4, 9)], 4);
        case.check(|tape, x| vec![Dropout::forward(tape, x[0], 0.4, 5)]);
        case.check(|tape, x| {
            vec![Dropout::forward(tape, x[0], 0.4, 5), Dropout::forward(tape, x[0], 0.2, 6)]
        });
    }
}
