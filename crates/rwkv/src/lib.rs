//! RWKV language models on CPUs.
pub mod atomic;
pub mod config;
pub mod data_type;
pub mod error;
pub mod exec;
pub mod file;
pub mod fingerprint;
pub mod infer;
pub mod model;
pub mod params;
pub mod sampler;
pub mod state;
pub mod tokenizer;

pub use atomic::write_atomically;
pub use config::{ModelConfig, Version};
pub use data_type::DataType;
pub use error::{Error, Result};
pub use exec::Exec;
pub use file::{ModelFile, write_model};
pub use fingerprint::Fingerprint;
pub use infer::{Evaluation, Infer, LoadOptions, Model, Outputs, Segment};
pub use sampler::{Sampler, SamplerOptions};
pub use state::State;
pub use tokenizer::{Decoder, Tokenizer};
