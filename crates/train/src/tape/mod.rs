//! The training executor: it computes as [`rwkv_core::Infer`] does, records each operator, and computes gradients.
//!
//! A pass records one entry for each operator that the model's equations call. Backward goes through that
//! list from its end; each operator reads the gradient of its output and adds to those of its inputs and
//! parameters. An entry can also run again: with [`recompute`](Tape::recompute) a pass keeps only what leaves
//! each block, and backward computes the rest of a block anew when it gets there (Chen et al.,
//! <https://arxiv.org/abs/1604.06174>). Sequences are computed in groups, see `group.rs`. Buffers are used
//! again: once warm, a step allocates no activation and no gradient.

mod batch;
mod buffer;
mod gradients;
mod group;
mod pending;
mod record;
mod run;
mod until;
mod values;
mod weights;

use std::ops::Range;
use std::sync::Arc;

use rwkv_core::params::{Layout, Matrix, Vector};
use rwkv_core::store::Parameters;
use rwkv_kernels::{Cpu, Isa, Packing, packed_len};

pub(crate) use batch::{Batch, States, cut};
use buffer::Pool;
pub(crate) use gradients::{Gradient, Gradients, ParamGradients};
use group::{Group, Work};
pub(crate) use pending::Pending;
use record::Record;
pub(crate) use run::{ROWS, Whole, packed_weights, rows_at_once};
pub use until::Until;
pub(crate) use values::{PACKING, Values, packing_of};
pub(crate) use weights::Weights;

use crate::ops::{self, Op};
use crate::profile::Profile;

/// Words of packed weights that are kept for a whole step, as forward and as backward multiply them: 128 MB.
const WEIGHTS: usize = 1 << 25;

/// A group has at least so many rows: with fewer a product would wait for its weights.
const ROWS_OF_GROUP: usize = 128;

/// A tensor of the pass under way: `(rows, width)`, owned by the [`Tape`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor(usize);

/// Parameters, activations and their gradients, and the list of operators that connects them.
#[derive(Debug)]
pub struct Tape {
    pub(crate) cpu: Arc<Cpu>,
    /// The same with one thread: each thread of the team computes groups of its own.
    alone: Cpu,
    pub(crate) params: Parameters,
    /// Those of the pass under way, and others in waiting.
    groups: Vec<Group>,
    /// Groups and rows of the pass under way, and how many rows of the batch are before these: those of other ranks.
    n_groups: usize,
    rows: usize,
    rows_before: usize,
    /// The groups that `works` belong to, and their memory.
    wave: Range<usize>,
    works: Vec<Work>,
    /// At least as many rows are in a group, if there are as many.
    rows_of_group: usize,
    /// Rows that go through the model at a time, if gradients are told of as soon as they are complete.
    early: Option<usize>,
    /// The parameter that is the initial state of all sequences.
    initial: Option<Vector>,
    /// The token before which sequences are cut, and the empty state.
    boundary: Option<(u32, Vec<f32>)>,
    record: Record,
    /// The operators that have run.
    n_run: usize,
    dropout: Option<Dropout>,
    /// Weights as operators multiply them, and as their backward does.
    weights: [Weights; 2],
    param_gradients: ParamGradients,
    /// Gradients of vectors in waiting, for the next groups.
    vectors: Vec<ParamGradients>,
    pool: Arc<Pool>,
    profile: Profile,
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

/// What an operator reads and writes when it runs, for the first time or again.
#[derive(Debug)]
pub(crate) struct Forward<'a> {
    pub(crate) cpu: &'a Cpu,
    pub(crate) params: &'a Parameters,
    pub(crate) weights: &'a Weights,
    pub(crate) batch: &'a mut Batch,
    pub(crate) values: &'a mut Values,
    pub(crate) profile: &'a mut Profile,
}

/// What an operator's backward may read and write.
#[derive(Debug)]
pub(crate) struct Backward<'a> {
    pub(crate) cpu: &'a Cpu,
    pub(crate) params: &'a Parameters,
    pub(crate) weights: &'a Weights,
    /// As forward multiplies them: those of the operators that have run last.
    pub(crate) forward_weights: &'a Weights,
    pub(crate) batch: &'a mut Batch,
    pub(crate) values: &'a Values,
    /// Of vectors alone.
    pub(crate) param_gradients: &'a mut ParamGradients,
    pub(crate) gradients: &'a mut Gradients,
    /// What the gradients of matrices are made of.
    pub(crate) pending: &'a mut Vec<Pending>,
    pub(crate) profile: &'a mut Profile,
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

impl Forward<'_> {
    /// Fills N tensors of one width that were declared before, by rows: `compute` is called with ranges of
    /// them, and writes these rows alone.
    pub(crate) fn fill_rows<const N: usize>(
        &mut self,
        tensors: [Tensor; N],
        compute: impl Fn(&Cpu, &Parameters, &Values, Range<usize>, [&mut [f32]; N]),
    ) {
        let (cpu, params) = (self.cpu, self.params);
        // A team would wait for itself after every few rows.
        if cpu.threads() == 1 && tensors.iter().all(|&tensor| self.values.is_operand(tensor)) {
            let compute =
                |values: &Values, rows, out: [&mut [f32]; N]| compute(cpu, params, values, rows, out);
            self.values.fill_operands(cpu, self.profile, tensors, compute);
        } else {
            let rows = self.values.rows();
            self.fill(tensors, |t, out| compute(cpu, params, t.values, 0..rows, out));
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
        let matrices = (0..params.layout().specs().len()).filter_map(|index| params.matrix_at(index));
        // Frozen weights are decoded anew for each group.
        let is_frozen = { matrices }.any(|matrix| params.f32_matrix(matrix).is_none());
        Self {
            alone: Cpu::new(cpu.isa(), 1).with_precision(cpu.precision()),
            cpu,
            groups: Vec::new(),
            n_groups: 0,
            rows: 0,
            rows_before: 0,
            wave: 0..0,
            works: Vec::new(),
            rows_of_group: if is_frozen { usize::MAX } else { ROWS_OF_GROUP },
            early: None,
            initial: None,
            boundary: None,
            record: Record::default(),
            n_run: 0,
            dropout: None,
            weights: Default::default(),
            param_gradients: ParamGradients::new(&params),
            vectors: Vec::new(),
            params,
            pool: Arc::default(),
            profile: Profile::default(),
        }
    }

    /// A tape without values that records passes and computes nothing: for what a pass would take.
    pub(crate) fn of_shapes(layout: Layout) -> Self {
        let cpu = Arc::new(Cpu::new(Isa::Scalar, 1));
        Self::of_store(cpu, Parameters::of_shapes(layout))
    }

    /// Whether passes from now on keep only what leaves each block and compute the rest again in backward:
    /// the memory of one block instead of all, for about a third more time. The numbers are the same to the
    /// last bit.
    pub fn recompute(&mut self, recompute: bool) {
        self.record.recompute = recompute;
    }

    /// Drops elements with probability `p` in the next pass, where the model says so; which ones follows from
    /// `seed` alone. With `p` 0 none are dropped.
    pub fn dropout(&mut self, p: f32, seed: u64) {
        self.dropout = (p > 0.0).then_some(Dropout { p, seed });
    }

    /// How many rows of a batch stand before those of the passes from now on: masks of dropout differ by it.
    pub(crate) fn begin_after(&mut self, rows: usize) {
        self.rows_before = rows;
    }

    /// Begins a pass over `tokens`, cut into sequences of `ctx_len` tokens that each start from an empty
    /// state, or from the trained one if there is one (the last may be shorter). Tensors of the pass before
    /// are gone.
    pub fn begin(&mut self, tokens: &[u32], ctx_len: usize) {
        self.record.clear();
        self.n_run = 0;
        self.rows = tokens.len();
        let rows = self.rows_of_group.min(tokens.len()).div_ceil(ctx_len).max(1) * ctx_len;
        self.n_groups = tokens.len().div_ceil(rows);
        self.wave = 0..self.n_groups;
        let state = self.initial.map(|state| self.params.vector(state));
        let boundary = self.boundary.as_ref().map(|&(token, _)| token);
        while self.groups.len() < self.n_groups {
            self.groups.push(Group::default());
        }
        for ((index, group), tokens) in self.groups.iter_mut().enumerate().zip(tokens.chunks(rows)) {
            group.begin(tokens, ctx_len, self.rows_before + index * rows, state, boundary);
        }
    }

    /// As [`begin`](Self::begin), but the i-th sequence starts from `states[i]`, which is taken as a
    /// constant.
    ///
    /// # Panics
    /// If there is not a state for each sequence.
    pub fn begin_from(&mut self, tokens: &[u32], ctx_len: usize, states: &[Vec<f32>]) {
        self.begin(tokens, ctx_len);
        assert_eq!(states.len(), tokens.len().div_ceil(ctx_len), "a state for each sequence");
        let boundary = self.boundary.as_ref().map(|(token, empty)| (*token, &empty[..]));
        let mut rest = states;
        for group in &mut self.groups[..self.n_groups] {
            let (states, after) = rest.split_at(group.batch.count());
            group.batch.start_from(states, boundary);
            rest = after;
        }
    }

    /// The state that each sequence of this pass has left; none if the pass began with
    /// [`begin`](Self::begin).
    pub fn states(&mut self) -> Vec<Vec<f32>> {
        self.run();
        self.groups[..self.n_groups].iter().flat_map(|group| group.batch.left()).cloned().collect()
    }

    /// Cuts sequences from now on before every token `boundary`, the end of a document: what is after it starts from
    /// the state `empty`, or from the trained one if there is one.
    pub fn reset_at(&mut self, boundary: u32, empty: Vec<f32>) {
        self.boundary = Some((boundary, empty));
    }

    /// Makes the vector `state` of the parameters the state that every sequence starts from, trained or not.
    pub fn start_from_parameter(&mut self, state: Vector) {
        self.initial = Some(state);
    }

    /// Mean over the rows of `−ln softmax(logits)[target]`, in nats: the loss, and where
    /// [`backward`](Self::backward) starts.
    pub fn cross_entropy(&mut self, logits: Tensor, targets: &[u32]) -> f32 {
        self.cross_entropy_of(logits, targets, 1)
    }

    /// As [`cross_entropy`](Self::cross_entropy) of one of `passes` passes whose gradients are added up: they
    /// are those of the mean over all passes.
    pub fn cross_entropy_of(&mut self, logits: Tensor, targets: &[u32], passes: usize) -> f32 {
        let scale = self.set_targets(targets, passes);
        ops::CrossEntropy::record(self, logits, scale);
        self.run();
        self.mean_loss()
    }

    /// Gradients of the loss by all trained parameters: see [`param_gradients`](Self::param_gradients).
    ///
    /// Every tensor of the pass must have led to the loss, as they do in a model.
    pub fn backward(&mut self) {
        self.zero_gradients();
        self.add_gradients();
    }

    /// Forgets what earlier passes added to the gradients of the parameters.
    pub(crate) fn zero_gradients(&mut self) {
        self.param_gradients.zero();
    }

    /// As [`backward`](Self::backward), adding to the gradients of earlier passes.
    pub fn add_gradients(&mut self) {
        self.run_backward();
    }

    /// The values of a tensor of this pass, row by row. Those that only other operators read are gone once
    /// these have run.
    ///
    /// # Panics
    /// After a backward pass, which gives all values up.
    pub fn value(&mut self, tensor: Tensor) -> Vec<f32> {
        self.run();
        assert!(self.n_run > 0, "backward has given the values up");
        self.works[..self.n_groups].iter().flat_map(|work| work.values.get(tensor)).copied().collect()
    }

    /// Takes the time of every operator from now on.
    pub(crate) fn take_time(&mut self) {
        self.profile = Profile::on();
        for work in &mut self.works {
            work.profile = Profile::on();
        }
    }

    /// What the operators took since [`take_time`](Self::take_time).
    pub(crate) fn profile(&mut self) -> &mut Profile {
        for work in &mut self.works {
            self.profile.take(&mut work.profile);
        }
        &mut self.profile
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

    /// The parameters, and their gradients to change.
    pub(crate) fn gradients_mut(&mut self) -> (&Parameters, &mut [Vec<f32>]) {
        (&self.params, self.param_gradients.all_mut())
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
        self.works.iter().map(|work| work.values.floats()).sum()
    }

    /// Floats of the memory that buffers of activations and gradients were ever taken from.
    pub fn reserved(&self) -> usize {
        self.pool.total()
    }

    /// Elements of a row of a tensor.
    pub(crate) fn width(&self, tensor: Tensor) -> usize {
        self.record.widths[tensor.0]
    }

    /// A new tensor of rows of `width`, for an operator to fill.
    pub(crate) fn declare(&mut self, width: usize) -> Tensor {
        self.record.declare(width)
    }

    /// Records an operator, to be run when its results are wanted.
    pub(crate) fn apply(&mut self, op: impl Into<Op>) {
        self.record.apply(op.into());
    }

    /// Takes back the last operator, if it is a product with packed weights that makes `y`: which ones, and of what.
    pub(crate) fn take_product(&mut self, y: Tensor) -> Option<(Matrix, Tensor)> {
        let Self { record, params, .. } = self;
        record.take_product(y, |weight| params.f32_matrix(weight).is_some())
    }

    /// Tensors of this pass.
    #[cfg(test)]
    pub(crate) fn n_tensors(&self) -> usize {
        self.record.widths.len()
    }

    /// What follows each token of this pass, one of `passes`. Returns the factor of a token's loss.
    pub(crate) fn set_targets(&mut self, targets: &[u32], passes: usize) -> f32 {
        assert_eq!(targets.len(), self.rows, "a target for each token");
        let mut rest = targets;
        for Batch { tokens, targets, .. } in
            self.groups[..self.n_groups].iter_mut().map(|group| &mut group.batch)
        {
            let (own, after) = rest.split_at(tokens.len());
            targets.clear();
            targets.extend_from_slice(own);
            rest = after;
        }
        1.0 / (self.rows * passes) as f32
    }

    fn mean_loss(&self) -> f32 {
        let losses = self.groups[..self.n_groups].iter().map(|group| group.batch.loss);
        (losses.sum::<f64>() / self.rows as f64) as f32
    }

    /// Words of the packed weights of all operators, for forward and backward.
    fn packed_weights(&self) -> usize {
        let words = |packing| Weights::words(&self.cpu, &self.params, &self.record.ops, packing);
        [Packing::Forward, Packing::Backward].map(words).iter().sum()
    }

    /// Words of packed operands that one group leaves for the gradients of matrices.
    fn pending_words(&self) -> usize {
        let rows = self.groups.first().map_or(0, |group| group.batch.tokens.len());
        let specs = self.params.layout().specs();
        let trained = self.record.ops.iter().filter_map(Op::weight).map(Matrix::index);
        let words = trained.filter(|&index| self.params.is_trained(index)).map(|index| {
            packed_len(&self.cpu, Packing::Output, rows, specs[index].rows)
                + packed_len(&self.cpu, Packing::Input, rows, specs[index].cols)
        });
        words.sum::<usize>().max(1)
    }

    /// Probability and seed of the next operator that drops elements; none without dropout.
    pub(crate) fn next_dropout(&mut self) -> Option<(f32, u64)> {
        self.dropout.as_mut().map(|dropout| (dropout.p, dropout.next_seed()))
    }

    /// Ends a block, of whose tensors later ones read `live` alone.
    pub(crate) fn end_block(&mut self, live: &[Tensor]) {
        self.record.end_block(live);
    }

    /// Widths of the tensors that each block of this pass makes, and of those that leave it. What follows the
    /// last block comes last.
    pub(crate) fn widths(&self) -> Vec<[Vec<usize>; 2]> {
        self.record.widths_of_blocks()
    }

    /// Elements of a row that the products of this pass read and make.
    pub(crate) fn operands(&self) -> usize {
        let specs = self.params.layout().specs();
        let matrices = self.record.ops.iter().filter_map(Op::weight).map(|matrix| &specs[matrix.index()]);
        matrices.map(|spec| spec.rows + spec.cols).sum()
    }

    /// Makes every sequence a group of its own, however short.
    #[cfg(test)]
    pub(crate) fn cut_into_sequences(&mut self) {
        self.rows_of_group = 1;
    }

    /// From now on tells of each gradient as soon as it is complete, for others to sum it while backward goes on. For that
    /// the tape goes block by block, with at least `rows` rows at a time: only the last rows complete a gradient.
    pub(crate) fn tell_early(&mut self, rows: usize) {
        self.early = Some(rows);
    }

    /// A tensor whose values are given: an operator's input in tests.
    #[cfg(test)]
    pub(crate) fn leaf(&mut self, width: usize, values: &[f32]) -> Tensor {
        ops::Leaf::forward(self, width, values)
    }

    /// Sets the gradient of an output.
    #[cfg(test)]
    pub(crate) fn seed(&mut self, tensor: Tensor, gradient: &[f32]) {
        self.run();
        let width = self.width(tensor);
        for (group, work) in self.groups[..self.n_groups].iter().zip(&mut self.works) {
            let len = group.batch.tokens.len() * width;
            let mut open = work.gradients.open(tensor, len);
            open.values().copy_from_slice(&gradient[group.batch.first_row * width..][..len]);
            work.gradients.close(open);
        }
    }

    /// The gradient that [`backward`](Self::backward) left at a leaf.
    #[cfg(test)]
    pub(crate) fn gradient(&mut self, leaf: Tensor) -> Vec<f32> {
        let works = self.works[..self.n_groups].iter_mut();
        works.flat_map(|work| work.gradients.take(leaf).to_vec()).collect()
    }
}
