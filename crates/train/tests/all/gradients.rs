//! The whole model's loss, logits and gradients, against PyTorch's autograd on a recorded model and against
//! differences of the loss.

#![allow(clippy::disallowed_methods)] // compared with what others compute

use std::sync::Arc;

use rwkv_core::model::Network;
use rwkv_core::params::{Initial, Layout};
use rwkv_core::store::Parameters;
use rwkv_core::{ModelConfig, Sizes, StateLayout, Version};
use rwkv_kernels::{Cpu, Isa, Precision};
use rwkv_train::tape::Tape;
use safetensors::SafeTensors;

/// A model whose gradients were recorded.
struct Record {
    file: &'static [u8],
    config: ModelConfig,
    ctx_len: usize,
}

fn records() -> [Record; 2] {
    // Written by `fixtures/record_gradients.py`.
    let v4 = Record {
        file: include_bytes!("../fixtures/gradients.safetensors"),
        config: ModelConfig::v4(11, 16, 2),
        ctx_len: 9,
    };
    [v4, v7()]
}

/// Written by `fixtures/record_gradients_v7.py`.
fn v7() -> Record {
    Record {
        file: include_bytes!("../fixtures/gradients-v7.safetensors"),
        config: ModelConfig {
            version: Version::V7,
            n_vocab: 11,
            n_embd: 16,
            n_layer: 3,
            n_ffn: 64,
            sizes: Sizes::new(&[8, 4, 6, 2, 8]),
        },
        ctx_len: 19,
    }
}

struct Recorded {
    file: SafeTensors<'static>,
    ctx_len: usize,
    network: Network,
    layout: Layout,
    states: StateLayout,
    params: Vec<Vec<f32>>,
    gradients: Vec<Vec<f32>>,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    logits: Vec<f32>,
    loss: f32,
}

impl Recorded {
    fn all() -> [Self; 2] {
        records().map(Self::read)
    }

    fn read(Record { file, config, ctx_len }: Record) -> Self {
        let file = SafeTensors::deserialize(file).expect("the record");
        let (network, layout, states) = Network::new(&config);
        let all = |kind: &str| -> Vec<Vec<f32>> {
            layout.specs().iter().map(|spec| floats(&file, &format!("{kind}.{}", spec.name))).collect()
        };
        let (params, gradients) = (all("param"), all("grad"));
        let n_recorded = file.names().iter().filter(|name| name.starts_with("param.")).count();
        assert_eq!(n_recorded, params.len(), "the record's parameters are not the model's");
        Self {
            ctx_len,
            network,
            params,
            gradients,
            tokens: words(&file, "tokens"),
            targets: words(&file, "targets"),
            logits: floats(&file, "logits"),
            loss: floats(&file, "loss")[0],
            layout,
            states,
            file,
        }
    }

    fn tape(&self, cpu: &Arc<Cpu>, params: &[Vec<f32>]) -> (Tape, f32, Vec<f32>) {
        let mut tape = Tape::new(Arc::clone(cpu), &self.layout, params.to_vec());
        tape.begin(&self.tokens, self.ctx_len);
        let logits = self.network.forward(&mut tape);
        let loss = tape.cross_entropy(logits, &self.targets);
        let logits = tape.value(logits);
        (tape, loss, logits)
    }

    /// Each gradient against what was recorded under `kind`: the largest error, and of which parameter.
    fn worst(&self, tape: &Tape, kind: &str) -> (f32, String) {
        let specs = self.layout.specs().iter().zip(tape.param_gradients());
        let errors = specs.map(|(spec, ours)| {
            let theirs = floats(&self.file, &format!("{kind}.{}", spec.name));
            (error(ours, &theirs), spec.name.clone())
        });
        errors.max_by(|a, b| a.0.total_cmp(&b.0)).expect("a parameter")
    }
}

fn words(file: &SafeTensors<'_>, name: &str) -> Vec<u32> {
    let data = file.tensor(name).expect(name).data();
    data.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect()
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    words(file, name).into_iter().map(f32::from_bits).collect()
}

fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |largest, x| x.abs().max(largest))
}

/// The cosine of the angle between two gradients.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The largest `|a − b|`, relative to the largest `|b|`.
fn error(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0_f32, |largest, b| largest.max(b.abs()));
    assert!(largest > 0.0);
    a.iter().zip(b).fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs())) / largest
}

#[test]
fn loss_logits_and_all_gradients_are_those_of_pytorch() {
    for (recorded, isa) in Recorded::all()
        .iter()
        .flat_map(|recorded| Isa::available().into_iter().map(move |isa| (recorded, isa)))
    {
        let cpu = Arc::new(Cpu::new(isa, 2));
        let (mut tape, loss, logits) = recorded.tape(&cpu, &recorded.params);
        assert!((loss - recorded.loss).abs() < 1e-5, "{isa}: loss {loss}, PyTorch {}", recorded.loss);
        assert!(error(&logits, &recorded.logits) < 1e-5, "{isa}: logits");
        // Twice: the second pass takes the first one's buffers.
        for _ in 0..2 {
            tape.begin(&recorded.tokens, recorded.ctx_len);
            let logits = recorded.network.forward(&mut tape);
            tape.cross_entropy(logits, &recorded.targets);
            tape.backward();
            let (worst, name) = recorded.worst(&tape, "grad");
            println!("{isa}: largest relative error of a gradient {worst:.1e}, of {name}");
            assert!(worst < 1e-4, "{isa}: {name}: {worst}");
        }
    }
}

#[test]
fn gradients_in_bf16_are_those_of_pytorch_up_to_its_eight_bits() {
    let isas: Vec<_> =
        Isa::available().into_iter().filter(|&isa| Precision::Bf16.is_supported(isa)).collect();
    for (recorded, isa) in
        Recorded::all().iter().flat_map(|recorded| isas.iter().map(move |&isa| (recorded, isa)))
    {
        let cpu = Arc::new(Cpu::new(isa, 2).with_precision(Precision::Bf16));
        let (mut tape, loss, _) = recorded.tape(&cpu, &recorded.params);
        tape.backward();
        assert!((loss - recorded.loss).abs() < 2e-2, "loss {loss}, PyTorch {}", recorded.loss);
        for ((spec, ours), theirs) in
            recorded.layout.specs().iter().zip(tape.param_gradients()).zip(&recorded.gradients)
        {
            let error = error(ours, theirs);
            // In the first tokens the v7 divides by small numbers, and errors grow: the direction is what is left.
            let is_near = error < 5e-2 || (recorded.ctx_len == v7().ctx_len && cosine(ours, theirs) > 0.8);
            assert!(is_near, "{}: {error}, cosine {}", spec.name, cosine(ours, theirs));
        }
    }
}

/// Independent of any record: along its own gradient, the loss must change by the gradient's squared length.
#[test]
fn the_loss_changes_along_each_gradient_as_the_gradient_says() {
    for recorded in Recorded::all() {
        changes_along_each_gradient(&recorded);
    }
}

fn changes_along_each_gradient(recorded: &Recorded) {
    let cpu = Arc::new(Cpu::new(Isa::detect(), 2));
    let (mut tape, ..) = recorded.tape(&cpu, &recorded.params);
    tape.backward();
    for (index, (spec, gradient)) in recorded.layout.specs().iter().zip(tape.param_gradients()).enumerate() {
        let length = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let loss = |steps: f64, step: f64| {
            let mut params = recorded.params.clone();
            for (param, &g) in params[index].iter_mut().zip(gradient) {
                *param += (steps * step * f64::from(g) / length) as f32;
            }
            let (tape, _, logits) = recorded.tape(&cpu, &params);
            drop(tape);
            mean_loss(&logits, &recorded.targets)
        };
        // Where a norm is of nearly equal numbers the loss bends within a hundredth; elsewhere such a step is needed
        // for the change to be more than rounding.
        let slopes = [0.01, 0.003, 0.001, 0.0003].map(|step| {
            let loss = |steps| loss(steps, step);
            (8.0 * (loss(1.0) - loss(-1.0)) - (loss(2.0) - loss(-2.0))) / (12.0 * step)
        });
        let is_near = slopes.iter().any(|slope| (slope - length).abs() < 2e-3 * length);
        assert!(is_near, "{}: slopes {slopes:?}, gradient {length}", spec.name);
    }
}

/// In f64: differences of the loss need more digits than an f32 loss has.
fn mean_loss(logits: &[f32], targets: &[u32]) -> f64 {
    let rows = logits.chunks_exact(logits.len() / targets.len()).zip(targets).map(|(row, &target)| {
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        sum.ln() - f64::from(row[target as usize])
    });
    rows.sum::<f64>() / targets.len() as f64
}

/// Half of the channels of a block keep everything, and half forget as fast as they can.
#[test]
fn decays_that_training_has_moved_far_out_keep_the_gradients_of_pytorch() {
    let recorded = Recorded::read(v7());
    let mut params = recorded.params.clone();
    let w0 = recorded.layout.find("blocks.1.att.w0").expect("a decay");
    params[w0] = floats(&recorded.file, "far.param.blocks.1.att.w0");
    assert!(params[w0].contains(&-60.0) && params[w0].contains(&60.0));
    for isa in Isa::available() {
        let (mut tape, loss, _) = recorded.tape(&Arc::new(Cpu::new(isa, 2)), &params);
        let expected = floats(&recorded.file, "far.loss")[0];
        assert!((loss - expected).abs() < 1e-5, "{isa}: loss {loss}, PyTorch {expected}");
        tape.backward();
        assert!(tape.param_gradients().iter().flatten().all(|gradient| gradient.is_finite()), "{isa}");
        for (spec, ours) in recorded.layout.specs().iter().zip(tape.param_gradients()) {
            let theirs = floats(&recorded.file, &format!("far.grad.{}", spec.name));
            // Of what only these decays depend on, e^-60 is left.
            let error = if largest(&theirs) < 1e-20 { largest(ours) } else { error(ours, &theirs) };
            assert!(error < 1e-4, "{isa}: {}: {error}", spec.name);
        }
    }
}

/// All sequences start from one state, which is a parameter.
#[test]
fn the_gradient_of_the_initial_state_is_that_of_pytorch() {
    let recorded = Recorded::read(v7());
    let n_layer = v7().config.n_layer;
    let of_layer = |kind: &str, layer| floats(&recorded.file, &format!("state.{kind}{layer}"));
    // In each layer after the tokens that the two mixes saw before, which are zeros.
    let len = recorded.states.len() / n_layer;
    let mut state = vec![0.0; recorded.states.len()];
    for (layer, part) in state.chunks_mut(len).enumerate() {
        let values = of_layer("", layer);
        part[len - values.len()..].copy_from_slice(&values);
    }
    for isa in Isa::available() {
        let mut params = Parameters::of_raw(recorded.layout.clone(), recorded.params.clone());
        let initial = params.add_vector("state".to_owned(), Initial::ZEROS, state.clone());
        let mut tape = Tape::of_store(Arc::new(Cpu::new(isa, 2)), params);
        tape.start_from_parameter(initial);
        tape.begin(&recorded.tokens, recorded.ctx_len);
        let logits = recorded.network.forward(&mut tape);
        let loss = tape.cross_entropy(logits, &recorded.targets);
        let expected = floats(&recorded.file, "state.loss")[0];
        assert!((loss - expected).abs() < 1e-5, "{isa}: loss {loss}, PyTorch {expected}");
        tape.backward();
        for (layer, part) in tape.param_gradients()[initial.index()].chunks(len).enumerate() {
            let theirs = of_layer("grad.", layer);
            let error = error(&part[len - theirs.len()..], &theirs);
            assert!(error < 1e-4, "{isa}, layer {layer}: {error}");
        }
    }
}
