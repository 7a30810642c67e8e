//! Groups of sequences: the parts of a pass that threads compute on their own.
//!
//! No operator looks from one sequence to another, but the gradients of parameters are sums over all of them.
//! So a thread takes a group of sequences through many operators before it takes the next group: what one
//! makes is in the thread's own cache when the next one reads it, and threads seldom wait for each other.
//! What belongs to no group alone waits until all of them are done: products of matrices' gradients
//! ([`Pending`]), and the gradients of vectors.
//!
//! Which sequences are together follows from the batch alone, so that sums do not depend on the number of
//! threads. Where there are too few groups for the threads, these compute one group after the other together.

use std::sync::{Arc, Mutex, PoisonError};

use rwkv_core::store::Parameters;
use rwkv_kernels::Cpu;

use super::buffer::Pool;
use super::record::{Record, Stage};
use super::{Backward, Batch, Forward, Gradients, ParamGradients, Pending, Tensor, Values, Weights};
use crate::profile::{Pass, Profile};

/// Some consecutive sequences of a pass, and what is left of them for all.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) batch: Batch,
    /// Gradients of the vectors among the parameters: what these sequences add to them. Empty before backward
    /// and after it.
    pub(super) vectors: ParamGradients,
    pub(super) pending: Vec<Pending>,
}

/// What is computed of a group while it is worked on, or memory for the next one.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) values: Values,
    pub(super) gradients: Gradients,
    pub(super) profile: Profile,
}

/// What all groups share.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) params: &'a Parameters,
    pub(super) record: &'a Record,
    /// Weights as operators multiply them, and as their backward does.
    pub(super) weights: &'a [Weights; 2],
    pub(super) go_on: GoOn<'a>,
}

impl Group {
    pub(super) fn begin(
        &mut self,
        tokens: &[u32],
        ctx_len: usize,
        first_row: usize,
        state: Option<&[f32]>,
        boundary: Option<u32>,
    ) {
        self.batch.begin(tokens, ctx_len, first_row, state, boundary);
        // A pass that was stopped may have left some.
        self.pending.clear();
    }

    pub(super) fn zero_gradients(&mut self, of_states: bool) {
        self.vectors.zero();
        self.batch.zero_gradients(of_states);
    }
}

impl Work {
    pub(super) fn new(pool: &Arc<Pool>, profile: &Profile) -> Self {
        Self {
            values: Values::new(Arc::clone(pool)),
            gradients: Gradients::new(Arc::clone(pool)),
            profile: profile.anew(),
        }
    }

    /// Begins with a group, of which nothing is computed yet.
    pub(super) fn begin(&mut self, group: &Group, record: &Record) {
        self.values.begin(group.batch.tokens.len(), &record.widths, &record.uses);
        self.gradients.clear();
    }

    /// Runs the operators of a stage from the one at `start` on. With `Shared::go_on` against it, nothing
    /// that is computed means anything.
    pub(super) fn forward(
        &mut self,
        cpu: &Cpu,
        group: &mut Group,
        shared: Shared<'_>,
        stage: &Stage,
        start: usize,
    ) {
        self.run(cpu, group, shared, stage, start);
        for &tensor in &stage.discard {
            self.values.free(tensor, false);
        }
    }

    fn run(&mut self, cpu: &Cpu, group: &mut Group, shared: Shared<'_>, stage: &Stage, start: usize) {
        let Shared { params, record, weights: [weights, _], go_on } = shared;
        for at in stage.ops.clone().skip_while(|&at| at < start) {
            if !go_on() {
                return;
            }
            let (op, start) = (&record.ops[at], self.profile.start());
            let Self { values, profile, .. } = &mut *self;
            let (batch, rows) = (&mut group.batch, values.rows());
            op.run(&mut Forward { cpu, params, weights, batch, values, profile });
            let work = || record.work(params, at, rows, false);
            profile.stop(start, (Pass::Forward, op.name()), cpu.threads(), work);
            for &tensor in &record.unread[at] {
                self.values.free(tensor, true);
            }
        }
    }

    /// The backward of a stage's operators.
    pub(super) fn backward(&mut self, cpu: &Cpu, group: &mut Group, shared: Shared<'_>, stage: &Stage) {
        if stage.is_computed_again {
            self.run(cpu, group, shared, stage, 0);
        }
        let Shared { params, record, weights: [forward_weights, weights], go_on } = shared;
        for at in stage.ops.clone().rev() {
            if !go_on() {
                return;
            }
            let (op, start) = (&record.ops[at], self.profile.start());
            let Group { batch, vectors: param_gradients, pending } = &mut *group;
            let Self { values, gradients, profile } = &mut *self;
            let rows = values.rows();
            op.backward(&mut Backward {
                cpu,
                params,
                weights,
                forward_weights,
                batch,
                values,
                param_gradients,
                gradients,
                pending,
                profile,
            });
            let work = || record.work(params, at, rows, true);
            profile.stop(start, (Pass::Backward, op.name()), cpu.threads(), work);
        }
        for tensor in stage.tensors.clone().map(Tensor) {
            self.values.free(tensor, false);
        }
    }
}

/// Runs `body` for every group: each on one thread, or one after the other on all threads if some of them
/// would have too little to do. `alone` is `cpu` with one thread.
pub(super) fn for_each<T: Send>(
    [cpu, alone]: [&Cpu; 2],
    groups: &mut [T],
    body: impl Fn(&Cpu, &mut T) + Sync,
) {
    let (threads, count) = (cpu.threads(), groups.len());
    // Of the time that it takes, all threads would work for at least three quarters.
    if 4 * count >= 3 * threads * count.div_ceil(threads) {
        cpu.for_each(groups, |group| body(alone, group));
    } else {
        for group in groups {
            body(cpu, group);
        }
    }
}

/// Whether to go on, for any thread to ask.
pub(super) type GoOn<'a> = &'a (dyn Fn() -> bool + Sync);

/// A question that one thread asks at a time.
pub(super) struct Ask<'a>(Mutex<&'a mut (dyn FnMut() -> bool + Send)>);

impl<'a> Ask<'a> {
    pub(super) fn new(go_on: &'a mut (dyn FnMut() -> bool + Send)) -> Self {
        Self(Mutex::new(go_on))
    }

    pub(super) fn go_on(&self) -> bool {
        (self.0.lock().unwrap_or_else(PoisonError::into_inner))()
    }
}
