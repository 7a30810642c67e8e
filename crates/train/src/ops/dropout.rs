//! `y = x ⊙ m / (1 − p)` with a random mask m; `dx += dy ⊙ m / (1 − p)`.

use rwkv_kernels::{dropout, dropout_backward};

use crate::ops::Read;
use crate::tape::{Backward, Batch, Forward, Tape, Tensor};

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

    /// Groups of sequences have masks that have nothing in common.
    fn seed(&self, batch: &Batch) -> u64 {
        self.seed ^ (batch.first_row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn name(&self) -> &'static str {
        "dropout"
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        let seed = self.seed(t.batch);
        t.fill([self.y], |t, [y]| dropout(t.cpu, seed, self.p, t.values.get(self.x), y));
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let dy = t.gradients.take(self.y);
        let mut dx = t.gradients.open(self.x, dy.len());
        let store = dx.store;
        dropout_backward(t.cpu, self.seed(t.batch), self.p, &dy, dx.values(), store);
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
    fn gradient_alone_and_beside_another_use_of_the_input() {
        let case = Case::new(Layout::default(), &[(4, 9)], 4);
        case.check(|tape, x| vec![Dropout::forward(tape, x[0], 0.4, 5)]);
        case.check(|tape, x| {
            vec![Dropout::forward(tape, x[0], 0.4, 5), Dropout::forward(tape, x[0], 0.2, 6)]
        });
    }
}
