//! Cache lines that are asked for before they are needed.

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// More than this is left to the stores: it is written by several threads, or does not stay in the L1 cache.
const MOST: usize = 1 << 14;

/// Prefetches `x`, to be written.
///
/// The other threads have read what was there, so each line must be taken from them. A core's stores take
/// effect in order and would wait for one line after the other; prefetched together, they come together. For
/// one token's activations of 768 channels that is 3 µs of 7.
pub(crate) fn prefetch_to_write<T>(x: &[T]) {
    let bytes = size_of_val(x);
    if bytes <= MOST {
        (0..bytes).step_by(LINE).for_each(|at| line_to_write(x.as_ptr().cast::<u8>().wrapping_add(at)));
    }
}

/// Prefetches the line at `line`, which need not exist, into the L1 cache, to be written.
#[inline(always)]
pub(crate) fn line_to_write(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: a prefetch of any address does no harm; a CPU without this one takes it for another, or for
        // nothing.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(line.cast()) };
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch of any address does no harm.
    unsafe {
        std::arch::asm!(
            "prfm pstl1keep, [{line}]",
            line = in(reg) line,
            options(nostack, readonly, preserves_flags)
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = line;
}

/// A function that prefetches a line, to be read.
macro_rules! line_to {
    ($(#[$about:meta])* $name:ident, $hint:ident, $instruction:literal) => {
        $(#[$about])*
        #[inline(always)]
        pub(crate) fn $name(line: *const u8) {
            #[cfg(target_arch = "x86_64")]
            {
                use std::arch::x86_64::{$hint, _mm_prefetch};
                // SAFETY: a prefetch of any address does no harm.
                unsafe { _mm_prefetch::<$hint>(line.cast()) };
            }
            #[cfg(target_arch = "aarch64")]
            // SAFETY: a prefetch of any address does no harm.
            unsafe {
                std::arch::asm!(
                    $instruction,
                    line = in(reg) line,
                    options(nostack, readonly, preserves_flags)
                );
            }
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
            let _ = line;
        }
    };
}

line_to!(
    /// Prefetches the line at `line`, which need not exist, into the L1 cache. On ARM nobody has measured what it gains.
    #[cfg(target_arch = "x86_64")]
    line_to_l1, _MM_HINT_T0, "prfm pldl1keep, [{line}]"
);
line_to!(
    /// The same into the L2 cache.
    line_to_l2, _MM_HINT_T1, "prfm pldl2keep, [{line}]"
);
