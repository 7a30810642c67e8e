//! Errors on their way to JavaScript.

use std::any::Any;

use napi::{Env, JsError, Unknown};

/// What goes wrong in this crate or below it: a stable code and a message, which become an `Error` with a
/// `code`.
#[derive(Debug)]
pub struct Failure {
    code: &'static str,
    message: String,
}

/// The result of anything that can fail, before it is JavaScript's.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// What an exported function that does not return a promise fails with: napi makes the first part `err.code`.
pub(crate) type Thrown = napi::Error<&'static str>;

impl Failure {
    /// The thing was closed before.
    pub(crate) fn closed(what: &str) -> Self {
        Self { code: "CLOSED", message: format!("this {what} is closed") }
    }

    /// The thing is at work on an earlier call.
    pub(crate) fn busy(what: &str) -> Self {
        Self {
            code: "BUSY",
            message: format!(
                "this {what} is still at work: wait for the earlier call, or use another {what}"
            ),
        }
    }

    /// A panic: a fault in this library that must not take Node down.
    pub(crate) fn panic(payload: &(dyn Any + Send)) -> Self {
        let what = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "unknown panic".to_owned());
        Self { code: "INTERNAL", message: format!("a fault in rwkv, please report it: {what}") }
    }

    /// An error object for a promise to be rejected with.
    pub(crate) fn rejection(self, env: Env) -> napi::Error {
        let object: Unknown<'_> = JsError::from(Thrown::from(self)).into_unknown(env);
        napi::Error::from(object)
    }
}

impl From<rwkv_core::Error> for Failure {
    fn from(error: rwkv_core::Error) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

impl From<rwkv_train::Error> for Failure {
    fn from(error: rwkv_train::Error) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

impl From<Failure> for Thrown {
    fn from(failure: Failure) -> Self {
        Self::new(failure.code, failure.message)
    }
}
