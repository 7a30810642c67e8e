//! RWKV language models on CPUs: model files, inference, state, sampling.
//!
//! An RWKV model is trained like a transformer and run like a recurrent network, with the same parameters. It
//! needs no key-value cache: a [`State`] of fixed size, a few KB for a small model, summarises the tokens so
//! far. It can be cloned, compared, saved and restored.
//!
//! # A first run
//!
//! ```no_run
//! use rwkv_core::{LoadOptions, Model, Sampler, SamplerOptions};
//!
//! # fn main() -> rwkv_core::Result<()> {
//! // The directory of a training run, of a model of bytes; the crate rwkv-text has the other tokenizers.
//! let model = Model::load("runs/moby-dick", &LoadOptions::default())?;
//! let prompt = b"Call me".map(u32::from);
//!
//! let mut state = model.new_state();
//! let mut sampler = Sampler::new(SamplerOptions { temperature: 0.8, top_p: 0.9, ..Default::default() })?;
//! let mut logits = model.eval(&prompt, &mut state)?;
//! for _ in 0..200 {
//!     let token = sampler.sample(&logits);
//!     print!("{}", char::from(token as u8));
//!     logits = model.eval(&[token], &mut state)?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is where
//! - [`Model`] evaluates tokens: one, a long prompt, or a ragged batch of many texts ([`Model::eval_batch`]).
//!   It measures its loss on a text ([`Model::evaluate`]) and its speed ([`Model::bench`]).
//! - [`Scheduler`](schedule::Scheduler) takes texts that are read and written at the same time into shared passes.
//! - [`ModelFile`] reads rwkv.cpp's `.bin` files, mapped and checked to the last byte; [`write_model`] writes
//!   them.
//! - [`quantize()`] makes a file of FP32 or FP16 weights into one of five quantized formats, the bytes that
//!   rwkv.cpp makes.
//! - [`convert()`] makes a file of any format that is read into one of another: `.bin`, `.pth`, `.safetensors`, GGUF.
//! - [`lora`] reads and writes low-rank adapters, also other programs', and merges one into its base ([`lora::merge`]).
//! - [`Sampler`] turns logits into a token; [`log_probabilities`] says how likely the model held it. The crate
//!   `rwkv-text` has the tokenizers.
//! - [`model`] holds the versions of RWKV, each written once as equations over the trait [`Exec`]. [`Infer`]
//!   implements it here; `rwkv-train` implements it with a tape that computes gradients. A new version needs
//!   its equations and the operators that it adds.
//!
//! # Promises
//! **The same bits however a text is evaluated.** A token's logits do not depend on whether the text is
//! evaluated token by token, in chunks, whole, or with others in a batch, nor on the number of threads. They
//! do depend, in the last digits, on the instruction set, which can be fixed with [`LoadOptions::isa`] or
//! `RWKV_ISA`.
//!
//! **No panics on bad input.** A damaged file, a token that the model does not have, a state of another
//! model, a nonsensical option: each is an [`Error`] that says what was wrong and where, with a stable
//! [`code`](Error::code), and leaves states and files as they were.
//!
//! ```
//! use rwkv_core::model::Network;
//! use rwkv_core::{DataType, LoadOptions, Model, ModelConfig, Sampler, SamplerOptions, write_model};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // An untrained model over bytes: any weights will do.
//! let config = ModelConfig::v4(256, 32, 2);
//! let (_, layout, _) = Network::new(&config);
//! let weight = |i| -((i * 37 % 101) as f32) / 101.0;
//! let weights: Vec<Vec<_>> = layout.specs().iter().map(|spec| (0..spec.len()).map(weight).collect()).collect();
//! let directory = tempfile::tempdir()?;
//! let path = directory.path().join("model.bin");
//! write_model(&path, &config, &layout, &weights, DataType::F16)?;
//!
//! let model = Model::load(&path, &LoadOptions { threads: Some(2), ..Default::default() })?;
//! let mut state = model.new_state();
//! let logits = model.eval(&[72, 101, 108, 108, 111], &mut state)?;
//!
//! // One token at a time, and by way of saved bytes: the same logits.
//! let mut again = model.new_state();
//! for token in [72, 101, 108, 108] {
//!     model.eval(&[token], &mut again)?;
//! }
//! let mut again = model.state_from_bytes(&again.to_bytes()?)?;
//! assert_eq!(model.eval(&[111], &mut again)?, logits);
//! assert_eq!(again, state);
//!
//! // The same seed, the same token.
//! let sample = || Sampler::new(SamplerOptions { seed: 7, ..Default::default() }).map(|mut s| s.sample(&logits));
//! assert_eq!(sample()?, sample()?);
//!
//! let error = model.eval(&[256], &mut state).unwrap_err();
//! assert_eq!(error.code(), "TOKEN_OUT_OF_RANGE");
//! assert_eq!(error.to_string(), "token 256 is out of range: this model's vocabulary has 256 tokens, 0 to 255");
//! assert_eq!(again, state);
//!
//! std::fs::write(&path, &std::fs::read(&path)?[..1000])?;
//! let error = Model::load(&path, &LoadOptions::default()).unwrap_err();
//! assert!(error.to_string().contains(
//!     "tensor \"emb.weight\" at byte 54: [32, 256] values of FP16 are 16384 bytes; the file has 946 left"
//! ));
//! # Ok(())
//! # }
//! ```
// Tests may ask the C library what is near the truth.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod atomic;
mod checksum;
mod config;
mod control;
mod convert;
mod data_type;
mod error;
mod exec;
mod file;
mod fingerprint;
mod infer;
pub mod lora;
/// What `rwkv-train` asks of the machine too; no part of the interface.
#[doc(hidden)]
pub mod machine;
pub mod model;
pub mod params;
/// What `rwkv-text` reads nanoGPT's vocabularies with; no part of the interface.
#[doc(hidden)]
pub mod pickle;
mod place;
mod quantize;
mod regular;
mod sampler;
pub mod schedule;
mod state;
pub mod store;
mod text;

pub use atomic::{Staged, write_atomically};
pub use config::{ModelConfig, Sizes, Version};
pub use control::{Control, ask, go_on, until};
pub use convert::{ConvertOptions, Converted, convert};
pub use data_type::DataType;
pub use error::{Error, Fault, Result};
pub use exec::{Binary, Channelwise, Exec, Unary, Wkv7};
/// What `rwkv-text` maps its files with; no part of the interface.
#[doc(hidden)]
pub use file::Mapped;
pub use file::{FileFormat, ModelFile, TensorInfo, read_tensors, stage_model, write_model};
pub use fingerprint::Fingerprint;
#[doc(hidden)]
pub use fingerprint::OF_A_PART;
pub use infer::{
    Bench, BenchOptions, Evaluation, Infer, LoadOptions, MAX_THREADS, Model, Outputs, Segment, Tensor,
};
pub use lora::{Lora, LoraOptions};
pub use place::{Content, Place, content, resolve};
pub use quantize::{Quantized, quantize, quantized_format};
pub use regular::{open_regular, read_regular};
pub use sampler::{LogProbabilities, Sampler, SamplerKind, SamplerOptions, log_probabilities};
pub use state::time_state::write_time_state;
pub use state::{Slot, State, StateLayout};
/// What `rwkv-text` reads standard input with; no part of the interface.
#[doc(hidden)]
pub use text::Pipe;
pub use text::read_text;

/// The program in README.md, which is to compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
