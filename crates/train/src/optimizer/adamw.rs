//! AdamW (Loshchilov and Hutter, <https://arxiv.org/abs/1711.05101>), with clipping by the global norm. The
//! arithmetic of one element stands in `rwkv_kernels::adamw`.

use rwkv_core::params::ParamSpec;
use rwkv_core::store::Parameters;
use rwkv_kernels::{AdamWStep, Cpu, adamw};

use super::{Moment, Optimizer, Step, clip, zeros};
use crate::options::TrainOptions;

/// Added to the root of the second moment.
const EPS: f64 = 1e-8;

/// AdamW, for all trained parameters or for those that another optimizer leaves to it.
#[derive(Debug)]
pub struct AdamW {
    beta1: f64,
    beta2: f64,
    weight_decay: f64,
    grad_clip: f64,
    /// In the layout's order; none where it does not move a parameter.
    groups: Vec<Option<Group>>,
    /// The mean of the gradients, and that of their squares.
    moments: [Moment; 2],
}

/// What differs between parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Group {
    rate: f64,
    decays: bool,
}

impl AdamW {
    /// For all trained parameters.
    pub fn new(options: &TrainOptions, params: &Parameters) -> Self {
        Self::of(options, params, |_| true)
    }

    /// For the trained parameters that `moves` accepts. It keeps the first moment of all of them.
    pub(super) fn of(options: &TrainOptions, params: &Parameters, moves: fn(&ParamSpec) -> bool) -> Self {
        let specs = params.layout().specs().iter().enumerate();
        let group = |(index, spec): (usize, &ParamSpec)| {
            let is_moved = params.is_trained(index) && moves(spec);
            is_moved.then_some(Group { rate: spec.rate, decays: spec.decays })
        };
        Self {
            beta1: options.beta1,
            beta2: options.beta2,
            weight_decay: options.weight_decay,
            grad_clip: options.grad_clip,
            groups: specs.map(group).collect(),
            moments: [
                Moment { name: "means", values: zeros(params, |_| true) },
                Moment { name: "squares", values: zeros(params, moves) },
            ],
        }
    }

    /// How many moments it keeps of a parameter.
    pub(super) fn moments_of(_: &ParamSpec) -> usize {
        2
    }
}

impl Optimizer for AdamW {
    fn step(&mut self, cpu: &Cpu, step: &Step, params: &mut Parameters, gradients: &[Vec<f32>]) {
        let &mut Self { beta1, beta2, weight_decay, grad_clip, .. } = self;
        let exponent = step.number as f64;
        let [means, squares] = &mut self.moments;
        let moments = means.values.iter_mut().zip(&mut squares.values);
        let values = params.raws_mut().into_iter();
        for (((gradient, (mean, square)), group), param) in
            gradients.iter().zip(moments).zip(&self.groups).zip(values)
        {
            let Some(group) = group else { continue };
            let numbers = AdamWStep {
                learning_rate: (step.learning_rate * group.rate) as f32,
                beta1: beta1 as f32,
                beta2: beta2 as f32,
                eps: EPS as f32,
                weight_decay: if group.decays { weight_decay as f32 } else { 0.0 },
                bias_correction1: (1.0 - libm::pow(beta1, exponent)) as f32,
                bias_correction2: (1.0 - libm::pow(beta2, exponent)) as f32,
                grad_scale: clip(step.norm, grad_clip) as f32,
            };
            adamw(cpu, &numbers, param, gradient, mean, square);
        }
        params.refresh();
    }

    fn moments(&self) -> &[Moment] {
        &self.moments
    }

    fn moments_mut(&mut self) -> &mut [Moment] {
        &mut self.moments
    }
}

#[cfg(test)]
mod tests {
    use rwkv_core::ModelConfig;
    use rwkv_core::model::Network;
    use rwkv_core::params::{Initial, Layout};
    use rwkv_kernels::Isa;

    use super::super::global_norm;
    use super::*;

    /// The first step, with the default options.
    fn first(learning_rate: f64, params: &mut Parameters, gradients: &[Vec<f32>]) -> AdamW {
        let cpu = Cpu::new(Isa::Scalar, 1);
        let norm = global_norm(&cpu, params, gradients);
        let mut optimizer = AdamW::new(&TrainOptions::new("", ""), params);
        optimizer.step(&cpu, &Step { number: 1, learning_rate, peak: 1.0, norm }, params, gradients);
        optimizer
    }

    /// After one step m̂/√v̂ is the gradient's sign, so what a parameter moved by is its group's rate.
    #[test]
    fn groups_have_their_own_rates_and_only_matrices_decay() {
        let (_, layout, _) = Network::new(&ModelConfig::v4(5, 4, 2));
        let cpu = Cpu::new(Isa::Scalar, 1);
        let ones: Vec<_> = layout.specs().iter().map(|spec| vec![1.0_f32; spec.len()]).collect();
        let mut params = Parameters::of_raw(layout.clone(), ones.clone());
        let norm = global_norm(&cpu, &params, &ones);
        assert!((norm - (layout.n_params() as f64).sqrt()).abs() < 1e-9);
        first(0.01, &mut params, &ones);
        for (index, spec) in layout.specs().iter().enumerate() {
            let param = params.raw(index);
            let expected = match spec.name.as_str() {
                name if name.ends_with("time_decay") => 1.0 - 0.02,
                name if name.ends_with("time_first") => 1.0 - 0.03,
                _ if spec.is_matrix() => 1.0 - 0.01 * 0.1 - 0.01,
                _ => 1.0 - 0.01,
            };
            assert!(param.iter().all(|&p| (p - expected).abs() < 1e-5), "{}: {}", spec.name, param[0]);
        }
    }

    #[test]
    fn a_long_gradient_is_scaled_down_and_a_short_one_is_not() {
        let mut layout = Layout::default();
        layout.vector("x", 4, Initial::ZEROS);
        for (gradient, mean) in [(3.0, 0.05), (0.25, 0.025)] {
            let gradients = [vec![gradient; 4]];
            let mut params = Parameters::of_raw(layout.clone(), vec![vec![0.0; 4]]);
            let optimizer = first(0.1, &mut params, &gradients);
            assert!((optimizer.moments()[0].values[0][0] - mean).abs() < 1e-6);
        }
    }

    #[test]
    fn what_is_frozen_stays_and_does_not_count() {
        let mut layout = Layout::default();
        layout.vector("a", 2, Initial::ZEROS);
        layout.matrix("b", 1, 2, Initial::ZEROS);
        let cpu = Cpu::new(Isa::Scalar, 1);
        let mut params = Parameters::of_raw(layout, vec![vec![1.0; 2]; 2]);
        params.freeze(0);
        let gradients = [vec![3.0; 2], vec![0.3, 0.4]];
        let norm = global_norm(&cpu, &params, &gradients);
        assert!((norm - 0.5).abs() < 1e-6);
        first(0.1, &mut params, &gradients);
        assert_eq!(params.raw(0), [1.0; 2]);
        assert!(params.raw(1).iter().all(|&b| b < 0.95));
    }
}
