//! RWKV language models on CPUs.
pub mod config;
pub mod error;
pub mod exec;
pub mod model;
pub mod params;
pub mod state;

pub use config::{ModelConfig, Version};
pub use error::{Error, Result};
pub use exec::Exec;
