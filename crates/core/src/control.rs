//! How long work is watched and stopped.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// What long work asks between two pieces of itself: it says how much of it is done and how much there is
/// altogether, in units of its own, and goes on or ends soon with [`Error::Aborted`].
///
/// Every closure of that form is one. [`go_on`] never ends the work; [`until`] ends it when a flag is set, which
/// another thread or a signal's handler may do.
///
/// ```
/// use std::ops::ControlFlow;
/// # fn work(_: impl rwkv_core::Control) {}
/// # let mut show = |_: f64| ();
///
/// work(|done, total| {
///     show(100.0 * done as f64 / total as f64);
///     ControlFlow::Continue(())
/// });
/// ```
pub trait Control: FnMut(u64, u64) -> ControlFlow<()> {}

impl<F: FnMut(u64, u64) -> ControlFlow<()>> Control for F {}

/// A [`Control`] that lets work go on to its end.
pub fn go_on(_done: u64, _total: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A [`Control`] that ends work soon after `flag` is set.
pub fn until(flag: &AtomicBool) -> impl Control + Send + '_ {
    |_, _| if flag.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Asks whether to go on.
///
/// # Errors
/// [`Error::Aborted`] if not.
pub fn ask(control: &mut impl Control, done: u64, total: u64) -> Result<()> {
    match control(done, total) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Aborted),
    }
}
