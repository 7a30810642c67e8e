//! `y = v s` with `s = Σ r·k·p` over each head of some channels. With `ds = Σ dy·v`: `dv += dy s`,
//! `dr += ds k p`, `dk += ds r p`, `dp += Σ_rows ds r k`.

use rwkv_core::params::Vector;
use rwkv_kernels::{BonusInputs, bonus, bonus_backward};

use crate::ops::Read;
use crate::tape::{Backward, Forward, Tape, Tensor};

/// Saves r, k and v, which are different tensors.
#[derive(Debug)]
pub(crate) struct Bonus {
    rkv: [Tensor; 3],
    p: Vector,
    size: usize,
    y: Tensor,
}

impl Bonus {
    pub(crate) fn forward(tape: &mut Tape, rkv: [Tensor; 3], p: Vector, size: usize) -> Tensor {
        let y = tape.declare(tape.width(rkv[0]));
        tape.apply(Self { rkv, p, size, y });
        y
    }

    pub(crate) fn reads(&self, read: &mut dyn FnMut(Tensor, Read)) {
        self.rkv.iter().for_each(|&x| read(x, Read::Both));
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn name(&self) -> &'static str {
        "bonus"
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        t.fill_rows([self.y], |cpu, params, values, rows, [y]| {
            let [r, k, v] = self.rkv.map(|x| values.rows_of(x, rows.clone()));
            bonus(cpu, BonusInputs { r, k, v, p: params.vector(self.p), size: self.size }, y);
        });
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let [r, k, v] = self.rkv.map(|x| t.values.get(x));
        let inputs = BonusInputs { r, k, v, p: t.params.vector(self.p), size: self.size };
        let dy = t.gradients.take(self.y);
        let mut out = self.rkv.map(|x| t.gradients.open(x, dy.len()));
        let [dp] = t.param_gradients.vectors([self.p]);
        let into = out.each_mut().map(|out| (out.store, out.values())).map(|(store, out)| (out, store));
        bonus_backward(t.cpu, inputs, &dy, into, dp);
        for out in out {
            t.gradients.close(out);
        }
        t.gradients.release(dy);
    }
}

#[cfg(test)]
mod tests {
    use rwkv_core::params::{Initial, Layout};

    use super::*;
    use crate::ops::check::Case;

    #[test]
    fn gradient() {
        let mut layout = Layout::default();
        let p = layout.vector("p", 6, Initial::ZEROS);
        let case = Case::new(layout, &[(4, 6); 3], 4);
        case.check(|tape, x| vec![Bonus::forward(tape, [x[0], x[1], x[2]], p, 3)]);
    }
}
