//! Calls that JavaScript gets a promise of, done on threads of our own.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use napi::bindgen_prelude::{ToNapiValue, TypeName};
use napi::{Env, JsValue, ValueType, check_status, sys};

use crate::control::Flag;
use crate::environment;
use crate::failure::{Failure, Result};
use crate::mailbox::Mailbox;

/// A call whose promise resolves to a `T`. It begins when napi makes a promise of it.
pub struct Job<T>(Box<dyn FnOnce(Settle<T>)>);

/// What is left to do on JavaScript's thread: make the result from what the work found.
type Finish<T> = Box<dyn FnOnce(Env) -> T + Send>;

impl<T: ToNapiValue + 'static> Job<T> {
    /// A call that `start` begins; it is told to whom it owes the result.
    pub(crate) fn start(start: impl FnOnce(Settle<T>) + 'static) -> Self {
        Self(Box::new(start))
    }

    /// Has `work` done, whose result is the promise's.
    pub(crate) fn run(work: impl FnOnce() -> Result<T> + Send + 'static) -> Self
    where
        T: Send,
    {
        Self::run_then(&Flag::default(), work, |value, _| value)
    }

    /// The same for work that looks at `flag`. If that is raised before the work has begun, it never begins.
    pub(crate) fn stoppable(flag: &Flag, work: impl FnOnce() -> Result<T> + Send + 'static) -> Self
    where
        T: Send,
    {
        Self::run_then(flag, work, |value, _| value)
    }

    /// Has `work` done, of whose result `finish` then makes the promise's, on JavaScript's thread.
    pub(crate) fn run_then<U: Send + 'static>(
        flag: &Flag,
        work: impl FnOnce() -> Result<U> + Send + 'static,
        finish: impl FnOnce(U, Env) -> T + Send + 'static,
    ) -> Self {
        let flag = flag.clone();
        Self::start(move |settle| {
            // Whoever takes it first, a thread that works or the one that raises the flag, settles.
            let waiting = Arc::new(Mutex::new(Some((settle, work, finish))));
            let take = {
                let waiting = Arc::clone(&waiting);
                move || waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
            };
            flag.on_raise({
                let take = take.clone();
                move || {
                    if let Some((settle, ..)) = take() {
                        settle.fail(rwkv_core::Error::Aborted.into());
                    }
                }
            });
            let over = flag.clone();
            let is_taken = environment::work(&flag, {
                let take = take.clone();
                move || {
                    let Some((settle, work, finish)) = take() else { return };
                    // Whatever the work was on is given up by its `Claim` when it unwinds.
                    let found = catch_unwind(AssertUnwindSafe(work));
                    let found = found.unwrap_or_else(|payload| Err(Failure::panic(&*payload)));
                    over.forget_hooks();
                    settle.then(found.map(|value| Box::new(move |env| finish(value, env)) as Finish<T>));
                }
            });
            if !is_taken {
                // What is dropped says so.
                drop(take());
                flag.forget_hooks();
            }
        })
    }
}

impl<T> TypeName for Job<T> {
    fn type_name() -> &'static str {
        "Promise"
    }

    fn value_type() -> ValueType {
        ValueType::Object
    }
}

impl<T: ToNapiValue + 'static> ToNapiValue for Job<T> {
    unsafe fn to_napi_value(env: sys::napi_env, job: Self) -> napi::Result<sys::napi_value> {
        let (mut deferred, mut promise) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: napi calls this on JavaScript's thread with its environment; the results go to our own variables.
        unsafe { check_status!(sys::napi_create_promise(env, &raw mut deferred, &raw mut promise))? };
        let mailbox = environment::expect(env)?;
        let owed = Owed { mailbox, deferred: Some(Deferred(deferred)) };
        (job.0)(Settle { owed, result: PhantomData });
        Ok(promise)
    }
}

/// Node's handle of a promise that is not settled.
struct Deferred(sys::napi_deferred);

// SAFETY: it is a mere name on other threads; only JavaScript's thread uses it.
unsafe impl Send for Deferred {}

/// Owes a result, a `T`, to a promise. Dropped without one, it rejects the promise.
pub(crate) struct Settle<T> {
    owed: Owed,
    result: PhantomData<fn() -> T>,
}

struct Owed {
    mailbox: Mailbox,
    deferred: Option<Deferred>,
}

impl<T: ToNapiValue + 'static> Settle<T> {
    /// Settles the promise.
    pub(crate) fn with(self, result: Result<T>)
    where
        T: Send,
    {
        self.then(result.map(|value| Box::new(move |_| value) as Finish<T>));
    }

    /// Settles the promise with what `finish` makes on JavaScript's thread.
    fn then(mut self, result: Result<Finish<T>>) {
        self.owed.send(|env| {
            let finish = result?;
            // SAFETY: this is called on JavaScript's thread, with its environment.
            let value = unsafe { T::to_napi_value(env.raw(), finish(env)) };
            value.map_err(|error| Failure::panic(&error.reason.clone()))
        });
    }

    /// Rejects the promise.
    pub(crate) fn fail(mut self, failure: Failure) {
        self.owed.send(|_| Err(failure));
    }
}

impl Owed {
    /// Settles the promise, on JavaScript's thread, with the value that `make` makes there.
    fn send(&mut self, make: impl FnOnce(Env) -> Result<sys::napi_value> + Send + 'static) {
        let Some(Deferred(deferred)) = self.deferred.take() else { return };
        let deferred = Deferred(deferred);
        self.mailbox.post(move |env| {
            environment::arrived(env.raw());
            // Whatever goes wrong here, the promise is settled.
            let made = catch_unwind(AssertUnwindSafe(|| make(env)));
            deferred.settle(env, made.unwrap_or_else(|payload| Err(Failure::panic(&*payload))));
        });
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.send(|_| Err(Failure::panic(&"a call was not answered")));
    }
}

impl Deferred {
    fn settle(self, env: Env, result: Result<sys::napi_value>) {
        // SAFETY: we are on JavaScript's thread, whose environment this is, and a deferred is settled once: this takes it.
        unsafe {
            match result {
                Ok(value) => sys::napi_resolve_deferred(env.raw(), self.0, value),
                Err(failure) => sys::napi_reject_deferred(env.raw(), self.0, failure.into_value(env).raw()),
            };
        }
    }
}
