//! Prepared data sets have the bytes that Python writes, with any number of threads and after any number of cuts.

#![allow(clippy::unwrap_used)] // the helpers of tests are no tests to clippy

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use rwkv_core::Error;
use rwkv_text::prepare::{PrepareOptions, Prepared, Progress, Recipe, Vocabulary, prepare};
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
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap());
    Sha256::digest(fs::read(path).unwrap()).iter().flat_map(digits).collect()
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

/// Goes on until it is done, and stops at the n-th question each time. Returns how often that was.
fn in_steps(recipe: &Recipe, options: &PrepareOptions, stops: &[usize]) -> usize {
    for (times, &stop) in stops.iter().enumerate() {
        let mut asked = 0;
        let control = |_: Progress| {
            asked += 1;
            if asked > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        match prepare(recipe, options, control) {
            Err(Error::Aborted) => assert!(!options.out.join("prepare.json").exists()),
            done => {
                assert!(!done.unwrap().was_finished);
                return times;
            }
        }
    }
    assert!(!prepare(recipe, options, go_on).unwrap().was_finished);
    stops.len()
}

/// Several documents in three files, in the order of their names.
fn corpus(folder: &Path) -> Recipe {
    fs::create_dir_all(folder).unwrap();
    fs::copy(fixture("small.txt"), folder.join("a.txt")).unwrap();
    fs::copy(fixture("lines.jsonl"), folder.join("b.jsonl")).unwrap();
    fs::write(folder.join("c.md"), "The end.\nOf all.").unwrap();
    inputs(&[folder])
}

fn vocabularies() -> impl Strategy<Value = Vocabulary> {
    prop_oneof![
        Just(Vocabulary::Kind(TokenizerKind::Gpt2)),
        Just(Vocabulary::Kind(TokenizerKind::World)),
        Just(Vocabulary::Kind(TokenizerKind::Byte)),
        Just(Vocabulary::Kind(TokenizerKind::Character)),
        Just(Vocabulary::Trained { vocab_size: 300 }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stops_threads_and_batches_change_nothing(
        vocabulary in vocabularies(),
        is_single: bool,
        has_val: bool,
        (batch, threads) in (1_usize..4000, 1_usize..4),
        stops in prop::collection::vec(0_usize..40, 0..12),
        saves_often: bool,
    ) {
        let (directory, mut options) = options();
        let recipe = corpus(&directory.path().join("in"));
        let recipe = if is_single { inputs(&[&directory.path().join("in/a.txt")]) } else { recipe };
        options.tokenizer = Some(vocabulary);
        options.val = has_val.then(|| vec![text(&directory.path().join("in/c.md"))]);
        options.batch = 1 << 20;
        let whole = prepare(&recipe, &options, go_on).unwrap();
        let expected = files(&options.out);
        prop_assert!(whole.train.tokens > 0 && whole.val.is_some());

        options.out = directory.path().join("again");
        options.save_every = if saves_often { Duration::ZERO } else { Duration::from_secs(600) };
        (options.batch, options.threads) = (batch, threads);
        in_steps(&recipe, &options, &stops);
        let found = files(&options.out);
        prop_assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, bytes) in &found {
            prop_assert!(*bytes == expected[name], "{} differs", name);
        }
    }
}

#[test]
fn every_question_is_a_place_to_stop_at() {
    let (directory, mut options) = options();
    let recipe = corpus(&directory.path().join("in"));
    options.tokenizer = Some(Vocabulary::Kind(TokenizerKind::World));
    prepare(&recipe, &options, go_on).unwrap();
    let expected = files(&options.out);
    options.out = directory.path().join("again");
    options.threads = 1;
    let stops = in_steps(&recipe, &options, &(0..200).collect::<Vec<_>>());
    assert!((3..200).contains(&stops), "{stops}");
    assert!(files(&options.out) == expected);
}
