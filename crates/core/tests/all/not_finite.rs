//! Weights that are infinite or no numbers, and weights too large: an error that names the tensor, never
//! silent nonsense.

#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use crate::common::{cpu, every_cpu, tokens, values, write};
use half::f16;
use rwkv_core::model::Network;
use rwkv_core::params::ParamSpec;
use rwkv_core::{DataType, Error, LoadOptions, Model, ModelConfig, Outputs, Result, Segment, quantize};
use rwkv_kernels::Isa;

const CONFIG: ModelConfig = ModelConfig::v4(40, 32, 2);

const BAD: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

/// The model's values with a bad one in the parameter `spec`.
fn with(spec: usize, at: usize, bad: f32) -> Vec<Vec<f32>> {
    let mut values = values(&CONFIG, 1);
    values[spec][at] = bad;
    values
}

fn specs() -> Vec<ParamSpec> {
    Network::new(&CONFIG).1.specs().to_vec()
}

/// Reads every token there is, so that every row of the embedding is used.
fn read(model: &Model) -> Result<Vec<f32>> {
    let all: Vec<u32> = (0..CONFIG.n_vocab as u32).collect();
    model.eval(&all, &mut model.new_state())
}

fn names(error: &Error, tensor: &str) {
    let text = error.to_string();
    assert!(text.contains(&format!("{tensor:?}")), "{tensor}: {text}");
    assert!(["MODEL_FILE", "NOT_FINITE"].contains(&error.code()), "{text}");
}

#[test]
fn a_bad_weight_anywhere_is_named_at_load_or_at_the_first_pass() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.bin");
    for (index, spec) in specs().iter().enumerate() {
        for bad in BAD {
            let values = with(index, spec.len() * 2 / 3, bad);
            for data_type in [DataType::F32, DataType::F16] {
                write(&path, &CONFIG, &values, data_type);
                for cpu in every_cpu() {
                    let loaded = Model::load_on(&path, cpu);
                    assert_eq!(loaded.is_err(), !spec.is_matrix(), "{}", spec.name);
                    let error = loaded.and_then(|model| read(&model)).unwrap_err();
                    names(&error, &spec.name);
                    assert_eq!(error.code(), "MODEL_FILE");
                }
            }
            if spec.is_matrix() {
                let model = Model::from_parameters(CONFIG, values, cpu(Isa::detect(), 1));
                let error = read(&model).unwrap_err();
                names(&error, &spec.name);
                assert_eq!(error.code(), "NOT_FINITE");
            }
        }
    }
}

/// An infinite receptance would be a gate of exactly 1: finite, and wrong.
#[test]
fn no_state_is_moved_by_a_bad_weight_and_none_is_needed_to_find_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.bin");
    let (_, layout, _) = Network::new(&CONFIG);
    let index = layout.find("blocks.1.ffn.receptance.weight").unwrap();
    write(&path, &CONFIG, &with(index, 0, f32::INFINITY), DataType::F16);
    let model = Model::load(&path, &LoadOptions::default()).unwrap();
    let mut state = model.new_state();
    for outputs in [Outputs::None, Outputs::Last, Outputs::All] {
        let mut segments = [Segment { tokens: &[1, 2, 3], state: &mut state }];
        let error = model.eval_batch(&mut segments, outputs).unwrap_err();
        names(&error, "blocks.1.ffn.receptance.weight");
        assert!(error.to_string().contains("row 0"), "{error}");
        assert_eq!(state, model.new_state());
    }
}

/// In a quantized file a bad number can only be a scale, or stand in what is not quantized.
#[test]
fn a_bad_scale_is_named_in_every_quantized_format() {
    let directory = tempfile::tempdir().unwrap();
    let (path, small) = (directory.path().join("model.bin"), directory.path().join("small.bin"));
    write(&path, &CONFIG, &values(&CONFIG, 1), DataType::F32);
    for data_type in DataType::QUANTIZED {
        let go_on = |_, _| ControlFlow::Continue(());
        quantize(&path, &small, data_type, &LoadOptions::default(), go_on).unwrap();
        let sound = std::fs::read(&small).unwrap();
        let file = rwkv_core::ModelFile::open(&small).unwrap();
        for (index, spec) in specs().iter().enumerate().filter(|(_, spec)| spec.is_matrix()) {
            let (tensor, data) = file.tensor(index);
            let at = data.as_ptr().addr() - file.tensor(0).1.as_ptr().addr() + 24 + 20 + "emb.weight".len();
            for bad in BAD {
                let mut bytes = sound.clone();
                if tensor.data_type == DataType::F32 {
                    bytes[at..at + 4].copy_from_slice(&bad.to_le_bytes());
                } else {
                    let block = at + data.len() / tensor.data_type.block().1 / 2 * tensor.data_type.block().1;
                    bytes[block..block + 2].copy_from_slice(&f16::from_f32(bad).to_le_bytes());
                }
                let damaged = directory.path().join("damaged.bin");
                std::fs::write(&damaged, bytes).unwrap();
                for cpu in every_cpu() {
                    let error = Model::load_on(&damaged, cpu).and_then(|model| read(&model)).unwrap_err();
                    names(&error, &spec.name);
                }
            }
        }
    }
}

#[test]
fn quantizing_refuses_a_bad_weight_wherever_it_stands() {
    let directory = tempfile::tempdir().unwrap();
    let (path, small) = (directory.path().join("model.bin"), directory.path().join("small.bin"));
    for (index, spec) in specs().iter().enumerate() {
        for data_type in [DataType::F32, DataType::F16] {
            write(&path, &CONFIG, &with(index, spec.len() - 1, f32::NAN), data_type);
            let go_on = |_, _| ControlFlow::Continue(());
            let error = quantize(&path, &small, DataType::Q4_0, &LoadOptions::default(), go_on).unwrap_err();
            names(&error, &spec.name);
            assert!(!small.exists());
        }
    }
}

#[test]
fn numbers_that_grow_too_large_are_an_error_and_no_nonsense() {
    let mut values = values(&CONFIG, 1);
    let (_, layout, _) = Network::new(&CONFIG);
    let index = layout.find("blocks.0.ffn.value.weight").unwrap();
    values[index].fill(3e38);
    for cpu in every_cpu() {
        let model = Model::from_parameters(CONFIG, values.clone(), cpu);
        let error = read(&model).unwrap_err();
        assert_eq!(error.code(), "NOT_FINITE");
        assert!(error.to_string().contains("too large for single precision"), "{error}");
        let text = tokens(CONFIG.n_vocab, 50);
        let error = model.evaluate(&text, None, |_, _| ControlFlow::Continue(())).unwrap_err();
        assert_eq!(error.code(), "NOT_FINITE");
    }
}

/// Of such numbers the variance is infinite, and 1 / √∞ would leave nothing of the token but the norm's bias.
#[test]
fn an_embedding_whose_squares_are_too_large_is_an_error() {
    let mut values = values(&CONFIG, 1);
    let (_, layout, _) = Network::new(&CONFIG);
    let index = layout.find("emb.weight").unwrap();
    for (i, value) in values[index][3 * CONFIG.n_embd..][..CONFIG.n_embd].iter_mut().enumerate() {
        *value = if i % 2 == 0 { 1e20 } else { -3e20 };
    }
    for cpu in every_cpu() {
        let model = Model::from_parameters(CONFIG, values.clone(), cpu);
        let mut state = model.new_state();
        model.eval(&[1, 2], &mut state).unwrap();
        let before = state.clone();
        // Also where it is not the last token whose logits are wanted.
        for text in [&[3][..], &[1, 3, 2], &[3; 40]] {
            assert_eq!(model.eval(text, &mut state).unwrap_err().code(), "NOT_FINITE");
            assert_eq!(state, before);
        }
    }
}
