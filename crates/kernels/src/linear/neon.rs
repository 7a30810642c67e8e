//! The register tile for NEON: 6 × 16.
//!
//! 24 sums, four vectors of the panel's row and one broadcast element are 29 of the 32 registers. Every step
//! of the shared index is four loads, six broadcasts and 24 fused multiply-adds, so the multiply-add units
//! are what limits it.

use std::arch::aarch64::{float32x4_t, vdupq_n_f32, vfmaq_f32, vld1q_dup_f32, vld1q_f32, vst1q_f32};

use super::blocked::{Output, Strided, Tile, with_rows};
use crate::Store;

/// Marks code for CPUs with NEON.
pub(super) struct Neon;

const LANES: usize = 4;
const WIDTH: usize = 16;

impl Tile for Neon {
    const HEIGHT: usize = 6;
    const WIDTH: usize = WIDTH;
    type Element = f32;

    unsafe fn tile(steps: usize, a: Strided<f32>, panel: *const f32, c: Output, store: Store) {
        // SAFETY: the caller's promises are passed on.
        unsafe { with_rows!(c.rows, [1 2 3 4 5 6], tile(steps, a, panel, c, store)) }
    }
}

/// A row of a tile's sums. A tile that adds starts from what C holds, as in `x86.rs`.
type Row = [float32x4_t; WIDTH / LANES];

/// # Safety
/// As [`Tile::tile`], with `c.rows == ROWS`.
#[target_feature(enable = "neon")]
unsafe fn tile<const ROWS: usize>(steps: usize, a: Strided<f32>, panel: *const f32, c: Output, store: Store) {
    let mut sums: [Row; ROWS] = [[vdupq_n_f32(0.0); WIDTH / LANES]; ROWS];
    if store == Store::Add {
        for i in 0..ROWS {
            // SAFETY: by the caller, C has `cols` elements in each of its rows.
            sums[i] = unsafe { load_row(c.data.add(i * c.row), c.cols) };
        }
    }
    let (mut a_p, mut b_p) = (a.data, panel);
    for _ in 0..steps {
        // SAFETY: by the caller, the panel has `steps` rows of WIDTH elements, and A has these elements.
        unsafe {
            let b = [0, 1, 2, 3].map(|j| vld1q_f32(b_p.add(j * LANES)));
            for i in 0..ROWS {
                let a_ip = vld1q_dup_f32(a_p.add(i * a.row));
                for j in 0..WIDTH / LANES {
                    sums[i][j] = vfmaq_f32(sums[i][j], a_ip, b[j]);
                }
            }
            a_p = a_p.wrapping_add(a.col);
            b_p = b_p.add(WIDTH);
        }
    }
    for i in 0..ROWS {
        // SAFETY: as for the loads.
        unsafe { store_row(c.data.add(i * c.row), c.cols, sums[i]) };
    }
}

/// The first `cols` of a row's elements, zeros beyond them.
///
/// # Safety
/// `cols` elements can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_row(data: *const f32, cols: usize) -> Row {
    let mut part = [0.0_f32; WIDTH];
    let data = if cols == WIDTH {
        data
    } else {
        // SAFETY: the caller's promise; `cols` is at most WIDTH.
        unsafe { part.as_mut_ptr().copy_from_nonoverlapping(data, cols) };
        part.as_ptr()
    };
    // SAFETY: WIDTH elements, of C or of the copy.
    [0, 1, 2, 3].map(|j| unsafe { vld1q_f32(data.add(j * LANES)) })
}

/// Writes the first `cols` elements of `row`.
///
/// # Safety
/// `cols` elements can be written.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store_row(data: *mut f32, cols: usize, row: Row) {
    let mut part = [0.0_f32; WIDTH];
    let whole = cols == WIDTH;
    let to = if whole { data } else { part.as_mut_ptr() };
    for (j, sums) in row.into_iter().enumerate() {
        // SAFETY: WIDTH elements, of C or of the copy.
        unsafe { vst1q_f32(to.add(j * LANES), sums) };
    }
    if !whole {
        // SAFETY: the caller's promise; `cols` is at most WIDTH.
        unsafe { data.copy_from_nonoverlapping(part.as_ptr(), cols) };
    }
}
