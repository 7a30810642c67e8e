//! Weights of a block's matrices, packed for its products: once, and all groups of sequences multiply them.

use std::collections::BTreeSet;
use std::ops::Range;

use rwkv_core::params::Matrix;
use rwkv_core::store::Parameters;
use rwkv_kernels::{Cpu, Packing, pack_weights, packed_len};

use super::buffer::{Buffer, Pool};
use crate::ops::Op;

/// The packed matrices of some operators.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    /// Where each matrix lies, by its index in the layout; empty if it is not here.
    places: Vec<Range<usize>>,
    words: Buffer,
}

impl Weights {
    /// Packs the matrices that `ops` multiply by, in place of those that were here. Those that stay in
    /// another form than f32 are left out. Returns how many words of four bytes they take.
    pub(super) fn pack(
        &mut self,
        cpu: &Cpu,
        params: &Parameters,
        ops: &[Op],
        packing: Packing,
        pool: &Pool,
    ) -> usize {
        let specs = params.layout().specs();
        self.places.clear();
        self.places.resize(specs.len(), 0..0);
        let (mut len, mut matrices) = (0, Vec::new());
        for matrix in ops.iter().filter_map(Op::weight) {
            let (index, Some(weights)) = (matrix.index(), params.f32_matrix(matrix)) else { continue };
            if self.places[index].is_empty() {
                let cols = specs[index].cols;
                let own = packed_len(cpu, packing, weights.len() / cols, cols);
                matrices.push((weights, cols, own));
                self.places[index] = len..len + own;
                len += own;
            }
        }
        if self.words.len() < len {
            self.words = pool.take(len);
        }
        let mut rest = &mut *self.words;
        let places = matrices.into_iter().map(|(weights, cols, len)| {
            let (out, after) = std::mem::take(&mut rest).split_at_mut(len);
            rest = after;
            (weights, cols, out)
        });
        pack_weights(cpu, packing, places.collect());
        len
    }

    /// Words that [`pack`](Self::pack) would take for these operators.
    pub(super) fn words(cpu: &Cpu, params: &Parameters, ops: &[Op], packing: Packing) -> usize {
        let matrices = ops.iter().filter_map(Op::weight).map(Matrix::index);
        let matrices: BTreeSet<_> = matrices.collect();
        let specs = params.layout().specs();
        { matrices }
            .into_iter()
            .map(|index| packed_len(cpu, packing, specs[index].rows, specs[index].cols))
            .sum()
    }

    /// A packed matrix; none if it is not among those of these operators, or stays in another form.
    pub(crate) fn get(&self, matrix: Matrix) -> Option<&[f32]> {
        let place = self.places[matrix.index()].clone();
        (!place.is_empty()).then(|| &self.words[place])
    }
}
