//! The thread of a scheduler: whose turn it is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};

use super::pass::run_pass;
use super::{Demand, Inbox, Job, Shared};
use crate::infer::PASS;

/// Tokens of a pass in which texts are being written, beside theirs: enough to use each weight often, few enough that
/// those who read along do not wait long.
const BESIDE: usize = 24;

/// Runs passes until the scheduler is dropped.
pub(super) fn run(shared: &Shared) {
    let mut jobs = Vec::new();
    while collect(shared, &mut jobs) {
        let Some(turn) = choose(&jobs) else { continue };
        // A panic drops the jobs of the pass, and their readers say so to whoever waits for them.
        let _ = catch_unwind(AssertUnwindSafe(|| run_pass(&shared.cpu, &mut jobs, &turn)));
    }
    // What came last goes as well; nothing comes after it.
    let new = std::mem::take(&mut shared.inbox().new);
    drop((jobs, new));
}

/// Takes what has come and drops what is not wanted any more; waits if there is nothing to do. False at the end.
fn collect(shared: &Shared, jobs: &mut Vec<Job>) -> bool {
    let is_wanted = |job: &Job| job.reader.demand() != Demand::Never;
    loop {
        // Dropped without the lock: the last owner of a model frees its memory.
        jobs.retain(is_wanted);
        let mut inbox = shared.inbox();
        if inbox.is_over {
            return false;
        }
        if inbox.new.is_empty() && !jobs.iter().any(|job| job.reader.demand() == Demand::Now) {
            while inbox.new.is_empty() && !inbox.is_woken && !inbox.is_over {
                inbox = shared.wake.wait(inbox).unwrap_or_else(PoisonError::into_inner);
            }
            inbox.is_woken = false;
            jobs.append(&mut inbox.new);
            continue;
        }
        let Inbox { new, is_woken, .. } = &mut *inbox;
        *is_woken = false;
        jobs.append(new);
        return true;
    }
}

/// The part of a job that a pass reads: its next `len` tokens.
pub(super) struct Part {
    pub(super) job: usize,
    pub(super) len: usize,
}

/// What the next pass reads; none if nobody wants anything now. Of the models with work, the one whose job has waited
/// longest (jobs that were in a pass move to the end).
fn choose(jobs: &[Job]) -> Option<Vec<Part>> {
    let is_ready = |job: &&Job| job.reader.demand() == Demand::Now;
    let model = &jobs.iter().find(is_ready)?.model;
    let of_model = |job: &Job| Arc::ptr_eq(&job.model.shared, &model.shared);
    let ready = jobs.iter().enumerate().filter(|(_, job)| of_model(job) && is_ready(job));
    let (single, long): (Vec<_>, Vec<_>) = ready.partition(|(_, job)| job.left() == 1);

    // However many texts are written, prompts have their share.
    let most = if long.is_empty() { PASS } else { PASS - BESIDE };
    let mut turn: Vec<_> = single.iter().take(most).map(|&(job, _)| Part { job, len: 1 }).collect();
    let mut room = if turn.is_empty() { PASS } else { BESIDE };
    // Equal shares; what a short text leaves is for those after it.
    for (position, &(job, text)) in long.iter().enumerate() {
        let share = room.div_ceil(long.len() - position);
        let len = text.left().min(share);
        if len > 0 {
            turn.push(Part { job, len });
        }
        room -= len;
    }
    Some(turn)
}
