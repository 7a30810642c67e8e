//! Work on libuv's threads, so that JavaScript's thread never waits.

use std::panic::{AssertUnwindSafe, catch_unwind};

use napi::bindgen_prelude::{AsyncTask, ToNapiValue, TypeName};
use napi::{Env, Task};

use crate::failure::{Failure, Result};

/// One call's work; its promise resolves to a `T`.
pub struct Job<T>(Option<Work<T>>);

type Work<T> = Box<dyn FnOnce() -> Result<Finish<T>> + Send>;

/// What is left to do on JavaScript's thread: make the result from what the work found.
type Finish<T> = Box<dyn FnOnce(Env) -> T + Send>;

impl<T: ToNapiValue + TypeName + 'static> Job<T> {
    /// Queues `work`, whose result is the promise's.
    pub(crate) fn run(work: impl FnOnce() -> Result<T> + Send + 'static) -> AsyncTask<Self>
    where
        T: Send,
    {
        Self::run_then(work, |value, _| value)
    }

    /// Queues `work`, of whose result `finish` then makes the promise's, on JavaScript's thread.
    pub(crate) fn run_then<U: Send + 'static>(
        work: impl FnOnce() -> Result<U> + Send + 'static,
        finish: impl FnOnce(U, Env) -> T + Send + 'static,
    ) -> AsyncTask<Self> {
        AsyncTask::new(Self(Some(Box::new(move || {
            let value = work()?;
            Ok(Box::new(move |env| finish(value, env)))
        }))))
    }
}

impl<T: ToNapiValue + TypeName + 'static> Task for Job<T> {
    type Output = Result<Finish<T>>;
    type JsValue = T;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        let Some(work) = self.0.take() else {
            return Err(napi::Error::from_reason("a task ran twice"));
        };
        // Whatever the work was on is given up by its `Claim` when it unwinds.
        Ok(catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(Failure::panic(&*payload))))
    }

    fn resolve(&mut self, env: Env, output: Self::Output) -> napi::Result<T> {
        match output {
            Ok(finish) => Ok(finish(env)),
            Err(failure) => Err(failure.rejection(env)),
        }
    }
}
