//! The same files give the same logits and states as in rwkv.cpp, which recorded these.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::common::{every_cpu, largest_difference, shared};
use rwkv_core::{DataType, LoadOptions, Model, ModelFile};

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect()
}

/// What `../shared/vectors/rwkv-cpp.jsonl` says of one model.
struct Recorded {
    prompt: Vec<u32>,
    logits: Vec<f32>,
    state: Vec<f32>,
}

fn recorded(model: &str) -> Option<Recorded> {
    let text = fs::read_to_string(shared("vectors/rwkv-cpp.jsonl")?).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let line = lines.into_iter().find(|line| line["model"] == model).expect("a line for each model");
    let text = |key: &str| line[key].as_str().unwrap().to_owned();
    Some(Recorded {
        prompt: text("prompt").bytes().map(u32::from).collect(),
        logits: floats(&base64(&text("logits_f32_b64"))),
        state: floats(&base64(&text("state_f32_b64"))),
    })
}

fn base64(text: &str) -> Vec<u8> {
    let sextet = |byte: u8| match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("{byte} in base64"),
    };
    let digits = text.trim_end_matches('=').as_bytes();
    let words = digits.chunks(4).flat_map(|digits| {
        let word = digits.iter().fold(0, |word, &digit| word << 6 | sextet(digit));
        let word = word << (6 * (4 - digits.len()));
        word.to_be_bytes().into_iter().skip(1).take(digits.len() - 1)
    });
    words.collect()
}

struct Case {
    model: &'static str,
    data_type: DataType,
    /// As rwkv.cpp we round activations to half precision for FP16 weights and to 8 bits for quantized ones;
    /// but it rounds the scales of the latter to half precision, and we do not.
    tolerance: f32,
}

/// rwkv.cpp's tiny model in a format: its own file, or what is quantized from its FP32 one.
fn tiny(model: &str, data_type: DataType, directory: &Path) -> Option<PathBuf> {
    if !data_type.is_quantized() {
        return shared(&format!("models/tiny-rwkv-{model}-{data_type}.bin"));
    }
    let path = directory.join(format!("{model}-{data_type}.bin"));
    let from = shared(&format!("models/tiny-rwkv-{model}-FP32.bin"))?;
    rwkv_core::quantize(from, &path, data_type, &LoadOptions::default(), |_, _| ControlFlow::Continue(()))
        .unwrap();
    Some(path)
}

const V4: &str = "4v0-660K";
const V7: &str = "7v0-834K";

fn cases() -> Vec<Case> {
    let tolerance = |model, data_type| match (model, data_type) {
        (V7, DataType::F32) => 1e-5,
        // rwkv.cpp rounds the activations of the narrow matrices in other places than we do.
        (V7, DataType::F16) => 2e-3,
        (_, DataType::F32 | DataType::F16) => 1e-4,
        _ => 1e-2,
    };
    let case = |model, data_type| Case { model, data_type, tolerance: tolerance(model, data_type) };
    [V4, V7].into_iter().flat_map(|model| DataType::ALL.map(|data_type| case(model, data_type))).collect()
}

#[test]
fn logits_and_state_after_a_long_prompt() {
    let directory = tempfile::tempdir().unwrap();
    for Case { model, data_type, tolerance } in cases() {
        let prefix = if data_type.is_quantized() { "q" } else { "tiny-rwkv" };
        let name = format!("{prefix}-{model}-{data_type}.bin");
        let (Some(path), Some(expected)) = (tiny(model, data_type, directory.path()), recorded(&name)) else {
            return;
        };
        for cpu in every_cpu() {
            let model = Model::load_on(&path, cpu).unwrap();
            let mut state = model.new_state();
            let logits = model.eval(&expected.prompt, &mut state).unwrap();
            let (logits, state) = (
                largest_difference(&logits, &expected.logits),
                largest_difference(state.as_slice(), &expected.state),
            );
            println!(
                "{name}, {} × {}: logits {logits:e}, state {state:e}",
                model.cpu().isa(),
                model.cpu().threads()
            );
            assert!(logits <= tolerance && state <= tolerance);
        }
    }
}

#[test]
fn logits_that_rwkv_cpp_ships_for_its_own_test() {
    // They are those of the FP32 weights, and of activations that were not rounded.
    let formats = [(DataType::F32, 1e-4), (DataType::F16, 5e-3)];
    for (tiny, (data_type, tolerance)) in
        [V4, V7].into_iter().flat_map(|tiny| formats.map(|format| (tiny, format)))
    {
        let Some(expected) = shared(&format!("models/expected-logits-{tiny}.bin")) else { return };
        let expected = floats(&fs::read(expected).unwrap());
        let Some(path) = shared(&format!("models/tiny-rwkv-{tiny}-{data_type}.bin")) else { return };
        for cpu in every_cpu() {
            let model = Model::load_on(&path, cpu).unwrap();
            let prompt = b"\"in".map(u32::from);
            let logits = model.eval(&prompt, &mut model.new_state()).unwrap();
            let difference = largest_difference(&logits, &expected);
            println!(
                "{tiny}, {data_type}, {} × {}: {difference:e}",
                model.cpu().isa(),
                model.cpu().threads()
            );
            assert!(difference <= tolerance);
        }
    }
}

/// What NumPy computes in f64 from the equations.
#[test]
fn logits_of_rwkv_7_in_double_precision() {
    let Some(path) = shared("vectors/long-prompt-v5-v7.json") else { return };
    let recorded: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let numbers =
        |key: &str| recorded[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
    let prompt: Vec<_> = numbers("prompt_bytes").into_iter().map(|byte| byte as u32).collect();
    let expected: Vec<_> = numbers("7v0-834K-FP32-gneps0.00064").into_iter().map(|x| x as f32).collect();
    let Some(path) = shared(&format!("models/tiny-rwkv-{V7}-FP32.bin")) else { return };
    for cpu in every_cpu() {
        let model = Model::load_on(&path, cpu).unwrap();
        let logits = model.eval(&prompt, &mut model.new_state()).unwrap();
        let difference = largest_difference(&logits, &expected);
        println!("{}: {difference:e}", model.cpu().isa());
        // They were written with six digits.
        assert!(difference <= 1e-5);
    }
}

#[test]
fn its_files_are_written_again_byte_for_byte() {
    let directory = tempfile::tempdir().unwrap();
    let again = directory.path().join("again.bin");
    let formats = [DataType::F32, DataType::F16];
    for (tiny, data_type) in [V4, V7].into_iter().flat_map(|tiny| formats.map(|format| (tiny, format))) {
        let Some(path) = shared(&format!("models/tiny-rwkv-{tiny}-{data_type}.bin")) else { return };
        let file = ModelFile::open(&path).unwrap();
        assert_eq!(file.data_type(), data_type);
        file.write_to(&again).unwrap();
        assert!(fs::read(&path).unwrap() == fs::read(&again).unwrap(), "{} differs", path.display());
    }
}

#[test]
fn what_cannot_be_run_yet_is_named() {
    for name in ["tiny-rwkv-5v2-730K-FP32.bin", "tiny-rwkv-5v2-730K-Q5_0.bin"] {
        let Some(path) = shared(&format!("models/{name}")) else { return };
        let error = ModelFile::open(&path).unwrap_err();
        assert_eq!(error.code(), "UNSUPPORTED", "{error}");
        assert!(error.to_string().contains("this is an RWKV v5.2 model"), "{error}");
    }
}
