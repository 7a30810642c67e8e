//! Whether a result is stored or accumulated.

/// What a kernel does with its result: gradients of a value that is used twice are sums.
///
/// The first consumer in the backward pass sets the gradient and the others add to it, so nothing has to be
/// cleared before. Gradients of parameters are always added: they accumulate over batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// `out = result`; the old value, be it a NaN, does not matter.
    Set,
    /// `out += result`.
    Add,
}

impl Store {
    /// Stores one element.
    #[inline]
    pub(crate) fn put(self, out: &mut f32, result: f32) {
        match self {
            Self::Set => *out = result,
            Self::Add => *out += result,
        }
    }
}
