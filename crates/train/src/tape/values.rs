//! Activations: what operators read and make.

use super::Tensor;
use super::buffer::{Buffer, Pool};

/// The activations of a pass.
///
/// Buffers stay where they are between passes: the n-th tensor of a pass gets the n-th buffer. Those that are
/// freed within a pass are there for every tensor of their size.
#[derive(Debug, Default)]
pub(crate) struct Values {
    nodes: Vec<Node>,
    /// Tensors of this pass; nodes from here on are buffers in waiting.
    len: usize,
    free: Vec<Buffer>,
    pool: Pool,
}

#[derive(Debug, Default)]
struct Node {
    rows: usize,
    width: usize,
    value: Buffer,
}

impl Values {
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Number of tensors of this pass.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// A new tensor, without values yet.
    pub(super) fn declare(&mut self, rows: usize, width: usize) -> Tensor {
        if self.len == self.nodes.len() {
            self.nodes.push(Node::default());
        }
        let node = &mut self.nodes[self.len];
        (node.rows, node.width) = (rows, width);
        self.len += 1;
        Tensor(self.len - 1)
    }

    /// The tensor's buffer, to be filled and [`put`](Self::put) back. Its content is what was there before.
    pub(crate) fn take(&mut self, tensor: Tensor) -> Buffer {
        let node = &mut self.nodes[tensor.0];
        let len = node.rows * node.width;
        let mut buffer = std::mem::take(&mut node.value);
        if !buffer.fit(len) {
            buffer = match self.free.iter().rposition(|free| free.capacity() == len) {
                Some(position) => self.free.swap_remove(position),
                None => self.pool.take(len),
            };
            buffer.fit(len);
        }
        buffer
    }

    pub(crate) fn put(&mut self, tensor: Tensor, buffer: Buffer) {
        self.nodes[tensor.0].value = buffer;
    }

    /// Gives up the values of a tensor until its operator runs again.
    pub(super) fn free(&mut self, tensor: Tensor) {
        let buffer = std::mem::take(&mut self.nodes[tensor.0].value);
        if buffer.capacity() > 0 {
            self.free.push(buffer);
        }
    }

    pub(crate) fn get(&self, Tensor(index): Tensor) -> &[f32] {
        assert!(index < self.len, "tensor {index} is from another pass");
        &self.nodes[index].value
    }

    pub(crate) fn rows(&self, tensor: Tensor) -> usize {
        self.nodes[tensor.0].rows
    }

    pub(crate) fn width(&self, tensor: Tensor) -> usize {
        self.nodes[tensor.0].width
    }

    /// Floats that are held in buffers, freed ones included.
    pub(super) fn floats(&self) -> usize {
        let values = self.nodes.iter().map(|node| &node.value).chain(&self.free);
        values.map(Buffer::capacity).sum()
    }

    /// Floats that buffers were ever taken from.
    pub(super) fn total(&self) -> usize {
        self.pool.total()
    }
}
