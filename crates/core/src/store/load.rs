//! From a model file to its parameters.

use std::ops::Range;
use std::sync::Arc;

use rwkv_kernels::{Cpu, Panels};

use super::panels::Memory;
use super::{Entry, Parameters, Value};
use crate::control::Control;
use crate::error::{Error, Fault, Result};
use crate::file::{Form, ModelFile};
use crate::machine;

impl Parameters {
    /// Takes the parameters of `file`, none of them trained, and repacks what is quantized.
    ///
    /// `progress(done, total)` is called with bytes of the file; if it breaks, this ends with
    /// [`Error::Aborted`].
    ///
    /// # Errors
    /// [`Error::ModelFile`] for a vector with a value that is infinite or no number; [`Error::FileChanged`];
    /// [`Error::Io`] if memory is short. Matrices are looked at when they are first used.
    pub fn of_file(file: ModelFile, cpu: &Cpu, mut progress: impl Control) -> Result<Self> {
        let layout = file.layout().clone();
        let n = layout.specs().len();
        let quantized = |index: usize| {
            let spec = &layout.specs()[index];
            let format = file.tensor(index).0.data_type;
            if spec.is_matrix() { Panels::len(format, spec.rows, spec.cols) } else { None }
        };
        let mut panels = Memory::for_lengths((0..n).filter_map(quantized))
            .map_err(Error::io("take memory for the weights of", file.path()))?;
        let total = file.len();
        let mut done = 0;
        let mut entries = Vec::with_capacity(n);
        for (index, spec) in layout.specs().iter().enumerate() {
            if progress(done, total).is_break() {
                return Err(Error::Aborted);
            }
            let format = file.tensor(index).0.data_type;
            entries.push(match quantized(index) {
                None if spec.is_matrix() && file.form(index) == Form::Transposed => {
                    machine::limit()
                        .check(file.tensor(index).1.len() as f64)
                        .map_err(Error::io("take memory for the weights of", file.path()))?;
                    Entry::frozen(Value::Turned(Arc::new(file.turned(index))), format)
                }
                None if spec.is_matrix() => Entry::frozen(Value::Mapped, format),
                None => Entry::of_f32(finite_vector(&file, index)?),
                Some(len) => {
                    let (range, into) = panels.take(len);
                    pack(cpu, &file, index, into)?;
                    Entry::frozen(Value::Panels(range), format)
                }
            });
            done += file.tensor(index).1.len() as u64;
        }
        file.check()?;
        let _ = progress(total, total);
        let data_type = file.data_type();
        Ok(Self {
            n_model: n,
            layout,
            data_type,
            entries,
            panels: Arc::new(panels),
            file: Some(Arc::new(file)),
            is_file: true,
        })
    }
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
