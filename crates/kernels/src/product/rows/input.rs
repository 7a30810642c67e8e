//! Activations converted for a product's weights and tier.

use super::Lines;
use super::half::round_to_half;
use crate::prefetch::prefetch_to_write;
use crate::product::Weights;
use crate::{Cpu, DataType, Parts};

/// Elements of a task: some µs.
const COPY_TASK: usize = 1 << 14;

/// A product's converted activations. Reused between products, so that none allocates.
#[derive(Debug, Default)]
pub(in crate::product) struct Inputs {
    /// In whole cache lines: rounded to half precision for FP16, as they are for BF16.
    values: Lines,
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
            DataType::F32 => (),
            DataType::F16 => round_to_half(cpu, x, self.values.reserve(x.len())),
            DataType::BF16 => copy(cpu, x, self.values.reserve(x.len())),
            _ => panic!("quantized weights come in panels"),
        }
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if cpu.isa() == crate::Isa::Amx {
            let x = if w.format == DataType::F32 { x } else { self.values.get(x.len()) };
            super::amx::prepare(cpu, w.format, x, w.cols, &mut self.tiles);
        }
    }

    /// What [`set`](Self::set) has made of `x` for `w`.
    pub(in crate::product) fn get<'a>(&'a self, w: &Weights<'_>, x: &'a [f32]) -> Input<'a> {
        Input {
            values: if w.format == DataType::F32 { x } else { self.values.get(x.len()) },
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            tiles: &self.tiles,
        }
    }
}

/// Puts `x` where vectors as long as a cache line lie within one: where each load takes two lines, products
/// of many tokens take a tenth longer with AVX-512.
fn copy(cpu: &Cpu, x: &[f32], out: &mut [f32]) {
    prefetch_to_write(out);
    let parts = Parts::new(out);
    cpu.run_blocks(x.len(), COPY_TASK, |block| {
        // SAFETY: each task takes its own block.
        unsafe { parts.part(block.clone()) }.copy_from_slice(&x[block]);
    });
}
