//! What accumulation, dropout, carried states and recomputation mean for a run.

use rwkv_core::go_on;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::common::{Place, bits, prose, run_steps, validate};
use rwkv_core::lora::adapt;
use rwkv_core::model::Network;
use rwkv_core::params::{Initial, Vector};
use rwkv_core::store::Parameters;
use rwkv_core::{LoadOptions, Model, ModelConfig};
use rwkv_kernels::{Cpu, Isa};
use rwkv_train::tape::Tape;
use rwkv_train::{Decay, OptimizerKind, ResumeOptions, TrainOptions, TrainPrecision, Trainer};

fn place() -> Place {
    Place::new(&prose(200))
}

#[test]
fn three_passes_over_four_sequences_learn_as_one_over_twelve() {
    let place = place();
    for carry_state in [false, true] {
        let options = |out: &str, batch_size, accumulate| TrainOptions {
            batch_size,
            accumulate,
            carry_state,
            learning_rate: Some(0.01),
            // bf16 amplifies the rounding of sums: a last bit of difference can round an operand the other
            // way.
            precision: Some(TrainPrecision::F32),
            ..place.options(&format!("{out}-{carry_state}"))
        };
        let mut whole = Trainer::create(&options("whole", 12, 1), go_on).expect("a run");
        let mut parts = Trainer::create(&options("parts", 4, 3), go_on).expect("a run");
        let mut largest = 0.0_f32;
        let reports = [&mut whole, &mut parts].map(|trainer| run_steps(trainer, 20));
        assert!(reports[0][19].loss < reports[0][0].loss - 0.5, "{:?}", reports[0]);
        for (a, b) in reports[0].iter().zip(&reports[1]) {
            assert_eq!((a.step, a.tokens, a.learning_rate), (b.step, b.tokens, b.learning_rate));
            largest = largest.max((a.loss - b.loss).abs() / a.loss);
        }
        println!("carried states {carry_state}: largest relative difference of 20 losses {largest:.1e}");
        assert!(largest < 1e-5, "{largest}");
    }
}

/// Runs `options` in one go and with a stop after 7 of 20 steps.
fn check_resumes(place: &Place, name: &str, options: impl Fn(&str) -> TrainOptions) {
    let mut whole = Trainer::create(&options(&format!("{name}-whole")), go_on).expect("a run");
    let expected = run_steps(&mut whole, 20);
    let halves = format!("{name}-halves");
    let mut first = Trainer::create(&options(&halves), go_on).expect("a run");
    first.save_checkpoint(go_on).expect("a checkpoint before the first step");
    drop(first);
    let resume = || Trainer::resume(place.path(&halves), &ResumeOptions::default(), go_on).expect("the run");
    let mut first = resume();
    let mut reports = run_steps(&mut first, 7);
    validate(&mut first);
    first.save_checkpoint(go_on).expect("a checkpoint");
    run_steps(&mut first, 2); // lost
    drop(first);
    let mut second = resume();
    assert_eq!(second.steps(), 7);
    reports.extend(run_steps(&mut second, 13));
    assert!(bits(&whole) == bits(&second), "{name}: parameters differ");
    for (a, b) in expected.iter().zip(&reports) {
        assert_eq!(
            (a.step, a.loss.to_bits(), a.grad_norm),
            (b.step, b.loss.to_bits(), b.grad_norm),
            "{name}"
        );
    }
}

#[test]
fn runs_with_dropout_and_carried_states_go_on_bit_for_bit() {
    let place = place();
    check_resumes(&place, "dropout", |out| TrainOptions { dropout: 0.2, ..place.options(out) });
    check_resumes(&place, "carried", |out| TrainOptions { carry_state: true, ..place.options(out) });
    check_resumes(&place, "muon", |out| TrainOptions {
        optimizer: Some(OptimizerKind::Muon),
        decay: Decay::Linear,
        cooldown: 0.5,
        ..place.options(out)
    });
    check_resumes(&place, "all", |out| TrainOptions {
        dropout: 0.2,
        carry_state: true,
        accumulate: 3,
        recompute: true,
        ..place.options(out)
    });
}

#[test]
fn recomputation_changes_no_bit_of_a_run_and_may_be_changed_on_the_way() {
    let place = place();
    let options = |out: &str, recompute| TrainOptions {
        recompute,
        dropout: 0.1,
        carry_state: true,
        accumulate: 2,
        ..place.options(out)
    };
    let mut kept = Trainer::create(&options("kept", false), go_on).expect("a run");
    let mut again = Trainer::create(&options("again", true), go_on).expect("a run");
    run_steps(&mut kept, 6);
    run_steps(&mut again, 3);
    assert!(bits(&kept) != bits(&again));
    again.save_checkpoint(go_on).expect("a checkpoint");
    drop(again);
    let changes = ResumeOptions { recompute: Some(false), ..ResumeOptions::default() };
    let mut again = Trainer::resume(place.path("again"), &changes, go_on).expect("the run");
    run_steps(&mut again, 3);
    assert!(bits(&kept) == bits(&again));
}

#[test]
fn dropout_is_of_training_alone() {
    let place = place();
    let mut plain = Trainer::create(&place.options("plain"), go_on).expect("a run");
    let mut dropped =
        Trainer::create(&TrainOptions { dropout: 0.5, ..place.options("dropped") }, go_on).expect("a run");
    assert_eq!(validate(&mut plain).to_bits(), validate(&mut dropped).to_bits());
    let losses = [&mut plain, &mut dropped].map(|trainer| run_steps(trainer, 20)[19].loss);
    assert!((losses[0] - losses[1]).abs() > 1e-3, "{losses:?}");

    let twice = [validate(&mut dropped), validate(&mut dropped)].map(f32::to_bits);
    assert_eq!(twice[0], twice[1]);
    assert!(dropped.save_model(go_on).expect("a model"));
    let model = Model::load(place.path("dropped"), &LoadOptions::default()).expect("the model");
    let tokens = &dropped.data().validation().first(12 * 20 + 1).expect("tokens")[..];
    let live = dropped.model();
    let loss = |model: &Model| {
        model.evaluate(tokens, Some(12), |_, _| ControlFlow::Continue(())).expect("a loss").loss.to_bits()
    };
    assert_eq!(loss(&model), loss(&live));
    let prompt = &tokens[..30];
    let logits = |model: &Model| model.eval_all(prompt, &mut model.new_state()).expect("logits");
    assert_eq!(logits(&model), logits(&live));
}

const LAYERS: usize = 6;
const CONFIG: ModelConfig = ModelConfig::v4(9, 16, LAYERS);

/// `len` numbers in ±`scale` that look random.
fn numbers(seed: usize, len: usize, scale: f32) -> Vec<f32> {
    let fraction = |i: usize| ((i + 1 + seed * 7919) as f64 * 0.754_877_666_246_692_8).fract();
    (0..len).map(|i| (fraction(i) * 2.0 - 1.0) as f32 * scale).collect()
}

/// A model that is trained whole, or one with adapters and a trained state.
fn params(is_tuned: bool) -> (Parameters, Option<Vector>) {
    let (_, layout, state) = Network::new(&CONFIG);
    let values: Vec<_> =
        layout.specs().iter().zip(1..).map(|(spec, i)| numbers(i, spec.len(), 0.5)).collect();
    if !is_tuned {
        return (Parameters::of_raw(layout, values), None);
    }
    let specs = layout.specs();
    let stored = specs.iter().zip(values);
    let stored = stored.map(|(spec, raw)| raw.iter().map(|&raw| spec.stored.to_file(raw)).collect());
    let stored = stored.collect();
    let mut params = Parameters::of_values(layout, stored);
    for index in 0..params.n_model() {
        let spec = &params.layout().specs()[index];
        let (rows, cols) = (spec.rows, spec.cols);
        if let (true, Some(matrix)) = (spec.name.starts_with("blocks."), params.matrix_at(index)) {
            let factors = [numbers(index, 2 * cols, 0.5), numbers(index + 500, rows * 2, 0.5)];
            adapt(&mut params, matrix, 2, 1.5, factors, [Initial::ZEROS; 2]);
        }
    }
    let mut start = state.tuned();
    start.iter_mut().zip(numbers(77, state.len(), 0.3)).for_each(|(value, number)| *value += number);
    state.clamp(&mut start);
    let state = params.add_vector("initial_state".to_owned(), Initial::ZEROS, start);
    (params, Some(state))
}

#[test]
fn recomputation_needs_less_memory_and_changes_no_bit_of_a_pass() {
    let (network, _, state_layout) = Network::new(&CONFIG);
    let tokens: Vec<_> = (0..4 * 10).map(|i| i * i * 5 % 9).collect();
    let targets: Vec<_> = tokens.iter().map(|token| (token + 2) % 9).collect();
    for isa in Isa::available() {
        for (is_tuned, is_carried) in [(false, false), (false, true), (true, false)] {
            let run = |recompute| {
                let (params, state) = params(is_tuned);
                let mut tape = Tape::of_store(Arc::new(Cpu::new(isa, 2)), params);
                tape.recompute(recompute);
                if let Some(state) = state {
                    tape.start_from_parameter(state);
                }
                let mut found = Vec::new();
                // More than once: later passes take the buffers of earlier ones.
                for pass in 0..3 {
                    tape.dropout(0.25, pass);
                    if is_carried {
                        let states = match pass {
                            0 => vec![state_layout.initial(); 4],
                            _ => tape.states(),
                        };
                        tape.begin_from(&tokens, 10, &states);
                    } else {
                        tape.begin(&tokens, 10);
                    }
                    let logits = network.forward(&mut tape);
                    let loss = tape.cross_entropy(logits, &targets);
                    tape.backward();
                    let gradients = tape.param_gradients().concat();
                    let values = [vec![loss], gradients, tape.states().concat()].concat();
                    found.push(values.into_iter().map(f32::to_bits).collect::<Vec<_>>());
                }
                (found, tape.activations())
            };
            let ((kept, most), (again, least)) = (run(false), run(true));
            assert!(kept == again, "{isa}, adapters {is_tuned}, carried states {is_carried}");
            assert!(kept[0] != kept[1], "another dropout");
            println!("{isa}: {most} floats of activations, {least} with recomputation");
            assert!(least * 2 < most, "{least} of {most} floats in {LAYERS} layers");
        }
    }
}

#[test]
fn what_is_frozen_has_no_memory_for_gradients() {
    for is_tuned in [false, true] {
        let (params, _) = params(is_tuned);
        let tape = Tape::of_store(Arc::new(Cpu::new(Isa::Scalar, 1)), params);
        for (index, spec) in tape.params().layout().specs().iter().enumerate() {
            let gradient = &tape.param_gradients()[index];
            if tape.params().is_trained(index) {
                assert_eq!(gradient.len(), spec.len(), "{}", spec.name);
            } else if spec.is_matrix() {
                assert!(gradient.is_empty() && gradient.capacity() == 0, "{}", spec.name);
            }
        }
    }
}
