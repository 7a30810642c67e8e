//! The same small models in the layout of every program that publishes such files: `fixtures/make_tiny_v7.py`.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::Arc;

use crate::common::{every_cpu, fixture, largest_difference};
use rwkv_core::{DataType, FileFormat, Model, ModelConfig, ModelFile, Sizes, Version, go_on};
use rwkv_kernels::Cpu;
use serde_json::Value;

/// Heads of 16 channels, and the ranks of w, a, v and g.
fn shape() -> ModelConfig {
    ModelConfig {
        version: Version::V7,
        n_vocab: 16,
        n_embd: 32,
        n_layer: 2,
        n_ffn: 24,
        sizes: Sizes::new(&[16, 6, 5, 3, 7]),
    }
}

struct File {
    name: &'static str,
    format: FileFormat,
    /// Of the matrices; GGUF has factors of the decay in F32 besides.
    data_type: DataType,
    /// The logits that it should give, in the record.
    expected: &'static str,
    /// Of the largest logit, which is 5.
    tolerance: f32,
}

/// Sums in f32 are within 10⁻⁵ of those in f64. An f16 activation that f32 and f64 put on different sides of a tie
/// becomes another half, 2⁻¹⁰ of itself away, as in `fixture.rs`. Q8_0's products round activations to 8 bits too.
const FILES: [File; 7] = {
    use DataType::{BF16, F16, Q8_0};
    use FileFormat::{Gguf, Pth, Safetensors};
    const fn file(name: &'static str, format: FileFormat, data_type: DataType) -> File {
        let (expected, tolerance) = match data_type {
            BF16 => ("exact", 1e-5),
            F16 => ("half", 2e-3),
            _ => ("q8_0", 1e-2),
        };
        File { name, format, data_type, expected, tolerance }
    }
    [
        file("tiny-v7.pth", Pth, BF16),
        file("tiny-v7-official.safetensors", Safetensors, BF16),
        file("tiny-v7-fla.safetensors", Safetensors, BF16),
        file("tiny-v7-rs.safetensors", Safetensors, BF16),
        file("tiny-v7-web.safetensors", Safetensors, F16),
        file("tiny-v7.gguf", Gguf, BF16),
        file("tiny-v7-q8_0.gguf", Gguf, Q8_0),
    ]
};

/// Those that hold nothing but the same bf16 numbers.
const SAME: [&str; 4] =
    ["tiny-v7.pth", "tiny-v7-official.safetensors", "tiny-v7-fla.safetensors", "tiny-v7-rs.safetensors"];

fn record(name: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture(name)).unwrap()).unwrap()
}

fn tokens(record: &Value) -> Vec<u32> {
    record["tokens"].as_array().unwrap().iter().map(|token| token.as_u64().unwrap() as u32).collect()
}

/// All rows after one another.
fn floats(rows: &Value) -> Vec<f32> {
    let rows = rows.as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap());
    rows.map(|value| value.as_f64().unwrap() as f32).collect()
}

fn load(name: &str, cpu: Arc<Cpu>) -> Model {
    Model::load_on(fixture(name), cpu).unwrap()
}

fn logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
    model.eval_all(tokens, &mut model.new_state()).unwrap()
}

#[test]
fn every_file_has_the_shape_and_gives_the_logits() {
    let record = record("tiny-v7.json");
    let tokens = tokens(&record);
    for File { name, format, data_type, expected, tolerance, .. } in FILES {
        let file = ModelFile::open(fixture(name)).unwrap();
        assert_eq!((file.config(), file.format(), file.data_type()), (&shape(), format, data_type), "{name}");
        let expected = floats(&record[expected]);
        let largest = expected.iter().fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
        for cpu in every_cpu() {
            let model = load(name, cpu);
            let found = largest_difference(&logits(&model, &tokens), &expected) / largest;
            println!("{name}, {} × {}: {found:e}", model.cpu().isa(), model.cpu().threads());
            assert!(found < tolerance, "{name}: {found:e}");
        }
    }
}

#[test]
fn the_same_numbers_give_the_same_bits_whatever_the_layout() {
    let tokens = tokens(&record("tiny-v7.json"));
    for cpu in every_cpu() {
        let first = load(SAME[0], cpu.clone());
        let (expected, mut state) = (logits(&first, &tokens), first.new_state());
        first.eval(&tokens, &mut state).unwrap();
        for name in &SAME[1..] {
            let model = load(name, cpu.clone());
            assert!(logits(&model, &tokens) == expected, "{name}");
            let mut own = model.new_state();
            model.eval(&tokens, &mut own).unwrap();
            assert!(own.as_slice() == state.as_slice(), "{name}");
        }
    }
    // And every parameter is the same, also where the type of the matrices is another.
    let first = ModelFile::open(fixture(SAME[0])).unwrap();
    for File { name, .. } in FILES.iter().filter(|file| file.data_type != DataType::Q8_0) {
        let file = ModelFile::open(fixture(name)).unwrap();
        for (index, spec) in first.layout().specs().iter().enumerate() {
            assert!(file.read(index) == first.read(index), "{name}: {}", spec.name);
        }
    }
}

#[test]
fn bytes_in_memory_are_the_same_model_as_their_file() {
    let tokens = tokens(&record("tiny-v7.json"));
    let names = FILES.iter().map(|file| file.name).chain(["tiny-v4.pth", "tiny-v4-hf.safetensors"]);
    for name in names {
        for cpu in every_cpu() {
            let of_file = load(name, cpu.clone());
            let of_bytes = Model::from_bytes_with(fs::read(fixture(name)).unwrap(), cpu, go_on).unwrap();
            assert!(logits(&of_bytes, &tokens) == logits(&of_file, &tokens), "{name}");
            assert_eq!(of_bytes.fingerprint().unwrap(), of_file.fingerprint().unwrap(), "{name}");
            // So the state of one goes on in the other.
            let mut state = of_file.new_state();
            of_file.eval(&tokens, &mut state).unwrap();
            of_bytes.eval(&[1], &mut state).unwrap();
        }
    }
}

/// Checkpoints of RWKV-4 hold the decay before −exp.
#[test]
fn checkpoints_of_rwkv_4_are_the_models_of_its_files() {
    let record = record("tiny-v4.json");
    let tokens = tokens(&record);
    for (name, bin, of, tolerance) in [
        ("tiny-v4.pth", "tiny-v4-FP32.bin", "FP32", 2e-5),
        ("tiny-v4-hf.safetensors", "tiny-v4-FP16.bin", "FP16", 8.0 / 1024.0),
    ] {
        let (file, bin) = (ModelFile::open(fixture(name)).unwrap(), ModelFile::open(fixture(bin)).unwrap());
        assert_eq!((file.config(), file.data_type()), (bin.config(), bin.data_type()), "{name}");
        for (index, spec) in file.layout().specs().iter().enumerate() {
            let (read, expected) = (file.read(index), bin.read(index));
            if spec.name.ends_with("time_decay") {
                let off = |(read, expected): (&f32, &f32)| ((read - expected) / expected).abs();
                assert!(read.iter().zip(&expected).map(off).all(|off| off < 1e-6), "{name}: {}", spec.name);
            } else {
                assert!(read == expected, "{name}: {}", spec.name);
            }
        }
        let expected = floats(&record[of]["logits"]);
        for cpu in every_cpu() {
            let found = largest_difference(&logits(&load(name, cpu), &tokens), &expected);
            assert!(found < tolerance, "{name}: {found:e}");
        }
    }
}
