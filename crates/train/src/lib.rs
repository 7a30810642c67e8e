//! Training RWKV.
mod checkpoint;
pub mod data;
pub mod init;
mod ops;
pub mod optimizer;
pub mod options;
pub mod run;
pub mod schedule;
pub mod tape;
mod trainer;

pub use options::{ResumeOptions, TokenizerKind, TrainOptions, TrainPrecision, whole_number};
pub use trainer::{StepReport, Trainer};
