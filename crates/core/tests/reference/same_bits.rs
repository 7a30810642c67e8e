//! However a text is cut into calls, chunks and batches: the same logits and states, to the last bit.

#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::common::{self, cpu, every_cpu, largest_difference, model, shared, tokens, write};
use rwkv_core::{DataType, LoadOptions, Model, ModelConfig, Outputs, Segment, State, Version};
use rwkv_kernels::{Cpu, Isa};

/// Logits after every token, and the state after the last.
struct Reading {
    logits: Vec<f32>,
    state: State,
}

fn in_chunks(model: &Model, text: &[u32], chunk: usize) -> Reading {
    let mut state = model.new_state();
    let logits = text.chunks(chunk).flat_map(|tokens| model.eval_all(tokens, &mut state).unwrap());
    Reading { logits: logits.collect(), state }
}

/// Texts of different lengths in rounds: in each, every text that is left goes on by a different number of
/// tokens.
fn in_ragged_batches(model: &Model, texts: &[&[u32]]) -> Vec<Reading> {
    let mut readings: Vec<_> =
        texts.iter().map(|_| Reading { logits: Vec::new(), state: model.new_state() }).collect();
    let mut left = texts.to_vec();
    for round in 0.. {
        let mut members = Vec::new();
        let mut segments = Vec::new();
        for (index, (left, reading)) in left.iter_mut().zip(&mut readings).enumerate() {
            let count = left.len().min(1 + (7 * round + 5 * index) % 23);
            let (tokens, rest) = left.split_at(count);
            *left = rest;
            if !tokens.is_empty() {
                members.push(index);
                segments.push(Segment { tokens, state: &mut reading.state });
            }
        }
        if segments.is_empty() {
            break;
        }
        let logits = model.eval_batch(&mut segments, Outputs::All).unwrap();
        for (index, logits) in members.into_iter().zip(logits) {
            readings[index].logits.extend(logits);
        }
    }
    readings
}

/// 270 tokens are more than one pass: sequence mode itself cuts them.
const LONG: usize = 270;
const SHORT: usize = 80;

fn check(model_on: impl Fn(Arc<Cpu>) -> Model, name: &str, len: usize) {
    let mut largest = 0.0_f32;
    let mut compare = |what: &str, found: &Reading, expected: &Reading| {
        let difference = largest_difference(&found.logits, &expected.logits)
            .max(largest_difference(found.state.as_slice(), expected.state.as_slice()));
        largest = largest.max(difference);
        assert!(
            found.logits == expected.logits && found.state == expected.state,
            "{name}, {what}: {difference:e}"
        );
    };
    for isa in Isa::available() {
        let model = model_on(cpu(isa, 1));
        let text = tokens(model.config().n_vocab, len);
        let serial = in_chunks(&model, &text, 1);
        assert!(serial.logits.iter().all(|logit| logit.is_finite()));
        let texts = [&text[..], &text[..1], &text[..77], &text[..len / 2], &text[len / 2..]];
        let alone = texts.map(|text| in_chunks(&model, text, 64));
        for threads in [1, 2, 4] {
            let model = model_on(cpu(isa, threads));
            for chunk in [1, 7, 16, 64, len] {
                let what = format!("{isa} × {threads}, chunks of {chunk}");
                compare(&what, &in_chunks(&model, &text, chunk), &serial);
            }
            for (found, alone) in in_ragged_batches(&model, &texts).iter().zip(&alone) {
                let what = format!("{isa} × {threads}, {} logits in a ragged batch", alone.logits.len());
                compare(&what, found, alone);
            }
        }
    }
    println!("{name}: largest difference {largest:e}");
}

#[test]
fn for_a_model_whose_widths_fit_no_vector() {
    let config = ModelConfig { n_ffn: 51, ..ModelConfig::v4(37, 27, 3) };
    check(|cpu| model(&config, 1, cpu), "n_embd 27", LONG);
}

#[test]
fn for_a_model_of_usual_widths() {
    check(|cpu| model(&ModelConfig::v4(65, 64, 2), 2, cpu), "n_embd 64", LONG);
}

/// Heads of 8 channels and of 64; the last rows of a pass, of more blocks than one, are those that are needed.
#[test]
fn for_rwkv_7() {
    for (n_embd, n_layer, len) in [(40, 3, LONG), (128, 2, SHORT)] {
        let config = ModelConfig::usual(Version::V7, 41, n_embd, n_layer).unwrap();
        check(|cpu| model(&config, 5, cpu), &format!("RWKV-7, n_embd {n_embd}"), len);
    }
}

#[test]
fn for_every_format() {
    let directory = tempfile::tempdir().unwrap();
    let config = ModelConfig { n_ffn: 96, ..ModelConfig::v4(41, 64, 1) };
    let values = common::values(&config, 4);
    let path = |data_type| directory.path().join(format!("{data_type}.bin"));
    for data_type in DataType::ALL {
        if data_type.is_quantized() {
            let go_on = |_, _| ControlFlow::Continue(());
            rwkv_core::quantize(
                path(DataType::F32),
                path(data_type),
                data_type,
                &LoadOptions::default(),
                go_on,
            )
            .unwrap();
        } else {
            write(path(data_type), &config, &values, data_type);
        }
        check(|cpu| Model::load_on(path(data_type), cpu).unwrap(), data_type.name(), SHORT);
    }
}

#[test]
fn for_published_models() {
    let names = ["4v0-660K-FP32", "4v0-660K-FP16", "7v0-834K-FP32", "7v0-834K-FP16", "7v0-834K-Q5_1"];
    for name in names.map(|name| format!("tiny-rwkv-{name}.bin")) {
        let Some(path) = shared(&format!("models/{name}")) else { return };
        check(|cpu| Model::load_on(&path, cpu).unwrap(), &name, SHORT);
    }
}

#[test]
fn the_last_logits_are_the_last_of_all_and_none_are_none() {
    let model = model(&ModelConfig::v4(30, 32, 2), 3, cpu(Isa::detect(), 1));
    let text = tokens(30, 300);
    for len in [1, 2, 256, 257, 300] {
        let (mut all, mut last, mut none) = (model.new_state(), model.new_state(), model.new_state());
        let every = model.eval_all(&text[..len], &mut all).unwrap();
        assert_eq!(every.len(), len * 30);
        assert_eq!(model.eval(&text[..len], &mut last).unwrap(), every[every.len() - 30..]);
        let mut segments = [Segment { tokens: &text[..len], state: &mut none }];
        assert_eq!(model.eval_batch(&mut segments, Outputs::None).unwrap(), [[0.0; 0]]);
        assert!(all == last && all == none);
    }
}

#[test]
fn the_last_logits_of_a_batch_are_those_of_each_text_alone() {
    for isa in Isa::available() {
        let model = model(&ModelConfig::v4(30, 32, 2), 3, cpu(isa, 2));
        let text = tokens(30, 300);
        // Of every length that the end of a pass treats in its own way, and across the border of two passes.
        let texts = [1, 2, 3, 1, 100, 147, 2, 5, 280].map(|len| &text[300 - len..]);
        let alone = texts.map(|text| in_chunks(&model, text, 1));
        for outputs in [Outputs::Last, Outputs::None] {
            let mut states = texts.map(|_| model.new_state());
            let segments = texts.iter().zip(&mut states);
            let mut segments: Vec<_> = segments.map(|(tokens, state)| Segment { tokens, state }).collect();
            let logits = model.eval_batch(&mut segments, outputs).unwrap();
            for ((alone, logits), state) in alone.iter().zip(logits).zip(&states) {
                let wanted = if outputs == Outputs::Last { 30 } else { 0 };
                assert!(logits == alone.logits[alone.logits.len() - wanted..], "{isa}");
                assert!(*state == alone.state, "{isa}");
            }
        }
    }
}

#[test]
fn tiers_agree_with_the_scalar_one_up_to_rounding() {
    let config = ModelConfig::v4(65, 64, 3);
    let text = tokens(65, 200);
    let read = |cpu| in_chunks(&model(&config, 5, cpu), &text, 200).logits;
    let expected = read(cpu(Isa::Scalar, 1));
    for cpu in every_cpu() {
        let (isa, threads) = (cpu.isa(), cpu.threads());
        let difference = largest_difference(&read(cpu), &expected);
        println!("{isa} × {threads}: {difference:e}");
        assert!(difference < 1e-4);
    }
}
