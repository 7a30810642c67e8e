//! Rows of a matrix decoded to f32, whatever they are stored as.
//!
//! What is written are the very bits of [`DataType::decode`], which is the specification. Here its loops are
//! compiled for each tier with the format known, so that the compiler makes vectors of them; a panel's row is
//! brought back into the file's order block by block on the way.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{Matrix, PANEL, Panels, Weights};
use crate::data_type::{WEIGHTS_PER_BLOCK, with_quantized};
use crate::simd::{Operation, Simd, dispatch};
use crate::{Cpu, DataType, Parts};

/// Weights of a task: some µs.
const DECODE_TASK: usize = 1 << 14;

/// Panel blocks that are decoded for all their rows before the next: 4 KB.
const AT_ONCE: usize = 8;

/// The most bytes of a quantized block.
const MOST_BYTES: usize = {
    let (mut most, mut i) = (0, 0);
    while i < DataType::QUANTIZED.len() {
        let (_, bytes) = DataType::QUANTIZED[i].block();
        most = if bytes > most { bytes } else { most };
        i += 1;
    }
    most
};

impl Matrix<'_> {
    /// Writes `rows` as f32 to `out` (rows, cols).
    ///
    /// # Panics
    /// If the matrix does not have these rows, or `out` has another length.
    pub fn decode_rows(&self, cpu: &Cpu, rows: Range<usize>, out: &mut [f32]) {
        let cols = self.cols();
        assert!(rows.start <= rows.end && rows.end <= self.rows(), "rows {rows:?} of {}", self.rows());
        assert_eq!(out.len(), rows.len() * cols, "rows of {cols}");
        if out.is_empty() {
            return;
        }
        // Whole panels to a task, so that none is read twice.
        let block = (DECODE_TASK / cols).next_multiple_of(PANEL).max(PANEL);
        let first_block = rows.start / block;
        let out = Parts::new(out);
        cpu.run(rows.end.div_ceil(block) - first_block, |index| {
            let start = (first_block + index) * block;
            let part = start.max(rows.start)..(start + block).min(rows.end);
            // SAFETY: each index takes its own rows.
            let out = unsafe { out.part((part.start - rows.start) * cols..(part.end - rows.start) * cols) };
            dispatch(cpu.isa(), Decode { matrix: *self, rows: part, out });
        });
    }

    /// `rows` where they lie, if they are f32 in memory already.
    pub(crate) fn as_f32(&self, rows: Range<usize>) -> Option<&[f32]> {
        let Self::Rows(w) = self else { return None };
        if w.format != DataType::F32 || cfg!(target_endian = "big") {
            return None;
        }
        let bytes = &w.bytes[rows.start * w.row_bytes..rows.end * w.row_bytes];
        // SAFETY: any four bytes are an f32.
        let (before, floats, after) = unsafe { bytes.align_to::<f32>() };
        (before.is_empty() && after.is_empty()).then_some(floats)
    }
}

/// What one thread decodes at once.
struct Decode<'a> {
    matrix: Matrix<'a>,
    rows: Range<usize>,
    out: &'a mut [f32],
}

impl Operation for Decode<'_> {
    type Output = ();

    /// The specification.
    fn scalar(self) {
        let cols = self.matrix.cols();
        let mut stored = [0; MOST_BYTES];
        for (row, out) in self.rows.zip(self.out.chunks_exact_mut(cols)) {
            match &self.matrix {
                Matrix::Rows(w) => w.read_row(row, out),
                Matrix::Panels(panels) => {
                    let stored = &mut stored[..panels.format().block().1];
                    for (b, out) in out.chunks_exact_mut(WEIGHTS_PER_BLOCK).enumerate() {
                        panels.read_block(row, b, stored);
                        panels.format().decode(stored, out);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        match self.matrix {
            Matrix::Rows(w) => match w.format {
                DataType::F32 | DataType::BF16 => self.scalar(),
                DataType::F16 => halves(w, self.rows, self.out),
                quantized => with_quantized!(quantized, FORMAT => rows::<FORMAT>(w, self.rows, self.out)),
            },
            Matrix::Panels(p) => {
                with_quantized!(p.format(), FORMAT => panels::<FORMAT>(p, self.rows, self.out));
            }
        }
    }
}

/// Rows of half precision, which may lie at any address.
#[inline(always)]
fn halves(w: Weights<'_>, rows: Range<usize>, out: &mut [f32]) {
    const CHUNK: usize = 256;
    let bytes = &w.bytes[rows.start * w.row_bytes..rows.end * w.row_bytes];
    let mut halves = [f16::ZERO; CHUNK];
    for (bytes, out) in bytes.chunks(2 * CHUNK).zip(out.chunks_mut(CHUNK)) {
        let halves = &mut halves[..out.len()];
        for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        halves.convert_to_f32_slice(out);
    }
}

/// Rows of blocks.
#[inline(always)]
fn rows<const FORMAT: usize>(w: Weights<'_>, rows: Range<usize>, out: &mut [f32]) {
    let format = const { DataType::EVERY[FORMAT] };
    let bytes = &w.bytes[rows.start * w.row_bytes..rows.end * w.row_bytes];
    let (fifth, integers) = format.parts();
    for (block, out) in bytes.chunks_exact(format.block().1).zip(out.as_chunks_mut::<WEIGHTS_PER_BLOCK>().0) {
        let mut q = [0_i32; WEIGHTS_PER_BLOCK];
        let stored = &block[integers.clone()];
        if format.has_bytes() {
            q.iter_mut().zip(stored).for_each(|(q, &byte)| *q = i32::from(byte.cast_signed()));
        } else {
            let (low, high) = q.split_at_mut(WEIGHTS_PER_BLOCK / 2);
            low.iter_mut().zip(stored).for_each(|(q, &byte)| *q = i32::from(byte & 15));
            high.iter_mut().zip(stored).for_each(|(q, &byte)| *q = i32::from(byte >> 4));
        }
        if let Ok(bits) = block[fifth.clone()].try_into() {
            let bits = u32::from_le_bytes(bits);
            q.iter_mut().enumerate().for_each(|(i, q)| *q |= ((bits >> i & 1) << 4).cast_signed());
        }
        let minimum = if format.has_minimum() { half(block, 1) } else { 0.0 };
        scaled(format, half(block, 0), minimum, q, out);
    }
}

/// Rows of panels.
#[inline(always)]
fn panels<const FORMAT: usize>(panels: Panels<'_>, rows: Range<usize>, out: &mut [f32]) {
    let format = const { DataType::EVERY[FORMAT] };
    let (cols, first) = (panels.cols(), rows.start);
    for panel in first / PANEL..rows.end.div_ceil(PANEL) {
        let of_panel = rows.start.max(panel * PANEL)..rows.end.min((panel + 1) * PANEL);
        // Some blocks for all rows, so that a row finds in the L1 cache what it shares lines of with the
        // others.
        let stored = panels.panel(panel).chunks(AT_ONCE * PANEL * format.block().1);
        for (stored, start) in stored.zip((0..cols).step_by(AT_ONCE * WEIGHTS_PER_BLOCK)) {
            for row in of_panel.clone() {
                let out =
                    &mut out[(row - first) * cols..][start..cols.min(start + AT_ONCE * WEIGHTS_PER_BLOCK)];
                let blocks = stored.chunks_exact(PANEL * format.block().1);
                for (block, out) in blocks.zip(out.as_chunks_mut::<WEIGHTS_PER_BLOCK>().0) {
                    panel_block(format, block, row % PANEL, out);
                }
            }
        }
    }
}

/// The block of row `r` in a panel block: four integers are one u32 there, and so are their fifth bits once
/// shifted.
#[inline(always)]
fn panel_block(format: DataType, block: &[u8], r: usize, out: &mut [f32; WEIGHTS_PER_BLOCK]) {
    const NIBBLES: u32 = 0x0f0f_0f0f;
    const BITS: u32 = 0x0101_0101;
    let (fifth, integers) = format.parts();
    let stored = block[PANEL * integers.start..].as_chunks::<4>().0;
    let word = |j: usize| u32::from_le_bytes(stored[j * PANEL + r]);
    let mut words = [0_u32; WEIGHTS_PER_BLOCK / 4];
    if format.has_bytes() {
        words.iter_mut().enumerate().for_each(|(j, out)| *out = word(j));
    } else {
        let (low, high) = words.split_at_mut(WEIGHTS_PER_BLOCK / 8);
        low.iter_mut().enumerate().for_each(|(j, out)| *out = word(j) & NIBBLES);
        high.iter_mut().enumerate().for_each(|(j, out)| *out = word(j) >> 4 & NIBBLES);
    }
    if let Some(&bits) = block[PANEL * fifth.start..PANEL * fifth.end].as_chunks::<4>().0.get(r) {
        let bits = u32::from_le_bytes(bits);
        words.iter_mut().enumerate().for_each(|(j, out)| *out |= (bits >> j & BITS) << 4);
    }
    let mut integers = [0_i32; WEIGHTS_PER_BLOCK];
    for (out, &q) in integers.iter_mut().zip(words.map(u32::to_le_bytes).as_flattened()) {
        *out = i32::from(q.cast_signed());
    }
    let minimum = if format.has_minimum() { half(block, PANEL + r) } else { 0.0 };
    scaled(format, half(block, r), minimum, integers, out);
}

/// The half-precision number at place `i` of a block.
#[inline(always)]
fn half(block: &[u8], i: usize) -> f32 {
    f16::from_le_bytes([block[2 * i], block[2 * i + 1]]).to_f32()
}

/// A multiplication and an addition for each weight, each rounded, as the specification has them.
#[inline(always)]
fn scaled(
    format: DataType,
    scale: f32,
    minimum: f32,
    integers: [i32; WEIGHTS_PER_BLOCK],
    out: &mut [f32; WEIGHTS_PER_BLOCK],
) {
    for (out, q) in out.iter_mut().zip(integers) {
        *out = (q - format.zero_point()) as f32 * scale + minimum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::stored_matrix;

    #[test]
    fn rows_and_packed_rows_decode_to_the_bits_of_the_format() {
        for format in DataType::ALL {
            // Whole panels and not, and several tasks.
            for (rows, cols) in [(1, 32), (16, 64), (19, 32), (70, 1056)] {
                let stored = stored_matrix(format, rows, cols);
                let mut want = vec![0.0; rows * cols];
                for (row, out) in stored.chunks_exact(stored.len() / rows).zip(want.chunks_exact_mut(cols)) {
                    format.decode(row, out);
                }
                let w = Weights::new(format, rows, cols, &stored).expect("it fits");
                let mut packed = vec![0xff; Panels::len(format, rows, cols).unwrap_or(0)];
                let mut matrices = vec![Matrix::Rows(w)];
                if format.is_quantized() {
                    matrices.push(Matrix::Panels(Panels::pack(&Cpu::new(Isa::Scalar, 1), w, &mut packed)));
                }
                for isa in Isa::available() {
                    for threads in [1, 3] {
                        let cpu = Cpu::new(isa, threads);
                        for matrix in &matrices {
                            for range in [0..rows, 0..0, rows / 3..rows, rows / 2..rows / 2 + 1] {
                                let mut out = vec![f32::NAN; range.len() * cols];
                                matrix.decode_rows(&cpu, range.clone(), &mut out);
                                let want = &want[range.start * cols..range.end * cols];
                                let same = out.iter().zip(want).all(|(a, b)| a.to_bits() == b.to_bits());
                                assert!(same, "{isa}, {threads} threads: {range:?} of {matrix:?}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn only_aligned_rows_of_single_precision_are_borrowed() {
        let numbers = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        // SAFETY: any bytes of a float are bytes.
        let (_, bytes, _) = unsafe { numbers.align_to::<u8>() };
        let rows = |format, bytes| Matrix::Rows(Weights::new(format, 3, 2, bytes).expect("it fits"));
        if cfg!(target_endian = "little") {
            assert_eq!(rows(DataType::F32, &bytes[4..]).as_f32(1..3), Some(&numbers[3..7]));
        }
        assert_eq!(rows(DataType::F32, &bytes[1..25]).as_f32(1..3), None);
        assert_eq!(rows(DataType::F16, &bytes[..12]).as_f32(1..3), None);
    }
}
