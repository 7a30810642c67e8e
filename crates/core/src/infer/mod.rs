//! Running a model: load it, evaluate tokens, keep states.

mod arena;
mod batch;
mod bench;
mod cpu;
mod evaluate;
mod exec;
mod loaded;
mod model;
mod shared;

pub use arena::Tensor;
pub use batch::{Outputs, Segment};
pub(crate) use batch::{PASS, Reading};
pub use bench::{Bench, BenchOptions};
pub use cpu::{LoadOptions, MAX_THREADS};
pub use evaluate::Evaluation;
pub use exec::Infer;
pub use model::Model;
