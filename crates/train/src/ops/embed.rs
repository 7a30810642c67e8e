//! `y_t = table[token_t]`; `dtable[token_t] += dy_t`.

use rwkv::params::Matrix;
use rwkv_kernels::{embed, embed_backward};

use crate::tape::{Backward, Tape, Tensor};

/// Remembers nothing; the tokens stay in the batch.
#[derive(Debug)]
pub(crate) struct Embed {
    table: Matrix,
    y: Tensor,
}

impl Embed {
    pub(crate) fn forward(tape: &mut Tape, table: Matrix) -> Tensor {
        let width = tape.params.cols(table);
        let y = tape.compute(tape.batch.tokens.len(), width, |t, y| {
            embed(&t.cpu, &t.params[table], width, &t.batch.tokens, y);
        });
        tape.record(Self { table, y });
        y
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let dy = t.gradients.take(self.y);
        let dtable = t.param_gradients.matrix(self.table);
        embed_backward(t.cpu, t.params.cols(self.table), &t.batch.tokens, &dy, dtable);
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
