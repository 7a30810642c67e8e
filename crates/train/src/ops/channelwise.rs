//! `y = f(a…, p)`, element by element, with a number p for each channel; `da += ∂f/∂a ⊙ dy`, likewise the other
//! inputs, and `dp += Σ_rows ∂f/∂p ⊙ dy`.

use std::array::from_fn;

use rwkv_core::Channelwise as Function;
use rwkv_core::params::Vector;
use rwkv_kernels::{channelwise, channelwise_backward};

use crate::ops::Read;
use crate::tape::{Backward, Forward, Tape, Tensor};

/// Saves its inputs. One value of this type fits every number of them, so that all operators fit one list.
#[derive(Debug)]
pub(crate) struct Channelwise {
    f: Function,
    /// Those beyond the function's inputs repeat the first, and are never looked at.
    x: [Tensor; Self::MAX],
    p: Vector,
    y: Tensor,
}

impl Channelwise {
    const MAX: usize = 3;

    /// The inputs are different tensors.
    pub(crate) fn forward<const N: usize>(tape: &mut Tape, f: Function, x: [Tensor; N], p: Vector) -> Tensor {
        const { assert!(1 <= N && N <= Self::MAX) };
        let y = tape.declare(tape.width(x[0]));
        tape.apply(Self { f, x: from_fn(|i| x[if i < N { i } else { 0 }]), p, y });
        y
    }

    pub(crate) fn reads(&self, read: &mut dyn FnMut(Tensor, Read)) {
        self.x[..self.f.inputs()].iter().for_each(|&x| read(x, Read::Both));
    }

    pub(crate) fn name(&self) -> &'static str {
        self.f.name()
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        match self.f.inputs() {
            1 => self.run_n::<1>(t),
            2 => self.run_n::<2>(t),
            _ => self.run_n::<{ Self::MAX }>(t),
        }
    }

    fn run_n<const N: usize>(&self, t: &mut Forward<'_>) {
        t.fill_rows([self.y], |cpu, params, values, rows, [y]| {
            let x: [_; N] = from_fn(|i| values.rows_of(self.x[i], rows.clone()));
            channelwise(cpu, self.f, x, params.vector(self.p), y);
        });
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        match self.f.inputs() {
            1 => self.backward_n::<1>(t),
            2 => self.backward_n::<2>(t),
            _ => self.backward_n::<{ Self::MAX }>(t),
        }
    }

    fn backward_n<const N: usize>(&self, t: &mut Backward<'_>) {
        let inputs: [Tensor; N] = from_fn(|i| self.x[i]);
        let (x, p) = (inputs.map(|x| t.values.get(x)), t.params.vector(self.p));
        let dy = t.gradients.take(self.y);
        let mut dx = inputs.map(|x| t.gradients.open(x, dy.len()));
        let [dp] = t.param_gradients.vectors([self.p]);
        let into = dx.each_mut().map(|dx| (dx.store, dx.values())).map(|(store, dx)| (dx, store));
        channelwise_backward(t.cpu, self.f, x, p, &dy, into, dp);
        for dx in dx {
            t.gradients.close(dx);
        }
        t.gradients.release(dy);
    }
}

#[cfg(test)]
mod tests {
    use rwkv_core::params::{Initial, Layout};

    use super::*;
    use crate::ops::check::Case;

    fn gradient_of<const N: usize>() {
        for &f in Function::ALL.iter().filter(|f| f.inputs() == N) {
            let mut layout = Layout::default();
            let p = layout.vector("p", 5, Initial::ZEROS);
            let case = Case::new(layout, &[(4, 5); N], 4);
            case.check(|tape, x| vec![Channelwise::forward::<N>(tape, f, from_fn(|i| x[i]), p)]);
        }
    }

    #[test]
    fn gradient() {
        gradient_of::<1>();
        gradient_of::<2>();
        gradient_of::<3>();
    }
}
