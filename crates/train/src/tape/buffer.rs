//! Memory of activations and their gradients.
//!
//! Buffers are cut from large anonymous maps, in huge pages where the system has them: a step goes through
//! hundreds of megabytes in order, and with pages of 4 KB most of the TLB would be renewed all the time. They
//! begin on cache lines, so that no vector of 64 bytes lies on two. Every tensor of a pass has the same size,
//! or nearly; a line between two buffers keeps them from beginning at the same place of a page, where they
//! would compete for the same sets of the caches.

use std::alloc::{Layout, handle_alloc_error};
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{MmapMut, MmapRaw};

/// Floats on a cache line.
const LINE: usize = 16;

/// Floats of the first map, and of the largest that is made of more than one buffer.
const SIZES: [usize; 2] = [1 << 16, 1 << 24];

/// Makes buffers, for several threads.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Maps>);

#[derive(Debug, Default)]
struct Maps {
    map: Option<Arc<MmapRaw>>,
    /// Floats of the map that buffers have, and those of all maps.
    used: usize,
    total: usize,
    /// Buffers that came back, by their length.
    free: HashMap<usize, Vec<Buffer>>,
}

/// A buffer that goes back to its pool, for whichever thread wants one.
#[derive(Debug)]
pub(crate) struct Pooled {
    buffer: Buffer,
    pool: Arc<Pool>,
}

impl Deref for Pooled {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut maps = self.pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        maps.free.entry(buffer.len()).or_default().push(buffer);
    }
}

/// Floats of its own.
#[derive(Debug)]
pub(crate) struct Buffer {
    start: NonNull<f32>,
    len: usize,
    capacity: usize,
    /// What the floats lie in.
    _map: Option<Arc<MmapRaw>>,
}

// SAFETY: a buffer is the only one with its floats, as a `Vec` is.
unsafe impl Send for Buffer {}
// SAFETY: as above; a shared buffer can only be read.
unsafe impl Sync for Buffer {}

impl Default for Buffer {
    fn default() -> Self {
        Self { start: NonNull::dangling(), len: 0, capacity: 0, _map: None }
    }
}

impl Buffer {
    /// Floats that it can hold.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes it as long as that, if it can be.
    pub(crate) fn fit(&mut self, len: usize) -> bool {
        let fits = len <= self.capacity;
        if fits {
            self.len = len;
        }
        fits
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the map has these floats, any bits of which are valid; it was all zeros at first and lives
        // as long as the buffer; no other buffer has them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Pool {
    /// A new buffer of `len` zeros.
    pub(crate) fn take(&self, len: usize) -> Buffer {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(len)
    }

    /// A buffer of `len` floats, whatever they are, that comes back when it is dropped.
    pub(crate) fn borrow(pool: &Arc<Self>, len: usize) -> Pooled {
        let mut maps = pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = maps.free.get_mut(&len).and_then(Vec::pop);
        let buffer = free.unwrap_or_else(|| maps.take(len));
        Pooled { buffer, pool: Arc::clone(pool) }
    }

    /// Floats of all maps that were made.
    pub(crate) fn total(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).total
    }
}

impl Maps {
    fn take(&mut self, len: usize) -> Buffer {
        if len == 0 {
            return Buffer::default();
        }
        let room = (len.next_multiple_of(LINE)).saturating_add(LINE);
        let is_full = |map: &MmapRaw| map.len() / size_of::<f32>() - self.used < room;
        if self.map.as_deref().is_none_or(is_full) {
            let floats = room.max(self.total.clamp(SIZES[0], SIZES[1]));
            self.map = Some(Arc::new(map(floats)));
            self.used = 0;
            self.total += floats;
        }
        let map = self.map.clone();
        let first = map.as_deref().map_or(NonNull::dangling(), |map| {
            #[allow(clippy::cast_ptr_alignment)] // maps begin with a page
            let start = map.as_mut_ptr().cast::<f32>();
            // SAFETY: a map is not at address 0, and has `room` floats from `used` on.
            unsafe { NonNull::new_unchecked(start.add(self.used)) }
        });
        self.used += room;
        Buffer { start: first, len, capacity: len, _map: map }
    }
}

/// Zeros, in huge pages if the system has them.
fn map(floats: usize) -> MmapRaw {
    // As a `Vec` does: what is too large for memory was refused before a run began.
    let layout = Layout::array::<f32>(floats).unwrap_or(Layout::new::<f32>());
    let Ok(map) = MmapMut::map_anon(layout.size()) else { handle_alloc_error(layout) };
    // Only advice: without it pages are small, and nothing else differs.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    map.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeros_on_lines_of_their_own_and_outlive_their_pool() {
        let pool = Pool::default();
        let mut buffers: Vec<_> = (0..40).map(|i| pool.take(i * 1000)).collect();
        assert!(pool.total() >= 780_000, "{}", pool.total());
        drop(pool);
        for (i, buffer) in buffers.iter_mut().enumerate() {
            assert_eq!((buffer.len(), buffer.capacity()), (i * 1000, i * 1000));
            assert!(buffer.iter().all(|&x| x == 0.0) && (i == 0 || buffer.as_ptr().addr() % 64 == 0));
            buffer.fill(i as f32);
        }
        for (i, buffer) in buffers.iter().enumerate() {
            assert!(buffer.iter().all(|x| x.to_bits() == (i as f32).to_bits()), "{i}");
        }
    }

    #[test]
    fn a_buffer_can_be_shorter_than_it_was_and_no_longer() {
        let mut buffer = Pool::default().take(10);
        buffer.fill(1.0);
        assert!(buffer.fit(3) && buffer.len() == 3 && !buffer.fit(11) && buffer.fit(10));
        assert_eq!(*buffer, [1.0; 10]);
        assert!(!Buffer::default().fit(1));
    }
}
