//! Models that several threads load, run and drop at the same time. `.ci/tsan.sh` runs these under
//! ThreadSanitizer.

#![allow(clippy::unwrap_used)]

mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};

use common::{cpu, tokens, values};
use rwkv_core::{DataType, LoadOptions, Model, ModelConfig, State, quantize};
use rwkv_kernels::Isa;

const CONFIG: ModelConfig = ModelConfig::v4(11, 32, 2);
const THREADS: usize = 4;

/// The fastest tier that uses vectors on this machine: what is read and written there is what matters.
fn isa() -> Isa {
    Isa::from_env().unwrap()
}

fn write(directory: &Path, seed: u32) -> PathBuf {
    let path = directory.join("model.bin");
    common::write(&path, &CONFIG, &values(&CONFIG, seed), DataType::F32);
    path
}

/// What a thread reads of a text of its own, from the beginning: its logits and its state.
fn read(model: &Model, thread: usize) -> (Vec<f32>, State) {
    let mut state = model.new_state();
    let text = &tokens(CONFIG.n_vocab, 40)[thread..];
    let logits = model.eval(text, &mut state).unwrap();
    (logits, state)
}

#[test]
fn threads_run_one_model_on_one_team_and_on_teams_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let model = Model::load_on(write(directory.path(), 1), cpu(isa(), 2)).unwrap();
    let expected: Vec<_> = (0..THREADS).map(|thread| read(&model, thread)).collect();
    let start = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for (thread, expected) in expected.iter().enumerate() {
            let (model, start) = (&model, &start);
            scope.spawn(move || {
                let own = model.with_cpu(cpu(isa(), 2));
                start.wait();
                for _ in 0..5 {
                    assert!(read(model, thread) == *expected && read(&own, thread) == *expected);
                }
            });
        }
    });
}

#[test]
fn threads_load_one_file_at_once_and_drop_it_while_others_run() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), 2);
    let small = directory.path().join("small.bin");
    let options = LoadOptions { threads: Some(1), isa: Some(isa()) };
    quantize(&path, &small, DataType::Q5_1, &options, |_, _| ControlFlow::Continue(())).unwrap();
    let shared = cpu(isa(), 2);
    for path in [&path, &small] {
        let expected = {
            let model = Model::load_on(path, Arc::clone(&shared)).unwrap();
            (0..THREADS).map(|thread| read(&model, thread)).collect::<Vec<_>>()
        };
        let start = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for (thread, expected) in expected.iter().enumerate() {
                let (shared, start) = (&shared, &start);
                scope.spawn(move || {
                    start.wait();
                    for round in 0..8 {
                        let cpu = if (thread + round) % 2 == 0 { Arc::clone(shared) } else { cpu(isa(), 2) };
                        let model = Model::load_on(path, cpu).unwrap();
                        assert!(read(&model, thread) == *expected);
                    }
                });
            }
        });
    }
}

#[test]
fn a_file_is_replaced_while_threads_load_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), 3);
    let shared = cpu(isa(), 2);
    let expected: Vec<_> = [3, 4]
        .map(|seed| {
            write(directory.path(), seed);
            read(&Model::load_on(&path, Arc::clone(&shared)).unwrap(), 0).0
        })
        .into();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let model = Model::load_on(&path, Arc::clone(&shared)).unwrap();
                    assert!(expected.contains(&read(&model, 0).0));
                }
            });
        }
        for seed in [3, 4].into_iter().cycle().take(10) {
            write(directory.path(), seed);
        }
    });
}
