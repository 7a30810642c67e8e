//! `DiLoCo` (Douillard et al. 2023, <https://arxiv.org/abs/2311.08105>): ranks take some steps by themselves, and then all
//! of them go on from one place, which Nesterov's momentum finds from the mean of where they went.

use rwkv_core::store::Parameters;

use crate::optimizer::Moment;
use crate::options::TrainOptions;

/// What there is beside the optimizer of the steps between two meetings.
#[derive(Debug)]
pub(super) struct Outer {
    /// Steps from one meeting to the next.
    every: u64,
    learning_rate: f32,
    momentum: f32,
    /// Where all ranks were after the last meeting, and the momentum: of trained parameters.
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
                Moment { name: "meeting", values: of_trained(<[f32]>::to_vec) },
                Moment { name: "outer-momentum", values: of_trained(|raw| vec![0.0; raw.len()]) },
            ],
        })
    }

    /// Whether ranks meet after this step; after the last one they always do.
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

    /// Writes into `gradients` a part of how far this rank has come since the last meeting, as a gradient has it: from
    /// where it is to where it was.
    pub(super) fn way(&self, params: &Parameters, part: f32, gradients: &mut [Vec<f32>]) {
        for index in params.trained() {
            let places = self.moments[0].values[index].iter().zip(params.raw(index));
            gradients[index].iter_mut().zip(places).for_each(|(way, (was, is))| *way = (was - is) * part);
        }
    }

    /// Moves the parameters from the last meeting along the mean of the ranks' ways.
    pub(super) fn step(&mut self, params: &mut Parameters, ways: &[Vec<f32>]) {
        let (rate, momentum) = (self.learning_rate, self.momentum);
        let [places, sums] = &mut self.moments;
        let trained: Vec<_> = params.trained().collect();
        for index in trained {
            let all = params.raw_mut(index).iter_mut().zip(&ways[index]);
            let all = all.zip(places.values[index].iter_mut().zip(&mut sums.values[index]));
            for ((value, way), (place, sum)) in all {
                *sum = momentum * *sum + way;
                *place -= rate * (way + momentum * *sum);
                *value = *place;
            }
        }
        params.refresh();
    }
}
