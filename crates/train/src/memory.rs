//! How much memory a run takes, from the declaration and the equations of its model alone.

use rwkv::ModelConfig;
use rwkv::exec::{Binary, Exec, Unary};
use rwkv::model::Network;
use rwkv::params::{Layout, Matrix, Vector};
use rwkv::state::Slot;

use crate::options::{TrainOptions, Tune};

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
        let [one, two] = [1, 2].map(|n_layer| Floats::of(&ModelConfig { n_layer, ..model }));
        let blocks = (model.n_layer as f64 - 2.0).max(0.0);
        let last = if model.n_layer < 2 { &one } else { &two };
        let all = |floats: fn(&Floats) -> f64| floats(last) + blocks * (floats(&two) - floats(&one));
        let is_frozen = options.lora_rank.is_some() || options.tune == Tune::State;
        let parameters = if is_frozen { 0.0 } else { 16.0 * all(|floats| floats.parameters) };
        let activations = if options.recompute {
            all(|floats| floats.kept + floats.largest_block + floats.gradients)
        } else {
            all(|floats| floats.a_row + floats.gradients)
        };
        Self { parameters: parameters + file_len.unwrap_or(0) as f64, activations: 4.0 * rows * activations }
    }

    pub(crate) fn total(&self) -> f64 {
        self.parameters + self.activations
    }
}

/// What a model takes, in floats.
struct Floats {
    parameters: f64,
    /// Activations of one row (token).
    a_row: f64,
    /// Of those, what is kept where the rest is computed again, and the rest of the largest block.
    kept: f64,
    largest_block: f64,
    /// Gradients of activations that are alive at the same time, of one row: at most those of a block, and of the
    /// widest tensor.
    gradients: f64,
}

impl Floats {
    fn of(model: &ModelConfig) -> Self {
        let (network, layout, _) = Network::new(model);
        let mut widths =
            Widths { layout: &layout, block: 0.0, largest_block: 0.0, all: 0.0, kept: 0.0, widest: 0.0 };
        network.forward(&mut widths);
        // What comes after the last block is kept too.
        let Widths { block, largest_block, all, kept, widest, .. } = widths;
        let (kept, gradients) = (kept + block, largest_block + widest);
        Self { parameters: layout.n_params() as f64, a_row: all, kept, largest_block, gradients }
    }
}

/// An executor that computes nothing but the widths of a pass's tensors: its tensors are their own widths.
struct Widths<'a> {
    layout: &'a Layout,
    /// Since the last block ended.
    block: f64,
    largest_block: f64,
    all: f64,
    /// What leaves blocks.
    kept: f64,
    widest: f64,
}

impl Widths<'_> {
    fn make(&mut self, width: usize) -> usize {
        let floats = width as f64;
        self.block += floats;
        self.all += floats;
        self.widest = self.widest.max(floats);
        width
    }
}

impl Exec for Widths<'_> {
    type Tensor = usize;

    fn embed(&mut self, table: Matrix) -> usize {
        self.make(self.layout.specs()[table.index()].cols)
    }

    fn layer_norm(&mut self, x: usize, _: Vector, _: Vector, _: f32) -> usize {
        self.make(x)
    }

    fn shift(&mut self, x: usize, _: Slot) -> usize {
        self.make(x)
    }

    fn lerp<const N: usize>(&mut self, x: usize, _: usize, _: [Vector; N]) -> [usize; N] {
        [(); N].map(|()| self.make(x))
    }

    fn linears<const N: usize>(&mut self, products: [(Matrix, usize); N]) -> [usize; N] {
        products.map(|(weight, _)| self.make(self.layout.specs()[weight.index()].rows))
    }

    fn unary(&mut self, _: Unary, x: usize) -> usize {
        self.make(x)
    }

    fn binary(&mut self, _: Binary, x: usize, _: usize) -> usize {
        self.make(x)
    }

    fn wkv4(&mut self, _: Vector, _: Vector, k: usize, _: usize, _: Slot) -> usize {
        self.make(k)
    }

    fn needed(&mut self, x: usize) -> usize {
        x
    }

    fn outputs(&mut self, x: usize) -> usize {
        x
    }

    fn keep<const N: usize>(&mut self, live: [usize; N]) -> [usize; N] {
        self.largest_block = self.largest_block.max(self.block);
        self.block = 0.0;
        self.kept += live.iter().map(|&width| width as f64).sum::<f64>();
        live
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
