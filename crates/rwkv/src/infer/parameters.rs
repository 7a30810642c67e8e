//! The values of a model's parameters, where they are.

use rwkv_kernels::{Format, Weights};

use crate::data_type::DataType;
use crate::file::ModelFile;
use crate::params::{Layout, Matrix, Vector};

/// Where the values come from.
#[derive(Debug)]
enum Source {
    /// Matrices stay in the mapped file, in its format.
    File(ModelFile),
    /// All are here, in the layout's order.
    Memory(Vec<Vec<f32>>),
}

/// A value for each handle of a [`Layout`], as files store it.
#[derive(Debug)]
pub(super) struct Parameters {
    layout: Layout,
    source: Source,
    /// For parameters of a file, its vectors as f32: they are small, and every pass reads all of them. Empty for
    /// matrices.
    vectors: Vec<Vec<f32>>,
}

impl Parameters {
    pub(super) fn of_file(file: ModelFile) -> Self {
        let layout = file.layout().clone();
        let vectors = layout.specs().iter().enumerate();
        let vectors =
            vectors.map(|(index, spec)| if spec.is_matrix { Vec::new() } else { file.read(index) }).collect();
        Self { layout, source: Source::File(file), vectors }
    }

    /// # Panics
    /// If `values` does not have the shapes of `layout`.
    pub(super) fn of_values(layout: Layout, values: Vec<Vec<f32>>) -> Self {
        let shapes = layout.specs().iter().map(crate::params::ParamSpec::len);
        assert!(shapes.eq(values.iter().map(Vec::len)), "values do not have the model's shapes");
        Self { layout, source: Source::Memory(values), vectors: Vec::new() }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The bytes of the parameter at `index`, as stored.
    pub(super) fn bytes(&self, index: usize) -> &[u8] {
        match &self.source {
            Source::File(file) => file.tensor(index).1,
            Source::Memory(values) => bytemuck::cast_slice(&values[index]),
        }
    }

    /// The format of the matrices, if they all have the same.
    pub(super) fn data_type(&self) -> DataType {
        match &self.source {
            Source::File(file) => file.data_type(),
            Source::Memory(_) => DataType::F32,
        }
    }

    pub(super) fn matrix(&self, matrix: Matrix) -> Weights<'_> {
        let index = matrix.index();
        let data_type = match &self.source {
            Source::File(file) => file.tensor(index).0.data_type,
            Source::Memory(_) => DataType::F32,
        };
        let format = match data_type {
            DataType::F32 => Format::F32,
            DataType::F16 => Format::F16,
            other => unreachable!("a file with {other} weights is refused when it is opened"),
        };
        let spec = &self.layout.specs()[index];
        Weights::new(format, spec.rows, spec.cols, self.bytes(index))
            .expect("lengths were checked when the parameters were taken")
    }

    pub(super) fn vector(&self, vector: Vector) -> &[f32] {
        match &self.source {
            Source::File(_) => &self.vectors[vector.index()],
            Source::Memory(values) => &values[vector.index()],
        }
    }
}
