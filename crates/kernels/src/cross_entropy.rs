//! The loss of next-token prediction: `−ln softmax(logits)[target]`.
//!
//! `softmax(x)_i = exp(x_i − m)/Σ_j exp(x_j − m)` with `m = max x`, so no exponential overflows.

use crate::block::{elements, rows, rows_per_block};
use crate::simd::{Operation, dispatch};
use crate::{Cpu, Parts};

/// The sum over the rows of `−ln softmax(logits)[target]`, in nats; logits (rows, n_vocab), one target a row.
///
/// # Panics
/// If the lengths disagree or a target is not below `n_vocab`.
pub fn cross_entropy(cpu: &Cpu, logits: &[f32], n_vocab: usize, targets: &[u32]) -> f64 {
    check(logits, n_vocab, targets);
    let block = rows_per_block(n_vocab);
    let mut sums = vec![0.0; targets.len().div_ceil(block)];
    let parts = Parts::new(&mut sums);
    cpu.run_blocks(targets.len(), block, |rows| {
        let operation =
            Forward { logits: &logits[elements(&rows, n_vocab)], n_vocab, targets: &targets[rows.clone()] };
        // SAFETY: each block has a sum of its own.
        *unsafe { parts.item(rows.start / block) } = dispatch(cpu.isa(), operation);
    });
    sums.iter().sum()
}

/// The gradient of `scale ·` [`cross_entropy`]: `dlogits (rows, n_vocab) = (softmax(logits) − onehot(target))·scale`.
///
/// # Panics
/// If the lengths disagree or a target is not below `n_vocab`.
pub fn cross_entropy_backward(
    cpu: &Cpu,
    logits: &[f32],
    n_vocab: usize,
    targets: &[u32],
    scale: f32,
    dlogits: &mut [f32],
) {
    check(logits, n_vocab, targets);
    assert_eq!(dlogits.len(), logits.len());
    let dlogits = Parts::new(dlogits);
    cpu.run_blocks(targets.len(), rows_per_block(n_vocab), |rows| {
        let range = elements(&rows, n_vocab);
        // SAFETY: blocks of rows do not overlap.
        let dlogits = unsafe { dlogits.part(range.clone()) };
        let (logits, targets) = (&logits[range], &targets[rows]);
        dispatch(cpu.isa(), Backward { logits, n_vocab, targets, scale, dlogits });
    });
}

fn check(logits: &[f32], n_vocab: usize, targets: &[u32]) {
    assert_eq!(rows(logits.len(), n_vocab), targets.len());
    for &target in targets {
        assert!((target as usize) < n_vocab, "target {target} of {n_vocab}");
    }
}

struct Forward<'a> {
    logits: &'a [f32],
    n_vocab: usize,
    targets: &'a [u32],
}

impl Operation for Forward<'_> {
    type Output = f64;

    fn scalar(self) -> f64 {
        let mut loss = 0.0;
        for (x, &target) in self.logits.chunks_exact(self.n_vocab).zip(self.targets) {
            let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = x.iter().map(|x| (x - max).exp()).sum();
            loss += f64::from(sum).ln() - f64::from(x[target as usize] - max);
        }
        loss
    }
}

struct Backward<'a> {
    logits: &'a [f32],
    n_vocab: usize,
    targets: &'a [u32],
    scale: f32,
    dlogits: &'a mut [f32],
}

impl Operation for Backward<'_> {
    type Output = ();

    fn scalar(self) {
        let rows = self.logits.chunks_exact(self.n_vocab).zip(self.dlogits.chunks_exact_mut(self.n_vocab));
        for ((x, dx), &target) in rows.zip(self.targets) {
            let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = x.iter().map(|x| (x - max).exp()).sum();
            for (x, dx) in x.iter().zip(&mut *dx) {
                *dx = (x - max).exp() / sum * self.scale;
            }
            dx[target as usize] -= self.scale;
        }
    }
}
