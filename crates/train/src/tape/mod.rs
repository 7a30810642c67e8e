//! The training executor: it computes as [`rwkv::Infer`] does, records each operator, and computes gradients.
//!
//! A pass records one entry for each operator that the model's equations call. [`Tape::backward`] goes
//! through that list from its end; each operator reads the gradient of its output and adds to those of its
//! inputs and parameters. An entry can also run again: with [`recompute`](Tape::recompute) a pass keeps only
//! what leaves each block, and backward computes the rest of a block anew when it gets there (Chen et al.,
//! <https://arxiv.org/abs/1604.06174>). Since a model calls the same operators with the same shapes at every
//! step, the n-th tensor of a pass takes the n-th buffer of the pass before: once warm, a step allocates no
//! activation and no gradient.

mod batch;
mod buffer;
mod gradients;
mod until;
mod values;

use std::ops::Range;
use std::sync::Arc;

use rwkv::model::Network;
use rwkv::params::{Layout, Vector};
use rwkv::store::Parameters;
use rwkv_kernels::{Cpu, Isa};

pub(crate) use batch::{Batch, States};
pub(crate) use gradients::{Gradient, Gradients, ParamGradients};
pub use until::Until;
pub(crate) use values::Values;

use crate::ops::{self, Op};

/// A tensor of the pass under way: `(rows, width)`, owned by the [`Tape`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor(usize);

/// Parameters, activations and their gradients, and the list of operators that connects them.
#[derive(Debug)]
pub struct Tape {
    pub(crate) cpu: Arc<Cpu>,
    pub(crate) params: Parameters,
    pub(crate) batch: Batch,
    pub(crate) values: Values,
    ops: Vec<Op>,
    /// The blocks of this pass that have ended.
    blocks: Vec<Block>,
    recompute: bool,
    /// Whether operators are recorded only, and run later or never.
    is_deferred: bool,
    dropout: Option<Dropout>,
    param_gradients: ParamGradients,
    gradients: Gradients,
}

/// Dropout of the pass under way.
#[derive(Clone, Copy, Debug)]
struct Dropout {
    p: f32,
    /// Changes from one operator to the next.
    seed: u64,
}

impl Dropout {
    /// The generator SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
    /// 2014): seeds that follow one another have nothing in common.
    fn next_seed(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A stretch of operators that ended with [`Exec::keep`].
#[derive(Debug)]
struct Block {
    ops: Range<usize>,
    tensors: Range<usize>,
    /// Those that later blocks read.
    live: Vec<Tensor>,
    /// Whether the values of the others were given up.
    is_freed: bool,
}

/// What an operator reads and writes when it runs, for the first time or again.
#[derive(Debug)]
pub(crate) struct Forward<'a> {
    pub(crate) cpu: &'a Cpu,
    pub(crate) params: &'a Parameters,
    pub(crate) batch: &'a mut Batch,
    pub(crate) values: &'a mut Values,
}

/// What an operator's backward may read and write.
#[derive(Debug)]
pub(crate) struct Backward<'a> {
    pub(crate) cpu: &'a Cpu,
    pub(crate) params: &'a Parameters,
    pub(crate) batch: &'a mut Batch,
    pub(crate) values: &'a Values,
    pub(crate) param_gradients: &'a mut ParamGradients,
    pub(crate) gradients: &'a mut Gradients,
}

impl Forward<'_> {
    /// Fills N tensors that were declared before.
    pub(crate) fn fill<const N: usize>(
        &mut self,
        tensors: [Tensor; N],
        compute: impl FnOnce(&Self, [&mut [f32]; N]),
    ) {
        let mut buffers = tensors.map(|tensor| self.values.take(tensor));
        compute(self, buffers.each_mut().map(|buffer| &mut **buffer));
        for (tensor, buffer) in tensors.into_iter().zip(buffers) {
            self.values.put(tensor, buffer);
        }
    }
}

impl Tape {
    /// A tape for the model whose parameters `layout` declares; `params` holds a raw f32 value for each of
    /// them, and all are trained.
    ///
    /// # Panics
    /// If `params` does not have the shapes of `layout`.
    pub fn new(cpu: Arc<Cpu>, layout: &Layout, params: Vec<Vec<f32>>) -> Self {
        Self::of_store(cpu, Parameters::of_raw(layout.clone(), params))
    }

    /// A tape over parameters some or all of which may be frozen, and may have adapters.
    pub fn of_store(cpu: Arc<Cpu>, params: Parameters) -> Self {
        let param_gradients = ParamGradients::new(&params);
        Self {
            cpu,
            params,
            batch: Batch::default(),
            values: Values::default(),
            ops: Vec::new(),
            blocks: Vec::new(),
            recompute: false,
            is_deferred: false,
            dropout: None,
            param_gradients,
            gradients: Gradients::default(),
        }
    }

    /// A tape without values that records passes and computes nothing: for what a pass would take.
    pub(crate) fn of_shapes(layout: Layout) -> Self {
        let cpu = Arc::new(Cpu::new(Isa::Scalar, 1));
        Self { is_deferred: true, ..Self::of_store(cpu, Parameters::of_shapes(layout)) }
    }

    /// Whether passes from now on keep only what leaves each block and compute the rest again in backward:
    /// the memory of one block instead of all, for about a third more time. The numbers are the same to the
    /// last bit.
    pub fn recompute(&mut self, recompute: bool) {
        self.recompute = recompute;
    }

    /// Drops elements with probability `p` in the next pass, where the model says so; which ones follows from
    /// `seed` alone. With `p` 0 none are dropped.
    pub fn dropout(&mut self, p: f32, seed: u64) {
        self.dropout = (p > 0.0).then_some(Dropout { p, seed });
    }

    /// Begins a pass over `tokens`, cut into sequences of `ctx_len` tokens that each start from an empty
    /// state, or from the trained one if there is one (the last may be shorter). Tensors of the pass before
    /// are gone.
    pub fn begin(&mut self, tokens: &[u32], ctx_len: usize) {
        self.batch.begin(tokens, ctx_len, &self.params);
        self.values.clear();
        self.ops.clear();
        self.blocks.clear();
        self.gradients.clear();
    }

    /// As [`begin`](Self::begin), but the i-th sequence starts from `states[i]`, which is taken as a
    /// constant.
    ///
    /// # Panics
    /// If there is not a state for each sequence.
    pub fn begin_from(&mut self, tokens: &[u32], ctx_len: usize, states: &[Vec<f32>]) {
        self.begin(tokens, ctx_len);
        self.batch.start_from(states);
    }

    /// The state that each sequence of this pass has left; none if the pass began with
    /// [`begin`](Self::begin).
    pub fn states(&self) -> &[Vec<f32>] {
        self.batch.left()
    }

    /// Makes the vector `state` of the parameters the state that every sequence starts from, trained or not.
    pub fn start_from_parameter(&mut self, state: Vector) {
        self.batch.start_from_parameter(state);
    }

    /// Records the operators of `network`, for [`run_while`](Self::run_while) to run. Returns the logits.
    pub(crate) fn record(&mut self, network: &Network) -> Tensor {
        let was_deferred = std::mem::replace(&mut self.is_deferred, true);
        let logits = network.forward(self);
        self.is_deferred = was_deferred;
        logits
    }

    /// Runs the operators that [`record`](Self::record) recorded, asking before each whether to go on.
    pub(crate) fn run_while(&mut self, mut go_on: impl FnMut() -> bool) {
        let mut ended = 0;
        for at in 0..self.ops.len() {
            if !go_on() {
                return;
            }
            let Self { ops, cpu, params, batch, values, .. } = self;
            ops[at].run(&mut Forward { cpu, params, batch, values });
            if self.blocks.get(ended).is_some_and(|block| block.ops.end == at + 1) {
                self.free_before(ended);
                ended += 1;
            }
        }
    }

    /// Mean over the rows of `−ln softmax(logits)[target]`, in nats: the loss, and where
    /// [`backward`](Self::backward) starts.
    pub fn cross_entropy(&mut self, logits: Tensor, targets: &[u32]) -> f32 {
        ops::CrossEntropy::forward(self, logits, targets, 1)
    }

    /// As [`cross_entropy`](Self::cross_entropy) of one of `passes` passes whose gradients are added up: they
    /// are those of the mean over all passes.
    pub fn cross_entropy_of(&mut self, logits: Tensor, targets: &[u32], passes: usize) -> f32 {
        ops::CrossEntropy::forward(self, logits, targets, passes)
    }

    /// Gradients of the loss by all trained parameters: see [`param_gradients`](Self::param_gradients).
    ///
    /// Every tensor of the pass must have led to the loss, as they do in a model.
    pub fn backward(&mut self) {
        self.zero_gradients();
        self.backward_while(|| true);
    }

    /// Forgets what earlier passes added to the gradients of the parameters.
    pub(crate) fn zero_gradients(&mut self) {
        self.param_gradients.zero();
    }

    /// Adds the gradients of this pass to those of the parameters, asking before each operator whether to go
    /// on; if not, all gradients mean nothing.
    pub(crate) fn backward_while(&mut self, mut go_on: impl FnMut() -> bool) {
        self.batch.zero_gradients(&self.params);
        let ops = std::mem::take(&mut self.ops);
        let mut blocks = std::mem::take(&mut self.blocks);
        let mut at = ops.len();
        while at > 0 {
            // From the end of a block back to its start, or what lies after the last block or between two.
            let block = blocks.pop_if(|block| block.ops.end == at);
            let start = block
                .as_ref()
                .map_or_else(|| blocks.last().map_or(0, |before| before.ops.end), |block| block.ops.start);
            if block.as_ref().is_some_and(|block| block.is_freed) {
                for op in &ops[start..at] {
                    if !go_on() {
                        return;
                    }
                    op.run(&mut self.as_forward());
                }
            }
            for op in ops[start..at].iter().rev() {
                if !go_on() {
                    return;
                }
                op.backward(&mut Backward {
                    cpu: &self.cpu,
                    params: &self.params,
                    batch: &mut self.batch,
                    values: &self.values,
                    param_gradients: &mut self.param_gradients,
                    gradients: &mut self.gradients,
                });
            }
            if let Some(block) = block.filter(|_| self.recompute) {
                block.tensors.map(Tensor).for_each(|tensor| self.values.free(tensor));
            }
            at = start;
        }
        self.batch.add_gradients(&self.params, &mut self.param_gradients);
        // Their memory is there for the next pass.
        (self.ops, self.blocks) = (ops, blocks);
        self.ops.clear();
    }

    fn as_forward(&mut self) -> Forward<'_> {
        let Self { cpu, params, batch, values, .. } = self;
        Forward { cpu, params, batch, values }
    }

    /// The values of a tensor of this pass, row by row.
    pub fn value(&self, tensor: Tensor) -> &[f32] {
        self.values.get(tensor)
    }

    /// The parameters.
    pub fn params(&self) -> &Parameters {
        &self.params
    }

    /// Gradients of the loss of the last [`backward`](Self::backward), in the order of the layout; those of
    /// parameters that are not trained mean nothing.
    pub fn param_gradients(&self) -> &[Vec<f32>] {
        self.param_gradients.all()
    }

    /// Parameters to change, with their gradients: what an optimizer needs. [`Parameters::refresh`] must
    /// follow.
    pub fn params_and_gradients(&mut self) -> (&mut Parameters, &[Vec<f32>]) {
        (&mut self.params, self.param_gradients.all())
    }

    /// Where the tape computes.
    pub fn cpu(&self) -> &Arc<Cpu> {
        &self.cpu
    }

    /// Floats in the buffers of activations.
    pub fn activations(&self) -> usize {
        self.values.floats()
    }

    /// Floats of the memory that buffers of activations and gradients were ever taken from.
    pub fn reserved(&self) -> usize {
        self.values.total() + self.gradients.total()
    }

    /// A new tensor of `(rows, width)`, for an operator to fill.
    pub(crate) fn declare(&mut self, rows: usize, width: usize) -> Tensor {
        self.values.declare(rows, width)
    }

    /// Runs an operator and records it.
    pub(crate) fn apply(&mut self, op: impl Into<Op>) {
        let op = op.into();
        if !self.is_deferred {
            op.run(&mut self.as_forward());
        }
        self.ops.push(op);
    }

    /// Probability and seed of the next operator that drops elements; none without dropout.
    pub(crate) fn next_dropout(&mut self) -> Option<(f32, u64)> {
        self.dropout.as_mut().map(|dropout| (dropout.p, dropout.next_seed()))
    }

    /// Ends a block, of whose tensors later ones read `live` alone.
    pub(crate) fn end_block(&mut self, live: &[Tensor]) {
        let (ops, tensors) = self.blocks.last().map_or((0, 0), |last| (last.ops.end, last.tensors.end));
        self.blocks.push(Block {
            ops: ops..self.ops.len(),
            tensors: tensors..self.values.len(),
            live: live.to_vec(),
            is_freed: false,
        });
        if !self.is_deferred {
            self.free_before(self.blocks.len() - 1);
        }
    }

    /// Frees what the block before the one at `index` computed, if it is to be computed again. So the last
    /// block, where backward starts, never has to be.
    fn free_before(&mut self, index: usize) {
        let Some([before, block]) =
            index.checked_sub(1).and_then(|before| self.blocks.get_mut(before..=index))
        else {
            return;
        };
        if self.recompute {
            before.is_freed = true;
            for tensor in before.tensors.clone().map(Tensor) {
                if !before.live.contains(&tensor) && !block.live.contains(&tensor) {
                    self.values.free(tensor);
                }
            }
        }
    }

    /// Widths of the tensors that each block of this pass makes, and of those that leave it. What follows the
    /// last block comes last.
    pub(crate) fn widths(&self) -> Vec<[Vec<usize>; 2]> {
        let widths = |tensors: &mut dyn Iterator<Item = Tensor>| {
            tensors.map(|tensor| self.values.width(tensor)).collect()
        };
        let of_block = |block: &Block| {
            let made = widths(&mut block.tensors.clone().map(Tensor));
            [made, widths(&mut block.live.iter().copied())]
        };
        let rest = self.blocks.last().map_or(0, |last| last.tensors.end)..self.values.len();
        let rest = [widths(&mut rest.map(Tensor)), Vec::new()];
        self.blocks.iter().map(of_block).chain([rest]).collect()
    }

    /// A tensor whose values are given: an operator's input in tests.
    #[cfg(test)]
    pub(crate) fn leaf(&mut self, rows: usize, width: usize, values: &[f32]) -> Tensor {
        let leaf = self.declare(rows, width);
        self.as_forward().fill([leaf], |_, [leaf]| leaf.copy_from_slice(values));
        leaf
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
}
