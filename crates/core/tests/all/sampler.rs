//! The sampler against NumPy, which follows the papers' formulas in double precision: `fixtures/sampler.py`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;

use rwkv_core::{LogProbabilities, Sampler, SamplerKind, SamplerOptions, log_probabilities};
use serde_json::Value;

use crate::common::fixture;

/// The fixture has seven digits of probabilities; of log-probabilities it has eleven.
const TOLERANCE: f64 = 1e-6;

fn cases(kind: &str) -> Vec<Value> {
    let all: Value = serde_json::from_slice(&fs::read(fixture("sampler.json")).unwrap()).unwrap();
    all[kind].as_array().unwrap().clone()
}

/// Logits and earlier tokens, made as `Stream` in `sampler.py` makes them.
fn make(case: &Value) -> (Vec<f32>, Vec<u32>) {
    let [seed, n_vocab, bits, exponent] = [0, 1, 2, 3].map(|i| case["logits"][i].as_u64().unwrap() as u32);
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state
    };
    let half = f64::from(1 << (bits - 1));
    let step = f64::from(1 << exponent) / half;
    let mut logit = || ((f64::from(next() >> (32 - bits)) - half) * step) as f32;
    let logits = (0..n_vocab).map(|_| logit()).collect();
    let history = (0..case["history"].as_u64().unwrap_or(0)).map(|_| (next() >> 8) % n_vocab).collect();
    (logits, history)
}

fn options(case: &Value) -> SamplerOptions {
    let mut options = SamplerOptions::default();
    for (name, value) in case["options"].as_object().unwrap() {
        let field = match name.as_str() {
            "top_k" => {
                options.top_k = Some(value.as_u64().unwrap() as usize);
                continue;
            }
            "logit_bias" => {
                options.logit_bias = value.as_array().unwrap().iter().map(bias).collect();
                continue;
            }
            "uncounted" => {
                options.uncounted =
                    value.as_array().unwrap().iter().map(|token| token.as_u64().unwrap() as u32).collect();
                continue;
            }
            "temperature" => &mut options.temperature,
            "top_p" => &mut options.top_p,
            "min_p" => &mut options.min_p,
            "typical_p" => &mut options.typical_p,
            "repetition_penalty" => &mut options.repetition_penalty,
            "presence_penalty" => &mut options.presence_penalty,
            "frequency_penalty" => &mut options.frequency_penalty,
            "penalty_decay" => &mut options.penalty_decay,
            other => panic!("{other} is no option"),
        };
        *field = value.as_f64().unwrap();
    }
    options
}

/// JSON has no −∞.
fn bias(value: &Value) -> (u32, f32) {
    (value[0].as_u64().unwrap() as u32, value[1].as_f64().map_or(f32::NEG_INFINITY, |bias| bias as f32))
}

fn pairs(value: &Value) -> Vec<(u32, f64)> {
    let pair = |pair: &Value| (pair[0].as_u64().unwrap() as u32, pair[1].as_f64().unwrap());
    value.as_array().unwrap().iter().map(pair).collect()
}

fn largest_difference(found: &[(u32, f64)], expected: &[(u32, f64)]) -> f64 {
    let tokens = |pairs: &[(u32, f64)]| pairs.iter().map(|pair| pair.0).collect::<Vec<_>>();
    assert_eq!(tokens(found), tokens(expected));
    found.iter().zip(expected).map(|(x, y)| (x.1 - y.1).abs()).fold(0.0, f64::max)
}

/// What `sums` of the fixture has after the number of tokens and the first.
fn sums(distribution: &[(u32, f64)]) -> [f64; 3] {
    let weight = |token: u32| f64::from(token.wrapping_mul(2_654_435_761)) / 2_f64.powi(32);
    let entropy = distribution.iter().map(|(_, p)| p * p.ln()).sum();
    let weighted = distribution.iter().map(|&(token, p)| p * weight(token)).sum();
    [distribution[0].1, entropy, weighted]
}

#[test]
fn distributions_are_those_of_the_papers() {
    let cases = cases("distributions");
    assert_eq!(cases.len(), 1080);
    check(&cases, SamplerKind::Usual);
}

#[test]
fn distributions_are_those_of_rwkv_s_own_programs() {
    let cases = cases("rwkv");
    assert_eq!(cases.len(), 300);
    check(&cases, SamplerKind::Rwkv);
    // The other rules do not give them: else these cases would show nothing.
    let differ = |case: &&Value| {
        let found = of(case, SamplerKind::Usual).distribution(&make(case).0);
        let rwkv = of(case, SamplerKind::Rwkv).distribution(&make(case).0);
        found.len() != rwkv.len() || largest_difference_of_sums(&found, &sums(&rwkv)) > 1e-3
    };
    assert!(cases.iter().filter(differ).count() > 40);
}

/// A sampler with the options of a case, after its earlier tokens.
fn of(case: &Value, kind: SamplerKind) -> Sampler {
    let mut sampler = Sampler::new(SamplerOptions { sampler: kind, ..options(case) }).unwrap();
    for token in make(case).1 {
        sampler.observe(token);
    }
    sampler
}

/// An entropy can be above 1.
fn largest_difference_of_sums(found: &[(u32, f64)], expected: &[f64; 3]) -> f64 {
    let each = sums(found).into_iter().zip(expected);
    each.map(|(x, y)| (x - y).abs() / y.abs().max(1.0)).fold(0.0, f64::max)
}

fn check(cases: &[Value], kind: SamplerKind) {
    let mut largest = 0.0_f64;
    for case in cases {
        let (logits, _) = make(case);
        let mut sampler = of(case, kind);
        let found = sampler.distribution(&logits);
        assert!(found.is_sorted_by_key(|pair| -pair.1), "{case}");
        let difference = if case.get("all").is_some() {
            largest_difference(&found, &pairs(&case["all"]))
        } else {
            let expected = &case["sums"];
            assert_eq!(
                (Some(found.len() as u64), Some(u64::from(found[0].0))),
                (expected[0].as_u64(), expected[1].as_u64()),
                "{case}"
            );
            largest_difference_of_sums(&found, &[2, 3, 4].map(|i| expected[i].as_f64().unwrap()))
        };
        assert!(difference < TOLERANCE, "{difference:e}: {case}");
        largest = largest.max(difference);

        // What is drawn is of the distribution.
        let token = sampler.sample(&logits);
        assert!(found.iter().any(|pair| pair.0 == token), "{token}: {case}");
    }
    println!("{} distributions, largest difference {largest:e}", cases.len());
}

#[test]
fn log_probabilities_are_those_of_the_softmax() {
    let mut largest = 0.0_f64;
    for case in cases("log_probabilities") {
        let (logits, _) = make(&case);
        let token = case["token"].as_u64().unwrap() as u32;
        let n_best = case["n_best"].as_u64().unwrap() as usize;
        let LogProbabilities { chosen, best } = log_probabilities(&logits, token, n_best);
        let chosen = (chosen - case["chosen"].as_f64().unwrap()).abs();
        let difference = chosen.max(largest_difference(&best, &pairs(&case["best"])));
        assert!(difference < 1e-8, "{difference:e}: {case}");
        largest = largest.max(difference);
    }
    println!("largest difference {largest:e}");
}
