//! [`Infer`]: the executor that computes at once.

use std::ops::Range;

use rwkv_kernels::{self as kernels, Cpu, Product};

use super::arena::{Arena, Tensor};
use crate::exec::{Binary, Channelwise, Exec, Unary, Wkv7};
use crate::params::{Matrix, Vector};
use crate::state::Slot;
use crate::store::{Adapter, NotFinite, Parameters};

/// One pass of a model over some tokens: computes each operator when it is called, and moves the states
/// forward.
///
/// Weights are used where they are, mapped and in their own format. Activations live in an arena that passes
/// share; each block frees what it no longer needs, so memory is that of one block, not of the model. Nothing
/// here depends on how tokens are cut into passes or segments, and the kernels compute each row alike
/// wherever it stands: so serial, chunked and batched evaluation give the same bits.
pub struct Infer<'a, 's> {
    pub(super) parameters: &'a Parameters,
    pub(super) cpu: &'a Cpu,
    pub(super) arena: &'a mut Arena,
    /// Of products.
    pub(super) activations: &'a mut kernels::ProductScratch,
    /// One a row.
    pub(super) tokens: &'a [u32],
    /// Ranges of rows.
    pub(super) segments: &'a [Range<usize>],
    /// One a segment.
    pub(super) states: &'a mut [SegmentState<'s>],
    /// The rows whose logits are wanted, ascending.
    pub(super) outputs: &'a [usize],
    /// What is left of the rows after [`needed`](Exec::needed).
    pub(super) needed: Needed<'a>,
    /// The first thing that was infinite or not a number. Operators go on regardless: what they compute is
    /// thrown away.
    pub(super) not_finite: Option<NotFinite>,
    /// Whether to stop: asked before every product, which take nearly all the time. From then on products are left
    /// out, and what the pass computes is thrown away.
    pub(super) stop: &'a dyn Fn() -> bool,
    pub(super) is_stopped: bool,
    /// Whether the states are finite so far.
    pub(super) state_is_finite: bool,
}

/// Where a segment's state comes from and where it goes.
pub(super) struct SegmentState<'a> {
    /// The state before the segment's first token; none if an earlier pass has brought it to `to`.
    pub(super) from: Option<&'a [f32]>,
    pub(super) to: &'a mut [f32],
}

/// The rows that the end of a pass needs.
#[derive(Clone, Copy)]
pub(super) struct Needed<'a> {
    /// Ranges of the pass's rows, one a segment: its last ones.
    pub(super) kept: &'a [Range<usize>],
    /// The same rows, counted from 0 once the others are gone.
    pub(super) segments: &'a [Range<usize>],
    /// Those of them whose logits are wanted, ascending.
    pub(super) outputs: &'a [usize],
}

impl Exec for Infer<'_, '_> {
    type Tensor = Tensor;

    fn embed(&mut self, table: Matrix) -> Tensor {
        let weights = self.parameters.weights(table);
        let ([y], _, [out]) = self.arena.push(self.tokens.len(), weights.cols());
        for (row, &token) in out.chunks_exact_mut(weights.cols()).zip(self.tokens) {
            weights.read_row(token as usize, row);
            if !kernels::all_finite(row) {
                self.not_finite.get_or_insert(NotFinite::Embedding(table, token as usize));
            }
        }
        y
    }

    fn layer_norm(&mut self, x: Tensor, weight: Vector, bias: Vector, eps: f32) -> Tensor {
        let (weight, bias) = (self.parameters.vector(weight), self.parameters.vector(bias));
        self.map(x, x.width(), |cpu, x, y| kernels::layer_norm(cpu, x, weight, bias, eps, y))
    }

    fn shift(&mut self, x: Tensor, slot: Slot) -> Tensor {
        let width = x.width();
        let ([y], before, [out]) = self.arena.push(x.rows(), width);
        let mut states = bring(self.states, slot);
        kernels::shift(self.cpu, self.segments, &mut states, 0, width, before.get(x), out);
        self.state_is_finite &= states.iter().all(|state| kernels::all_finite(state));
        y
    }

    fn lerp<const N: usize>(&mut self, x: Tensor, y: Tensor, mix: [Vector; N]) -> [Tensor; N] {
        let mix = mix.map(|mix| self.parameters.vector(mix));
        let (z, before, out) = self.arena.push(x.rows(), x.width());
        kernels::lerp(self.cpu, before.get(x), before.get(y), mix, out);
        z
    }

    fn linears<const N: usize>(&mut self, products: [(Matrix, Tensor); N]) -> [Tensor; N] {
        let handles = products.map(|(matrix, _)| matrix);
        let matrices = handles.map(|matrix| self.parameters.matrix(matrix));
        let shapes: [_; N] = std::array::from_fn(|i| (products[i].1.rows(), matrices[i].rows()));
        let (tensors, before, outs) = self.arena.push_each(shapes);
        let mut outs = outs.into_iter();
        self.is_stopped = self.is_stopped || (self.stop)();
        if self.is_stopped {
            return tensors;
        }
        let inputs = products.map(|(_, x)| x);
        let products: [_; N] = std::array::from_fn(|i| Product {
            matrix: matrices[i],
            x: before.get(inputs[i]),
            y: outs.next().expect("there are N"),
        });
        let is_long = products.iter().any(|product| multiplications(product) > LONG);
        if is_long {
            for product in products {
                let a_row = product.matrix.rows() as u64 * product.matrix.cols() as u64;
                let rows = (LONG / a_row.max(1)).max(32) as usize;
                self.is_stopped |= !in_parts(self.cpu, self.activations, product, rows, self.stop);
            }
        } else {
            kernels::products(self.cpu, self.activations, products);
        }
        drop(outs);
        for (matrix, y) in handles.into_iter().zip(tensors) {
            self.not_finite = self.not_finite.or_else(|| self.parameters.check(matrix, self.arena.get(y)));
        }
        std::array::from_fn(|i| match self.parameters.adapter(handles[i]) {
            None => tensors[i],
            Some(adapter) => self.adapt(adapter, inputs[i], tensors[i]),
        })
    }

    fn unary(&mut self, f: Unary, x: Tensor) -> Tensor {
        self.map(x, x.width(), |cpu, x, y| kernels::unary(cpu, f, x, y))
    }

    fn binary(&mut self, f: Binary, x: Tensor, y: Tensor) -> Tensor {
        let ([z], before, [out]) = self.arena.push(x.rows(), x.width());
        kernels::binary(self.cpu, f, before.get(x), before.get(y), out);
        z
    }

    fn channelwise<const N: usize>(&mut self, f: Channelwise, x: [Tensor; N], p: Vector) -> Tensor {
        let p = self.parameters.vector(p);
        let ([y], before, [out]) = self.arena.push(x[0].rows(), x[0].width());
        kernels::channelwise(self.cpu, f, x.map(|x| before.get(x)), p, out);
        y
    }

    fn group_norm(&mut self, x: Tensor, size: usize, weight: Vector, bias: Vector, eps: f32) -> Tensor {
        let (weight, bias) = (self.parameters.vector(weight), self.parameters.vector(bias));
        self.map(x, x.width(), |cpu, x, y| kernels::group_norm(cpu, x, size, weight, bias, eps, y))
    }

    fn unit_heads(&mut self, x: Tensor, size: usize) -> Tensor {
        self.map(x, x.width(), |cpu, x, y| kernels::unit_heads(cpu, x, size, y))
    }

    fn bonus(&mut self, rkv: [Tensor; 3], p: Vector, size: usize) -> Tensor {
        let p = self.parameters.vector(p);
        let ([y], before, [out]) = self.arena.push(rkv[0].rows(), rkv[0].width());
        let [r, k, v] = rkv.map(|x| before.get(x));
        kernels::bonus(self.cpu, kernels::BonusInputs { r, k, v, p, size }, out);
        y
    }

    fn wkv7(&mut self, inputs: Wkv7<Tensor>, size: usize, slot: Slot) -> Tensor {
        let Wkv7 { r, w, k, v, kk, a } = inputs;
        let width = r.width();
        let ([y], before, [out]) = self.arena.push(r.rows(), width);
        let [r, w, k, v, kk, a] = [r, w, k, v, kk, a].map(|x| before.get(x));
        let inputs = kernels::Wkv7Inputs { r, w, k, v, kk, a, width, head: size };
        // A state as large as this is read where it is, and the next one written; nothing is copied before.
        let parts = self.states.iter_mut().map(|SegmentState { from, to }| kernels::Wkv7State {
            from: from.map(|from| &from[slot.range()]),
            to: &mut to[slot.range()],
        });
        let mut states: Vec<_> = parts.collect();
        kernels::wkv7(self.cpu, self.segments, &mut states, inputs, out);
        // What is infinite or no number in S is so in S r.
        let last = self.segments.iter().filter(|segment| !segment.is_empty());
        self.state_is_finite &=
            { last }.all(|segment| kernels::all_finite(&out[(segment.end - 1) * width..segment.end * width]));
        y
    }

    fn wkv4(&mut self, decay: Vector, first: Vector, k: Tensor, v: Tensor, slot: Slot) -> Tensor {
        // Files hold −exp(time_decay), which is w itself.
        let (w, u) = (self.parameters.vector(decay), self.parameters.vector(first));
        let ([y], before, [out]) = self.arena.push(k.rows(), k.width());
        let (k, v) = (before.get(k), before.get(v));
        let mut states = bring(self.states, slot);
        kernels::wkv4(self.cpu, self.segments, &mut states, 0, kernels::Wkv4Inputs { w, u, k, v }, out);
        self.state_is_finite &= states.iter().all(|state| kernels::all_finite(state));
        y
    }

    fn needed(&mut self, x: Tensor) -> Tensor {
        let Needed { kept, segments, outputs } = self.needed;
        (self.segments, self.outputs) = (segments, outputs);
        self.rows(x, kept.iter().cloned().flatten(), kept.iter().map(Range::len).sum())
    }

    fn outputs(&mut self, x: Tensor) -> Tensor {
        self.rows(x, self.outputs.iter().copied(), self.outputs.len())
    }

    fn keep<const N: usize>(&mut self, live: [Tensor; N]) -> [Tensor; N] {
        self.arena.keep(live)
    }
}

/// Multiplications of a product that take some 100 ms on two cores: the head, over a pass of all whose logits are wanted
/// of a large vocabulary.
const LONG: u64 = 8_000_000_000;

fn multiplications(product: &Product<'_>) -> u64 {
    product.x.len() as u64 * product.matrix.rows() as u64
}

/// Does a product of some rows at a time, which gives the same bits, and asks `stop` before each; false if it said so.
fn in_parts(
    cpu: &Cpu,
    activations: &mut kernels::ProductScratch,
    Product { matrix, x, y }: Product<'_>,
    rows: usize,
    stop: &dyn Fn() -> bool,
) -> bool {
    x.chunks(rows * matrix.cols()).zip(y.chunks_mut(rows * matrix.rows())).all(|(x, y)| {
        let goes_on = !stop();
        if goes_on {
            kernels::products(cpu, activations, [Product { matrix, x, y }]);
        }
        goes_on
    })
}

/// That part of each state, brought to where it goes. The operator that uses it comes right after, so that a state
/// is read and written once a pass, and never copied whole.
fn bring<'a>(states: &'a mut [SegmentState<'_>], slot: Slot) -> Vec<&'a mut [f32]> {
    states
        .iter_mut()
        .map(|SegmentState { from, to }| {
            let to = &mut to[slot.range()];
            if let Some(from) = from {
                to.copy_from_slice(&from[slot.range()]);
            }
            to
        })
        .collect()
}

impl Infer<'_, '_> {
    /// `y + scale · (x downᵀ) upᵀ`.
    fn adapt(&mut self, Adapter { down, up, scale }: Adapter, x: Tensor, y: Tensor) -> Tensor {
        let h = self.product(down, x, |h| h.iter_mut().for_each(|h| *h *= scale));
        let delta = self.product(up, h, |_| ());
        for (matrix, result) in [(down, h), (up, delta)] {
            self.not_finite =
                self.not_finite.or_else(|| self.parameters.check(matrix, self.arena.get(result)));
        }
        self.add(y, delta)
    }

    /// `x Wᵀ`, and then `change`.
    fn product(&mut self, matrix: Matrix, x: Tensor, change: impl FnOnce(&mut [f32])) -> Tensor {
        let matrix = self.parameters.matrix(matrix);
        let ([y], before, [out]) = self.arena.push(x.rows(), matrix.rows());
        let product = Product { matrix, x: before.get(x), y: &mut *out };
        kernels::products(self.cpu, self.activations, [product]);
        change(out);
        y
    }

    /// The `count` rows of `x` that `rows` names, ascending.
    fn rows(&mut self, x: Tensor, rows: impl Iterator<Item = usize>, count: usize) -> Tensor {
        if count == x.rows() {
            return x;
        }
        let width = x.width();
        let ([y], before, [out]) = self.arena.push(count, width);
        let x = before.get(x);
        for (out, row) in out.chunks_exact_mut(width).zip(rows) {
            out.copy_from_slice(&x[row * width..][..width]);
        }
        y
    }

    /// A tensor (rows of x, width) computed from `x`.
    fn map(&mut self, x: Tensor, width: usize, compute: impl FnOnce(&Cpu, &[f32], &mut [f32])) -> Tensor {
        let ([y], before, [out]) = self.arena.push(x.rows(), width);
        compute(self.cpu, before.get(x), out);
        y
    }
}

#[cfg(test)]
mod tests {
    use rwkv_kernels::Isa;

    use super::*;
    use crate::data_type::DataType;

    #[test]
    fn a_long_product_has_the_same_bits_in_parts_and_can_be_stopped_between_them() {
        let (inputs, outputs, rows) = (24, 40, 21);
        let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 70.0;
        let weights: Vec<_> = (0..inputs * outputs).map(value).collect();
        let x: Vec<_> = (0..inputs * rows).map(|i| value(3 * i)).collect();
        let multiply = |y: &mut [f32], at_once: usize, stop: &dyn Fn() -> bool| {
            let cpu = Cpu::new(Isa::Scalar, 2);
            let bytes = bytemuck::cast_slice(&weights);
            let matrix = kernels::Weights::new(DataType::F32, outputs, inputs, bytes).unwrap();
            let matrix = kernels::Matrix::Rows(matrix);
            in_parts(
                &cpu,
                &mut kernels::ProductScratch::default(),
                Product { matrix, x: &x, y },
                at_once,
                stop,
            )
        };
        let (mut whole, mut parts) = (vec![0.0; outputs * rows], vec![0.0; outputs * rows]);
        assert!(multiply(&mut whole, rows, &|| false) && multiply(&mut parts, 4, &|| false));
        assert_eq!(whole, parts);
        let asked = std::cell::Cell::new(0);
        let stop = || {
            asked.set(asked.get() + 1);
            asked.get() > 2
        };
        parts.fill(7.0);
        assert!(!multiply(&mut parts, 4, &stop));
        assert_eq!(parts[..8 * outputs], whole[..8 * outputs]);
        assert_eq!(parts[8 * outputs..], vec![7.0; 13 * outputs]);
    }
}
