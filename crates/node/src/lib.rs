//! The napi-rs binding of `rwkv`: types across the border, work on threads of our own, error codes. No numerics.
//!
//! JavaScript pulls: each exported asynchronous function does one piece of work (a prompt, some tokens, an
//! optimizer step) as one `Job`, and the TypeScript above it loops. Nothing here calls back into JavaScript.

// Exported functions take values as JavaScript hands them over.
#![allow(clippy::needless_pass_by_value)]

mod control;
mod convert;
mod environment;
mod evaluate;
mod failure;
mod job;
mod lora;
mod mailbox;
mod model;
mod number;
mod place;
mod prepare;
mod quantize;
mod report;
mod session;
mod slot;
mod state;
mod texts;
mod tokenizer;
mod trainer;
mod workers;

use napi::Env;
use napi::bindgen_prelude::Object;
use napi_derive::napi;

/// Runs when an environment loads the addon.
#[napi(module_exports)]
pub fn load(_exports: Object<'_>, env: Env) -> napi::Result<()> {
    environment::start(env)
}
