//! The specification of a panel's products.

use std::ops::Range;

use half::f16;

use super::{Activations, PANEL, Panels, put};
use crate::data_type::WEIGHTS_PER_BLOCK;
use crate::{DataType, Parts};

/// The outputs of the panels `range` for every token.
pub(super) fn task(panels: Panels<'_>, range: Range<usize>, x: &Activations, y: &Parts<'_, f32>) {
    for panel in range {
        self::panel(panels, panel, x, y);
    }
}

fn panel(panels: Panels<'_>, panel: usize, x: &Activations, y: &Parts<'_, f32>) {
    let format = panels.format();
    let blocks = panels.panel(panel).chunks_exact(PANEL * format.block().1);
    for token in 0..x.tokens() {
        let mut sums = [0.0_f32; PANEL];
        for (block, x) in blocks.clone().zip(x.of(token)) {
            for (r, sum) in sums.iter_mut().enumerate() {
                let integers = (0..WEIGHTS_PER_BLOCK).map(|c| weight(format, block, r, c));
                let dot: i32 = integers.zip(x.integers).map(|(q, x)| q * i32::from(x)).sum();
                *sum = (dot as f32).mul_add(half(block, r) * x.scale, *sum);
                if format.has_minimum() {
                    *sum = half(block, PANEL + r).mul_add(x.offset, *sum);
                }
            }
        }
        // SAFETY: the task has these rows to itself.
        unsafe { put(panels, panel, 0, token, &sums, y) };
    }
}

/// The half-precision number at place `i` of a panel block.
fn half(block: &[u8], i: usize) -> f32 {
    f16::from_le_bytes([block[2 * i], block[2 * i + 1]]).to_f32()
}

/// The integer of row `r` and column `c`, zero point subtracted.
fn weight(format: DataType, block: &[u8], r: usize, c: usize) -> i32 {
    let (fifth, integers) = format.parts();
    let byte = |group: usize| block[PANEL * integers.start + 4 * (group * PANEL + r) + c % 4];
    if format.has_bytes() {
        return i32::from(byte(c / 4).cast_signed());
    }
    let nibble = if c < 16 { byte(c / 4) & 15 } else { byte(c / 4 - 4) >> 4 };
    let fifth =
        if format.has_fifth_bits() { block[PANEL * fifth.start + 4 * r + c % 4] >> (c / 4) & 1 } else { 0 };
    i32::from(nibble | fifth << 4) - format.zero_point()
}
