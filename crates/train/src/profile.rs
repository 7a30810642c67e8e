//! Where the time of training goes: [`Profile`] as it is taken, [`StepProfile`] beside what the machine gives at best.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use rwkv_kernels::{Cpu, fma_peak, read_sum};

/// What a part of a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pass {
    /// From tokens to the loss.
    Forward,
    /// From the loss to gradients.
    Backward,
    /// From gradients to parameters.
    Update,
}

/// What a part of a step computed, or read and wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Multiplications and additions of matrix products; other operators have none here.
    pub operations: u64,
    /// Bytes of the tensors that it read and wrote, each of them once, wherever they lay; products and the optimizer
    /// have none here.
    pub bytes: u64,
}

/// A kind of operator, or of what is done beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is a part of.
    pub pass: Pass,
    /// Its name.
    pub name: &'static str,
    /// The time that it took, of all threads together.
    pub time: Duration,
    /// What it did in that time.
    pub cost: Cost,
}

/// The time and the work of each part. A part within another one has its time to itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Profile {
    is_on: bool,
    parts: BTreeMap<(Pass, &'static str), (Duration, Cost)>,
    /// The time of all parts that have ended.
    ended: Duration,
}

/// When a part began, if its time is taken.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(crate) struct Start(Option<(Instant, Duration)>);

impl Profile {
    /// Begins to take the time, from zero.
    pub(crate) fn on() -> Self {
        Self { is_on: true, ..Self::default() }
    }

    /// One that takes the time if this one does, from zero.
    pub(crate) fn anew(&self) -> Self {
        Self { is_on: self.is_on, ..Self::default() }
    }

    /// What [`stop`](Self::stop) wants.
    pub(crate) fn start(&self) -> Start {
        Start(self.is_on.then(|| (Instant::now(), self.ended)))
    }

    /// Adds the time since `start`, of `threads` threads, without that of the parts within; and what was done, which is
    /// asked for only if it is taken.
    pub(crate) fn stop(
        &mut self,
        Start(start): Start,
        (pass, name): (Pass, &'static str),
        threads: usize,
        work: impl FnOnce() -> Cost,
    ) {
        let Some((start, ended)) = start else { return };
        let time = start.elapsed() * threads as u32;
        self.add((pass, name), time.saturating_sub(self.ended.saturating_sub(ended)), work());
        self.ended = ended + time;
    }

    fn add(&mut self, part: (Pass, &'static str), more: Duration, Cost { operations, bytes }: Cost) {
        let (time, work) = self.parts.entry(part).or_default();
        *time += more;
        work.operations += operations;
        work.bytes += bytes;
    }

    /// Adds what another one has, which begins anew.
    pub(crate) fn take(&mut self, other: &mut Self) {
        for (part, (time, work)) in std::mem::take(&mut other.parts) {
            self.add(part, time, work);
        }
    }

    fn parts(&self) -> impl Iterator<Item = Part> {
        self.parts.iter().map(|(&(pass, name), &(time, cost))| Part { pass, name, time, cost })
    }
}

/// Where the time of some steps went, and what the same threads do at best.
#[derive(Clone, Debug, PartialEq)]
pub struct StepProfile {
    /// How many steps.
    pub steps: u64,
    /// Their time by the clock, in seconds.
    pub seconds: f64,
    /// How many threads worked.
    pub threads: usize,
    /// What they did. What is left of `seconds · threads` they waited for each other, or did what has no name here.
    pub parts: Vec<Part>,
    /// Operations a second of multiply-adds in registers, in the precision of the products.
    pub peak_operations: f64,
    /// Bytes a second that are read from memory, of a buffer larger than the caches.
    pub read_bandwidth: f64,
}

/// Floats of that buffer: 256 MB.
const BUFFER: usize = 1 << 26;

/// How long the machine is measured, for each of the two.
const SECONDS: f64 = 0.2;

impl StepProfile {
    /// What `profile` has of `steps` steps that took `seconds`, and a measurement of the machine.
    pub(crate) fn new(cpu: &Cpu, profile: &Profile, steps: u64, seconds: f64) -> Self {
        Self {
            steps,
            seconds,
            threads: cpu.threads(),
            parts: profile.parts().collect(),
            peak_operations: fma_peak(cpu, SECONDS) * 1e9,
            read_bandwidth: read_bandwidth(cpu),
        }
    }

    /// The share of all threads' time that some time is.
    pub fn share(&self, time: Duration) -> f64 {
        time.as_secs_f64() / (self.seconds * self.threads as f64)
    }

    /// The share of the time that no part has.
    pub fn rest(&self) -> f64 {
        1.0 - self.share(self.parts.iter().map(|part| part.time).sum())
    }
}

/// The fastest of some readings.
fn read_bandwidth(cpu: &Cpu) -> f64 {
    let buffer = vec![1.0_f32; BUFFER];
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    while best.is_infinite() || begin.elapsed().as_secs_f64() < SECONDS {
        let start = Instant::now();
        black_box(read_sum(cpu, black_box(&buffer)));
        best = best.min(start.elapsed().as_secs_f64());
    }
    size_of_val(&*buffer) as f64 / best
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_part_within_another_has_its_time_to_itself() {
        let mut profile = Profile::on();
        let (outer, clock) = (profile.start(), Instant::now());
        for _ in 0..2 {
            let inner = profile.start();
            sleep(20 * MS);
            profile.stop(inner, (Pass::Forward, "inner"), 1, || Cost { operations: 0, bytes: 3 });
        }
        profile.stop(outer, (Pass::Forward, "outer"), 1, || Cost { operations: 5, bytes: 0 });
        let all = clock.elapsed();
        let parts: Vec<_> = profile.parts().collect();
        assert_eq!(parts.iter().map(|part| part.name).collect::<Vec<_>>(), ["inner", "outer"]);
        assert_eq!(parts[0].cost, Cost { operations: 0, bytes: 6 });
        assert_eq!(parts[1].cost, Cost { operations: 5, bytes: 0 });
        let sum = parts[0].time + parts[1].time;
        assert!(parts[0].time >= 40 * MS && sum <= all, "{parts:?} of {all:?}");
    }

    #[test]
    fn one_that_is_off_takes_nothing() {
        let mut profile = Profile::default();
        let start = profile.start();
        profile.stop(start, (Pass::Update, "optimizer"), 1, || unreachable!());
        assert_eq!(profile.parts().count(), 0);
    }
}
