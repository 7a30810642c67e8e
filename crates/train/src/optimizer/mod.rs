//! The optimizer: AdamW, or Muon for matrices between activations and AdamW for the rest; clipping by the
//! global norm.
//!
//! Each parameter's declaration says at which multiple of the learning rate it learns, whether it decays, and
//! whether it is such a matrix. AdamW's arithmetic of one element stands in `rwkv_kernels::adamw`.

mod muon;

use std::sync::Mutex;

use rwkv_core::params::ParamSpec;
use rwkv_core::store::Parameters;
use rwkv_kernels::{AdamWStep, Cpu, adamw, sum_of_squares};

use muon::{Muon, MuonStep, Scratch, muon};

/// Settings of the optimizer, the same for all parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Decay rate of the first moment, the mean of the gradients.
    pub beta1: f64,
    /// Decay rate of the second moment, the mean of their squares.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decay of matrices, multiplied by the learning rate.
    pub weight_decay: f64,
    /// The largest norm of all gradients together; longer ones are scaled down to it. 0: no limit.
    pub grad_clip: f64,
    /// Whether Muon moves the hidden matrices.
    pub muon: bool,
}

impl Settings {
    /// Whether the optimizer keeps a second moment of this parameter: AdamW does, Muon does not.
    pub(crate) fn keeps_squares(&self, spec: &ParamSpec) -> bool {
        !(self.muon && spec.is_hidden)
    }
}

/// The learning rates of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// AdamW's.
    pub adamw: f64,
    /// Muon's.
    pub muon: f64,
}

/// The optimizer's state: two moments of the gradients of each trained parameter, or one where
/// Muon moves it.
#[derive(Debug)]
pub struct Optimizer {
    settings: Settings,
    /// In the layout's order, as are the moments; those of parameters that are not trained are empty.
    groups: Vec<Option<Group>>,
    means: Vec<Vec<f32>>,
    squares: Vec<Vec<f32>>,
    scratch: Mutex<Vec<Scratch>>,
}

/// What differs between parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Group {
    rate: f64,
    decay: bool,
    muon: bool,
}

impl Group {
    fn of(spec: &ParamSpec, settings: &Settings) -> Self {
        Self { rate: spec.rate, decay: spec.decays, muon: !settings.keeps_squares(spec) }
    }
}

impl Optimizer {
    /// An optimizer that has taken no step yet.
    pub fn new(params: &Parameters, settings: Settings) -> Self {
        let specs = params.layout().specs().iter().enumerate();
        let group =
            |(index, spec): (usize, &ParamSpec)| params.is_trained(index).then(|| Group::of(spec, &settings));
        let groups: Vec<_> = specs.map(group).collect();
        let zeros = |has: fn(&Group) -> bool| -> Vec<Vec<f32>> {
            let specs = params.layout().specs().iter().zip(&groups);
            specs
                .map(|(spec, group)| vec![0.0; if group.as_ref().is_some_and(has) { spec.len() } else { 0 }])
                .collect()
        };
        let (means, squares) = (zeros(|_| true), zeros(|group| !group.muon));
        Self { settings, groups, means, squares, scratch: Mutex::default() }
    }

    /// Goes on with the first and second moments of the trained parameters, in the layout's order.
    ///
    /// # Panics
    /// If they do not have the lengths of the parameters.
    #[must_use]
    pub fn with_moments(mut self, means: Vec<Vec<f32>>, squares: Vec<Vec<f32>>) -> Self {
        for (own, given) in [(&mut self.means, means), (&mut self.squares, squares)] {
            let trained = own.iter_mut().zip(&self.groups).filter(|(_, group)| group.is_some());
            let mut given = given.into_iter();
            for (own, _) in trained {
                let moment = given.next().unwrap_or_default();
                assert_eq!(moment.len(), own.len(), "moments of another model");
                *own = moment;
            }
        }
        self
    }

    /// The first and the second moments, in the order of the layout; empty for parameters that are not
    /// trained.
    pub fn moments(&self) -> (&[Vec<f32>], &[Vec<f32>]) {
        (&self.means, &self.squares)
    }

    /// Changes the trained ones of `params` by one step; `step` counts from 1 and `norm` is [`global_norm`].
    pub fn step(
        &mut self,
        cpu: &Cpu,
        step: u64,
        rates: Rates,
        norm: f64,
        params: &mut Parameters,
        gradients: &[Vec<f32>],
    ) {
        let Settings { beta1, beta2, eps, weight_decay, grad_clip, muon: _ } = self.settings;
        let clip = if grad_clip > 0.0 && norm > grad_clip { grad_clip / norm } else { 1.0 };
        let exponent = step as f64;
        let moments = self.means.iter_mut().zip(&mut self.squares);
        let cols: Vec<_> = params.layout().specs().iter().map(|spec| spec.cols).collect();
        let mut hidden = Vec::new();
        let values = params.raws_mut().into_iter().zip(cols);
        for (((gradient, (m, v)), group), (param, cols)) in
            gradients.iter().zip(moments).zip(&self.groups).zip(values)
        {
            let Some(group) = group else { continue };
            if group.muon {
                hidden.push(Muon { cols, param, gradient, mean: m });
                continue;
            }
            let numbers = AdamWStep {
                learning_rate: (rates.adamw * group.rate) as f32,
                beta1: beta1 as f32,
                beta2: beta2 as f32,
                eps: eps as f32,
                weight_decay: if group.decay { weight_decay as f32 } else { 0.0 },
                bias_correction1: (1.0 - libm::pow(beta1, exponent)) as f32,
                bias_correction2: (1.0 - libm::pow(beta2, exponent)) as f32,
                grad_scale: clip as f32,
            };
            adamw(cpu, &numbers, param, gradient, m, v);
        }
        let numbers = MuonStep {
            grad_scale: clip as f32,
            keep: (1.0 - rates.adamw * weight_decay) as f32,
            rate: rates.muon as f32,
        };
        muon(cpu, &numbers, hidden, &self.scratch);
        params.refresh();
    }
}

/// The length of the gradients of all trained parameters taken as one vector; not finite if any of them is
/// not.
pub fn global_norm(cpu: &Cpu, params: &Parameters, gradients: &[Vec<f32>]) -> f64 {
    let trained = gradients.iter().enumerate().filter(|&(index, _)| params.is_trained(index));
    trained.map(|(_, gradient)| sum_of_squares(cpu, gradient)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use rwkv_core::ModelConfig;
    use rwkv_core::model::Network;
    use rwkv_core::params::{Initial, Layout};
    use rwkv_kernels::Isa;

    use super::*;

    const SETTINGS: Settings =
        Settings { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, grad_clip: 1.0, muon: false };

    const fn rate(adamw: f64) -> Rates {
        Rates { adamw, muon: 0.0 }
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
        Optimizer::new(&params, SETTINGS).step(&cpu, 1, rate(0.01), norm, &mut params, &ones);
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
        let cpu = Cpu::new(Isa::Scalar, 1);
        for (gradient, mean) in [(3.0, 0.05), (0.25, 0.025)] {
            let gradients = [vec![gradient; 4]];
            let mut params = Parameters::of_raw(layout.clone(), vec![vec![0.0; 4]]);
            let mut optimizer = Optimizer::new(&params, SETTINGS);
            let norm = global_norm(&cpu, &params, &gradients);
            optimizer.step(&cpu, 1, rate(0.1), norm, &mut params, &gradients);
            assert!((optimizer.moments().0[0][0] - mean).abs() < 1e-6);
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
        Optimizer::new(&params, SETTINGS).step(&cpu, 1, rate(0.1), norm, &mut params, &gradients);
        assert_eq!(params.raw(0), [1.0; 2]);
        assert!(params.raw(1).iter().all(|&b| b < 0.95));
    }

    #[test]
    fn muon_moves_hidden_matrices_alone_and_keeps_one_moment_of_them() {
        let (_, layout, _) = Network::new(&ModelConfig::v4(5, 4, 2));
        let cpu = Cpu::new(Isa::Scalar, 1);
        let ones: Vec<_> = layout.specs().iter().map(|spec| vec![1.0_f32; spec.len()]).collect();
        let mut params = Parameters::of_raw(layout.clone(), ones.clone());
        let mut optimizer = Optimizer::new(&params, Settings { muon: true, ..SETTINGS });
        let norm = global_norm(&cpu, &params, &ones);
        optimizer.step(&cpu, 1, Rates { adamw: 0.01, muon: 0.0 }, norm, &mut params, &ones);
        for (index, spec) in layout.specs().iter().enumerate() {
            let is_hidden = spec.is_matrix() && spec.name.starts_with("blocks.");
            assert_eq!(spec.is_hidden, is_hidden, "{}", spec.name);
            // Without a rate of their own, hidden matrices decay, and nothing else.
            let decayed = params.raw(index).iter().all(|&p| (p - (1.0 - 0.001)).abs() < 1e-6);
            assert_eq!(decayed, is_hidden, "{}: {}", spec.name, params.raw(index)[0]);
            let (means, squares) = optimizer.moments();
            let expected = if is_hidden { 0 } else { spec.len() };
            assert_eq!((means[index].len(), squares[index].len()), (spec.len(), expected));
        }
    }
}
