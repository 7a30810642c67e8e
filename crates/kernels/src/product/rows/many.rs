//! Many tokens: bound by arithmetic.
//!
//! ```text
//! for each block of columns                                    (a strip's activations of it stay in L1)
//!     copy the task's weights of the block, as f32, to panels  (stay in L2)
//!     for each strip of at most TOKENS tokens
//!         for each panel of ROWS rows
//!             a tile of sums in registers, then the lanes' sums are set or added to y
//! ```
//!
//! Panels hold, vector by vector, those of four rows: what a tile reads is one aligned stream, where rows in
//! place would cross a cache line with every load and, a power of two apart, evict each other from the L1
//! cache. FP16 and BF16 are converted once for all tokens. A weight is copied once for T multiplications of it,
//! and while a block is multiplied the next one is prefetched.

use std::cell::RefCell;
use std::ops::Range;

use super::format::{F32, RowFormat};
use super::tile::{ROWS, Source, tile, tile_tokens, with_tokens};
use super::{Lines, column_block, strips};
use crate::Parts;
use crate::prefetch::{LINE, line_to_l2, line_to_write};
use crate::product::Weights;
use crate::simd::Simd;

thread_local! {
    /// A thread's buffer, reused between tasks: page faults of fresh memory cost more than the copy.
    static PANELS: RefCell<Lines> = RefCell::default();
}

/// The outputs of `rows` for all tokens of `x`.
///
/// # Safety
/// No one else writes the outputs of `rows`.
#[inline(always)]
pub(super) unsafe fn outputs<S: Simd, F: RowFormat>(
    s: S,
    w: Weights<'_>,
    x: &[f32],
    rows: Range<usize>,
    y: &Parts<'_, f32>,
) {
    let tokens = x.len() / w.cols;
    let block = column_block(w.cols);
    let mut lines = PANELS.take();
    let panels = lines.reserve(rows.len().next_multiple_of(ROWS) * block).as_mut_ptr();
    let tiles = strips(tokens, tile_tokens::<S>()).count() * rows.len().div_ceil(ROWS);
    let mut col = 0;
    while col < w.cols {
        let cols = col..w.cols.min(col + block);
        let next = Prefetch::after(&w, rows.clone(), cols.clone(), block, tiles);
        // SAFETY: passed on.
        unsafe { multiply::<S, F>(s, w, x, rows.clone(), cols.clone(), y, panels, next) };
        col = cols.end;
    }
    PANELS.set(lines);
}

/// One block of columns.
///
/// # Safety
/// As [`outputs`].
#[inline(always)]
unsafe fn multiply<S: Simd, F: RowFormat>(
    s: S,
    w: Weights<'_>,
    x: &[f32],
    rows: Range<usize>,
    cols: Range<usize>,
    y: &Parts<'_, f32>,
    panels: *mut f32,
    mut prefetch: Prefetch,
) {
    // SAFETY: the panels have room for these rows and columns; the rest is passed on.
    unsafe {
        pack::<S, F>(s, w, rows.clone(), cols.clone(), panels);
        for (token, count) in strips(x.len() / w.cols, tile_tokens::<S>()) {
            let (rows, cols) = (rows.clone(), cols.clone());
            with_tokens!(count, N => strip::<S, N>(s, w, x, token, rows, cols, y, panels, &mut prefetch));
        }
    }
}

/// Floats of a panel.
fn panel_len<S: Simd>(cols: usize) -> usize {
    ROWS * cols.next_multiple_of(S::LANES)
}

/// # Safety
/// As [`outputs`].
#[inline(always)]
unsafe fn pack<S: Simd, F: RowFormat>(
    s: S,
    w: Weights<'_>,
    rows: Range<usize>,
    cols: Range<usize>,
    panels: *mut f32,
) {
    /// Distance of the prefetch, in vectors.
    const AHEAD: usize = 16;
    let (whole, rest) = (cols.len() / S::LANES, cols.len() % S::LANES);
    let mut panel = panels;
    let mut row = rows.start;
    while row < rows.end {
        for i in 0..ROWS {
            // A panel that is not full holds its last row more than once.
            let data =
                w.row((row + i).min(rows.end - 1))[cols.start * F::BYTES..cols.end * F::BYTES].as_ptr();
            // SAFETY: a panel holds ROWS rows of whole vectors; of the weights no more is read than there is.
            unsafe {
                let mut out = panel.add(i * S::LANES);
                for v in 0..whole {
                    line_to_write(out.wrapping_add(AHEAD * S::LANES).cast());
                    s.store_at(out, F::load(s, data.add(v * S::LANES * F::BYTES)));
                    out = out.wrapping_add(ROWS * S::LANES);
                }
                if rest > 0 {
                    s.store_at(out, F::load_rest(s, data.add(whole * S::LANES * F::BYTES), rest));
                }
            }
        }
        panel = panel.wrapping_add(panel_len::<S>(cols.len()));
        row += ROWS;
    }
}

/// `N` tokens from `token` on with all panels.
///
/// # Safety
/// As [`outputs`]; the panels hold these rows and columns.
#[inline(always)]
unsafe fn strip<S: Simd, const N: usize>(
    s: S,
    w: Weights<'_>,
    x: &[f32],
    token: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    y: &Parts<'_, f32>,
    panels: *const f32,
    prefetch: &mut Prefetch,
) {
    let x = &x[token * w.cols..][..N * w.cols];
    let mut panel = panels;
    let mut row = rows.start;
    while row < rows.end {
        // SAFETY: the panel and the activations have `cols` columns, the panel's rest is zeros; these are
        // outputs of `rows`.
        unsafe {
            prefetch.step();
            let mut source =
                Source { rows: [[panel.cast::<u8>(); ROWS]], step: ROWS * S::LANES * 4, ahead: None };
            for i in 0..ROWS {
                source.rows[0][i] = panel.wrapping_add(i * S::LANES).cast();
            }
            let [outputs] = tile::<S, F32, 1, N>(s, source, x.as_ptr().add(cols.start), w.cols, cols.len());
            let height = ROWS.min(rows.end - row);
            for (j, &outputs) in outputs.iter().enumerate() {
                let first = (token + j) * w.rows + row;
                let y = y.part(first..first + height);
                if let Ok(four) = <&mut [f32; ROWS]>::try_from(&mut *y) {
                    set_or_add(cols.start > 0, four, outputs);
                } else {
                    let mut four = [0.0; ROWS];
                    four[..height].copy_from_slice(y);
                    set_or_add(cols.start > 0, &mut four, outputs);
                    y.copy_from_slice(&four[..height]);
                }
            }
        }
        panel = panel.wrapping_add(panel_len::<S>(cols.len()));
        row += ROWS;
    }
}

#[inline(always)]
fn set_or_add(add: bool, y: &mut [f32; ROWS], outputs: [f32; ROWS]) {
    for i in 0..ROWS {
        y[i] = if add { y[i] + outputs[i] } else { outputs[i] };
    }
}

/// Prefetches the weights that will be packed next: a few cache lines with each tile, while it multiplies.
pub(super) struct Prefetch {
    line: *const u8,
    /// Lines left of the row.
    left: usize,
    /// Rows left, this one included.
    rows: usize,
    row_lines: usize,
    row_bytes: usize,
    /// Lines a tile.
    count: usize,
}

impl Prefetch {
    /// The weights that follow `rows` and `cols`, in blocks of `block` columns, shared among `tiles` tiles.
    pub(super) fn after(
        w: &Weights<'_>,
        rows: Range<usize>,
        cols: Range<usize>,
        block: usize,
        tiles: usize,
    ) -> Self {
        if cols.end < w.cols {
            Self::new(w, rows, cols.end..w.cols.min(cols.end + block), tiles)
        } else {
            // A thread takes its tasks in the order of the rows.
            Self::new(w, rows.end..w.rows.min(rows.end + rows.len()), 0..block.min(w.cols), tiles)
        }
    }

    fn new(w: &Weights<'_>, rows: Range<usize>, cols: Range<usize>, tiles: usize) -> Self {
        let bytes = w.row_bytes / w.cols;
        // A row that begins within a line has one more, which the neighbouring columns bring.
        let row_lines = (cols.len() * bytes).div_ceil(LINE);
        Self {
            line: w.bytes.as_ptr().wrapping_add(rows.start * w.row_bytes + cols.start * bytes),
            left: row_lines,
            rows: rows.len(),
            row_lines,
            row_bytes: w.row_bytes,
            count: (row_lines * rows.len()).div_ceil(tiles.max(1)),
        }
    }

    /// Prefetches a tile's share.
    #[inline(always)]
    pub(super) fn step(&mut self) {
        for _ in 0..self.count {
            if self.rows == 0 {
                return;
            }
            line_to_l2(self.line);
            self.line = self.line.wrapping_add(LINE);
            self.left -= 1;
            if self.left == 0 {
                self.rows -= 1;
                self.left = self.row_lines;
                self.line = self.line.wrapping_add(self.row_bytes).wrapping_sub(self.row_lines * LINE);
            }
        }
    }
}
