//! The blocked product: A and B packed, C computed in tiles of registers.
//!
//! ```text
//! for each block of the shared index (DEPTH elements)
//!     pack B: panels of WIDTH columns, one element of each column after the other     (shared by all threads)
//!     for each group of tile rows                                                     (one task of the team's loop)
//!         pack the group's rows of A                                                  (stays in the first cache)
//!         for each panel of B                                                         (stays in the second cache)
//!             for each tile of at most HEIGHT × WIDTH elements of C
//!                 rank-1 updates in registers, then one store
//! ```
//!
//! Packing is where f32 becomes whatever the tile multiplies. A stays in the order that it had, along the shared index
//! or across it: a tile broadcasts single elements of it, from rows as well as from columns. Rows along the index are
//! packed all the same, because rows a power of two apart would evict each other from the cache; columns of f32 are
//! used where they lie.

use std::cell::RefCell;
use std::thread::LocalKey;

use super::View;
use super::pack::{self, Element};
use crate::{Cpu, Parts, Store};

/// Elements of a block of the shared index: a panel of it (DEPTH × WIDTH elements) fits the second cache with room, and
/// HEIGHT rows of A of that length the first.
const DEPTH: usize = 384;

/// Multiply-adds that make a task worth handing out: some 10 µs.
const TASK: usize = 1 << 20;

/// Elements on one cache line.
const LINE: usize = 16;

/// The register tile of an instruction set.
pub(super) trait Tile {
    /// Rows of a full tile.
    const HEIGHT: usize;
    /// Columns of a full tile: a whole number of vectors.
    const WIDTH: usize;
    /// What a tile multiplies.
    type Element: Element;

    /// `C[i, j] (+)= Σ_p A[i, p] · panel[p, j]` for `i < rows ≤ HEIGHT`, `j < cols ≤ WIDTH` and `p < steps` elements.
    ///
    /// # Safety
    /// The CPU has the tier's instructions. `a` can be read at `i * a.row + p * a.col` for those i and p; `panel` has
    /// `steps` rows of `WIDTH` elements; `c` can be written at `i * c.row + j` (and read, if `store` adds).
    unsafe fn tile(
        steps: usize,
        a: Strided<Self::Element>,
        panel: *const Self::Element,
        c: Output,
        store: Store,
    );
}

/// Where a tile reads A: element (i, p) is at `i * row + p * col`.
#[derive(Clone, Copy)]
pub(super) struct Strided<E> {
    pub(super) data: *const E,
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
    if k == 0 {
        if store == Store::Set {
            c.fill(0.0);
        }
        return;
    }
    let panels = n.div_ceil(T::WIDTH);
    let block = k.min(DEPTH * T::Element::TERMS);
    with_scratch(&PACKED_B, block.div_ceil(T::Element::TERMS) * panels * T::WIDTH, |packed| {
        for start in (0..k).step_by(block) {
            let depth = block.min(k - start);
            let packed = &mut packed[..depth.div_ceil(T::Element::TERMS) * panels * T::WIDTH];
            pack_panels::<T>(cpu, depth, n, View { data: &b.data[start * b.row..], ..b }, packed);
            let a = View { data: &a.data[start * a.col..], ..a };
            let store = if start == 0 { store } else { Store::Add };
            multiply::<T>(cpu, [m, n, depth], a, packed, c, store);
        }
    });
}

/// Packs `depth` rows of B into panels `[n / WIDTH][steps][WIDTH]`, padded with zeros.
fn pack_panels<T: Tile>(cpu: &Cpu, depth: usize, n: usize, b: View<'_>, packed: &mut [T::Element]) {
    let panel_len = depth.div_ceil(T::Element::TERMS) * T::WIDTH;
    let parts = Parts::new(packed);
    cpu.run(n.div_ceil(T::WIDTH), |index| {
        // SAFETY: each index takes its own panel.
        let panel = unsafe { parts.part(index * panel_len..(index + 1) * panel_len) };
        let first = index * T::WIDTH;
        let cols = T::WIDTH.min(n - first);
        if b.col == 1 {
            pack::across(&b.data[first..], b.row, cols, depth, T::WIDTH, panel);
        } else {
            pack::transposed(&b.data[first * b.col..], b.col, cols, depth, T::WIDTH, panel);
        }
    });
}

fn multiply<T: Tile>(
    cpu: &Cpu,
    [m, n, depth]: [usize; 3],
    a: View<'_>,
    packed: &[T::Element],
    c: &mut [f32],
    store: Store,
) {
    let steps = depth.div_ceil(T::Element::TERMS);
    // Tiles of equal height waste less than full ones and a rest: 128 rows are ten tiles of 13, not nine of 14 and 2.
    let height = m.div_ceil(m.div_ceil(T::HEIGHT));
    let tiles = m.div_ceil(height);
    let tiles_per_task = (TASK / (height * n * depth)).clamp(1, tiles.div_ceil(8));
    let task_rows = tiles_per_task * height;
    assert!(packed.len() == n.div_ceil(T::WIDTH) * T::WIDTH * steps && c.len() == m * n);
    assert!(a.data.len() > (m - 1) * a.row + (depth - 1) * a.col);
    let parts = Parts::new(c);
    cpu.run(m.div_ceil(task_rows), |task| {
        let rows = task * task_rows..m.min((task + 1) * task_rows);
        // SAFETY: each task takes its own rows of C.
        let c = unsafe { parts.part(rows.start * n..rows.end * n) };
        with_scratch(&PACKED_A, rows.len() * steps, |packed_a| {
            let a = pack_a::<T>(&a.data[rows.start * a.row..], a, rows.len(), depth, packed_a);
            for (panel, first) in packed.chunks_exact(steps * T::WIDTH).zip((0..n).step_by(T::WIDTH)) {
                for row in (0..rows.len()).step_by(height) {
                    let out = Output {
                        data: c[row * n + first..].as_mut_ptr(),
                        row: n,
                        rows: height.min(rows.len() - row),
                        cols: T::WIDTH.min(n - first),
                    };
                    let a = Strided { data: a.data.wrapping_add(row * a.row), ..a };
                    // SAFETY: `Cpu::new` has checked the tier. The tile's rows of A were packed just now (or lie
                    // within `a` by the assertion above), the panel
                    // has `steps` rows of WIDTH elements, and `out` lies within this task's rows of C.
                    unsafe { T::tile(steps, a, panel.as_ptr(), out, store) };
                }
            }
        });
    });
}

/// Packs `rows` rows of A, in the order in which `view` has them, unless they can be used where they are.
fn pack_a<T: Tile>(
    data: &[f32],
    view: View<'_>,
    rows: usize,
    depth: usize,
    out: &mut [T::Element],
) -> Strided<T::Element> {
    let steps = out.len() / rows;
    if view.col == 1 {
        for (out, data) in out.chunks_exact_mut(steps).zip(data.chunks(view.row)) {
            T::Element::pack_along(&data[..depth], out);
        }
        Strided { data: out.as_ptr(), row: steps, col: 1 }
    } else if let Some(data) = T::Element::in_place(data) {
        Strided { data, row: 1, col: view.col }
    } else {
        pack::across(data, view.col, rows, depth, rows, out);
        Strided { data: out.as_ptr(), row: 1, col: rows }
    }
}

/// Memory that a thread keeps between products, because pages fresh from the system cost more than the packing.
type Scratch = LocalKey<RefCell<Vec<Line>>>;

/// Elements on a cache line of their own; zeros are a valid element of any kind.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; LINE]);

thread_local! {
    static PACKED_A: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    static PACKED_B: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Calls `body` with `len` elements of `scratch`, whatever they held before.
fn with_scratch<E: Element>(scratch: &'static Scratch, len: usize, body: impl FnOnce(&mut [E])) {
    scratch.with_borrow_mut(|lines| {
        if lines.len() * LINE < len {
            lines.resize(len.div_ceil(LINE), Line([0; LINE]));
        }
        // SAFETY: a `Line` is LINE words of four bytes without padding, lines are contiguous, there are at least `len`
        // words of them, and `Element` promises to be four bytes for which any bits are valid.
        body(unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) });
    });
}
