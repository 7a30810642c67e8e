//! Memory for repacked weights.

use std::io;
use std::ops::Range;

use memmap2::{MmapMut, MmapOptions};

/// One anonymous map for all panels of a model: zeros until they are written, in large pages where the system has
/// them, because every token reads all of it.
#[derive(Debug)]
pub(super) struct Memory {
    map: MmapMut,
    used: usize,
}

/// A cache line.
const ALIGN: usize = 64;

impl Memory {
    /// Room for places of the lengths that [`take`](Self::take) will be asked for.
    pub(super) fn for_lengths(mut lengths: impl Iterator<Item = usize>) -> io::Result<Self> {
        let len = lengths.try_fold(0_usize, |sum, len| sum.checked_add(len.checked_next_multiple_of(ALIGN)?));
        let len = len.ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let map = MmapOptions::new().len(len.max(1)).map_anon()?;
        // Only advice: without it pages are small, and nothing else differs.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map, used: 0 })
    }

    /// The next `len` bytes, and where they are.
    pub(super) fn take(&mut self, len: usize) -> (Range<usize>, &mut [u8]) {
        let range = self.used..self.used + len;
        self.used = range.end.next_multiple_of(ALIGN);
        (range.clone(), &mut self.map[range])
    }

    pub(super) fn get(&self, range: Range<usize>) -> &[u8] {
        &self.map[range]
    }
}
