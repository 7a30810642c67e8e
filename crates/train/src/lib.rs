//! Training RWKV.
