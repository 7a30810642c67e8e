//! What the products of rows need of an instruction set, and how stored weights become vectors.

/// Rows of a tile. Four rows' lanes are summed together.
pub(super) const ROWS: usize = 4;

/// A vector of f32 in a register.
///
/// All methods, and all that takes or returns vectors, are `#[inline(always)]`, and there are no closures over vectors:
/// what is not inlined into a tier's entry point is compiled without the tier's instructions.
///
/// # Safety
/// For every method: the CPU has the instruction set.
pub(super) trait Vector: Copy {
    /// Floats in a vector, at most 16.
    const LANES: usize;
    /// Tokens of a full tile, at most 6: [`ROWS`] · TOKENS sums, TOKENS inputs and a vector of weights fit the registers.
    const TOKENS: usize;

    /// Zero in every lane.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn zero() -> Self;

    /// # Safety
    /// `LANES` floats can be read, at any alignment.
    unsafe fn load(data: *const f32) -> Self;

    /// # Safety
    /// `LANES` halves can be read, at any alignment.
    unsafe fn load_half(data: *const u16) -> Self;

    /// # Safety
    /// `LANES` floats can be written, at any alignment.
    unsafe fn store(self, data: *mut f32);

    /// `self + a · b`, rounded once.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;

    /// For each token the sums of the lanes of its four vectors, in an order that is the same for any `N`.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn sum_lanes<const N: usize>(tokens: [[Self; ROWS]; N]) -> [[f32; ROWS]; N];

    /// Asks for the cache line at `data`, which need not exist, in the second cache, for reading.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn prefetch(data: *const u8);

    /// Asks for the cache line at `data`, which need not exist, in the first cache, for writing.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn prefetch_to_write(data: *mut f32);
}

/// A format of rows: how its weights become vectors of f32.
pub(super) trait RowFormat {
    /// Bytes of a weight.
    const BYTES: usize;

    /// # Safety
    /// `V::LANES` weights can be read at `data`, at any alignment; the CPU has V's instruction set.
    unsafe fn load<V: Vector>(data: *const u8) -> V;

    /// `count` weights, fewer than a vector's, and zeros, which add nothing to a sum.
    ///
    /// # Safety
    /// `count < V::LANES` weights can be read at `data`, at any alignment; the CPU has V's instruction set.
    #[inline(always)]
    unsafe fn load_rest<V: Vector>(data: *const u8, count: usize) -> V {
        let mut rest = [0_u8; 64];
        // SAFETY: fewer than 16 weights of at most four bytes; readable by the caller's promise.
        unsafe {
            std::ptr::copy_nonoverlapping(data, rest.as_mut_ptr(), count * Self::BYTES);
            Self::load::<V>(rest.as_ptr())
        }
    }
}

/// [`DataType::F32`](crate::DataType::F32), and activations.
pub(super) struct F32;

/// [`DataType::F16`](crate::DataType::F16).
pub(super) struct F16;

impl RowFormat for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    #[allow(clippy::cast_ptr_alignment)] // any alignment will do
    unsafe fn load<V: Vector>(data: *const u8) -> V {
        // SAFETY: passed on.
        unsafe { V::load(data.cast()) }
    }
}

impl RowFormat for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    #[allow(clippy::cast_ptr_alignment)] // any alignment will do
    unsafe fn load<V: Vector>(data: *const u8) -> V {
        // SAFETY: passed on.
        unsafe { V::load_half(data.cast()) }
    }
}
