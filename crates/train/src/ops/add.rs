//! `y = a + b`; `da += dy`, `db += dy`.

use rwkv_kernels::{Store, accumulate, add};

use crate::tape::{Backward, Forward, Gradient, Tape, Tensor};

/// Saves nothing: backward needs no values.
#[derive(Debug)]
pub(crate) struct Add {
    a: Tensor,
    b: Tensor,
    y: Tensor,
}

impl Add {
    pub(crate) fn forward(tape: &mut Tape, a: Tensor, b: Tensor) -> Tensor {
        let (rows, width) = (tape.values.rows(a), tape.values.width(a));
        let y = tape.declare(rows, width);
        tape.apply(Self { a, b, y });
        y
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        t.fill([self.y], |t, [y]| add(t.cpu, t.values.get(self.a), t.values.get(self.b), y));
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let dy = t.gradients.take(self.y);
        contribute(t, &dy, self.a);
        contribute(t, &dy, self.b);
        t.gradients.release(dy);
    }
}

/// `dx += dy`, without a copy where dx has no other contribution yet.
fn contribute(t: &mut Backward<'_>, dy: &Gradient, x: Tensor) {
    if !t.gradients.share(dy, x) {
        let mut dx = t.gradients.open(x, dy.len());
        debug_assert_eq!(dx.store, Store::Add);
        accumulate(t.cpu, dy, dx.values());
        t.gradients.close(dx);
    }
}

#[cfg(test)]
mod tests {
    use rwkv::params::Layout;

    use super::*;
    use crate::ops::check::Case;

    #[test]
    fn gradient() {
        let case = Case::new(Layout::default(), &[(3, 5), (3, 5)], 3);
        case.check(|tape, x| vec![Add::forward(tape, x[0], x[1])]);
    }

    #[test]
    fn gradient_where_an_input_is_used_again() {
        let case = Case::new(Layout::default(), &[(3, 5), (3, 5)], 3);
        case.check(|tape, x| {
            let y = Add::forward(tape, x[0], x[1]);
            let z = Add::forward(tape, y, x[0]);
            vec![Add::forward(tape, z, z)]
        });
    }
}
