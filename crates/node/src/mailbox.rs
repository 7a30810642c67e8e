//! The way from any thread to that of JavaScript.
//!
//! An environment has one mailbox. A letter is a closure; all that wait are opened in one go, so that results of many
//! calls that come at the same time wake the event loop once.

use std::cell::Cell;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use napi::{Env, check_status, sys};

/// What is done on JavaScript's thread.
type Letter = Box<dyn FnOnce(Env) + Send>;

/// Where letters are put in, on any thread.
#[derive(Clone)]
pub(crate) struct Mailbox(Arc<Letterbox>);

struct Letterbox {
    letters: Mutex<Letters>,
}

struct Letters {
    waiting: Vec<Letter>,
    /// Wakes JavaScript's thread; none once the environment ends.
    bell: Option<Bell>,
}

/// Node's handle.
struct Bell(sys::napi_threadsafe_function);

// SAFETY: that is what Node makes it for; calling it is allowed on every thread as long as it is not released, which
// happens under the lock around it.
unsafe impl Send for Bell {}

impl Mailbox {
    /// Puts a letter in. Once the environment ends nobody opens it, and it is dropped.
    pub(crate) fn post(&self, letter: impl FnOnce(Env) + Send + 'static) {
        let mut letters = self.0.lock();
        let Some(Bell(handle)) = letters.bell else { return };
        letters.waiting.push(Box::new(letter));
        if letters.waiting.len() == 1 {
            // SAFETY: the handle is not released before it is taken out of here, under the lock that we hold.
            let _ = unsafe {
                sys::napi_call_threadsafe_function(
                    handle,
                    ptr::null_mut(),
                    sys::ThreadsafeFunctionCallMode::nonblocking,
                )
            };
        }
    }
}

impl Letterbox {
    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens all letters.
    fn open(&self, env: sys::napi_env) {
        let letters = std::mem::take(&mut self.lock().waiting);
        for letter in letters {
            // A panic must not reach Node.
            let _ = catch_unwind(AssertUnwindSafe(|| letter(Env::from_raw(env))));
        }
    }
}

/// JavaScript's side of a mailbox: keeps the event loop alive while something is expected.
pub(crate) struct Keeper {
    mailbox: Mailbox,
    handle: sys::napi_threadsafe_function,
    expected: Rc<Cell<usize>>,
}

impl Keeper {
    /// A mailbox of this environment. To be called on its thread, as all methods.
    pub(crate) fn new(env: Env) -> napi::Result<Self> {
        let mailbox =
            Mailbox(Arc::new(Letterbox { letters: Mutex::new(Letters { waiting: Vec::new(), bell: None }) }));
        let context = Arc::into_raw(Arc::clone(&mailbox.0)).cast_mut().cast::<c_void>();
        let (raw, mut name, mut handle) = (env.raw(), ptr::null_mut(), ptr::null_mut());
        // SAFETY: the environment is alive on this thread, the name is a string literal of that length, and the pointers
        // for results are to our own variables. `context` is a count of the Arc, which `finalize` gives back.
        unsafe {
            check_status!(sys::napi_create_string_utf8(raw, c"rwkv".as_ptr(), 4, &raw mut name))?;
            check_status!(sys::napi_create_threadsafe_function(
                raw,
                ptr::null_mut(),
                ptr::null_mut(),
                name,
                0,
                1,
                context,
                Some(finalize),
                context,
                Some(open),
                &raw mut handle,
            ))?;
            // Nothing is expected yet, so the event loop may end.
            check_status!(sys::napi_unref_threadsafe_function(raw, handle))?;
        }
        mailbox.0.lock().bell = Some(Bell(handle));
        Ok(Self { mailbox, handle, expected: Rc::default() })
    }

    pub(crate) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// One more letter is expected: until [`arrived`](Self::arrived) the event loop does not end by itself.
    pub(crate) fn expect(&self, env: sys::napi_env) {
        if self.expected.replace(self.expected.get() + 1) == 0 {
            // SAFETY: the environment runs on this thread, and the handle is released at its end only.
            unsafe { sys::napi_ref_threadsafe_function(env, self.handle) };
        }
    }

    /// A letter that was expected has come.
    pub(crate) fn arrived(&self, env: sys::napi_env) {
        let left = self.expected.get().saturating_sub(1);
        self.expected.set(left);
        if left == 0 {
            // SAFETY: as above.
            unsafe { sys::napi_unref_threadsafe_function(env, self.handle) };
        }
    }

    /// The environment ends: no letter is opened any more.
    pub(crate) fn close(&self) {
        let (waiting, bell) = {
            let mut letters = self.mailbox.0.lock();
            (std::mem::take(&mut letters.waiting), letters.bell.take())
        };
        drop(waiting);
        if let Some(Bell(handle)) = bell {
            // SAFETY: nobody can find the handle any more, and it is released once.
            unsafe {
                sys::napi_release_threadsafe_function(handle, sys::ThreadsafeFunctionReleaseMode::abort);
            }
        }
    }
}

/// Called by Node on JavaScript's thread when the bell has rung.
unsafe extern "C" fn open(env: sys::napi_env, _: sys::napi_value, context: *mut c_void, _: *mut c_void) {
    // At its end Node calls with no environment.
    if env.is_null() {
        return;
    }
    // SAFETY: `context` is what `Keeper::new` gave, and Node calls `finalize` after the last of these calls.
    unsafe { &*context.cast::<Letterbox>() }.open(env);
}

/// Called by Node when the handle is gone.
unsafe extern "C" fn finalize(_: sys::napi_env, context: *mut c_void, _: *mut c_void) {
    // SAFETY: this is the count that `Keeper::new` made, given back once.
    drop(unsafe { Arc::from_raw(context.cast::<Letterbox>()) });
}
