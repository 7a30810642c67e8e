//! The tile in plain code, for CPUs without a tier and to compare the others with: one sum after the other.

use super::blocked::{Output, Strided, Tile};
use crate::Store;

/// Marks plain code.
pub(super) struct Scalar;

impl Tile for Scalar {
    const HEIGHT: usize = 4;
    const WIDTH: usize = 8;
    type Element = f32;

    unsafe fn tile(steps: usize, a: Strided<f32>, panel: *const f32, c: Output, store: Store) {
        for i in 0..c.rows {
            for j in 0..c.cols {
                // SAFETY: by the caller, C has this element, A and the panel have those of each step.
                unsafe {
                    let out = &mut *c.data.add(i * c.row + j);
                    let mut sum = if store == Store::Add { *out } else { 0.0 };
                    for p in 0..steps {
                        sum += *a.data.add(i * a.row + p * a.col) * *panel.add(p * Self::WIDTH + j);
                    }
                    *out = sum;
                }
            }
        }
    }
}
