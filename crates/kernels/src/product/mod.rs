//! `product`: activations times the weights of a model file, for inference.
//!
//! `y = x wᵀ` with activations `x` (T, cols), weights `w` (rows, cols) in the format of their file and where
//! it is mapped, at any alignment, and `y` (T, rows).

mod decode;
mod products;
mod quantized;
mod rows;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles;

pub use products::{Matrix, Product, ProductScratch, products};
pub use quantized::{PANEL, Panels};

use crate::{Cpu, DataType};

/// A matrix of weights in memory, row-major.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    format: DataType,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    bytes: &'a [u8],
}

impl<'a> Weights<'a> {
    /// `rows` rows of `cols` weights; `None` unless `bytes` holds exactly that.
    pub fn new(format: DataType, rows: usize, cols: usize, bytes: &'a [u8]) -> Option<Self> {
        let row_bytes = format.row_bytes(cols)?;
        (row_bytes.checked_mul(rows)? == bytes.len()).then_some(Self { format, rows, cols, row_bytes, bytes })
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

    /// Writes row `index` to `out` (cols) as f32.
    ///
    /// # Panics
    /// If there is no such row, or `out` has another length.
    pub fn read_row(&self, index: usize, out: &mut [f32]) {
        assert!(index < self.rows && out.len() == self.cols, "row {index} of {}", self.rows);
        self.format.decode(self.row(index), out);
    }

    #[inline(always)]
    fn row(&self, index: usize) -> &'a [u8] {
        &self.bytes[index * self.row_bytes..][..self.row_bytes]
    }
}

/// One product; see [`products`].
///
/// # Panics
/// If the lengths do not fit, or the weights are quantized.
pub fn product(cpu: &Cpu, w: Weights<'_>, x: &[f32], y: &mut [f32]) {
    products(cpu, &mut ProductScratch::default(), [Product { matrix: Matrix::Rows(w), x, y }]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_refuse_a_length_that_does_not_fit() {
        assert!(Weights::new(DataType::F32, 2, 3, &[0; 24]).is_some());
        assert!(Weights::new(DataType::F32, 2, 3, &[0; 23]).is_none());
        assert!(Weights::new(DataType::F16, usize::MAX, usize::MAX, &[]).is_none());
    }
}
