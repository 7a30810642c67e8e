//! Embedding: a token's row of a table.

use crate::accumulate::Accumulate;
use crate::block::{BLOCK, elements, rows, rows_per_block};
use crate::simd::dispatch;
use crate::{Cpu, Parts};

/// Channels of one task of the backward, over all rows.
const TILE: usize = 64;

/// `y_t = table[tokens_t]`; table (n_vocab, width), y (rows, width), one token a row.
///
/// # Panics
/// If the lengths disagree or a token is not a row of the table.
pub fn embed(cpu: &Cpu, table: &[f32], width: usize, tokens: &[u32], y: &mut [f32]) {
    check(rows(table.len(), width), tokens);
    assert_eq!(rows(y.len(), width), tokens.len());
    let y = Parts::new(y);
    cpu.run_blocks(tokens.len(), rows_per_block(width), |rows| {
        // SAFETY: blocks of rows do not overlap.
        let y = unsafe { y.part(elements(&rows, width)) };
        for (y, &token) in y.chunks_exact_mut(width).zip(&tokens[rows]) {
            y.copy_from_slice(&table[token as usize * width..][..width]);
        }
    });
}

/// The gradient of [`embed`]: `dtable[tokens_t] += dy_t`, in the order of t for each row of the table.
///
/// Threads share the channels, not the tokens: two tokens may name the same row.
///
/// # Panics
/// If the lengths disagree or a token is not a row of the table.
pub fn embed_backward(cpu: &Cpu, width: usize, tokens: &[u32], dy: &[f32], dtable: &mut [f32]) {
    check(rows(dtable.len(), width), tokens);
    assert_eq!(rows(dy.len(), width), tokens.len());
    let dtable = Parts::new(dtable);
    // Fewer elements than a block: one task, on the caller's thread.
    let tile = if dy.len() <= BLOCK { width } else { TILE };
    cpu.run_blocks(width, tile, |channels| {
        for (row, &token) in tokens.iter().enumerate() {
            let from = &dy[row * width..][channels.clone()];
            let start = token as usize * width;
            // SAFETY: tiles of channels do not overlap.
            let into = unsafe { dtable.part(start + channels.start..start + channels.end) };
            dispatch(cpu.isa(), Accumulate { x: from, into });
        }
    });
}

fn check(n_vocab: usize, tokens: &[u32]) {
    for &token in tokens {
        assert!((token as usize) < n_vocab, "token {token} of {n_vocab}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::{every_tier, shapes, values};

    #[test]
    fn rows_of_the_table_are_copied_and_gradients_are_added_in_order() {
        for (rows, width) in shapes() {
            let (n_vocab, table, dy) = (5, values(1, 5 * width, 1.0), values(2, rows * width, 1.0));
            let tokens: Vec<_> = (0..rows).map(|row| (row * row % n_vocab) as u32).collect();
            let mut want = vec![0.5; table.len()];
            for (row, &token) in tokens.iter().enumerate() {
                for c in 0..width {
                    want[token as usize * width + c] += dy[row * width + c];
                }
            }
            every_tier("embed", 0.0, |cpu| {
                let (mut y, mut dtable) = (vec![f32::NAN; dy.len()], vec![0.5; table.len()]);
                embed(cpu, &table, width, &tokens, &mut y);
                for (row, &token) in tokens.iter().enumerate() {
                    assert_eq!(y[row * width..][..width], table[token as usize * width..][..width]);
                }
                embed_backward(cpu, width, &tokens, &dy, &mut dtable);
                assert_eq!(dtable, want);
                vec![y, dtable]
            });
        }
    }

    #[test]
    #[should_panic(expected = "token 2 of 2")]
    fn a_token_out_of_range_is_refused() {
        embed(&Cpu::new(Isa::Scalar, 1), &[0.0; 6], 3, &[2], &mut [0.0; 3]);
    }
}
