//! Quantized weights packed into panels of 16 interleaved rows.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::data_type::WEIGHTS_PER_BLOCK;
use crate::product::Weights;
use crate::{Cpu, DataType, Parts};

/// Rows of a panel.
pub const PANEL: usize = 16;

/// A quantized matrix in panels of 16 rows; rows beyond the last are zeros.
///
/// A panel is a row of blocks of 16 rows × 32 columns. Such a panel block has the bytes of the 16 blocks that
/// it is made of, in this order, little-endian:
///
/// ```text
/// 16 × f16       scales, one a row
/// 16 × f16       minima                   (Q4_1, Q5_1)
/// 16 × u32       fifth bits               (Q5_0, Q5_1): byte c of a row has bit j for column 4j + c
///  4 × 16 × u32  nibbles                  byte c of row r in group j: columns 4j + c (low half)
///                                         and 16 + 4j + c (high)
///  8 × 16 × u32  or signed bytes (Q8_0)   byte c of row r in group j: column 4j + c
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Panels<'a> {
    format: DataType,
    rows: usize,
    cols: usize,
    bytes: &'a [u8],
}

impl<'a> Panels<'a> {
    /// Bytes that `rows` rows of `cols` weights take; `None` if the format is not quantized, `cols` is no
    /// multiple of 32, or that is more than memory can hold.
    pub fn len(format: DataType, rows: usize, cols: usize) -> Option<usize> {
        if !format.is_quantized() {
            return None;
        }
        rows.checked_next_multiple_of(PANEL)?.checked_mul(format.row_bytes(cols)?)
    }

    /// `rows` rows of `cols` weights, as [`pack`](Self::pack) wrote them; `None` unless `bytes` has their
    /// length.
    pub fn new(format: DataType, rows: usize, cols: usize, bytes: &'a [u8]) -> Option<Self> {
        (Self::len(format, rows, cols)? == bytes.len()).then_some(Self { format, rows, cols, bytes })
    }

    /// Repacks `w` into `into`.
    ///
    /// # Panics
    /// If `into` does not have [`len`](Self::len) bytes.
    pub fn pack(cpu: &Cpu, w: Weights<'_>, into: &'a mut [u8]) -> Self {
        let row_bytes = w.format().row_bytes(w.cols()).unwrap_or(0);
        let fetch = |rows: Range<usize>, buffer: &mut [u8]| -> Result<(), Infallible> {
            for (row, buffer) in rows.zip(buffer.chunks_exact_mut(row_bytes)) {
                buffer.copy_from_slice(w.row(row));
            }
            Ok(())
        };
        let Ok(panels) = Self::pack_from(cpu, w.format(), w.rows(), w.cols(), fetch, into);
        panels
    }

    /// Repacks `rows` rows of `cols` weights into `into`, a panel at a time: `fetch(rows, buffer)` fills
    /// `buffer` with the stored bytes of those rows. So the rows are never all in memory at once.
    ///
    /// # Errors
    /// One of those of `fetch`; The contents of `into` are then undefined.
    ///
    /// # Panics
    /// If `into` does not have [`len`](Self::len) bytes.
    pub fn pack_from<E: Send>(
        cpu: &Cpu,
        format: DataType,
        rows: usize,
        cols: usize,
        fetch: impl Fn(Range<usize>, &mut [u8]) -> Result<(), E> + Sync,
        into: &'a mut [u8],
    ) -> Result<Self, E> {
        assert_eq!(Self::len(format, rows, cols), Some(into.len()), "{format:?} panels of ({rows}, {cols})");
        let block_bytes = format.block().1;
        let panel_bytes = into.len() / rows.div_ceil(PANEL).max(1);
        let row_bytes = panel_bytes / PANEL;
        let failed = Mutex::new(None);
        let parts = Parts::new(&mut *into);
        cpu.run(rows.div_ceil(PANEL), |panel| {
            // SAFETY: each panel is one index's.
            let panel_out = unsafe { parts.part(panel * panel_bytes..(panel + 1) * panel_bytes) };
            let of_panel = panel * PANEL..rows.min((panel + 1) * PANEL);
            // Rows that the matrix does not have stay zeros.
            let mut stored = vec![0; panel_bytes];
            if let Err(error) = fetch(of_panel.clone(), &mut stored[..of_panel.len() * row_bytes]) {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                return;
            }
            for (b, out) in panel_out.chunks_exact_mut(PANEL * block_bytes).enumerate() {
                for (r, row) in stored.chunks_exact(row_bytes).enumerate() {
                    interleave(format, &row[b * block_bytes..(b + 1) * block_bytes], r, out);
                }
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(Self { format, rows, cols, bytes: into }),
            Some(error) => Err(error),
        }
    }

    /// How the weights are stored.
    pub fn format(&self) -> DataType {
        self.format
    }

    /// Number of rows: outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns: inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Number of panels.
    pub(crate) fn count(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    /// The bytes of a panel.
    pub(in crate::product) fn panel(&self, panel: usize) -> &'a [u8] {
        let len = PANEL * (self.cols / WEIGHTS_PER_BLOCK) * self.format.block().1;
        &self.bytes[panel * len..][..len]
    }

    /// Writes the stored bytes of block `b` of `row` to `block`, as they were before they were packed.
    ///
    /// # Panics
    /// If there is no such block, or `block` is of another length.
    pub(in crate::product) fn read_block(&self, row: usize, b: usize, block: &mut [u8]) {
        let bytes = PANEL * self.format.block().1;
        separate(self.format, &self.panel(row / PANEL)[b * bytes..][..bytes], row % PANEL, block);
    }
}

/// Puts the block of row `r` into its place in a panel block.
fn interleave(format: DataType, block: &[u8], r: usize, out: &mut [u8]) {
    let (fifth, integers) = format.parts();
    out[2 * r..][..2].copy_from_slice(&block[..2]);
    if format.has_minimum() {
        out[2 * (PANEL + r)..][..2].copy_from_slice(&block[2..4]);
    }
    if let Ok(bits) = block[fifth.clone()].try_into() {
        let bits = transpose_bits(u32::from_le_bytes(bits));
        out[fifth.start * PANEL + 4 * r..][..4].copy_from_slice(&bits);
    }
    let groups = &mut out[integers.start * PANEL..];
    for (j, four) in block[integers].as_chunks::<4>().0.iter().enumerate() {
        groups[4 * (j * PANEL + r)..][..4].copy_from_slice(four);
    }
}

/// Takes the block of row `r` from a panel block: the inverse of [`interleave`].
fn separate(format: DataType, panel_block: &[u8], r: usize, block: &mut [u8]) {
    let (fifth, integers) = format.parts();
    block[..2].copy_from_slice(&panel_block[2 * r..][..2]);
    if format.has_minimum() {
        block[2..4].copy_from_slice(&panel_block[2 * (PANEL + r)..][..2]);
    }
    if let Some(bits) = panel_block[fifth.start * PANEL..integers.start * PANEL].as_chunks().0.get(r) {
        block[fifth].copy_from_slice(&transpose_back(*bits).to_le_bytes());
    }
    let groups = panel_block[integers.start * PANEL..].as_chunks::<4>().0;
    for (j, four) in block[integers].as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *four = groups[j * PANEL + r];
    }
}

/// Bit 4j + c of `bits` becomes bit j of byte c.
fn transpose_bits(bits: u32) -> [u8; 4] {
    std::array::from_fn(|c| {
        let every_fourth = bits >> c & 0x1111_1111;
        // Bits 0, 4, 8, 12 of each half meet in its lowest four.
        let gathered = every_fourth | every_fourth >> 3 | every_fourth >> 6 | every_fourth >> 9;
        (gathered & 0x0f | gathered >> 12 & 0xf0) as u8
    })
}

/// Bit j of byte c becomes bit 4j + c: the inverse of [`transpose_bits`].
fn transpose_back(bytes: [u8; 4]) -> u32 {
    let spread = |byte: u8| {
        let bits = u32::from(byte);
        let bits = (bits | bits << 12) & 0x000f_000f;
        let bits = (bits | bits << 6) & 0x0303_0303;
        (bits | bits << 3) & 0x1111_1111
    };
    let [a, b, c, d] = bytes.map(spread);
    a | b << 1 | c << 2 | d << 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_transposed() {
        for bit in 0..32 {
            let mut want = [0; 4];
            want[bit % 4] = 1 << (bit / 4);
            assert_eq!(transpose_bits(1 << bit), want, "bit {bit}");
            assert_eq!(transpose_back(want), 1 << bit, "bit {bit}");
        }
    }

    #[test]
    fn lengths_are_checked() {
        assert_eq!(Panels::len(DataType::Q4_0, 17, 64), Some(32 * 36));
        assert_eq!(Panels::len(DataType::Q4_0, 16, 48), None);
        assert_eq!(Panels::len(DataType::F16, 16, 32), None);
        assert_eq!(Panels::len(DataType::Q8_0, usize::MAX, 32), None);
        assert!(Panels::new(DataType::Q4_0, 16, 32, &[0; 288]).is_some());
        assert!(Panels::new(DataType::Q4_0, 16, 32, &[0; 287]).is_none());
    }
}
