//! The store of a model's parameters: where their values are, which of them are trained, and which have an
//! adapter.
//!
//! Inference and training share this store. A value is f32 in memory, or rows of a mapped file, or repacked
//! panels; only f32 values can be trained, and any matrix can have a low-rank adapter, whose factors are
//! parameters like others. So the same equations run over a model that is trained whole, and over a frozen
//! quantized one with trained adapters.

mod load;
mod panels;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rwkv_kernels::{self as kernels, Cpu, Panels, Product, ProductScratch, Weights, all_finite, products};

pub(crate) use self::panels::Memory;
use crate::checksum::{Part, checksum};
use crate::config::ModelConfig;
use crate::data_type::DataType;
use crate::error::{Error, Fault, Result};
use crate::file::ModelFile;
use crate::fingerprint::Fingerprint;
use crate::params::{Layout, Learned, Matrix, ParamSpec, Role, Stored, Vector};

/// A value for each handle of a [`Layout`].
///
/// FP32 and FP16 matrices of a file stay in it, mapped: they cost nothing to load, and processes share them.
/// Quantized ones are repacked into memory, whose new pages are the larger part of what loading them takes.
///
/// Clones share their values until one of them changes.
#[derive(Debug)]
pub struct Parameters {
    /// The model's own parameters, and after them those that were added.
    layout: Layout,
    n_model: usize,
    data_type: DataType,
    /// In the layout's order.
    entries: Vec<Entry>,
    /// What [`Value::Panels`] lie in.
    panels: Arc<Memory>,
    /// Where the parameters are from, and where [`Value::Mapped`] lie; none if they were given as values.
    file: Option<Arc<ModelFile>>,
    /// Whether the model's own parameters are what `file` holds.
    is_file: bool,
}

/// One parameter.
#[derive(Debug)]
struct Entry {
    value: Value,
    /// Of the stored bytes.
    format: DataType,
    is_trained: bool,
    adapter: Option<Adapter>,
    /// Whether a matrix is known to hold finite weights alone.
    is_sound: AtomicBool,
}

/// Where a parameter is.
#[derive(Clone, Debug)]
enum Value {
    /// Here, as files store it, which is what operators read: vectors of a file, which are small and read in
    /// every pass, and all that was given as values or is trained. `raw` is what training changes, where that
    /// is something else.
    F32 { stored: Arc<Vec<f32>>, raw: Option<Arc<Vec<f32>>> },
    /// A matrix in the mapped file.
    Mapped,
    /// A matrix as the file would hold it if it did not hold its transpose.
    Turned(Arc<Vec<u8>>),
    /// A quantized matrix, repacked: where in `panels`.
    Panels(Range<usize>),
}

/// A low-rank addition to a matrix W (rows, cols): `x Wᵀ + scale · (x downᵀ) upᵀ` (LoRA: Hu et al.,
/// <https://arxiv.org/abs/2106.09685>, whose A is `down` and B is `up`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adapter {
    /// (rank, cols).
    pub down: Matrix,
    /// (rows, rank).
    pub up: Matrix,
    /// α over the rank.
    pub scale: f32,
}

/// What a pass found to be infinite or not a number.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NotFinite {
    /// A row of the embedding.
    Embedding(Matrix, usize),
    /// A product with this matrix.
    Product(Matrix),
}

impl Entry {
    fn frozen(value: Value, format: DataType) -> Self {
        Self { value, format, is_trained: false, adapter: None, is_sound: AtomicBool::new(false) }
    }

    fn raw_mut(&mut self) -> &mut [f32] {
        match &mut self.value {
            Value::F32 { raw: Some(raw), .. } | Value::F32 { stored: raw, raw: None } => {
                Arc::make_mut(raw).as_mut_slice()
            }
            _ => &mut [],
        }
    }

    fn of_f32(values: Vec<f32>) -> Self {
        Self::frozen(Value::F32 { stored: Arc::new(values), raw: None }, DataType::F32)
    }

    /// A trained parameter.
    fn of_raw(raw: Vec<f32>, form: Stored) -> Self {
        let mut entry = if form == Stored::Raw {
            Self::of_f32(raw)
        } else {
            let stored = Arc::new(raw.iter().map(|&raw| form.to_file(raw)).collect());
            Self::frozen(Value::F32 { stored, raw: Some(Arc::new(raw)) }, DataType::F32)
        };
        entry.is_trained = true;
        entry
    }
}

impl Clone for Parameters {
    fn clone(&self) -> Self {
        let entry = |entry: &Entry| Entry {
            value: entry.value.clone(),
            // What is trained may have changed since it was found sound.
            is_sound: AtomicBool::new(!entry.is_trained && entry.is_sound.load(Ordering::Relaxed)),
            ..*entry
        };
        Self {
            layout: self.layout.clone(),
            n_model: self.n_model,
            data_type: self.data_type,
            entries: self.entries.iter().map(entry).collect(),
            panels: Arc::clone(&self.panels),
            file: self.file.clone(),
            is_file: self.is_file,
        }
    }
}

impl Parameters {
    /// These values, none of them trained, as files store them (see [`Stored`]).
    ///
    /// # Panics
    /// If `values` does not have the shapes of `layout`.
    pub fn of_values(layout: Layout, values: Vec<Vec<f32>>) -> Self {
        Self::of_entries(layout, values.into_iter().map(Entry::of_f32).collect())
    }

    /// These raw parameters (see [`Stored`]), all of them trained.
    ///
    /// # Panics
    /// If `raw` does not have the shapes of `layout`.
    pub fn of_raw(layout: Layout, raw: Vec<Vec<f32>>) -> Self {
        assert_eq!(raw.len(), layout.specs().len(), "a vector for each parameter");
        let forms = layout.specs().iter().map(|spec| spec.stored);
        let entries = raw.into_iter().zip(forms).map(|(raw, form)| Entry::of_raw(raw, form)).collect();
        Self::of_entries(layout, entries)
    }

    /// No values, for passes that are recorded and never run.
    pub fn of_shapes(layout: Layout) -> Self {
        let entries = layout.specs().iter().map(|_| Entry::of_f32(Vec::new())).collect();
        Self::in_memory(layout, entries)
    }

    fn of_entries(layout: Layout, entries: Vec<Entry>) -> Self {
        let of_entries = entries.iter().map(|entry| match &entry.value {
            Value::F32 { stored, .. } => stored.len(),
            _ => unreachable!("values in memory"),
        });
        assert!(of_entries.eq(layout.specs().iter().map(ParamSpec::len)), "values have the model's shapes");
        Self::in_memory(layout, entries)
    }

    fn in_memory(layout: Layout, entries: Vec<Entry>) -> Self {
        Self {
            n_model: entries.len(),
            data_type: DataType::F32,
            entries,
            panels: Arc::new(Memory::none()),
            file: None,
            is_file: false,
            layout,
        }
    }

    /// All parameters: first those of the model, [`n_model`](Self::n_model) of them, then those that were
    /// added.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Number of the model's own parameters.
    pub fn n_model(&self) -> usize {
        self.n_model
    }

    /// The format of the matrices, as the file's header has it.
    pub fn data_type(&self) -> DataType {
        self.data_type
    }

    /// The file that the parameters are from.
    pub fn file(&self) -> Option<&ModelFile> {
        self.file.as_deref()
    }

    /// Whether what was computed with mapped weights so far can be believed.
    ///
    /// # Errors
    /// [`Error::FileChanged`].
    pub fn check_file(&self) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.check())
    }

    /// What states of a model with these parameters are recognised by: its own values, and those of its
    /// adapters.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let adapters = self.entries.iter().filter_map(|entry| entry.adapter);
        let factors = adapters.flat_map(|Adapter { down, up, .. }| [down.index(), up.index()]);
        self.base().into_iter().chain(factors.map(|index| self.part(index))).collect()
    }

    /// The fingerprint of the model of shape `config` that these parameters are without their adapters. For
    /// parameters of a file the first call reads all of it, on the threads of `cpu` if there is one.
    ///
    /// # Errors
    /// [`Error::FileChanged`], [`Error::Io`].
    pub fn base_fingerprint(&self, config: ModelConfig, cpu: Option<&Cpu>) -> Result<Fingerprint> {
        Ok(Fingerprint { config, weights: checksum(&self.base(), cpu)? })
    }

    /// The model's own parameters, for a checksum.
    fn base(&self) -> Vec<Part> {
        match &self.file {
            Some(file) if self.is_file => vec![file.weights()],
            _ => (0..self.n_model).map(|index| self.part(index)).collect(),
        }
    }

    /// The parameter at `index`, for a checksum: a snapshot, because values that are shared are copied before
    /// they change.
    fn part(&self, index: usize) -> Part {
        match (&self.entries[index].value, &self.file) {
            (Value::F32 { stored, .. }, _) => Part::Values(Arc::clone(stored)),
            (_, Some(file)) => file.weights_at(index),
            (value, None) => unreachable!("{value:?} is of a file"),
        }
    }

    /// Number of values of the model's own parameters.
    pub fn n_params(&self) -> usize {
        self.layout.specs()[..self.n_model].iter().map(ParamSpec::len).sum()
    }

    /// Number of values that training changes.
    pub fn n_trained(&self) -> usize {
        let entries = self.entries.iter().zip(self.layout.specs());
        entries.filter(|(entry, _)| entry.is_trained).map(|(_, spec)| spec.len()).sum()
    }

    /// Whether training changes the parameter at `index`.
    pub fn is_trained(&self, index: usize) -> bool {
        self.entries[index].is_trained
    }

    /// Positions of the parameters that training changes.
    pub fn trained(&self) -> impl Iterator<Item = usize> + use<> {
        let trained: Vec<_> =
            (0..self.entries.len()).filter(|&index| self.entries[index].is_trained).collect();
        trained.into_iter()
    }

    /// Lets training change the parameter at `index`: its values come into memory as f32.
    ///
    /// # Errors
    /// [`Error::Weight`] if no raw parameter gives the value that the file holds (see [`Stored::to_raw`]), or
    /// a weight is infinite or not a number.
    pub fn train(&mut self, index: usize) -> Result<()> {
        let spec = &self.layout.specs()[index];
        let raw: Vec<_> = self.stored(index).iter().map(|&value| spec.stored.to_raw(value)).collect();
        if let Some(at) = raw.iter().position(|value| !value.is_finite()) {
            let problem = format!("its value {at} cannot be trained: it is {}", self.stored(index)[at]);
            return Err(Error::Weight { tensor: spec.name.clone(), problem });
        }
        let adapter = self.entries[index].adapter;
        self.is_file &= index >= self.n_model;
        self.entries[index] = Entry { adapter, ..Entry::of_raw(raw, spec.stored) };
        Ok(())
    }

    /// Closes the file that the parameters are from, if all of them are in memory by now.
    pub fn close_file(&mut self) {
        if self.entries.iter().all(|entry| matches!(entry.value, Value::F32 { .. })) {
            self.file = None;
        }
    }

    /// Keeps training from changing the parameter at `index` from now on.
    pub fn freeze(&mut self, index: usize) {
        self.entries[index].is_trained = false;
    }

    /// Adds a trained matrix to those of the model.
    ///
    /// # Panics
    /// If `values` is not (rows, cols).
    pub fn add_matrix(
        &mut self,
        name: String,
        [rows, cols]: [usize; 2],
        learned: impl Into<Learned>,
        values: Vec<f32>,
    ) -> Matrix {
        assert_eq!(values.len(), rows * cols);
        self.entries.push(Entry::of_raw(values, Stored::Raw));
        self.layout.matrix(name, rows, cols, learned)
    }

    /// Adds a trained vector to those of the model.
    pub fn add_vector(&mut self, name: String, learned: impl Into<Learned>, values: Vec<f32>) -> Vector {
        let len = values.len();
        self.entries.push(Entry::of_raw(values, Stored::Raw));
        self.layout.vector(name, len, learned)
    }

    /// Gives `matrix` an adapter, whose factors were added before.
    ///
    /// # Panics
    /// If the factors do not fit the matrix.
    pub fn adapt(&mut self, matrix: Matrix, adapter: Adapter) {
        let spec = |matrix: Matrix| &self.layout.specs()[matrix.index()];
        let (w, down, up) = (spec(matrix), spec(adapter.down), spec(adapter.up));
        assert_eq!((up.rows, up.cols, down.cols), (w.rows, down.rows, w.cols), "factors of {}", w.name);
        self.entries[matrix.index()].adapter = Some(adapter);
    }

    /// Whether any matrix has an adapter.
    pub fn has_adapters(&self) -> bool {
        self.entries.iter().any(|entry| entry.adapter.is_some())
    }

    /// The adapter of a matrix.
    pub fn adapter(&self, matrix: Matrix) -> Option<Adapter> {
        self.entries[matrix.index()].adapter
    }

    /// What training changes of the parameter at `index`; nothing if it is not in memory.
    pub fn raw(&self, index: usize) -> &[f32] {
        match &self.entries[index].value {
            Value::F32 { raw: Some(raw), .. } | Value::F32 { stored: raw, raw: None } => raw,
            _ => &[],
        }
    }

    /// As [`raw`](Self::raw), to change; [`refresh`](Self::refresh) must follow. A clone that still shares
    /// the values keeps them as they are.
    pub fn raw_mut(&mut self, index: usize) -> &mut [f32] {
        self.is_file &= index >= self.n_model;
        self.entries[index].raw_mut()
    }

    /// As [`raw_mut`](Self::raw_mut), of every parameter; empty for those that are not trained.
    pub fn raws_mut(&mut self) -> Vec<&mut [f32]> {
        let entries = self.entries.iter_mut();
        entries.map(|entry| if entry.is_trained { entry.raw_mut() } else { &mut [] }).collect()
    }

    /// Computes again what operators read of the parameters that were changed.
    pub fn refresh(&mut self) {
        for (entry, spec) in self.entries.iter_mut().zip(self.layout.specs()) {
            if let (true, Value::F32 { stored, raw: Some(raw) }) = (entry.is_trained, &mut entry.value) {
                let stored = Arc::make_mut(stored).iter_mut();
                stored.zip(raw.iter()).for_each(|(stored, &raw)| *stored = spec.stored.to_file(raw));
            }
        }
    }

    /// A matrix to multiply by, without its adapter.
    ///
    /// # Panics
    /// If the handle is of another model.
    pub fn matrix(&self, matrix: Matrix) -> kernels::Matrix<'_> {
        let index = matrix.index();
        match &self.entries[index].value {
            Value::Panels(range) => {
                let spec = &self.layout.specs()[index];
                let bytes = self.panels.get(range.clone());
                let panels = Panels::new(self.entries[index].format, spec.rows, spec.cols, bytes);
                kernels::Matrix::Panels(panels.expect("packed with this shape"))
            }
            _ => kernels::Matrix::Rows(self.weights(matrix)),
        }
    }

    /// A matrix as it is stored, to read rows of: an embedding may be quantized too.
    ///
    /// # Panics
    /// If the handle is of another model.
    pub fn weights(&self, matrix: Matrix) -> Weights<'_> {
        let index = matrix.index();
        let spec = &self.layout.specs()[index];
        Weights::new(self.entries[index].format, spec.rows, spec.cols, self.stored_bytes(index))
            .expect("lengths were checked when the parameters were taken")
    }

    /// A matrix whose values are f32 in memory.
    pub fn f32_matrix(&self, matrix: Matrix) -> Option<&[f32]> {
        match &self.entries[matrix.index()].value {
            Value::F32 { stored, .. } => Some(stored),
            _ => None,
        }
    }

    /// A vector as files store it.
    pub fn vector(&self, vector: Vector) -> &[f32] {
        match &self.entries[vector.index()].value {
            Value::F32 { stored, .. } => stored,
            _ => unreachable!("a vector's handle is never a matrix's"),
        }
    }

    /// The handle of the matrix at `index`; none if a vector is there.
    pub fn matrix_at(&self, index: usize) -> Option<Matrix> {
        self.layout.matrix_at(index)
    }

    /// The parameter at `index` as files store it, in f32.
    pub fn stored(&self, index: usize) -> Cow<'_, [f32]> {
        match (&self.entries[index].value, &self.file) {
            (Value::F32 { stored, .. }, _) => Cow::Borrowed(stored),
            (_, Some(file)) => Cow::Owned(file.read(index)),
            (value, None) => unreachable!("{value:?} is of a file"),
        }
    }

    /// The bytes of the parameter at `index` in the format in which it is stored.
    pub(crate) fn stored_bytes(&self, index: usize) -> &[u8] {
        match (&self.entries[index].value, &self.file) {
            (Value::F32 { stored, .. }, _) => bytemuck::cast_slice(stored),
            (Value::Turned(bytes), _) => bytes,
            (_, Some(file)) => file.tensor(index).1,
            (value, None) => unreachable!("{value:?} is of a file"),
        }
    }

    /// Bytes that reading all of the parameter at `index` takes. Panels have those of the file; vectors are
    /// f32.
    pub(crate) fn bytes(&self, index: usize) -> usize {
        let spec = &self.layout.specs()[index];
        let format = match spec.role {
            Role::Matrix => self.entries[index].format,
            Role::Vector => DataType::F32,
        };
        format.row_bytes(spec.cols).map_or(0, |bytes| bytes * spec.rows)
    }

    /// Looks at `y`, the product of some activations with `matrix`, if that has not been found sound before.
    ///
    /// A weight that is infinite or not a number makes each output that it has a part in so, even of an
    /// activation that is 0. So one product without such outputs shows a whole matrix to be sound, at the
    /// cost of reading the outputs once: a part in thousands of the product itself.
    pub(crate) fn check(&self, matrix: Matrix, y: &[f32]) -> Option<NotFinite> {
        let sound = &self.entries[matrix.index()].is_sound;
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
    pub(crate) fn explain(&self, cpu: &Cpu, found: NotFinite) -> Error {
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
