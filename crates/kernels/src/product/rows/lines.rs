//! Buffers aligned to cache lines.

/// Floats of a line.
const FLOATS: usize = 16;

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; FLOATS]);

/// A reusable buffer of floats: page faults of fresh memory would cost more than what is done with it.
/// Vectors as long as a cache line lie within one.
#[derive(Debug, Default)]
pub(in crate::product) struct Lines(Vec<Line>);

impl Lines {
    /// `len` floats to write, whatever they held before.
    pub(in crate::product) fn reserve(&mut self, len: usize) -> &mut [f32] {
        let lines = len.div_ceil(FLOATS);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; FLOATS]));
        }
        // SAFETY: a `Line` is FLOATS floats without padding, lines are contiguous, and there are at least
        // `len` floats.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }

    /// The first `len` floats.
    ///
    /// # Panics
    /// If that many were not reserved.
    pub(in crate::product) fn get(&self, len: usize) -> &[f32] {
        assert!(len <= self.0.len() * FLOATS, "{len} floats of {} lines", self.0.len());
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), len) }
    }
}
