//! The numbers behind `rwkv`.
mod cpu;
mod isa;
mod linear;
mod store;
mod team;

pub use cpu::{Cpu, Parts};
pub use isa::{Isa, IsaError};
pub use linear::{linear, linear_dw, linear_dx};
pub use store::Store;
pub use team::Team;
