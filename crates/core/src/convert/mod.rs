//! Model files made into those of other programs.
//!
//! What a format calls a tensor, how it packs several into one and which way it holds a matrix is said in the
//! tables of each version ([`Rwkv`](crate::model::Rwkv)); `plan.rs` makes of them a list of the output's tensors,
//! `values.rs` brings their values from one file to the other some MB at a time, and the other files here write
//! what a format has around them.
//!
//! # Numbers
//! Nothing is rounded that need not be. Without [`ConvertOptions::data_type`] a tensor keeps its format if the
//! output can hold it, and is FP32 otherwise, which holds every number of every format exactly:
//!
//! | tensor | `.bin` | `.gguf` | `.pth`, `.safetensors` |
//! |---|---|---|---|
//! | vector | FP32 | FP32 | as in the input |
//! | matrix, FP32 or FP16 | as in the input | as in the input | as in the input |
//! | matrix, BF16 | FP32 | BF16 | BF16 |
//! | matrix, quantized | the same blocks | the same blocks | FP32 |
//!
//! The one exception is RWKV-4's `time_decay`, of which `.bin` holds −exp: on the way to or from it, the last
//! digits change. [`Converted::changed`] counts what did. A quantized embedding or head of a GGUF file, which
//! rwkv.cpp's own quantization leaves in half precision, keeps its blocks in a `.bin` too: rwkv.cpp reads each
//! tensor by its own format.

mod bin;
mod gguf;
mod plan;
mod pth;
mod safetensors;
mod values;

use std::io;
use std::path::Path;

use crate::atomic::{Staged, write_atomically};
use crate::config::ModelConfig;
use crate::control::Control;
use crate::data_type::DataType;
use crate::error::{Error, Result};
use crate::file::{FileFormat, ModelFile};
use crate::place::resolve;
use crate::quantize::{Counted, Failure};
use plan::Tensor;
pub(crate) use values::Edit;
use values::Values;

/// What [`convert`] makes.
#[derive(Clone, Copy, Debug)]
pub struct ConvertOptions<'a> {
    /// The output's format.
    pub to: FileFormat,
    /// FP32, FP16 or, but in `.bin`, BF16: of all matrices, and in `.pth` and `.safetensors` of all vectors too.
    /// None: nothing is rounded, see [`convert`].
    pub data_type: Option<DataType>,
    /// The vocabulary of a GGUF file: the bytes of each token, by its number. One without bytes is the end of a text
    /// if it is the first, and no token otherwise, as are those that are missing at the end. None: the file has no
    /// vocabulary, and programs run it by numbers of tokens alone. Other formats have none in any case.
    pub tokens: Option<&'a [Vec<u8>]>,
}

impl ConvertOptions<'_> {
    /// To this format, with nothing rounded and without a vocabulary.
    pub fn to(to: FileFormat) -> Self {
        Self { to, data_type: None, tokens: None }
    }
}

/// Result of [`convert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The input's format.
    pub from: FileFormat,
    /// The output's.
    pub to: FileFormat,
    /// The format of the input's matrices: of those of the first block, if they differ.
    pub from_type: DataType,
    /// The format of the output's.
    pub to_type: DataType,
    /// The input's size.
    pub bytes_in: u64,
    /// The output's size.
    pub bytes_out: u64,
    /// Number of tensors of the output.
    pub tensors: usize,
    /// Weights that are not in the output what they are in the input, because its format rounds them.
    pub changed: u64,
}

/// Writes the model of the file `input`, or of the `model.bin` of that directory, to `output`, in the format
/// that `options` name.
///
/// The input may have any format that [`ModelFile`] opens. Without a [`data_type`](ConvertOptions::data_type)
/// every weight keeps its format if the output can hold it, and becomes FP32 otherwise; so no number changes (but
/// RWKV-4's decays, whose logarithms `.pth` has, in the last digit). What is quantized keeps its blocks in `.bin`
/// and GGUF. The input is read, and the output written, some MB at a time, and the output is renamed into place
/// when it is whole: on an error, or when `control` says to end, there is none, and what was there before is as it
/// was. `control(done, total)` is told bytes of weights, before the first and after every few MB.
///
/// ```no_run
/// use rwkv_core::{ConvertOptions, FileFormat, convert, go_on};
///
/// # fn main() -> rwkv_core::Result<()> {
/// let made = convert("rwkv7-g1.pth", "rwkv7-g1.gguf", &ConvertOptions::to(FileFormat::Gguf), go_on)?;
/// println!("{} tensors, {} bytes; {} weights were rounded", made.tensors, made.bytes_out, made.changed);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// - [`Error::InvalidOption`] if the format cannot hold `data_type`, if that cannot hold a weight, if `output`
///   is the input, or if there are more `tokens` than the model has.
/// - [`Error::Unsupported`] if the output's program has no models of this version (GGUF of RWKV-4).
/// - [`Error::ModelFile`] if a weight is infinite or not a number, and those of [`ModelFile::open`].
/// - [`Error::FileChanged`] if the input is written to meanwhile.
/// - [`Error::Aborted`] if `control` says so.
/// - [`Error::Io`].
pub fn convert(
    input: impl AsRef<Path>,
    output: impl AsRef<Path>,
    options: &ConvertOptions<'_>,
    control: impl Control,
) -> Result<Converted> {
    let (input, output) = (&*resolve(input).model, output.as_ref());
    let file = ModelFile::open(input)?;
    if let (Ok(from), Ok(to)) = (input.canonicalize(), output.canonicalize())
        && from == to
    {
        let expected = "another file than the input, which would be replaced";
        return Err(Error::option("output", output.display(), expected));
    }
    let tensors = plan::tensors(&file, options)?;
    let to_type = plan::matrix_type(options, file.data_type());
    let job = Job { config: file.config(), to_type, tensors: &tensors, tokens: options.tokens };
    let mut values = Values::new(&file, &tensors, Edit::default(), control);
    let bytes_out = write(&file, output, options.to, &job, &mut values)?;
    Ok(Converted {
        from: file.format(),
        to: options.to,
        from_type: file.data_type(),
        to_type,
        bytes_in: file.len(),
        bytes_out,
        tensors: tensors.len(),
        changed: values.changed(),
    })
}

/// Writes the model of `file` to `output` as a `.bin`: matrices of blocks in `to_type`, each tensor in the format that
/// `retype` makes of the one it would have by `options`, and with weights edited. The number of bytes that were
/// written, and the tensors.
pub(crate) fn write_edited_bin(
    file: &ModelFile,
    output: &Path,
    (options, to_type): (&ConvertOptions<'_>, DataType),
    retype: impl Fn(&Tensor) -> DataType,
    edit: Edit<'_>,
    control: impl Control,
) -> Result<(u64, Vec<Tensor>)> {
    let mut tensors = plan::tensors(file, options)?;
    for tensor in &mut tensors {
        tensor.data_type = retype(tensor);
    }
    let job = Job { config: file.config(), to_type, tensors: &tensors, tokens: None };
    let mut values = Values::new(file, &tensors, edit, control);
    let bytes = write(file, output, FileFormat::RwkvCpp, &job, &mut values)?;
    Ok((bytes, tensors))
}

/// Writes the file at `output`, whole or not at all; the number of its bytes.
fn write(
    file: &ModelFile,
    output: &Path,
    to: FileFormat,
    job: &Job<'_>,
    values: &mut Values<'_, impl Control>,
) -> Result<u64> {
    let mut bytes = 0;
    // What stops the work, unless it is the writing itself, whose errors name the output.
    let mut stopped = None;
    let written = write_atomically(output, |out| {
        let mut out = Counted { out, count: 0 };
        let done = values.begin().map_err(Failure::Other).and_then(|()| match to {
            FileFormat::RwkvCpp => bin::write(&mut out, job, values),
            FileFormat::Pth => pth::write(&mut out, job, values),
            FileFormat::Safetensors => safetensors::write(&mut out, job, values),
            FileFormat::Gguf => gguf::write(&mut out, job, values),
        });
        bytes = out.count;
        done.and_then(|()| Ok(file.check()?)).map_err(|failure| match failure {
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
        None => written.map(|()| bytes),
    }
}

/// Tensors of FP32 that are in memory: the name of each, its dimensions (row length first) and its values.
pub(crate) type Floats<'a> = [(String, Vec<usize>, &'a [f32])];

/// The file of `path` with these tensors, `.pth` or `.safetensors`, up to the moment in which it takes its place.
pub(crate) fn stage_floats(path: &Path, to: FileFormat, floats: &Floats<'_>) -> Result<Staged> {
    let tensors: Vec<_> =
        floats.iter().map(|(name, dims, _)| Tensor::of_floats(name.clone(), dims.clone())).collect();
    Staged::write(path, |out| {
        let mut out = Counted { out, count: 0 };
        let body = |tensor: &Tensor, w: &mut dyn io::Write| {
            let values = floats.iter().find(|(name, ..)| *name == tensor.name).map_or(&[][..], |of| of.2);
            Ok(w.write_all(bytemuck::cast_slice(values))?)
        };
        let written = match to {
            FileFormat::Pth => pth::write_tensors(&mut out, &tensors, body),
            FileFormat::Safetensors => safetensors::write_tensors(&mut out, &tensors, body),
            FileFormat::RwkvCpp | FileFormat::Gguf => {
                Err(io::Error::other(format!("{to} is for whole models")).into())
            }
        };
        written.map_err(|failure| match failure {
            Failure::Write(error) => error,
            Failure::Other(error) => io::Error::other(error),
        })
    })
}

/// What is to be written.
struct Job<'a> {
    config: &'a ModelConfig,
    /// The format of the matrices of blocks.
    to_type: DataType,
    tensors: &'a [Tensor],
    tokens: Option<&'a [Vec<u8>]>,
}

/// Whether something was written, or why not.
type Written = std::result::Result<(), Failure>;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::config::Version;
    use crate::control::go_on;
    use crate::model::Network;

    /// A disk that is full after so many bytes.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            if taken == 0 && !bytes.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_told_as_such_in_every_format() {
        let config = ModelConfig::usual(Version::V7, 5, 8, 2).unwrap();
        let (_, layout, _) = Network::new(&config);
        let values: Vec<_> = layout.specs().iter().map(|spec| vec![0.5; spec.len()]).collect();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.bin");
        crate::file::write_model(&path, &config, &layout, &values, DataType::F32).unwrap();
        let file = ModelFile::open(&path).unwrap();
        for to in FileFormat::ALL {
            let tensors = plan::tensors(&file, &ConvertOptions::to(to)).unwrap();
            let job = Job { config: &config, to_type: DataType::F32, tensors: &tensors, tokens: None };
            let write = |room: usize| {
                let mut out = Counted { out: &mut Full(room), count: 0 };
                let mut values = Values::new(&file, &tensors, Edit::default(), go_on);
                let written = match to {
                    FileFormat::RwkvCpp => bin::write(&mut out, &job, &mut values),
                    FileFormat::Pth => pth::write(&mut out, &job, &mut values),
                    FileFormat::Safetensors => safetensors::write(&mut out, &job, &mut values),
                    FileFormat::Gguf => gguf::write(&mut out, &job, &mut values),
                };
                (written, out.count as usize)
            };
            let (written, len) = write(usize::MAX);
            assert!(written.is_ok());
            for room in (0..len).step_by(97).chain([len - 1]) {
                let Err(Failure::Write(error)) = write(room).0 else { panic!("{to}, {room} of {len} bytes") };
                assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{to}, {room} of {len} bytes: {error}");
            }
        }
    }
}
