//! Sessions that come, write, are aborted, left, forked and dropped at random, on several threads, with models that
//! come and go: what is written to its end is what is written alone, and nothing hangs.
//!
//! `RWKV_HOSTILE_SECONDS=300` goes on for so long; under ThreadSanitizer that is `.ci/tsan.sh hostile`.

#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rwkv_core::model::Network;
use rwkv_core::{LoadOptions, Model, ModelConfig, SamplerOptions, State, go_on};
use rwkv_session::{GenerateOptions, Piece, Session};
use rwkv_text::Tokenizer;

/// Rounds of each thread, if no time is given.
const ROUNDS: usize = 60;

struct Random(u32);

impl Random {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as usize % count
    }
}

fn model() -> Model {
    let config = ModelConfig::v4(256, 32, 2);
    let (_, layout, _) = Network::new(&config);
    let mut random = Random(1);
    let mut value = || random.below(2001) as f32 / 1000.0 - 1.0;
    let values = layout.specs().iter().map(|spec| (0..spec.len()).map(|_| value()).collect()).collect();
    let cpu = LoadOptions { threads: Some(2), isa: None }.shared_cpu().unwrap();
    Model::from_parameters(config, values, cpu)
}

/// A call and what it writes alone.
struct Call {
    prompt: String,
    options: GenerateOptions,
    alone: Piece,
    state: Arc<State>,
}

fn calls(model: &Model) -> Vec<Call> {
    let tokenizer = Tokenizer::bytes();
    let call = |seed: usize| {
        let prompt: String =
            "It was a dark and stormy night; ".chars().cycle().take(1 + seed * 37 % 400).collect();
        let options = GenerateOptions {
            max_tokens: 1 + seed * 7 % 40,
            stop: if seed.is_multiple_of(3) { vec!["e".to_owned(), "\n\n".to_owned()] } else { Vec::new() },
            ignore_end_of_text: seed.is_multiple_of(2),
            log_probabilities: seed.is_multiple_of(5).then_some(2),
            sampler: SamplerOptions { seed: seed as u64, ..Default::default() },
        };
        let session = Session::new(model, Some(&tokenizer)).unwrap();
        let alone = session.generate(&prompt, &options).unwrap().rest_with(go_on).unwrap();
        Call { prompt, options, alone, state: session.state() }
    };
    (0..12).map(call).collect()
}

fn one(random: &mut Random, model: &Model, calls: &[Call]) {
    let tokenizer = Tokenizer::bytes();
    let Call { prompt, options, alone, state } = &calls[random.below(calls.len())];
    let session = Session::new(model, Some(&tokenizer)).unwrap();
    match random.below(8) {
        0..=2 => {
            let piece = session.generate(prompt, options).unwrap().rest_with(go_on).unwrap();
            assert_eq!(&piece, alone);
            assert_eq!(&session.state(), state);
        }
        // Left after some pieces.
        3 => {
            let count = random.below(3);
            let text: String = session
                .generate(prompt, options)
                .unwrap()
                .take(count)
                .map(|piece| piece.unwrap().text)
                .collect();
            assert!(alone.text.starts_with(&text));
        }
        // Given up from another thread, while a piece is waited for.
        4 => {
            let writing = session.generate(prompt, options).unwrap();
            let (tell, told) = channel();
            writing.pull(Box::new(move |found| tell.send(found.map(|_| ())).unwrap_or(())));
            std::thread::scope(|scope| {
                scope.spawn(|| writing.abort());
            });
            if let Err(error) = told.recv().unwrap() {
                assert_eq!(error.code(), "ABORTED");
            }
        }
        5 => {
            let asked = random.below(3);
            let mut left = asked;
            let stopped = session.eval_with(&vec![7; 5000], |_, _| {
                left = left.saturating_sub(1);
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            if let Err(error) = stopped {
                assert_eq!(error.code(), "ABORTED");
            }
            session.abort();
        }
        // A fork, while the first goes on.
        6 => {
            session.prompt(&prompt[..1]).unwrap();
            let fork = Session::new(model, Some(&tokenizer)).unwrap();
            fork.set_state(session.state()).unwrap();
            let going_on = session.generate("x", options).unwrap();
            if prompt.len() > 1 {
                let piece = fork.generate(&prompt[1..], options).unwrap().rest_with(go_on).unwrap();
                assert_eq!(&piece, alone);
            }
            drop(going_on);
        }
        // Dropped while it reads.
        _ => {
            let reading = session.read(vec![9; 3000], Box::new(|_| ()));
            drop(session);
            if random.below(2) == 0 {
                reading.abort();
            }
        }
    }
}

#[test]
fn whatever_sessions_do_they_write_what_they_write_alone() {
    let seconds = std::env::var("RWKV_HOSTILE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let first = model();
    let calls = calls(&first);
    // Those that threads have of their own are on the same threads, and come and go.
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (first, calls) = (&first, &calls);
            scope.spawn(move || {
                let mut random = Random(seed * 7919 + 1);
                let mut own = model();
                let mut round = 0;
                while end.map_or(round < ROUNDS, |end| Instant::now() < end) {
                    round += 1;
                    match random.below(12) {
                        0 => own = model(),
                        1..=3 => {
                            let fresh = calls.iter().map(|call| Call {
                                prompt: call.prompt.clone(),
                                options: call.options.clone(),
                                alone: call.alone.clone(),
                                state: {
                                    let mut state = own.new_state();
                                    state.as_mut_slice().copy_from_slice(call.state.as_slice());
                                    Arc::new(state)
                                },
                            });
                            one(&mut random, &own, &fresh.collect::<Vec<_>>());
                        }
                        _ => one(&mut random, first, calls),
                    }
                }
                println!("{round} rounds");
            });
        }
    });
}
