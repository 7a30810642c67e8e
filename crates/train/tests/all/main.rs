//! The integration tests in one program, because linking each file of them by itself takes longer than compiling it.
//! A file beside this directory is a program of its own: `allocations.rs` has its own allocator, and
//! `typescript.rs` is not part of the published package.

mod advance;
mod common;
mod data;
mod divergence;
mod example;
mod finetune;
mod gradients;
mod limits;
mod options;
mod ranks;
mod report;
mod results;
mod reverse;
mod runs;
mod texts;
mod tuning;
