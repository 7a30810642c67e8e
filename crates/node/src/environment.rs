//! A JavaScript environment, Node's own or a worker thread's, and its end.
//!
//! Node unloads an addon when the last environment that uses it ends. By then no thread may run its code: at the end
//! of an environment everything that runs for it is told to stop, what is open is closed, and threads are joined.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Weak};

use napi::{Env, sys};
use rwkv_core::schedule::Scheduler;

use crate::control::Flag;
use crate::mailbox::{Keeper, Mailbox};
use crate::workers::Workers;

/// Something that holds threads or much memory until it is closed.
pub(crate) trait Close: Send + Sync {
    /// Stops work under way at its next look, frees what is held, and answers later calls with `CLOSED`.
    fn close(&self);
}

/// Things that are open. Those that are gone are forgotten now and then.
#[derive(Default)]
pub(crate) struct Open {
    things: Vec<Weak<dyn Close>>,
    /// How many there were when those that are gone were forgotten last.
    alive: usize,
}

impl Open {
    pub(crate) fn add<T: Close + 'static>(&mut self, thing: &Arc<T>) {
        let weak: Weak<T> = Arc::downgrade(thing);
        if self.things.len() >= 2 * self.alive + 16 {
            self.things.retain(|thing| thing.strong_count() > 0);
            self.alive = self.things.len();
        }
        self.things.push(weak);
    }

    pub(crate) fn close(self) {
        for thing in self.things.iter().filter_map(Weak::upgrade) {
            thing.close();
        }
    }
}

/// Flags of work under way. Those that nobody else has are forgotten now and then.
#[derive(Default)]
struct Flags {
    all: Vec<Flag>,
    shared: usize,
}

impl Flags {
    fn add(&mut self, flag: &Flag) {
        if self.all.len() >= 2 * self.shared + 16 {
            self.all.retain(Flag::is_shared);
            self.shared = self.all.len();
        }
        self.all.push(flag.clone());
    }
}

/// What an environment has, on its thread.
struct Environment {
    keeper: Keeper,
    workers: Workers,
    open: RefCell<Open>,
    /// Of work under way.
    flags: RefCell<Flags>,
    /// Kept to the end, so that their threads end on this one.
    schedulers: RefCell<Vec<Arc<Scheduler>>>,
}

thread_local! {
    /// An environment lives on one thread.
    static HERE: RefCell<Option<Environment>> = const { RefCell::new(None) };
}

/// Called when the addon is loaded into an environment.
pub(crate) fn start(env: Env) -> napi::Result<()> {
    // A program may load it twice, by taking it out of Node's cache.
    if here(|_| ()).is_some() {
        return Ok(());
    }
    let environment = Environment {
        keeper: Keeper::new(env)?,
        workers: Workers::new(),
        open: RefCell::default(),
        flags: RefCell::default(),
        schedulers: RefCell::default(),
    };
    HERE.set(Some(environment));
    // The hook that was added last runs first: the mailbox's handle, which has one of Node's own, is still there.
    env.add_env_cleanup_hook((), |()| {
        if let Some(environment) = HERE.take() {
            environment.end();
        }
    })
    .map(drop)
}

impl Environment {
    fn end(self) {
        let Self { keeper, workers, open, flags, schedulers } = self;
        keeper.close();
        for flag in flags.into_inner().all {
            flag.raise();
        }
        open.into_inner().close();
        workers.end();
        drop(schedulers);
    }
}

fn here<R>(look: impl FnOnce(&Environment) -> R) -> Option<R> {
    HERE.with_borrow(|environment| environment.as_ref().map(look))
}

/// Has `thing` closed at the end of the environment that this thread runs.
pub(crate) fn watch<T: Close + 'static>(thing: &Arc<T>) {
    here(|environment| environment.open.borrow_mut().add(thing));
}

/// Keeps a scheduler until the end of the environment that this thread runs.
pub(crate) fn keep(scheduler: Arc<Scheduler>) {
    here(|environment| {
        let mut kept = environment.schedulers.borrow_mut();
        if !kept.iter().any(|one| Arc::ptr_eq(one, &scheduler)) {
            kept.push(scheduler);
        }
    });
}

/// Has `work` done on a thread of this environment, at whose end `flag` is raised.
/// False if it never will be.
pub(crate) fn work(flag: &Flag, work: impl FnOnce() + Send + 'static) -> bool {
    let begun = here(|environment| {
        environment.flags.borrow_mut().add(flag);
        environment.workers.run(work)
    });
    begun == Some(true)
}

/// Announces a letter to this environment's mailbox.
///
/// # Errors
/// At the end of the environment.
pub(crate) fn expect(env: sys::napi_env) -> napi::Result<Mailbox> {
    let mailbox = here(|environment| {
        environment.keeper.expect(env);
        environment.keeper.mailbox().clone()
    });
    mailbox.ok_or_else(|| napi::Error::from_reason("this JavaScript environment has ended"))
}

/// A letter that was announced has come.
pub(crate) fn arrived(env: sys::napi_env) {
    here(|environment| environment.keeper.arrived(env));
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
