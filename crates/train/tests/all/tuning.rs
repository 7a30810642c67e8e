//! Adapters, an initial state and carried states through the whole model: against PyTorch's autograd on a
//! recorded model, and against differences of the loss.

#![allow(clippy::disallowed_methods)] // compared with what others compute

use std::sync::Arc;

use rwkv_core::ModelConfig;
use rwkv_core::lora::{adapt, factor_names};
use rwkv_core::model::Network;
use rwkv_core::params::{Initial, Vector};
use rwkv_core::store::Parameters;
use rwkv_kernels::{Cpu, Isa};
use rwkv_train::tape::{Tape, Until};
use safetensors::SafeTensors;

/// Written by `fixtures/record_tuning.py`.
const RECORD: &[u8] = include_bytes!("../fixtures/tuning.safetensors");
const WIDTH: usize = 8;
const CONFIG: ModelConfig = ModelConfig::v4(7, WIDTH, 2);
const CTX_LEN: usize = 5;
const SEQUENCES: usize = 2;
const WINDOWS: usize = 3;
const RANK: usize = 3;
const ALPHA: f32 = 5.0;
const STATE: &str = "initial_state";

struct Recorded(SafeTensors<'static>);

impl Recorded {
    fn read() -> Self {
        Self(SafeTensors::deserialize(RECORD).expect("the record"))
    }

    fn words(&self, name: &str) -> Vec<u32> {
        let data = self.0.tensor(name).expect(name).data();
        data.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.words(name).into_iter().map(f32::from_bits).collect()
    }

    /// Tokens and targets of each window.
    fn windows(&self) -> Vec<(Vec<u32>, Vec<u32>)> {
        let [tokens, targets] = ["tokens", "targets"].map(|name| self.words(name));
        let window = |all: &[u32], i: usize| all[i * SEQUENCES * CTX_LEN..][..SEQUENCES * CTX_LEN].to_vec();
        (0..WINDOWS).map(|i| (window(&tokens, i), window(&targets, i))).collect()
    }

    /// The model, its raw parameters, and the same as files store them, frozen.
    fn raw(&self) -> (Network, Vec<Vec<f32>>, Parameters) {
        let (network, layout, _) = Network::new(&CONFIG);
        let names = layout.specs().iter().map(|spec| format!("param.{}", spec.name));
        let raw: Vec<_> = names.map(|name| self.floats(&name)).collect();
        let stored = layout.specs().iter().zip(&raw);
        let stored =
            stored.map(|(spec, raw)| raw.iter().map(|&raw| spec.stored.to_file(raw)).collect()).collect();
        (network, raw, Parameters::of_values(layout, stored))
    }

    /// A frozen model with trained adapters of some matrices, and the trained state that sequences start
    /// from.
    fn tuned(&self) -> (Network, Parameters, Vector) {
        let (network, _, mut params) = self.raw();
        for index in 0..params.n_model() {
            let [a, b] = factor_names(&params.layout().specs()[index].name);
            if self.0.tensor(&format!("param.{a}")).is_err() {
                continue;
            }
            let matrix = params.matrix_at(index).expect("only matrices have adapters");
            let factors = [a, b].map(|name| self.floats(&format!("param.{name}")));
            adapt(&mut params, matrix, RANK, ALPHA / RANK as f32, factors, [Initial::ZEROS; 2]);
        }
        let state = params.add_vector(STATE.to_owned(), Initial::ZEROS, self.floats(STATE));
        (network, params, state)
    }
}

/// Losses of all windows, and the gradients of their mean, summed over the passes.
fn accumulate(
    tape: &mut Tape,
    network: &Network,
    windows: &[(Vec<u32>, Vec<u32>)],
    mut begin: impl FnMut(&mut Tape, &[u32]),
) -> Vec<f32> {
    let mut losses = Vec::new();
    for (tokens, targets) in windows {
        begin(tape, tokens);
        let mut pass = Until::new(tape, || false);
        let loss = pass.learn(network, targets, windows.len(), losses.is_empty());
        losses.push(loss.expect("a loss"));
    }
    losses
}

/// The largest `|a − b|`, relative to the largest `|b|`.
fn error(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0_f32, |largest, b| largest.max(b.abs()));
    assert!(largest > 0.0);
    a.iter().zip(b).fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs())) / largest
}

/// The largest error of the gradients of all trained parameters; each part of the state counts for itself.
fn check_gradients(kind: &str, on: &str, tape: &Tape, recorded: &Recorded) {
    let (mut worst, mut compared) = ((0.0, String::new()), 0);
    for index in tape.params().trained() {
        let name = &tape.params().layout().specs()[index].name;
        let (ours, theirs) =
            (&tape.param_gradients()[index], recorded.floats(&format!("{kind}.grad.{name}")));
        let part = if name == STATE { WIDTH } else { ours.len() };
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for (at, (ours, theirs)) in ours.chunks(part).zip(theirs.chunks(part)).enumerate() {
            let error = error(ours, theirs);
            assert!(error <= 1e-4, "{kind} on {on}: gradient of {name}, part {at}: {error}");
            if error > worst.0 {
                worst = (error, format!("{name}, part {at}"));
            }
        }
        compared += 1;
    }
    let prefix = format!("{kind}.grad.");
    let recorded = recorded.0.names().into_iter().filter(|name| name.starts_with(&prefix)).count();
    assert_eq!(compared, recorded, "a recorded gradient was not compared");
    println!(
        "{kind} on {on}: largest relative error of {compared} gradients {:.1e}, of {}",
        worst.0, worst.1
    );
}

#[test]
fn adapters_and_the_initial_state_over_three_passes_have_pytorchs_gradients() {
    let recorded = Recorded::read();
    let losses = recorded.floats("tuned.losses");
    for isa in Isa::available() {
        for recompute in [false, true] {
            let (network, params, state) = recorded.tuned();
            let mut tape = Tape::of_store(Arc::new(Cpu::new(isa, 2)), params);
            tape.start_from_parameter(state);
            tape.recompute(recompute);
            // Twice: the second time takes the buffers of the first.
            for _ in 0..2 {
                let begin = |tape: &mut Tape, tokens: &[u32]| tape.begin(tokens, CTX_LEN);
                let ours = accumulate(&mut tape, &network, &recorded.windows(), begin);
                assert!(error(&ours, &losses) < 1e-5, "{isa}: losses {ours:?}, PyTorch {losses:?}");
                check_gradients("tuned", &format!("{isa}, recompute {recompute}"), &tape, &recorded);
            }
            let frozen = (0..tape.params().n_model()).filter(|&i| tape.params().matrix_at(i).is_some());
            for index in frozen {
                assert!(tape.param_gradients()[index].is_empty(), "a frozen matrix has a gradient");
            }
        }
    }
}

#[test]
fn windows_that_carry_states_have_pytorchs_losses_and_gradients() {
    let recorded = Recorded::read();
    let losses = recorded.floats("carried.losses");
    let starts = recorded.floats("starts");
    let starts: Vec<_> = starts.chunks(starts.len() / SEQUENCES).map(<[f32]>::to_vec).collect();
    for isa in Isa::available() {
        for recompute in [false, true] {
            let (network, raw, params) = recorded.raw();
            let mut tape = Tape::new(Arc::new(Cpu::new(isa, 2)), params.layout(), raw);
            tape.recompute(recompute);
            let mut is_first = true;
            let begin = |tape: &mut Tape, tokens: &[u32]| {
                let states = if is_first { starts.clone() } else { tape.states() };
                is_first = false;
                tape.begin_from(tokens, CTX_LEN, &states);
            };
            let ours = accumulate(&mut tape, &network, &recorded.windows(), begin);
            assert!(error(&ours, &losses) < 1e-5, "{isa}: losses {ours:?}, PyTorch {losses:?}");
            check_gradients("carried", &format!("{isa}, recompute {recompute}"), &tape, &recorded);
        }
    }
}

/// Independent of any record: along a direction d the loss changes by the gradient's product with d.
#[test]
fn the_loss_changes_with_each_factor_and_the_state_as_their_gradients_say() {
    let recorded = Recorded::read();
    let (tokens, targets) = &recorded.windows()[0];
    for isa in Isa::available() {
        let cpu = Arc::new(Cpu::new(isa, 2));
        let (network, params, state) = recorded.tuned();
        let pass = |params: &Parameters| {
            let mut tape = Tape::of_store(Arc::clone(&cpu), params.clone());
            tape.start_from_parameter(state);
            tape.begin(tokens, CTX_LEN);
            let logits = network.forward(&mut tape);
            tape.cross_entropy(logits, targets);
            let loss = mean_loss(&tape.value(logits), targets);
            (tape, loss)
        };
        let (mut tape, _) = pass(&params);
        tape.backward();
        for index in params.trained() {
            let name = &params.layout().specs()[index].name;
            let gradient = &tape.param_gradients()[index];
            let part = if name == STATE { WIDTH } else { gradient.len() };
            for (at, gradient) in gradient.chunks(part).enumerate() {
                let length = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
                let along: Vec<_> = gradient.iter().map(|&g| (f64::from(g) / length) as f32).collect();
                // Half of the steps against the gradient: another product, which is not its length.
                let across = along.iter().zip(0..).map(|(&g, i)| if i % 3 == 0 { -g } else { g }).collect();
                for direction in [along, across] {
                    let slope = slope(|step| {
                        let mut params = params.clone();
                        let values = &mut params.raw_mut(index)[at * part..][..part];
                        values.iter_mut().zip(&direction).for_each(|(value, &d)| *value += step as f32 * d);
                        params.refresh();
                        pass(&params).1
                    });
                    let products = gradient.iter().zip(&direction);
                    let expected: f64 = products.map(|(&g, &d)| f64::from(g) * f64::from(d)).sum();
                    assert!(
                        (slope - expected).abs() < 2e-3 * length,
                        "{isa}: {name}, part {at}: slope {slope}, gradient {expected}"
                    );
                }
            }
        }
    }
}

/// The derivative at 0, by a fourth-order central difference.
fn slope(f: impl Fn(f64) -> f64) -> f64 {
    let step = 0.01;
    (8.0 * (f(step) - f(-step)) - (f(2.0 * step) - f(-2.0 * step))) / (12.0 * step)
}

/// In f64: differences of the loss need more digits than an f32 loss has.
fn mean_loss(logits: &[f32], targets: &[u32]) -> f64 {
    let rows = logits.chunks_exact(CONFIG.n_vocab).zip(targets).map(|(row, &target)| {
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        sum.ln() - f64::from(row[target as usize])
    });
    rows.sum::<f64>() / targets.len() as f64
}

/// A text of one sequence, cut into windows that carry its state, has the losses that it has in one piece.
#[test]
fn a_text_in_windows_that_carry_its_state_has_the_loss_of_the_whole_text() {
    let recorded = Recorded::read();
    let windows = recorded.windows();
    let of_first = |window: &[u32]| window[..CTX_LEN].to_vec();
    let tokens: Vec<_> = windows.iter().flat_map(|(tokens, _)| of_first(tokens)).collect();
    let targets: Vec<_> = windows.iter().flat_map(|(_, targets)| of_first(targets)).collect();
    for isa in Isa::available() {
        let (network, raw, params) = recorded.raw();
        let mut tape = Tape::new(Arc::new(Cpu::new(isa, 2)), params.layout(), raw);
        tape.begin(&tokens, tokens.len());
        let logits = network.forward(&mut tape);
        let whole = tape.cross_entropy(logits, &targets);
        let (_, _, state) = Network::new(&CONFIG);
        let mut states = vec![state.initial()];
        let mut sum = 0.0;
        for (tokens, targets) in tokens.chunks(CTX_LEN).zip(targets.chunks(CTX_LEN)) {
            tape.begin_from(tokens, CTX_LEN, &states);
            let logits = network.forward(&mut tape);
            sum += tape.cross_entropy(logits, targets);
            states = tape.states();
        }
        let carried = sum / WINDOWS as f32;
        assert!((carried - whole).abs() < 1e-6 * whole, "{isa}: {carried}, in one piece {whole}");
    }
}
