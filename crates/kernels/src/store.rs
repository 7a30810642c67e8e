//! Whether a result replaces what is there or is added to it.

/// What a kernel does with a result: gradients of a value that is used twice are sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// `out = result`.
    Set,
    /// `out += result`.
    Add,
}
