//! What the integration tests share.

use rwkv_core::go_on;
use std::fs;
use std::path::PathBuf;

use rwkv_train::{StepReport, TrainOptions, Trainer, Unknown};
use tempfile::TempDir;

/// A directory with a text, `book.txt`, in it.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("book.txt"), text).expect("a text");
        Self(directory)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A model small enough for a test of debug code.
    pub(crate) fn options(&self, out: &str) -> TrainOptions {
        TrainOptions {
            n_layer: 2,
            n_embd: 16,
            ctx_len: 12,
            batch_size: 3,
            max_steps: 20,
            threads: Some(1),
            // The text's characters and nothing else, so that it is known what guessing costs.
            unknown: Some(Unknown::Error),
            ..TrainOptions::new(self.path("book.txt"), self.path(out))
        }
    }
}

/// That many sentences, none like another.
pub(crate) fn prose(sentences: usize) -> String {
    let line = |i: usize| format!("Line {i}: {} whales and {} ships.", i * i % 97, i * 7 % 13);
    (0..sentences).map(line).collect::<Vec<_>>().join("\n")
}

pub(crate) fn run_steps(trainer: &mut Trainer, steps: usize) -> Vec<StepReport> {
    (0..steps).map(|_| trainer.step(go_on).expect("a step")).collect()
}

pub(crate) fn bits(trainer: &Trainer) -> Vec<u32> {
    let params = trainer.params();
    let indices = 0..params.layout().specs().len();
    indices.flat_map(|index| params.raw(index)).map(|value| value.to_bits()).collect()
}

pub(crate) fn validate(trainer: &mut Trainer) -> f32 {
    trainer.validate(go_on).expect("a validation")
}

/// The steps of the run's checkpoints, in order.
pub(crate) fn checkpoints(place: &Place) -> Vec<u64> {
    let names = fs::read_dir(place.path("run")).expect("the run").flatten().map(|entry| entry.file_name());
    let steps = names.filter_map(|name| name.to_str()?.strip_prefix("checkpoint-")?.parse().ok());
    let mut steps: Vec<_> = steps.collect();
    steps.sort_unstable();
    steps
}
