//! How much memory a run takes.

use crate::options::TrainOptions;

/// An estimate of a run's memory in bytes, as floats: nonsense values must not overflow.
pub(crate) struct Memory {
    pub(crate) parameters: f64,
    pub(crate) activations: f64,
}

impl Memory {
    pub(crate) fn of(options: &TrainOptions, n_vocab: usize) -> Self {
        let [l, d, v] = [options.n_layer, options.n_embd, n_vocab].map(|n| n as f64);
        let rows = options.ctx_len as f64 * options.batch_size as f64;
        // 2VD + L(13D² + 11D) + 4D; value, gradient and two moments.
        let n_params = 2.0 * v * d + l * (13.0 * d * d + 11.0 * d) + 4.0 * d;
        // What the operators of a block make is 28 D wide; some 16 D for the rest and the gradients under way.
        let activations = rows * (l * 28.0 * d + 16.0 * d + 2.0 * v);
        Self { parameters: 16.0 * n_params, activations: 4.0 * activations }
    }

    pub(crate) fn total(&self) -> f64 {
        self.parameters + self.activations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_counts_the_models_own_parameters() {
        let options = TrainOptions::new("", "");
        let (_, layout, _) = rwkv::model::Network::new(&options.model(65));
        let counted = 16.0 * layout.n_params() as f64;
        assert!((Memory::of(&options, 65).parameters - counted).abs() < 1.0);
    }
}
