//! How much work one task of a parallel loop is.

use std::ops::Range;

use crate::{Cpu, Parts};

/// Elements in a block of a cheap kernel: some 2 µs of work, ten times what scheduling it costs. An array
/// that is no larger is one block, and a loop over one block never wakes the team.
pub(crate) const BLOCK: usize = 8192;

/// Rows in a block of about [`BLOCK`] elements.
pub(crate) fn rows_per_block(width: usize) -> usize {
    (BLOCK / width).max(1)
}

/// The elements that `rows` of `width` take.
pub(crate) fn elements(rows: &Range<usize>, width: usize) -> Range<usize> {
    rows.start * width..rows.end * width
}

/// Rows of `width` in an array of `len`.
///
/// # Panics
/// If `len` is not a whole number of rows.
pub(crate) fn rows(len: usize, width: usize) -> usize {
    assert!(width > 0 && len.is_multiple_of(width), "{len} elements are not rows of {width}");
    len / width
}

/// Panics unless the segments lie within `rows` in ascending order, none overlapping the next: threads write
/// the rows of different segments at the same time.
pub(crate) fn check_segments(segments: &[Range<usize>], rows: usize) {
    let mut end = 0;
    for segment in segments {
        assert!(
            end <= segment.start && segment.start <= segment.end && segment.end <= rows,
            "segment {segment:?} after row {end}, of {rows} rows"
        );
        end = segment.end;
    }
}

/// Runs `body` on blocks of rows and adds up, over the blocks, `N` vectors of `width` sums that it makes of
/// each.
///
/// `body(rows, sums)` gets `sums` filled with zeros. The blocks' sums are added to `into` one after another
/// in the order of the rows, so that the result does not depend on the number of threads.
pub(crate) fn sum_rows<const N: usize>(
    cpu: &Cpu,
    rows: usize,
    width: usize,
    mut into: [&mut [f32]; N],
    body: impl Fn(Range<usize>, [&mut [f32]; N]) + Sync,
) {
    for sum in &into {
        assert_eq!(sum.len(), width);
    }
    let block = rows_per_block(width);
    let mut sums = vec![0.0; rows.div_ceil(block) * N * width];
    let parts = Parts::new(&mut sums);
    cpu.run_blocks(rows, block, |range| {
        let first = range.start / block * N;
        body(
            range,
            // SAFETY: the N vectors from `first` belong to this block alone, and they do not overlap.
            std::array::from_fn(|i| unsafe { parts.part(elements(&(first + i..first + i + 1), width)) }),
        );
    });
    for block in sums.chunks_exact((N * width).max(1)) {
        for (into, sum) in into.iter_mut().zip(block.chunks_exact(width)) {
            into.iter_mut().zip(sum).for_each(|(into, sum)| *into += sum);
        }
    }
}
