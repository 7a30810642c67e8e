//! A call that reads tokens.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rwkv_core::schedule::{Demand, Next, Reader, Scheduler};
use rwkv_core::{Error, Result, State};

use crate::text::{Call, Point, Text};

/// Told the logits (n_vocab) after the last token, or what went wrong; once. It is called where others wait for it, and
/// neither waits nor computes on the model's threads.
pub type Done = Box<dyn FnOnce(Result<Arc<[f32]>>) + Send>;

/// Tokens that are being read. It can be given up at any moment: the text is then as it was.
#[derive(Clone)]
pub struct Reading {
    call: Arc<Shared>,
    /// Kept as long as something is to be read.
    _scheduler: Arc<Scheduler>,
}

struct Shared {
    text: Arc<Text>,
    /// None once the call is over.
    done: Mutex<Option<Done>>,
}

impl Reading {
    /// Begins to read `tokens`.
    pub(crate) fn begin(text: &Arc<Text>, scheduler: Arc<Scheduler>, tokens: Vec<u32>, done: Done) -> Self {
        // It is there before the call is: whoever gives the call up finds it.
        let shared = Arc::new(Shared { text: Arc::clone(text), done: Mutex::new(Some(done)) });
        let begun = if tokens.is_empty() {
            Err(Error::option("tokens", "empty", "at least one token"))
        } else {
            text.begin(&shared)
        };
        match begun {
            Ok(()) => {
                let eye = Box::new(Eye(Arc::clone(&shared)));
                text.scheduler.read(&text.model, text.point().state, tokens, eye);
            }
            Err(error) => {
                let done = shared.done().take();
                if let Some(tell) = done {
                    tell(Err(error));
                }
            }
        }
        Self { call: shared, _scheduler: scheduler }
    }

    /// Gives the call up, unless it is over: it ends with [`Error::Aborted`], at once.
    pub fn abort(&self) {
        self.call.abort();
    }
}

impl Call for Shared {
    fn abort(&self) {
        if self.finish(Err(Error::Aborted)) {
            self.text.scheduler.wake();
        }
    }
}

impl Shared {
    fn done(&self) -> MutexGuard<'_, Option<Done>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the call with what it found; false if it was over.
    fn finish(&self, found: Result<Point>) -> bool {
        let mut done = self.done();
        let Some(tell) = done.take() else { return false };
        let result = found.map(|point| {
            let logits = point.logits.clone().unwrap_or_default();
            self.text.set_point(point);
            logits
        });
        self.text.end();
        drop(done);
        tell(result);
        true
    }
}

/// The scheduler's side.
struct Eye(Arc<Shared>);

impl Reader for Eye {
    fn next(&mut self, logits: &[f32], state: &Arc<State>) -> Next {
        self.0.finish(Ok(Point { state: Arc::clone(state), logits: Some(logits.into()) }));
        Next::End
    }

    fn fail(&mut self, error: Error) {
        self.0.finish(Err(error));
    }

    fn demand(&self) -> Demand {
        if self.0.done().is_none() { Demand::Never } else { Demand::Now }
    }
}

impl Drop for Eye {
    fn drop(&mut self) {
        self.0.finish(Err(Error::Internal { what: "the thread that reads has stopped".to_owned() }));
    }
}
