//! Gradients: of parameters, which are summed over a batch, and of activations, which live from their first
//! contribution until the operator that made the activation has read them.

use std::sync::Arc;

use rwkv_core::params::{Matrix, ParamSpec, Stored, Vector};
use rwkv_core::store::Parameters;
use rwkv_kernels::Store;

use super::Tensor;
use super::buffer::{Buffer, Pool, Pooled};
use crate::pages;

/// Gradients of the parameters; every operator adds to them. Matrices that are not trained have none;
/// vectors, which are small, always have one, so that operators need not ask.
#[derive(Debug, Default)]
pub(crate) struct ParamGradients(Vec<Vec<f32>>);

impl ParamGradients {
    pub(super) fn new(params: &Parameters) -> Self {
        let specs = params.layout().specs().iter().enumerate();
        let len = |(index, spec): (usize, &ParamSpec)| {
            if params.is_trained(index) || !spec.is_matrix() { params.raw(index).len() } else { 0 }
        };
        Self(pages::zeros(specs.map(len)))
    }

    /// As [`new`](Self::new), of vectors alone.
    pub(super) fn of_vectors(params: &Parameters) -> Self {
        let specs = params.layout().specs().iter();
        Self(specs.map(|spec| vec![0.0; if spec.is_matrix() { 0 } else { spec.len() }]).collect())
    }

    /// Adds the gradients of all vectors of `other`, which are by what operators read of them: those of the raw
    /// parameters.
    pub(super) fn add_vectors(&mut self, other: &Self, params: &Parameters) {
        let specs = params.layout().specs();
        for (index, (own, other)) in self.0.iter_mut().zip(&other.0).enumerate() {
            let form = specs[index].stored;
            if form == Stored::Raw {
                own.iter_mut().zip(other).for_each(|(own, other)| *own += other);
                continue;
            }
            // Of a vector that is not trained there is no raw form, and nobody reads its gradient.
            let raw = if params.is_trained(index) { params.raw(index) } else { &[] };
            for ((own, other), &raw) in own.iter_mut().zip(other).zip(raw) {
                *own += other * form.derivative(raw);
            }
        }
    }

    pub(super) fn zero(&mut self) {
        for gradient in &mut self.0 {
            gradient.fill(0.0);
        }
    }

    pub(super) fn all(&self) -> &[Vec<f32>] {
        &self.0
    }

    pub(super) fn all_mut(&mut self) -> &mut [Vec<f32>] {
        &mut self.0
    }

    /// The gradient of a matrix; empty if it is not trained.
    pub(super) fn matrix(&mut self, matrix: Matrix) -> &mut [f32] {
        &mut self.0[matrix.index()]
    }

    /// The gradients of several vectors at once.
    ///
    /// # Panics
    /// If two of them are the same.
    pub(crate) fn vectors<const N: usize>(&mut self, vectors: [Vector; N]) -> [&mut [f32]; N] {
        let gradients = self.0.get_disjoint_mut(vectors.map(Vector::index));
        gradients.expect("an operator's parameters are distinct").map(Vec::as_mut_slice)
    }
}

/// Gradients of the activations.
///
/// A gradient that has been read gives its buffer to the next one that is written, most recently read first:
/// the whole backward pass lives in a handful of buffers that stay in cache. `x + y` sends the same gradient
/// to both of its inputs; they share the buffer until one of them gets another contribution.
#[derive(Debug, Default)]
pub(crate) struct Gradients {
    of: Vec<Option<Gradient>>,
    free: Vec<Gradient>,
    pool: Arc<Pool>,
}

/// The gradient of one activation, perhaps shared with others that are equal.
pub(crate) type Gradient = Arc<Buffer>;

/// A gradient being written: a buffer of its own, and whether it holds contributions already.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) store: Store,
    tensor: Tensor,
    buffer: Gradient,
}

impl Open {
    pub(crate) fn values(&mut self) -> &mut [f32] {
        Arc::get_mut(&mut self.buffer).expect("an open gradient has its buffer alone")
    }
}

impl Gradients {
    /// Gradients whose buffers come from `pool`.
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self { pool, ..Self::default() }
    }

    /// Forgets all gradients and keeps their buffers.
    pub(super) fn clear(&mut self) {
        for index in 0..self.of.len() {
            if let Some(gradient) = self.of[index].take() {
                self.release(gradient);
            }
        }
    }

    /// The whole gradient of `tensor`: all that use it have added their part. Give it back with
    /// [`release`](Self::release).
    ///
    /// # Panics
    /// If nothing used the tensor.
    pub(crate) fn take(&mut self, tensor: Tensor) -> Gradient {
        self.of[tensor.0].take().expect("a tensor that leads to the loss has a gradient")
    }

    /// Frees the buffer for the next gradient, unless another tensor shares it.
    pub(crate) fn release(&mut self, mut gradient: Gradient) {
        if Arc::get_mut(&mut gradient).is_some() {
            self.free.push(gradient);
        }
    }

    /// The gradient of `tensor`, `len` values, to contribute to. If `store` says so, what is there must be
    /// overwritten, else added to. Give it back with [`close`](Self::close).
    pub(crate) fn open(&mut self, tensor: Tensor, len: usize) -> Open {
        let (store, buffer) = match self.slot(tensor).take() {
            None => (Store::Set, self.buffer(len)),
            Some(mut gradient) => {
                if Arc::get_mut(&mut gradient).is_none() {
                    let mut own = self.buffer(len);
                    Arc::get_mut(&mut own).expect("a free buffer has one owner").copy_from_slice(&gradient);
                    gradient = own;
                }
                (Store::Add, gradient)
            }
        };
        Open { store, tensor, buffer }
    }

    pub(crate) fn close(&mut self, open: Open) {
        *self.slot(open.tensor) = Some(open.buffer);
    }

    /// Makes `gradient` the first contribution to the gradient of `tensor`; false if that has one already.
    pub(crate) fn share(&mut self, gradient: &Gradient, tensor: Tensor) -> bool {
        let slot = self.slot(tensor);
        if slot.is_none() {
            *slot = Some(Arc::clone(gradient));
            return true;
        }
        false
    }

    fn slot(&mut self, Tensor(index): Tensor) -> &mut Option<Gradient> {
        if index >= self.of.len() {
            self.of.resize(index + 1, None);
        }
        &mut self.of[index]
    }

    /// A buffer for what waits for other groups.
    pub(crate) fn pooled(&self, len: usize) -> Pooled {
        Pool::borrow(&self.pool, len)
    }

    fn buffer(&mut self, len: usize) -> Gradient {
        match self.free.iter().rposition(|buffer| buffer.len() == len) {
            Some(position) => self.free.remove(position),
            None => Arc::new(self.pool.take(len)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_contribution_sets_and_later_ones_add() {
        let mut gradients = Gradients::default();
        for (expected, value) in [(Store::Set, 1.0), (Store::Add, 2.0)] {
            let mut open = gradients.open(Tensor(3), 2);
            assert_eq!(open.store, expected);
            open.values().fill(value);
            gradients.close(open);
        }
        assert_eq!(**gradients.take(Tensor(3)), [2.0, 2.0]);
    }

    #[test]
    fn a_shared_gradient_is_copied_before_one_owner_changes_it() {
        let mut gradients = Gradients::default();
        let mut five = Pool::default().take(1);
        five[0] = 5.0;
        let shared: Gradient = Arc::new(five);
        assert!(gradients.share(&shared, Tensor(0)));
        assert!(gradients.share(&shared, Tensor(1)));
        assert!(!gradients.share(&shared, Tensor(1)));
        let mut open = gradients.open(Tensor(0), 1);
        assert_eq!(open.store, Store::Add);
        open.values()[0] += 1.0;
        gradients.close(open);
        assert_eq!((gradients.take(Tensor(0))[0], gradients.take(Tensor(1))[0]), (6.0, 5.0));
    }

    #[test]
    fn a_read_gradients_buffer_is_used_again() {
        let mut gradients = Gradients::default();
        let open = gradients.open(Tensor(0), 4);
        gradients.close(open);
        let first = gradients.take(Tensor(0));
        let address = first.as_ptr();
        gradients.release(first);
        let open = gradients.open(Tensor(7), 4);
        assert_eq!(open.buffer.as_ptr(), address);
    }
}
