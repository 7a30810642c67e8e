//! Errors on their way to JavaScript.

use std::any::Any;
use std::sync::LazyLock;

use napi::{Env, JsError, Unknown};
use rwkv_train::TrainOptions;

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

    /// An error object.
    pub(crate) fn into_value(self, env: Env) -> Unknown<'static> {
        JsError::from(Thrown::from(self)).into_unknown(env)
    }
}

impl From<rwkv_core::Error> for Failure {
    fn from(error: rwkv_core::Error) -> Self {
        Self { code: error.code(), message: in_camel_case(&error) }
    }
}

impl From<rwkv_train::Error> for Failure {
    fn from(error: rwkv_train::Error) -> Self {
        match error {
            rwkv_train::Error::Rwkv(error) => error.into(),
            error => Self { code: error.code(), message: error.to_string() },
        }
    }
}

/// The message of an error, with options named as in JavaScript: `ctxLen` for `ctx_len`. What users wrote, a value
/// or a path, stays as it is.
fn in_camel_case(error: &rwkv_core::Error) -> String {
    use rwkv_core::Error;
    match error {
        Error::InvalidOption { name, value, expected } => {
            format!("{} is {value}; it must be {}", camel(name), renamed(expected))
        }
        Error::Data { path, problem } => format!("{}: {}", path.display(), renamed(problem)),
        error => error.to_string(),
    }
}

/// A text in which names of options are those of JavaScript.
fn renamed(text: &str) -> String {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_letter) {
        let end = rest[start..].find(|c| !is_letter(c)).map_or(rest.len(), |len| start + len);
        out += &rest[..start];
        let word = &rest[start..end];
        if is_option(word) {
            out += &camel(word);
        } else {
            out += word;
        }
        rest = &rest[end..];
    }
    out + rest
}

/// Options that are no training run's, and are named in what is said of another one.
const OTHERS: [&str; 5] = ["ctx_len", "data_type", "max_tokens", "n_ffn", "n_vocab"];

fn is_option(word: &str) -> bool {
    static OF_TRAINING: LazyLock<Vec<&'static str>> =
        LazyLock::new(|| TrainOptions::table().iter().map(|option| option.field).collect());
    word.contains('_') && (OTHERS.contains(&word) || OF_TRAINING.contains(&word))
}

fn camel(word: &str) -> String {
    let mut parts = word.split('_');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (first, rest) = part.split_at(part.len().min(1));
        out += &first.to_ascii_uppercase();
        out += rest;
    }
    out
}

impl From<Failure> for Thrown {
    fn from(failure: Failure) -> Self {
        Self::new(failure.code, failure.message)
    }
}
