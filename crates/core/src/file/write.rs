//! From values to bytes.

use std::io::{self, Write};
use std::path::Path;

use half::f16;

use super::{Header, MAGIC, TensorInfo, unsupported};
use crate::atomic::Staged;
use crate::config::ModelConfig;
use crate::data_type::DataType;
use crate::error::{Error, Fault, Result};
use crate::params::{Layout, ParamSpec};

/// Writes a model file of version 101, whole or not at all.
///
/// `values` has one slice for each parameter of `layout`, in its order, as stored (see
/// [`Stored`](crate::params::Stored)). Matrices take `data_type`; vectors stay FP32, as rwkv.cpp's converter
/// leaves them.
///
/// # Errors
/// [`Error::InvalidOption`] if `data_type` is quantized or cannot hold a weight; [`Error::Io`] if the file
/// cannot be written.
///
/// # Panics
/// If `values` does not have the shapes of `layout`.
pub fn write_model(
    path: impl AsRef<Path>,
    config: &ModelConfig,
    layout: &Layout,
    values: &[impl AsRef<[f32]>],
    data_type: DataType,
) -> Result<()> {
    stage_model(path, config, layout, values, data_type)?.commit()
}

/// As [`write_model`], up to the moment in which the file takes its place.
///
/// # Errors
/// Those of [`write_model`].
///
/// # Panics
/// As [`write_model`].
pub fn stage_model(
    path: impl AsRef<Path>,
    config: &ModelConfig,
    layout: &Layout,
    values: &[impl AsRef<[f32]>],
    data_type: DataType,
) -> Result<Staged> {
    let specs = layout.specs();
    assert_eq!(values.len(), specs.len(), "a slice for each parameter");
    for (spec, values) in specs.iter().zip(values) {
        assert_eq!(values.as_ref().len(), spec.len(), "values of {}", spec.name);
        check_range(spec, values.as_ref(), data_type)?;
    }
    let header = Header {
        version: 101,
        n_vocab: size("n_vocab", config.n_vocab)?,
        n_embd: size("n_embd", config.n_embd)?,
        n_layer: size("n_layer", config.n_layer)?,
        data_type,
    };
    size("n_ffn", config.n_ffn)?;
    Staged::write(path.as_ref(), |w| {
        self::header(w, &header)?;
        specs.iter().zip(values).try_for_each(|(spec, values)| {
            let data_type = if spec.is_matrix() { data_type } else { DataType::F32 };
            tensor_header(w, &spec.name, &spec.dims, data_type)?;
            data(w, values.as_ref(), data_type)
        })
    })
}

/// Refuses formats that this version cannot write, and weights that would become infinite.
fn check_range(spec: &ParamSpec, values: &[f32], data_type: DataType) -> Result<()> {
    match data_type {
        DataType::F32 => Ok(()),
        DataType::F16 if !spec.is_matrix() => Ok(()),
        DataType::F16 => {
            match values.iter().find(|value| value.is_finite() && f16::from_f32(**value).is_infinite()) {
                None => Ok(()),
                Some(value) => {
                    let expected =
                        format!("FP32, because {} holds {value} and FP16 ends at 65504", spec.name);
                    Err(Error::option("data_type", data_type, expected))
                }
            }
        }
        _ => Err(Error::option("data_type", data_type, "FP32 or FP16")),
    }
}

fn size(name: &'static str, value: usize) -> Result<u32> {
    u32::try_from(value).map_err(|_| Error::option(name, value, format!("at most {}", u32::MAX)))
}

pub(crate) fn header(w: &mut dyn Write, header: &Header) -> io::Result<()> {
    let &Header { version, n_vocab, n_embd, n_layer, data_type } = header;
    numbers(w, &[MAGIC, version, n_vocab, n_embd, n_layer, code(data_type)?])
}

/// Refuses, before anything is written, to copy what a file of rwkv.cpp cannot hold.
pub(crate) fn check_formats(path: &Path, header: &Header, tensors: &[TensorInfo]) -> Result<()> {
    let refused = |what: String| {
        Err(unsupported(path, format!("{what}, which files of rwkv.cpp cannot hold"))
            .of_kind(Fault::DataType))
    };
    if header.data_type.code().is_none() {
        return refused(format!("its matrices are {}", header.data_type));
    }
    match tensors.iter().find(|tensor| tensor.data_type.code().is_none()) {
        Some(tensor) => refused(format!("{:?} is {}", tensor.name, tensor.data_type)),
        None => Ok(()),
    }
}

/// The number of a format. Whoever writes has asked for it before; to write another's would make a file of
/// wrong weights.
fn code(data_type: DataType) -> io::Result<u32> {
    data_type.code().ok_or_else(|| {
        let problem = format!("files of rwkv.cpp cannot hold {data_type}");
        io::Error::new(io::ErrorKind::InvalidInput, problem)
    })
}

/// `dims` and the name's length fit 32 bits: they come from a checked file or a checked [`ModelConfig`].
pub(crate) fn tensor_header(
    w: &mut dyn Write,
    name: &str,
    dims: &[usize],
    data_type: DataType,
) -> io::Result<()> {
    numbers(w, &[dims.len() as u32, name.len() as u32, code(data_type)?])?;
    dims.iter().try_for_each(|&dim| numbers(w, &[dim as u32]))?;
    w.write_all(name.as_bytes())
}

fn data(w: &mut dyn Write, values: &[f32], data_type: DataType) -> io::Result<()> {
    if data_type == DataType::F32 {
        return w.write_all(bytemuck::cast_slice(values));
    }
    let mut halves = Vec::new();
    values.chunks(1 << 14).try_for_each(|values| {
        halves.clear();
        halves.extend(values.iter().map(|&value| f16::from_f32(value)));
        w.write_all(bytemuck::cast_slice(&halves))
    })
}

fn numbers(w: &mut dyn Write, numbers: &[u32]) -> io::Result<()> {
    numbers.iter().try_for_each(|number| w.write_all(&number.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::ModelFile;
    use crate::model::Network;

    /// Values that differ everywhere and that half precision holds exactly.
    fn example() -> (ModelConfig, Layout, Vec<Vec<f32>>) {
        let config = ModelConfig { n_ffn: 6, ..ModelConfig::v4(5, 4, 2) };
        let (_, layout, _) = Network::new(&config);
        let mut count = 0.0;
        let values = layout.specs().iter().map(|spec| {
            (0..spec.len())
                .map(|_| {
                    count += 0.25;
                    count - 50.0
                })
                .collect()
        });
        let values = values.collect();
        (config, layout, values)
    }

    #[test]
    fn what_was_written_is_read_and_written_again_byte_for_byte() {
        let directory = tempfile::tempdir().unwrap();
        let (path, again) = (directory.path().join("a.bin"), directory.path().join("b.bin"));
        let (config, layout, values) = example();
        for data_type in [DataType::F32, DataType::F16] {
            write_model(&path, &config, &layout, &values, data_type).unwrap();
            let file = ModelFile::open(&path).unwrap();
            assert_eq!(*file.config(), config);
            let names = |layout: &Layout| -> Vec<_> {
                layout.specs().iter().map(|spec| (spec.name.clone(), spec.dims.clone())).collect()
            };
            assert_eq!(names(file.layout()), names(&layout));
            assert_eq!((file.format_version(), file.data_type()), (101, data_type));
            for (index, spec) in layout.specs().iter().enumerate() {
                let (tensor, _) = file.tensor(index);
                let expected = if spec.is_matrix() { data_type } else { DataType::F32 };
                assert_eq!((&tensor.name, tensor.data_type), (&spec.name, expected));
                assert_eq!(file.read(index), values[index], "{}", spec.name);
            }
            file.write_to(&again).unwrap();
            assert_eq!(std::fs::read(&again).unwrap(), std::fs::read(&path).unwrap());
        }
    }

    #[test]
    fn weights_beyond_half_precision_and_quantized_formats_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.bin");
        let (config, layout, mut values) = example();
        let key = layout.find("blocks.1.att.key.weight").unwrap();
        values[key][3] = -65_520.0;
        for data_type in [DataType::F16, DataType::Q5_1, DataType::BF16] {
            let error = write_model(&path, &config, &layout, &values, data_type).unwrap_err();
            assert_eq!(error.code(), "INVALID_OPTION", "{error}");
        }
        assert!(!path.exists());
        for data_type in DataType::EVERY {
            let header = Header { version: 101, n_vocab: 5, n_embd: 4, n_layer: 2, data_type };
            let tensor = |data_type| TensorInfo {
                name: "ln0.bias".to_owned(),
                data_type,
                dims: vec![1],
                offset: 0,
                data: 0..0,
            };
            let sound = data_type != DataType::BF16;
            assert_eq!(super::header(&mut Vec::new(), &header).is_ok(), sound);
            assert_eq!(tensor_header(&mut Vec::new(), "ln0.bias", &[1], data_type).is_ok(), sound);
            assert_eq!(check_formats(&path, &header, &[]).is_ok(), sound);
            let plain = Header { data_type: DataType::F32, ..header };
            match check_formats(&path, &plain, &[tensor(DataType::F32), tensor(data_type)]) {
                Ok(()) => assert!(sound),
                Err(error) => {
                    assert!(!sound && error.to_string().contains("\"ln0.bias\" is BF16"), "{error}")
                }
            }
        }
        write_model(&path, &config, &layout, &values, DataType::F32).unwrap();
    }
}
