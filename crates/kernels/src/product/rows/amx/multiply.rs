//! The inner loops: tiles of sums in registers, along some steps of 32 columns.
//!
//! | tiles | rows × bytes | [`square`](Multiply::square) | [`column`](Multiply::column) |
//! |---|---|---|---|
//! | 0 to 3 | 16 × 4 · tokens | sums of 2 groups × 2 strips | sums of 4 groups, of a strip |
//! | 4 to 6 | 16 × 64 | two groups' weights | weights of three of four groups |
//! | 6, 7 | 16 × 4 · tokens | two strips' activations | a strip's (7) |
//!
//! An instruction takes 16 cycles and its sums are ready after some 50, so four sums are interleaved. Both
//! take the products of parts in the same order, at the end of this file.

use std::arch::asm;

use crate::product::tiles::{ROW_BYTES, ROWS, Tiles};

/// Where the operands of some steps are.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    /// Weights of the first step.
    pub(super) weights: *const u32,
    /// A strip's activations of the first step.
    pub(super) x: *const u32,
    /// How many words behind them lie those of the next strip.
    pub(super) x_strip: usize,
    /// Sums of the strip, and behind all of its groups those of the next strip.
    pub(super) sums: *mut f32,
    /// How many steps, at least one.
    pub(super) steps: usize,
}

/// Adds products of weights of `P` parts and activations of `X` to sums: the tiles of a CPU, or, in tests,
/// what they are said to compute.
pub(super) trait Multiply<const P: usize, const X: usize> {
    /// Two groups by two strips.
    ///
    /// # Safety
    /// The operands have what they say, and no one else has the sums.
    unsafe fn square(&self, operands: Operands);

    /// All groups by one strip. For each step it also prefetches [`PREFETCH_BYTES`] bytes from `prefetch` on
    /// and advances that by `prefetch_stride`; these addresses need not exist.
    ///
    /// # Safety
    /// As [`square`](Self::square).
    unsafe fn column(&self, operands: Operands, prefetch: *const u8, prefetch_stride: usize);
}

/// Bytes to prefetch while a step is multiplied for a single strip: 4 a cycle, the bandwidth of one core.
pub(super) const PREFETCH_BYTES: usize = 1024;

/// This thread's tiles, configured for strips of a width.
pub(super) struct Multiplier {
    width: usize,
    /// Kept to be dropped.
    _tiles: Tiles,
}

impl Multiplier {
    /// # Safety
    /// The CPU has the tier, this thread has no other tiles, and `width` is 1 to 16.
    pub(super) unsafe fn new(width: usize) -> Self {
        let (tokens, weights) = ((ROWS, 4 * width), (ROWS, ROW_BYTES));
        let sums = tokens;
        // SAFETY: passed on.
        let tiles = unsafe { Tiles::configure([sums, sums, sums, sums, weights, weights, weights, tokens]) };
        Self { width, _tiles: tiles }
    }
}

/// What a step of `square` is made of.
macro_rules! square {
    (next) => {
        concat!(
            "tileloadd tmm6, [{x} + {x_row}]\n",
            "tileloadd tmm7, [{x_strip} + {x_row}]\n",
            "add {x}, {x_part}\n",
            "add {x_strip}, {x_part}",
        )
    };
    (new $part:literal) => {
        concat!(
            "tileloadd tmm4, [{weights} + {row} + ", $part, "]\n",
            "tileloadd tmm5, [{weights} + {row} + 1024 + ", $part, "]\n",
            square!(again $part),
        )
    };
    ($again:ident $part:literal) => {
        concat!(
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            "tdpbf16ps tmm2, tmm5, tmm6\n",
            "tdpbf16ps tmm3, tmm5, tmm7",
        )
    };
}

/// What a step of `column` is made of.
macro_rules! column {
    (next) => {
        concat!("tileloadd tmm7, [{x} + {x_row}]\n", "add {x}, {x_part}")
    };
    (new $part:literal) => {
        concat!(
            "tileloadd tmm4, [{weights} + {row} + ", $part, "]\n",
            "tdpbf16ps tmm0, tmm4, tmm7\n",
            "tileloadd tmm5, [{weights} + {row} + 1024 + ", $part, "]\n",
            "tdpbf16ps tmm1, tmm5, tmm7\n",
            "tileloadd tmm6, [{weights} + {row} + {pair} + ", $part, "]\n",
            "tdpbf16ps tmm2, tmm6, tmm7\n",
            "tileloadd tmm4, [{weights} + {row} + {pair} + 1024 + ", $part, "]\n",
            "tdpbf16ps tmm3, tmm4, tmm7",
        )
    };
    // Three of the four groups are still there.
    (again $part:literal) => {
        concat!(
            "tdpbf16ps tmm1, tmm5, tmm7\n",
            "tdpbf16ps tmm2, tmm6, tmm7\n",
            "tdpbf16ps tmm3, tmm4, tmm7\n",
            "tileloadd tmm5, [{weights} + {row} + ", $part, "]\n",
            "tdpbf16ps tmm0, tmm5, tmm7",
        )
    };
    // Now it is those of the second that are not.
    (once_more $part:literal) => {
        concat!(
            "tdpbf16ps tmm2, tmm6, tmm7\n",
            "tdpbf16ps tmm3, tmm4, tmm7\n",
            "tdpbf16ps tmm0, tmm5, tmm7\n",
            "tileloadd tmm5, [{weights} + {row} + 1024 + ", $part, "]\n",
            "tdpbf16ps tmm1, tmm5, tmm7",
        )
    };
    (prefetch $($at:literal)*) => {
        concat!($("prefetcht1 [{prefetch} + ", $at, "]\n",)* "add {prefetch}, {prefetch_stride}")
    };
}

/// Both loops for a number of parts of weights, and of activations. `next` takes the next part of the
/// activations; `new` multiplies it by the part of the weights that many bytes behind the first, `again` by
/// that which was the last before, and so does `once_more` after `again`.
macro_rules! implement {
    ($parts:literal, $of_x:literal: $($what:ident $($part:literal)?),*) => {
        // SAFETY (both methods): the tiles are configured as the table says, for strips of `width`; of the
        // operands no more is read or written than the caller promises: a step's weights are 4 tiles for each
        // of their parts, and a strip's activations 16 rows of `width` words for each of theirs.
        impl Multiply<$parts, $of_x> for Multiplier {
            #[inline(always)]
            unsafe fn square(&self, operands: Operands) {
                debug_assert!(self.width == ROWS && operands.steps > 0);
                // SAFETY: as above.
                unsafe {
                    asm!(
                        "tileloadd tmm0, [{sums} + {row}]",
                        "tileloadd tmm1, [{sums} + {row} + 4096]",
                        "tileloadd tmm2, [{sums} + {row} + 1024]",
                        "tileloadd tmm3, [{sums} + {row} + 4096 + 1024]",
                        "2:",
                        $(square!($what $($part)?),)*
                        "add {weights}, {step}",
                        "dec {steps}",
                        "jnz 2b",
                        "tilestored [{sums} + {row}], tmm0",
                        "tilestored [{sums} + {row} + 4096], tmm1",
                        "tilestored [{sums} + {row} + 1024], tmm2",
                        "tilestored [{sums} + {row} + 4096 + 1024], tmm3",
                        weights = inout(reg) operands.weights => _,
                        step = const $parts * 4096,
                        row = in(reg) ROW_BYTES,
                        x = inout(reg) operands.x => _,
                        x_strip = inout(reg) operands.x.wrapping_add(operands.x_strip) => _,
                        x_row = in(reg) 4 * self.width,
                        x_part = in(reg) ROWS * 4 * self.width,
                        sums = in(reg) operands.sums,
                        steps = inout(reg) operands.steps => _,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    );
                }
            }

            #[inline(always)]
            unsafe fn column(&self, operands: Operands, prefetch: *const u8, prefetch_stride: usize) {
                debug_assert!(operands.steps > 0);
                // SAFETY: as above; asking for memory that is not there does no harm.
                unsafe {
                    asm!(
                        "tileloadd tmm0, [{sums} + {row}]",
                        "tileloadd tmm1, [{sums} + {row} + 1024]",
                        "tileloadd tmm2, [{sums} + {row} + 2048]",
                        "tileloadd tmm3, [{sums} + {row} + 3072]",
                        "2:",
                        column!(prefetch 0 64 128 192 256 320 384 448 512 576 640 704 768 832 896 960),
                        $(column!($what $($part)?),)*
                        "add {weights}, {step}",
                        "dec {steps}",
                        "jnz 2b",
                        "tilestored [{sums} + {row}], tmm0",
                        "tilestored [{sums} + {row} + 1024], tmm1",
                        "tilestored [{sums} + {row} + 2048], tmm2",
                        "tilestored [{sums} + {row} + 3072], tmm3",
                        weights = inout(reg) operands.weights => _,
                        step = const $parts * 4096,
                        pair = const $parts * 2048,
                        row = in(reg) ROW_BYTES,
                        x = inout(reg) operands.x => _,
                        x_row = in(reg) 4 * self.width,
                        x_part = in(reg) ROWS * 4 * self.width,
                        sums = in(reg) operands.sums,
                        steps = inout(reg) operands.steps => _,
                        prefetch = inout(reg) prefetch => _,
                        prefetch_stride = in(reg) prefetch_stride,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    );
                }
            }
        }
    };
}

// lo · lo, hi · lo, hi · hi, lo · hi: the weights' part first.
implement!(2, 2: next, new 0, new 2048, next, again 2048, new 0);
// a · c, a · b, b · b, b · a, a · a, c · a.
implement!(3, 3: next, new 4096, next, again 4096, new 2048, next, again 2048, new 4096, new 0);
// w · c, w · b, w · a.
implement!(1, 3: next, new 0, next, again 0, next, once_more 0);
