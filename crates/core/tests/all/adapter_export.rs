//! Adapters and states of this program written for others: the names that those use, the same numbers again.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rwkv_core::lora::{self, Exported, LoraFormat, LoraInfo, LoraOptions, export, write_lora};
use rwkv_core::params::Initial;
use rwkv_core::{FileFormat, LoadOptions, Model, read_tensors, write_time_state};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::fixture;

const RANK: usize = 3;
const ALPHA: f32 = 6.0;

fn load(path: &Path) -> Model {
    Model::load(path, &LoadOptions { threads: Some(1), ..Default::default() }).unwrap()
}

fn logits(model: &Model) -> Vec<f32> {
    model.eval_all(&[3, 1, 4, 1, 5, 9, 2, 6], &mut model.new_state()).unwrap()
}

fn numbers(seed: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 4000.0).collect()
}

/// An adapter of the matrices of this model that `is` says.
fn adapter(base: &Path, is: impl Fn(&str) -> bool) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lora.safetensors");
    let model = load(base);
    let mut params = model.store().clone();
    for index in 0..params.n_model() {
        let spec = &params.layout().specs()[index];
        let (rows, cols) = (spec.rows, spec.cols);
        let is_one = is(&spec.name);
        let Some(matrix) = params.matrix_at(index).filter(|_| is_one) else { continue };
        let factors = [numbers(index, RANK * cols), numbers(index + 50, rows * RANK)];
        lora::adapt(&mut params, matrix, RANK, ALPHA / RANK as f32, factors, [Initial::ZEROS; 2]);
    }
    write_lora(&path, *model.config(), &params, ALPHA).unwrap();
    (directory, path)
}

fn names(path: &Path) -> BTreeSet<String> {
    read_tensors(path).unwrap().into_iter().map(|(tensor, _)| tensor.name).collect()
}

/// The names are those of files that the other programs wrote themselves.
#[test]
fn adapters_have_the_names_and_the_numbers_that_their_readers_expect() {
    let base = fixture("tiny-v7.pth");
    let is_one = |name: &str| {
        let of_block = ["receptance.weight", "key.weight", "value.weight", "output.weight", "head.weight"];
        of_block.iter().any(|end| name.ends_with(end))
    };
    let (directory, own) = adapter(&base, is_one);
    let expected = logits(&load(&base).with_lora(&own).unwrap());

    let pth = directory.path().join("adapted.pth");
    let to = LoraFormat::of_name(&pth).unwrap();
    let made = export(&own, &pth, to).unwrap();
    let bytes_out = fs::metadata(&pth).unwrap().len();
    let adapted = 13;
    assert_eq!(made, Exported { to: LoraFormat::RwkvPeft, rank: RANK, alpha: ALPHA, adapted, bytes_out });
    assert!(names(&pth).is_superset(&names(&fixture("tiny-v7-lora.pth"))));
    let options = LoraOptions { allow_other_base: true, alpha: Some(ALPHA) };
    assert_eq!(logits(&load(&base).with_lora_options(&pth, &options).unwrap()), expected);

    let peft = directory.path().join("peft");
    let to = LoraFormat::of_name(&peft).unwrap();
    assert_eq!(export(&own, &peft, to).unwrap().to, LoraFormat::Peft);
    let theirs = names(&fixture("tiny-v7-lora/adapter_model.safetensors"));
    let is_low_rank = |name: &String| name.contains("w_lora");
    let theirs: BTreeSet<_> = theirs.into_iter().filter(|name| !is_low_rank(name)).collect();
    assert!(theirs.len() > 10 && names(&peft.join("adapter_model.safetensors")).is_superset(&theirs));
    let options = LoraOptions { allow_other_base: true, alpha: None };
    assert_eq!(logits(&load(&base).with_lora_options(&peft, &options).unwrap()), expected);
    let config: Value = serde_json::from_slice(&fs::read(peft.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(RANK), &json!(ALPHA)));
    let targets = config["target_modules"].as_array().unwrap();
    assert!(targets.len() == 13 && targets.contains(&json!("model.layers.1.attn.r_proj")), "{config}");
    // Again over what is there.
    export(&own, &peft, LoraFormat::Peft).unwrap();

    for (path, alpha) in [(&pth, None), (&peft, Some(ALPHA))] {
        let info = LoraInfo::read(path).unwrap();
        assert_eq!((info.base, info.rank, info.alpha, info.targets.len()), (None, RANK, alpha, 13));
        assert_eq!(info.targets, LoraInfo::read(&own).unwrap().targets);
        assert_eq!(info.n_params, LoraInfo::read(&own).unwrap().n_params);
    }
}

#[test]
fn of_rwkv_4_peft_has_the_names_of_transformers() {
    let (directory, own) =
        adapter(&fixture("tiny-v4.pth"), |name| name.contains("key.weight") || name.starts_with("head."));
    let peft = directory.path().join("peft");
    export(&own, &peft, LoraFormat::Peft).unwrap();
    let names = names(&peft.join("adapter_model.safetensors"));
    for name in ["rwkv.blocks.0.attention.key", "rwkv.blocks.1.feed_forward.key", "head"] {
        assert!(names.contains(&format!("base_model.model.{name}.lora_B.weight")), "{names:?}");
    }
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let (directory, own) = adapter(&fixture("tiny-v7.pth"), |name| name == "head.weight");
    let out = |name: &str| directory.path().join(name);
    let refused = |input: &Path, output: &Path, to: LoraFormat, says: &str| {
        let there = output.exists();
        let error = export(input, output, to).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(output.exists(), there);
    };
    refused(
        &fixture("tiny-v7-lora.pth"),
        &out("a.pth"),
        LoraFormat::RwkvPeft,
        "not an adapter of this program",
    );
    refused(&own, &own, LoraFormat::RwkvPeft, "another file than the input");
    refused(&own, &own, LoraFormat::Peft, "a directory that is new, empty or an adapter of PEFT's");
    refused(&own, directory.path(), LoraFormat::Peft, "new, empty");
    refused(&own, &out("no/such/place"), LoraFormat::Peft, "no/such");
    for end in ["bin", "gguf", "safetensors"] {
        let error = LoraFormat::of_name(out("a").with_extension(end)).unwrap_err().to_string();
        assert!(error.contains(".pth, for RWKV-PEFT"), "{error}");
    }
    let bytes = fs::read(&own).unwrap();
    for (at, says) in [(bytes.len() - 1, "checksum"), (40, "damaged")] {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        let damaged = out("damaged.safetensors");
        fs::write(&damaged, bytes).unwrap();
        let error = export(&damaged, out("b.pth"), LoraFormat::RwkvPeft).unwrap_err();
        assert!(error.code() == "ADAPTER" && !out("b.pth").exists(), "{says}: {error}");
    }
}

#[test]
fn a_tuned_state_is_a_time_state_again_and_that_after_a_text_is_none() {
    let model = load(&fixture("tiny-v7.pth"));
    let bytes = fs::read(fixture("tiny-v7-state.pth")).unwrap();
    let tuned = model.state_from_bytes_with(&bytes, true).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join("tuned.state");
    fs::write(&own, tuned.to_bytes().unwrap()).unwrap();
    for (name, to) in [("a.pth", FileFormat::Pth), ("a.safetensors", FileFormat::Safetensors)] {
        let output = directory.path().join(name);
        // A directory stands for the state in it.
        let len = write_time_state(directory.path(), &output, to).unwrap();
        let written = fs::read(&output).unwrap();
        assert_eq!(written.len() as u64, len);
        assert_eq!(names(&output), names(&fixture("tiny-v7-state.pth")));
        assert_eq!(model.state_from_bytes_with(&written, true).unwrap(), tuned);
    }
    let refused = |bytes: &[u8], to: FileFormat, says: &str| {
        fs::write(&own, bytes).unwrap();
        let output = directory.path().join("refused");
        let error = write_time_state(&own, &output, to).unwrap_err().to_string();
        assert!(error.contains(says) && !output.exists(), "{error}");
    };
    let mut after = model.new_state();
    model.eval_all(&[1, 2, 3], &mut after).unwrap();
    refused(&after.to_bytes().unwrap(), FileFormat::Pth, "the state after a text");
    refused(&tuned.to_bytes().unwrap(), FileFormat::Gguf, "pth or safetensors");
    let v4 = load(&fixture("tiny-v4.pth"));
    refused(&v4.new_state().to_bytes().unwrap(), FileFormat::Pth, "only RWKV-7 has a time_state");
    refused(b"rwkvstat", FileFormat::Pth, "too few");
    // A model whose shape does not fit: no such sizes, and the checksum of what is there.
    let mut forged = tuned.to_bytes().unwrap();
    forged[12 + 4 * 3] = 0;
    let end = forged.len() - 4;
    let crc = crc32fast::hash(&forged[..end]);
    forged[end..].copy_from_slice(&crc.to_le_bytes());
    refused(&forged, FileFormat::Pth, "fit no state");
}
