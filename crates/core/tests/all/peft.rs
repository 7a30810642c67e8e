//! Adapters of PEFT and RWKV-PEFT, against what these make of them (`fixtures/make_adapters.py`).

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::fixture;
use rwkv_core::lora::{LoraOptions, merge, merge_with};
use rwkv_core::{ConvertOptions, DataType, FileFormat, LoadOptions, Model, ModelFile, convert, go_on};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tempfile::TempDir;

const ALLOW: LoraOptions = LoraOptions { allow_other_base: true, alpha: None };
/// That of the `.pth`, which does not say it.
const SIX: LoraOptions = LoraOptions { allow_other_base: true, alpha: Some(6.0) };

/// Products of matrices with 1, 1/2, 1/3 …
type Products = HashMap<String, Vec<f64>>;

fn expected(kind: &str) -> Products {
    let text = fs::read(fixture("tiny-v7-lora.json")).unwrap();
    let all: HashMap<String, Products> = serde_json::from_slice(&text).unwrap();
    all[kind].clone()
}

/// The products of the model's matrices; those of a base that are not in it are left out.
fn products(path: &Path) -> Products {
    let file = ModelFile::open(path).unwrap();
    let specs = file.layout().specs().iter().enumerate().filter(|(_, spec)| spec.is_matrix());
    let products = specs.map(|(index, spec)| {
        let rows = file.read(index);
        let row = |row: &[f32]| row.iter().enumerate().map(|(i, &w)| f64::from(w) / (i + 1) as f64).sum();
        (spec.name.clone(), rows.chunks(spec.cols).map(row).collect())
    });
    products.collect()
}

fn load(path: &Path) -> Model {
    Model::load(path, &LoadOptions { threads: Some(1), ..Default::default() }).unwrap()
}

fn logits(model: &Model) -> Vec<f32> {
    model.eval_all(&[3, 1, 4, 1, 5, 9, 2, 6], &mut model.new_state()).unwrap()
}

/// A directory with the fixture of PEFT's in it.
fn copy() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(fixture("tiny-v7-lora").join(name), directory.path().join(name)).unwrap();
    }
    let path = directory.path().to_owned();
    (directory, path)
}

/// All bases hold the same numbers, so that it makes no difference which of them is changed.
#[test]
fn adapters_of_both_programs_make_of_every_format_what_these_make_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("merged.bin");
    for (adapter, options, kind) in [
        (fixture("tiny-v7-lora.pth"), SIX, "rwkvPeft"),
        (fixture("tiny-v7-lora"), ALLOW, "peft"),
        (fixture("tiny-v7-lora/adapter_model.safetensors"), ALLOW, "peft"),
    ] {
        let expected = expected(kind);
        assert!(expected.len() > 10);
        for base in ["tiny-v7.pth", "tiny-v7-fla.safetensors", "tiny-v7-web.safetensors", "tiny-v7.gguf"] {
            let base = fixture(base);
            let merged = merge_with(&base, &adapter, &output, &options, go_on).unwrap();
            assert_eq!(merged.adapted, expected.len());
            let (before, after) = (products(&base), products(&output));
            for (name, found) in &after {
                let should = expected.get(name).unwrap_or(&before[name]);
                assert_eq!(found.len(), should.len(), "{name}");
                let worst = found.iter().zip(should).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
                // What stays FP16 is rounded.
                let most = if merged.to == DataType::F16 { 5e-3 } else { 2e-6 };
                assert!(worst < most, "{}, {name}: {worst:e}", base.display());
            }
            let adapted = logits(&load(&base).with_lora_options(&adapter, &options).unwrap());
            let found = logits(&load(&output));
            let worst = adapted.iter().zip(&found).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            let plain = logits(&load(&base));
            let far = plain.iter().zip(&found).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            // Products with FP16 round what they are multiplied with, and the adapter's do not.
            let most = if merged.to == DataType::F16 { 0.2 * far } else { 0.01 * far };
            assert!(worst < most, "{}: {worst:e} of {far:e}", base.display());
        }
    }
}

#[track_caller]
fn refused(adapter: &Path, options: &LoraOptions, says: &[&str]) {
    let output = std::env::temp_dir().join("rwkv-never-written.bin");
    let base = fixture("tiny-v7.pth");
    for error in [
        load(&base).with_lora_options(adapter, options).map(drop).unwrap_err(),
        merge_with(&base, adapter, &output, options, go_on).map(drop).unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(says.iter().all(|says| text.contains(says)), "{text}");
    }
    assert!(!output.exists());
}

#[test]
fn what_the_files_do_not_say_has_to_be_said() {
    let pth = fixture("tiny-v7-lora.pth");
    let strict = LoraOptions { allow_other_base: false, ..SIX };
    refused(&pth, &strict, &["tiny-v7-lora.pth", "which model it was trained on", "allowOtherBase"]);
    refused(&pth, &ALLOW, &["do not say their alpha", "loraAlpha"]);
    refused(&fixture("tiny-v7-lora"), &SIX, &["says its alpha, 5", "leave out"]);
    refused(&pth, &LoraOptions { alpha: Some(f32::NAN), ..SIX }, &["alpha is NaN"]);
    let error = merge(fixture("tiny-v7.pth"), &pth, "unwritten", go_on).unwrap_err();
    assert_eq!(error.code(), "ADAPTER");
    // One of the two files is not there.
    let (_guard, path) = copy();
    let model = path.join("adapter_model.safetensors");
    fs::rename(path.join("adapter_config.json"), path.join("away")).unwrap();
    refused(&path, &ALLOW, &["adapter_model.safetensors", "\"adapter_config.json\"", "is missing"]);
    fs::rename(path.join("away"), path.join("adapter_config.json")).unwrap();
    fs::remove_file(model).unwrap();
    refused(&path, &ALLOW, &["the adapter itself, \"adapter_model.safetensors\", is missing"]);
    // Another shape.
    let error = load(&fixture("tiny-v4.pth")).with_lora_options(&pth, &SIX).unwrap_err().to_string();
    assert!(error.contains("blocks.0.att.") && error.contains("dimensions"), "{error}");
}

#[test]
fn configurations_of_more_than_plain_lora_are_refused_by_name() {
    let text = fs::read(fixture("tiny-v7-lora/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&text).unwrap();
    for (key, value) in [
        ("peft_type", json!("LOHA")),
        ("r", json!(4)),
        ("use_dora", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("rank_pattern", json!({ "lm_head": 4 })),
        ("alpha_pattern", json!({ "lm_head": 4 })),
        ("init_lora_weights", json!("pissa_niter_4")),
    ] {
        let (_guard, path) = copy();
        let mut config = config.clone();
        config[key] = value;
        fs::write(path.join("adapter_config.json"), config.to_string()).unwrap();
        refused(&path, &ALLOW, &["adapter_config.json", &format!("{key:?}")]);
    }
    for text in ["", "[]", "{}", r#"{"r": -1, "lora_alpha": 1}"#, r#"{"r": 2, "lora_alpha": "x"}"#] {
        let (_guard, path) = copy();
        fs::write(path.join("adapter_config.json"), text).unwrap();
        refused(&path, &ALLOW, &["adapter_config.json", "not a configuration of PEFT"]);
    }
}

#[test]
fn wrong_tensors_are_refused_by_name() {
    let (_guard, path) = copy();
    let model = path.join("adapter_model.safetensors");
    let good = fs::read(&model).unwrap();
    let file = SafeTensors::deserialize(&good).unwrap();
    let name = "base_model.model.model.layers.1.ffn.key.lora_A.weight";
    let shape = file.tensor(name).unwrap().shape().to_vec();
    let zeros = vec![0_u8; 4 * shape.iter().product::<usize>()];
    let not_finite = f32::INFINITY.to_le_bytes().repeat(zeros.len() / 4);
    let write = |replaced: &str, by: &str, shape: Vec<usize>, data: &[u8]| {
        let tensors = file.iter().filter(|(name, _)| *name != replaced);
        let own = TensorView::new(safetensors::Dtype::F32, shape, data).unwrap();
        let tensors: Vec<_> = tensors.map(|(name, view)| (name.to_owned(), view)).collect();
        let all = tensors.into_iter().chain([(by.to_owned(), own)]);
        fs::write(&model, safetensors::serialize(all, None).unwrap()).unwrap();
    };
    write(name, name, shape.clone(), &zeros);
    load(&fixture("tiny-v7.pth")).with_lora_options(&path, &ALLOW).unwrap();
    write(name, name, shape.clone(), &not_finite);
    refused(&path, &ALLOW, &[name, "value 0", "inf"]);
    write(name, name, shape.iter().rev().copied().collect(), &zeros);
    refused(&path, &ALLOW, &[name, "dimensions"]);
    for (by, says) in [
        ("base_model.model.model.layers.1.ffn.key.lora_magnitude_vector", "no factor of low rank"),
        ("base_model.model.model.layers.1.ffn.key.lora_B.bias", "no factor of low rank"),
        ("base_model.model.model.layers.7.ffn.key.lora_A.weight", "blocks.7.ffn.key.weight"),
        ("base_model.model.model.layers.1.ffn.gate.lora_A.weight", "which this model has not"),
        ("base_model.model.model.embeddings.lora_A.weight", "only looked up"),
        ("base_model.model.blocks.0.ffn.value.lora_A.weight", "no other factor"),
        ("base_model.model.blocks.0.att.receptance.lora_A.weight", "the same factor"),
    ] {
        write(name, by, shape.clone(), &zeros);
        refused(&path, &ALLOW, &[says]);
    }
    // What is cut off is no adapter of anybody's.
    for len in [0, 7, 100, good.len() - 1] {
        fs::write(&model, &good[..len]).unwrap();
        let error = load(&fixture("tiny-v7.pth")).with_lora_options(&path, &ALLOW).unwrap_err();
        assert!(error.to_string().contains("adapter_model.safetensors"), "{error}");
    }
}

/// From the equations in float64, where the order of heads, values and keys makes a difference.
#[test]
fn a_time_state_starts_a_text_as_it_does_in_the_equations() {
    let model = load(&fixture("tiny-v7.pth"));
    let text: Value = serde_json::from_slice(&fs::read(fixture("tiny-v7.json")).unwrap()).unwrap();
    let tokens: Vec<u32> = serde_json::from_value(text["tokens"].clone()).unwrap();
    let bytes = fs::read(fixture("tiny-v7-state.pth")).unwrap();
    let expected = expected("timeState")["logits"].clone();
    let mut state = model.state_from_bytes_with(&bytes, true).unwrap();
    // From here on it is like any other.
    assert_eq!(model.state_from_bytes(&state.to_bytes().unwrap()).unwrap(), state);
    let found = model.eval_all(&tokens, &mut state).unwrap();
    assert_eq!(found.len(), expected.len());
    let worst = |found: &[f32]| {
        found.iter().zip(&expected).map(|(x, y)| (f64::from(*x) - y).abs()).fold(0.0, f64::max)
    };
    let plain = model.eval_all(&tokens, &mut model.new_state()).unwrap();
    // Its weights are bf16, and products with them may round what they are multiplied with.
    assert!(worst(&found) < 0.1 * worst(&plain), "{:e} of {:e}", worst(&found), worst(&plain));
    // In single precision, nearly to the last digit.
    let directory = tempfile::tempdir().unwrap();
    let exact = directory.path().join("exact.bin");
    convert(fixture("tiny-v7.pth"), &exact, &ConvertOptions::to(FileFormat::RwkvCpp), go_on).unwrap();
    let exact = load(&exact);
    let mut state = exact.state_from_bytes_with(&bytes, true).unwrap();
    let found = exact.eval_all(&tokens, &mut state).unwrap();
    assert!(worst(&found) < 1e-4, "{:e}", worst(&found));
}

#[test]
fn what_is_no_time_state_of_the_model_is_refused_by_name() {
    let model = load(&fixture("tiny-v7.pth"));
    let bytes = fs::read(fixture("tiny-v7-state.pth")).unwrap();
    let refused = |model: &Model, bytes: &[u8], allow: bool, says: &str| {
        let error = model.state_from_bytes_with(bytes, allow).unwrap_err();
        assert!(error.code() == "STATE" && error.to_string().contains(says), "{error}");
    };
    refused(&model, &bytes, false, "allowOtherBase");
    refused(&load(&fixture("tiny-v4.pth")), &bytes, true, "RWKV v4");
    refused(&model, &bytes[..bytes.len() - 30], true, "the state");
    refused(
        &model,
        &fs::read(fixture("tiny-v7-lora.pth")).unwrap(),
        true,
        "\"blocks.0.att.time_state\" is missing",
    );
    let zeros = vec![0_u8; 4 * 2 * 16 * 16];
    let file = |names: &[&str], shape: [usize; 3]| {
        let views = names
            .iter()
            .map(|name| (*name, TensorView::new(safetensors::Dtype::F32, shape.to_vec(), &zeros).unwrap()));
        safetensors::serialize(views, None).unwrap()
    };
    let [first, second] = ["blocks.0.att.time_state", "blocks.1.att.time_state"];
    let sound = model.state_from_bytes_with(&file(&[first, second], [2, 16, 16]), true).unwrap();
    assert_eq!(sound, model.new_state());
    refused(&model, &file(&[first], [2, 16, 16]), true, second);
    refused(&model, &file(&[first, second], [4, 16, 8]), true, "dimensions");
    let third = "blocks.2.att.time_state";
    refused(&model, &file(&[first, second, third], [2, 16, 16]), true, third);
}
