//! The whole model's loss, logits and gradients, against PyTorch's autograd on a recorded model and against
//! differences of the loss.

#![allow(clippy::disallowed_methods)] // compared with what others compute

use std::sync::Arc;

use rwkv_core::ModelConfig;
use rwkv_core::model::Network;
use rwkv_core::params::{Layout, ParamSpec};
use rwkv_kernels::{Cpu, Isa, Precision};
use rwkv_train::tape::Tape;
use safetensors::SafeTensors;

/// Written by `fixtures/record_gradients.py`.
const RECORD: &[u8] = include_bytes!("../fixtures/gradients.safetensors");
const CONFIG: ModelConfig = ModelConfig::v4(11, 16, 2);
const CTX_LEN: usize = 9;

struct Recorded {
    network: Network,
    layout: Layout,
    params: Vec<Vec<f32>>,
    gradients: Vec<Vec<f32>>,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    logits: Vec<f32>,
    loss: f32,
}

impl Recorded {
    fn read() -> Self {
        let file = SafeTensors::deserialize(RECORD).expect("the record");
        let words = |name: &str| -> Vec<u32> {
            let data = file.tensor(name).expect(name).data();
            data.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect()
        };
        let floats = |name: &str| -> Vec<f32> { words(name).into_iter().map(f32::from_bits).collect() };
        let (network, layout, _) = Network::new(&CONFIG);
        let all = |kind: &str| -> Vec<Vec<f32>> {
            layout.specs().iter().map(|ParamSpec { name, .. }| floats(&format!("{kind}.{name}"))).collect()
        };
        let (params, gradients) = (all("param"), all("grad"));
        assert_eq!(file.len(), 2 * params.len() + 4, "the record's parameters are not the model's");
        let (tokens, targets) = (words("tokens"), words("targets"));
        Self {
            network,
            params,
            gradients,
            tokens,
            targets,
            logits: floats("logits"),
            loss: floats("loss")[0],
            layout,
        }
    }

    fn tape(&self, cpu: &Arc<Cpu>, params: &[Vec<f32>]) -> (Tape, f32, Vec<f32>) {
        let mut tape = Tape::new(Arc::clone(cpu), &self.layout, params.to_vec());
        tape.begin(&self.tokens, CTX_LEN);
        let logits = self.network.forward(&mut tape);
        let loss = tape.cross_entropy(logits, &self.targets);
        let logits = tape.value(logits);
        (tape, loss, logits)
    }
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
    let recorded = Recorded::read();
    for isa in Isa::available() {
        let cpu = Arc::new(Cpu::new(isa, 2));
        let (mut tape, loss, logits) = recorded.tape(&cpu, &recorded.params);
        assert!((loss - recorded.loss).abs() < 1e-5, "{isa}: loss {loss}, PyTorch {}", recorded.loss);
        assert!(error(&logits, &recorded.logits) < 1e-5, "{isa}: logits");
        // Twice: the second pass takes the first one's buffers.
        for _ in 0..2 {
            tape.begin(&recorded.tokens, CTX_LEN);
            let logits = recorded.network.forward(&mut tape);
            tape.cross_entropy(logits, &recorded.targets);
            tape.backward();
            let specs = recorded.layout.specs().iter().zip(tape.param_gradients());
            let errors = specs
                .zip(&recorded.gradients)
                .map(|((spec, ours), theirs)| (error(ours, theirs), &spec.name));
            let (worst, name) = errors.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
            println!("{isa}: largest relative error of a gradient {worst:.1e}, of {name}");
            assert!(worst < 1e-4, "{isa}: {name}: {worst}");
        }
    }
}

#[test]
fn gradients_in_bf16_are_those_of_pytorch_up_to_its_eight_bits() {
    let recorded = Recorded::read();
    for isa in Isa::available().into_iter().filter(|&isa| Precision::Bf16.is_supported(isa)) {
        let cpu = Arc::new(Cpu::new(isa, 2).with_precision(Precision::Bf16));
        let (mut tape, loss, _) = recorded.tape(&cpu, &recorded.params);
        tape.backward();
        assert!((loss - recorded.loss).abs() < 2e-2, "loss {loss}, PyTorch {}", recorded.loss);
        for ((spec, ours), theirs) in
            recorded.layout.specs().iter().zip(tape.param_gradients()).zip(&recorded.gradients)
        {
            let error = error(ours, theirs);
            assert!(error < 5e-2, "{}: {error}", spec.name);
        }
    }
}

/// Independent of any record: along its own gradient, the loss must change by the gradient's squared length.
#[test]
fn the_loss_changes_along_each_gradient_as_the_gradient_says() {
    let recorded = Recorded::read();
    let cpu = Arc::new(Cpu::new(Isa::detect(), 2));
    let (mut tape, ..) = recorded.tape(&cpu, &recorded.params);
    tape.backward();
    for (index, (spec, gradient)) in recorded.layout.specs().iter().zip(tape.param_gradients()).enumerate() {
        let length = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let step = 0.01;
        let loss = |steps: f64| {
            let mut params = recorded.params.clone();
            for (param, &g) in params[index].iter_mut().zip(gradient) {
                *param += (steps * step * f64::from(g) / length) as f32;
            }
            let (tape, _, logits) = recorded.tape(&cpu, &params);
            drop(tape);
            mean_loss(&logits, &recorded.targets)
        };
        let slope = (8.0 * (loss(1.0) - loss(-1.0)) - (loss(2.0) - loss(-2.0))) / (12.0 * step);
        assert!((slope - length).abs() < 2e-3 * length, "{}: slope {slope}, gradient {length}", spec.name);
    }
}

/// In f64: differences of the loss need more digits than an f32 loss has.
fn mean_loss(logits: &[f32], targets: &[u32]) -> f64 {
    let rows = logits.chunks_exact(CONFIG.n_vocab).zip(targets).map(|(row, &target)| {
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        sum.ln() - f64::from(row[target as usize])
    });
    rows.sum::<f64>() / targets.len() as f64
}
