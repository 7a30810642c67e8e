//! The versions of RWKV, each written once over [`Exec`].

pub mod v4;

use crate::config::{ModelConfig, Version};
use crate::exec::Exec;
use crate::params::Layout;
use crate::state::StateLayout;

/// The equations of one model, with handles of its parameters.
#[derive(Clone, Debug)]
pub enum Network {
    /// RWKV-4.
    V4(v4::Rwkv4),
}

impl Network {
    /// Declares the parameters and the state of the model that `config` describes.
    pub fn new(config: &ModelConfig) -> (Self, Layout, StateLayout) {
        let (mut params, mut state) = (Layout::default(), StateLayout::default());
        let network = match config.version {
            Version::V4 => Self::V4(v4::Rwkv4::new(config, &mut params, &mut state)),
        };
        (network, params, state)
    }

    /// `(outputs, n_vocab)` logits of the rows that were asked for.
    pub fn forward<E: Exec>(&self, e: &mut E) -> E::Tensor {
        match self {
            Self::V4(model) => v4::forward(e, model),
        }
    }
}
