//! A base and its adapter made into one model file.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::Path;

use half::f16;

use super::{Factors, Lora, LoraOptions, peft};
use crate::atomic::write_atomically;
use crate::control::{Control, ask};
use crate::convert::{ConvertOptions, Edit, write_edited_bin};
use crate::data_type::DataType;
use crate::error::{Error, Result};
use crate::file::{self, FileFormat, Header, ModelFile, TensorInfo};
use crate::fingerprint::Fingerprint;
use crate::params::ParamSpec;
use crate::place::resolve;

/// f32 values that are decoded, changed and written at a time.
const CHUNK: usize = 1 << 20;

/// Result of [`merge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The format of the base's matrices.
    pub from: DataType,
    /// The format of the output's: FP16 if the base is quantized, FP32 if it is BF16, else that of the base.
    pub to: DataType,
    /// Size of the base in bytes.
    pub bytes_in: u64,
    /// Size of the output in bytes.
    pub bytes_out: u64,
    /// Number of matrices that the adapter changed.
    pub adapted: usize,
    /// Number of tensors.
    pub tensors: usize,
}

/// Adds the adapter at `adapter` to the matrices of the model file `base`, and writes the result to `output`, a `.bin`.
///
/// The base may have any format that [`ModelFile`] opens.
/// Every adapted matrix becomes W + α/rank · B A. FP32 matrices stay FP32, FP16 ones stay FP16 (rounded to
/// nearest, ties to even). Quantized matrices, adapted or not, become FP16: adding to them and quantizing
/// again would lose more than most adapters add. BF16 ones become FP32, which holds them exactly and which `.bin` has.
/// All other tensors are copied; vectors of a base of another format are FP32, as in all `.bin` files.
///
/// `base` and `adapter` can also be directories of training runs, for the `model.bin` and `lora.safetensors`
/// in them. Of the base a few MB are in memory at a time. The output is renamed into place when it is whole:
/// on an error, or when `progress` says to end, what was there before is as it was.
/// `progress(done, total)` is told bytes of the base (but in a `.bin`, of its weights alone).
///
/// # Errors
/// - [`Error::Adapter`] if the adapter is damaged or was trained on another model.
/// - [`Error::InvalidOption`] if `output` is the base or the adapter.
/// - [`Error::Weight`] if a weight of the result is infinite or not a number, or too large for FP16.
/// - [`Error::Unsupported`] if the base is a `.bin` with tensors in a format that rwkv.cpp has not (BF16).
/// - [`Error::FileChanged`] if the base is written to meanwhile.
/// - [`Error::Aborted`] if `progress` says so.
/// - Those of [`ModelFile::open`]; [`Error::Io`].
pub fn merge(
    base: impl AsRef<Path>,
    adapter: impl AsRef<Path>,
    output: impl AsRef<Path>,
    progress: impl Control,
) -> Result<Merged> {
    merge_with(base, adapter, output, &LoraOptions::default(), progress)
}

/// As [`merge`], with options for the adapter.
///
/// # Errors
/// Those of [`merge`].
pub fn merge_with(
    base: impl AsRef<Path>,
    adapter: impl AsRef<Path>,
    output: impl AsRef<Path>,
    options: &LoraOptions,
    progress: impl Control,
) -> Result<Merged> {
    let (base, adapter, output) = (base.as_ref(), adapter.as_ref(), output.as_ref());
    let base = &*resolve(base).model;
    let file = ModelFile::open(base)?;
    let fingerprint = if options.allow_other_base {
        Fingerprint { config: *file.config(), weights: 0 }
    } else {
        file.fingerprint(None)?
    };
    let lora = Lora::read_with(adapter, &fingerprint, file.layout(), options)?;
    let adapter = peft::find(adapter)?;
    for (input, what) in [(base, "the base"), (adapter.as_ref(), "the adapter")] {
        if let (Ok(input), Ok(written)) = (input.canonicalize(), output.canonicalize())
            && input == written
        {
            return Err(Error::option("output", output.display(), format!("another file than {what}")));
        }
    }
    if file.format() != FileFormat::RwkvCpp {
        return merge_other(&file, &lora, output, progress);
    }
    file::check_formats(base, file.header(), file.tensors())?;
    let mut work = Work { file: &file, lora: &lora, progress, written: 0 };
    // What stops the work, unless it is the writing itself, whose errors name the output.
    let mut stopped = None;
    let written = write_atomically(output, |out| {
        work.run(out).map_err(|failure| match failure {
            Failure::Write(error) => error,
            Failure::Other(error) => {
                stopped = Some(error);
                io::Error::other("stopped")
            }
        })
    });
    match stopped {
        Some(Error::Aborted) => Err(Error::Aborted),
        Some(error) => {
            // A changed file explains more than what was read from it.
            file.check()?;
            Err(error)
        }
        None => written.map(|()| Merged {
            from: file.data_type(),
            to: merged_format(file.data_type()),
            bytes_in: file.len(),
            bytes_out: work.written,
            adapted: lora.factors.len(),
            tensors: file.tensors().len(),
        }),
    }
}

/// Merges into a base of another program's.
fn merge_other(file: &ModelFile, lora: &Lora, output: &Path, progress: impl Control) -> Result<Merged> {
    let add = |spec: &ParamSpec, first: usize, to: DataType, values: &mut [f32]| {
        let factors = lora.factors.iter().find(|factors| factors.name == spec.name);
        if let Some(factors) = factors {
            add(factors, lora.rank, lora.scale(), first, values);
        }
        check(&spec.name, to, first, spec.cols, values)?;
        Ok(factors.is_some())
    };
    let to = merged_format(file.data_type());
    let (bytes_out, tensors) = write_edited_bin(
        file,
        output,
        (&ConvertOptions::to(FileFormat::RwkvCpp), to),
        |tensor| merged_format(tensor.data_type),
        Edit { cpu: None, rows: Some(&add) },
        progress,
    )?;
    Ok(Merged {
        from: file.data_type(),
        to,
        bytes_in: file.len(),
        bytes_out,
        adapted: lora.factors.len(),
        tensors: tensors.len(),
    })
}

/// The format of what is stored as `format` after merging.
fn merged_format(format: DataType) -> DataType {
    match format {
        DataType::BF16 => DataType::F32,
        format if format.is_quantized() => DataType::F16,
        format => format,
    }
}

enum Failure {
    Write(io::Error),
    Other(Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

struct Work<'a, P> {
    file: &'a ModelFile,
    lora: &'a Lora,
    progress: P,
    written: u64,
}

impl<P: Control> Work<'_, P> {
    fn run(&mut self, out: &mut dyn Write) -> std::result::Result<(), Failure> {
        let file = self.file;
        let data_type = merged_format(file.data_type());
        file::write_header(out, &Header { version: 101, data_type, ..*file.header() })?;
        self.written = file::HEADER as u64;
        self.report(0)?;
        for tensor in file.tensors() {
            let to = merged_format(tensor.data_type);
            file::write_tensor_header(out, &tensor.name, &tensor.dims, to)?;
            self.written += (12 + 4 * tensor.dims.len() + tensor.name.len()) as u64;
            let factors = self.lora.factors.iter().find(|factors| factors.name == tensor.name);
            self.tensor(out, tensor, factors)?;
        }
        file.check()?;
        Ok(())
    }

    /// Writes the values of a tensor, some rows at a time.
    fn tensor(
        &mut self,
        out: &mut dyn Write,
        tensor: &TensorInfo,
        factors: Option<&Factors>,
    ) -> std::result::Result<(), Failure> {
        let (from, to, cols) = (tensor.data_type, merged_format(tensor.data_type), tensor.dims[0]);
        let range = tensor.data();
        // Whole rows: an adapter is added row by row, and a row is whole blocks of a quantized format.
        let row_bytes =
            from.row_bytes(cols).ok_or_else(|| self.file.fault(tensor, "rows of half a block"))?;
        let rows_at_a_time = (CHUNK / cols).max(1);
        let n_rows = range.len() / row_bytes;
        let (mut bytes, mut values, mut halves) = (Vec::new(), Vec::new(), Vec::new());
        for first in (0..n_rows).step_by(rows_at_a_time) {
            let rows = rows_at_a_time.min(n_rows - first);
            bytes.resize(rows * row_bytes, 0);
            self.file.read_tensor(tensor, first * row_bytes, &mut bytes)?;
            let written: Cow<'_, [u8]> = if factors.is_none() && from == to {
                Cow::Borrowed(&bytes)
            } else {
                values.resize(rows * cols, 0.0);
                from.decode(&bytes, &mut values);
                if let Some(factors) = factors {
                    add(factors, self.lora.rank, self.lora.scale(), first, &mut values);
                }
                check(&tensor.name, to, first, cols, &values)?;
                if to == DataType::F16 {
                    halves.clear();
                    halves.extend(values.iter().map(|&value| f16::from_f32(value)));
                    Cow::Borrowed(bytemuck::cast_slice(&halves))
                } else {
                    Cow::Borrowed(bytemuck::cast_slice(&values))
                }
            };
            out.write_all(&written)?;
            self.written += written.len() as u64;
            self.report((range.start + (first + rows) * row_bytes) as u64)?;
        }
        Ok(())
    }

    fn report(&mut self, done: u64) -> Result<()> {
        ask(&mut self.progress, done, self.file.len())
    }
}

/// Adds scale · B A to the rows of W from `first` on: `values` is (rows, cols).
fn add(factors: &Factors, rank: usize, scale: f32, first: usize, values: &mut [f32]) {
    let cols = factors.down.len() / rank;
    let mut sum = vec![0.0; cols];
    let ups = factors.up.chunks_exact(rank).skip(first);
    for (row, up) in values.chunks_exact_mut(cols).zip(ups) {
        sum.fill(0.0);
        for (&up, down) in up.iter().zip(factors.down.chunks_exact(cols)) {
            sum.iter_mut().zip(down).for_each(|(sum, &down)| *sum += up * down);
        }
        row.iter_mut().zip(&sum).for_each(|(value, &sum)| *value += scale * sum);
    }
}

/// Refuses rows, from `first` on, with a value that is no number or that `to` cannot hold.
fn check(tensor: &str, to: DataType, first: usize, cols: usize, values: &[f32]) -> Result<()> {
    let holds = |value: f32| {
        if to == DataType::F16 { f16::from_f32(value).is_finite() } else { value.is_finite() }
    };
    match values.iter().position(|&value| !holds(value)) {
        None => Ok(()),
        Some(at) => {
            let (row, col, value) = (first + at / cols, at % cols, values[at]);
            let why = if value.is_finite() {
                "and FP16 ends at 65504; merge into the FP32 file of this model"
            } else {
                "which no model can use"
            };
            let problem = format!("with the adapter, weight {col} of row {row} is {value}, {why}");
            Err(Error::Weight { tensor: tensor.to_owned(), problem })
        }
    }
}
