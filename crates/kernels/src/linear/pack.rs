//! Packing: from f32 in rows to the elements that a tile multiplies, in the order in which it reads them.

/// One or more consecutive terms of the shared index, in the form in which a tile multiplies them.
///
/// # Safety
/// Four bytes, for which any bits are valid.
pub(super) unsafe trait Element: Copy + Send + Sync {
    /// How many terms an element holds.
    const TERMS: usize;
    /// All terms zero.
    const ZERO: Self;

    /// Elements across the rows of `data`, where they lie; `None` if they have to be packed first.
    fn in_place(data: &[f32]) -> Option<*const Self>;

    /// `out[p]` holds `data[p·TERMS..]`: as many elements as that takes, zeros beyond the end of `data`.
    fn pack_along(data: &[f32], out: &mut [Self]);

    /// `out[j]` holds `row(0)[j]`, …, `row(TERMS − 1)[j]`; zeros for a row that is `None`, which is never the first.
    fn pack_across<'a>(row: impl Fn(usize) -> Option<&'a [f32]>, out: &mut [Self]);
}

// SAFETY: an f32 is four bytes, any of which are a number.
unsafe impl Element for f32 {
    const TERMS: usize = 1;
    const ZERO: Self = 0.0;

    fn in_place(data: &[f32]) -> Option<*const Self> {
        Some(data.as_ptr())
    }

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

/// The shared index runs down the rows of `data` (`depth`, `row` apart): `out[p, j]` holds rows `p·TERMS..` of column
/// j, for `j < cols`; the other columns of `out`'s `width` are zeros.
pub(super) fn across<E: Element>(
    data: &[f32],
    row: usize,
    cols: usize,
    depth: usize,
    width: usize,
    out: &mut [E],
) {
    for (step, out) in out.chunks_exact_mut(width).enumerate() {
        let term = step * E::TERMS;
        let (packed, rest) = out.split_at_mut(cols);
        E::pack_across(|q| (term + q < depth).then(|| &data[(term + q) * row..][..cols]), packed);
        rest.fill(E::ZERO);
    }
}

/// The shared index runs along the rows of `data` (`cols` of them, `row` apart): `out[p, j]` holds elements `p·TERMS..`
/// of row j, for `j < cols`; the other columns of `out`'s `width` are zeros.
pub(super) fn transposed<E: Element>(
    data: &[f32],
    row: usize,
    cols: usize,
    depth: usize,
    width: usize,
    out: &mut [E],
) {
    /// Elements taken of a row at a time: a block of that many rows of `out` stays in the first cache.
    const BLOCK: usize = 16;
    let mut block = [E::ZERO; BLOCK];
    for (index, out) in out.chunks_mut(BLOCK * width).enumerate() {
        let start = index * BLOCK * E::TERMS;
        let steps = out.len() / width;
        let end = depth.min(start + steps * E::TERMS);
        for j in 0..cols {
            E::pack_along(&data[j * row + start..j * row + end], &mut block[..steps]);
            for (out, &element) in out[j..].iter_mut().step_by(width).zip(&block[..steps]) {
                *out = element;
            }
        }
        out.chunks_exact_mut(width).for_each(|out| out[cols..].fill(E::ZERO));
    }
}
