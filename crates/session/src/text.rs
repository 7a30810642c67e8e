//! A text so far, as the calls on its session share it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rwkv_core::schedule::Handle;
use rwkv_core::{Error, Model, Result, State};
use rwkv_text::Tokenizer;

/// A place in a text.
#[derive(Clone)]
pub(crate) struct Point {
    /// The state after the tokens so far.
    pub(crate) state: Arc<State>,
    /// What may come next (n_vocab); none before the first token, and after the state was set.
    pub(crate) logits: Option<Arc<[f32]>>,
}

/// What a session and its calls share.
pub(crate) struct Text {
    pub(crate) model: Model,
    pub(crate) tokenizer: Option<Tokenizer>,
    /// Does not keep the scheduler: jobs, which the scheduler has, have this text.
    pub(crate) scheduler: Handle,
    /// Where the text is. A call that is given up leaves it as it is.
    point: Mutex<Point>,
    /// Whether nothing was read, and no state given.
    is_new: AtomicBool,
    /// The call under way.
    call: Mutex<Option<Weak<dyn Call>>>,
}

/// A call on a session.
pub(crate) trait Call: Send + Sync {
    /// Ends it at once, unless it is over.
    fn abort(&self);
}

impl Text {
    pub(crate) fn new(model: &Model, tokenizer: Option<&Tokenizer>, scheduler: Handle) -> Arc<Self> {
        let point = Point { state: Arc::new(model.new_state()), logits: None };
        Arc::new(Self {
            model: model.clone(),
            tokenizer: tokenizer.cloned(),
            scheduler,
            point: Mutex::new(point),
            is_new: AtomicBool::new(true),
            call: Mutex::new(None),
        })
    }

    pub(crate) fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| {
            Error::option("tokenizer", "missing", "given to the session; without one it reads tokens only")
        })
    }

    pub(crate) fn is_new(&self) -> bool {
        self.is_new.load(Ordering::Relaxed)
    }

    pub(crate) fn point(&self) -> Point {
        self.lock().clone()
    }

    pub(crate) fn set_point(&self, point: Point) {
        *self.lock() = point;
        self.is_new.store(false, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Point> {
        // Points are replaced whole.
        self.point.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self) -> MutexGuard<'_, Option<Weak<dyn Call>>> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets where the text is.
    ///
    /// # Errors
    /// [`Error::Busy`] while a call is under way.
    pub(crate) fn go_to(&self, point: Point) -> Result<()> {
        // No call begins meanwhile.
        let call = self.call();
        if call.is_some() {
            return Err(Error::Busy { what: "session" });
        }
        self.set_point(point);
        Ok(())
    }

    /// Begins a call.
    ///
    /// # Errors
    /// [`Error::Busy`] while another is under way.
    pub(crate) fn begin<T: Call + 'static>(&self, new: &Arc<T>) -> Result<()> {
        let mut call = self.call();
        if call.is_some() {
            return Err(Error::Busy { what: "session" });
        }
        let new: Weak<T> = Arc::downgrade(new);
        *call = Some(new);
        Ok(())
    }

    /// Ends the call that was begun.
    pub(crate) fn end(&self) {
        *self.call() = None;
    }

    /// Gives the call under way up.
    pub(crate) fn abort(&self) {
        // Without the lock: the call ends itself.
        let call = self.call().as_ref().and_then(Weak::upgrade);
        if let Some(call) = call {
            call.abort();
        }
    }
}
