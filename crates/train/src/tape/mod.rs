//! A model's training executor: it computes as [`rwkv::Infer`] does, remembers, and sends gradients back.
//!
//! A pass records one entry for each operator that the model's equations call. [`Tape::backward`] walks that list
//! from its end; each operator reads the gradient of its output and adds to those of its inputs and parameters.
//! Since a model calls the same operators with the same shapes at every step, the n-th tensor of a pass takes the
//! n-th buffer of the pass before: once warm, a step allocates no activation and no gradient.

mod gradients;
mod until;
mod values;

use std::ops::Range;
use std::sync::Arc;

use rwkv::exec::Exec;
use rwkv::params::{Layout, Matrix, Vector};
use rwkv::state::Slot;
use rwkv_kernels::Cpu;

pub(crate) use gradients::{Gradient, Gradients, ParamGradients};
pub use until::Until;
pub(crate) use values::{Params, Values};

use crate::ops::{self, Op};

/// A tensor of the pass under way: `(rows, width)`, owned by the [`Tape`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor(usize);

/// Parameters, activations and their gradients, and the list of operators that connects them.
#[derive(Debug)]
pub struct Tape {
    pub(crate) cpu: Arc<Cpu>,
    pub(crate) params: Params,
    pub(crate) batch: Batch,
    pub(crate) values: Values,
    ops: Vec<Op>,
    param_gradients: ParamGradients,
    gradients: Gradients,
}

/// What a pass reads: tokens, what follows each of them, and where one text ends and the next begins.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) tokens: Vec<u32>,
    pub(crate) targets: Vec<u32>,
    pub(crate) segments: Vec<Range<usize>>,
}

/// What an operator's backward may read and write.
#[derive(Debug)]
pub(crate) struct Backward<'a> {
    pub(crate) cpu: &'a Cpu,
    pub(crate) params: &'a Params,
    pub(crate) batch: &'a Batch,
    pub(crate) values: &'a Values,
    pub(crate) param_gradients: &'a mut ParamGradients,
    pub(crate) gradients: &'a mut Gradients,
}

impl Tape {
    /// A tape for the model whose parameters `layout` declares; `params` holds a raw f32 value for each of them.
    ///
    /// # Panics
    /// If `params` does not have the shapes of `layout`.
    pub fn new(cpu: Arc<Cpu>, layout: &Layout, params: Vec<Vec<f32>>) -> Self {
        let lengths = layout.specs().iter().map(rwkv::params::ParamSpec::len);
        assert!(
            lengths.eq(params.iter().map(Vec::len)),
            "the parameters' lengths are not those of the layout"
        );
        let param_gradients = ParamGradients::new(&params);
        Self {
            cpu,
            params: Params::new(layout, params),
            batch: Batch::default(),
            values: Values::default(),
            ops: Vec::new(),
            param_gradients,
            gradients: Gradients::default(),
        }
    }

    /// Begins a pass over `tokens`, cut into texts of `ctx_len` tokens that each start from an empty state (the last
    /// may be shorter). Tensors of the pass before are gone.
    pub fn begin(&mut self, tokens: &[u32], ctx_len: usize) {
        let Batch { tokens: own, segments, .. } = &mut self.batch;
        own.clear();
        own.extend_from_slice(tokens);
        segments.clear();
        let starts = (0..tokens.len()).step_by(ctx_len);
        segments.extend(starts.map(|start| start..(start + ctx_len).min(tokens.len())));
        self.values.clear();
        self.ops.clear();
        self.gradients.clear();
    }

    /// Mean over the rows of `−ln softmax(logits)[target]`, in nats: the loss, and where [`backward`](Self::backward)
    /// starts.
    pub fn cross_entropy(&mut self, logits: Tensor, targets: &[u32]) -> f32 {
        ops::CrossEntropy::forward(self, logits, targets)
    }

    /// Gradients of the loss by all parameters: see [`param_gradients`](Self::param_gradients).
    ///
    /// Every tensor of the pass must have led to the loss, as they do in a model.
    pub fn backward(&mut self) {
        self.backward_while(|| true);
    }

    /// As [`backward`](Self::backward), asking before each operator whether to go on; if not, all gradients mean nothing.
    fn backward_while(&mut self, mut go_on: impl FnMut() -> bool) {
        self.param_gradients.zero();
        let mut backward = Backward {
            cpu: &self.cpu,
            params: &self.params,
            batch: &self.batch,
            values: &self.values,
            param_gradients: &mut self.param_gradients,
            gradients: &mut self.gradients,
        };
        for op in self.ops.drain(..).rev() {
            if !go_on() {
                break;
            }
            op.backward(&mut backward);
        }
    }

    /// The values of a tensor of this pass, row by row.
    pub fn value(&self, tensor: Tensor) -> &[f32] {
        self.values.get(tensor)
    }

    /// Raw parameters, in the order of the layout.
    pub fn params(&self) -> &[Vec<f32>] {
        self.params.all()
    }

    /// Gradients of the loss of the last [`backward`](Self::backward), in the order of the layout.
    pub fn param_gradients(&self) -> &[Vec<f32>] {
        self.param_gradients.all()
    }

    /// Parameters to change, with their gradients: what an optimizer needs.
    pub fn params_and_gradients(&mut self) -> (&mut [Vec<f32>], &[Vec<f32>]) {
        (self.params.all_mut(), self.param_gradients.all())
    }

    /// Computes on `cpu` from now on; returns where it computed so far.
    pub fn compute_on(&mut self, cpu: Arc<Cpu>) -> Arc<Cpu> {
        std::mem::replace(&mut self.cpu, cpu)
    }

    /// Where the tape computes.
    pub fn cpu(&self) -> &Arc<Cpu> {
        &self.cpu
    }

    /// A new tensor of `(rows, width)`, filled by `compute`.
    pub(crate) fn compute(
        &mut self,
        rows: usize,
        width: usize,
        compute: impl FnOnce(&Self, &mut [f32]),
    ) -> Tensor {
        let [tensor] = self.compute_many(rows, width, |tape, [out]| compute(tape, out));
        tensor
    }

    /// N new tensors of `(rows, width)` each, filled by `compute`.
    pub(crate) fn compute_many<const N: usize>(
        &mut self,
        rows: usize,
        width: usize,
        compute: impl FnOnce(&Self, [&mut [f32]; N]),
    ) -> [Tensor; N] {
        let mut made = std::array::from_fn::<_, N, _>(|_| self.values.make(rows, width));
        compute(self, made.each_mut().map(|(_, buffer)| buffer.as_mut_slice()));
        made.map(|(tensor, buffer)| {
            self.values.put(tensor, buffer);
            tensor
        })
    }

    /// A tensor whose values are given: an operator's input in tests.
    #[cfg(test)]
    pub(crate) fn leaf(&mut self, rows: usize, width: usize, values: &[f32]) -> Tensor {
        self.compute(rows, width, |_, leaf| leaf.copy_from_slice(values))
    }

    /// Sets the gradient of an output.
    #[cfg(test)]
    pub(crate) fn seed(&mut self, tensor: Tensor, gradient: &[f32]) {
        let mut open = self.gradients.open(tensor, gradient.len());
        open.values().copy_from_slice(gradient);
        self.gradients.close(open);
    }

    /// The gradient that [`backward`](Self::backward) left at a leaf.
    #[cfg(test)]
    pub(crate) fn gradient(&mut self, leaf: Tensor) -> Vec<f32> {
        self.gradients.take(leaf).to_vec()
    }

    pub(crate) fn record(&mut self, op: impl Into<Op>) {
        self.ops.push(op.into());
    }
}

/// Forward only; what each operator remembers and sends back is told in its own file under `ops/`.
impl Exec for Tape {
    type Tensor = Tensor;

    fn embed(&mut self, table: Matrix) -> Tensor {
        ops::Embed::forward(self, table)
    }

    fn layer_norm(&mut self, x: Tensor, weight: Vector, bias: Vector, eps: f32) -> Tensor {
        ops::LayerNorm::forward(self, x, weight, bias, eps)
    }

    /// In training every text starts from an empty state, and none is kept.
    fn shift(&mut self, x: Tensor, _: Slot) -> Tensor {
        ops::Shift::forward(self, x)
    }

    fn lerp<const N: usize>(&mut self, x: Tensor, y: Tensor, mix: [Vector; N]) -> [Tensor; N] {
        ops::Lerp::forward(self, x, y, mix)
    }

    fn linears<const N: usize>(&mut self, products: [(Matrix, Tensor); N]) -> [Tensor; N] {
        products.map(|(weight, x)| ops::Linear::forward(self, weight, x))
    }

    fn add(&mut self, x: Tensor, y: Tensor) -> Tensor {
        ops::Add::forward(self, x, y)
    }

    fn sigmoid_mul(&mut self, r: Tensor, x: Tensor) -> Tensor {
        ops::SigmoidMul::forward(self, r, x)
    }

    fn relu_squared(&mut self, x: Tensor) -> Tensor {
        ops::ReluSquared::forward(self, x)
    }

    fn wkv4(&mut self, decay: Vector, first: Vector, k: Tensor, v: Tensor, _: Slot) -> Tensor {
        ops::Wkv4::forward(self, decay, first, k, v)
    }

    /// The loss is over every token: all rows are outputs.
    fn needed(&mut self, x: Tensor) -> Tensor {
        x
    }

    /// As above.
    fn outputs(&mut self, x: Tensor) -> Tensor {
        x
    }

    /// Backward needs what the block computed.
    fn keep<const N: usize>(&mut self, live: [Tensor; N]) -> [Tensor; N] {
        live
    }
}
