//! Two small files and what they compute, made by NumPy in double precision: `fixtures/make_tiny_v4.py`.

#![allow(clippy::unwrap_used)]

use std::fs;

use crate::common::{every_cpu, fixture, largest_difference};
use rwkv_core::{DataType, Model, ModelFile};
use serde_json::Value;

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

#[test]
fn logits_after_every_token_and_the_last_state() {
    let expected: Value = serde_json::from_slice(&fs::read(fixture("tiny-v4.json")).unwrap()).unwrap();
    let tokens: Vec<_> = floats(&expected["tokens"]).into_iter().map(|token| token as u32).collect();
    for data_type in [DataType::F32, DataType::F16] {
        let expected = &expected[data_type.name()];
        let rows = expected["logits"].as_array().unwrap();
        let expected_logits: Vec<f32> = rows.iter().flat_map(floats).collect();
        let expected_state = floats(&expected["state"]);
        for cpu in every_cpu() {
            let model = Model::load_on(fixture(&format!("tiny-v4-{data_type}.bin")), cpu).unwrap();
            let mut state = model.new_state();
            let logits = model.eval_all(&tokens, &mut state).unwrap();
            let logits = largest_difference(&logits, &expected_logits);
            let state = largest_difference(state.as_slice(), &expected_state);
            println!(
                "{data_type}, {} × {}: logits {logits:e}, state {state:e}",
                model.cpu().isa(),
                model.cpu().threads()
            );
            // An activation that f32 and f64 put on different sides of a tie becomes another half, 2⁻¹⁰ of
            // itself away; activations are below 8 here and weights below 1, and few ties are that close.
            let tolerance = if data_type == DataType::F16 { 8.0 / 1024.0 } else { 2e-5 };
            assert!(logits < tolerance && state < tolerance);
        }
    }
}

#[test]
fn the_hidden_width_comes_from_the_file() {
    let file = ModelFile::open(fixture("tiny-v4-FP32.bin")).unwrap();
    let config = file.config();
    assert_eq!((config.n_vocab, config.n_embd, config.n_layer, config.n_ffn), (23, 19, 2, 45));
}

#[test]
fn files_are_written_again_byte_for_byte() {
    let directory = tempfile::tempdir().unwrap();
    let again = directory.path().join("again.bin");
    for data_type in [DataType::F32, DataType::F16] {
        let path = fixture(&format!("tiny-v4-{data_type}.bin"));
        // The order of this file's tensors is not that of our layout.
        ModelFile::open(&path).unwrap().write_to(&again).unwrap();
        assert!(fs::read(&path).unwrap() == fs::read(&again).unwrap(), "{data_type}");
    }
}
