//! Optimizers: how parameters move along their gradients. Each is a type behind the trait [`Optimizer`], in a file of
//! its own.
//!
//! Each parameter's declaration says at which multiple of the learning rate it learns, whether it decays, and
//! whether it is a matrix between activations.

mod adamw;
mod muon;

use std::fmt::Debug;

use rwkv_core::params::ParamSpec;
use rwkv_core::store::Parameters;
use rwkv_kernels::{Cpu, sum_of_squares};

pub use self::adamw::AdamW;
pub use self::muon::Muon;
use crate::options::{OptimizerKind, TrainOptions};
use crate::pages;

/// What changes from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The step, counted from 1.
    pub number: u64,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// The highest learning rate of the run: rates of an optimizer's own rise and fall with the other.
    pub peak: f64,
    /// [`global_norm`] of the gradients.
    pub norm: f64,
}

/// Moments of one kind.
#[derive(Debug)]
pub struct Moment {
    /// What checkpoints call them.
    pub name: &'static str,
    /// One for each parameter, in the layout's order; empty where the optimizer keeps none.
    pub values: Vec<Vec<f32>>,
}

/// A rule by which the trained parameters move, with what it remembers of their gradients.
pub trait Optimizer: Debug + Send + Sync {
    /// Moves the trained ones of `params` by one step; `gradients` are in the layout's order.
    fn step(&mut self, cpu: &Cpu, step: &Step, params: &mut Parameters, gradients: &[Vec<f32>]);

    /// What it remembers, and what a checkpoint therefore holds: the same names and lengths at every step.
    fn moments(&self) -> &[Moment];

    /// For going on with those of a checkpoint.
    fn moments_mut(&mut self) -> &mut [Moment];
}

/// What the trainer has to know of a kind of optimizer.
struct Rule {
    make: fn(&TrainOptions, &Parameters) -> Box<dyn Optimizer>,
    /// How many moments it keeps of a parameter.
    moments: fn(&ParamSpec) -> usize,
}

/// The rules of all kinds.
fn rule(options: &TrainOptions) -> Rule {
    // A run that does not name its optimizer is of before there was a choice.
    match options.optimizer.unwrap_or(OptimizerKind::AdamW) {
        OptimizerKind::AdamW => {
            Rule { make: |options, params| Box::new(AdamW::new(options, params)), moments: AdamW::moments_of }
        }
        OptimizerKind::Muon => {
            Rule { make: |options, params| Box::new(Muon::new(options, params)), moments: Muon::moments_of }
        }
    }
}

/// The optimizer that the options name, which has taken no step yet.
pub fn new(options: &TrainOptions, params: &Parameters) -> Box<dyn Optimizer> {
    (rule(options).make)(options, params)
}

/// How many moments the optimizer that the options name keeps of a parameter: for an estimate of memory.
pub(crate) fn moments_of(options: &TrainOptions, spec: &ParamSpec) -> usize {
    (rule(options).moments)(spec)
}

/// The length of the gradients of all trained parameters taken as one vector; not finite if any of them is
/// not.
pub fn global_norm(cpu: &Cpu, params: &Parameters, gradients: &[Vec<f32>]) -> f64 {
    let trained = gradients.iter().enumerate().filter(|&(index, _)| params.is_trained(index));
    trained.map(|(_, gradient)| sum_of_squares(cpu, gradient)).sum::<f64>().sqrt()
}

/// What gradients are multiplied by, so that their norm is at most `most`; 0: no limit.
fn clip(norm: f64, most: f64) -> f64 {
    if most > 0.0 && norm > most { most / norm } else { 1.0 }
}

/// Zeros for the trained parameters that `keeps` accepts.
fn zeros(params: &Parameters, keeps: impl Fn(&ParamSpec) -> bool) -> Vec<Vec<f32>> {
    let specs = params.layout().specs().iter().enumerate();
    let len = |(index, spec): (usize, &ParamSpec)| {
        if params.is_trained(index) && keeps(spec) { spec.len() } else { 0 }
    };
    pages::zeros(specs.map(len))
}
