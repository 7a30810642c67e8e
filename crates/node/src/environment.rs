//! The end of a JavaScript environment: Node's own, or a worker thread's.
//!
//! Node unloads an addon when the last environment that uses it ends. By then no thread may run its code, so
//! what is still open is closed: models, sessions and trainers own teams of threads that are joined when they
//! are freed.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Weak};

use napi::Env;

/// Something that holds threads or much memory until it is closed.
pub(crate) trait Close: Send + Sync {
    /// Stops work under way at its next look, frees what is held, and answers later calls with `CLOSED`.
    fn close(&self);
}

thread_local! {
    /// What is open in this thread's environment; an environment lives on one thread.
    static OPEN: RefCell<Vec<Weak<dyn Close>>> = const { RefCell::new(Vec::new()) };
}

/// Called when the addon is loaded into an environment.
pub(crate) fn start(env: Env) -> napi::Result<()> {
    env.add_env_cleanup_hook((), |()| {
        // Taken out first: closing one thing may free the last owner of another.
        let open = OPEN.with(RefCell::take);
        for thing in open.iter().filter_map(Weak::upgrade) {
            thing.close();
        }
    })
    .map(drop)
}

/// Has `thing` closed at the end of the environment that this thread runs.
pub(crate) fn watch<T: Close + 'static>(thing: &Arc<T>) {
    let weak: Weak<T> = Arc::downgrade(thing);
    OPEN.with_borrow_mut(|open| {
        open.retain(|thing| thing.strong_count() > 0);
        open.push(weak);
    });
}

/// Memory outside V8's heap that an object of JavaScript keeps alive: the garbage collector is told of it.
pub(crate) struct Held(Cell<i64>);

impl Held {
    /// To be made and released on JavaScript's thread.
    pub(crate) fn new(bytes: u64, env: Env) -> Self {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        // Only a hint: nothing is lost if it cannot be given.
        let _ = env.adjust_external_memory(bytes);
        Self(Cell::new(bytes))
    }

    /// The memory is free, or will be soon. A second time does nothing.
    pub(crate) fn release(&self, env: Env) {
        let _ = env.adjust_external_memory(-self.0.take());
    }
}
