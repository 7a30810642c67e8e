//! Whether a result replaces what is there or is added to it.

/// What a kernel does with a result: gradients of a value that is used twice are sums.
///
/// The first consumer to send its gradient back sets it and the others add, so nothing need be cleared before a
/// backward pass. Gradients of parameters are always added: they gather over batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// `out = result`; whatever was there, be it a NaN, is gone.
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
