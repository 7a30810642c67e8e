//! The numbers behind `rwkv`.
mod cpu;
mod isa;
mod team;

pub use cpu::{Cpu, Parts};
pub use isa::{Isa, IsaError};
pub use team::Team;
