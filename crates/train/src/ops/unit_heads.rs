//! `y = x/max(‖x‖, 1e-12)` in each head of some channels; `dx = (dy − y (y·dy))/‖x‖`.

use rwkv_kernels::{unit_heads, unit_heads_backward};

use crate::ops::Read;
use crate::tape::{Backward, Forward, Tape, Tensor};

/// Saves x; the lengths are computed again.
#[derive(Debug)]
pub(crate) struct UnitHeads {
    x: Tensor,
    size: usize,
    y: Tensor,
}

impl UnitHeads {
    pub(crate) fn forward(tape: &mut Tape, x: Tensor, size: usize) -> Tensor {
        let y = tape.declare(tape.width(x));
        tape.apply(Self { x, size, y });
        y
    }

    pub(crate) fn reads(&self, read: &mut dyn FnMut(Tensor, Read)) {
        read(self.x, Read::Both);
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn name(&self) -> &'static str {
        "unit heads"
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        t.fill_rows([self.y], |cpu, _, values, rows, [y]| {
            unit_heads(cpu, values.rows_of(self.x, rows), self.size, y);
        });
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let x = t.values.get(self.x);
        let dy = t.gradients.take(self.y);
        let mut dx = t.gradients.open(self.x, x.len());
        let store = dx.store;
        unit_heads_backward(t.cpu, x, self.size, &dy, dx.values(), store);
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
        let case = Case::new(Layout::default(), &[(4, 8)], 4);
        case.check(|tape, x| vec![UnitHeads::forward(tape, x[0], 4)]);
        case.check(|tape, x| vec![UnitHeads::forward(tape, x[0], 4), UnitHeads::forward(tape, x[0], 8)]);
    }
}
