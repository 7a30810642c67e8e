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

    /// `out[j]` holds `row(0)[j]`, …, `row(TERMS − 1)[j]`; zeros for a row that is `None`, which is never the
    /// first.
    fn pack_across<'a>(row: impl Fn(usize) -> Option<&'a [f32]>, out: &mut [Self]);
}

// SAFETY: an f32 is four bytes, any of which are a number.
unsafe impl Element for f32 {
    const TERMS: usize = 1;
    const ZERO: Self = 0.0;

    fn pack_along(data: &[f32], out: &mut [Self]) {
        out.copy_from_slice(data);
    }

    fn pack_across<'a>(row: impl Fn(usize) -> Option<&'a [f32]>, out: &mut [Self]) {
        let row = row(0).unwrap_or_default();
        assert_eq!(row.len(), out.len());
        // A panel's row is a cache line or two: a call of memcpy would cost more than the copy.
        let (lines, rest) = row.as_chunks::<16>();
        let (out_lines, out_rest) = out.as_chunks_mut::<16>();
        out_lines.iter_mut().zip(lines).for_each(|(out, line)| *out = *line);
        out_rest.iter_mut().zip(rest).for_each(|(out, value)| *out = *value);
    }
}

/// Columns of a matrix, packed: `[panel][step][column]`, `width` columns to a panel.
///
/// Element (step, column) holds terms `step·TERMS..` of the shared index; what is beyond the last term or the
/// last column is zero.
#[derive(Clone, Copy)]
pub(super) struct Panels {
    pub(super) cols: usize,
    pub(super) width: usize,
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
        self.count() * self.steps * self.width
    }

    /// The elements of `steps` of a panel.
    fn place(&self, panel: usize, steps: Range<usize>) -> Range<usize> {
        let first = panel * self.steps;
        (first + steps.start) * self.width..(first + steps.end) * self.width
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
        for panel in 0..self.count() {
            let cols = self.panel_cols(panel);
            // SAFETY: the caller's promise.
            let out = unsafe { out.part(self.place(panel, steps.clone())) };
            for (step, out) in steps.clone().zip(out.chunks_exact_mut(self.width)) {
                let (packed, rest) = out.split_at_mut(cols.len());
                let term = |q: usize| {
                    let term = step * E::TERMS + q;
                    (term < self.depth).then(|| &data[term * row..][cols.clone()])
                };
                E::pack_across(term, packed);
                rest.fill(E::ZERO);
            }
        }
    }

    /// Packs one panel of a matrix along whose rows the shared index runs: term t of column j is
    /// `data[j * row + t]`.
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
