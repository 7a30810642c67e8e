//! Token shift: each row gets the one before it.
//!
//! `y_t = x_{t−1}` within a segment. A segment's first row gets the vector that its state holds, zeros at the
//! start of a text, and its last row is left there: so a text goes on across chunks. (Peng et al.,
//! <https://arxiv.org/abs/2305.13048>, section 3.1.1.)

use std::ops::Range;

use crate::block::{BLOCK, check_segments, elements, rows, rows_per_block};
use crate::simd::{Operation, Simd, dispatch};
use crate::{Cpu, Parts, Store};

/// `y (rows, width) = x` one row later, within each of the `segments` (ranges of rows).
///
/// `states[i][at..at + width]` is what the first row of segment `i` gets, and where its last row of `x` is
/// left. With no states at all, every segment starts from zeros and nothing is left. Rows in no segment are
/// unspecified.
///
/// # Panics
/// If the lengths disagree, or the segments are not in ascending order.
pub fn shift(
    cpu: &Cpu,
    segments: &[Range<usize>],
    states: &mut [&mut [f32]],
    at: usize,
    width: usize,
    x: &[f32],
    y: &mut [f32],
) {
    check_segments(segments, rows(x.len(), width));
    assert_eq!(y.len(), x.len());
    assert!(states.is_empty() || states.len() == segments.len(), "a state for each segment, or none");

    // All rows but the first come from the row before, whatever the segments: one copy. The borders are put
    // right below.
    if let Some(later) = y.get_mut(width..) {
        let later = Parts::new(later);
        cpu.run_blocks(x.len().saturating_sub(width), BLOCK, |range| {
            // SAFETY: blocks do not overlap.
            unsafe { later.part(range.clone()) }.copy_from_slice(&x[range]);
        });
    }
    for (i, segment) in segments.iter().enumerate() {
        if segment.is_empty() {
            continue;
        }
        let first = &mut y[segment.start * width..][..width];
        if let Some(state) = states.get_mut(i) {
            let state = &mut state[at..at + width];
            first.copy_from_slice(state);
            state.copy_from_slice(&x[(segment.end - 1) * width..][..width]);
        } else {
            first.fill(0.0);
        }
    }
}

/// The gradient of [`shift`]: `dx_t = dy_{t+1}` (set or added) within each segment, 0 for its last row.
///
/// The gradient of the vector that a segment's first row got, that row's `dy`, is added to
/// `dstates[i][at..at + width]`; with no `dstates` at all, gradients end at the segment's start. What the
/// forward left in the states is taken to be used by nothing else. Rows in no segment are left alone.
///
/// # Panics
/// If the lengths disagree, or the segments are not in ascending order.
pub fn shift_backward(
    cpu: &Cpu,
    segments: &[Range<usize>],
    dstates: &mut [&mut [f32]],
    at: usize,
    width: usize,
    dy: &[f32],
    dx: &mut [f32],
    store: Store,
) {
    let rows = rows(dy.len(), width);
    check_segments(segments, rows);
    assert_eq!(dx.len(), dy.len());
    assert!(
        dstates.is_empty() || dstates.len() == segments.len(),
        "a state's gradient for each segment, or none"
    );
    for (segment, dstate) in segments.iter().zip(dstates).filter(|(segment, _)| !segment.is_empty()) {
        let first = &dy[segment.start * width..][..width];
        dstate[at..at + width].iter_mut().zip(first).for_each(|(dstate, dy)| *dstate += dy);
    }
    let dx = Parts::new(dx);
    cpu.run_blocks(rows, rows_per_block(width), |block| {
        for segment in segments.iter().filter(|segment| !segment.is_empty()) {
            // The block's rows that have a successor in the segment, and the segment's last row if it is
            // here.
            let start = segment.start.max(block.start);
            let end = (segment.end - 1).min(block.end);
            if start < end {
                // SAFETY: blocks of rows do not overlap, and a block takes one part at a time.
                let dx = unsafe { dx.part(elements(&(start..end), width)) };
                let dy = &dy[elements(&(start + 1..end + 1), width)];
                dispatch(cpu.isa(), Put { from: dy, into: dx, store });
            }
            if store == Store::Set && block.contains(&(segment.end - 1)) {
                // SAFETY: as above.
                unsafe { dx.part(elements(&(segment.end - 1..segment.end), width)) }.fill(0.0);
            }
        }
    });
}

/// Sets or adds a whole array.
struct Put<'a> {
    from: &'a [f32],
    into: &'a mut [f32],
    store: Store,
}

impl Operation for Put<'_> {
    type Output = ();

    fn scalar(self) {
        match self.store {
            Store::Set => self.into.copy_from_slice(self.from),
            Store::Add => self.into.iter_mut().zip(self.from).for_each(|(into, from)| *into += from),
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in (0..self.into.len()).step_by(S::LANES) {
            s.put(self.store, &mut self.into[i..], s.load(&self.from[i..]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{dot, every_tier, f64s, set_and_add, shapes, values};

    #[test]
    fn a_text_goes_on_where_its_state_left_it() {
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0];
        every_tier("shift", 0.0, |cpu| {
            let (mut a, mut b, mut c) = ([0.0, -1.0, -2.0], [0.0, -3.0, -4.0], [0.0, -5.0, -6.0]);
            let mut y = vec![f32::NAN; 10];
            // Rows of two: a segment of three, one without rows, one of two.
            let segments = [0..3, 3..3, 3..5];
            shift(cpu, &segments, &mut [&mut a, &mut b, &mut c], 1, 2, &x, &mut y);
            assert_eq!(y, vec![-1.0, -2.0, 1.0, 2.0, 3.0, 4.0, -5.0, -6.0, 7.0, 8.0]);
            assert_eq!((a, b, c), ([0.0, 5.0, 6.0], [0.0, -3.0, -4.0], [0.0, 9.0, 10.0]));
            shift(cpu, &segments, &mut [], 1, 2, &x, &mut y);
            assert_eq!(y, vec![0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 7.0, 8.0]);
            vec![y]
        });
    }

    /// `Σ shift(x, s)·dy = Σ x·dx + Σ s·ds` for all x, s and dy is what a transpose is.
    #[test]
    fn the_backward_is_the_transpose() {
        const AT: usize = 2;
        for (rows, width) in shapes() {
            let segments = [0..rows / 3, rows / 3..rows / 3, rows / 3..rows];
            let (x, dy) = (values(1, rows * width, 1.0), values(2, rows * width, 1.0));
            let states = [3, 4, 5].map(|seed| values(seed, AT + width + 1, 1.0));
            for with_states in [false, true] {
                let count = if with_states { 3 } else { 0 };
                let got = every_tier("shift_backward", 0.0, |cpu| {
                    let mut y = vec![f32::NAN; x.len()];
                    let mut moved = states.clone();
                    let mut moved = moved.each_mut().map(Vec::as_mut_slice);
                    shift(cpu, &segments, &mut moved[..count], AT, width, &x, &mut y);
                    let backward = |dx: &mut [f32], store| {
                        let mut dstates = vec![vec![0.5; AT + width + 1]; count];
                        let mut slices: Vec<_> = dstates.iter_mut().map(Vec::as_mut_slice).collect();
                        shift_backward(cpu, &segments, &mut slices, AT, width, &dy, dx, store);
                        dstates.concat()
                    };
                    let dx = set_and_add(x.len(), |dx, store| {
                        backward(dx, store);
                    });
                    // They are added.
                    let dstates = backward(&mut dx.clone(), Store::Set).iter().map(|ds| ds - 0.5).collect();
                    vec![y, dx, dstates]
                });
                let forward = dot(&f64s(&got[0]), &dy);
                let backward = dot(&f64s(&got[1]), &x) + dot(&f64s(&got[2]), &states[..count].concat());
                // Adding a half and taking it off again rounds.
                let bound = 1e-9 + width as f64 * count as f64 * 1e-7;
                assert!((forward - backward).abs() <= bound, "({rows}, {width}): {forward}, {backward}");
                for dstate in got[2].chunks_exact(AT + width + 1) {
                    assert_eq!(
                        (&dstate[..AT], dstate[AT + width]),
                        (&[0.0; AT][..], 0.0),
                        "beside its place"
                    );
                }
            }
        }
    }
}
