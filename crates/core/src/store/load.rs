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
            // Rows of an embedding are looked up where they are: GGUF has it quantized too.
            let is_multiplied = spec.is_matrix() && !spec.is_embedding();
            if is_multiplied { Panels::len(format, spec.rows, spec.cols) } else { None }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::go_on;
    use rwkv_kernels::Isa;

    /// Matrices that are not quantized are read where the file is mapped; of those that a file holds as (inputs,
    /// outputs), which are factors of low rank, there is a copy.
    #[test]
    #[cfg_attr(miri, ignore)]
    fn what_can_be_read_as_it_lies_is_not_copied() {
        for (name, copies) in [
            // Four pairs of factors in each block, but for the value's in the first.
            ("tiny-v7.pth", 14),
            ("tiny-v7-official.safetensors", 14),
            ("tiny-v7-fla.safetensors", 0),
            ("tiny-v7-rs.safetensors", 0),
            ("tiny-v7-web.safetensors", 0),
            ("tiny-v7.gguf", 0),
            ("tiny-v7-q8_0.gguf", 0),
            ("tiny-v4.pth", 0),
            ("tiny-v4-hf.safetensors", 0),
        ] {
            let path = [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", name]
                .iter()
                .collect::<std::path::PathBuf>();
            let cpu = Cpu::new(Isa::Scalar, 1);
            let store = Parameters::of_file(ModelFile::open(path).unwrap(), &cpu, go_on).unwrap();
            let file = store.file().unwrap();
            let mut copied = 0;
            for (index, spec) in
                store.layout().specs().iter().enumerate().filter(|(_, spec)| spec.is_matrix())
            {
                let (read, mapped) = (store.stored_bytes(index), file.tensor(index).1);
                if read.as_ptr() != mapped.as_ptr() {
                    assert!(spec.is_low_rank, "{name}: {}", spec.name);
                    copied += 1;
                }
                let is_packed = matches!(store.entries[index].value, Value::Panels(_));
                assert_eq!(
                    is_packed,
                    file.tensor(index).0.data_type.is_quantized() && !spec.is_embedding(),
                    "{name}: {}",
                    spec.name
                );
            }
            assert_eq!(copied, copies, "{name}");
        }
    }
}
