//! Initial values of parameters, before the first step of training.

use std::fmt;
use std::sync::Arc;

/// Initial values of a parameter, as its model's file declares them. Random numbers are drawn by who trains.
#[derive(Clone, Debug)]
pub enum Initial {
    /// All the same.
    Constant(f32),
    /// A function of the channel.
    Channels(Formula),
    /// Uniform in ±bound.
    Uniform {
        /// The largest magnitude.
        bound: f32,
    },
    /// A matrix whose columns (or rows, if those are fewer) are orthogonal, of length
    /// `gain · max(1, √(rows/cols))` (Saxe et al., <https://arxiv.org/abs/1312.6120>).
    Orthogonal {
        /// Factor of the length.
        gain: f64,
        /// Whether checkpoints hold the matrix as (inputs, outputs), whose rows are then counted as columns.
        is_transposed: bool,
    },
}

/// The values of a vector in a block, as a function of the channel.
#[derive(Clone)]
pub struct Formula {
    value: Arc<dyn Fn(Channel) -> f64 + Send + Sync>,
    layer: usize,
    n_layer: usize,
}

impl Initial {
    /// All 0.
    pub const ZEROS: Self = Self::Constant(0.0);
    /// All 1.
    pub const ONES: Self = Self::Constant(1.0);

    /// `value` of each channel of a vector in the block `layer` of `n_layer`, counted from 0.
    pub fn channels(
        layer: usize,
        n_layer: usize,
        value: impl Fn(Channel) -> f64 + Send + Sync + 'static,
    ) -> Self {
        Self::Channels(Formula { value: Arc::new(value), layer, n_layer })
    }

    /// Orthogonal, of a matrix that is used as it is held.
    pub fn orthogonal(gain: f64) -> Self {
        Self::Orthogonal { gain, is_transposed: false }
    }
}

impl Formula {
    /// The value of channel `index` of a vector of `width`.
    pub fn value(&self, index: usize, width: usize) -> f64 {
        (self.value)(Channel { index, width, layer: self.layer, n_layer: self.n_layer })
    }
}

impl fmt::Debug for Formula {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Formula of block {} of {}", self.layer, self.n_layer)
    }
}

/// Where a value of a vector is: what formulas of initial values depend on.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    /// The channel, from 0.
    pub index: usize,
    /// Number of channels.
    pub width: usize,
    /// The block, from 0.
    pub layer: usize,
    /// Number of blocks.
    pub n_layer: usize,
}

impl Channel {
    /// The channel over the width: from 0 to nearly 1.
    pub fn share(self) -> f64 {
        self.index as f64 / self.width as f64
    }

    /// The channel over the last one: from 0 to 1 inclusive; 0 if there is only one.
    pub fn position(self) -> f64 {
        self.index as f64 / (self.width as f64 - 1.0).max(1.0)
    }

    /// The block over the last one: from 0 to 1; 0 if there is only one.
    pub fn ratio_0_to_1(self) -> f64 {
        if self.n_layer > 1 { self.layer as f64 / (self.n_layer as f64 - 1.0) } else { 0.0 }
    }

    /// From 1 in the first block to nearly 0 in the last.
    pub fn ratio_1_to_almost_0(self) -> f64 {
        1.0 - self.layer as f64 / self.n_layer as f64
    }
}
