//! Several products in one parallel loop.

use std::ops::Range;

use super::quantized::{self, Activations};
use super::rows::{self, Input, Inputs};
use super::{Panels, Weights};
use crate::{Cpu, Parts};

/// A matrix to multiply by, where it lies.
#[derive(Clone, Copy, Debug)]
pub enum Matrix<'a> {
    /// Rows of one of [`DataType::ROWS`](crate::DataType::ROWS), as in a file.
    Rows(Weights<'a>),
    /// Quantized and repacked.
    Panels(Panels<'a>),
}

impl Matrix<'_> {
    /// Number of rows: outputs.
    pub fn rows(&self) -> usize {
        match self {
            Self::Rows(w) => w.rows(),
            Self::Panels(panels) => panels.rows(),
        }
    }

    /// Number of columns: inputs.
    pub fn cols(&self) -> usize {
        match self {
            Self::Rows(w) => w.cols(),
            Self::Panels(panels) => panels.cols(),
        }
    }
}

/// `y = x wᵀ`: `x` (T, cols) to `y` (T, rows).
#[derive(Debug)]
pub struct Product<'a> {
    /// w (rows, cols).
    pub matrix: Matrix<'a>,
    /// (T, cols).
    pub x: &'a [f32],
    /// (T, rows); all of it is written.
    pub y: &'a mut [f32],
}

/// Activations converted for the weights' formats. Reused from call to call, so that none allocates.
#[derive(Debug, Default)]
pub struct ProductScratch {
    /// For quantized weights.
    quantized: Vec<Activations>,
    /// For rows.
    inputs: Vec<Inputs>,
}

/// A matrix and what it is multiplied with.
enum Operands<'a> {
    Rows(Weights<'a>, Input<'a>),
    Panels(Panels<'a>, &'a Activations),
}

/// A product whose outputs are divided into tasks.
struct Work<'a> {
    operands: Operands<'a>,
    y: Parts<'a, f32>,
    /// Rows, or panels, of a task.
    block: usize,
    /// Its indices in the parallel loop.
    tasks: Range<usize>,
}

/// Computes independent products in one parallel loop.
///
/// An output's bits depend on its row of weights and its token's activations alone: not on the other tokens
/// or products, nor on the number of threads.
///
/// # Panics
/// If the lengths do not fit, or weights of [`Matrix::Rows`] are quantized.
pub fn products<const N: usize>(cpu: &Cpu, scratch: &mut ProductScratch, products: [Product<'_>; N]) {
    if scratch.inputs.len() < N {
        scratch.quantized.resize_with(N, Activations::default);
        scratch.inputs.resize_with(N, Inputs::default);
    }
    let places = scratch.quantized.iter_mut().zip(&mut scratch.inputs);
    for (product, (quantized, inputs)) in products.iter().zip(places) {
        let (rows, cols) = (product.matrix.rows(), product.matrix.cols());
        assert!(
            cols > 0 && product.x.len().is_multiple_of(cols),
            "{} inputs of rows of {cols}",
            product.x.len()
        );
        let tokens = product.x.len() / cols;
        assert_eq!(product.y.len(), tokens * rows, "({tokens}, {rows}) outputs");
        match product.matrix {
            Matrix::Rows(w) => inputs.set(cpu, &w, product.x),
            Matrix::Panels(panels) => quantized.set(cpu, panels.format(), product.x, cols),
        }
    }
    let mut end = 0;
    let mut places = scratch.quantized.iter().zip(&scratch.inputs);
    let work = products.map(|Product { matrix, x, y }| {
        let tokens = x.len() / matrix.cols();
        let (quantized, inputs) = places.next().expect("one was reserved for each product");
        let (operands, units, block) = match matrix {
            Matrix::Rows(w) => {
                let block = rows::rows_per_task(cpu.isa(), &w, tokens);
                (Operands::Rows(w, inputs.get(&w, x)), w.rows(), block)
            }
            Matrix::Panels(panels) => {
                let block = panels_per_task(&panels, tokens);
                (Operands::Panels(panels, quantized), panels.count(), block)
            }
        };
        let start = end;
        end += if tokens == 0 { 0 } else { units.div_ceil(block) };
        Work { operands, y: Parts::new(y), block, tasks: start..end }
    });
    cpu.run(end, |index| {
        for work in &work {
            if work.tasks.contains(&index) {
                let start = (index - work.tasks.start) * work.block;
                match work.operands {
                    Operands::Rows(w, x) => {
                        let rows = start..w.rows().min(start + work.block);
                        rows::task(cpu.isa(), w, x, rows, &work.y);
                    }
                    Operands::Panels(panels, x) => {
                        let range = start..panels.count().min(start + work.block);
                        quantized::task(cpu.isa(), panels, x, range, &work.y);
                    }
                }
            }
        }
    });
}

/// Weights times tokens of a task: a few µs.
const PANELS_TASK: usize = 1 << 16;

/// Panels of a task; it depends on sizes alone. Some for many tokens, so that their outputs fill whole cache
/// lines.
fn panels_per_task(panels: &Panels<'_>, tokens: usize) -> usize {
    let few = if tokens < 16 { 1 } else { 4 };
    (PANELS_TASK / (super::PANEL * panels.cols() * tokens.clamp(1, 16))).max(few)
}
