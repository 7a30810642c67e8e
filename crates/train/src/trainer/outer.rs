//! `DiLoCo` (Douillard et al. 2023, <https://arxiv.org/abs/2311.08105>): ranks take some steps by themselves, and then
//! synchronize: an outer optimizer, SGD with Nesterov's momentum, moves the parameters by the mean of the ranks' changes.

use rwkv_core::store::Parameters;

use crate::optimizer::Moment;
use crate::options::TrainOptions;

/// The outer optimizer.
#[derive(Debug)]
pub(super) struct Outer {
    /// Steps from one synchronization to the next.
    every: u64,
    learning_rate: f32,
    momentum: f32,
    /// The parameters after the last synchronization, and the momentum: of those that are trained.
    moments: [Moment; 2],
}

impl Outer {
    /// As the options say; none if gradients are summed every step.
    pub(super) fn new(options: &TrainOptions, params: &Parameters) -> Option<Self> {
        let every = options.local_steps?;
        let resolved = "options are resolved when a run begins";
        let of_trained = |value: fn(&[f32]) -> Vec<f32>| {
            let count = params.layout().specs().len();
            let one = |index| if params.is_trained(index) { value(params.raw(index)) } else { Vec::new() };
            (0..count).map(one).collect()
        };
        Some(Self {
            every,
            learning_rate: options.outer_learning_rate.expect(resolved) as f32,
            momentum: options.outer_momentum.expect(resolved) as f32,
            moments: [
                Moment { name: "outer-parameters", values: of_trained(<[f32]>::to_vec) },
                Moment { name: "outer-momentum", values: of_trained(|raw| vec![0.0; raw.len()]) },
            ],
        })
    }

    /// Whether ranks synchronize after this step; after the last one they always do.
    pub(super) fn is_due(&self, step: u64) -> bool {
        step.is_multiple_of(self.every)
    }

    /// For checkpoints.
    pub(super) fn moments(&self) -> &[Moment] {
        &self.moments
    }

    /// For going on from one.
    pub(super) fn moments_mut(&mut self) -> &mut [Moment] {
        &mut self.moments
    }

    /// Writes into `gradients` this rank's outer gradient times `part`: the parameters after the last synchronization less
    /// those of now.
    pub(super) fn gradient(&self, params: &Parameters, part: f32, gradients: &mut [Vec<f32>]) {
        for index in params.trained() {
            let both = self.moments[0].values[index].iter().zip(params.raw(index));
            gradients[index]
                .iter_mut()
                .zip(both)
                .for_each(|(gradient, (was, is))| *gradient = (was - is) * part);
        }
    }

    /// Moves the parameters from those after the last synchronization by the mean of the ranks' outer gradients.
    pub(super) fn step(&mut self, params: &mut Parameters, gradients: &[Vec<f32>]) {
        let (rate, momentum) = (self.learning_rate, self.momentum);
        let [outer, sums] = &mut self.moments;
        let trained: Vec<_> = params.trained().collect();
        for index in trained {
            let all = params.raw_mut(index).iter_mut().zip(&gradients[index]);
            let all = all.zip(outer.values[index].iter_mut().zip(&mut sums.values[index]));
            for ((value, gradient), (outer, sum)) in all {
                *sum = momentum * *sum + gradient;
                *outer -= rate * (gradient + momentum * *sum);
                *value = *outer;
            }
        }
        params.refresh();
    }
}
