//! The blocked product: B packed into panels, C computed in tiles of registers.
//!
//! ```text
//! for each block of the shared index (DEPTH long)
//!     pack B: panels of `WIDTH` columns, row by row, padded with zeros      (shared by all threads)
//!     for each group of tile rows                                           (one task of the team's loop)
//!         for each panel of B                                               (stays in the L1 or L2 cache)
//!             for each tile of at most HEIGHT × WIDTH elements of C
//!                 rank-1 updates in registers, then one store
//! ```
//!
//! A is read where it lies: a tile broadcasts single elements of it, which costs the same from strided rows as from a
//! packed copy, as long as HEIGHT rows are few enough to stay in the first cache together.

use std::cell::RefCell;

use super::View;
use crate::{Cpu, Parts, Store};

/// Length of a block of the shared index: a panel of it (DEPTH × WIDTH floats) fits the second cache with room,
/// and HEIGHT rows of A of that length the first.
const DEPTH: usize = 384;

/// Multiply-adds that make a task worth handing out: some 10 µs.
const TASK: usize = 1 << 20;

/// The register tile of an instruction set.
pub(super) trait Tile {
    /// Rows of a full tile.
    const HEIGHT: usize;
    /// Columns of a full tile: a whole number of vectors.
    const WIDTH: usize;

    /// `C[i, j] (+)= Σ_p A[i, p] · panel[p, j]` for `i < rows ≤ HEIGHT`, `j < cols ≤ WIDTH`.
    ///
    /// # Safety
    /// The CPU has the tier's instructions. `a` can be read at `i * a_row + p * a_col` for those i and `p < k`; `panel`
    /// has `k` rows of `WIDTH` floats; `c` can be written at `i * c_row + j` (and read, if `store` adds).
    unsafe fn tile(k: usize, a: Strided, panel: *const f32, c: Output, store: Store);
}

/// Where a tile reads A: element (i, p) is at `i * row + p * col`.
#[derive(Clone, Copy)]
pub(super) struct Strided {
    pub(super) data: *const f32,
    pub(super) row: usize,
    pub(super) col: usize,
}

/// Where a tile writes C: `rows` × `cols` elements, rows `row` apart.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub(super) data: *mut f32,
    pub(super) row: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

/// Sixteen floats on a cache line of their own.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    /// The packed B of the product that this thread started last; kept, because pages fresh from the system cost more
    /// than the packing.
    static PACKED: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn product<T: Tile>(
    cpu: &Cpu,
    [m, n, k]: [usize; 3],
    a: View<'_>,
    b: View<'_>,
    c: &mut [f32],
    store: Store,
) {
    if m == 0 || n == 0 {
        return;
    }
    PACKED.with_borrow_mut(|packed| {
        let panels = n.div_ceil(T::WIDTH);
        let lines = k.min(DEPTH) * panels * T::WIDTH / 16;
        if packed.len() < lines {
            packed.resize(lines, Line([0.0; 16]));
        }
        for start in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - start);
            let b = View { data: &b.data[start * b.row..], ..b };
            pack::<T>(cpu, depth, n, b, packed);
            let a = View { data: &a.data[start * a.col..], ..a };
            let store = if start == 0 { store } else { Store::Add };
            multiply::<T>(cpu, [m, n, depth], a, packed, c, store);
        }
    });
}

/// Packs `depth` rows of B into panels `[n / WIDTH][depth][WIDTH]`.
fn pack<T: Tile>(cpu: &Cpu, depth: usize, n: usize, b: View<'_>, packed: &mut [Line]) {
    let panel_lines = depth * T::WIDTH / 16;
    let panels = n.div_ceil(T::WIDTH);
    let parts = Parts::new(packed);
    cpu.run(panels, |index| {
        // SAFETY: each index takes its own panel.
        let panel = unsafe { parts.part(index * panel_lines..(index + 1) * panel_lines) };
        let first = index * T::WIDTH;
        let cols = T::WIDTH.min(n - first);
        let panel = floats(panel);
        if b.col == 1 {
            for (p, out) in panel.chunks_exact_mut(T::WIDTH).enumerate() {
                let row = &b.data[p * b.row + first..][..cols];
                out[..cols].copy_from_slice(row);
                out[cols..].fill(0.0);
            }
        } else {
            transpose(&b.data[first * b.col..], b.col, cols, T::WIDTH, panel);
        }
    });
}

/// `out[p, j] = b[j, p]` for `j < cols`, zero for the other columns of `out`'s `width`.
fn transpose(b: &[f32], b_row: usize, cols: usize, width: usize, out: &mut [f32]) {
    /// Rows of `out` that are filled together: they and the lines of `b` they come from stay in the first cache.
    const BLOCK: usize = 16;
    let depth = out.len() / width;
    for (block, out) in out.chunks_mut(BLOCK * width).enumerate() {
        let start = block * BLOCK;
        let len = BLOCK.min(depth - start);
        for j in 0..width {
            if j < cols {
                let row = &b[j * b_row + start..][..len];
                for (out, &value) in out[j..].iter_mut().step_by(width).zip(row) {
                    *out = value;
                }
            } else {
                out[j..].iter_mut().step_by(width).for_each(|out| *out = 0.0);
            }
        }
    }
}

fn multiply<T: Tile>(
    cpu: &Cpu,
    [m, n, k]: [usize; 3],
    a: View<'_>,
    packed: &[Line],
    c: &mut [f32],
    store: Store,
) {
    // Tiles of equal height waste less than full ones and a rest: 128 rows are ten tiles of 13, not nine of 14 and 2.
    let height = m.div_ceil(m.div_ceil(T::HEIGHT));
    let tiles = m.div_ceil(height);
    let tiles_per_task = (TASK / (height * n * k).max(1)).clamp(1, tiles.div_ceil(8));
    let panels = n.div_ceil(T::WIDTH);
    let packed = floats_of(packed);
    assert!(packed.len() >= panels * T::WIDTH * k && c.len() >= m * n);
    assert!(k == 0 || a.data.len() > (m - 1) * a.row + (k - 1) * a.col);
    let parts = Parts::new(c);
    cpu.run(tiles.div_ceil(tiles_per_task), |task| {
        let rows = task * tiles_per_task * height..m.min((task + 1) * tiles_per_task * height);
        // SAFETY: each task takes its own rows of C.
        let c = unsafe { parts.part(rows.start * n..rows.end * n) };
        for panel in 0..panels {
            let first = panel * T::WIDTH;
            let b = packed[panel * T::WIDTH * k..].as_ptr();
            for row in rows.clone().step_by(height) {
                let data = a.data[row * a.row..].as_ptr();
                let out = Output {
                    data: c[(row - rows.start) * n + first..].as_mut_ptr(),
                    row: n,
                    rows: height.min(rows.end - row),
                    cols: T::WIDTH.min(n - first),
                };
                // SAFETY: `Cpu::new` has checked the tier. A's last element is in bounds by the assertion above, the
                // panel is k × WIDTH floats of `packed`, and `out` lies within this task's rows of C.
                unsafe { T::tile(k, Strided { data, row: a.row, col: a.col }, b, out, store) };
            }
        }
    });
}

fn floats(lines: &mut [Line]) -> &mut [f32] {
    // SAFETY: a `Line` is sixteen floats without padding, and lines are contiguous.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 16) }
}

fn floats_of(lines: &[Line]) -> &[f32] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 16) }
}
