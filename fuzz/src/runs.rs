//! Directories of training runs that are sound but for what a fuzzer's bytes change.
//!
//! The bytes are five parts, each ended by a zero byte: `config.json`, `tokenizer.json`, `checkpoint.json`,
//! `log.jsonl`, and what else is done. In the last, all zeros mean that checksums and sizes are put right.

use std::fs;
use std::path::Path;

use arbitrary::{Arbitrary, Unstructured};
use rwkv_core::model::Network;
use rwkv_core::{ModelConfig, go_on};
use rwkv_train::{Decay, ResumeOptions, TokenizerKind, TrainOptions, TrainPrecision, Trainer};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::directory;

/// The text of every run.
pub const TEXT: &str = "abcabdabeabcaadbeabcabdabeabcaadbecabba";

/// The files of a checkpoint besides its manifest.
const FLOATS: [&str; 3] = ["parameters.f32", "means.f32", "squares.f32"];

/// More bytes than this a resumed run must not need: it could, and be right, on a machine that has them.
const MOST: f64 = 1e8;

/// What is done besides taking the four files as they are.
#[derive(Debug, Default, Arbitrary)]
pub struct Changes {
    /// Bits: leave the text's checksum, the floats' checksums, the manifest's checksum as they are.
    leave: u8,
    /// Which checkpoint directories there are, and whether the run's directory has other things in it.
    directories: u8,
    floats: Vec<Float>,
    len: Option<(u8, i8)>,
    resume: Resume,
    /// Whether a file is missing, and which.
    missing: u8,
}

/// A float of a checkpoint.
#[derive(Debug, Arbitrary)]
struct Float {
    file: u8,
    at: u16,
    bits: u32,
}

#[derive(Debug, Default, Arbitrary)]
struct Resume {
    which: u16,
    max_steps: u64,
    learning_rate: f64,
    final_learning_rate: f64,
    weight_decay: f64,
    threads: u8,
    interval: u64,
    cooldown: f64,
    matrix_learning_rate: f64,
}

impl Resume {
    fn options(&self, data: &Path) -> ResumeOptions {
        let wants = |bit: u16| self.which >> bit & 1 == 1;
        ResumeOptions {
            // Always: the path in a fuzzer's config.json may be of any file there is.
            data: Some(data.into()),
            max_steps: wants(0).then_some(self.max_steps),
            learning_rate: wants(1).then_some(self.learning_rate),
            final_learning_rate: wants(2).then_some(self.final_learning_rate),
            weight_decay: wants(3).then_some(self.weight_decay),
            // Numbers of threads are tried elsewhere; starting some takes longer than all the rest.
            threads: Some(if wants(4) { usize::from(self.threads % 3) } else { 1 }),
            precision: wants(5).then_some(if wants(6) { TrainPrecision::Bf16 } else { TrainPrecision::F32 }),
            eval_interval: wants(7).then_some(self.interval),
            checkpoint_interval: wants(8).then_some(self.interval),
            recompute: wants(9).then_some(wants(10)),
            decay: wants(11).then_some(if wants(12) { Decay::Linear } else { Decay::Cosine }),
            cooldown: wants(13).then_some(self.cooldown),
            matrix_learning_rate: wants(14).then_some(self.matrix_learning_rate),
            // What was added since is not tried, but compiles.
            ..Default::default()
        }
    }
}

/// Makes the directory that `data` describes; none if the run could be sound and too large for this.
pub fn make(run: &Path, text: &Path, data: &[u8]) -> Option<ResumeOptions> {
    let mut parts = data.splitn(5, |&byte| byte == 0);
    let [config, tokenizer, manifest, log, rest] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    let changes = Changes::arbitrary(&mut Unstructured::new(rest)).unwrap_or_default();
    let (mut config, mut manifest) = (config.to_owned(), manifest.to_owned());
    if [&config, &manifest].into_iter().any(|json| is_large(json)) {
        return None;
    }
    let _ = fs::remove_dir_all(run);
    fs::create_dir_all(run).expect("the run's directory");
    if changes.leave & 1 == 0 {
        let crc32 = json!(crc32fast::hash(TEXT.as_bytes()));
        set(&mut config, "dataCrc32", crc32.clone());
        set(&mut manifest, "dataCrc32", crc32);
    }
    let write = |name: &str, bytes: &[u8]| fs::write(run.join(name), bytes).expect("a file of the run");
    write("config.json", &config);
    write("tokenizer.json", tokenizer);
    if !log.is_empty() {
        write("log.jsonl", log);
    }
    if !manifest.is_empty() {
        let name = checkpoint_name(changes.directories);
        fs::create_dir_all(run.join(name)).expect("the checkpoint's directory");
        checkpoint(&run.join(name), &changes, manifest);
    }
    match changes.directories >> 3 {
        1 => fs::create_dir_all(run.join("checkpoint-0")).expect("a directory"),
        2 => write("checkpoint-9", b"a file"),
        3 => write(".model.bin.tmp", b"left over"),
        4 => fs::create_dir_all(run.join(".checkpoint-5.tmp/deeper")).expect("a directory"),
        5 => fs::create_dir_all(run.join("model.bin")).expect("a directory"),
        6 => fs::create_dir_all(run.join("log.jsonl.tmp")).expect("a directory"),
        _ => {}
    }
    match changes.missing {
        1 => drop(fs::remove_file(run.join("config.json"))),
        2 => drop(fs::remove_file(run.join("tokenizer.json"))),
        3 => drop(fs::remove_file(run.join("log.jsonl"))),
        _ => {}
    }
    Some(changes.resume.options(text))
}

fn checkpoint_name(choice: u8) -> &'static str {
    match choice % 8 {
        0..4 => "checkpoint-2",
        4 => "checkpoint-+2",
        5 => "checkpoint-18446744073709551615",
        6 => "checkpoint-0",
        _ => "checkpoint-x",
    }
}

/// Writes a checkpoint with as many floats as its own manifest asks for, and the checksums that belong to
/// them.
fn checkpoint(directory: &Path, changes: &Changes, mut manifest: Vec<u8>) {
    let value: Option<Value> = serde_json::from_slice(&manifest).ok();
    let model =
        value.and_then(|value| serde_json::from_value::<ModelConfig>(value.get("model")?.clone()).ok());
    let count = model.filter(|model| memory(model, 1.0) < MOST).map_or(0, |model| {
        let (_, layout, _) = Network::new(&model);
        layout.n_params()
    });
    for (index, name) in FLOATS.iter().enumerate() {
        // Small numbers of both signs; the squares' mean has none below zero.
        let value = |at: usize| ((at * 37 + index) % 101) as f32 / 1010.0;
        let value = |at: usize| if index < 2 && at.is_multiple_of(3) { -value(at) } else { value(at) };
        let mut floats: Vec<f32> = (0..count).map(value).collect();
        for float in changes.floats.iter().filter(|float| usize::from(float.file) % FLOATS.len() == index) {
            let at = usize::from(float.at) % floats.len().max(1);
            if let Some(value) = floats.get_mut(at) {
                *value = f32::from_bits(float.bits);
            }
        }
        let mut bytes: Vec<u8> = floats.iter().flat_map(|value| value.to_le_bytes()).collect();
        if let Some((file, more)) = changes.len
            && usize::from(file) % FLOATS.len() == index
        {
            bytes.resize(bytes.len().saturating_add_signed(more.into()), 0);
        }
        if changes.leave & 2 == 0 {
            set_checksum(&mut manifest, index, crc32fast::hash(&bytes));
        }
        fs::write(directory.join(name), bytes).expect("a file of the checkpoint");
    }
    if changes.leave & 4 == 0 {
        seal(&mut manifest);
    }
    fs::write(directory.join("checkpoint.json"), manifest).expect("the manifest");
    if changes.missing >= 4 {
        let name = FLOATS.get(usize::from(changes.missing) - 4).unwrap_or(&"none");
        let _ = fs::remove_file(directory.join(name));
    }
}

/// Sets a member of a JSON object, if it is one that has it.
fn set(text: &mut Vec<u8>, name: &str, to: Value) {
    edit(text, |value| {
        if let Some(member) = value.get_mut(name) {
            *member = to;
        }
    });
}

fn set_checksum(manifest: &mut Vec<u8>, index: usize, crc32: u32) {
    edit(manifest, |value| {
        if let Some(member) = value.get_mut("filesCrc32").and_then(|files| files.get_mut(index)) {
            *member = json!(crc32);
        }
    });
}

/// Puts the manifest's own checksum right: that of its compact form with the checksum 0.
fn seal(manifest: &mut Vec<u8>) {
    set(manifest, "crc32", json!(0));
    let Ok(value) = serde_json::from_slice::<Value>(manifest) else { return };
    let crc32 = crc32fast::hash(value.to_string().as_bytes());
    set(manifest, "crc32", json!(crc32));
}

fn edit(text: &mut Vec<u8>, change: impl FnOnce(&mut Value)) {
    // What is no JSON stays as it is.
    if let Ok(mut value) = serde_json::from_slice(text) {
        change(&mut value);
        *text = value.to_string().into_bytes();
    }
}

/// Whether this file describes a model that a machine with enough memory would rightly begin to compute with.
fn is_large(json: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<Value>(json) else { return false };
    let options = value.get("options").and_then(|options| TrainOptions::deserialize(options).ok());
    let model = value.get("model").and_then(|model| ModelConfig::deserialize(model).ok());
    let rows = options.as_ref().map_or(1.0, |options| options.ctx_len as f64 * options.batch_size as f64);
    let of_options = options.and_then(|options| Some(memory(&options.model(256).ok()?, rows)));
    let of_model = model.map(|model| memory(&model, 1.0));
    // What no machine has must be refused, and is not kept from it.
    [of_options, of_model].into_iter().flatten().any(|bytes| (MOST..1e14).contains(&bytes))
}

/// About the bytes that training takes, in floats because any number may be in a file.
fn memory(model: &ModelConfig, rows: f64) -> f64 {
    let [l, d, v, f] = [model.n_layer, model.n_embd, model.n_vocab, model.n_ffn].map(|n| n as f64);
    16.0 * (2.0 * v * d + l * (5.0 * d * d + 2.0 * d * f + 11.0 * d)) + 4.0 * rows * (30.0 * l * d + 2.0 * v)
}

/// The files of a small sound run, for a seed: as many parts as [`make`] takes.
pub fn sound(tokenizer: TokenizerKind, with_checkpoint: bool) -> Vec<u8> {
    let (run, text) = (directory::path("sound"), directory::write("book.txt", TEXT.as_bytes()));
    let _ = fs::remove_dir_all(&run);
    let options = TrainOptions {
        tokenizer: Some(tokenizer),
        n_layer: 1,
        n_embd: 4,
        ctx_len: 6,
        batch_size: 2,
        max_steps: 5,
        threads: Some(1),
        precision: Some(TrainPrecision::F32),
        eval_interval: 2,
        checkpoint_interval: 2,
        ..TrainOptions::new(text, &run)
    };
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    for _ in 0..2 {
        trainer.step(go_on).expect("a step");
    }
    trainer.save_checkpoint(go_on).expect("a checkpoint");
    drop(trainer);
    let read = |name: &str| fs::read(run.join(name)).expect("a file of the run");
    let mut parts = vec![read("config.json"), read("tokenizer.json")];
    if with_checkpoint {
        parts.extend([read("checkpoint-2/checkpoint.json"), read("log.jsonl")]);
    }
    // The path of the text is this machine's.
    let mut bytes = parts.join(&0);
    let (path, end) = (directory::path("book.txt"), b"book.txt");
    let path = path.to_str().expect("a path in UTF-8").as_bytes();
    while let Some(at) = bytes.windows(path.len()).position(|part| part == path) {
        bytes.splice(at..at + path.len(), *end);
    }
    bytes
}
