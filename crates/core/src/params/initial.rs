//! Initial values of parameters, before the first step of training.

/// Initial values of a parameter, as its model's file declares them. Random numbers are drawn by who trains.
#[derive(Clone, Copy, Debug)]
pub enum Initial {
    /// All the same.
    Constant(f32),
    /// A function of the channel.
    Channels {
        /// The value for a channel.
        value: fn(Channel) -> f64,
        /// The block that the parameter is in, from 0.
        layer: usize,
        /// Number of blocks.
        n_layer: usize,
    },
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
    },
}

impl Initial {
    /// All 0.
    pub const ZEROS: Self = Self::Constant(0.0);
    /// All 1.
    pub const ONES: Self = Self::Constant(1.0);
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
