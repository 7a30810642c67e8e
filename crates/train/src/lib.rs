//! Trains RWKV language models on the CPU of one machine: text in, model file out.
//!
//! ```
//! use std::sync::atomic::AtomicBool;
//!
//! use rwkv::SamplerOptions;
//! use rwkv_train::{TrainOptions, Trainer};
//!
//! # fn main() -> rwkv_train::Result<()> {
//! # let folder = tempfile::tempdir().expect("a folder");
//! # let (book, out) = (folder.path().join("book.txt"), folder.path().join("run"));
//! std::fs::write(&book, "tick tock ".repeat(60)).expect("a text");
//! let options = TrainOptions { n_layer: 2, n_embd: 32, ctx_len: 16, max_steps: 60, ..TrainOptions::new(&book, &out) };
//!
//! let mut trainer = Trainer::create(&options)?;
//! while !trainer.done() {
//!     let report = trainer.step()?;
//!     if report.checkpoint_due {
//!         trainer.save_checkpoint()?;
//!     }
//! }
//! trainer.save_model()?; // runs/book/model.bin, which rwkv.cpp reads too
//!
//! let never = AtomicBool::new(false); // set by another thread, it ends the call soon
//! let loss = trainer.validate(&never, |_| ())?;
//! assert!(loss < 0.5, "{loss}");
//! let likeliest = SamplerOptions { temperature: 0.0, ..SamplerOptions::default() };
//! assert_eq!(trainer.sample("tick", 6, likeliest, &never)?, " tock ");
//! # Ok(())
//! # }
//! ```
//!
//! # The way of a gradient
//! The equations of a model are written once, over the operators of [`rwkv::Exec`]. Inference computes them at once; here
//! a [`Tape`](tape::Tape) computes the same and remembers. `ops/` has one file for each operator: its formula, what
//! its forward remembers, its backward, and the test that compares the two by central differences. A new version of
//! RWKV is one model file in `rwkv` plus the operators that are new, here.
//!
//! One step is
//!
//! 1. [`Windows`](data::Windows) names the batch: a function of seed and step, so that there is no random state to save;
//! 2. the model's equations run on the tape, down to the cross-entropy;
//! 3. the tape is walked backwards; every activation's gradient lives in one of a handful of buffers that stay in cache,
//!    and is gone when it has been used;
//! 4. the gradients are clipped by their common norm, and [`AdamW`](optimizer::AdamW) moves the parameters, those of the
//!    attention's time scales faster than the others.
//!
//! Once the first step has sized all buffers, they are used again. All sums are taken in an order that depends on
//! sizes alone: a run gives the same bits on one thread and on many, in one go and resumed.
//!
//! # How it differs from other trainers
//! - It needs no Python, no GPU and no framework, and the file it writes is the file that inference maps.
//! - [`Trainer`] does not own the loop. The caller pulls one step at a time and decides what happens in between, so
//!   stopping, saving, validating and drawing are not options of a framework but ordinary code. What takes long looks at
//!   a flag between two operators; a step that was stopped has changed nothing.
//! - A [run's folder](run) is never half written nor written by two trainers, and [`Trainer::resume`] goes on bit for bit.
//!   A run that diverges goes on from the newest checkpoint that is [sound](Soundness).
//! - Windows of the text are laid out anew for each epoch, and each is learned once in it: see
//!   [`Windows`](data::Windows).
//! - Options that make no sense, texts that cannot be learned and models that do not fit into memory are refused by
//!   name, before anything is written.

mod base;
mod checkpoint;
pub mod data;
mod error;
pub mod init;
mod lock;
mod memory;
mod ops;
pub mod optimizer;
pub mod options;
pub mod run;
pub mod schedule;
mod streams;
pub mod tape;
mod trainer;

pub use error::{Error, Result, SoundCheckpoint};
pub use options::{ResumeOptions, TokenizerKind, TrainOptions, TrainPrecision, Tune};
pub use trainer::{Soundness, StepReport, Trainer};
