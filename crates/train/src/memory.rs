//! How much memory a run takes, from the declaration and the equations of its model alone.

use rwkv::ModelConfig;
use rwkv::exec::Exec;
use rwkv::model::Network;
use rwkv::params::{Layout, Matrix, Vector};
use rwkv::state::Slot;

use crate::options::TrainOptions;

/// An estimate of a run's memory in bytes, as floats: nonsense values must not overflow.
pub(crate) struct Memory {
    /// Values, gradients and two moments.
    pub(crate) parameters: f64,
    pub(crate) activations: f64,
}

impl Memory {
    pub(crate) fn of(options: &TrainOptions, n_vocab: usize) -> Self {
        let model = options.model(n_vocab);
        let rows = options.ctx_len as f64 * options.batch_size as f64;
        // Every block is like the second: nonsense in the number of blocks costs nothing here.
        let [one, two] = [1, 2].map(|n_layer| Floats::of(&ModelConfig { n_layer, ..model }));
        let blocks = (model.n_layer as f64 - 2.0).max(0.0);
        let last = if model.n_layer < 2 { &one } else { &two };
        let all = |floats: fn(&Floats) -> f64| floats(last) + blocks * (floats(&two) - floats(&one));
        Self {
            parameters: 16.0 * all(|floats| floats.parameters),
            activations: 4.0 * rows * all(|floats| floats.a_row + floats.gradients),
        }
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
    /// Gradients of activations that are alive at the same time, of one row: at most those of a block, and of the
    /// widest tensor.
    gradients: f64,
}

impl Floats {
    fn of(model: &ModelConfig) -> Self {
        let (network, layout, _) = Network::new(model);
        let mut widths = Widths { layout: &layout, block: 0.0, largest_block: 0.0, all: 0.0, widest: 0.0 };
        network.forward(&mut widths);
        let Widths { largest_block, all, widest, .. } = widths;
        Self { parameters: layout.n_params() as f64, a_row: all, gradients: largest_block + widest }
    }
}

/// An executor that computes nothing but the widths of a pass's tensors: its tensors are their own widths.
struct Widths<'a> {
    layout: &'a Layout,
    /// Since the last block ended.
    block: f64,
    largest_block: f64,
    all: f64,
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

    fn add(&mut self, x: usize, _: usize) -> usize {
        self.make(x)
    }

    fn sigmoid_mul(&mut self, _: usize, x: usize) -> usize {
        self.make(x)
    }

    fn relu_squared(&mut self, x: usize) -> usize {
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
            let (_, layout, _) = Network::new(&options.model(65));
            let memory = Memory::of(&options, 65);
            assert!((memory.parameters - 16.0 * layout.n_params() as f64).abs() < 1.0);
            // 28 D in a block of RWKV-4; embedding and two norms, and the logits; then gradients.
            let [l, d, v] = [n_layer as f64, 32.0, 65.0_f64];
            let gradients = 28.0 * d + 2.0 * d + d.max(v).max(4.0 * d);
            let expected = 4.0 * 64.0 * 12.0 * (l * 28.0 * d + 3.0 * d + v + gradients);
            assert!((memory.activations - expected).abs() < 1.0, "{} {expected}", memory.activations);
        }
    }
}
