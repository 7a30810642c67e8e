//! How texts are read.

// napi leaves its registration out of test builds, and with it the only use of what is here.
#![cfg_attr(test, allow(dead_code))]

use napi::Either;
use napi::bindgen_prelude::Uint8Array;
use napi_derive::napi;
use rwkv_text::source::{Input, Invalid, Kind, SourceOptions};

/// How texts are read; what is left out is as `SourceOptions` has it.
#[napi(object)]
#[derive(Default)]
pub struct Texts {
    /// The field or column that has the text.
    pub text_field: Option<String>,
    /// "error" or "replace".
    pub invalid: Option<String>,
    /// What standard input is: "text" or "jsonl".
    pub stdin: Option<String>,
}

/// Paths, and texts of which a copy is made.
pub(crate) fn inputs_of(inputs: Vec<Either<String, Uint8Array>>) -> Vec<Input> {
    let input = |input: Either<String, Uint8Array>| match input {
        Either::A(path) => Input::from(path),
        Either::B(text) => Input::text(text.to_vec()),
    };
    inputs.into_iter().map(input).collect()
}

impl From<Texts> for SourceOptions {
    fn from(texts: Texts) -> Self {
        let usual = Self::default();
        Self {
            text_field: texts.text_field.unwrap_or(usual.text_field),
            invalid: if texts.invalid.as_deref() == Some("replace") {
                Invalid::Replace
            } else {
                Invalid::Error
            },
            stdin: if texts.stdin.as_deref() == Some("jsonl") { Kind::JsonLines } else { Kind::Text },
            ..usual
        }
    }
}
