//! `product`: activations times the weights of a model file, for inference.
//!
//! `y = x wᵀ` with activations `x` (T, cols), weights `w` (rows, cols) in the format of their file and where it was
//! mapped, at any alignment, and `y` (T, rows).
//!
//! An output is one dot product. A tier with L lanes sums the elements p ≡ l (mod L) in lane l, in order, and then the
//! lanes in a fixed tree; nothing about that depends on T or on the number of threads. So one token at a time, chunks,
//! whole prompts and batches of sessions all get the same bits.
//!
//! One token is bound by how fast weights arrive, so its tile is eight rows tall and each weight is read once, from
//! one of eight streams. Many tokens reuse a weight from registers: a tile of four rows and six tokens.

mod products;
mod quantized;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

pub use products::{Matrix, Product, Scratch, products};
pub use quantized::{PANEL, Panels};

use crate::isa::Vectors;
use crate::{Cpu, Format, Isa, Parts};

/// A matrix of weights in memory, row-major.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    format: Format,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    bytes: &'a [u8],
}

impl<'a> Weights<'a> {
    /// `rows` rows of `cols` weights; `None` unless `bytes` holds exactly that.
    pub fn new(format: Format, rows: usize, cols: usize, bytes: &'a [u8]) -> Option<Self> {
        let row_bytes = format.row_bytes(cols)?;
        (row_bytes.checked_mul(rows)? == bytes.len()).then_some(Self { format, rows, cols, row_bytes, bytes })
    }

    /// How the weights are stored.
    pub fn format(&self) -> Format {
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

    /// Writes row `index` to `out` (cols) as f32.
    ///
    /// # Panics
    /// If there is no such row, or `out` has another length.
    pub fn read_row(&self, index: usize, out: &mut [f32]) {
        assert!(index < self.rows && out.len() == self.cols, "row {index} of {}", self.rows);
        self.format.decode(self.row(index), out);
    }

    fn row(&self, index: usize) -> &'a [u8] {
        &self.bytes[index * self.row_bytes..][..self.row_bytes]
    }
}

/// Weights that a task of the team's loop takes: a few µs from memory.
const TASK: usize = 1 << 15;

/// Whole tiles to a task; fewer rows the more tokens they meet.
fn rows_per_task(w: &Weights<'_>, tokens: usize) -> usize {
    (TASK / (w.cols * tokens.clamp(1, 16))).next_multiple_of(8).max(8)
}

/// The outputs of `rows` for all tokens; only one task at a time may have them.
fn rows_task(isa: Isa, w: Weights<'_>, x: &[f32], rows: Range<usize>, y: &Parts<'_, f32>) {
    match isa.vectors() {
        Vectors::Scalar => scalar(w, x, rows, y),
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 => x86::avx2(w, x, rows, y),
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 => x86::avx512(w, x, rows, y),
    }
}

/// One product; see [`products`].
///
/// # Panics
/// If the lengths do not fit, or the weights are quantized.
pub fn product(cpu: &Cpu, w: Weights<'_>, x: &[f32], y: &mut [f32]) {
    products(cpu, &mut Scratch::default(), [Product { matrix: Matrix::Rows(w), x, y }]);
}

/// The specification: each output is one sum in the order of the columns.
fn scalar(w: Weights<'_>, x: &[f32], rows: Range<usize>, y: &Parts<'_, f32>) {
    let mut weights = vec![0.0; w.cols];
    for row in rows {
        w.read_row(row, &mut weights);
        for (token, x) in x.chunks_exact(w.cols).enumerate() {
            let out = token * w.rows + row;
            // SAFETY: each task writes its own rows' outputs.
            let y = unsafe { y.part(out..out + 1) };
            y[0] = weights.iter().zip(x).fold(0.0, |sum, (w, x)| sum + w * x);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::testing::values;

    /// `offset` bytes of padding and then the weights, so that they are misaligned as in a file.
    fn encode(format: Format, weights: &[f32], offset: usize) -> Vec<u8> {
        let mut bytes = vec![0xff; offset];
        for &w in weights {
            match format {
                Format::F32 => bytes.extend(w.to_le_bytes()),
                _ => bytes.extend(f16::from_f32(w).to_le_bytes()),
            }
        }
        bytes
    }

    const FORMATS: [Format; 2] = [Format::F32, Format::F16];
    const ROWS: [usize; 5] = [1, 3, 8, 13, 66];
    const COLS: [usize; 6] = [1, 7, 16, 31, 128, 200];

    #[test]
    fn every_tier_multiplies_every_format_and_shape() {
        for (rows, cols, format) in
            ROWS.iter().flat_map(|&r| COLS.iter().flat_map(move |&c| FORMATS.map(|f| (r, c, f))))
        {
            let bytes = encode(format, &values(1, rows * cols, 1.0), 1);
            let w = Weights::new(format, rows, cols, &bytes[1..]).expect("the length fits");
            let mut weights = vec![0.0; rows * cols];
            weights.chunks_exact_mut(cols).enumerate().for_each(|(row, out)| w.read_row(row, out));
            for tokens in [0, 1, 2, 6, 7, 20] {
                let x = values(2, tokens * cols, 1.0);
                for isa in Isa::available() {
                    let mut y = vec![f32::NAN; tokens * rows];
                    product(&Cpu::new(isa, 2), w, &x, &mut y);
                    for (index, &y) in y.iter().enumerate() {
                        let (token, row) = (index / rows, index % rows);
                        let terms = (0..cols)
                            .map(|p| f64::from(weights[row * cols + p]) * f64::from(x[token * cols + p]));
                        let (sum, size) =
                            terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                        let bound = size * (cols + 2) as f64 * f64::from(f32::EPSILON);
                        assert!(
                            (f64::from(y) - sum).abs() <= bound,
                            "{isa} {format:?} ({rows}, {cols}), {tokens} tokens, [{index}]: {y}, not {sum}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_token_gets_the_same_bits_alone_and_in_company() {
        let (rows, cols, tokens) = (21, 200, 23);
        let x = values(2, tokens * cols, 1.0);
        for format in FORMATS {
            let bytes = encode(format, &values(1, rows * cols, 1.0), 3);
            let w = Weights::new(format, rows, cols, &bytes[3..]).expect("the length fits");
            for isa in Isa::available() {
                let mut together = vec![0.0; tokens * rows];
                product(&Cpu::new(isa, 3), w, &x, &mut together);
                let cpu = Cpu::new(isa, 1);
                for (x, together) in x.chunks_exact(cols).zip(together.chunks_exact(rows)) {
                    let mut alone = vec![0.0; rows];
                    product(&cpu, w, x, &mut alone);
                    assert_eq!(alone, together, "{isa} {format:?}");
                }
            }
        }
    }

    #[test]
    fn weights_refuse_a_length_that_does_not_fit() {
        assert!(Weights::new(Format::F32, 2, 3, &[0; 24]).is_some());
        assert!(Weights::new(Format::F32, 2, 3, &[0; 23]).is_none());
        assert!(Weights::new(Format::F16, usize::MAX, usize::MAX, &[]).is_none());
    }
}
