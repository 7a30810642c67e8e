//! `y = f(x)`, element by element; `dx += f′(x) ⊙ dy`.

use rwkv::exec::Unary as Function;
use rwkv_kernels::{unary, unary_backward};

use crate::ops::Read;
use crate::tape::{Backward, Forward, Tape, Tensor};

/// Saves x.
#[derive(Debug)]
pub(crate) struct Unary {
    f: Function,
    x: Tensor,
    y: Tensor,
}

impl Unary {
    pub(crate) fn forward(tape: &mut Tape, f: Function, x: Tensor) -> Tensor {
        let y = tape.declare(tape.width(x));
        tape.apply(Self { f, x, y });
        y
    }

    pub(crate) fn reads(&self, read: &mut dyn FnMut(Tensor, Read)) {
        read(self.x, Read::Both);
    }

    pub(crate) fn name(&self) -> &'static str {
        self.f.name()
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        t.fill_rows([self.y], |cpu, _, values, rows, [y]| {
            unary(cpu, self.f, values.rows_of(self.x, rows), y);
        });
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let x = t.values.get(self.x);
        let dy = t.gradients.take(self.y);
        let mut dx = t.gradients.open(self.x, x.len());
        let store = dx.store;
        unary_backward(t.cpu, self.f, x, &dy, dx.values(), store);
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
        for &f in Function::ALL {
            let mut case = Case::new(Layout::default(), &[(4, 5)], 4);
            for x in &mut case.inputs[0].2 {
                // The second derivative of max(x, 0)² jumps at zero, which no difference quotient across it
                // can see.
                *x += 0.1_f32.copysign(*x);
            }
            case.check(|tape, x| vec![Unary::forward(tape, f, x[0])]);
            case.check(|tape, x| vec![Unary::forward(tape, f, x[0]), Unary::forward(tape, f, x[0])]);
        }
    }
}
