//! The integration tests in one program, because linking each file of them by itself takes longer than compiling it.
//! Two others are programs of their own: `parallel.rs`, which `.ci/tsan.sh` compiles too, and `reference`, which
//! `.ci/arm.sh` does.

mod adapter_export;
mod bad_formats;
mod bench;
mod changing_files;
#[path = "../common/mod.rs"]
mod common;
mod convert;
mod damaged_files;
mod example;
mod formats;
mod from_bytes;
mod lora;
mod merge;
mod model;
mod not_finite;
mod not_regular;
mod peft;
mod quantize;
mod sampler;
