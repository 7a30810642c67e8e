//! Files of FP32, FP16 or BF16 weights, made into `.bin` files of quantized ones.
//!
//! What becomes of each tensor is rwkv.cpp's rule, and so are the bytes: the result is the file that
//! `rwkv_quantize_model_file` writes. A tensor of two dimensions is a matrix and is quantized; what has one
//! or three is not, nor are the embedding and the head, which are a small part of a large model and cost the
//! most accuracy, nor the narrow matrices of RWKV-7's low-rank mixes and its `att.r_k`. These are copied as
//! they are. So nothing here knows a version of RWKV or the shape of a model, and `.bin` files of all versions can
//! be quantized. Files of other programs go the way of [`convert`](crate::convert()): they become what the `.bin` in
//! FP32 that it makes of them becomes.

use std::io::{self, Write};
use std::path::Path;

use half::f16;
use rwkv_kernels::{Cpu, Unquantizable, WEIGHTS_PER_BLOCK};

use crate::atomic::write_atomically;
use crate::control::{Control, ask};
use crate::convert::{ConvertOptions, Edit, write_edited_bin};
use crate::data_type::DataType;
use crate::error::{Error, Fault, Result};
use crate::file::{self, FileFormat, Header, ModelFile, TensorFile, TensorInfo};
use crate::infer::LoadOptions;
use crate::place::resolve;

/// Bytes that are read, quantized and written at a time.
const CHUNK: usize = 1 << 22;

/// Matrices by these names, or with these in their names, are not quantized.
const COPIED: [&str; 2] = ["emb.weight", "head.weight"];
const COPIED_PARTS: [&str; 9] =
    ["att.v1", "att.v2", "att.g1", "att.g2", "att.a1", "att.a2", "att.w1", "att.w2", "att.r_k"];

/// Result of [`quantize`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantized {
    /// The format of the input's matrices: FP32 or FP16, or of files of other programs BF16.
    pub from: DataType,
    /// The format of the output's matrices.
    pub to: DataType,
    /// The input's size.
    pub bytes_in: u64,
    /// The output's size.
    pub bytes_out: u64,
    /// Number of tensors.
    pub tensors: usize,
    /// How many of them were quantized.
    pub quantized: usize,
}

/// The quantized format called `name`: `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1` or `Q8_0`, in capitals or not.
///
/// # Errors
/// [`Error::InvalidOption`] for every other name.
pub fn quantized_format(name: &str) -> Result<DataType> {
    let known = DataType::EVERY.into_iter().find(|format| format.name().eq_ignore_ascii_case(name));
    match known {
        Some(format) if format.is_quantized() => Ok(format),
        Some(format) => Err(not_a_target(format)),
        None if ["Q4_1_O", "Q4_2", "Q4_3"].iter().any(|removed| removed.eq_ignore_ascii_case(name)) => {
            let expected = format!("{}; this one was removed from rwkv.cpp", targets());
            Err(Error::option("format", name, expected))
        }
        None => Err(Error::option("format", name, targets())),
    }
}

fn not_a_target(format: DataType) -> Error {
    Error::option("format", format, format!("{}, which are the quantized ones", targets()))
}

fn targets() -> String {
    let [names @ .., last] = DataType::QUANTIZED.map(DataType::name);
    format!("{} or {last}", names.join(", "))
}

/// Quantizes the model file `input`, or the `model.bin` of that directory, to `format`, and writes it to
/// `output`.
///
/// The input holds FP32 or FP16 weights of any version of RWKV as a `.bin`, or is a `.pth`, `.safetensors` or GGUF file,
/// with BF16 weights too, that [`ModelFile::open`] reads. The output is a `.bin`; that of another format is, byte for
/// byte, that of the FP32 `.bin` which [`convert`](crate::convert()) makes of the input. The input is read, and the
/// output written, some MB at a time, and the output is renamed into place when it is whole: on an error, or when `progress` says
/// to end, there is none, and what was there before is as it was.
/// `progress(done, total)` is told bytes of the input (but in a `.bin`, of its weights alone), before the first and after
/// every few MB.
///
/// ```no_run
/// use std::ops::ControlFlow;
///
/// use rwkv_core::{DataType, LoadOptions, quantize};
///
/// # fn main() -> rwkv_core::Result<()> {
/// let made = quantize("169M-FP16.bin", "169M-Q5_1.bin", DataType::Q5_1, &LoadOptions::default(), |done, total| {
///     println!("{done} of {total} bytes");
///     ControlFlow::Continue(())
/// })?;
/// println!("{} of {} tensors quantized", made.quantized, made.tensors);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// - [`Error::InvalidOption`] if `format` is not quantized, or `output` is the input: quantization cannot be
///   undone.
/// - [`Error::Unsupported`] if the input is quantized already, is a `.bin` of BF16, which rwkv.cpp has not, or has a
///   matrix whose rows are no whole number of blocks of 32 weights.
/// - [`Error::ModelFile`] if the input is damaged, or a weight is infinite, no number, or so large that its
///   block's scale is beyond half precision.
/// - [`Error::FileChanged`] if the input is written to meanwhile.
/// - [`Error::Aborted`] if `progress` says so.
/// - [`Error::Io`], and those of [`LoadOptions::start_cpu`].
pub fn quantize(
    input: impl AsRef<Path>,
    output: impl AsRef<Path>,
    format: DataType,
    options: &LoadOptions,
    progress: impl Control,
) -> Result<Quantized> {
    let (input, output) = (input.as_ref(), output.as_ref());
    if !format.is_quantized() {
        return Err(not_a_target(format));
    }
    let input = &*resolve(input).model;
    let is_rwkv_cpp = file::format_of(input)? == FileFormat::RwkvCpp;
    if let (Ok(from), Ok(to)) = (input.canonicalize(), output.canonicalize())
        && from == to
    {
        let expected = "another file than the input, which would be destroyed";
        return Err(Error::option("output", output.display(), expected));
    }
    if is_rwkv_cpp {
        quantize_bin(input, output, format, options, progress)
    } else {
        quantize_model(&ModelFile::open(input)?, output, format, options, progress)
    }
}

/// Quantizes a file of another program.
fn quantize_model(
    file: &ModelFile,
    output: &Path,
    format: DataType,
    options: &LoadOptions,
    progress: impl Control,
) -> Result<Quantized> {
    if let Some(tensor) = file.tensors().iter().find(|tensor| tensor.data_type.is_quantized()) {
        return Err(file.unsupported(already(tensor)).of_kind(Fault::DataType));
    }
    for spec in file.layout().specs() {
        // As the output has it.
        if is_quantized(&spec.name, &spec.dims) && !spec.cols.is_multiple_of(WEIGHTS_PER_BLOCK) {
            return Err(file.unsupported(half_blocks(&spec.name, spec.cols, format)).of_kind(Fault::Shape));
        }
    }
    let cpu = options.start_cpu()?;
    let exact = ConvertOptions { data_type: Some(DataType::F32), ..ConvertOptions::to(FileFormat::RwkvCpp) };
    let (bytes_out, tensors) = write_edited_bin(
        file,
        output,
        (&exact, format),
        |tensor| if is_quantized(&tensor.name, &tensor.dims) { format } else { tensor.data_type },
        Edit { cpu: Some(&*cpu), rows: None },
        progress,
    )?;
    Ok(Quantized {
        from: file.data_type(),
        to: format,
        bytes_in: file.len(),
        bytes_out,
        tensors: tensors.len(),
        quantized: tensors.iter().filter(|tensor| tensor.data_type == format).count(),
    })
}

/// Quantizes a file of rwkv.cpp's, of any version.
fn quantize_bin(
    input: &Path,
    output: &Path,
    format: DataType,
    options: &LoadOptions,
    progress: impl Control,
) -> Result<Quantized> {
    let file = TensorFile::open(input)?;
    file::check_formats(input, &file.header, &file.tensors)?;
    check(&file, format)?;
    let mut work = Work {
        file: &file,
        format,
        cpu: &*options.start_cpu()?,
        progress,
        weights: Vec::new(),
        blocks: Vec::new(),
        written: 0,
    };
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
        Some(error @ Error::ModelFile { .. }) => {
            // A changed file explains more than what was read from it.
            file.check()?;
            Err(error)
        }
        Some(error) => Err(error),
        None => written.map(|()| Quantized {
            from: file.header.data_type,
            to: format,
            bytes_in: file.len(),
            bytes_out: work.written,
            tensors: file.tensors.len(),
            quantized: file.tensors.iter().filter(|tensor| is_quantized(&tensor.name, &tensor.dims)).count(),
        }),
    }
}

/// Whether a tensor of an FP32 or FP16 file is quantized.
fn is_quantized(name: &str, dims: &[usize]) -> bool {
    dims.len() == 2 && !COPIED.contains(&name) && !COPIED_PARTS.iter().any(|part| name.contains(part))
}

/// Refuses what cannot be quantized before anything is written.
fn check(file: &TensorFile, format: DataType) -> Result<()> {
    if file.header.data_type.is_quantized() {
        let what = format!("this file is quantized already, to {}; {AGAIN}", file.header.data_type);
        return Err(file.unsupported(what).of_kind(Fault::DataType));
    }
    for tensor in &file.tensors {
        let TensorInfo { name, data_type, dims, .. } = tensor;
        if data_type.is_quantized() {
            return Err(file.unsupported(already(tensor)).of_kind(Fault::DataType));
        }
        if is_quantized(name, dims) && !dims[0].is_multiple_of(WEIGHTS_PER_BLOCK) {
            return Err(file.unsupported(half_blocks(name, dims[0], format)).of_kind(Fault::Shape));
        }
    }
    Ok(())
}

const AGAIN: &str = "quantize the FP32 or FP16 file of this model";

fn already(tensor: &TensorInfo) -> String {
    format!("{:?} is quantized already, to {}; {AGAIN}", tensor.name, tensor.data_type)
}

fn half_blocks(name: &str, row: usize, format: DataType) -> String {
    format!("{name:?} has rows of {row} weights, and {format} stores blocks of {WEIGHTS_PER_BLOCK}")
}

/// Why a file could not be written: the writing itself, or what is to be written.
pub(crate) enum Failure {
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
    file: &'a TensorFile,
    format: DataType,
    cpu: &'a Cpu,
    progress: P,
    /// A chunk of the input.
    weights: Vec<u8>,
    /// What is made of it.
    blocks: Vec<u8>,
    written: u64,
}

impl<P: Control> Work<'_, P> {
    fn run(&mut self, out: &mut dyn Write) -> std::result::Result<(), Failure> {
        let out = &mut Counted { out, count: 0 };
        // Version 101 is that of today's blocks; the one before it is the same but for those.
        file::write_header(out, &Header { version: 101, data_type: self.format, ..self.file.header })?;
        self.report(0)?;
        for tensor in &self.file.tensors {
            let quantized = is_quantized(&tensor.name, &tensor.dims);
            let data_type = if quantized { self.format } else { tensor.data_type };
            file::write_tensor_header(out, &tensor.name, &tensor.dims, data_type)?;
            let data = tensor.data();
            for at in (0..data.len()).step_by(CHUNK) {
                self.weights.resize(CHUNK.min(data.len() - at), 0);
                self.file.read(tensor, at, &mut self.weights)?;
                if quantized {
                    self.quantize(tensor, at)?;
                    out.write_all(&self.blocks)?;
                } else {
                    self.check_copied(tensor, at)?;
                    out.write_all(&self.weights)?;
                }
                self.report(data.start + at + self.weights.len())?;
            }
        }
        self.file.check()?;
        self.written = out.count;
        Ok(())
    }

    /// Refuses a chunk, to be copied, that holds a number no model can use. The same is asked of what is
    /// quantized.
    fn check_copied(&self, tensor: &TensorInfo, at: usize) -> Result<()> {
        let bytes = &self.weights;
        let (first, size) = match tensor.data_type {
            DataType::F32 => {
                (bytes.as_chunks().0.iter().position(|&b| !f32::from_le_bytes(b).is_finite()), 4)
            }
            DataType::F16 => {
                (bytes.as_chunks().0.iter().position(|&b| !f16::from_le_bytes(b).is_finite()), 2)
            }
            _ => (None, 1), // refused before anything was written
        };
        match first {
            None => Ok(()),
            Some(first) => {
                let offset = tensor.data().start + at + first * size;
                Err(self.file.fault(tensor, offset, "the weight here is infinite or not a number"))
            }
        }
    }

    /// Makes blocks of the chunk that begins `at` bytes into `tensor`. A chunk is whole blocks: its size is a
    /// multiple of theirs.
    fn quantize(&mut self, tensor: &TensorInfo, at: usize) -> Result<()> {
        let (from, to) = (tensor.data_type, self.format);
        let weight = from.block().1;
        self.blocks.resize(self.weights.len() / (WEIGHTS_PER_BLOCK * weight) * to.block().1, 0);
        rwkv_kernels::quantize(self.cpu, from, &self.weights, to, &mut self.blocks).map_err(
            |Unquantizable { weight: first }| {
                let offset = tensor.data().start + at + first * weight;
                let problem = format!(
                    "among the {WEIGHTS_PER_BLOCK} weights here one is infinite, not a number, or too large for {}, whose scales are \
                     in half precision",
                    self.format
                );
                self.file.fault(tensor, offset, problem)
            },
        )
    }

    fn report(&mut self, done: usize) -> Result<()> {
        ask(&mut self.progress, done as u64, self.file.len())
    }
}

/// Counts what is written.
pub(crate) struct Counted<'a> {
    pub(crate) out: &'a mut dyn Write,
    pub(crate) count: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
