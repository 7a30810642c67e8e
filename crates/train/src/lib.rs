//! Trains RWKV language models on the CPU of one machine: text in, model file out.
//!
//! ```
//! use rwkv_core::{SamplerOptions, go_on};
//! use rwkv_train::{TrainOptions, Trainer};
//!
//! # fn main() -> rwkv_train::Result<()> {
//! # let directory = tempfile::tempdir().expect("a directory");
//! # let (book, out) = (directory.path().join("book.txt"), directory.path().join("run"));
//! std::fs::write(&book, "tick tock ".repeat(60)).expect("a text");
//! let options = TrainOptions { n_layer: 2, n_embd: 32, ctx_len: 16, max_steps: 60, ..TrainOptions::new(&book, &out) };
//!
//! let mut trainer = Trainer::create(&options, go_on)?;
//! trainer.run(go_on, |_, advance| {
//!     if let Some(val_loss) = advance.val_loss {
//!         println!("step {}: validation loss {val_loss:.3}", advance.step.step);
//!     }
//! })?;
//! // The best model is in runs/book/model.bin, which rwkv.cpp reads too.
//! let best = trainer.best().expect("a run validates at its end");
//! assert!(best.val_loss < 0.5, "{best:?}");
//! let likeliest = SamplerOptions { temperature: 0.0, ..SamplerOptions::default() };
//! assert_eq!(trainer.sample("tick", 6, likeliest, go_on)?, " tock ");
//! # Ok(())
//! # }
//! ```
//!
//! # A training step
//! The equations of a model are written once, over the operators of [`rwkv_core::Exec`]. A [`Tape`](tape::Tape)
//! computes them as inference does, and records each operator. `ops/` has one file for each operator: its
//! formula, what its forward saves, its backward, and a test against central differences. A new version of
//! RWKV is one model file in `rwkv`, and the operators that it adds, there and here.
//!
//! One step:
//!
//! 1. [`Windows`](data::Windows) selects the batch, as a function of seed and step: there is no random state
//!    to save.
//! 2. The model's equations run on the tape, down to the cross-entropy.
//! 3. Backward goes through the recorded operators from the end. Gradients of activations use a few buffers,
//!    which are reused as soon as a gradient has been read.
//! 4. The gradients are clipped by their global norm, and the [`Optimizer`](optimizer::Optimizer) updates the trained
//!    parameters, each at the learning rate that its declaration states.
//!
//! The first step sizes all buffers; later steps allocate none. The order of all sums depends on sizes alone:
//! a run gives the same bits on one thread and on many, uninterrupted and resumed.
//!
//! A run trains a new model, or one that is there already: whole, in part, with LoRA adapters, or its initial
//! state alone (see [`TrainOptions`]).
//!
//! # How it differs from other trainers
//! - It needs no Python, no GPU and no framework, and the file it writes is the file that inference maps.
//! - [`Trainer`] is moved on by its caller, by a whole run or by one step of it, so plotting, stopping and doing
//!   otherwise are ordinary code. Long operations ask a [`Control`](rwkv_core::Control) between two operators
//!   whether to go on; a step that was stopped has changed nothing.
//! - A [run's directory](run) is never half written nor written by two trainers, and [`Trainer::resume`]
//!   continues bit for bit. A run that diverges continues from the newest checkpoint that is
//!   [sound](Soundness).
//! - Windows of the text are shuffled for each epoch, and each is used once in it: see
//!   [`Windows`](data::Windows).
//! - Invalid options, texts that are too short and models that do not fit into memory are refused by name,
//!   before anything is written.
// Tests may ask the C library what is near the truth.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod base;
mod checkpoint;
pub mod data;
mod error;
pub mod init;
mod lines;
mod lock;
mod memory;
mod ops;
pub mod optimizer;
pub mod options;
mod pages;
mod profile;
pub mod ranks;
mod record;
pub mod report;
pub mod run;
pub mod schedule;
mod streams;
pub mod tape;
mod trainer;

pub use error::{Error, Result, SoundCheckpoint};
/// What texts are read from: the crate `rwkv-text` has it.
pub use rwkv_text::source::Input;

pub use options::{
    Decay, Inputs, InvalidText, Keep, OptimizerKind, Order, ResumeOptions, Stdin, SumPrecision,
    TokenizerKind, TrainOptions, TrainPrecision, Tune, Unknown,
};
pub use profile::{Cost, Part, Pass, StepProfile};
pub use record::{Kept, read_kept};
pub use trainer::{Advance, Best, Saved, Soundness, StepReport, Trainer};

/// The program in README.md, which is to compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
