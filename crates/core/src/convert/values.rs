//! Weights on their way from one file to another, some MB at a time.

use std::io::Write;

use half::{bf16, f16};
use rwkv_kernels::{Cpu, Unquantizable, WEIGHTS_PER_BLOCK};

use super::Written;
use super::plan::{Part, Tensor, bytes_of};
use crate::control::{Control, ask};
use crate::data_type::DataType;
use crate::error::{Error, Result};
use crate::file::{Form, ModelFile};
use crate::params::{ParamSpec, Stored};
use crate::quantize::Failure;

/// Changes rows of a parameter, from the numbered one on, that the output has in the format named; whether it did.
pub(crate) type EditRows<'a> = dyn Fn(&ParamSpec, usize, DataType, &mut [f32]) -> Result<bool> + 'a;

/// What happens to weights besides.
#[derive(Clone, Copy, Default)]
pub(crate) struct Edit<'a> {
    /// Quantizes what the output has quantized and the input has not.
    pub(crate) cpu: Option<&'a Cpu>,
    pub(crate) rows: Option<&'a EditRows<'a>>,
}

/// Values that are read, converted and written at a time: whole blocks.
const CHUNK: usize = 1 << 20;

/// Writes the values of tensors, and counts.
pub(super) struct Values<'a, C> {
    file: &'a ModelFile,
    control: C,
    edit: Edit<'a>,
    done: u64,
    total: u64,
    changed: u64,
    /// A chunk as the input has it, as numbers, and as the output has it.
    bytes: Vec<u8>,
    numbers: Vec<f32>,
    encoded: Vec<u8>,
}

/// From the values of one kind of file to those of another.
type Function = fn(Stored, f32) -> f32;

/// What happens to a part's values.
struct Step<'a> {
    spec: &'a ParamSpec,
    part: Part,
    from: DataType,
    to: DataType,
    /// The function that is applied to numbers, and the one that undoes it.
    function: Option<[Function; 2]>,
}

impl<'a, C: Control> Values<'a, C> {
    pub(super) fn new(file: &'a ModelFile, tensors: &[Tensor], edit: Edit<'a>, control: C) -> Self {
        let parts = tensors.iter().flat_map(|tensor| &tensor.parts);
        let total = parts.map(|part| file.tensor(part.index).1.len() as u64).sum();
        Self {
            file,
            control,
            edit,
            done: 0,
            total,
            changed: 0,
            bytes: Vec::new(),
            numbers: Vec::new(),
            encoded: Vec::new(),
        }
    }

    /// Tells the total, before anything is written.
    pub(super) fn begin(&mut self) -> Result<()> {
        ask(&mut self.control, self.done, self.total)
    }

    /// Weights that were rounded.
    pub(super) fn changed(&self) -> u64 {
        self.changed
    }

    /// Writes all values of `tensor`.
    pub(super) fn write(&mut self, tensor: &Tensor, out: &mut dyn Write) -> Written {
        for &part in &tensor.parts {
            let spec = &self.file.layout().specs()[part.index];
            let from = self.file.tensor(part.index).0.data_type;
            let function: Option<[Function; 2]> =
                match (self.file.form(part.index) == Form::Raw, part.form == Form::Raw) {
                    (true, false) => Some([Stored::to_file, Stored::to_raw]),
                    (false, true) => Some([Stored::to_raw, Stored::to_file]),
                    _ => None,
                };
            let step = Step { spec, part, from, to: tensor.data_type, function };
            let lies = self.file.form(part.index) == Form::Transposed;
            if lies == (part.form == Form::Transposed) {
                self.straight(&step, out)?;
            } else {
                self.turned(&step, lies, out)?;
            }
        }
        Ok(())
    }

    /// A part whose values have the same order in both files.
    fn straight(&mut self, step: &Step<'_>, out: &mut dyn Write) -> Written {
        let ParamSpec { cols, .. } = *step.spec;
        let len = step.spec.len();
        // Whole rows, which are whole blocks.
        let most = (CHUNK / cols).max(1) * cols;
        for at in (0..len).step_by(most) {
            let count = most.min(len - at);
            self.bytes.resize(bytes_of(step.from, count), 0);
            self.file.read_at(step.part.index, bytes_of(step.from, at), &mut self.bytes)?;
            self.numbers.resize(count, 0.0);
            step.from.decode(&self.bytes, &mut self.numbers);
            self.check_finite(step)?;
            let is_edited = self.edit(step, at / cols)?;
            if !is_edited && step.from == step.to && step.function.is_none() {
                out.write_all(&self.bytes)?;
                self.count(self.bytes.len())?;
            } else {
                self.put(step, out)?;
            }
        }
        Ok(())
    }

    /// A matrix whose rows are the input's columns: so many columns at a time, from the map, which is read in
    /// no order and takes no memory of ours.
    fn turned(&mut self, step: &Step<'_>, lies: bool, out: &mut dyn Write) -> Written {
        let ParamSpec { rows, cols, .. } = *step.spec;
        let (rows, cols) = if lies { (cols, rows) } else { (rows, cols) };
        // Whole blocks of a row, as `CHUNK` is.
        let width = (CHUNK / rows).max(1).next_multiple_of(32).min(cols);
        let source = self.file.tensor(step.part.index).1;
        let mut row = vec![0.0; width];
        for left in (0..cols).step_by(width) {
            let row = &mut row[..width.min(cols - left)];
            self.numbers.resize(row.len() * rows, 0.0);
            for i in 0..rows {
                let begin = bytes_of(step.from, i * cols + left);
                step.from.decode(&source[begin..begin + bytes_of(step.from, row.len())], row);
                for (column, &value) in row.iter().enumerate() {
                    self.numbers[column * rows + i] = value;
                }
            }
            self.check_finite(step)?;
            self.edit(step, left)?;
            self.put(step, out)?;
        }
        Ok(())
    }

    /// Edits the numbers, which are rows of a parameter from `first` on.
    fn edit(&mut self, step: &Step<'_>, first: usize) -> Result<bool> {
        self.edit.rows.map_or(Ok(false), |edit| edit(step.spec, first, step.to, &mut self.numbers))
    }

    /// Writes the numbers.
    fn put(&mut self, step: &Step<'_>, out: &mut dyn Write) -> Written {
        let before = step.function.map(|_| self.numbers.clone());
        if let Some([function, _]) = step.function {
            self.numbers.iter_mut().for_each(|value| *value = function(step.spec.stored, *value));
            self.check_finite(step)?;
        }
        match step.to {
            DataType::F32 => out.write_all(bytemuck::cast_slice(&self.numbers))?,
            DataType::F16 => self.halves(step, out, |value| {
                let half = f16::from_f32(value);
                (half.to_le_bytes(), half.to_f32())
            })?,
            DataType::BF16 => self.halves(step, out, |value| {
                let half = bf16::from_f32(value);
                (half.to_le_bytes(), half.to_f32())
            })?,
            other => match self.edit.cpu {
                Some(cpu) => self.blocks(cpu, step, out)?,
                None => return Err(Error::option("data_type", other, "FP32, FP16 or BF16").into()),
            },
        }
        if let (Some([_, inverse]), Some(before)) = (step.function, before) {
            let back = self.numbers.iter().map(|&value| inverse(step.spec.stored, value));
            self.changed += differences(back, before);
        }
        self.count(bytes_of(step.from, self.numbers.len()))?;
        Ok(())
    }

    /// Writes the numbers in two bytes each, and leaves what these stand for in their place.
    fn halves(
        &mut self,
        step: &Step<'_>,
        out: &mut dyn Write,
        encode: impl Fn(f32) -> ([u8; 2], f32),
    ) -> Written {
        self.encoded.clear();
        for value in &mut self.numbers {
            let (bytes, back) = encode(*value);
            if back.is_infinite() {
                let expected =
                    format!("FP32, because {} holds {value}, which is beyond {}", step.spec.name, step.to);
                return Err(Error::option("data_type", step.to, expected).into());
            }
            if step.function.is_none() {
                self.changed += differences([back], [*value]);
            }
            *value = back;
            self.encoded.extend(bytes);
        }
        Ok(out.write_all(&self.encoded)?)
    }

    /// Writes the numbers quantized.
    fn blocks(&mut self, cpu: &Cpu, step: &Step<'_>, out: &mut dyn Write) -> Written {
        self.encoded.resize(bytes_of(step.to, self.numbers.len()), 0);
        let weights = bytemuck::cast_slice(&self.numbers);
        rwkv_kernels::quantize(cpu, DataType::F32, weights, step.to, &mut self.encoded).map_err(
            |Unquantizable { weight }| {
                let problem = format!(
                    "among {WEIGHTS_PER_BLOCK} weights that begin with {} one is too large for {}, whose scales are in \
                     half precision",
                    self.numbers.get(weight).copied().unwrap_or(f32::NAN),
                    step.to
                );
                self.file.fault(self.file.tensor(step.part.index).0, problem)
            },
        )?;
        Ok(out.write_all(&self.encoded)?)
    }

    fn check_finite(&self, step: &Step<'_>) -> Result<()> {
        match self.numbers.iter().find(|value| !value.is_finite()) {
            None => Ok(()),
            Some(value) => {
                let tensor = self.file.tensor(step.part.index).0;
                let problem = format!("a weight is {value}; a model's weights are finite");
                Err(self.file.fault(tensor, problem))
            }
        }
    }

    fn count(&mut self, bytes: usize) -> std::result::Result<(), Failure> {
        self.done += bytes as u64;
        Ok(ask(&mut self.control, self.done, self.total)?)
    }
}

/// How many numbers are others.
fn differences(x: impl IntoIterator<Item = f32>, y: impl IntoIterator<Item = f32>) -> u64 {
    x.into_iter().zip(y).map(|(x, y)| u64::from(x.to_bits() != y.to_bits())).sum()
}
