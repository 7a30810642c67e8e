//! Activations converted for a product's weights and tier.

use super::Lines;
use super::half::round_to_half;
use crate::product::Weights;
use crate::{Cpu, DataType};

/// A product's converted activations. Reused between products, so that none allocates.
#[derive(Debug, Default)]
pub(in crate::product) struct Inputs {
    /// Rounded to half precision, for FP16.
    rounded: Lines,
    /// In parts, for AMX.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    tiles: Lines,
}

/// The activations of a product.
#[derive(Clone, Copy)]
pub(in crate::product) struct Input<'a> {
    /// (T, cols), rounded to half precision if the weights are halves.
    pub(super) values: &'a [f32],
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    pub(super) tiles: &'a Lines,
}

impl Inputs {
    /// Takes `x` (T, cols), for weights `w`.
    ///
    /// # Panics
    /// If the weights are quantized.
    pub(in crate::product) fn set(&mut self, cpu: &Cpu, w: &Weights<'_>, x: &[f32]) {
        match w.format {
            DataType::F32 | DataType::BF16 => (),
            DataType::F16 => round_to_half(cpu, x, self.rounded.reserve(x.len())),
            _ => panic!("quantized weights come in panels"),
        }
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if cpu.isa() == crate::Isa::Amx {
            let x = if w.format == DataType::F16 { self.rounded.get(x.len()) } else { x };
            super::amx::prepare(cpu, w.format, x, w.cols, &mut self.tiles);
        }
    }

    /// What [`set`](Self::set) has made of `x` for `w`.
    pub(in crate::product) fn get<'a>(&'a self, w: &Weights<'_>, x: &'a [f32]) -> Input<'a> {
        Input {
            values: if w.format == DataType::F16 { self.rounded.get(x.len()) } else { x },
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            tiles: &self.tiles,
        }
    }
}
