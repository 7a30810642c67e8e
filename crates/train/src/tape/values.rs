//! Activations: what operators read and make.

use std::ops::Range;
use std::sync::Arc;

use rwkv_kernels::{Cpu, Packing, Precision, RowsOf, pack_rows, packed_len};

use super::Tensor;
use super::buffer::{Buffer, Pool, Pooled};
use super::record::Use;
use crate::profile::{Cost, Pass, Profile};

/// The activations of one group of sequences.
///
/// Buffers stay where they are between passes: the n-th tensor of a pass gets the n-th buffer. Those that are
/// freed within a pass are there for every tensor of their size.
#[derive(Debug, Default)]
pub(crate) struct Values {
    rows: usize,
    nodes: Vec<Node>,
    /// Tensors of this pass; nodes from here on are buffers in waiting.
    len: usize,
    free: Vec<Buffer>,
    pool: Arc<Pool>,
    /// Some rows of f32, before they are packed.
    scratch: Vec<f32>,
}

#[derive(Debug, Default)]
struct Node {
    width: usize,
    use_: Use,
    value: Buffer,
    /// The same, packed for products: as their rows, unless that is what the values are, and for the gradients
    /// of the matrices.
    rows: Option<Pooled>,
    input: Option<Arc<Pooled>>,
}

/// Floats of the rows that are computed before they are packed: they are still in the L2 cache then. With a fourth of
/// them, which stay in the L1 cache, too few rows of each panel are written in order, and it takes twice as long.
const SCRATCH: usize = 1 << 14;

impl Values {
    /// Activations whose buffers come from `pool`.
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self { pool, ..Self::default() }
    }

    /// Forgets all tensors: the next ones have `rows` rows, these widths and uses, and no values yet.
    pub(super) fn begin(&mut self, rows: usize, widths: &[usize], uses: &[Use]) {
        (self.rows, self.len) = (rows, widths.len());
        if self.nodes.len() < self.len {
            self.nodes.resize_with(self.len, Node::default);
        }
        for (node, (&width, &use_)) in self.nodes.iter_mut().zip(widths.iter().zip(uses)) {
            (node.width, node.use_, node.rows, node.input) = (width, use_, None, None);
        }
    }

    /// The tensor's buffer, to be filled and [`put`](Self::put) back. Its content is what was there before.
    pub(crate) fn take(&mut self, tensor: Tensor) -> Buffer {
        let len = self.len(tensor);
        let buffer = std::mem::take(&mut self.nodes[tensor.0].value);
        self.fit(buffer, len)
    }

    pub(crate) fn put(&mut self, tensor: Tensor, buffer: Buffer) {
        self.nodes[tensor.0].value = buffer;
    }

    /// Whether only products read the tensor: then it need not be there as f32.
    pub(crate) fn is_operand(&self, tensor: Tensor) -> bool {
        self.nodes[tensor.0].use_ != Use::Values
    }

    /// Fills tensors of one width that only products read: `compute` is given some rows at a time to compute,
    /// and what it makes of them is packed while it is in the L1 cache.
    pub(crate) fn fill_operands<const N: usize>(
        &mut self,
        cpu: &Cpu,
        profile: &mut Profile,
        tensors: [Tensor; N],
        mut compute: impl FnMut(&Self, Range<usize>, [&mut [f32]; N]),
    ) {
        if Packing::Rows.is_as_it_is(cpu) {
            return self.fill_and_pack(cpu, profile, tensors, compute);
        }
        let (rows, width) = (self.rows, self.width(tensors[0]));
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut packed = tensors.map(|tensor| self.new_packed(cpu, tensor));
        let some = rows_at_once(N * width);
        scratch.resize((N * some * width).max(scratch.len()), 0.0);
        for first in (0..rows).step_by(some) {
            let some = some.min(rows - first);
            let mut values = scratch.chunks_exact_mut(some * width);
            let mut values = [(); N].map(|()| values.next().expect("there is room for N of them"));
            compute(self, first..first + some, values.each_mut().map(|values| &mut **values));
            for (values, packed) in values.iter().zip(&mut packed) {
                packed.put(cpu, profile, values, width, RowsOf { first, of: rows });
            }
        }
        self.scratch = scratch;
        for (tensor, packed) in tensors.into_iter().zip(packed) {
            self.keep(tensor, packed);
        }
    }

    /// The same where products take rows as they are.
    fn fill_and_pack<const N: usize>(
        &mut self,
        cpu: &Cpu,
        profile: &mut Profile,
        tensors: [Tensor; N],
        mut compute: impl FnMut(&Self, Range<usize>, [&mut [f32]; N]),
    ) {
        let (rows, width) = (self.rows, self.width(tensors[0]));
        let mut buffers = tensors.map(|tensor| self.take(tensor));
        let mut packed = tensors.map(|tensor| self.new_packed(cpu, tensor));
        let some = rows_at_once(N * width);
        for first in (0..rows).step_by(some) {
            let part = first..rows.min(first + some);
            let own = part.start * width..part.end * width;
            let mut values = buffers.each_mut().map(|buffer| &mut buffer[own.clone()]);
            compute(self, part, values.each_mut().map(|values| &mut **values));
            for (values, packed) in values.iter().zip(&mut packed) {
                packed.put(cpu, profile, values, width, RowsOf { first, of: rows });
            }
        }
        for ((tensor, packed), buffer) in tensors.into_iter().zip(packed).zip(buffers) {
            self.keep(tensor, packed);
            self.put(tensor, buffer);
        }
    }

    /// Packs a tensor for products, if it is not packed yet; for the gradients of matrices too if it
    /// `is_trained`.
    pub(crate) fn pack(&mut self, cpu: &Cpu, profile: &mut Profile, tensor: Tensor, is_trained: bool) {
        let Node { width, value, rows, input, .. } = &self.nodes[tensor.0];
        let (width, of) = (*width, self.rows);
        let has_rows = rows.is_some() || Packing::Rows.is_as_it_is(cpu);
        let has_all = has_rows && (input.is_some() || !is_trained);
        if !has_all {
            let mut packed = Packed::new(cpu, &self.pool, [of, width], is_trained);
            packed.put(cpu, profile, value, width, RowsOf { first: 0, of });
            self.keep(tensor, packed);
        }
    }

    fn new_packed(&self, cpu: &Cpu, tensor: Tensor) -> Packed {
        let Node { width, use_, .. } = self.nodes[tensor.0];
        Packed::new(cpu, &self.pool, [self.rows, width], use_ == Use::TrainedProducts)
    }

    fn keep(&mut self, tensor: Tensor, Packed { rows, input }: Packed) {
        let node = &mut self.nodes[tensor.0];
        node.rows = rows;
        if let Some(input) = input {
            node.input = Some(Arc::new(input));
        }
    }

    /// A tensor as products multiply it, once it is packed.
    pub(crate) fn packed_rows(&self, tensor: Tensor) -> &[f32] {
        self.nodes[tensor.0].rows.as_deref().unwrap_or_else(|| self.get(tensor))
    }

    /// A tensor as the gradient of a matrix multiplies it.
    ///
    /// # Panics
    /// If it is not packed.
    pub(crate) fn packed_input(&self, tensor: Tensor) -> Arc<Pooled> {
        let input = self.nodes[tensor.0].input.as_ref();
        Arc::clone(input.expect("an operator that is trained has packed its input"))
    }

    /// Gives up the values of a tensor until its operator runs again, and what is packed for the gradients of
    /// matrices if that is not to be kept.
    pub(super) fn free(&mut self, tensor: Tensor, keep_input: bool) {
        let node = &mut self.nodes[tensor.0];
        let buffer = std::mem::take(&mut node.value);
        node.rows = None;
        if !keep_input {
            node.input = None;
        }
        if buffer.capacity() > 0 {
            self.free.push(buffer);
        }
    }

    pub(crate) fn get(&self, Tensor(index): Tensor) -> &[f32] {
        assert!(index < self.len, "tensor {index} is from another pass");
        &self.nodes[index].value
    }

    /// Some rows of a tensor.
    pub(crate) fn rows_of(&self, tensor: Tensor, rows: Range<usize>) -> &[f32] {
        let width = self.width(tensor);
        &self.get(tensor)[rows.start * width..rows.end * width]
    }

    /// Elements of a tensor.
    pub(crate) fn len(&self, tensor: Tensor) -> usize {
        self.rows * self.width(tensor)
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn width(&self, tensor: Tensor) -> usize {
        self.nodes[tensor.0].width
    }

    /// Floats that are held in buffers, freed ones included.
    pub(super) fn floats(&self) -> usize {
        let rows = self.nodes.iter().filter_map(|node| node.rows.as_ref()).map(|rows| rows.len());
        let inputs = self.nodes.iter().filter_map(|node| node.input.as_ref()).map(|input| input.len());
        let values = self.nodes.iter().map(|node| &node.value).chain(&self.free);
        rows.chain(inputs).sum::<usize>() + values.map(Buffer::capacity).sum::<usize>()
    }

    /// `buffer` or another one, `len` floats long.
    fn fit(&mut self, mut buffer: Buffer, len: usize) -> Buffer {
        if !buffer.fit(len) {
            if buffer.capacity() > 0 {
                self.free.push(buffer);
            }
            buffer = match self.free.iter().rposition(|free| free.capacity() == len) {
                Some(position) => self.free.swap_remove(position),
                None => self.pool.take(len),
            };
            buffer.fit(len);
        }
        buffer
    }
}

/// How many rows are computed before they are packed, of so many floats each: an even number, because elements of bf16
/// hold two rows.
fn rows_at_once(floats: usize) -> usize {
    (SCRATCH / floats / 2).max(1) * 2
}

/// What the packing of activations and gradients is called in a profile.
pub(crate) const PACKING: &str = "packing";

/// What it takes to pack `floats` for so many purposes.
pub(crate) fn packing_of(cpu: &Cpu, floats: usize, outs: usize) -> Cost {
    let packed = floats * outs * if cpu.precision() == Precision::Bf16 { 2 } else { 4 };
    Cost { operations: 0, bytes: (4 * floats + packed) as u64 }
}

/// A tensor that is packed for products, and for the gradients of matrices if these are trained.
struct Packed {
    rows: Option<Pooled>,
    input: Option<Pooled>,
}

impl Packed {
    fn new(cpu: &Cpu, pool: &Arc<Pool>, [rows, width]: [usize; 2], is_trained: bool) -> Self {
        let borrow = |packing| Pool::borrow(pool, packed_len(cpu, packing, rows, width));
        let has_rows = !Packing::Rows.is_as_it_is(cpu);
        Self {
            rows: has_rows.then(|| borrow(Packing::Rows)),
            input: is_trained.then(|| borrow(Packing::Input)),
        }
    }

    /// Packs some rows.
    fn put(&mut self, cpu: &Cpu, profile: &mut Profile, values: &[f32], width: usize, part: RowsOf) {
        let outs = usize::from(self.rows.is_some()) + usize::from(self.input.is_some());
        if outs == 0 {
            return;
        }
        let start = profile.start();
        let rows = self.rows.as_mut().map(|rows| (Packing::Rows, &mut **rows));
        let input = self.input.as_mut().map(|input| (Packing::Input, &mut **input));
        pack_rows(cpu, values, width, part, rows.into_iter().chain(input));
        let work = || packing_of(cpu, values.len(), outs);
        profile.stop(start, (Pass::Forward, PACKING), cpu.threads(), work);
    }
}
