//! Several products in one parallel loop.

use std::ops::Range;

use super::quantized::{self, Activations};
use super::rows::{self, Lines, round_to_half};
use super::{Panels, Weights};
use crate::{Cpu, Format, Parts};

/// A matrix to multiply by, where it lies.
#[derive(Clone, Copy, Debug)]
pub enum Matrix<'a> {
    /// Rows of FP32 or FP16, as in a file.
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

/// Activations as the weights want them: kept from one call to the next, so that none allocates.
#[derive(Debug, Default)]
pub struct Scratch {
    prepared: Vec<Activations>,
    /// Rounded to half precision.
    rounded: Vec<Lines>,
}

/// A product whose outputs are handed out in tasks.
struct Work<'a> {
    matrix: Matrix<'a>,
    x: &'a [f32],
    prepared: &'a Activations,
    y: Parts<'a, f32>,
    /// Rows, or panels, of a task.
    block: usize,
    /// Indices of the loop.
    tasks: Range<usize>,
}

/// Computes independent products in one parallel loop.
///
/// An output's bits depend on its row of weights and its token's activations alone: not on the other tokens or products,
/// nor on the number of threads.
///
/// # Panics
/// If the lengths do not fit, or weights of [`Matrix::Rows`] are quantized.
pub fn products<const N: usize>(cpu: &Cpu, scratch: &mut Scratch, products: [Product<'_>; N]) {
    if scratch.prepared.len() < N {
        scratch.prepared.resize_with(N, Activations::default);
        scratch.rounded.resize_with(N, Lines::default);
    }
    let places = scratch.prepared.iter_mut().zip(&mut scratch.rounded);
    for (product, (prepared, rounded)) in products.iter().zip(places) {
        let (rows, cols) = (product.matrix.rows(), product.matrix.cols());
        assert!(
            cols > 0 && product.x.len().is_multiple_of(cols),
            "{} inputs of rows of {cols}",
            product.x.len()
        );
        let tokens = product.x.len() / cols;
        assert_eq!(product.y.len(), tokens * rows, "({tokens}, {rows}) outputs");
        match product.matrix {
            Matrix::Rows(w) => match w.format() {
                Format::F32 => (),
                Format::F16 => round_to_half(cpu, product.x, rounded.reserve(product.x.len())),
                _ => panic!("quantized weights come in panels"),
            },
            Matrix::Panels(panels) => prepared.set(cpu, panels.format(), product.x, cols),
        }
    }
    let mut end = 0;
    let mut places = scratch.prepared.iter().zip(&scratch.rounded);
    let work = products.map(|Product { matrix, x, y }| {
        let tokens = x.len() / matrix.cols();
        let (units, block) = match matrix {
            Matrix::Rows(w) => (w.rows(), rows::rows_per_task(&w, tokens)),
            Matrix::Panels(panels) => (panels.count(), panels_per_task(&panels, tokens)),
        };
        let start = end;
        end += if tokens == 0 { 0 } else { units.div_ceil(block) };
        let (prepared, rounded) = places.next().expect("one was reserved for each product");
        let x = match matrix {
            Matrix::Rows(w) if w.format() == Format::F16 => rounded.get(x.len()),
            _ => x,
        };
        Work { matrix, x, prepared, y: Parts::new(y), block, tasks: start..end }
    });
    cpu.run(end, |index| {
        for work in &work {
            if work.tasks.contains(&index) {
                let start = (index - work.tasks.start) * work.block;
                match work.matrix {
                    Matrix::Rows(w) => {
                        let rows = start..w.rows().min(start + work.block);
                        rows::task(cpu.isa(), w, work.x, rows, &work.y);
                    }
                    Matrix::Panels(panels) => {
                        let range = start..panels.count().min(start + work.block);
                        quantized::task(cpu.isa(), panels, work.prepared, range, &work.y);
                    }
                }
            }
        }
    });
}

/// Weights that a task takes times the tokens that it takes them for: a few µs.
const TASK: usize = 1 << 16;

/// Panels of a task; it depends on sizes alone. Some for many tokens, so that their outputs fill whole cache lines.
fn panels_per_task(panels: &Panels<'_>, tokens: usize) -> usize {
    let few = if tokens < 16 { 1 } else { 4 };
    (TASK / (super::PANEL * panels.cols() * tokens.clamp(1, 16))).max(few)
}
