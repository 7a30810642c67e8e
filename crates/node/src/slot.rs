//! Things that JavaScript owns and closes: worked on by one call at a time ([`Slot`]), or shared by calls
//! ([`SharedSlot`]). On the native side, here alone a call is answered with
//! `BUSY` or `CLOSED`; TypeScript answers with them as well (`src/internal.ts`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::control::Flag;
use crate::environment::{self, Close};
use crate::failure::{Failure, Result};

/// Holds a `T` from its making to its closing, for one call at a time.
pub(crate) struct Slot<T> {
    /// What it is, for messages: "session", "trainer".
    what: &'static str,
    content: Mutex<Content<T>>,
}

enum Content<T> {
    Idle(Box<T>),
    /// A [`Claim`] has it, and stops soon after this is raised.
    Busy(Flag),
    Closed,
}

impl<T: Send + 'static> Slot<T> {
    /// A slot that the end of the JavaScript environment closes, if nobody did before.
    ///
    /// To be called on JavaScript's thread.
    pub(crate) fn new(what: &'static str, value: T) -> Arc<Self> {
        let slot = Arc::new(Self { what, content: Mutex::new(Content::Idle(Box::new(value))) });
        environment::watch(&slot);
        slot
    }

    /// Takes the value for the length of one call, whose `cancel` flag is raised if the slot is closed
    /// meanwhile.
    ///
    /// To be done when the call is made, not when its work begins: calls are then refused in the order in
    /// which they were made.
    pub(crate) fn claim(self: &Arc<Self>, cancel: &Flag) -> Result<Claim<T>> {
        let mut content = self.lock();
        match std::mem::replace(&mut *content, Content::Busy(cancel.clone())) {
            Content::Idle(value) => Ok(Claim { value: Some(value), slot: Arc::clone(self) }),
            was @ Content::Busy(_) => {
                *content = was;
                Err(Failure::busy(self.what))
            }
            Content::Closed => {
                *content = Content::Closed;
                Err(Failure::closed(self.what))
            }
        }
    }

    /// A look at the value while no call has it.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&mut T) -> R) -> Result<R> {
        match &mut *self.lock() {
            Content::Idle(value) => Ok(look(value)),
            Content::Busy(_) => Err(Failure::busy(self.what)),
            Content::Closed => Err(Failure::closed(self.what)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Content<T>> {
        // Nothing that can panic runs under the lock but `look`, and that only reads or replaces whole
        // values.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Close for Slot<T> {
    /// Frees the value: now, or when the call that has it ends.
    fn close(&self) {
        let content = std::mem::replace(&mut *self.lock(), Content::Closed);
        if let Content::Busy(cancel) = &content {
            cancel.raise();
        }
        // Dropped here, after the lock: freeing a trainer joins its threads.
        drop(content);
    }
}

/// The value, taken out of its slot until this is dropped.
pub(crate) struct Claim<T> {
    value: Option<Box<T>>,
    slot: Arc<Slot<T>>,
}

impl<T> std::ops::Deref for Claim<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("a claim has its value until it is dropped")
    }
}

impl<T> std::ops::DerefMut for Claim<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("a claim has its value until it is dropped")
    }
}

impl<T> Drop for Claim<T> {
    fn drop(&mut self) {
        let value = self.value.take();
        let mut content = self.slot.content.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*content, value) {
            // A panic may have left the value half changed: it is not given back.
            (Content::Busy(_), _) if std::thread::panicking() => *content = Content::Closed,
            (Content::Busy(_), Some(value)) => *content = Content::Idle(value),
            (_, value) => {
                drop(content);
                drop(value);
            }
        }
    }
}

/// Holds a `T` from its making to its closing, for any number of calls at a time: each works on a clone.
pub(crate) struct SharedSlot<T> {
    /// What it is, for messages.
    what: &'static str,
    content: Mutex<Option<T>>,
    /// As `content` is none, to be asked often without the lock.
    closed: AtomicBool,
}

impl<T: Clone + Send + 'static> SharedSlot<T> {
    /// A slot that the end of the JavaScript environment closes, if nobody did before.
    ///
    /// To be called on JavaScript's thread.
    pub(crate) fn new(what: &'static str, value: T) -> Arc<Self> {
        let slot = Arc::new(Self { what, content: Mutex::new(Some(value)), closed: AtomicBool::new(false) });
        environment::watch(&slot);
        slot
    }

    /// The value.
    pub(crate) fn get(&self) -> Result<T> {
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        content.clone().ok_or_else(|| Failure::closed(self.what))
    }

    /// `Aborted` if `cancel` is raised, `CLOSED` if the slot was closed meanwhile: work asks now and then.
    pub(crate) fn go_on(&self, cancel: &Flag) -> Result<()> {
        if self.closed.load(Ordering::Relaxed) { Err(Failure::closed(self.what)) } else { cancel.check() }
    }
}

impl<T: Send> Close for SharedSlot<T> {
    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Dropped here, after the lock: the last owner of a model joins its threads.
        drop(content);
    }
}
