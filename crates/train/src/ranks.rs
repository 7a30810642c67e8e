//! Several processes, or *ranks*, that train one model together, each on a part of every batch.
//!
//! Between backward and the optimizer's step the gradients are summed over the ranks; all else each does for itself, and
//! all do the same, so that parameters and moments stay equal to the last bit. Rank 0 validates, and has the run's
//! directory. How ranks talk to each other is [`Ranks`]'s business: `rwkv-mpi` does it with MPI.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What ranks tell each other. All of them call the same functions in the same order.
pub trait Ranks: Debug + Send + Sync {
    /// Which one this is: 0, 1, …
    fn rank(&self) -> usize;

    /// How many there are.
    fn count(&self) -> usize;

    /// Replaces `values`, as many on every rank, by their sums over all ranks, added in the order of the ranks: every
    /// rank has the same bits, however they were sent.
    ///
    /// # Errors
    /// [`Error::Ranks`] if another rank cannot be reached.
    fn sum(&mut self, values: &mut [f32]) -> Result<()>;

    /// Replaces `values` by those of rank 0.
    ///
    /// # Errors
    /// Those of [`sum`](Self::sum).
    fn take_from_first(&mut self, values: &mut [f32]) -> Result<()>;

    /// What each rank says, in the order of the ranks, however long.
    ///
    /// # Errors
    /// Those of [`sum`](Self::sum).
    fn gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>>;
}

/// One rank: a run as it is without others.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn count(&self) -> usize {
        1
    }

    fn sum(&mut self, _: &mut [f32]) -> Result<()> {
        Ok(())
    }

    fn take_from_first(&mut self, _: &mut [f32]) -> Result<()> {
        Ok(())
    }

    fn gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![own.to_vec()])
    }
}

/// Floats that are summed at a time: 4 MB.
const BUCKET: usize = 1 << 20;

/// Sums all of `vectors` over the ranks, in buckets: small vectors go together, and large ones in parts.
pub(crate) fn sum_all(ranks: &mut dyn Ranks, vectors: &mut [&mut [f32]]) -> Result<()> {
    if ranks.count() == 1 {
        return Ok(());
    }
    in_buckets(vectors, &mut |bucket| ranks.sum(bucket))
}

/// Replaces all of `vectors` by those of rank 0.
pub(crate) fn take_all_from_first(ranks: &mut dyn Ranks, vectors: &mut [&mut [f32]]) -> Result<()> {
    in_buckets(vectors, &mut |bucket| ranks.take_from_first(bucket))
}

fn in_buckets(vectors: &mut [&mut [f32]], exchange: &mut dyn FnMut(&mut [f32]) -> Result<()>) -> Result<()> {
    let mut bucket = Vec::with_capacity(BUCKET);
    // Where each part of the bucket came from: vector, first element, length.
    let mut parts = Vec::new();
    let mut flush = |bucket: &mut Vec<f32>, parts: &mut Vec<_>, vectors: &mut [&mut [f32]]| {
        exchange(bucket)?;
        let mut rest = &bucket[..];
        for (vector, first, len) in parts.drain(..) {
            let (own, after): (&[f32], _) = rest.split_at(len);
            let vector: usize = vector;
            vectors[vector][first..first + len].copy_from_slice(own);
            rest = after;
        }
        bucket.clear();
        Ok::<_, Error>(())
    };
    for index in 0..vectors.len() {
        let mut first = 0;
        while first < vectors[index].len() {
            let len = (vectors[index].len() - first).min(BUCKET - bucket.len());
            bucket.extend_from_slice(&vectors[index][first..first + len]);
            parts.push((index, first, len));
            first += len;
            if bucket.len() == BUCKET {
                flush(&mut bucket, &mut parts, vectors)?;
            }
        }
    }
    if bucket.is_empty() { Ok(()) } else { flush(&mut bucket, &mut parts, vectors) }
}

/// What ranks must have in common before the first step, in words that an error can name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Common(Vec<(String, String)>);

impl Common {
    /// Names and values: an error says "rank 1 has NAME VALUE".
    pub fn new(all: Vec<(String, String)>) -> Self {
        Self(all)
    }

    /// Compares with what the other ranks have.
    ///
    /// # Errors
    /// [`Error::Ranks`] that names the first rank which differs from rank 0, and in what.
    pub fn check(&self, ranks: &mut dyn Ranks) -> Result<()> {
        let own = serde_json::to_vec(self).map_err(|error| Error::Ranks { problem: error.to_string() })?;
        let all = ranks.gather(&own)?;
        let read = |bytes: &Vec<u8>| serde_json::from_slice::<Self>(bytes).ok();
        let first = all.first().and_then(read);
        for (rank, other) in all.iter().enumerate() {
            let (Some(Self(first)), Some(Self(other))) = (&first, read(other)) else {
                return Err(other_program(rank));
            };
            let value = |of: &[(String, String)], name: &str| {
                of.iter().find(|(other, _)| other == name).map_or("none", |(_, value)| value).to_owned()
            };
            if let Some((name, _)) =
                first.iter().chain(&other).find(|(name, _)| value(first, name) != value(&other, name))
            {
                let (one, two) = (value(first, name), value(&other, name));
                let problem =
                    format!("rank {rank} has {name} {two}, rank 0 has {one}: all ranks must have the same");
                return Err(Error::Ranks { problem });
            }
        }
        Ok(())
    }
}

fn other_program(rank: usize) -> Error {
    Error::Ranks { problem: format!("rank {rank} runs another version of this program than rank 0") }
}
