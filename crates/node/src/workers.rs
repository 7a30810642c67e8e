//! Threads for whatever takes long: reading and writing files, training, making tokens.
//!
//! None of Node's own are used: those are few, and what Node does with files and names waits for them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// More than are useful at a time: what runs here waits for files, or shares threads of its own with others of its
/// kind. What comes when all are busy waits.
const MAX: usize = 16;

/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(5);

type Work = Box<dyn FnOnce() + Send>;

/// Threads of one environment.
pub(crate) struct Workers(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Work>,
    /// Threads that wait for work.
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    /// Threads that have not ended.
    alive: usize,
    is_over: bool,
}

impl Workers {
    /// No threads yet: they start when there is work.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), wake: Condvar::new() }))
    }

    /// Has `work` done. False if it never will be, because no thread can be started, or at the end.
    pub(crate) fn run(&self, work: impl FnOnce() + Send + 'static) -> bool {
        let mut state = self.0.lock();
        if state.is_over {
            return false;
        }
        state.waiting.push_back(Box::new(work));
        if state.idle >= state.waiting.len() || state.alive >= MAX {
            drop(state);
            self.0.wake.notify_one();
            return true;
        }
        // Those that have ended are joined at once.
        let (ended, alive) =
            std::mem::take(&mut state.threads).into_iter().partition(JoinHandle::is_finished);
        state.threads = alive;
        let ended: Vec<_> = ended;
        for thread in ended {
            let _ = thread.join();
        }
        let shared = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name("rwkv-work".to_owned()).spawn(move || work_on(&shared));
        match thread {
            Ok(thread) => {
                state.alive += 1;
                state.threads.push(thread);
            }
            Err(_) if state.alive == 0 => {
                let dropped = state.waiting.pop_back();
                drop(state);
                drop(dropped);
                return false;
            }
            // One of the others takes it.
            Err(_) => {}
        }
        true
    }

    /// Drops what waits, and returns once all threads have ended. What runs has been told to stop.
    pub(crate) fn end(&self) {
        let (waiting, threads) = {
            let mut state = self.0.lock();
            state.is_over = true;
            (std::mem::take(&mut state.waiting), std::mem::take(&mut state.threads))
        };
        drop(waiting);
        self.0.wake.notify_all();
        for thread in threads {
            // It catches panics, so it always ends well.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a thread does until there is nothing to do.
fn work_on(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        if let Some(work) = state.waiting.pop_front() {
            drop(state);
            // A fault in it must not cost the thread.
            let _ = catch_unwind(AssertUnwindSafe(work));
            state = shared.lock();
            continue;
        }
        if state.is_over {
            break;
        }
        state.idle += 1;
        let waited = shared.wake.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
        state = waited.0;
        state.idle -= 1;
        if waited.1.timed_out() && state.waiting.is_empty() {
            break;
        }
    }
    state.alive -= 1;
}
