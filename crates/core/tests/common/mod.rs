//! What the integration tests share.
#![allow(dead_code, clippy::unwrap_used)] // each test program uses a part of it

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rwkv_core::model::Network;
use rwkv_core::params::Stored;
use rwkv_core::{DataType, LoadOptions, Model, ModelConfig, write_model};
use rwkv_kernels::{Cpu, Isa};

/// A file that this crate keeps for its tests.
pub(crate) fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", name].iter().collect()
}

/// A file of the collection beside the repository, or none, with a note, where there is no such collection.
pub(crate) fn shared(name: &str) -> Option<PathBuf> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "..", "..", "shared", name].iter().collect();
    if !path.exists() {
        println!("skipped: there is no ../shared/{name} beside the repository");
        return None;
    }
    Some(path)
}

/// One thread and two, on every tier of this machine.
pub(crate) fn every_cpu() -> Vec<Arc<Cpu>> {
    let pairs = Isa::available().into_iter().flat_map(|isa| [(isa, 1), (isa, 2)]);
    pairs.map(|(isa, threads)| cpu(isa, threads)).collect()
}

pub(crate) fn cpu(isa: Isa, threads: usize) -> Arc<Cpu> {
    LoadOptions { isa: Some(isa), threads: Some(threads) }.start_cpu().unwrap()
}

/// Values for every parameter of a model, as files store them: about as large as trained ones, all different.
pub(crate) fn values(config: &ModelConfig, seed: u32) -> Vec<Vec<f32>> {
    let (_, layout, _) = Network::new(config);
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let values = layout.specs().iter().map(|spec| {
        let scale =
            if spec.is_matrix() && spec.name != "emb.weight" { (3.0 / spec.cols as f32).sqrt() } else { 1.0 };
        (0..spec.len())
            .map(|_| match (spec.stored, spec.name.contains("time_mix"), spec.name.contains("ln")) {
                (Stored::NegExp, ..) => spec.stored.to_file(3.0 * uniform() - 2.0),
                (_, true, _) => 0.5 + 0.5 * uniform(),
                (_, _, true) if spec.name.ends_with("weight") => 1.0 + 0.2 * uniform(),
                _ => scale * uniform(),
            })
            .collect()
    });
    values.collect()
}

/// Writes a model of these values, as FP32 or FP16.
pub(crate) fn write(path: impl AsRef<Path>, config: &ModelConfig, values: &[Vec<f32>], data_type: DataType) {
    let (_, layout, _) = Network::new(config);
    write_model(path, config, &layout, values, data_type).unwrap();
}

pub(crate) fn model(config: &ModelConfig, seed: u32, cpu: Arc<Cpu>) -> Model {
    Model::from_parameters(*config, values(config, seed), cpu)
}

/// Tokens without a pattern.
pub(crate) fn tokens(n_vocab: usize, len: usize) -> Vec<u32> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % n_vocab as u32
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// The largest difference of two vectors of the same length; NaN if there is one.
pub(crate) fn largest_difference(x: &[f32], y: &[f32]) -> f32 {
    assert_eq!(x.len(), y.len());
    x.iter()
        .zip(y)
        .map(|(x, y)| (x - y).abs())
        .fold(0.0, |max, d| if d.is_nan() || d > max { d } else { max })
}
