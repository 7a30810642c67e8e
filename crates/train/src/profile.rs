//! Where the time of training goes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

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

/// The time that each kind of operator took, of all threads together.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    is_on: bool,
    parts: BTreeMap<(Pass, &'static str), Duration>,
}

impl Profile {
    /// Begins to take the time, from zero.
    pub(crate) fn on() -> Self {
        Self { is_on: true, parts: BTreeMap::new() }
    }

    /// One that takes the time if this one does, from zero.
    pub(crate) fn anew(&self) -> Self {
        Self { is_on: self.is_on, parts: BTreeMap::new() }
    }

    /// The time of each part.
    pub fn parts(&self) -> impl Iterator<Item = (Pass, &'static str, Duration)> {
        self.parts.iter().map(|(&(pass, name), &time)| (pass, name, time))
    }

    /// What [`stop`](Self::stop) wants.
    pub(crate) fn start(&self) -> Option<Instant> {
        self.is_on.then(Instant::now)
    }

    /// Adds the time since `start`, of `threads` threads.
    pub(crate) fn stop(&mut self, start: Option<Instant>, pass: Pass, name: &'static str, threads: usize) {
        if let Some(start) = start {
            *self.parts.entry((pass, name)).or_default() += start.elapsed() * threads as u32;
        }
    }

    /// Adds what another one has, which begins anew.
    pub(crate) fn take(&mut self, other: &mut Self) {
        for (part, time) in std::mem::take(&mut other.parts) {
            *self.parts.entry(part).or_default() += time;
        }
    }
}
