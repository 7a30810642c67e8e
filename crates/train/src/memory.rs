//! How much memory a run takes: that of its parameters, and of the tensors that its model's pass would make.

use rwkv::ModelConfig;
use rwkv::model::Network;

use crate::base::targets;
use crate::options::{TrainOptions, Tune};
use crate::tape::Tape;

/// An estimate of a run's memory in bytes, as floats: nonsense values must not overflow.
pub(crate) struct Memory {
    /// Values, gradients and two moments.
    pub(crate) parameters: f64,
    pub(crate) activations: f64,
}

impl Memory {
    /// Of training a new model of this shape, or one from a file of `file_len` bytes.
    pub(crate) fn of(options: &TrainOptions, model: &ModelConfig, file_len: Option<u64>) -> Self {
        let model = *model;
        let rows = options.ctx_len as f64 * options.batch_size as f64;
        // Every block is like the second: nonsense in the number of blocks costs nothing here.
        let [one, two] = [1, 2].map(|n_layer| Floats::of(options, &ModelConfig { n_layer, ..model }));
        let blocks = (model.n_layer as f64 - 2.0).max(0.0);
        let last = if model.n_layer < 2 { &one } else { &two };
        let all = |floats: fn(&Floats) -> f64| floats(last) + blocks * (floats(&two) - floats(&one));
        let is_frozen = options.lora_rank.is_some() || options.tune == Tune::State;
        let trained = if is_frozen { all(|floats| floats.factors) } else { all(|floats| floats.parameters) };
        let activations = if options.recompute {
            all(|floats| floats.kept + floats.largest_block + floats.gradients)
        } else {
            all(|floats| floats.a_row + floats.gradients)
        };
        Self {
            parameters: 16.0 * trained + file_len.unwrap_or(0) as f64,
            activations: 4.0 * rows * activations,
        }
    }

    pub(crate) fn total(&self) -> f64 {
        self.parameters + self.activations
    }
}

/// What a model takes, in floats.
struct Floats {
    parameters: f64,
    /// The factors of adapters.
    factors: f64,
    /// Activations of one row (token).
    a_row: f64,
    /// Of those, what is kept where the rest is computed again, and the rest of the largest block.
    kept: f64,
    largest_block: f64,
    /// Gradients of activations that are alive at the same time, of one row: at most those of a block, and of
    /// the widest tensor.
    gradients: f64,
}

impl Floats {
    fn of(options: &TrainOptions, model: &ModelConfig) -> Self {
        let (network, layout, _) = Network::new(model);
        let parameters = layout.n_params() as f64;
        // A pattern that matches nothing is reported when adapters are made.
        let rank = options.lora_rank.unwrap_or(0) as f64;
        let targets =
            if rank > 0.0 { targets(options, layout.specs()).unwrap_or_default() } else { Vec::new() };
        let targets: Vec<_> = targets.into_iter().map(|index| &layout.specs()[index]).collect();
        let factors = targets.iter().map(|spec| rank * (spec.rows as f64 + spec.cols as f64)).sum();
        // x downᵀ and that scaled, what upᵀ makes of it, and the sum.
        let of_adapters: f64 = targets.iter().map(|spec| 2.0 * rank + 2.0 * spec.rows as f64).sum();
        let mut tape = Tape::of_shapes(layout);
        tape.begin(&[0], 1);
        tape.record(&network);
        let mut blocks = tape.widths();
        let sum = |widths: &[usize]| widths.iter().map(|&width| width as f64).sum::<f64>();
        let a_row = blocks.iter().map(|[made, _]| sum(made)).sum::<f64>() + of_adapters;
        let widest = blocks.iter().flat_map(|[made, _]| made).max().map_or(0.0, |&width| width as f64);
        // What follows the last block is kept whole.
        let rest = blocks.pop().map_or(0.0, |[made, _]| sum(&made));
        let kept = blocks.iter().map(|[_, live]| sum(live)).sum::<f64>() + rest;
        let of_adapters = of_adapters / model.n_layer as f64;
        let largest_block = blocks.iter().map(|[made, _]| sum(made)).fold(0.0, f64::max) + of_adapters;
        Self { parameters, factors, a_row, kept, largest_block, gradients: largest_block + widest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_counts_the_models_own_parameters_and_activations() {
        for n_layer in [1, 2, 5] {
            let options = TrainOptions { n_layer, n_embd: 32, ..TrainOptions::new("", "") };
            let model = options.model(65);
            let (_, layout, _) = Network::new(&model);
            let memory = Memory::of(&options, &model, None);
            assert!((memory.parameters - 16.0 * layout.n_params() as f64).abs() < 1.0);
            // 28 D in a block of RWKV-4; embedding and two norms, and the logits; then gradients.
            let [l, d, v] = [n_layer as f64, 32.0, 65.0_f64];
            let gradients = 28.0 * d + 2.0 * d + d.max(v).max(4.0 * d);
            let expected = 4.0 * 64.0 * 12.0 * (l * 28.0 * d + 3.0 * d + v + gradients);
            assert!((memory.activations - expected).abs() < 1.0, "{} {expected}", memory.activations);
        }
    }
}
