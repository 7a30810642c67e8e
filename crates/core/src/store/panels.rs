//! Memory for repacked weights.

use std::io;
use std::ops::Range;

use memmap2::{MmapMut, MmapOptions};

use crate::machine;

/// One anonymous map for all panels of a model: zeros until they are written, in large pages where the system
/// has them, because every token reads all of it.
#[derive(Debug)]
pub(crate) struct Memory {
    /// None if there is nothing to hold.
    map: Option<MmapMut>,
    used: usize,
}

/// A cache line.
const ALIGN: usize = 64;

impl Memory {
    /// Room for places of the lengths that [`take`](Self::take) will be asked for.
    pub(crate) fn for_lengths(mut lengths: impl Iterator<Item = usize>) -> io::Result<Self> {
        let len = lengths.try_fold(0_usize, |sum, len| sum.checked_add(len.checked_next_multiple_of(ALIGN)?));
        let len = len.ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        if len == 0 {
            return Ok(Self::none());
        }
        // The system would give it, and end the process when it is filled.
        machine::limit().check(len as f64)?;
        let map = MmapOptions::new().len(len).map_anon()?;
        // Only advice: without it pages are small, and nothing else differs.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map: Some(map), used: 0 })
    }

    /// No room at all: for models without quantized weights.
    pub(crate) fn none() -> Self {
        Self { map: None, used: 0 }
    }

    /// The next `len` bytes, and where they are.
    pub(crate) fn take(&mut self, len: usize) -> (Range<usize>, &mut [u8]) {
        let range = self.used..self.used + len;
        self.used = range.end.next_multiple_of(ALIGN);
        (range.clone(), self.map.as_mut().map_or(&mut [], |map| &mut map[range]))
    }

    pub(crate) fn get(&self, range: Range<usize>) -> &[u8] {
        self.map.as_ref().map_or(&[], |map| &map[range])
    }
}
