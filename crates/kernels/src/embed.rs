//! Embedding: a token's row of a table.

use crate::add::Accumulate;
use crate::block::{BLOCK, elements, rows, rows_per_block};
use crate::simd::dispatch;
use crate::{Cpu, Parts};

/// Channels that one index of the backward's loop takes, over all rows.
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
    // Fewer elements than a block: one index, on the caller's thread.
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
