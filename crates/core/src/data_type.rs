//! The formats of tensors in model files.

pub use rwkv_kernels::DataType;

/// Codes of formats that rwkv.cpp once had and no longer reads (Q4_1_O, Q4_2, Q4_3).
pub(crate) const REMOVED: std::ops::RangeInclusive<u32> = 4..=6;
