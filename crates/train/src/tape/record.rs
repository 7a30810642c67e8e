//! What a pass does: its operators, the tensors that they make, and how long each of these is kept.

use std::ops::Range;

use rwkv_core::params::{Matrix, ParamSpec};
use rwkv_core::store::Parameters;

use super::Tensor;
use crate::ops::{HeadLoss, Op, Read};
use crate::profile::Cost;

/// What reads a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Use {
    /// Any operator, or none.
    #[default]
    Values,
    /// Products with packed weights alone.
    Products,
    /// The same, and some of the weights are trained.
    TrainedProducts,
}

/// The operators of a pass, in the order in which the model calls them.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(super) ops: Vec<Op>,
    /// For each of them how many tensors there are with those that it makes.
    ends: Vec<usize>,
    /// Of all tensors.
    pub(super) widths: Vec<usize>,
    blocks: Vec<Block>,
    /// Whether only what leaves each block is kept, and the rest computed again.
    pub(super) recompute: bool,
    /// Of all tensors, once all operators are known.
    pub(super) uses: Vec<Use>,
    /// For each operator the tensors that nothing reads after it has run, in backward neither.
    pub(super) unread: Vec<Vec<Tensor>>,
}

/// A stretch of operators that ended with [`Exec::keep`](rwkv_core::Exec::keep).
#[derive(Debug)]
struct Block {
    ops: Range<usize>,
    tensors: Range<usize>,
    /// Those that later blocks read.
    live: Vec<Tensor>,
}

/// A block, or what follows the last one.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    pub(super) ops: Range<usize>,
    /// What of the block before is given up once this one has run.
    pub(super) discard: Vec<Tensor>,
    /// Whether the next block has it given up, so that backward computes it again.
    pub(super) is_computed_again: bool,
    /// What is given up after backward.
    pub(super) tensors: Range<usize>,
}

impl Record {
    pub(super) fn clear(&mut self) {
        self.ops.clear();
        self.ends.clear();
        self.widths.clear();
        self.blocks.clear();
    }

    /// Forgets the operators: they have served, and there is nothing to run.
    pub(super) fn end(&mut self) {
        self.ops.clear();
        self.ends.clear();
        self.blocks.clear();
    }

    /// The next operator, whose outputs are the tensors that were declared since the last one.
    pub(super) fn apply(&mut self, op: Op) {
        self.ops.push(op);
        self.ends.push(self.widths.len());
    }

    /// Takes back the last operator, with what it makes, if that is `y` and it is a product of weights that `are_packed`:
    /// which ones, and of what. One that ends a block stays.
    pub(super) fn take_product(
        &mut self,
        y: Tensor,
        are_packed: impl Fn(Matrix) -> bool,
    ) -> Option<(Matrix, Tensor)> {
        let Some(Op::Linear(product)) = self.ops.last() else { return None };
        let (weight, x) = (product.weight(), product.input());
        let is_last = product.output() == y && y.0 + 1 == self.widths.len();
        let ends_a_block = self.blocks.last().is_some_and(|block| block.ops.end == self.ops.len());
        if !is_last || ends_a_block || !are_packed(weight) {
            return None;
        }
        self.ops.pop();
        self.ends.pop();
        self.widths.pop();
        Some((weight, x))
    }

    /// What an operator does with `rows` rows when it runs, and in its backward.
    pub(super) fn work(&self, params: &Parameters, at: usize, rows: usize, is_backward: bool) -> Cost {
        let op = &self.ops[at];
        if let Some(weight) = op.weight() {
            let ParamSpec { rows: n, cols: k, .. } = params.layout().specs()[weight.index()];
            return match op {
                // Its products have a time of their own.
                Op::HeadLoss(_) if is_backward => HeadLoss::cost(rows, n),
                Op::HeadLoss(_) => Cost::default(),
                _ => Cost { operations: 2 * (rows * n * k) as u64, bytes: 0 },
            };
        }
        let outputs = at.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[at];
        // The outputs, or their gradients.
        let mut floats: usize = self.widths[outputs.clone()].iter().sum();
        op.reads(&mut |Tensor(index), read| {
            let is_input = !outputs.contains(&index);
            let value = usize::from(read != if is_backward { Read::Forward } else { Read::Backward });
            let gradient = usize::from(is_backward && is_input);
            floats += self.widths[index] * (value + gradient);
        });
        Cost { operations: 0, bytes: 4 * (rows * floats) as u64 }
    }

    /// A new tensor of rows of `width`.
    pub(super) fn declare(&mut self, width: usize) -> Tensor {
        self.widths.push(width);
        Tensor(self.widths.len() - 1)
    }

    /// Ends a block, of whose tensors later ones read `live` alone.
    pub(super) fn end_block(&mut self, live: &[Tensor]) {
        let (ops, tensors) = self.blocks.last().map_or((0, 0), |last| (last.ops.end, last.tensors.end));
        let (ops, tensors) = (ops..self.ops.len(), tensors..self.widths.len());
        self.blocks.push(Block { ops, tensors, live: live.to_vec() });
    }

    /// The blocks and what follows them, once all operators are known.
    pub(super) fn stages(&mut self, params: &Parameters) -> Vec<Stage> {
        self.unread = self.find_unread();
        self.uses = self.find_uses(params);
        let mut stages: Vec<_> = (0..self.blocks.len()).map(|index| self.stage(index)).collect();
        let (ops, tensors) = self.blocks.last().map_or((0, 0), |last| (last.ops.end, last.tensors.end));
        if ops < self.ops.len() {
            stages.push(Stage {
                ops: ops..self.ops.len(),
                discard: Vec::new(),
                is_computed_again: false,
                tensors: if self.recompute { tensors..self.widths.len() } else { 0..0 },
            });
        }
        stages
    }

    fn stage(&self, index: usize) -> Stage {
        let block = &self.blocks[index];
        let mut discard = Vec::new();
        if let Some(before) = index.checked_sub(1).map(|before| &self.blocks[before])
            && self.recompute
        {
            let is_read = |tensor: &Tensor| before.live.contains(tensor) || block.live.contains(tensor);
            discard.extend(before.tensors.clone().map(Tensor).filter(|tensor| !is_read(tensor)));
        }
        Stage {
            ops: block.ops.clone(),
            discard,
            // The last block, where backward starts, never has to be.
            is_computed_again: self.recompute && index + 1 < self.blocks.len(),
            tensors: if self.recompute { block.tensors.clone() } else { 0..0 },
        }
    }

    /// Those that no operator reads at all are results, and are kept.
    fn find_unread(&self) -> Vec<Vec<Tensor>> {
        let (mut last, mut is_kept) = (vec![None; self.widths.len()], vec![false; self.widths.len()]);
        for (at, op) in self.ops.iter().enumerate() {
            op.reads(&mut |Tensor(index), read| {
                last[index] = Some(at);
                is_kept[index] |= read != Read::Forward;
            });
        }
        let mut unread = vec![Vec::new(); self.ops.len()];
        for (index, (last, is_kept)) in last.into_iter().zip(is_kept).enumerate() {
            if let Some(at) = last.filter(|_| !is_kept) {
                unread[at].push(Tensor(index));
            }
        }
        unread
    }

    fn find_uses(&self, params: &Parameters) -> Vec<Use> {
        let mut uses = vec![None; self.widths.len()];
        for op in &self.ops {
            // Weights that stay in another form than f32 are not packed.
            let weight = op.weight().filter(|&weight| params.f32_matrix(weight).is_some());
            op.reads(&mut |Tensor(index), _| {
                let use_ = match weight.map(|weight| params.is_trained(weight.index())) {
                    None => Use::Values,
                    Some(false) => Use::Products,
                    Some(true) => Use::TrainedProducts,
                };
                let all = match (uses[index], use_) {
                    (None, use_) => use_,
                    (Some(Use::Values), _) | (_, Use::Values) => Use::Values,
                    (Some(Use::TrainedProducts), _) | (_, Use::TrainedProducts) => Use::TrainedProducts,
                    (Some(Use::Products), Use::Products) => Use::Products,
                };
                uses[index] = Some(all);
            });
        }
        uses.into_iter().map(Option::unwrap_or_default).collect()
    }

    /// Widths of the tensors that each block makes, and of those that leave it. What follows the last block
    /// comes last.
    pub(super) fn widths_of_blocks(&self) -> Vec<[Vec<usize>; 2]> {
        let of_block = |block: &Block| {
            let live = block.live.iter().map(|&Tensor(index)| self.widths[index]).collect();
            [self.widths[block.tensors.clone()].to_vec(), live]
        };
        let rest = self.blocks.last().map_or(0, |last| last.tensors.end);
        let rest = [self.widths[rest..].to_vec(), Vec::new()];
        self.blocks.iter().map(of_block).chain([rest]).collect()
    }
}
