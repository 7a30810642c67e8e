//! Prepared data sets have the bytes that Python writes, with any number of threads and after any number of cuts.

#![allow(clippy::unwrap_used)] // the helpers of tests are no tests to clippy

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rwkv_text::prepare::{PrepareOptions, Prepared, Progress, Recipe, Step, Vocabulary, prepare};
use rwkv_text::token_file::{TokenFile, read_meta};
use rwkv_text::{Tokenizer, TokenizerKind};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/prepare").join(name)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn inputs(paths: &[&Path]) -> Recipe {
    Recipe::Inputs(paths.iter().map(|path| text(path)).collect())
}

/// What make.py recorded.
fn expected() -> Value {
    serde_json::from_str(&fs::read_to_string(fixture("expected.json")).unwrap()).unwrap()
}

fn sha256(path: &Path) -> String {
    Sha256::digest(fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A folder, and options with small batches.
fn options() -> (TempDir, PrepareOptions) {
    let directory = tempfile::tempdir().unwrap();
    let mut options = PrepareOptions::new(directory.path().join("out"));
    options.batch = 500;
    options.threads = 2;
    (directory, options)
}

/// All files of a folder but prepare.json, which says how it was made.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let of =
        |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    fs::read_dir(folder).unwrap().map(|entry| of(entry.unwrap())).collect()
}

fn check(prepared: &Prepared, expected: &Value) {
    for (name, counts) in [("train", Some(prepared.train)), ("val", prepared.val)] {
        let path = prepared.out.join(format!("{name}.bin"));
        assert_eq!(sha256(&path), expected[name]["sha256"].as_str().unwrap(), "{}", path.display());
        assert_eq!(counts.unwrap().tokens, expected[name]["tokens"].as_u64().unwrap());
        let file = TokenFile::open(&path).unwrap();
        assert_eq!(file.n_vocab(), Some(prepared.n_vocab as u32));
    }
}

fn both_shakespeares(from: &Path, name: &str, batch: usize) {
    let expected = &expected()[name];
    for recipe in [Recipe::ShakespeareChar, Recipe::Shakespeare] {
        for threads in [1, 2, 3] {
            let (_directory, mut options) = options();
            (options.from, options.threads, options.batch) = (Some(vec![text(from)]), threads, batch);
            let prepared = prepare(&recipe, &options, go_on).unwrap();
            let expected = &expected[recipe.word()];
            check(&prepared, expected);
            let meta = prepared.out.join("meta.pkl");
            let tokenizer = Tokenizer::load(&prepared.out).unwrap();
            assert_eq!(tokenizer.n_vocab(), prepared.n_vocab);
            if recipe == Recipe::ShakespeareChar {
                assert_eq!(sha256(&meta), expected["meta"].as_str().unwrap());
                let characters = read_meta(&meta).unwrap();
                assert!(tokenizer.as_characters().unwrap().iter().eq(characters));
            } else {
                assert!(!meta.exists());
            }
            // A text that is not Tiny Shakespeare is said to be another one.
            assert_eq!(prepared.notes.is_empty(), name == "tinyshakespeare", "{:?}", prepared.notes);
        }
    }
}

#[test]
fn a_small_text_becomes_what_nanogpt_makes_of_it() {
    both_shakespeares(&fixture("small.txt"), "small", 300);
}

#[test]
fn tiny_shakespeare_becomes_what_nanogpt_makes_of_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/tinyshakespeare.txt");
    if path.exists() {
        both_shakespeares(&path, "tinyshakespeare", 1 << 16);
    }
}

#[test]
fn documents_become_what_nanogpt_makes_of_them() {
    let (_directory, mut options) = options();
    options.val_fraction = Some(0.0);
    let prepared = prepare(&inputs(&[&fixture("lines.jsonl")]), &options, go_on).unwrap();
    let expected = &expected()["lines"];
    assert_eq!(sha256(&prepared.out.join("train.bin")), expected["sha256"].as_str().unwrap());
    assert_eq!((prepared.train.documents, prepared.val), (60, None));
    assert!(!prepared.out.join("val.bin").exists());
}
