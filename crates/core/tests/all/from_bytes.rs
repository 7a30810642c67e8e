//! A model of bytes in memory is that of the file with the same bytes. That damaged bytes get the answer of a
//! damaged file is tested beside those, in `damaged_files.rs`.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::common::{cpu, every_cpu, tokens, values, write};
use rwkv_core::{DataType, LoadOptions, Model, ModelConfig, ModelFile, go_on, quantize};
use rwkv_kernels::Isa;

const CONFIG: ModelConfig = ModelConfig::v4(40, 64, 2);

/// A file in each of the formats.
fn files(directory: &Path) -> Vec<PathBuf> {
    let path = |format: DataType| directory.join(format!("{format}.bin"));
    for format in DataType::ALL {
        match format {
            DataType::F32 | DataType::F16 => write(path(format), &CONFIG, &values(&CONFIG, 1), format),
            _ => {
                quantize(path(DataType::F32), path(format), format, &LoadOptions::default(), go_on).unwrap();
            }
        }
    }
    DataType::ALL.map(path).to_vec()
}

#[test]
fn logits_and_states_are_those_of_the_file_in_every_format() {
    let directory = tempfile::tempdir().unwrap();
    let text = tokens(CONFIG.n_vocab, 40);
    for path in files(directory.path()) {
        for cpu in every_cpu() {
            let of_file = Model::load_on(&path, cpu.clone()).unwrap();
            let of_bytes = Model::from_bytes_with(fs::read(&path).unwrap(), cpu, go_on).unwrap();
            assert_eq!(of_bytes.data_type(), of_file.data_type());
            assert_eq!(of_bytes.fingerprint().unwrap(), of_file.fingerprint().unwrap());
            let (mut one, mut other) = (of_file.new_state(), of_bytes.new_state());
            let expected = of_file.eval_all(&text, &mut one).unwrap();
            assert!(of_bytes.eval_all(&text, &mut other).unwrap() == expected, "{}", path.display());
            assert!(one == other);
            // Each goes on from the other's state.
            let expected = of_file.eval(&[1], &mut one.clone()).unwrap();
            assert_eq!(of_bytes.eval(&[1], &mut one).unwrap(), expected);
            assert_eq!(of_file.eval(&[1], &mut other).unwrap(), expected);
        }
    }
}

#[test]
fn what_becomes_of_the_file_is_no_matter_and_states_outlive_the_model() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.bin");
    write(&path, &CONFIG, &values(&CONFIG, 1), DataType::F16);
    let model = Model::from_bytes(fs::read(&path).unwrap(), &LoadOptions::default()).unwrap();
    let again = directory.path().join("again.bin");
    ModelFile::from_bytes(fs::read(&path).unwrap()).unwrap().write_to(&again).unwrap();
    assert!(fs::read(&again).unwrap() == fs::read(&path).unwrap());
    fs::write(&path, "cut").unwrap();
    let mut state = model.new_state();
    model.eval(&[1, 2, 3], &mut state).unwrap();
    drop(model);
    let bytes = state.to_bytes().unwrap();
    let of_file = Model::load(&again, &LoadOptions::default()).unwrap();
    assert!(of_file.state_from_bytes(&bytes).unwrap() == state);
}

#[test]
fn a_bad_weight_is_named_and_loading_can_be_stopped() {
    let mut bad = values(&CONFIG, 1);
    // The first vector of the layout, and a matrix.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.bin");
    let says = |values: &[Vec<f32>]| {
        write(&path, &CONFIG, values, DataType::F32);
        let cpu = cpu(Isa::Scalar, 1);
        let run = |model: rwkv_core::Result<Model>| {
            let error = model.and_then(|model| model.eval(&[0, 1], &mut model.new_state())).unwrap_err();
            (error.code(), error.to_string())
        };
        let of_bytes = run(Model::from_bytes_with(fs::read(&path).unwrap(), cpu.clone(), go_on));
        let (code, text) = run(Model::load_on(&path, cpu));
        assert_eq!(of_bytes, (code, text.replace(&path.display().to_string(), "the buffer")));
        of_bytes.1
    };
    let at = ModelFile::from_bytes({
        write(&path, &CONFIG, &bad, DataType::F32);
        fs::read(&path).unwrap()
    });
    let at = at.unwrap();
    let index = |name: &str| at.layout().specs().iter().position(|spec| spec.name == name).unwrap();
    let (vector, matrix) = (index("ln_out.bias"), index("blocks.0.att.key.weight"));
    bad[matrix][5] = f32::INFINITY;
    assert!(says(&bad).contains("the buffer: tensor \"blocks.0.att.key.weight\""));
    bad[vector][1] = f32::NAN;
    assert!(says(&bad).contains("the buffer: tensor \"ln_out.bias\""));

    write(&path, &CONFIG, &values(&CONFIG, 1), DataType::F32);
    let stopped =
        Model::from_bytes_with(fs::read(&path).unwrap(), cpu(Isa::Scalar, 1), |_, _| ControlFlow::Break(()));
    assert_eq!(stopped.unwrap_err().code(), "ABORTED");
}
