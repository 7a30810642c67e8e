//! An operation written once, run with the instructions of any tier.

use crate::Isa;

/// The inner part of a kernel: what one thread does on one block.
pub(crate) trait Operation {
    /// What the operation returns.
    type Output;

    /// The specification: plain loops.
    fn scalar(self) -> Self::Output;
}

/// Runs `operation` with the instructions of `isa`.
pub(crate) fn dispatch<O: Operation>(_isa: Isa, operation: O) -> O::Output {
    operation.scalar()
}
