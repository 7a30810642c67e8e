//! Parameters and activations: what operators read.

use std::ops::Index;

use rwkv::params::{Layout, Matrix, Stored, Vector};

use super::Tensor;

/// The activations of a pass.
///
/// Buffers stay where they are between passes: the n-th tensor of a pass gets the n-th buffer.
#[derive(Debug, Default)]
pub(crate) struct Values {
    nodes: Vec<Node>,
    /// Tensors of this pass; nodes from here on are buffers in waiting.
    len: usize,
}

#[derive(Debug, Default)]
struct Node {
    rows: usize,
    width: usize,
    value: Vec<f32>,
}

impl Values {
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// A new tensor and its buffer, to be filled and [`put`](Self::put) back. Its content is what was there before.
    pub(super) fn make(&mut self, rows: usize, width: usize) -> (Tensor, Vec<f32>) {
        if self.len == self.nodes.len() {
            self.nodes.push(Node::default());
        }
        let node = &mut self.nodes[self.len];
        (node.rows, node.width) = (rows, width);
        let mut buffer = std::mem::take(&mut node.value);
        buffer.resize(rows * width, 0.0);
        self.len += 1;
        (Tensor(self.len - 1), buffer)
    }

    pub(super) fn put(&mut self, tensor: Tensor, buffer: Vec<f32>) {
        self.nodes[tensor.0].value = buffer;
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
}

/// Raw parameters, by handle.
#[derive(Debug)]
pub(crate) struct Params {
    values: Vec<Vec<f32>>,
    cols: Vec<usize>,
    stored: Vec<Stored>,
}

impl Params {
    pub(super) fn new(layout: &Layout, values: Vec<Vec<f32>>) -> Self {
        let specs = layout.specs().iter();
        let (cols, stored) = specs.map(|spec| (spec.cols, spec.stored)).unzip();
        Self { values, cols, stored }
    }

    pub(super) fn all(&self) -> &[Vec<f32>] {
        &self.values
    }

    pub(super) fn all_mut(&mut self) -> &mut [Vec<f32>] {
        &mut self.values
    }

    /// Inputs of a matrix.
    pub(crate) fn cols(&self, matrix: Matrix) -> usize {
        self.cols[matrix.index()]
    }

    /// Outputs of a matrix.
    pub(crate) fn rows(&self, matrix: Matrix) -> usize {
        self.values[matrix.index()].len() / self.cols(matrix)
    }

    /// How model files store a vector, and how inference sees it.
    pub(crate) fn stored(&self, vector: Vector) -> Stored {
        self.stored[vector.index()]
    }
}

impl Index<Matrix> for Params {
    type Output = [f32];

    fn index(&self, matrix: Matrix) -> &[f32] {
        &self.values[matrix.index()]
    }
}

impl Index<Vector> for Params {
    type Output = [f32];

    fn index(&self, vector: Vector) -> &[f32] {
        &self.values[vector.index()]
    }
}
