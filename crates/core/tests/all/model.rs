//! A model's promises to its callers.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::ops::ControlFlow;

use crate::common::{self, cpu, model, tokens, values, write};
use rwkv_core::model::Network;
use rwkv_core::{DataType, Error, Model, ModelConfig, Outputs, Segment};
use rwkv_kernels::Isa;

const CONFIG: ModelConfig = ModelConfig { n_ffn: 40, ..ModelConfig::v4(11, 16, 2) };

fn example() -> Model {
    model(&CONFIG, 1, cpu(Isa::detect(), 1))
}

#[test]
fn parameters_in_memory_and_their_file_are_the_same_model() {
    let directory = tempfile::tempdir().unwrap();
    let (_, layout, _) = Network::new(&CONFIG);
    let in_memory = example();
    write(directory.path().join("model.bin"), &CONFIG, &values(&CONFIG, 1), DataType::F32);
    // A run's directory stands for its model.
    let loaded = Model::load_on(directory.path(), cpu(Isa::detect(), 2)).unwrap();
    assert_eq!((loaded.config(), loaded.n_params()), (&CONFIG, layout.n_params()));
    assert_eq!(loaded.fingerprint().unwrap(), in_memory.fingerprint().unwrap());

    let text = tokens(11, 50);
    let mut state = in_memory.new_state();
    let logits = in_memory.eval(&text, &mut state).unwrap();
    let mut other = loaded.new_state();
    assert_eq!(loaded.eval(&text, &mut other).unwrap(), logits);
    assert_eq!(other, state);
    // And a saved state goes on in either.
    let mut restored = loaded.state_from_bytes(&state.to_bytes().unwrap()).unwrap();
    assert_eq!(loaded.eval(&[3], &mut restored).unwrap(), in_memory.eval(&[3], &mut state).unwrap());
}

#[test]
fn half_precision_weights_compute_as_their_values_in_single_precision_but_for_rounded_activations() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("half.bin");
    let (_, layout, _) = Network::new(&CONFIG);
    write(&path, &CONFIG, &values(&CONFIG, 1), DataType::F16);
    let half = Model::load_on(&path, cpu(Isa::detect(), 1)).unwrap();
    let file = rwkv_core::ModelFile::open(&path).unwrap();
    let widened = (0..layout.specs().len()).map(|index| file.read(index)).collect();
    let widened = Model::from_parameters(CONFIG, widened, cpu(Isa::detect(), 1));
    let text = tokens(11, 20);
    let logits = |model: &Model| model.eval_all(&text, &mut model.new_state()).unwrap();
    // Rounding to eleven bits moves an activation by 2⁻¹¹ of itself at most; they are below 8 here, weights
    // below 1.
    assert!(common::largest_difference(&logits(&half), &logits(&widened)) < 8.0 / 1024.0);
    assert_eq!(half.data_type(), DataType::F16);
    // Not the same file: a state of one is not taken for one of the other.
    assert_ne!(half.fingerprint().unwrap(), widened.fingerprint().unwrap());
}

#[test]
fn an_error_leaves_every_state_as_it_was() {
    struct Case {
        tokens: &'static [u32],
        foreign: bool,
        code: &'static str,
    }
    let cases = [
        Case { tokens: &[], foreign: false, code: "INVALID_OPTION" },
        Case { tokens: &[1, 11], foreign: false, code: "TOKEN_OUT_OF_RANGE" },
        Case { tokens: &[u32::MAX], foreign: false, code: "TOKEN_OUT_OF_RANGE" },
        Case { tokens: &[1], foreign: true, code: "STATE" },
    ];
    let (model, other) = (example(), common::model(&CONFIG, 2, cpu(Isa::detect(), 1)));
    for Case { tokens, foreign, code } in cases {
        let mut good = model.new_state();
        model.eval(&[1, 2, 3], &mut good).unwrap();
        let mut bad = if foreign { other.new_state() } else { model.new_state() };
        let before = (good.clone(), bad.clone());
        let mut segments =
            [Segment { tokens: &[4, 5], state: &mut good }, Segment { tokens, state: &mut bad }];
        let error = model.eval_batch(&mut segments, Outputs::Last).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert_eq!((good, bad), before);
    }
    assert!(model.eval_batch(&mut [], Outputs::All).unwrap().is_empty());
}

#[test]
fn a_cloned_state_is_a_text_that_forks() {
    let model = example();
    let mut state = model.new_state();
    model.eval(&[1, 2, 3], &mut state).unwrap();
    let mut fork = state.clone();
    assert_eq!(fork, state);
    model.eval(&[4], &mut fork).unwrap();
    assert_ne!(fork, state);
    let mut whole = model.new_state();
    model.eval(&[1, 2, 3, 4], &mut whole).unwrap();
    assert_eq!(fork, whole);
}

#[test]
fn threads_share_a_model() {
    let model = common::model(&CONFIG, 1, cpu(Isa::detect(), 2));
    let text = tokens(11, 60);
    let expected = model.eval(&text, &mut model.new_state()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert_eq!(model.eval(&text, &mut model.new_state()).unwrap(), expected);
                }
            });
        }
    });
}

#[test]
fn one_model_runs_on_two_teams_at_once() {
    let one = example();
    let two = one.with_cpu(cpu(Isa::Scalar, 2));
    assert_eq!((two.cpu().isa(), two.cpu().threads()), (Isa::Scalar, 2));

    let other = Model::from_parameters(CONFIG, values(&CONFIG, 1), cpu(Isa::Scalar, 1));
    let text = tokens(11, 200);
    let read = |model: &Model| {
        let mut state = model.new_state();
        (model.eval(&text, &mut state).unwrap(), state)
    };
    let expected = [read(&one), read(&other)];
    let found = std::thread::scope(|scope| {
        let handles = [&one, &two].map(|model| scope.spawn(|| read(model)));
        handles.map(|handle| handle.join().unwrap())
    });
    assert_eq!(found, expected);
}

#[test]
fn logits_can_be_read_where_they_were_computed() {
    let model = example();
    let text = tokens(11, 300);
    let (mut kept, mut seen) = (model.new_state(), model.new_state());
    let expected = model.eval_all(&text, &mut kept).unwrap();
    let mut logits = Vec::new();
    let mut next = 0;
    let mut segments = [Segment { tokens: &text, state: &mut seen }];
    let all = model.eval_each(&mut segments, Outputs::All, |segment, tokens, rows| {
        assert_eq!((segment, tokens.start, tokens.len() * 11), (0, next, rows.len()));
        next = tokens.end;
        logits.extend_from_slice(rows);
    });
    all.unwrap();
    assert_eq!((next, logits, seen), (300, expected, kept));
}

/// The mean of −ln p of `text[1..]` in windows of `ctx_len`, one token at a time, in double precision.
fn loss_by_definition(model: &Model, text: &[u32], ctx_len: usize) -> f64 {
    let windows = (text.len() - 1) / ctx_len;
    let mut sum = 0.0;
    for window in 0..windows {
        let mut state = model.new_state();
        for at in window * ctx_len..(window + 1) * ctx_len {
            let logits = model.eval(&text[at..=at], &mut state).unwrap();
            let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
            sum -= f64::from(logits[text[at + 1] as usize]) - total.ln();
        }
    }
    sum / (windows * ctx_len) as f64
}

#[test]
fn the_loss_is_that_of_whole_windows_from_an_empty_state() {
    let model = example();
    let text = tokens(11, 500);
    // Windows smaller and larger than a pass; a text of one window; less than one; all of it.
    for (len, ctx_len) in [(500, 1), (500, 7), (500, 64), (500, 200), (65, 64), (500, 499), (12, 64), (2, 9)]
    {
        let text = &text[..len];
        let window = ctx_len.min(len - 1);
        let found = model.evaluate(text, Some(ctx_len), |_, _| ControlFlow::Continue(())).unwrap();
        let expected = loss_by_definition(&model, text, window);
        assert!((found.loss - expected).abs() < 1e-6, "{len} {ctx_len}: {} {expected}", found.loss);
        assert_eq!(found.n_tokens, (len - 1) / window * window);
        assert!((found.perplexity() - expected.exp()).abs() < 1e-4);
        // One byte a token: bits are nats over ln 2.
        let bits = found.bits_per_byte(found.n_tokens);
        assert!((bits - expected / std::f64::consts::LN_2).abs() < 1e-5);
    }
    let whole = model.evaluate(&text, None, |_, _| ControlFlow::Continue(())).unwrap();
    assert!((whole.loss - loss_by_definition(&model, &text, 499)).abs() < 1e-6);
}

#[test]
fn an_evaluation_reports_progress_and_stops_when_asked() {
    let model = example();
    let text = tokens(11, 1001);
    let mut seen = Vec::new();
    model
        .evaluate(&text, Some(32), |done, total| {
            seen.push((done, total));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(seen.len() > 3 && seen.is_sorted() && seen.last() == Some(&(992, 992)), "{seen:?}");

    let mut calls = 0;
    let error = model.evaluate(&text, Some(32), |_, _| {
        calls += 1;
        ControlFlow::Break(())
    });
    assert!(matches!(error, Err(Error::Aborted)));
    assert_eq!(calls, 1);
}

#[test]
fn texts_that_cannot_be_evaluated_are_refused() {
    let model = example();
    let evaluate = |text: &[u32], ctx_len| model.evaluate(text, ctx_len, |_, _| ControlFlow::Continue(()));
    for (text, ctx_len, code) in [
        (&[][..], Some(8), "INVALID_OPTION"),
        (&[1], Some(8), "INVALID_OPTION"),
        (&[1, 2, 3], Some(0), "INVALID_OPTION"),
        // Also where it is only ever a target, or left out.
        (&[1, 2, 11], Some(8), "TOKEN_OUT_OF_RANGE"),
        (&[1, 2, 3, 11], Some(2), "TOKEN_OUT_OF_RANGE"),
    ] {
        assert_eq!(evaluate(text, ctx_len).unwrap_err().code(), code);
    }
}
