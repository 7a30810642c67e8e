//! The blocked product: A and B packed, C computed in tiles of registers.
//!
//! ```text
//! for each block of the shared index (DEPTH elements)
//!     pack B: panels of some columns, one element of each after the other             (shared by all threads)
//!     for each group of tile rows                                                     (one task of the team's loop)
//!         pack the group's rows of A, if they cannot stay as they are                 (stays in the L2 cache)
//!         for each panel of B                                                         (stays in the L1 or L2 cache)
//!             for each tile of at most HEIGHT × WIDTH elements of C
//!                 rank-1 updates in registers, then one store
//! ```
//!
//! Packing is where f32 becomes whatever the tile multiplies. It also brings together what is used together:
//! rows a power of two apart would evict each other from the cache. A is read one broadcast element at a
//! time, so its rows can stay rows, and in f32 nearly always stay where they are; where the index runs across them they
//! become *strips*: one element of each of a tile's rows after the other.

use std::cell::RefCell;
use std::ops::Range;
use std::thread::LocalKey;

use super::pack::{Element, Panels, SQUARE};
use super::{Extent, View, ViewMut};
use crate::{Cpu, Parts, Store};

/// Elements of a block of the shared index: a panel of it (DEPTH × WIDTH elements) fits the L2 cache with
/// room, and HEIGHT rows of A of that length the L1 cache.
const DEPTH: usize = 384;

/// Multiply-adds that make a task worth handing out: some 20 µs in f32, at the 100 GFLOP/s a core that
/// tiles reach on a Zen 4.
const LINEAR_TASK: usize = 1 << 20;

/// Rows of a task, at least, if there are enough: in A they stay in the L2 cache beside a panel of B.
pub const ROWS: usize = 96;

/// Elements of the shared index that are packed at once: as many rows of the matrix are read side by side, which can
/// all be in one set of the L1 cache.
pub(super) const STEPS: usize = 8;

/// Elements on one cache line.
const LINE: usize = 16;

/// Sets of an L1 cache, and lines of each: of 32 KB at least, in all of its kinds that have AVX2 or NEON.
const SETS: usize = 64;
const WAYS: usize = 8;

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

    /// `out[j * width + i] = square[i][j]`, as far as that lies within `out`.
    fn transpose(square: &[[Self::Element; SQUARE]; SQUARE], width: usize, out: &mut [Self::Element]) {
        for (j, out) in out.chunks_mut(width).enumerate() {
            for (out, row) in out.iter_mut().zip(square) {
                *out = row[j];
            }
        }
    }
}

/// Calls `$f::<ROWS>` with the constant that equals the number of rows: the sums stay in registers only if
/// their number is known when the code is compiled. `$more` is another constant.
macro_rules! with_rows {
    ($rows:expr, [$($n:literal)*], $f:ident $args:tt) => {
        match $rows {
            $($n => $f::<$n> $args,)*
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
    ($rows:expr, [$($n:literal)*], $f:ident <$more:tt> $args:tt) => {
        match $rows {
            $($n => $f::<$n, $more> $args,)*
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
    extent: Extent,
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
    for range in blocks::<T>(k) {
        let block = Block::new::<T>([m, n, range.len()]);
        let a = View { data: &a.data[range.start * a.col..], ..a };
        let b = View { data: &b.data[range.start * b.row..], ..b };
        let store = if range.start == 0 { store } else { Store::Add };
        with_scratch(&PANELS_B, block.panels_b::<T>().len(), |panels_b| {
            pack_b::<T>(cpu, block, b, panels_b);
            each_task(cpu, block, &mut c, |rows, c| {
                let a = View { data: &a.data[rows.start * a.row..], ..a };
                let block = Block { below: (extent == Extent::Lower).then_some(rows.start), ..block };
                multiply_view::<T>(block, rows.len(), a, panels_b, c, store);
            });
        });
    }
}

/// The blocks of a shared index of `k` terms.
pub(super) fn blocks<T: Tile>(k: usize) -> impl Iterator<Item = Range<usize>> {
    let block = DEPTH * T::Element::TERMS;
    (0..k).step_by(block).map(move |start| start..k.min(start + block))
}

/// The product of one block of the shared index.
#[derive(Clone, Copy)]
pub(super) struct Block {
    m: usize,
    n: usize,
    /// Terms of the block, and elements that hold them.
    pub(super) depth: usize,
    pub(super) steps: usize,
    /// Rows of a tile.
    height: usize,
    /// Where tiles above the diagonal of C are left out: the first row of the part of C that is computed.
    below: Option<usize>,
}

impl Block {
    pub(super) fn new<T: Tile>([m, n, depth]: [usize; 3]) -> Self {
        // Tiles of equal height waste less than full ones and a rest: 128 rows are ten tiles of 13, not nine
        // of 14 and 2.
        let height = m.div_ceil(m.div_ceil(T::HEIGHT).max(1)).max(1);
        Self { m, n, depth, steps: depth.div_ceil(T::Element::TERMS), height, below: None }
    }

    /// The strips of some rows of A, the first of them a tile's first: each as wide as a tile is high.
    pub(super) fn strips(&self, rows: usize) -> Panels {
        Panels { cols: rows, width: self.height, depth: self.depth, steps: self.steps }
    }

    /// Where the strips of some rows are among those of all.
    pub(super) fn strips_of(&self, rows: &Range<usize>) -> Range<usize> {
        rows.start / self.height * self.steps * self.height
            ..rows.end.div_ceil(self.height) * self.steps * self.height
    }

    /// Whether tiles can read rows that are `row` elements apart: what they read of a tile's rows at the same time must
    /// fit the L1 cache with room, where lines of rows a power of two apart share a set.
    fn reads_rows(&self, row: usize) -> bool {
        let lines = row.div_ceil(LINE);
        let sets = if row.is_multiple_of(LINE) { SETS / gcd(lines, SETS) } else { SETS };
        self.height.div_ceil(sets) < WAYS
    }

    pub(super) fn panels_b<T: Tile>(&self) -> Panels {
        Panels { cols: self.n, width: T::WIDTH, depth: self.depth, steps: self.steps }
    }

    /// The rows of C that are a task each, for so many `threads`.
    ///
    /// A task goes through all of B, panel by panel, and uses each for all of its rows: the higher it is, the
    /// less often B is read. (On an Intel Xeon of model 207, whose L2 cache has 2 MB, eight tiles are no faster
    /// than one.) But there are some tasks for each thread.
    pub(super) fn tasks(&self, threads: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let Self { m, n, depth, height, .. } = *self;
        let tiles = m.div_ceil(height);
        let work = (height * n * depth).max(1);
        let fair = if threads == 1 { tiles } else { tiles / (4 * threads) };
        let rows = (LINEAR_TASK / work).max(ROWS / height).min(fair).max(1) * height;
        (0..m).step_by(rows).map(move |start| start..m.min(start + rows))
    }
}

/// Packs B.
pub(super) fn pack_b<T: Tile>(cpu: &Cpu, block: Block, b: View<'_>, out: &mut [T::Element]) {
    let panels = block.panels_b::<T>();
    let out = Parts::new(out);
    if b.col == 1 {
        // By steps, not by panels: what is read lies together, and a block of it stays in the L1 cache.
        cpu.run_blocks(block.steps, STEPS, |steps| {
            let data = &b.data[steps.start * T::Element::TERMS * b.row..];
            // SAFETY: each block of steps takes its own part of every panel.
            unsafe { panels.across(data, b.row, steps, (&out, 0)) };
        });
    } else {
        cpu.run(panels.count(), |panel| {
            // SAFETY: each index takes its own panel.
            let out = unsafe { out.part(panels.place(panel, 0..block.steps)) };
            panels.transposed_panel::<T>(b.data, b.col, panel, out);
        });
    }
}

/// Some rows of the block's product, on this thread, of an A that is not packed: both begin with the first of them, and
/// A with the block's first term.
fn multiply_view<T: Tile>(
    block: Block,
    rows: usize,
    a: View<'_>,
    panels_b: &[T::Element],
    c: &mut ViewMut<'_>,
    store: Store,
) {
    let Block { depth, steps, .. } = block;
    if a.col != 1 {
        let strips = block.strips(rows);
        return with_scratch(&PACKED_A, strips.len(), |packed| {
            let out = Parts::new(&mut *packed);
            for start in (0..steps).step_by(STEPS) {
                let data = &a.data[start * T::Element::TERMS * a.col..];
                // SAFETY: nobody else has what this thread packs.
                unsafe { strips.across(data, a.col, start..steps.min(start + STEPS), (&out, 0)) };
            }
            multiply_rows::<T>(block, rows, Packed::Strips(packed), panels_b, c, store);
        });
    }
    if let Some(data) = T::Element::of_terms(a.data) {
        return multiply_packed_rows::<T>(block, rows, (data, a.row), panels_b, c, store);
    }
    with_scratch(&PACKED_A, rows * steps, |packed| {
        for (row, out) in packed.chunks_exact_mut(steps).enumerate() {
            T::Element::pack_along(&a.data[row * a.row..][..depth], out);
        }
        multiply_rows::<T>(block, rows, Packed::Rows { data: packed, row: steps }, panels_b, c, store);
    });
}

/// The same with an A whose elements are packed, its rows `row` apart.
pub(super) fn multiply_packed_rows<T: Tile>(
    block: Block,
    rows: usize,
    (data, row): (&[T::Element], usize),
    panels_b: &[T::Element],
    c: &mut ViewMut<'_>,
    store: Store,
) {
    if block.reads_rows(row) {
        return multiply_rows::<T>(block, rows, Packed::Rows { data, row }, panels_b, c, store);
    }
    let steps = block.steps;
    with_scratch(&PACKED_A, rows * steps, |packed| {
        for (index, out) in packed.chunks_exact_mut(steps).enumerate() {
            out.copy_from_slice(&data[index * row..][..steps]);
        }
        multiply_rows::<T>(block, rows, Packed::Rows { data: packed, row: steps }, panels_b, c, store);
    });
}

/// Calls `body` with the rows of each task, and C from the first of them on.
pub(super) fn each_task(
    cpu: &Cpu,
    block: Block,
    c: &mut ViewMut<'_>,
    body: impl Fn(Range<usize>, &mut ViewMut<'_>) + Sync,
) {
    let (c_len, c_row) = (c.data.len(), c.row);
    assert!(block.n <= c_row && (block.m - 1) * c_row + block.n <= c_len);
    let parts = Parts::new(&mut *c.data);
    let tasks: Vec<_> = block.tasks(cpu.threads()).collect();
    cpu.run(tasks.len(), |task| {
        let rows = tasks[task].clone();
        // SAFETY: each task takes its own rows of C.
        let c = unsafe { parts.part(rows.start * c_row..c_len.min(rows.end * c_row)) };
        body(rows, &mut ViewMut { data: c, row: c_row });
    });
}

/// Some rows of A, and the block's terms of them.
#[derive(Clone, Copy)]
pub(super) enum Packed<'a, E> {
    /// One row after the other, `row` elements apart.
    Rows { data: &'a [E], row: usize },
    /// Strips.
    Strips(&'a [E]),
}

/// Some rows of the block's product, on this thread. `a` and `c` begin with the first of them.
pub(super) fn multiply_rows<T: Tile>(
    block: Block,
    rows: usize,
    a: Packed<'_, T::Element>,
    panels_b: &[T::Element],
    c: &mut ViewMut<'_>,
    store: Store,
) {
    let Block { n, steps, height, .. } = block;
    let Some(last) = rows.checked_sub(1) else { return };
    assert!(panels_b.len() == block.panels_b::<T>().len() && n <= c.row && last * c.row + n <= c.data.len());
    match a {
        Packed::Rows { data, row } => assert!(last * row + steps <= data.len()),
        Packed::Strips(data) => assert_eq!(data.len(), block.strips(rows).len()),
    }
    for (panel, first) in panels_b.chunks_exact(steps * T::WIDTH).zip((0..n).step_by(T::WIDTH)) {
        for start in (0..rows).step_by(height) {
            if block.below.is_some_and(|below| first >= below + start + height) {
                continue;
            }
            let a = match a {
                Packed::Rows { data, row } => Strided { data: data[start * row..].as_ptr(), row, col: 1 },
                // The tile's strip is the one at `start / height`, of `steps * height` elements.
                Packed::Strips(data) => Strided { data: data[start * steps..].as_ptr(), row: 1, col: height },
            };
            let out = Output {
                data: c.data[start * c.row + first..].as_mut_ptr(),
                row: c.row,
                rows: height.min(rows - start),
                cols: T::WIDTH.min(n - first),
            };
            // SAFETY: `Cpu::new` has checked the tier. The tile's rows of A are there, as rows or as a strip,
            // the panel of B has `steps` rows of WIDTH elements, and `out` lies within C: rows are
            // `c.row` ≥ n apart, and C reaches to the end of the last one.
            unsafe { T::tile(steps, a, panel.as_ptr(), out, store) };
        }
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Memory that a thread keeps between products, because pages fresh from the system cost more than the
/// packing.
pub(super) type ThreadBuffer = LocalKey<RefCell<Vec<Line>>>;

/// Elements on a cache line of their own; zeros are a valid element of any kind.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line([u32; LINE]);

thread_local! {
    static PANELS_B: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    static PACKED_A: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
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
