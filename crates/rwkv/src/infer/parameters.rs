//! The values of a model's parameters, where they are, and whether they are sound.

use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, Ordering};

use rwkv_kernels::{self as kernels, Cpu, Panels, Product, ProductScratch, Weights, all_finite, products};

use super::memory::Memory;
use crate::data_type::DataType;
use crate::error::{Error, Fault, Result};
use crate::file::ModelFile;
use crate::params::{Layout, Matrix, Vector};

/// A value for each handle of a [`Layout`], as files store it.
///
/// FP32 and FP16 matrices of a file stay in it, mapped: they cost nothing to load, and processes share them. Quantized ones
/// are repacked into memory, whose new pages are the larger part of what loading them takes.
#[derive(Debug)]
pub(super) struct Parameters {
    layout: Layout,
    data_type: DataType,
    /// In the layout's order, as are the next two.
    formats: Vec<DataType>,
    kept: Vec<Kept>,
    /// Which matrices are known to hold finite weights alone.
    sound: Vec<AtomicBool>,
    /// What [`Kept::Panels`] lie in.
    panels: Memory,
    /// Where the parameters are from, and where [`Kept::Mapped`] lie; none if they were given as values.
    file: Option<ModelFile>,
}

/// Where a parameter is.
#[derive(Debug)]
enum Kept {
    /// Here: vectors of a file, which are small and read in every pass, and all that was given as values.
    Values(Vec<f32>),
    /// A matrix in the mapped file.
    Mapped,
    /// A quantized matrix, repacked: where in `panels`.
    Panels(Range<usize>),
}

/// What a pass found to be infinite or not a number.
#[derive(Clone, Copy, Debug)]
pub(super) enum NotFinite {
    /// A row of the embedding.
    Embedding(Matrix, usize),
    /// A product with this matrix.
    Product(Matrix),
}

impl Parameters {
    /// Takes the parameters of `file`, and repacks what is quantized.
    ///
    /// `progress(done, total)` is called with bytes of the file; if it breaks, this ends with [`Error::Aborted`].
    ///
    /// # Errors
    /// [`Error::ModelFile`] for a vector with a value that is infinite or no number; [`Error::FileChanged`];
    /// [`Error::Io`] if memory is short. Matrices are looked at when they are first used: [`check`](Self::check).
    pub(super) fn of_file(
        file: ModelFile,
        cpu: &Cpu,
        mut progress: impl FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Self> {
        let layout = file.layout().clone();
        let n = layout.specs().len();
        let formats: Vec<_> = (0..n).map(|index| file.tensor(index).0.data_type).collect();
        let quantized = |index: usize| {
            let spec = &layout.specs()[index];
            if spec.is_matrix() { Panels::len(formats[index], spec.rows, spec.cols) } else { None }
        };
        let mut panels = Memory::for_lengths((0..n).filter_map(quantized))
            .map_err(Error::io("take memory for the weights of", file.path()))?;
        let total = file.len();
        let mut done = 0;
        let mut kept = Vec::with_capacity(n);
        for (index, spec) in layout.specs().iter().enumerate() {
            if progress(done, total).is_break() {
                return Err(Error::Aborted);
            }
            kept.push(match quantized(index) {
                None if spec.is_matrix() => Kept::Mapped,
                None => Kept::Values(finite_vector(&file, index)?),
                Some(len) => {
                    let (range, into) = panels.take(len);
                    pack(cpu, &file, index, into)?;
                    Kept::Panels(range)
                }
            });
            done += file.tensor(index).1.len() as u64;
        }
        file.check()?;
        let _ = progress(total, total);
        let data_type = file.data_type();
        Ok(Self { layout, data_type, formats, kept, sound: unknown(n), panels, file: Some(file) })
    }

    /// # Panics
    /// If `values` does not have the shapes of `layout`.
    pub(super) fn of_values(layout: Layout, values: Vec<Vec<f32>>) -> Self {
        let shapes = layout.specs().iter().map(crate::params::ParamSpec::len);
        assert!(shapes.eq(values.iter().map(Vec::len)), "values do not have the model's shapes");
        Self {
            data_type: DataType::F32,
            formats: vec![DataType::F32; values.len()],
            sound: unknown(values.len()),
            kept: values.into_iter().map(Kept::Values).collect(),
            panels: Memory::for_lengths(std::iter::empty()).expect("a page of memory"),
            file: None,
            layout,
        }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The format of the matrices, as the file's header has it.
    pub(super) fn data_type(&self) -> DataType {
        self.data_type
    }

    /// Whether what was computed with mapped weights so far can be believed.
    ///
    /// # Errors
    /// [`Error::FileChanged`].
    pub(super) fn check_file(&self) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), ModelFile::check)
    }

    /// A matrix to multiply by.
    pub(super) fn matrix(&self, matrix: Matrix) -> kernels::Matrix<'_> {
        let index = matrix.index();
        match &self.kept[index] {
            Kept::Panels(range) => {
                let spec = &self.layout.specs()[index];
                let bytes = self.panels.get(range.clone());
                let panels = Panels::new(self.formats[index], spec.rows, spec.cols, bytes);
                kernels::Matrix::Panels(panels.expect("packed with this shape"))
            }
            _ => kernels::Matrix::Rows(self.weights(matrix)),
        }
    }

    /// A matrix as it is stored, to read rows of: an embedding may be quantized too.
    pub(super) fn weights(&self, matrix: Matrix) -> Weights<'_> {
        let index = matrix.index();
        let spec = &self.layout.specs()[index];
        let bytes = match (&self.kept[index], &self.file) {
            (Kept::Values(values), _) => bytemuck::cast_slice(values),
            (_, Some(file)) => file.tensor(index).1,
            (kept, None) => unreachable!("{}: {kept:?} is of a file", spec.name),
        };
        Weights::new(self.formats[index], spec.rows, spec.cols, bytes)
            .expect("lengths were checked when the parameters were taken")
    }

    pub(super) fn vector(&self, vector: Vector) -> &[f32] {
        match &self.kept[vector.index()] {
            Kept::Values(values) => values,
            _ => unreachable!("a vector's handle is never a matrix's"),
        }
    }

    /// Bytes that reading all of the parameter at `index` takes. Panels have those of the file; vectors are f32.
    pub(super) fn bytes(&self, index: usize) -> usize {
        let spec = &self.layout.specs()[index];
        let format = if spec.is_matrix() { self.formats[index] } else { DataType::F32 };
        format.row_bytes(spec.cols).map_or(0, |bytes| bytes * spec.rows)
    }

    /// Looks at `y`, the product of some activations with `matrix`, if that has not been found sound before.
    ///
    /// A weight that is infinite or not a number makes each output that it has a part in so, even of an activation that
    /// is 0. So one product without such outputs shows a whole matrix to be sound, at the cost of reading the outputs
    /// once: a part in thousands of the product itself.
    pub(super) fn check(&self, matrix: Matrix, y: &[f32]) -> Option<NotFinite> {
        let sound = &self.sound[matrix.index()];
        if sound.load(Ordering::Relaxed) || y.is_empty() {
            return None;
        }
        if !all_finite(y) {
            return Some(NotFinite::Product(matrix));
        }
        sound.store(true, Ordering::Relaxed);
        None
    }

    /// What to say of something that is infinite or not a number: that of a weight, if a weight is the cause.
    pub(super) fn explain(&self, cpu: &Cpu, found: NotFinite) -> Error {
        const IS: &str = "holds a weight that is infinite or not a number";
        match found {
            NotFinite::Embedding(table, token) => self.bad_weight(table, format!("row {token} {IS}")),
            NotFinite::Product(matrix) => {
                let spec = &self.layout.specs()[matrix.index()];
                // Of zeros, products with finite weights are 0 and others are not a number.
                let (x, mut y) = (vec![0.0; spec.cols], vec![0.0; spec.rows]);
                let product = Product { matrix: self.matrix(matrix), x: &x, y: &mut y };
                products(cpu, &mut ProductScratch::default(), [product]);
                match y.iter().position(|y| !y.is_finite()) {
                    Some(row) => self.bad_weight(matrix, format!("row {row} {IS}")),
                    None => Error::NotFinite { what: format!("the product with {:?}", spec.name) },
                }
            }
        }
    }

    fn bad_weight(&self, matrix: Matrix, problem: String) -> Error {
        let tensor = self.layout.specs()[matrix.index()].name.clone();
        match &self.file {
            None => Error::Weight { tensor, problem },
            Some(file) => Error::ModelFile {
                path: file.path().to_owned(),
                tensor: Some(tensor),
                offset: file.tensor(matrix.index()).0.offset as u64,
                problem,
                fault: Fault::Other,
            },
        }
    }
}

fn unknown(n: usize) -> Vec<AtomicBool> {
    std::iter::repeat_with(|| AtomicBool::new(false)).take(n).collect()
}

/// The vector at `index` of the layout, if all its values are finite.
fn finite_vector(file: &ModelFile, index: usize) -> Result<Vec<f32>> {
    let values = file.read(index);
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(at) => {
            // A changed file explains more than what was read from it.
            file.check()?;
            let tensor = file.tensor(index).0;
            Err(Error::ModelFile {
                path: file.path().to_owned(),
                tensor: Some(tensor.name.clone()),
                offset: tensor.offset as u64,
                problem: format!("value {at} is {}; a model's values are finite", values[at]),
                fault: Fault::Other,
            })
        }
    }
}

/// Repacks a quantized matrix of the file.
fn pack(cpu: &Cpu, file: &ModelFile, index: usize, into: &mut [u8]) -> Result<()> {
    let (spec, format) = (&file.layout().specs()[index], file.tensor(index).0.data_type);
    let row_bytes = file.tensor(index).1.len() / spec.rows;
    let fetch = |rows: Range<usize>, buffer: &mut [u8]| file.read_at(index, rows.start * row_bytes, buffer);
    Panels::pack_from(cpu, format, spec.rows, spec.cols, fetch, into).map(drop)
}
