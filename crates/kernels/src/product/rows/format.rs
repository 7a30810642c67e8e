//! The formats of rows, and how their weights become vectors of f32.

use crate::simd::Simd;

/// A format of rows: how its weights become vectors of f32.
pub(super) trait RowFormat {
    /// Bytes of a weight.
    const BYTES: usize;

    /// # Safety
    /// `S::LANES` weights can be read at `data`, at any alignment.
    unsafe fn load<S: Simd>(s: S, data: *const u8) -> S::V;

    /// `count` weights, fewer than a vector's, and zeros, which add nothing to a sum.
    ///
    /// # Safety
    /// `count < S::LANES` weights can be read at `data`, at any alignment.
    #[inline(always)]
    unsafe fn load_rest<S: Simd>(s: S, data: *const u8, count: usize) -> S::V {
        let mut rest = [0_u8; 64];
        // SAFETY: fewer than 16 weights of at most four bytes; readable by the caller's promise.
        unsafe {
            std::ptr::copy_nonoverlapping(data, rest.as_mut_ptr(), count * Self::BYTES);
            Self::load(s, rest.as_ptr())
        }
    }
}

/// [`DataType::F32`](crate::DataType::F32), and activations.
pub(super) struct F32;

/// [`DataType::F16`](crate::DataType::F16).
pub(super) struct F16;

/// [`DataType::BF16`](crate::DataType::BF16).
pub(super) struct BF16;

impl RowFormat for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    #[allow(clippy::cast_ptr_alignment)] // any alignment will do
    unsafe fn load<S: Simd>(s: S, data: *const u8) -> S::V {
        // SAFETY: passed on.
        unsafe { s.load_at(data.cast()) }
    }
}

impl RowFormat for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    #[allow(clippy::cast_ptr_alignment)] // any alignment will do
    unsafe fn load<S: Simd>(s: S, data: *const u8) -> S::V {
        // SAFETY: passed on.
        unsafe { s.load_halves_at(data.cast()) }
    }
}

impl RowFormat for BF16 {
    const BYTES: usize = 2;

    #[inline(always)]
    #[allow(clippy::cast_ptr_alignment)] // any alignment will do
    unsafe fn load<S: Simd>(s: S, data: *const u8) -> S::V {
        // SAFETY: passed on.
        unsafe { s.load_bf16_at(data.cast()) }
    }
}
