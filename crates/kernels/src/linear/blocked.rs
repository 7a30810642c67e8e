//! The blocked product: A and B packed, C computed in tiles of registers.
//!
//! ```text
//! for each block of the shared index (DEPTH elements)
//!     pack B, and A if the index runs across its rows: panels of some columns,
//!     one element of each after the other                                             (shared by all threads)
//!     for each group of tile rows                                                     (one task of the team's loop)
//!         pack the group's rows of A, if the index runs along them                    (stays in the L1 cache)
//!         for each panel of B                                                         (stays in the L2 cache)
//!             for each tile of at most HEIGHT × WIDTH elements of C
//!                 rank-1 updates in registers, then one store
//! ```
//!
//! Packing is where f32 becomes whatever the tile multiplies. It also brings together what is used together:
//! rows a power of two apart would evict each other from the cache. A is read one broadcast element at a
//! time, so its rows can stay rows; only where the index runs across them do they become panels.

use std::cell::RefCell;
use std::thread::LocalKey;

use super::pack::{Element, Panels};
use super::{View, ViewMut};
use crate::{Cpu, Parts, Store};

/// Elements of a block of the shared index: a panel of it (DEPTH × WIDTH elements) fits the L2 cache with
/// room, and HEIGHT rows of A of that length the L1 cache.
const DEPTH: usize = 384;

/// Multiply-adds that make a task worth handing out: some 20 µs in f32, at the 100 GFLOP/s a core that
/// tiles reach on a Zen 4.
const LINEAR_TASK: usize = 1 << 20;

/// Elements of the shared index that a task packs: of 512 columns, a block of them stays in the L1 cache.
const STEPS: usize = 8;

/// Elements on one cache line.
const LINE: usize = 16;

/// Columns of a panel of A, at most.
const PANEL_A: usize = 512;

/// The register tile of an instruction set.
pub(super) trait Tile {
    /// Rows of a full tile.
    const HEIGHT: usize;
    /// Columns of a full tile: a whole number of vectors.
    const WIDTH: usize;
    /// What a tile multiplies.
    type Element: Element;

    /// `C[i, j] (+)= Σ_p A[i, p] · panel[p, j]` for `i < rows ≤ HEIGHT`, `j < cols ≤ WIDTH` and `p < steps`
    /// elements.
    ///
    /// # Safety
    /// The CPU has the tier's instructions. `a` can be read at `i * a.row + p * a.col` for those i and p;
    /// `panel` has `steps` rows of `WIDTH` elements; `c` can be written at `i * c.row + j` (and read, if
    /// `store` adds).
    unsafe fn tile(
        steps: usize,
        a: Strided<Self::Element>,
        panel: *const Self::Element,
        c: Output,
        store: Store,
    );
}

/// Calls `$f::<ROWS>` with the constant that equals the number of rows: the sums stay in registers only if
/// their number is known when the code is compiled.
macro_rules! with_rows {
    ($rows:expr, [$($n:literal)*], $f:ident $args:tt) => {
        match $rows {
            $($n => $f::<$n> $args,)*
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
}

pub(super) use with_rows;

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
    mut c: ViewMut<'_>,
    store: Store,
) {
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if store == Store::Set {
            c.data.chunks_mut(c.row).for_each(|row| row[..n].fill(0.0));
        }
        return;
    }
    let block = k.min(DEPTH * T::Element::TERMS);
    for start in (0..k).step_by(block) {
        let sizes = Sizes::new::<T>([m, n, block.min(k - start)]);
        let a = View { data: &a.data[start * a.col..], ..a };
        let b = View { data: &b.data[start * b.row..], ..b };
        let store = if start == 0 { store } else { Store::Add };
        with_scratch(&PANELS_A, if a.row == 1 { sizes.panels_a().len() } else { 0 }, |panels_a| {
            with_scratch(&PANELS_B, sizes.panels_b::<T>().len(), |panels_b| {
                pack_panels::<T>(cpu, sizes, [a, b], [&mut *panels_a, &mut *panels_b]);
                multiply::<T>(cpu, sizes, a, [panels_a, panels_b], &mut c, store);
            });
        });
    }
}

/// The product of one block of the shared index.
#[derive(Clone, Copy)]
struct Sizes {
    m: usize,
    n: usize,
    /// Terms of the block, and elements that hold them.
    depth: usize,
    steps: usize,
    /// Rows of a tile.
    height: usize,
}

impl Sizes {
    fn new<T: Tile>([m, n, depth]: [usize; 3]) -> Self {
        // Tiles of equal height waste less than full ones and a rest: 128 rows are ten tiles of 13, not nine
        // of 14 and 2.
        let height = m.div_ceil(m.div_ceil(T::HEIGHT));
        Self { m, n, depth, steps: depth.div_ceil(T::Element::TERMS), height }
    }

    /// Panels of A are as wide as many tiles are high: packing goes through rows, and is fastest where they are
    /// long. Steps are an odd number of cache lines apart, because lines a power of two apart would evict each
    /// other; panels end before each step of them needs a page of its own.
    fn panels_a(&self) -> Panels {
        let width = (self.height * (PANEL_A / self.height).max(1)).min(self.m);
        let row = (width.div_ceil(LINE) | 1) * LINE;
        Panels { cols: self.m, width, row, depth: self.depth, steps: self.steps }
    }

    fn panels_b<T: Tile>(&self) -> Panels {
        Panels { cols: self.n, width: T::WIDTH, row: T::WIDTH, depth: self.depth, steps: self.steps }
    }
}

/// Packs B, and A if the shared index runs across its rows.
fn pack_panels<T: Tile>(
    cpu: &Cpu,
    sizes: Sizes,
    [a, b]: [View<'_>; 2],
    [to_a, to_b]: [&mut [T::Element]; 2],
) {
    let (panels_a, panels_b) = (sizes.panels_a(), sizes.panels_b::<T>());
    let (to_a, to_b) = (Parts::new(to_a), Parts::new(to_b));
    if b.col == 1 {
        // By steps, not by panels: what is read lies together, and a block of it stays in the L1 cache.
        cpu.run_blocks(sizes.steps, STEPS, |steps| {
            // SAFETY: each block of steps takes its own part of every panel.
            unsafe {
                panels_b.across(b.data, b.row, steps.clone(), &to_b);
                if a.row == 1 {
                    panels_a.across(a.data, a.col, steps, &to_a);
                }
            }
        });
    } else {
        // Only in the forward product, whose A is read along its rows.
        cpu.run(panels_b.count(), |panel| {
            // SAFETY: each index takes its own panel.
            unsafe { panels_b.transposed(b.data, b.col, panel, &to_b) };
        });
    }
}

fn multiply<T: Tile>(
    cpu: &Cpu,
    sizes: Sizes,
    a: View<'_>,
    [panels_a, panels_b]: [&[T::Element]; 2],
    c: &mut ViewMut<'_>,
    store: Store,
) {
    let Sizes { m, n, depth, steps, height } = sizes;
    let tiles_per_task = (LINEAR_TASK / (height * n * depth)).clamp(1, m.div_ceil(height).div_ceil(8));
    let task_rows = tiles_per_task * height;
    let (c_len, c_row) = (c.data.len(), c.row);
    let of_a = sizes.panels_a();
    assert!(panels_b.len() == sizes.panels_b::<T>().len() && n <= c_row && (m - 1) * c_row + n <= c_len);
    let parts = Parts::new(&mut *c.data);
    cpu.run(m.div_ceil(task_rows), |task| {
        let rows = task * task_rows..m.min((task + 1) * task_rows);
        // SAFETY: each task takes its own rows of C.
        let c = unsafe { parts.part(rows.start * c_row..c_len.min(rows.end * c_row)) };
        let along = a.row != 1;
        with_scratch(&ROWS_A, if along { rows.len() * steps } else { 0 }, |rows_a| {
            if along {
                for (row, out) in rows.clone().zip(rows_a.chunks_exact_mut(steps)) {
                    T::Element::pack_along(&a.data[row * a.row..][..depth], out);
                }
            }
            for (panel, first) in panels_b.chunks_exact(steps * T::WIDTH).zip((0..n).step_by(T::WIDTH)) {
                for row in rows.clone().step_by(height) {
                    let a = if along {
                        Strided { data: rows_a[(row - rows.start) * steps..].as_ptr(), row: steps, col: 1 }
                    } else {
                        let panel = &panels_a[of_a.place(row / of_a.width, 0..steps)][row % of_a.width..];
                        Strided { data: panel.as_ptr(), row: 1, col: of_a.row }
                    };
                    let out = Output {
                        data: c[(row - rows.start) * c_row + first..].as_mut_ptr(),
                        row: c_row,
                        rows: height.min(rows.end - row),
                        cols: T::WIDTH.min(n - first),
                    };
                    // SAFETY: `Cpu::new` has checked the tier. The tile's rows of A are packed, as rows or as
                    // a panel, the panel of B has `steps` rows of WIDTH elements, and `out` lies within this
                    // task's rows of C: rows are `c_row` ≥ n apart, and C reaches to the end of its last one.
                    unsafe { T::tile(steps, a, panel.as_ptr(), out, store) };
                }
            }
        });
    });
}

/// Memory that a thread keeps between products, because pages fresh from the system cost more than the
/// packing.
pub(super) type ThreadBuffer = LocalKey<RefCell<Vec<Line>>>;

/// Elements on a cache line of their own; zeros are a valid element of any kind.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line([u32; LINE]);

thread_local! {
    static PANELS_A: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    static PANELS_B: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    static ROWS_A: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    /// Rows of weights that a file holds in another form; see `frozen.rs`.
    pub(super) static DECODED: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Calls `body` with `len` elements of `scratch`, whatever they held before.
pub(super) fn with_scratch<E: Element>(
    scratch: &'static ThreadBuffer,
    len: usize,
    body: impl FnOnce(&mut [E]),
) {
    scratch.with_borrow_mut(|lines| {
        if lines.len() * LINE < len {
            lines.resize(len.div_ceil(LINE), Line([0; LINE]));
        }
        // SAFETY: a `Line` is LINE words of four bytes without padding, lines are contiguous, there are at
        // least `len` words of them, and `Element` promises to be four bytes for which any bits are valid.
        body(unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) });
    });
}
