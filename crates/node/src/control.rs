//! How JavaScript stops work and sees how far it is, without a callback between threads.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use napi_derive::napi;
use rwkv_core::Control;

use crate::failure::Result;

/// What an `AbortSignal` raises and work looks at between two pieces of itself, and what work says of its
/// progress.
#[napi]
#[derive(Default)]
pub struct Cancel(Flag);

/// The work's side of a [`Cancel`].
#[derive(Clone, Default)]
pub(crate) struct Flag(Arc<Shared>);

#[derive(Default)]
struct Shared {
    raised: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
    /// Called when the flag is raised.
    hooks: Mutex<Vec<Hook>>,
}

type Hook = Box<dyn FnOnce() + Send>;

#[napi]
impl Cancel {
    /// A flag that is down.
    #[napi(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the work to stop. There is no way back.
    #[napi]
    pub fn raise(&self) {
        self.0.raise();
    }

    /// How far the work is, in units of its own.
    #[napi(getter)]
    pub fn done(&self) -> f64 {
        self.0.0.done.load(Ordering::Relaxed) as f64
    }

    /// How far it will go; 0 as long as it is not known.
    #[napi(getter)]
    pub fn total(&self) -> f64 {
        self.0.0.total.load(Ordering::Relaxed) as f64
    }
}

impl Cancel {
    /// The work's side.
    pub(crate) fn flag(&self) -> Flag {
        self.0.clone()
    }
}

impl Flag {
    /// Asks the work to stop.
    pub(crate) fn raise(&self) {
        let hooks = {
            let mut hooks = self.hooks();
            self.0.raised.store(true, Ordering::Relaxed);
            std::mem::take(&mut *hooks)
        };
        for hook in hooks {
            hook();
        }
    }

    /// Has `hook` called when the flag is raised: at once if it is.
    pub(crate) fn on_raise(&self, hook: impl FnOnce() + Send + 'static) {
        let mut hooks = self.hooks();
        if self.is_raised() {
            drop(hooks);
            hook();
        } else {
            hooks.push(Box::new(hook));
        }
    }

    /// Forgets what was to be called: the work is over, and what the hooks hold is free.
    pub(crate) fn forget_hooks(&self) {
        let hooks = std::mem::take(&mut *self.hooks());
        drop(hooks);
    }

    fn hooks(&self) -> std::sync::MutexGuard<'_, Vec<Hook>> {
        self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anybody else has it, who may look at it.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// As other crates know it.
    pub(crate) fn control(&self) -> impl Control + Send + '_ {
        |done, total| {
            self.progress(done, total);
            if self.is_raised() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }

    /// Whether the work is to stop.
    pub(crate) fn is_raised(&self) -> bool {
        self.0.raised.load(Ordering::Relaxed)
    }

    /// `Aborted` if the work is to stop.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_raised() { Err(rwkv_core::Error::Aborted.into()) } else { Ok(()) }
    }

    /// Says how far the work is.
    pub(crate) fn progress(&self, done: u64, total: u64) {
        self.0.done.store(done, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
    }
}
