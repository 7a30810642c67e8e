//! Gradients against central differences, for the tests of the operators.
//!
//! The loss is `Σ c ⊙ y` over all outputs y of an operator, with fixed numbers c, so that `dy = c`.
//! Differences are taken with the fourth-order stencil `(8 (f(+h) − f(−h)) − (f(+2h) − f(−2h))) / 12h`, whose
//! own error at h = 0.02 is near that of the f32 arithmetic beneath it, and compared as `|g − g'| / max |g'|`
//! within each tensor.

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rwkv::params::{Initial, Layout, Vector};
use rwkv::store::Parameters;
use rwkv_kernels::{Cpu, Isa};

use crate::tape::{Tape, Tensor};

const STEP: f32 = 0.02;
const TOLERANCE: f64 = 1e-3;

/// An operator's inputs: parameters as `layout` declares them, and activations as (rows, width, values).
pub(crate) struct Case {
    pub(crate) layout: Layout,
    pub(crate) params: Vec<Vec<f32>>,
    pub(crate) inputs: Vec<(usize, usize, Vec<f32>)>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) ctx_len: usize,
    /// The last parameter, if it is the state that sequences start from.
    state: Option<Vector>,
    /// Frozen parameters in place of `params`: inputs alone have gradients.
    frozen: Option<Parameters>,
}

/// `len` numbers, uniform in ±1.
pub(crate) fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

impl Case {
    /// Random parameters and activations: `inputs` are (rows, width); texts are `ctx_len` rows long.
    pub(crate) fn new(layout: Layout, inputs: &[(usize, usize)], ctx_len: usize) -> Self {
        let rows = inputs.first().map_or(0, |&(rows, _)| rows);
        let params = layout.specs().iter().zip(1..).map(|(spec, seed)| numbers(seed, spec.len())).collect();
        let inputs = inputs.iter().zip(100..);
        let inputs =
            inputs.map(|(&(rows, width), seed)| (rows, width, numbers(seed, rows * width))).collect();
        Self { layout, params, inputs, tokens: vec![0; rows], ctx_len, state: None, frozen: None }
    }

    /// As [`new`](Self::new), over parameters that are not trained and may be in any format of a file.
    pub(crate) fn over(frozen: Parameters, inputs: &[(usize, usize)], ctx_len: usize) -> Self {
        Self { frozen: Some(frozen), ..Self::new(Layout::default(), inputs, ctx_len) }
    }

    /// Starts every sequence from one state of `len` floats, which is a parameter like others.
    pub(crate) fn with_state(mut self, len: usize) -> Self {
        self.state = Some(self.layout.vector("state", len, Initial::ZEROS));
        self.params.push(numbers(99, len));
        self
    }

    /// Compares the gradients of all parameters and inputs, on every instruction set that this machine has.
    pub(crate) fn check(&self, forward: impl Fn(&mut Tape, &[Tensor]) -> Vec<Tensor>) {
        for isa in Isa::available() {
            for are_groups in [false, true] {
                self.check_on(&Arc::new(Cpu::new(isa, 2)), are_groups, &forward);
            }
        }
    }

    /// With all sequences as one group, or each as one of its own.
    fn check_on(
        &self,
        cpu: &Arc<Cpu>,
        are_groups: bool,
        forward: &impl Fn(&mut Tape, &[Tensor]) -> Vec<Tensor>,
    ) {
        let run = |params: &[Vec<f32>], inputs: &[(usize, usize, Vec<f32>)]| {
            let trained = || Parameters::of_raw(self.layout.clone(), params.to_vec());
            let mut tape = Tape::of_store(Arc::clone(cpu), self.frozen.clone().unwrap_or_else(trained));
            if let Some(state) = self.state {
                tape.start_from_parameter(state);
            }
            if are_groups {
                tape.cut_into_sequences();
            }
            tape.begin(&self.tokens, self.ctx_len);
            let leaves: Vec<_> = inputs.iter().map(|(_, width, x)| tape.leaf(*width, x)).collect();
            let outputs = forward(&mut tape, &leaves);
            (tape, leaves, outputs)
        };
        let loss = |params: &[Vec<f32>], inputs: &[(usize, usize, Vec<f32>)]| -> f64 {
            let (mut tape, _, outputs) = run(params, inputs);
            let parts = outputs.iter().zip(200..).map(|(&y, seed)| {
                let c = numbers(seed, tape.value(y).len());
                tape.value(y).iter().zip(&c).map(|(&y, &c)| f64::from(y) * f64::from(c)).sum::<f64>()
            });
            parts.sum()
        };

        let (mut tape, leaves, outputs) = run(&self.params, &self.inputs);
        for (&y, seed) in outputs.iter().zip(200..) {
            let c = numbers(seed, tape.value(y).len());
            tape.seed(y, &c);
        }
        tape.backward();

        for index in tape.params().trained() {
            let gradient = &tape.param_gradients()[index];
            let mut params = self.params.clone();
            let numeric = differences(gradient.len(), |i, h| {
                let before = params[index][i];
                params[index][i] += h;
                let loss = loss(&params, &self.inputs);
                params[index][i] = before;
                loss
            });
            compare(&format!("{} of {}", cpu.isa(), self.layout.specs()[index].name), gradient, &numeric);
        }
        for (index, &leaf) in leaves.iter().enumerate() {
            let gradient = tape.gradient(leaf);
            let mut inputs = self.inputs.clone();
            let numeric = differences(gradient.len(), |i, h| {
                let before = inputs[index].2[i];
                inputs[index].2[i] += h;
                let loss = loss(&self.params, &inputs);
                inputs[index].2[i] = before;
                loss
            });
            compare(&format!("{} of input {index}", cpu.isa()), &gradient, &numeric);
        }
    }
}

/// The derivative of `loss(i, h)`, the loss with h added to the i-th number, for each i.
pub(crate) fn differences(len: usize, mut loss: impl FnMut(usize, f32) -> f64) -> Vec<f64> {
    let mut derivative = |i| {
        let near = loss(i, STEP) - loss(i, -STEP);
        let far = loss(i, 2.0 * STEP) - loss(i, -2.0 * STEP);
        (8.0 * near - far) / (12.0 * f64::from(STEP))
    };
    (0..len).map(&mut derivative).collect()
}

/// Fails unless the two agree, relative to the largest of `numeric`.
pub(crate) fn compare(what: &str, gradient: &[f32], numeric: &[f64]) {
    let largest = numeric.iter().fold(0.0_f64, |largest, g| largest.max(g.abs()));
    assert!(largest > 0.0, "{what}: the test gives no gradient at all");
    for (i, (&g, &expected)) in gradient.iter().zip(numeric).enumerate() {
        let error = (f64::from(g) - expected).abs() / largest;
        assert!(error < TOLERANCE, "gradient by {what}[{i}]: {g}, by central differences {expected}");
    }
}
