//! `loss = −1/T Σ_t ln softmax(x_t)[target_t]` over T rows; `dx = (softmax(x) − onehot(target)) / T`.

use rwkv_kernels::{cross_entropy, cross_entropy_backward};

use crate::ops::Read;
use crate::tape::{Backward, Forward, Tape, Tensor};

/// Saves the logits x; the softmax is computed again. The targets stay in the batch.
#[derive(Debug)]
pub(crate) struct CrossEntropy {
    logits: Tensor,
    /// Factor of the gradient: one over the number of tokens that the mean is of.
    scale: f32,
}

impl CrossEntropy {
    /// The gradient is `scale` times that of the sum over all tokens.
    pub(crate) fn record(tape: &mut Tape, logits: Tensor, scale: f32) {
        tape.apply(Self { logits, scale });
    }

    pub(crate) fn reads(&self, read: &mut dyn FnMut(Tensor, Read)) {
        read(self.logits, Read::Both);
    }

    /// The loss is a number for the caller, and there is no tensor to fill.
    #[allow(clippy::unused_self)]
    pub(crate) fn name(&self) -> &'static str {
        "cross entropy"
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        let n_vocab = t.values.width(self.logits);
        t.batch.loss = cross_entropy(t.cpu, t.values.get(self.logits), n_vocab, &t.batch.targets);
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let (x, targets) = (t.values.get(self.logits), &t.batch.targets);
        // The loss is the last operator: nothing else has contributed to the logits' gradient.
        let mut dx = t.gradients.open(self.logits, x.len());
        dx.values().copy_from_slice(x);
        let (n_vocab, mut losses) = (t.values.width(self.logits), vec![0.0; targets.len()]);
        cross_entropy_backward(t.cpu, dx.values(), n_vocab, targets, self.scale, &mut losses);
        t.gradients.close(dx);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rwkv_core::params::Layout;
    use rwkv_kernels::{Cpu, Isa};

    use super::*;
    use crate::ops::check::{compare, differences, numbers};

    #[test]
    fn gradient() {
        let (targets, n_vocab) = ([2, 0, 6], 7);
        let logits = numbers(1, targets.len() * n_vocab);
        for isa in Isa::available() {
            let cpu = Arc::new(Cpu::new(isa, 2));
            let run = |logits: &[f32]| {
                let mut tape = Tape::new(Arc::clone(&cpu), &Layout::default(), Vec::new());
                tape.begin(&[0; 3], 2);
                let x = tape.leaf(n_vocab, logits);
                let loss = tape.cross_entropy(x, &targets);
                (tape, x, loss)
            };
            let (mut tape, x, _) = run(&logits);
            tape.backward();
            let numeric = differences(logits.len(), |i, h| {
                let mut logits = logits.clone();
                logits[i] += h;
                f64::from(run(&logits).2)
            });
            compare(isa.name(), &tape.gradient(x), &numeric);
        }
    }

    #[test]
    fn equal_logits_cost_the_logarithm_of_the_vocabulary() {
        let mut tape = Tape::new(Arc::new(Cpu::new(Isa::Scalar, 1)), &Layout::default(), Vec::new());
        tape.begin(&[0; 2], 2);
        let x = tape.leaf(65, &[3.0; 130]);
        let loss = tape.cross_entropy(x, &[0, 64]);
        assert!((loss - 65_f32.ln()).abs() < 1e-6, "{loss}");
    }
}
