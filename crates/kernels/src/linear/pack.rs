//! Packing: from f32 in rows to the elements that a tile multiplies, in the order in which it reads them.

use std::ops::Range;

use super::blocked::Tile;
use crate::Parts;

/// Columns and steps that are transposed at once: a vector of AVX-512 in both directions.
pub(super) const SQUARE: usize = 16;

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

    /// Fills `out`, rows of `across.width` elements: element j of row s holds terms `s·TERMS..` of column j,
    /// zeros beyond the last term or column.
    fn pack_across(across: Across<'_>, out: &mut [Self]);

    /// Terms as they are, if that is what an element holds.
    fn of_terms(terms: &[f32]) -> Option<&[Self]>;

    /// Words of four bytes, as elements.
    fn of_words(words: &[f32]) -> &[Self] {
        const { assert!(size_of::<Self>() == size_of::<f32>() && align_of::<Self>() == align_of::<f32>()) };
        // SAFETY: of the same size and alignment, and any bits are valid.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
    }

    /// Words of four bytes, as elements to be written.
    fn of_words_mut(words: &mut [f32]) -> &mut [Self] {
        const { assert!(size_of::<Self>() == size_of::<f32>() && align_of::<Self>() == align_of::<f32>()) };
        // SAFETY: as above; and any bits are an f32.
        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
    }
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

    fn of_terms(terms: &[f32]) -> Option<&[Self]> {
        Some(terms)
    }

    fn pack_along(data: &[f32], out: &mut [Self]) {
        out.copy_from_slice(data);
    }

    fn pack_across(across: Across<'_>, out: &mut [Self]) {
        // A row is at most two cache lines: a call of memcpy would cost more than the copy.
        macro_rules! of_width {
            ($($width:literal)*) => {
                match across.cols {
                    $($width if across.width == $width => copy_across::<$width>(across, out),)*
                    _ => copy_part_across(across, out),
                }
            };
        }
        of_width!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 16 32);
    }
}

fn copy_across<const WIDTH: usize>(across: Across<'_>, out: &mut [f32]) {
    let (out, _) = out.as_chunks_mut::<WIDTH>();
    for (term, out) in out.iter_mut().enumerate() {
        *out = across.term(term).first_chunk().copied().unwrap_or([0.0; WIDTH]);
    }
}

fn copy_part_across(across: Across<'_>, out: &mut [f32]) {
    for (term, out) in out.chunks_exact_mut(across.width).enumerate() {
        let (packed, rest) = out.split_at_mut(across.cols);
        packed.iter_mut().zip(across.term(term)).for_each(|(out, value)| *out = *value);
        rest.fill(0.0);
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
    pub(super) fn place(&self, panel: usize, steps: Range<usize>) -> Range<usize> {
        let first = panel * self.steps;
        (first + steps.start) * self.width..(first + steps.end) * self.width
    }

    fn panel_cols(&self, panel: usize) -> Range<usize> {
        panel * self.width..self.cols.min((panel + 1) * self.width)
    }

    /// Packs some steps of all panels of a matrix across whose rows the shared index runs: term t of column j
    /// is `data[(t - first) * row + j]`, where `first` is the first term of these steps. The panels begin at
    /// `at`.
    ///
    /// # Safety
    /// No one else takes these steps of `out`.
    pub(super) unsafe fn across<E: Element>(
        &self,
        data: &[f32],
        row: usize,
        steps: Range<usize>,
        (out, at): (&Parts<'_, E>, usize),
    ) {
        let terms = self.depth - steps.start * E::TERMS;
        for panel in 0..self.count() {
            let cols = self.panel_cols(panel);
            let (data, width) = (&data[cols.start..], self.width);
            let across = Across { data, row, terms, cols: cols.len(), width };
            let place = self.place(panel, steps.clone());
            // SAFETY: the caller's promise.
            E::pack_across(across, unsafe { out.part(at + place.start..at + place.end) });
        }
    }

    /// Packs one panel, all of `out`, of a matrix across whose rows the shared index runs, as above.
    pub(super) fn across_panel<E: Element>(&self, data: &[f32], row: usize, panel: usize, out: &mut [E]) {
        let cols = self.panel_cols(panel);
        let (data, width) = (&data[cols.start..], self.width);
        E::pack_across(Across { data, row, terms: self.depth, cols: cols.len(), width }, out);
    }

    /// Packs one panel, all of `out`, of a matrix along whose rows the shared index runs: term t of column j
    /// is `data[j * row + t]`. Its steps are `width` elements apart.
    pub(super) fn transposed_panel<T: Tile>(
        &self,
        data: &[f32],
        row: usize,
        panel: usize,
        out: &mut [T::Element],
    ) {
        let cols = self.panel_cols(panel);
        for (index, out) in out.chunks_mut(SQUARE * self.width).enumerate() {
            let start = index * SQUARE * T::Element::TERMS;
            let steps = out.len() / self.width;
            let end = self.depth.min(start + steps * T::Element::TERMS);
            for first in (0..self.width).step_by(SQUARE) {
                let mut square = [[T::Element::ZERO; SQUARE]; SQUARE];
                let cols = cols.clone().skip(first);
                for (col, square) in cols.zip(&mut square) {
                    T::Element::pack_along(&data[col * row..][start..end], &mut square[..steps]);
                }
                T::transpose(&square, self.width, &mut out[first..]);
            }
        }
    }
}
