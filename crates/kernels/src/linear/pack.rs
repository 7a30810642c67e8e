//! Packing: from f32 in rows to the elements that a tile multiplies, in the order in which it reads them.

use std::ops::Range;

use crate::Parts;

/// One or more consecutive terms of the shared index, in the form in which a tile multiplies them.
///
/// # Safety
/// Four bytes, for which any bits are valid.
pub(super) unsafe trait Element: Copy + Send + Sync {
    /// How many terms an element holds.
    const TERMS: usize;
    /// All terms zero.
    const ZERO: Self;

    /// `out[p]` holds `data[p·TERMS..]`: as many elements as that takes, zeros beyond the end of `data`.
    fn pack_along(data: &[f32], out: &mut [Self]);

    /// Fills `out`, rows of `across.width` elements: element j of row s holds terms `s·TERMS..` of column j, zeros
    /// beyond the last term or column.
    fn pack_across(across: Across<'_>, out: &mut [Self]);
}

/// Some columns of a matrix across whose rows the shared index runs: term t of column j is
/// `data[t * row + j]`.
#[derive(Clone, Copy)]
pub(super) struct Across<'a> {
    pub(super) data: &'a [f32],
    pub(super) row: usize,
    pub(super) terms: usize,
    pub(super) cols: usize,
    /// Elements from one step to the next where it goes.
    pub(super) width: usize,
}

impl<'a> Across<'a> {
    /// A term of all columns; nothing beyond the last.
    pub(super) fn term(&self, term: usize) -> &'a [f32] {
        if term < self.terms { &self.data[term * self.row..][..self.cols] } else { &[] }
    }
}

// SAFETY: an f32 is four bytes, any of which are a number.
unsafe impl Element for f32 {
    const TERMS: usize = 1;
    const ZERO: Self = 0.0;

    fn pack_along(data: &[f32], out: &mut [Self]) {
        out.copy_from_slice(data);
    }

    fn pack_across(across: Across<'_>, out: &mut [Self]) {
        for (term, out) in out.chunks_exact_mut(across.width).enumerate() {
            let (packed, rest) = out.split_at_mut(across.cols);
            // A panel's row is a cache line or two: a call of memcpy would cost more than the copy.
            let (lines, last) = across.term(term).as_chunks::<16>();
            let (out_lines, out_last) = packed.as_chunks_mut::<16>();
            out_lines.iter_mut().zip(lines).for_each(|(out, line)| *out = *line);
            out_last.iter_mut().zip(last).for_each(|(out, value)| *out = *value);
            rest.fill(0.0);
        }
    }
}

/// Columns of a matrix, packed: `[panel][step][column]`, `width` columns to a panel, steps `row` elements apart.
///
/// Element (step, column) holds terms `step·TERMS..` of the shared index; what is beyond the last term or the
/// last column is zero.
#[derive(Clone, Copy)]
pub(super) struct Panels {
    pub(super) cols: usize,
    pub(super) width: usize,
    pub(super) row: usize,
    /// Terms of the shared index, and elements that hold them.
    pub(super) depth: usize,
    pub(super) steps: usize,
}

impl Panels {
    pub(super) fn count(&self) -> usize {
        self.cols.div_ceil(self.width)
    }

    /// Elements of all panels.
    pub(super) fn len(&self) -> usize {
        self.count() * self.steps * self.row
    }

    /// The elements of `steps` of a panel.
    pub(super) fn place(&self, panel: usize, steps: Range<usize>) -> Range<usize> {
        let first = panel * self.steps;
        (first + steps.start) * self.row..(first + steps.end) * self.row
    }

    fn panel_cols(&self, panel: usize) -> Range<usize> {
        panel * self.width..self.cols.min((panel + 1) * self.width)
    }

    /// Packs some steps of all panels of a matrix across whose rows the shared index runs: term t of column j
    /// is `data[t * row + j]`.
    ///
    /// # Safety
    /// No one else takes these steps of `out`.
    pub(super) unsafe fn across<E: Element>(
        &self,
        data: &[f32],
        row: usize,
        steps: Range<usize>,
        out: &Parts<'_, E>,
    ) {
        let first = steps.start * E::TERMS;
        for panel in 0..self.count() {
            let cols = self.panel_cols(panel);
            let across = Across {
                data: &data[first * row + cols.start..],
                row,
                terms: self.depth - first,
                cols: cols.len(),
                width: self.row,
            };
            // SAFETY: the caller's promise.
            E::pack_across(across, unsafe { out.part(self.place(panel, steps.clone())) });
        }
    }

    /// Packs one panel of a matrix along whose rows the shared index runs: term t of column j is
    /// `data[j * row + t]`. Its steps are `width` elements apart.
    ///
    /// # Safety
    /// No one else takes this panel of `out`.
    pub(super) unsafe fn transposed<E: Element>(
        &self,
        data: &[f32],
        row: usize,
        panel: usize,
        out: &Parts<'_, E>,
    ) {
        /// Elements taken of a row at a time: a block of that many rows of `out` stays in the L1 cache.
        const ROWS_AT_ONCE: usize = 16;
        let cols = self.panel_cols(panel);
        // SAFETY: the caller's promise.
        let out = unsafe { out.part(self.place(panel, 0..self.steps)) };
        let mut block = [E::ZERO; ROWS_AT_ONCE];
        for (index, out) in out.chunks_mut(ROWS_AT_ONCE * self.width).enumerate() {
            let start = index * ROWS_AT_ONCE * E::TERMS;
            let steps = out.len() / self.width;
            let end = self.depth.min(start + steps * E::TERMS);
            for (j, col) in cols.clone().enumerate() {
                E::pack_along(&data[col * row..][start..end], &mut block[..steps]);
                for (out, &element) in out[j..].iter_mut().step_by(self.width).zip(&block[..steps]) {
                    *out = element;
                }
            }
            out.chunks_exact_mut(self.width).for_each(|out| out[cols.len()..].fill(E::ZERO));
        }
    }
}
