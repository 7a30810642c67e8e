//! Gradients of matrices, which are sums over all sequences: what each group of them has left at the end of a
//! block, and the sum.

use std::sync::Arc;

use rwkv_core::params::Matrix;
use rwkv_kernels::{Cpu, PackedDw, embed_backward, linear_dw_packed};

use super::ParamGradients;
use super::buffer::Pooled;
use super::group::Group;
use super::run::Whole;

/// What a group adds to the gradient of a matrix.
#[derive(Debug)]
pub(crate) enum Pending {
    /// `dW += dyᵀ x`, where `dy` is packed and so is x.
    Product { weight: Matrix, k: usize, x: Arc<Pooled>, dy: Pooled },
    /// A row of `dy` for each token, added to the token's row of the table.
    Rows { table: Matrix, dy: Pooled },
}

/// Adds what all groups have left, in their order. They have run the same operators. After matrices of `part` elements
/// together, or one that has as many, `tell` is called with all gradients and with those matrices. Returns how many
/// operations that took in products.
pub(super) fn add(
    cpu: &Cpu,
    groups: &[Group],
    gradients: &mut ParamGradients,
    part: usize,
    tell: Whole<'_>,
) -> u64 {
    let Some(first) = groups.first() else { return 0 };
    if groups.iter().any(|group| group.pending.len() != first.pending.len()) {
        return 0; // stopped half-way, and the gradients mean nothing
    }
    let mut products: Vec<Product> = Vec::new();
    for (index, pending) in first.pending.iter().enumerate() {
        let of_all = groups.iter().map(|group| (group, &group.pending[index]));
        match pending {
            Pending::Rows { table, .. } => {
                let dtable = gradients.matrix(*table);
                for (group, pending) in of_all {
                    let Pending::Rows { dy, .. } = pending else { continue };
                    let tokens = &group.batch.tokens;
                    embed_backward(cpu, dy.len() / tokens.len(), tokens, dy, dtable);
                }
            }
            Pending::Product { weight, k, .. } => {
                let terms = of_all.filter_map(|(group, pending)| match pending {
                    Pending::Product { dy, x, .. } => Some((group.batch.tokens.len(), &**dy, &***x)),
                    Pending::Rows { .. } => None,
                });
                match products.iter_mut().find(|product| product.weight == *weight) {
                    Some(product) => product.terms.extend(terms),
                    None => products.push(Product { weight: *weight, k: *k, terms: terms.collect() }),
                }
            }
        }
    }
    products.sort_by_key(|product| product.weight.index());
    let mut operations = 0;
    let mut rest = products.into_iter().peekable();
    while rest.peek().is_some() {
        let (mut matrices, mut dws, mut elements) = (Vec::new(), Vec::new(), 0);
        for (index, dw) in gradients.all_mut().iter_mut().enumerate() {
            if elements >= part {
                break;
            }
            let Some(Product { weight, k, terms }) = rest.next_if(|product| product.weight.index() == index)
            else {
                continue;
            };
            let rows: usize = terms.iter().map(|&(rows, ..)| rows).sum();
            operations += 2 * (rows * dw.len()) as u64;
            elements += dw.len();
            matrices.push(weight);
            dws.push(PackedDw { terms, k, dw });
        }
        linear_dw_packed(cpu, &mut dws);
        tell(gradients.all_mut(), &matrices);
    }
    operations
}

/// What the gradient of a matrix is the sum of: of each group its rows, dy and x.
struct Product<'a> {
    weight: Matrix,
    k: usize,
    terms: Vec<(usize, &'a [f32], &'a [f32])>,
}
