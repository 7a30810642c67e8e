//! Gradients that meet are added.

use crate::block::BLOCK;
use crate::simd::{Operation, Simd, dispatch};
use crate::{Cpu, Parts, Store};

/// `into += x`, element by element.
///
/// # Panics
/// If the lengths disagree.
pub fn accumulate(cpu: &Cpu, x: &[f32], into: &mut [f32]) {
    assert_eq!(x.len(), into.len());
    let len = into.len();
    let into = Parts::new(into);
    cpu.run_blocks(len, BLOCK, |range| {
        // SAFETY: blocks do not overlap.
        let into = unsafe { into.part(range.clone()) };
        dispatch(cpu.isa(), Accumulate { x: &x[range], into });
    });
}

pub(crate) struct Accumulate<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) into: &'a mut [f32],
}

impl Operation for Accumulate<'_> {
    type Output = ();

    fn scalar(self) {
        for i in 0..self.into.len() {
            self.into[i] += self.x[i];
        }
    }

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in (0..self.into.len()).step_by(S::LANES) {
            s.put(Store::Add, &mut self.into[i..], s.load(&self.x[i..]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{every_tier, shapes, values};

    #[test]
    fn sums_are_exact_on_every_tier() {
        for (rows, width) in shapes() {
            let (x, y) = (values(1, rows * width, 1.0), values(2, rows * width, 1.0));
            let want: Vec<_> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
            every_tier("accumulate", 0.0, |cpu| {
                let mut into = y.clone();
                accumulate(cpu, &x, &mut into);
                assert_eq!(into, want);
                vec![into]
            });
        }
    }
}
