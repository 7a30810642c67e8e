//! `loss = −1/T Σ_t ln softmax(W x_t)[target_t]` over T rows x (T, K), W (V, K): [`Linear`] and
//! [`CrossEntropy`](super::CrossEntropy) as one, for a step that wants nothing else of the logits.
//!
//! Loss and gradients are computed some rows at a time, as in Liger Kernel (Hsu et al.,
//! <https://arxiv.org/abs/2410.10989>): the logits y = x Wᵀ of these rows, what `dy` is of them in the same place, and
//! `dx = dy W`. So there are V logits for some rows alone, which matters with a large vocabulary. All numbers are those of
//! the two operators, to the last bit.

use std::ops::Range;

use rwkv_core::params::Matrix;
use rwkv_kernels::{
    Packing, ROWS_OF_TASK, RowsOf, cross_entropy_backward, linear_dx_packed, linear_packed, pack_rows,
    packed_len,
};

use super::{CrossEntropy, Linear};
use crate::ops::Read;
use crate::profile::{Cost, Pass};
use crate::tape::{Backward, Forward, PACKING, Pending, Tape, Tensor, packing_of};

/// Floats of the logits that are there at a time, for each thread, unless that would be very few rows: they stay in
/// the L2 cache.
const LOGITS: usize = 1 << 18;

/// Saves x as the products multiply it. `dW` waits for all sequences.
#[derive(Debug)]
pub(crate) struct HeadLoss {
    weight: Matrix,
    x: Tensor,
    /// Factor of the gradient: one over the number of tokens that the mean is of.
    scale: f32,
}

/// Rows whose logits are there at a time.
pub(crate) fn rows_of_logits(n_vocab: usize, threads: usize) -> usize {
    (LOGITS / n_vocab).next_multiple_of(ROWS_OF_TASK).max(ROWS_OF_TASK) * threads
}

impl HeadLoss {
    /// Records the loss of `logits`: as this operator, in place of the product that makes them, if that is the last one
    /// and its weights are packed.
    pub(crate) fn record(tape: &mut Tape, logits: Tensor, scale: f32) {
        match tape.take_product(logits) {
            Some((weight, x)) => tape.apply(Self { weight, x, scale }),
            None => CrossEntropy::record(tape, logits, scale),
        }
    }

    pub(crate) fn reads(&self, read: &mut dyn FnMut(Tensor, Read)) {
        read(self.x, Read::Both);
    }

    pub(crate) fn weight(&self) -> Matrix {
        self.weight
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn name(&self) -> &'static str {
        "cross entropy"
    }

    /// What there is to do before backward: the loss is a number, which nothing reads before.
    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        t.values.pack(t.cpu, t.profile, self.x, t.params.is_trained(self.weight.index()));
    }

    /// Bytes of the logits and of their gradient, which takes their place.
    pub(crate) fn cost(rows: usize, n_vocab: usize) -> Cost {
        Cost { operations: 0, bytes: 8 * (rows * n_vocab) as u64 }
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let (of, k) = (t.values.rows(), t.values.width(self.x));
        let n = t.params.layout().specs()[self.weight.index()].rows;
        let some = rows_of_logits(n, t.cpu.threads()).min(of);
        let pooled = |packing, rows| t.gradients.pooled(packed_len(t.cpu, packing, rows, n));
        let mut logits = t.gradients.pooled(some * n);
        let mut packed = (!Packing::Rows.is_as_it_is(t.cpu)).then(|| pooled(Packing::Rows, some));
        let mut output = t.params.is_trained(self.weight.index()).then(|| pooled(Packing::Output, of));
        let mut dx = t.gradients.open(self.x, t.values.len(self.x));
        let (mut losses, store) = (vec![0.0; some], dx.store);
        t.batch.loss = 0.0;
        for first in (0..of).step_by(some) {
            let rows = first..of.min(first + some);
            let (logits, losses) = (&mut logits[..rows.len() * n], &mut losses[..rows.len()]);
            self.logits(t, rows.clone(), [n, k], logits);
            cross_entropy_backward(t.cpu, logits, n, &t.batch.targets[rows.clone()], self.scale, losses);
            t.batch.loss = losses.iter().fold(t.batch.loss, |sum, loss| sum + loss);

            let start = t.profile.start();
            let outs = usize::from(packed.is_some()) + usize::from(output.is_some());
            let packed = packed.as_mut().map(|packed| {
                let packed = &mut packed[..packed_len(t.cpu, Packing::Rows, rows.len(), n)];
                pack_rows(
                    t.cpu,
                    logits,
                    n,
                    RowsOf { first: 0, of: rows.len() },
                    [(Packing::Rows, &mut *packed)],
                );
                &*packed
            });
            if let Some(output) = &mut output {
                pack_rows(t.cpu, logits, n, RowsOf { first, of }, [(Packing::Output, &mut **output)]);
            }
            let work = || packing_of(t.cpu, logits.len(), outs);
            t.profile.stop(start, (Pass::Backward, PACKING), t.cpu.threads(), work);

            let dx = &mut dx.values()[rows.start * k..rows.end * k];
            let weight = t.weights.get(self.weight).expect("its weights are packed for backward");
            let start = t.profile.start();
            linear_dx_packed(t.cpu, packed.unwrap_or(logits), weight, [n, k], dx, store);
            let operations = || Cost { operations: 2 * (rows.len() * n * k) as u64, bytes: 0 };
            t.profile.stop(start, (Pass::Backward, Linear::NAME), t.cpu.threads(), operations);
        }
        t.gradients.close(dx);
        if let Some(dy) = output {
            let x = t.values.packed_input(self.x);
            t.pending.push(Pending::Product { weight: self.weight, k, x, dy });
        }
    }

    /// The logits of some rows.
    fn logits(&self, t: &mut Backward<'_>, rows: Range<usize>, [n, k]: [usize; 2], logits: &mut [f32]) {
        let [start, end] = [rows.start, rows.end].map(|rows| packed_len(t.cpu, Packing::Rows, rows, k));
        let x = &t.values.packed_rows(self.x)[start..end];
        let weight = t.forward_weights.get(self.weight).expect("its weights were packed for forward");
        let start = t.profile.start();
        linear_packed(t.cpu, x, weight, [n, k], logits);
        let operations = || Cost { operations: 2 * (rows.len() * n * k) as u64, bytes: 0 };
        t.profile.stop(start, (Pass::Forward, Linear::NAME), t.cpu.threads(), operations);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rwkv_core::params::{Initial, Layout};
    use rwkv_kernels::{Cpu, Isa};

    use super::*;
    use crate::ops::check::{compare, differences, numbers};

    const ROWS: usize = 6;
    const WIDTH: usize = 5;
    const N_VOCAB: usize = 7;
    const TARGETS: [u32; ROWS] = [2, 0, 6, 6, 1, 3];

    fn gradients(cpu: &Arc<Cpu>, x: &[f32], w: &[f32]) -> (f32, Vec<f32>, Vec<f32>) {
        let mut layout = Layout::default();
        let weight = layout.matrix("head", N_VOCAB, WIDTH, Initial::ZEROS);
        let mut tape = Tape::new(Arc::clone(cpu), &layout, vec![w.to_vec()]);
        tape.begin(&[0; ROWS], 2);
        let x = tape.leaf(WIDTH, x);
        let logits = Linear::forward(&mut tape, weight, x);
        let loss = tape.learn(logits, &TARGETS, 1, &mut || true, &mut |_, _| ());
        assert_eq!(tape.n_tensors(), 1, "the logits are not a tensor");
        (loss, tape.gradient(x), tape.param_gradients()[0].clone())
    }

    #[test]
    fn gradient() {
        let (x, w) = (numbers(1, ROWS * WIDTH), numbers(2, N_VOCAB * WIDTH));
        for isa in Isa::available() {
            let cpu = Arc::new(Cpu::new(isa, 2));
            let (_, dx, dw) = gradients(&cpu, &x, &w);
            for (what, got, values) in [("dx", dx, &x), ("dw", dw, &w)] {
                let numeric = differences(values.len(), |i, h| {
                    let mut values = values.clone();
                    values[i] += h;
                    let (x, w) = if what == "dx" { (&values, &w) } else { (&x, &values) };
                    f64::from(gradients(&cpu, x, w).0)
                });
                compare(&format!("{isa} {what}"), &got, &numeric);
            }
        }
    }

    /// More rows than there are logits for at a time, and another number of them for each number of threads.
    #[test]
    fn is_the_product_and_the_loss_to_the_last_bit() {
        const N_VOCAB: usize = 4099;
        let rows = rows_of_logits(N_VOCAB, 1) * 2 + 5;
        let (values, w) = (numbers(1, rows * WIDTH), numbers(2, N_VOCAB * WIDTH));
        let targets: Vec<u32> = (0..rows as u32).map(|row| row * row % N_VOCAB as u32).collect();
        let mut layout = Layout::default();
        let weight = layout.matrix("head", N_VOCAB, WIDTH, Initial::ZEROS);
        let learn = |cpu: Cpu, as_one: bool| {
            let mut tape = Tape::new(Arc::new(cpu), &layout, vec![w.clone()]);
            tape.begin(&vec![0; rows], rows);
            let x = tape.leaf(WIDTH, &values);
            let logits = Linear::forward(&mut tape, weight, x);
            let loss = if as_one {
                tape.learn(logits, &targets, 1, &mut || true, &mut |_, _| ())
            } else {
                let loss = tape.cross_entropy(logits, &targets);
                tape.backward();
                loss
            };
            (loss.to_bits(), tape.gradient(x), tape.param_gradients()[0].clone())
        };
        for isa in Isa::available() {
            for precision in [rwkv_kernels::Precision::F32, rwkv_kernels::Precision::Bf16] {
                if precision.is_supported(isa) {
                    let cpu = |threads| Cpu::new(isa, threads).with_precision(precision);
                    let expected = learn(cpu(1), false);
                    for threads in [1, 2, 3] {
                        assert!(learn(cpu(threads), true) == expected, "{isa} {precision:?} {threads}");
                    }
                }
            }
        }
    }
}
