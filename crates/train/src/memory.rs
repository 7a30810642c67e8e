//! How much memory a run takes, and how much there is.

use std::fmt;

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

/// The machine's memory where the system tells it, else 64 GiB.
pub(crate) fn memory_limit() -> f64 {
    let from_system = || {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024.0)
    };
    from_system().unwrap_or(64.0 * 1024.0 * 1024.0 * 1024.0)
}

pub(crate) struct Bytes(pub(crate) f64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        if bytes >= 1e9 { write!(f, "{:.1} GB", bytes / 1e9) } else { write!(f, "{:.1} MB", bytes / 1e6) }
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
