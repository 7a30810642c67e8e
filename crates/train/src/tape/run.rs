//! How a pass runs: block by block for all groups, or group by group.
//!
//! A whole step ([`Tape::learn`]) goes forward and backward with as many groups at a time as keep the threads
//! busy, so that memory does not grow with the batch. If the packed weights of the whole model are small,
//! each thread takes a group through all of the model, forward and backward, before the next one; else all
//! threads go from block to block together, for whose weights there is memory.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rwkv_core::params::{Matrix, Vector};
use rwkv_kernels::{Cpu, Packing};

use super::group::{Ask, GoOn, Group, Shared, Work, for_each};
use super::record::Stage;
use super::{ParamGradients, ROWS_OF_GROUP, Tape, Tensor, WEIGHTS, pending};
use crate::ops::{HeadLoss, Op};
use crate::profile::{Cost, Pass};

/// Words of packed operands that wait for the gradients of matrices: 16 MB.
const PENDING: usize = 1 << 22;

/// Rows of the groups that go from block to block together, at least: weights are packed for them anew.
pub(crate) const ROWS: usize = 1024;

/// Elements of gradients after which those who sum them are told: enough for all threads to be busy.
const PART: usize = 1 << 18;

/// Rows whose activations are in memory at the same time when a step learns from `rows` of them: an estimate,
/// in floats, because nonsense values must not overflow. `parameters` are those of matrices that are packed. Where others
/// wait for gradients, at least `early` rows go from block to block.
pub(crate) fn rows_at_once(
    [rows, ctx_len]: [f64; 2],
    threads: usize,
    parameters: f64,
    early: Option<usize>,
) -> f64 {
    let group = (ROWS_OF_GROUP as f64 / ctx_len).ceil() * ctx_len;
    let threads = threads as f64;
    let groups = if early.is_none() && 2.0 * parameters <= WEIGHTS as f64 {
        threads
    } else {
        (early.unwrap_or(ROWS) as f64 / group / threads).ceil() * threads
    };
    rows.min(groups * group)
}

/// Bytes of the packed weights of matrices with so many `parameters`, estimated as above: those of a larger
/// model are there for one block at a time.
pub(crate) fn packed_weights(parameters: f64) -> f64 {
    4.0 * (2.0 * parameters).min(WEIGHTS as f64)
}

/// Is called with all gradients, and the matrices whose gradients are complete.
pub(crate) type Whole<'a> = &'a mut dyn FnMut(&mut [Vec<f32>], &[Matrix]);

impl Tape {
    /// Runs all operators that were recorded and have not run.
    pub(super) fn run(&mut self) {
        self.run_while(&mut || true);
    }

    /// Runs them, asking before each whether to go on.
    pub(crate) fn run_while(&mut self, go_on: &mut (dyn FnMut() -> bool + Send)) {
        if self.n_run == self.record.ops.len() {
            return;
        }
        let stages = self.record.stages(&self.params);
        if self.n_run == 0 {
            self.attach();
        }
        let ask = Ask::new(go_on);
        let go_on: GoOn<'_> = &|| ask.go_on();
        let start = self.n_run;
        for stage in stages.iter().filter(|stage| stage.ops.end > start) {
            self.pack_weights(stage, Packing::Forward);
            self.each_group(go_on, |cpu, group, work, shared| work.forward(cpu, group, shared, stage, start));
        }
        self.n_run = self.record.ops.len();
    }

    /// Adds the gradients of this pass to those of the parameters.
    pub(super) fn run_backward(&mut self) {
        self.run();
        let all = 0..self.n_groups;
        self.begin_gradients(all.clone());
        let go_on: GoOn<'_> = &|| true;
        for stage in self.record.stages(&self.params).iter().rev() {
            self.stage_backward(stage, go_on, None);
        }
        self.end_gradients(all);
        self.end();
    }

    /// Runs the pass that was recorded and adds its gradients to those of the parameters. Returns the loss,
    /// the mean over `targets`; the gradients are of the mean over `passes` times as many. Asks before each
    /// operator whether to go on; if not, all of that means nothing. Tells `whole`, while backward goes on, which
    /// matrices' gradients nothing will be added to any more.
    pub(crate) fn learn(
        &mut self,
        logits: Tensor,
        targets: &[u32],
        passes: usize,
        go_on: &mut (dyn FnMut() -> bool + Send),
        whole: Whole<'_>,
    ) -> f32 {
        let scale = self.set_targets(targets, passes);
        HeadLoss::record(self, logits, scale);
        let stages = self.record.stages(&self.params);
        let ask = Ask::new(go_on);
        let go_on: GoOn<'_> = &|| ask.go_on();
        if self.early.is_none() && self.packed_weights() <= WEIGHTS {
            self.learn_by_groups(&stages, go_on, whole);
        } else {
            self.learn_by_blocks(&stages, go_on, whole);
        }
        self.end();
        self.mean_loss()
    }

    /// Each thread takes a group through the whole model at a time.
    fn learn_by_groups(&mut self, stages: &[Stage], go_on: GoOn<'_>, whole: Whole<'_>) {
        let at_once = (PENDING / self.pending_words()).max(1).next_multiple_of(self.cpu.threads());
        let all = 0..self.record.ops.len();
        self.pack(all, &[Packing::Forward, Packing::Backward]);
        for groups in self.waves(at_once) {
            self.begin_gradients(groups.clone());
            let Self { cpu, alone, params, record, weights, works, pool, profile, groups: all, .. } =
                &mut *self;
            let shared = Shared { params, record, weights, go_on };
            let spare = Mutex::new(std::mem::take(works));
            let spare_works = || spare.lock().unwrap_or_else(PoisonError::into_inner);
            for_each([cpu, alone], &mut all[groups.clone()], |cpu, group| {
                let work = spare_works().pop();
                let mut work = work.unwrap_or_else(|| Work::new(pool, profile));
                work.begin(group, record);
                for stage in stages {
                    work.forward(cpu, group, shared, stage, 0);
                }
                for stage in stages.iter().rev() {
                    work.backward(cpu, group, shared, stage);
                }
                spare_works().push(work);
            });
            *works = spare.into_inner().unwrap_or_else(PoisonError::into_inner);
            self.add_pending(groups.clone(), usize::MAX, &mut |_, _| ());
            self.end_gradients(groups);
        }
        for stage in stages.iter().rev() {
            let matrices = self.whole_after(stage);
            whole(self.param_gradients.all_mut(), &matrices);
        }
    }

    /// All threads go from block to block together, with some groups at a time.
    fn learn_by_blocks(&mut self, stages: &[Stage], go_on: GoOn<'_>, whole: Whole<'_>) {
        let of_group = self.groups.first().map_or(1, |group| group.batch.tokens.len().max(1));
        let at_once = self.early.unwrap_or(ROWS).div_ceil(of_group).next_multiple_of(self.cpu.threads());
        for groups in self.waves(at_once) {
            self.begin_gradients(groups.clone());
            self.wave = groups.clone();
            self.attach();
            for stage in stages {
                self.pack_weights(stage, Packing::Forward);
                self.each_group(go_on, |cpu, group, work, shared| work.forward(cpu, group, shared, stage, 0));
            }
            let is_last = groups.end == self.n_groups;
            for stage in stages.iter().rev() {
                self.stage_backward(stage, go_on, if is_last { Some(&mut *whole) } else { None });
            }
            self.end_gradients(groups);
        }
    }

    /// The matrices whose gradients are whole when backward has gone through `stage`: all that no operator before it
    /// multiplies with.
    fn whole_after(&self, stage: &Stage) -> Vec<Matrix> {
        let (before, after) = self.record.ops.split_at(stage.ops.start);
        let is_used_before = |matrix: &Matrix| before.iter().any(|op| op.weight() == Some(*matrix));
        let own = after[..stage.ops.len()].iter().filter_map(Op::weight);
        own.filter(|matrix| !is_used_before(matrix)).collect()
    }

    /// Goes backward through `stage`, and tells `whole` which matrices' gradients are, each as soon as it is.
    fn stage_backward(&mut self, stage: &Stage, go_on: GoOn<'_>, whole: Option<Whole<'_>>) {
        if stage.is_computed_again {
            self.pack_weights(stage, Packing::Forward);
        }
        self.pack_weights(stage, Packing::Backward);
        self.each_group(go_on, |cpu, group, work, shared| work.backward(cpu, group, shared, stage));
        let Some(whole) = whole else {
            self.add_pending(self.wave.clone(), usize::MAX, &mut |_, _| ());
            return;
        };
        let mut left = self.whole_after(stage);
        let part = if self.early.is_some() { PART } else { usize::MAX };
        self.add_pending(self.wave.clone(), part, &mut |gradients, matrices| {
            let are_whole: Vec<_> = left.extract_if(.., |matrix| matrices.contains(matrix)).collect();
            whole(gradients, &are_whole);
        });
        whole(self.param_gradients.all_mut(), &left);
    }

    /// Gives the groups under way memory to work with.
    fn attach(&mut self) {
        while self.works.len() < self.wave.len() {
            self.works.push(Work::new(&self.pool, &self.profile));
        }
        for (group, work) in self.groups[self.wave.clone()].iter().zip(&mut self.works) {
            work.begin(group, &self.record);
        }
    }

    /// Runs `body` for the groups under way.
    fn each_group(&mut self, go_on: GoOn<'_>, body: impl Fn(&Cpu, &mut Group, &mut Work, Shared<'_>) + Sync) {
        let Self { cpu, alone, params, record, weights, groups, works, wave, .. } = self;
        let shared = Shared { params, record, weights, go_on };
        let mut groups: Vec<_> = groups[wave.clone()].iter_mut().zip(works).collect();
        for_each([cpu, alone], &mut groups, |cpu, (group, work)| body(cpu, group, work, shared));
    }

    fn pack_weights(&mut self, stage: &Stage, packing: Packing) {
        self.pack(stage.ops.clone(), &[packing]);
    }

    /// Packs the weights of these operators.
    fn pack(&mut self, ops: Range<usize>, packings: &[Packing]) {
        let Self { cpu, params, record, weights, pool, profile, .. } = self;
        for (weights, packing) in weights.iter_mut().zip([Packing::Forward, Packing::Backward]) {
            if packings.contains(&packing) {
                let start = profile.start();
                let words = weights.pack(cpu, params, &record.ops[ops.clone()], packing, pool);
                let pass = if packing == Packing::Forward { Pass::Forward } else { Pass::Backward };
                let work = || Cost { operations: 0, bytes: 8 * words as u64 };
                profile.stop(start, (pass, "packing of weights"), cpu.threads(), work);
            }
        }
    }

    /// Adds what the operators of these groups have left to the gradients of the matrices, the groups in
    /// order, and tells `whole` of so many elements that are done.
    fn add_pending(&mut self, groups: Range<usize>, part: usize, whole: Whole<'_>) {
        let Self { cpu, param_gradients, profile, .. } = self;
        let groups = &mut self.groups[groups];
        let start = profile.start();
        let operations = pending::add(cpu, groups, param_gradients, part, whole);
        for group in groups {
            group.pending.clear();
        }
        let work = || Cost { operations, bytes: 0 };
        profile.stop(start, (Pass::Backward, "gradients of matrices"), cpu.threads(), work);
    }

    /// Gives groups gradients of vectors to add to.
    fn begin_gradients(&mut self, groups: Range<usize>) {
        let are_states = self.trained_state().is_some();
        for group in &mut self.groups[groups] {
            let spare = self.vectors.pop();
            group.vectors = spare.unwrap_or_else(|| ParamGradients::of_vectors(&self.params));
            group.zero_gradients(are_states);
        }
    }

    /// Adds the gradients of vectors, the groups in order.
    fn end_gradients(&mut self, groups: Range<usize>) {
        let state = self.trained_state();
        for group in &mut self.groups[groups] {
            self.param_gradients.add_vectors(&group.vectors, &self.params);
            self.vectors.push(std::mem::take(&mut group.vectors));
            if let Some(state) = state {
                let [sum] = self.param_gradients.vectors([state]);
                group.batch.add_gradients(sum);
            }
        }
    }

    /// The record has served: the parameters change.
    fn end(&mut self) {
        self.record.end();
        self.n_run = 0;
    }

    fn trained_state(&self) -> Option<Vector> {
        self.initial.filter(|state| self.params.is_trained(state.index()))
    }

    /// Groups that are worked on at the same time, one range of them after the other.
    fn waves(&self, at_once: usize) -> Vec<Range<usize>> {
        let n_groups = self.n_groups;
        (0..n_groups).step_by(at_once).map(|start| start..n_groups.min(start + at_once)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rwkv_core::model::Network;
    use rwkv_core::{ModelConfig, Version};
    use rwkv_kernels::Isa;

    use super::*;
    use crate::init::initialize;
    use crate::ops::check::numbers;

    const CTX_LEN: usize = 5;

    /// Loss, gradients and what the sequences leave, over seven sequences, the last of which is shorter.
    fn learn(
        version: Version,
        threads: usize,
        prepare: impl Fn(&mut Tape),
        in_parts: bool,
    ) -> (u32, Vec<Vec<f32>>, Vec<Vec<f32>>) {
        let config = ModelConfig::usual(version, 7, 8, 3).expect("a shape");
        let (network, layout, states) = Network::new(&config);
        let cpu = Arc::new(Cpu::new(Isa::detect(), threads));
        let mut params = initialize(&cpu, &layout, 1);
        for (values, seed) in params.iter_mut().zip(5..) {
            let noise = numbers(seed, values.len());
            values.iter_mut().zip(noise).for_each(|(value, noise)| *value += 0.1 * noise);
        }
        let mut tape = Tape::new(cpu, &layout, params);
        prepare(&mut tape);
        let tokens: Vec<u32> = (0..33).map(|i| i * i % 7).collect();
        let targets: Vec<u32> = (0..33).map(|i| i * i % 5).collect();
        tape.begin_from(&tokens, CTX_LEN, &vec![states.initial(); 7]);
        let logits = network.forward(&mut tape);
        let loss = if in_parts {
            let loss = tape.cross_entropy(logits, &targets);
            tape.backward();
            loss
        } else {
            tape.zero_gradients();
            tape.learn(logits, &targets, 1, &mut || true, &mut |_, _| ())
        };
        let left = tape.groups.iter().flat_map(|group| group.batch.left().cloned()).collect();
        (loss.to_bits(), tape.param_gradients().to_vec(), left)
    }

    #[test]
    fn no_schedule_and_no_number_of_threads_changes_a_bit() {
        for &version in Version::ALL {
            no_schedule_changes_a_bit(version);
        }
    }

    fn no_schedule_changes_a_bit(version: Version) {
        let cut = |tape: &mut Tape| {
            tape.cut_into_sequences();
            tape.dropout(0.1, 3);
        };
        let expected = learn(version, 1, cut, true);
        assert!(expected.1.iter().all(|gradient| gradient.iter().any(|&x| x != 0.0)));
        for threads in [1, 2, 3, 5] {
            for by_blocks in [false, true] {
                for recompute in [false, true] {
                    let prepare = |tape: &mut Tape| {
                        cut(tape);
                        tape.recompute(recompute);
                        if by_blocks {
                            tape.tell_early(ROWS);
                        }
                    };
                    for in_parts in [false, true] {
                        let got = learn(version, threads, prepare, in_parts);
                        assert!(got == expected, "{version} {threads} {by_blocks} {recompute} {in_parts}");
                    }
                }
            }
        }
    }

    /// With all sequences in one group sums are taken in another order.
    #[test]
    fn groups_change_sums_by_rounding_alone() {
        let learn = |prepare: fn(&mut Tape)| learn(Version::V4, 2, prepare, false);
        let (loss, gradients, left) = learn(Tape::cut_into_sequences);
        let (loss_of_one, gradients_of_one, left_of_one) = learn(|_| {});
        let difference = f32::from_bits(loss) - f32::from_bits(loss_of_one);
        assert!(difference.abs() < 1e-5, "{difference}");
        assert!(left == left_of_one);
        for (gradient, of_one) in gradients.iter().zip(&gradients_of_one) {
            let largest = of_one.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            assert!(gradient.iter().zip(of_one).all(|(a, b)| (a - b).abs() < 1e-4 * largest));
        }
    }

    /// What a pass over `tokens` in sequences of `ctx_len` gives: the logits, the states that its sequences leave, and
    /// the gradients of the mean over `of` of such passes.
    fn pass(
        tokens: &[u32],
        ctx_len: usize,
        of: f32,
        prepare: impl Fn(&mut Tape, &[f32]),
    ) -> (Vec<f32>, Vec<Vec<f32>>, Vec<Vec<f32>>) {
        let (network, layout, states) = Network::new(&ModelConfig::v4(7, 8, 3));
        let cpu = Arc::new(Cpu::new(Isa::detect(), 2));
        let mut params = initialize(&cpu, &layout, 1);
        for (values, seed) in params.iter_mut().zip(5..) {
            let noise = numbers(seed, values.len());
            values.iter_mut().zip(noise).for_each(|(value, noise)| *value += 0.1 * noise);
        }
        let mut tape = Tape::new(cpu, &layout, params);
        let empty = states.initial();
        prepare(&mut tape, &empty);
        tape.begin_from(tokens, ctx_len, &vec![empty; tokens.len().div_ceil(ctx_len)]);
        let logits = network.forward(&mut tape);
        let (values, left) = (tape.value(logits), tape.states());
        let targets: Vec<u32> = tokens.iter().map(|token| token * 3 % 5).collect();
        tape.cross_entropy(logits, &targets);
        tape.backward();
        let scaled = |gradient: &Vec<f32>| gradient.iter().map(|x| x * of).collect();
        (values, left, tape.param_gradients().iter().map(scaled).collect())
    }

    #[test]
    fn documents_within_sequences_are_computed_as_sequences_of_their_own() {
        // 6 is the end of text. The second sequence begins with one, and ends with one.
        let parts: [&[u32]; 6] = [&[1, 2, 3], &[6, 4], &[6, 0, 5], &[6, 1, 1, 2, 5, 4, 3], &[6], &[6, 3, 4]];
        let tokens = parts.concat();
        let (values, left, gradients) = pass(&tokens, 8, 1.0, |tape, empty| tape.reset_at(6, empty.to_vec()));

        let mut expected: Option<Vec<Vec<f32>>> = None;
        let (mut at, mut ends) = (0, Vec::new());
        for part in parts {
            let of = part.len() as f32 / tokens.len() as f32;
            let (of_part, left, of_gradients) = pass(part, part.len(), of, |_, _| {});
            assert_eq!(values[7 * at..7 * (at + part.len())], of_part);
            at += part.len();
            ends.push(left[0].clone());
            match &mut expected {
                None => expected = Some(of_gradients),
                Some(sums) => {
                    for (sum, part) in sums.iter_mut().flatten().zip(of_gradients.iter().flatten()) {
                        *sum += part;
                    }
                }
            }
        }
        assert_eq!(left, [ends[2].clone(), ends[4].clone(), ends[5].clone()]);
        for (gradient, expected) in gradients.iter().zip(&expected.expect("gradients")) {
            let largest = expected.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            assert!(gradient.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4 * largest));
        }
    }
}
