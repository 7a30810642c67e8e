//! Writes the seeds of all targets, `fuzz/seeds/<target>/`, anew: `cargo run --example seeds` in this
//! directory.

use std::fs;
use std::path::Path;

use rwkv_core::lora::{adapt, write_lora};
use rwkv_core::params::Initial;
use rwkv_core::{DataType, Model};
use rwkv_fuzz::{cpu, directory, model_files, runs};
use rwkv_train::TokenizerKind;

fn write(target: &str, name: &str, bytes: &[u8]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    fs::create_dir_all(&directory).expect("a directory of seeds");
    fs::write(directory.join(name), bytes).expect("a seed");
}

fn main() {
    for data_type in [DataType::F32, DataType::F16] {
        let name = format!("{data_type}.bin");
        let file = model_files::sound(&model_files::config(3, 4, 1, 4), data_type);
        write("model_file", &name, &file);
    }
    let file = model_files::sound(&model_files::config(3, 32, 1, 32), DataType::Q4_0);
    write("model_file", "Q4_0.bin", &file);
    // Recipes: format, shape, and edits that the bytes after those stand for.
    for format in 0..DataType::ALL.len() as u8 {
        write("model_file", &format!("recipe-{format}"), &[format, 6]);
        write("model_file", &format!("edited-{format}"), &[format, 1, 1, 200, 90, 30, 7, 3, 9, 40, 1, 0, 5]);
    }
    for format in 0..DataType::QUANTIZED.len() as u8 {
        write("quantize", &format!("recipe-{format}"), &[format, format % 2, 7]);
        write("quantize", &format!("edited-{format}"), &[format, 0, 1, 1, 200, 90, 30, 7, 3, 9, 40, 1, 0, 5]);
    }

    formats();
    sources();

    let tokenizers = [
        ("byte", "{\"type\": \"byte\"}\0any \u{e9} text"),
        (
            "character",
            "{\"type\": \"character\", \"characters\": \"\\n abc\u{e9}\u{1f600}\"}\0abc \u{1f600}\n",
        ),
        ("escapes", "{\"type\": \"character\", \"characters\": \"\\u00e9\\ud83d\\ude00\\\"\\\\\"}\0\u{e9}"),
        ("unknown", "{\"type\": \"bpe\", \"merges\": []}\0x"),
    ];
    for (name, text) in tokenizers {
        write("tokenizer", name, text.as_bytes());
    }

    for (flags, data_type) in [(0, DataType::F32), (8, DataType::Q5_1)] {
        let path =
            directory::write("seed.bin", &model_files::sound(&model_files::config(5, 32, 2, 32), data_type));
        let model = Model::load_on(path, cpu()).expect("a sound model");
        let mut state = model.new_state();
        model.eval(&[1, 2, 3], &mut state).expect("an evaluation");
        write(
            "state",
            &format!("sound-{data_type}"),
            &[&[flags], &state.to_bytes().expect("a state")[..]].concat(),
        );
        write(
            "state",
            &format!("sealed-{data_type}"),
            &[&[flags | 7], &state.to_bytes().expect("a state")[..]].concat(),
        );

        let mut params = model.store().clone();
        let index = params.layout().find("blocks.0.att.key.weight").expect("a matrix");
        let matrix = params.matrix_at(index).expect("a matrix");
        adapt(&mut params, matrix, 1, 2.0, [vec![0.25; 32], vec![-0.5; 32]], [Initial::ZEROS; 2]);
        let path = directory::path("seed.safetensors");
        write_lora(&path, *model.config(), &params, 2.0).expect("an adapter");
        let adapter = fs::read(path).expect("the adapter");
        write("lora", &format!("sound-{data_type}"), &[&[flags], &adapter[..]].concat());
        write("lora", &format!("rebased-{data_type}"), &[&[(flags | 4) ^ 8], &adapter[..]].concat());
        write(
            "lora",
            &format!("values-{data_type}"),
            &[&[flags | 1][..], &[2, 0, 0, 62, 0, 0, 128, 190]].concat(),
        );
    }

    write("run_directory", "characters", &runs::sound(TokenizerKind::Character, true));
    write("run_directory", "bytes", &runs::sound(TokenizerKind::Byte, true));
    write("run_directory", "new", &runs::sound(TokenizerKind::Character, false));

    token_files();

    // Calls in the form that `arbitrary` reads: four bytes choose one of 13.
    let call = |index: u32, rest: &[u8]| [&(u32::MAX / 13 * index + 1000).to_le_bytes()[..], rest].concat();
    let load = |file: u8| call(0, &[file, 1, 0, 0, 0, 0]);
    write("c_api", "load", &[load(0), load(1), load(2), call(6, &[0]), call(2, &[0])].concat());
    write("c_api", "evaluate", &[load(0), call(3, &[0; 24]), call(4, &[0; 40]), call(5, &[0; 48])].concat());
    write("c_api", "quantize", &[call(10, &[1, 0, 0, 0, 0, 0, 4]), load(4), call(3, &[0; 24])].concat());
}

/// Files of other programs: which of the target's own, and edits; and small files as they are.
fn formats() {
    for (target, files, whole) in
        [("pth", 3, "tiny.pth"), ("safetensors", 5, "tensors.safetensors"), ("gguf", 3, "tensors.gguf")]
    {
        for file in 0..files {
            write(target, &format!("recipe-{file}"), &[file]);
            write(target, &format!("edited-{file}"), &[file, 1, 1, 200, 90, 30, 7, 3, 9, 40, 1, 0, 5]);
        }
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/core/tests/fixtures");
        write(target, whole, &fs::read(fixtures.join(whole)).expect("a file of the tests"));
    }
}

/// The first byte is the kind of file, the second how it is read; see fuzz_targets/source.rs.
fn sources() {
    write("source", "lines", b"\x03\x00{\"text\": \"a\\u00e9\"}\n\n{\"id\": [1], \"text\": \"b\"}\n");
    write("source", "text", "\x00\x00\u{feff}any \u{e9} text".as_bytes());
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/text/tests/data/parquet");
    for name in ["null", "required", "zstd_v2", "snappy_dictionary", "gzip_plain", "delta_byte_array"] {
        let file = fs::read(fixtures.join(format!("{name}.parquet"))).expect("a file of the tests");
        write("source", name, &[&[6, 0], &*file].concat());
    }
}

/// Those that NumPy and Python made for the tests.
fn token_files() {
    let read = |name: &str| {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/text/tests/data/token_file");
        fs::read(directory.join(name)).expect("a file of the tests")
    };
    for (name, kind) in [
        ("train.bin", &[0][..]),
        ("llmc-gpt2.bin", &[0]),
        ("llmc-llama3.bin", &[0]),
        ("binidx-u16.idx", &[1, 16, 0]),
        ("binidx-i32.idx", &[1, 32, 0]),
        ("meta.pkl", &[2]),
        ("meta-protocol-2.pkl", &[2]),
    ] {
        write("token_file", name, &[kind, &read(name)].concat());
    }
    let described =
        b"\x03{\"bytes_per_token\": 4, \"tokens\": 2, \"n_vocab\": 70000}\0\x01\0\0\0\x02\0\x01\0";
    write("token_file", "described", described);
}
