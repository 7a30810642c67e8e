//! How much memory a run takes: that of its parameters, and of the tensors that its model's pass would make.

use rwkv_core::MAX_THREADS;
use rwkv_core::ModelConfig;
use rwkv_core::model::Network;

use crate::base::targets;
use crate::ops::rows_of_logits;
use crate::optimizer::moments_of;
use crate::options::{TrainOptions, Tune};
use crate::tape::{Tape, packed_weights, rows_at_once};

/// An estimate of a run's memory in bytes, as floats: nonsense values must not overflow.
pub(crate) struct Memory {
    /// Values, gradients and moments.
    pub(crate) parameters: f64,
    /// Weights of matrices, packed for forward and for backward.
    pub(crate) packed: f64,
    /// Activations of the rows that are in memory at the same time, with their gradients and the operands of
    /// products.
    pub(crate) activations: f64,
    /// Tokens, and the states that sequences start from and leave.
    pub(crate) batch: f64,
}

/// Bytes of a token and its target, once for the step and once for the group of sequences.
const ROW: f64 = 16.0;

/// Bytes that a sequence takes beside its tokens and states: where it lies, and in which vectors.
const SEQUENCE: f64 = 128.0;

impl Memory {
    /// Of training a new model of this shape, or one from a file of `file_len` bytes.
    pub(crate) fn of(options: &TrainOptions, model: &ModelConfig, file_len: Option<u64>) -> Self {
        Self::of_early(options, model, file_len, None)
    }

    /// As [`of`](Self::of); with `early`, of a tape that [tells early](Tape::tell_early), with so many rows.
    pub(crate) fn of_early(
        options: &TrainOptions,
        model: &ModelConfig,
        file_len: Option<u64>,
        early: Option<usize>,
    ) -> Self {
        let model = *model;
        // Every block is like the second: nonsense in the number of blocks costs nothing here.
        let [one, two] = [1, 2].map(|n_layer| Floats::of(options, &ModelConfig { n_layer, ..model }));
        let blocks = (model.n_layer as f64 - 2.0).max(0.0);
        let last = if model.n_layer < 2 { &one } else { &two };
        let all = |floats: fn(&Floats) -> f64| floats(last) + blocks * (floats(&two) - floats(&one));
        let is_frozen = options.lora_rank.is_some() || options.tune == Tune::State;
        let is_partly_frozen = file_len.is_some() && (options.train.is_some() || options.freeze.is_some());
        let trained = if is_frozen { all(|floats| floats.factors) } else { all(|floats| floats.parameters) };
        // An adapter's factors and a state have the moments that vectors have.
        let moments = if is_frozen { 2.0 * trained } else { all(|floats| floats.moments) };
        let outer = if options.local_steps.is_some() { 2.0 * trained } else { 0.0 };
        let activations = all(|floats| floats.operands + floats.gradients)
            + if options.recompute {
                all(|floats| floats.kept + floats.largest_block)
            } else {
                all(|floats| floats.a_row)
            };
        let sequences = options.batch_size as f64;
        let rows = [options.ctx_len as f64 * sequences, options.ctx_len as f64];
        let threads = options.threads.unwrap_or_else(available_threads);
        let has_states = options.carry_state || options.tune == Tune::State;
        let state = if has_states { all(|floats| floats.state) } else { 0.0 };
        let batch = ROW * rows[0] + sequences * (SEQUENCE + 4.0 * 4.0 * state);
        let parameters = all(|floats| floats.parameters);
        // What stays in a file is decoded for all rows at once.
        let rows = if is_frozen || is_partly_frozen {
            rows[0]
        } else {
            rows_at_once(rows, threads, parameters, early)
        };
        let logits = model.n_vocab as f64 * rows.min(rows_of_logits(model.n_vocab, threads) as f64);
        Self {
            parameters: 4.0 * (2.0 * trained + moments + outer) + file_len.unwrap_or(0) as f64,
            packed: packed_weights(if is_frozen { trained } else { parameters }),
            activations: 4.0 * (rows * activations + logits),
            batch,
        }
    }

    pub(crate) fn total(&self) -> f64 {
        self.parameters + self.packed + self.activations + self.batch
    }
}

/// What a model takes, in floats.
struct Floats {
    parameters: f64,
    /// The optimizer's moments of those.
    moments: f64,
    /// The factors of adapters.
    factors: f64,
    /// Activations of one row (token).
    a_row: f64,
    /// Of those, what is kept where the rest is computed again, and the rest of the largest block.
    kept: f64,
    largest_block: f64,
    /// Gradients of activations that are alive at the same time, of one row: at most those of a block, and of
    /// the widest tensor.
    gradients: f64,
    /// Of one row, what products and the gradients of matrices read of it.
    operands: f64,
    /// Of one state.
    state: f64,
}

impl Floats {
    fn of(options: &TrainOptions, model: &ModelConfig) -> Self {
        let (network, layout, states) = Network::new(model);
        let parameters = layout.n_params() as f64;
        let moments =
            layout.specs().iter().map(|spec| moments_of(options, spec) as f64 * spec.len() as f64).sum();
        // A pattern that matches nothing is reported when adapters are made.
        let rank = options.lora_rank.unwrap_or(0) as f64;
        let targets =
            if rank > 0.0 { targets(options, layout.specs()).unwrap_or_default() } else { Vec::new() };
        let targets: Vec<_> = targets.into_iter().map(|index| &layout.specs()[index]).collect();
        let factors = targets.iter().map(|spec| rank * (spec.rows as f64 + spec.cols as f64)).sum();
        // x downᵀ and that scaled, what upᵀ makes of it, and the sum.
        let of_adapters: f64 = targets.iter().map(|spec| 2.0 * rank + 2.0 * spec.rows as f64).sum();
        let mut tape = Tape::of_shapes(layout);
        tape.begin(&[0], 1);
        let logits = network.forward(&mut tape);
        let operands = tape.operands() as f64 + of_adapters;
        if rank == 0.0 && options.tune != Tune::State {
            // They are there for some rows at a time.
            tape.take_product(logits);
        }
        let mut blocks = tape.widths();
        let sum = |widths: &[usize]| widths.iter().map(|&width| width as f64).sum::<f64>();
        let a_row = blocks.iter().map(|[made, _]| sum(made)).sum::<f64>() + of_adapters;
        let widest = blocks.iter().flat_map(|[made, _]| made).max().map_or(0.0, |&width| width as f64);
        // What follows the last block is kept whole.
        let rest = blocks.pop().map_or(0.0, |[made, _]| sum(&made));
        let kept = blocks.iter().map(|[_, live]| sum(live)).sum::<f64>() + rest;
        let of_adapters = of_adapters / model.n_layer as f64;
        let largest_block = blocks.iter().map(|[made, _]| sum(made)).fold(0.0, f64::max) + of_adapters;
        Self {
            parameters,
            moments,
            factors,
            a_row,
            kept,
            largest_block,
            gradients: largest_block + widest,
            operands,
            state: states.len() as f64,
        }
    }
}

/// Threads that training takes where the options name no number.
pub(crate) fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_counts_the_models_own_parameters_and_activations() {
        for n_layer in [1, 2, 5] {
            let options = TrainOptions { n_layer, n_embd: 32, ..TrainOptions::new("", "") };
            let model = options.model(65).expect("a shape");
            let (_, layout, _) = Network::new(&model);
            let memory = Memory::of(&options, &model, None);
            assert!((memory.parameters - 16.0 * layout.n_params() as f64).abs() < 1.0);
            // 28 D in a block of RWKV-4; embedding and two norms; then gradients, and the
            // inputs and outputs of seven products a block and of the head.
            let [l, d, v] = [n_layer as f64, 32.0, 65.0_f64];
            let gradients = 28.0 * d + 2.0 * d + 4.0 * d;
            let a_row = l * 28.0 * d + 3.0 * d + gradients + l * 20.0 * d + d + v;
            // Of twelve sequences of 64, two for each thread at a time, with their logits.
            let rows = 64.0 * (2.0 * available_threads() as f64).min(12.0);
            let expected = 4.0 * rows * (a_row + v);
            assert!((memory.activations - expected).abs() < 1.0, "{} {expected}", memory.activations);
        }
    }

    #[test]
    fn beyond_what_is_computed_at_once_the_batch_takes_no_memory_for_activations() {
        let activations = |n_embd, batch_size, lora_rank| {
            let options = TrainOptions {
                n_layer: 12,
                n_embd,
                batch_size,
                lora_rank,
                threads: Some(2),
                ..TrainOptions::new("", "")
            };
            Memory::of(&options, &options.model(65).expect("a shape"), None).activations
        };
        for n_embd in [64, 768] {
            let more = activations(n_embd, 640, None) - activations(n_embd, 64, None);
            assert!(more.abs() < 1.0, "{n_embd}: {more}");
        }
        assert!(activations(64, 640, Some(8)) > 9.0 * activations(64, 64, Some(8)));
    }
}
