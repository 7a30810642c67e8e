//! `y_t = table[token_t]`; `dtable[token_t] += dy_t`.

use rwkv::params::Matrix;
use rwkv_kernels::embed;

use crate::ops::Read;
use crate::tape::{Backward, Forward, Pending, Tape, Tensor};

/// Saves nothing; the tokens stay in the batch. `dtable` waits for all sequences.
#[derive(Debug)]
pub(crate) struct Embed {
    table: Matrix,
    y: Tensor,
}

impl Embed {
    pub(crate) fn forward(tape: &mut Tape, table: Matrix) -> Tensor {
        let y = tape.declare(tape.params.layout().specs()[table.index()].cols);
        tape.apply(Self { table, y });
        y
    }

    /// No tensor.
    #[allow(clippy::unused_self)]
    pub(crate) fn reads(&self, _: &mut dyn FnMut(Tensor, Read)) {}

    #[allow(clippy::unused_self)]
    pub(crate) fn name(&self) -> &'static str {
        "embedding"
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        t.fill([self.y], |t, [y]| {
            let width = t.values.width(self.y);
            if let Some(table) = t.params.f32_matrix(self.table) {
                embed(t.cpu, table, width, &t.batch.tokens, y);
            } else {
                let weights = t.params.weights(self.table);
                for (y, &token) in y.chunks_exact_mut(width).zip(&t.batch.tokens) {
                    weights.read_row(token as usize, y);
                }
            }
        });
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let dy = t.gradients.take(self.y);
        if t.params.is_trained(self.table.index()) {
            let mut waiting = t.gradients.pooled(dy.len());
            waiting.copy_from_slice(&dy);
            t.pending.push(Pending::Rows { table: self.table, dy: waiting });
        }
        t.gradients.release(dy);
    }
}

#[cfg(test)]
mod tests {
    use rwkv::params::{Initial, Layout};

    use super::*;
    use crate::ops::check::Case;

    #[test]
    fn gradient_with_a_repeated_and_an_absent_token() {
        let mut layout = Layout::default();
        let table = layout.matrix("emb.weight", 5, 3, Initial::ZEROS);
        let mut case = Case::new(layout, &[], 2);
        case.tokens = vec![4, 1, 1, 0];
        case.check(|tape, _| vec![Embed::forward(tape, table)]);
    }
}
