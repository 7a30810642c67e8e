//! Passes that many texts share.
//!
//! Writing one token reads all the weights of a model; writing one token of each of eight texts reads them once as
//! well. A [`Scheduler`] has a thread of its own that takes whatever waits, single tokens of texts that are being
//! written and parts of prompts, into one pass after another (continuous batching: Yu et al., "Orca", OSDI 2022,
//! section 3.1). A text that comes joins the next pass, and one that ends leaves room at once.
//!
//! - **The same bits as alone**: what a text reads does not depend on what it shares a pass with
//!   ([`Model::eval_batch`] promises that).
//! - **Fair**: every text that is being written gets a token a pass; prompts share the rest of the pass equally, so
//!   that a short one is read soon however long the others are.
//! - **Several models** on one [`Cpu`] take turns, pass by pass, on the same threads.
//!
//! What is read, and what becomes of the logits, is up to a [`Reader`]; the crate `rwkv-session` has the one that
//! writes texts.

mod pass;
#[cfg(test)]
mod tests;
mod turn;

use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use rwkv_kernels::Cpu;

use crate::error::{Error, Result};
use crate::infer::Model;
use crate::state::State;

/// A text that is being read, and perhaps written on.
///
/// All methods are called on threads that others wait for: they take little time, and wait for nothing.
pub trait Reader: Send {
    /// All tokens so far have been read: `state` is the state after them, and `logits` (n_vocab) tell what may come
    /// next.
    fn next(&mut self, logits: &[f32], state: &Arc<State>) -> Next;

    /// Reading failed, for the reasons of [`Model::eval`]; this was the last call.
    fn fail(&mut self, error: Error);

    /// How much the rest is wanted. It is asked often; when the answer changes, [`Scheduler::wake`] makes it known
    /// at once.
    fn demand(&self) -> Demand;
}

/// What a reader goes on with.
#[derive(Debug)]
pub enum Next {
    /// These tokens; at least one.
    Read(Vec<u32>),
    /// These tokens, from another state of the same model.
    ReadFrom(Arc<State>, Vec<u32>),
    /// Nothing: that was the last call.
    End,
}

/// How much the rest of a text is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// It is to be read on.
    Now,
    /// Not yet.
    Later,
    /// Never: the reader is dropped, and a pass for it alone ends at once.
    Never,
}

/// A thread that runs passes over whatever waits. Dropping it ends the thread.
pub struct Scheduler {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread and those who bring work share.
struct Shared {
    cpu: Arc<Cpu>,
    inbox: Mutex<Inbox>,
    /// Something is in the inbox.
    wake: Condvar,
}

#[derive(Default)]
struct Inbox {
    new: Vec<Job>,
    /// Some reader's demand may have changed.
    is_woken: bool,
    is_over: bool,
}

/// A reader and how far it is.
struct Job {
    model: Model,
    reader: Box<dyn Reader>,
    /// What is to be read, from `done` on.
    tokens: Vec<u32>,
    done: usize,
    state: Arc<State>,
    /// Memory for the next state.
    spare: Vec<f32>,
}

impl Shared {
    fn inbox(&self) -> std::sync::MutexGuard<'_, Inbox> {
        // Nothing under the lock can panic half way.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The schedulers that are in use.
static IN_USE: Mutex<Vec<Weak<Scheduler>>> = Mutex::new(Vec::new());

impl Scheduler {
    /// The scheduler of a [`Cpu`]: there is one, whoever asks.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses to start a thread.
    pub fn of(cpu: &Arc<Cpu>) -> Result<Arc<Self>> {
        let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.retain(|scheduler| scheduler.strong_count() > 0);
        // Those that are of no use here are dropped without the lock: the last owner waits for a thread.
        let alive: Vec<_> = in_use.iter().filter_map(Weak::upgrade).collect();
        if let Some(found) = alive.iter().find(|it| Arc::ptr_eq(&it.shared.cpu, cpu)) {
            let found = Arc::clone(found);
            drop(in_use);
            return Ok(found);
        }
        let new = Arc::new(Self::start(Arc::clone(cpu))?);
        in_use.push(Arc::downgrade(&new));
        drop(in_use);
        Ok(new)
    }

    fn start(cpu: Arc<Cpu>) -> Result<Self> {
        let shared = Arc::new(Shared { cpu, inbox: Mutex::default(), wake: Condvar::new() });
        let thread = std::thread::Builder::new().name("rwkv-passes".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || turn::run(&shared)
        });
        let thread = thread.map_err(Error::io("start a thread of", "rwkv"))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What brings work to it, and does not keep it: a reader may have one.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// As [`Handle::read`].
    pub fn read(&self, model: &Model, from: Arc<State>, tokens: Vec<u32>, reader: Box<dyn Reader>) {
        self.handle().read(model, from, tokens, reader);
    }

    /// As [`Handle::wake`].
    pub fn wake(&self) {
        self.handle().wake();
    }
}

/// Brings work to a [`Scheduler`], as long as that is there.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

impl Handle {
    /// Has `tokens` read from `from` on, a state of `model`, which is of this scheduler's [`Cpu`].
    ///
    /// The reader fails at once with [`Error::InvalidOption`] for no tokens, and with [`Error::Aborted`] if the
    /// scheduler is gone.
    pub fn read(&self, model: &Model, from: Arc<State>, tokens: Vec<u32>, mut reader: Box<dyn Reader>) {
        if tokens.is_empty() {
            return reader.fail(Error::option("tokens", "empty", "at least one token"));
        }
        let mut inbox = self.0.inbox();
        if inbox.is_over {
            drop(inbox);
            return reader.fail(Error::Aborted);
        }
        let job = Job { model: model.clone(), reader, tokens, done: 0, state: from, spare: Vec::new() };
        inbox.new.push(job);
        self.0.wake.notify_one();
    }

    /// Has every reader's demand looked at again.
    pub fn wake(&self) {
        self.0.inbox().is_woken = true;
        self.0.wake.notify_one();
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.shared.inbox().is_over = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take()
            // A reader may have been its last owner, and is dropped on that very thread.
            && thread.thread().id() != std::thread::current().id()
        {
            // It catches panics, so it always ends well.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("cpu", &self.shared.cpu).finish_non_exhaustive()
    }
}
