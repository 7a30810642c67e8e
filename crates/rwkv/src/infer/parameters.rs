//! The values of a model's parameters, where they are.

use std::ops::{ControlFlow, Range};

use rwkv_kernels::{Cpu, Format, Matrix as Stored, Panels, Weights};

use super::memory::Memory;
use crate::data_type::DataType;
use crate::error::{Error, Result};
use crate::file::ModelFile;
use crate::params::{Layout, Matrix, Vector};

/// Where the values come from.
#[derive(Debug)]
enum Source {
    /// Matrices of FP32 and FP16 stay in the mapped file.
    File(ModelFile),
    /// All are here, in the layout's order.
    Memory(Vec<Vec<f32>>),
}

/// What a parameter of a file is kept as.
#[derive(Debug)]
enum Kept {
    /// A vector, as f32: vectors are small, and every pass reads all of them.
    Vector(Vec<f32>),
    /// A matrix, where it is mapped.
    InPlace,
    /// A quantized matrix, repacked: where in `panels`.
    Panels(Range<usize>),
}

/// A value for each handle of a [`Layout`], as files store it.
#[derive(Debug)]
pub(super) struct Parameters {
    layout: Layout,
    source: Source,
    /// For parameters of a file, in the layout's order.
    kept: Vec<Kept>,
    panels: Memory,
}

impl Parameters {
    /// Takes the parameters of `file`, and repacks what is quantized.
    ///
    /// `progress(done, total)` is called with bytes of the file; if it breaks, this ends with [`Error::Aborted`].
    pub(super) fn of_file(
        file: ModelFile,
        cpu: &Cpu,
        mut progress: impl FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Self> {
        let layout = file.layout().clone();
        let quantized = |index| {
            let format = file.tensor(index).0.data_type.format();
            let spec = &layout.specs()[index];
            if spec.is_matrix { Panels::len(format, spec.rows, spec.cols) } else { None }
        };
        let mut panels = Memory::for_lengths((0..layout.specs().len()).filter_map(quantized))
            .map_err(Error::io("take memory for the weights of", file.path()))?;
        let total = file.len();
        let mut done = 0;
        let mut kept = Vec::with_capacity(layout.specs().len());
        for (index, spec) in layout.specs().iter().enumerate() {
            if progress(done, total).is_break() {
                return Err(Error::Aborted);
            }
            let (tensor, bytes) = file.tensor(index);
            kept.push(match quantized(index) {
                _ if !spec.is_matrix => Kept::Vector(file.read(index)),
                None => Kept::InPlace,
                Some(len) => {
                    let weights = Weights::new(tensor.data_type.format(), spec.rows, spec.cols, bytes)
                        .expect("the file was checked when it was opened");
                    let (range, into) = panels.take(len);
                    Panels::pack(cpu, weights, into);
                    file.release(index);
                    Kept::Panels(range)
                }
            });
            done += bytes.len() as u64;
        }
        let _ = progress(total, total);
        Ok(Self { layout, source: Source::File(file), kept, panels })
    }

    /// # Panics
    /// If `values` does not have the shapes of `layout`.
    pub(super) fn of_values(layout: Layout, values: Vec<Vec<f32>>) -> Self {
        let shapes = layout.specs().iter().map(crate::params::ParamSpec::len);
        assert!(shapes.eq(values.iter().map(Vec::len)), "values do not have the model's shapes");
        let panels = Memory::for_lengths(std::iter::empty()).expect("a page of memory");
        Self { layout, source: Source::Memory(values), kept: Vec::new(), panels }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The format of the matrices, if they all have the same.
    pub(super) fn data_type(&self) -> DataType {
        match &self.source {
            Source::File(file) => file.data_type(),
            Source::Memory(_) => DataType::F32,
        }
    }

    /// A matrix to multiply by.
    pub(super) fn matrix(&self, matrix: Matrix) -> Stored<'_> {
        let index = matrix.index();
        match self.kept.get(index) {
            Some(Kept::Panels(range)) => {
                let (format, spec) = (self.format(index), &self.layout.specs()[index]);
                let panels = Panels::new(format, spec.rows, spec.cols, self.panels.get(range.clone()));
                Stored::Panels(panels.expect("packed with this shape"))
            }
            _ => Stored::Rows(self.weights(matrix)),
        }
    }

    /// A matrix as it is stored.
    pub(super) fn weights(&self, matrix: Matrix) -> Weights<'_> {
        let index = matrix.index();
        let spec = &self.layout.specs()[index];
        let bytes = match &self.source {
            Source::File(file) => file.tensor(index).1,
            Source::Memory(values) => bytemuck::cast_slice(&values[index]),
        };
        Weights::new(self.format(index), spec.rows, spec.cols, bytes)
            .expect("lengths were checked when the parameters were taken")
    }

    /// Bytes that reading all of the parameter at `index` takes. Panels have those of the file; vectors are f32.
    pub(super) fn bytes(&self, index: usize) -> usize {
        let spec = &self.layout.specs()[index];
        let format = if spec.is_matrix { self.format(index) } else { Format::F32 };
        format.row_bytes(spec.cols).map_or(0, |bytes| bytes * spec.rows)
    }

    fn format(&self, index: usize) -> Format {
        match &self.source {
            Source::File(file) => file.tensor(index).0.data_type.format(),
            Source::Memory(_) => Format::F32,
        }
    }

    pub(super) fn vector(&self, vector: Vector) -> &[f32] {
        match (&self.source, self.kept.get(vector.index())) {
            (_, Some(Kept::Vector(values))) => values,
            (Source::Memory(values), _) => &values[vector.index()],
            _ => unreachable!("a vector's handle is never a matrix's"),
        }
    }
}
