//! Measuring a model: what is counted, and that it stops. Speed itself is no test's business.

#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use crate::common::{cpu, model, values, write};
use rwkv_core::{BenchOptions, DataType, Error, LoadOptions, Model, ModelConfig, quantize};
use rwkv_kernels::Isa;

const CONFIG: ModelConfig = ModelConfig { n_ffn: 40, ..ModelConfig::v4(11, 16, 2) };

/// One that is over at once.
const SHORT: BenchOptions =
    BenchOptions { decode: 2, prompt: 150, sessions: 3, seconds: 0.0, buffer: 1 << 16 };

/// Weights of [`CONFIG`] that a token meets in matrices: a row of the embedding, the head, and in each of two
/// blocks five matrices of 16 × 16 and two of 40 × 16.
const IN_MATRICES: usize = 16 + 11 * 16 + 2 * (5 * 16 * 16 + 2 * 40 * 16);

/// And in vectors: ln0 and ln_out, and in each block two norms and seven more.
const IN_VECTORS: usize = 16 * (2 + 2 + 2 * (2 * 2 + 7));

#[test]
fn a_token_reads_every_matrix_once_and_one_row_of_the_embedding() {
    let directory = tempfile::tempdir().unwrap();
    for (data_type, bytes) in [(DataType::F32, 4), (DataType::F16, 2)] {
        let path = directory.path().join("model.bin");
        write(&path, &CONFIG, &values(&CONFIG, 1), data_type);
        let model = Model::load_on(&path, cpu(Isa::detect(), 1)).unwrap();
        // Vectors stay f32.
        assert_eq!(model.bytes_per_token(), bytes * IN_MATRICES + 4 * IN_VECTORS, "{data_type}");
    }
    assert_eq!(model(&CONFIG, 1, cpu(Isa::Scalar, 1)).bytes_per_token(), 4 * (IN_MATRICES + IN_VECTORS));
}

#[test]
fn a_token_reads_a_quantized_matrix_as_it_is_stored() {
    let directory = tempfile::tempdir().unwrap();
    let [whole, quantized] = ["whole.bin", "quantized.bin"].map(|name| directory.path().join(name));
    let config = ModelConfig::v4(11, 32, 1);
    write(&whole, &config, &values(&config, 1), DataType::F32);
    let options = LoadOptions { threads: Some(1), ..LoadOptions::default() };
    quantize(&whole, &quantized, DataType::Q5_1, &options, |_, _| ControlFlow::Continue(())).unwrap();
    let model = Model::load(&quantized, &options).unwrap();
    // 24 bytes for 32 weights of five matrices of 32 × 32 and two of 32 × 128; the embedding's row and the
    // head are copied.
    let blocks = 24 * (5 * 32 + 2 * 128);
    let copied = 4 * (32 + 11 * 32);
    let vectors = 4 * 32 * (2 + 2 + 2 * 2 + 7);
    assert_eq!(model.bytes_per_token(), blocks + copied + vectors);
}

#[test]
fn every_figure_is_there_and_progress_ends_at_its_total() {
    let model = model(&CONFIG, 1, cpu(Isa::detect(), 2));
    let mut seen = Vec::new();
    let found = model
        .bench(&SHORT, |done, total| {
            seen.push((done, total));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(found.rounds, BenchOptions::ROUNDS);
    assert_eq!(found.bytes_per_token, model.bytes_per_token());
    let figures = [found.first_token, found.decode, found.prefill, found.batch, found.batch_gain];
    for figure in figures.into_iter().chain([found.available_bandwidth, found.bandwidth_share]) {
        assert!(figure > 0.0 && figure.is_finite(), "{found:?}");
    }
    assert!((found.bandwidth() - found.decode * found.bytes_per_token as f64).abs() < 1.0);
    let &(done, total) = seen.last().unwrap();
    assert_eq!(done, total);
    assert!(seen.iter().all(|&(done, whole)| done <= total && whole == total));
    // Two warm-up passes, and in each round 2 tokens, 2 of a batch and 2 passes of the prompt, at least.
    assert!(seen.len() >= 2 + 3 * (2 + 2 + 2));
}

#[test]
fn it_stops_when_it_is_told_to() {
    let model = model(&CONFIG, 1, cpu(Isa::detect(), 1));
    for stop_after in [1, 2, 5, 9] {
        let mut calls = 0;
        let endless = BenchOptions { seconds: 3600.0, ..SHORT };
        let result = model.bench(&endless, |_, _| {
            calls += 1;
            if calls < stop_after { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        assert!(matches!(result, Err(Error::Aborted)));
        assert_eq!(calls, stop_after);
    }
}

#[test]
fn nonsense_is_refused_by_name() {
    let model = model(&CONFIG, 1, cpu(Isa::detect(), 1));
    let cases = [
        ("decode", BenchOptions { decode: 0, ..SHORT }),
        ("prompt", BenchOptions { prompt: 0, ..SHORT }),
        ("prompt", BenchOptions { prompt: usize::MAX, ..SHORT }),
        ("sessions", BenchOptions { sessions: 0, ..SHORT }),
        ("sessions", BenchOptions { sessions: 1025, ..SHORT }),
        ("seconds", BenchOptions { seconds: -1.0, ..SHORT }),
        ("seconds", BenchOptions { seconds: f64::NAN, ..SHORT }),
        ("buffer", BenchOptions { buffer: usize::MAX, ..SHORT }),
    ];
    for (expected, options) in cases {
        match model.bench(&options, |_, _| ControlFlow::Continue(())) {
            Err(Error::InvalidOption { name, .. }) => assert_eq!(name, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}
