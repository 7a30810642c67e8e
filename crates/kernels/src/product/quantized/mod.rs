//! Products with quantized weights: panels of 16 rows × blocks of tokens.
//!
//! For each row r and token t, over the blocks b of 32 columns in order:
//!
//! ```text
//! dot  = Σ_c (q[r, c] − zero) · x[t, c]            an integer, exact
//! y[t, r] = fma(dot, d[r, b] · scale[t, b], y[t, r])
//! y[t, r] = fma(m[r, b], scale[t, b] · Σ_c x[t, c], y[t, r])      Q4_1 and Q5_1
//! ```
//!
//! A row's sum stays in one lane, and every operation on floats is written here. So all tiers, any number of
//! tokens and any number of threads give the same bits.

mod activations;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod panels;
mod scalar;

use std::ops::Range;

pub(crate) use activations::Activations;
pub use panels::{PANEL, Panels};

#[cfg(target_arch = "x86_64")]
use crate::prefetch::{LINE, line_to_l1};
use crate::{DataType, Isa, Parts};

/// The outputs of the panels `range` for all tokens.
///
/// Only one task at a time may have these rows of `y` (T, rows).
pub(super) fn task(isa: Isa, panels: Panels<'_>, x: &Activations, range: Range<usize>, y: &Parts<'_, f32>) {
    match isa {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Isa::Amx => amx::task(panels, range, x, y),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::task(panels, range, x, y),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => avx2::task_vnni(panels, range, x, y),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::task(panels, range, x, y),
        #[cfg(target_arch = "aarch64")]
        Isa::I8mm => neon::task_i8mm(panels, range, x, y),
        #[cfg(target_arch = "aarch64")]
        Isa::Dotprod => neon::task_dotprod(panels, range, x, y),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => neon::task(panels, range, x, y),
        _ => scalar::task(panels, range, x, y),
    }
}

/// Writes the sums of the rows of a panel from its row `from` on, for one token, to `y` (T, rows).
///
/// # Safety
/// No one else has these outputs.
#[inline(always)]
unsafe fn put<const N: usize>(
    panels: Panels<'_>,
    panel: usize,
    from: usize,
    token: usize,
    sums: &[f32; N],
    y: &Parts<'_, f32>,
) {
    let row = panel * PANEL + from;
    let count = panels.rows().saturating_sub(row).min(N);
    if count > 0 {
        let first = token * panels.rows() + row;
        // SAFETY: passed on.
        let y = unsafe { y.part(first..first + count) };
        y.copy_from_slice(&sums[..count]);
    }
}

/// Prefetches as many bytes as a panel block has, `AHEAD` bytes further on: the hardware prefetcher stops at
/// every 4 KB. The address need not be readable.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_ahead(block: *const u8, bytes: usize) {
    const AHEAD: usize = 4096;
    for at in (0..bytes).step_by(LINE) {
        line_to_l1(block.wrapping_add(AHEAD + at));
    }
}

/// What tiers that multiply unsigned by signed bytes subtract from a weight: they add 128 to signed bytes.
const fn unsigned_zero_point(format: DataType) -> i32 {
    if format.has_bytes() { 128 } else { format.zero_point() }
}

#[cfg(test)]
mod tests;
