//! `y = factor · x`; `dx += factor · dy`.

use rwkv_kernels::Store;

use crate::ops::Read;
use crate::tape::{Backward, Forward, Tape, Tensor};

/// Saves nothing. For the narrow middle of an adapter: a plain loop is all that it takes.
#[derive(Debug)]
pub(crate) struct Scale {
    x: Tensor,
    factor: f32,
    y: Tensor,
}

impl Scale {
    pub(crate) fn forward(tape: &mut Tape, x: Tensor, factor: f32) -> Tensor {
        let y = tape.declare(tape.width(x));
        tape.apply(Self { x, factor, y });
        y
    }

    pub(crate) fn reads(&self, read: &mut dyn FnMut(Tensor, Read)) {
        read(self.x, Read::Forward);
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn name(&self) -> &'static str {
        "scale"
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        t.fill([self.y], |t, [y]| {
            y.iter_mut().zip(t.values.get(self.x)).for_each(|(y, x)| *y = self.factor * x);
        });
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let dy = t.gradients.take(self.y);
        let mut dx = t.gradients.open(self.x, dy.len());
        let store = dx.store;
        for (dx, dy) in dx.values().iter_mut().zip(dy.iter()) {
            match store {
                Store::Set => *dx = self.factor * dy,
                Store::Add => *dx += self.factor * dy,
            }
        }
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
        let case = Case::new(Layout::default(), &[(4, 3)], 4);
        case.check(|tape, x| vec![Scale::forward(tape, x[0], 0.75)]);
        case.check(|tape, x| vec![Scale::forward(tape, x[0], 0.75), Scale::forward(tape, x[0], -2.0)]);
    }
}
