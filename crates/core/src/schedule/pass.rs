//! One pass over the texts whose turn it is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rwkv_kernels::Cpu;

use super::turn::Part;
use super::{Demand, Job, Next, Reader};
use crate::error::{Error, Result};
use crate::infer::{Outputs, Reading};
use crate::state::State;

/// Logits below which readers are asked one after the other: waking threads would take longer.
const ALONE: usize = 1 << 15;

/// A job in a pass.
struct Member {
    job: Job,
    /// How many of its tokens the pass reads.
    len: usize,
    /// What may come after them (n_vocab), if they are the last.
    logits: Vec<f32>,
}

/// Reads those parts. Jobs that are over are gone then, and those that go on are behind all others.
///
/// If it panics, the jobs of the pass are gone.
pub(super) fn run_pass(cpu: &Cpu, jobs: &mut Vec<Job>, turn: &[Part]) {
    let mut members = take(jobs, turn);
    match read(cpu, &mut members) {
        Ok(()) => finish(cpu, jobs, members),
        // Nobody wants any of it now.
        Err(Error::Aborted) => jobs.extend(members.into_iter().map(|member| member.job)),
        Err(error) if members.len() == 1 => members[0].job.reader.fail(error),
        // Whose fault it is shows when each reads alone.
        Err(_) => {
            for member in members {
                let mut alone = vec![member];
                match read(cpu, &mut alone) {
                    Ok(()) => finish(cpu, jobs, alone),
                    Err(Error::Aborted) => jobs.extend(alone.into_iter().map(|member| member.job)),
                    Err(error) => alone[0].job.reader.fail(error),
                }
            }
        }
    }
}

/// Takes the jobs of a turn out of all; the order of the others stays.
fn take(jobs: &mut Vec<Job>, turn: &[Part]) -> Vec<Member> {
    let mut len_of = vec![0; jobs.len()];
    for part in turn {
        len_of[part.job] = part.len;
    }
    let mut members = Vec::with_capacity(turn.len());
    for (job, len) in std::mem::take(jobs).into_iter().zip(len_of) {
        if len == 0 {
            jobs.push(job);
        } else {
            members.push(Member { job, len, logits: Vec::new() });
        }
    }
    members
}

/// Reads each member's tokens: into its `spare` goes the state after them.
///
/// # Errors
/// [`Error::Aborted`] if no member is wanted any more; those of [`Model::eval`](crate::Model::eval).
fn read(cpu: &Cpu, members: &mut [Member]) -> Result<()> {
    let Some(first) = members.first() else { return Ok(()) };
    let model = first.job.model.clone();
    let state_len = model.shared.state_layout.len();
    let mut readers: Vec<&dyn Reader> = Vec::with_capacity(members.len());
    let mut segments = Vec::with_capacity(members.len());
    let mut logits = Vec::with_capacity(members.len());
    for Member { job, len, logits: own } in members {
        let Job { reader, tokens, done, state, spare, .. } = job;
        spare.resize(state_len, 0.0);
        let is_last = *done + *len == tokens.len();
        segments.push(Reading {
            tokens: &tokens[*done..*done + *len],
            from: state,
            to: spare,
            outputs: if is_last { Outputs::Last } else { Outputs::None },
        });
        readers.push(&**reader);
        logits.push(own);
    }
    let stop = || readers.iter().all(|reader| reader.demand() == Demand::Never);
    model.shared.run(cpu, &mut segments, &stop, |segment, _, row| {
        logits[segment].clear();
        logits[segment].extend_from_slice(row);
        Ok(())
    })
}

/// What was read becomes the past, and readers that have read all say what comes next.
fn finish(cpu: &Cpu, jobs: &mut Vec<Job>, mut members: Vec<Member>) {
    for Member { job, len, .. } in &mut members {
        job.go_on(*len);
    }
    if members.iter().map(|member| member.logits.len()).sum::<usize>() < ALONE {
        members.iter_mut().for_each(Member::ask);
    } else {
        cpu.for_each(&mut members, Member::ask);
    }
    jobs.extend(members.into_iter().map(|member| member.job).filter(|job| job.left() > 0));
}

impl Member {
    /// Asks the reader for more to read, if it has read all.
    fn ask(&mut self) {
        let Job { reader, tokens, done, state, .. } = &mut self.job;
        if *done < tokens.len() {
            return;
        }
        // A panic ends this text, and not those that share the pass.
        let next = catch_unwind(AssertUnwindSafe(|| reader.next(&self.logits, state)));
        (*tokens, *done) = match next {
            Ok(Next::Read(tokens)) => (tokens, 0),
            Ok(Next::ReadFrom(other, tokens)) => {
                *state = other;
                (tokens, 0)
            }
            Ok(Next::End) | Err(_) => (Vec::new(), 0),
        };
    }
}

impl Job {
    /// Tokens that are still to be read.
    pub(super) fn left(&self) -> usize {
        self.tokens.len() - self.done
    }

    /// The state in `spare`, after `len` more tokens, becomes the present one.
    fn go_on(&mut self, len: usize) {
        self.done += len;
        let new = self.state.next(std::mem::take(&mut self.spare));
        let old = std::mem::replace(&mut self.state, Arc::new(new));
        // If nobody else keeps it, its memory is used again.
        if let Some(old) = Arc::into_inner(old) {
            self.spare = State::into_values(old);
        }
    }
}
