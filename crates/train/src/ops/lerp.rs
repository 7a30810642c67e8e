//! `z_i = x ⊙ μ_i + y ⊙ (1 − μ_i)` for N vectors μ_i at once.
//!
//! `dx += Σ_i dz_i ⊙ μ_i`, `dy += Σ_i dz_i ⊙ (1 − μ_i)`, `dμ_i += Σ_rows dz_i ⊙ (x − y)`.

use std::array::from_fn;

use rwkv::params::Vector;
use rwkv_kernels::{lerp, lerp_backward};

use crate::ops::Read;
use crate::tape::{Backward, Forward, Tape, Tensor};

/// Saves x and y. One value of this type fits every N, so that all operators fit one list.
#[derive(Debug)]
pub(crate) struct Lerp {
    x: Tensor,
    y: Tensor,
    n: usize,
    mix: [Vector; Self::MAX],
    out: [Tensor; Self::MAX],
}

impl Lerp {
    /// Six: v7 mixes r, w, k, v, a and g.
    const MAX: usize = 6;

    pub(crate) fn forward<const N: usize>(
        tape: &mut Tape,
        x: Tensor,
        y: Tensor,
        mix: [Vector; N],
    ) -> [Tensor; N] {
        const { assert!(1 <= N && N <= Self::MAX) };
        let width = tape.width(x);
        let out: [Tensor; N] = from_fn(|_| tape.declare(width));
        // What is beyond N repeats the first, and is never looked at.
        let (mix, out_n) =
            (from_fn(|i| mix[if i < N { i } else { 0 }]), from_fn(|i| out[if i < N { i } else { 0 }]));
        tape.apply(Self { x, y, n: N, mix, out: out_n });
        out
    }

    pub(crate) fn reads(&self, read: &mut dyn FnMut(Tensor, Read)) {
        read(self.x, Read::Both);
        read(self.y, Read::Both);
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn name(&self) -> &'static str {
        "lerp"
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        match self.n {
            1 => self.run_n::<1>(t),
            2 => self.run_n::<2>(t),
            3 => self.run_n::<3>(t),
            4 => self.run_n::<4>(t),
            5 => self.run_n::<5>(t),
            _ => self.run_n::<{ Self::MAX }>(t),
        }
    }

    fn run_n<const N: usize>(&self, t: &mut Forward<'_>) {
        t.fill_rows(from_fn(|i| self.out[i]), |cpu, params, values, rows, out| {
            let mix: [_; N] = from_fn(|i| params.vector(self.mix[i]));
            let [x, y] = [self.x, self.y].map(|x| values.rows_of(x, rows.clone()));
            lerp::<N>(cpu, x, y, mix, out);
        });
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        match self.n {
            1 => self.backward_n::<1>(t),
            2 => self.backward_n::<2>(t),
            3 => self.backward_n::<3>(t),
            4 => self.backward_n::<4>(t),
            5 => self.backward_n::<5>(t),
            _ => self.backward_n::<{ Self::MAX }>(t),
        }
    }

    fn backward_n<const N: usize>(&self, t: &mut Backward<'_>) {
        let vectors: [Vector; N] = from_fn(|i| self.mix[i]);
        let (x, y) = (t.values.get(self.x), t.values.get(self.y));
        let dout: [_; N] = from_fn(|i| t.gradients.take(self.out[i]));
        let mut dx = t.gradients.open(self.x, x.len());
        let mut dy = t.gradients.open(self.y, y.len());
        let (dx_store, dy_store) = (dx.store, dy.store);
        lerp_backward::<N>(
            t.cpu,
            x,
            y,
            vectors.map(|mix| t.params.vector(mix)),
            from_fn(|i| &**dout[i]),
            dx.values(),
            dx_store,
            dy.values(),
            dy_store,
            t.param_gradients.vectors(vectors),
        );
        t.gradients.close(dx);
        t.gradients.close(dy);
        for gradient in dout {
            t.gradients.release(gradient);
        }
    }
}

#[cfg(test)]
mod tests {
    use rwkv::params::{Initial, Layout};

    use super::*;
    use crate::ops::check::Case;

    fn gradient_of<const N: usize>() {
        let mut layout = Layout::default();
        let mix: [_; N] = from_fn(|i| layout.vector(format!("mix_{i}"), 5, Initial::ZEROS));
        let case = Case::new(layout, &[(4, 5), (4, 5)], 4);
        case.check(|tape, x| Lerp::forward(tape, x[0], x[1], mix).to_vec());
    }

    #[test]
    fn gradient() {
        gradient_of::<1>();
        gradient_of::<2>();
        gradient_of::<3>();
        gradient_of::<4>();
        gradient_of::<5>();
        gradient_of::<6>();
    }
}
