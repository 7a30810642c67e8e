//! Training RWKV.
pub mod init;
mod ops;
pub mod optimizer;
pub mod schedule;
pub mod tape;
