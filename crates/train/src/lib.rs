//! Training RWKV.
mod ops;
pub mod tape;
