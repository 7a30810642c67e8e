//! Several processes, or *ranks*, that train one model together, each on a part of every batch.
//!
//! The gradients of backward are summed over the ranks, each as soon as it is whole, while backward goes on; all else
//! each rank does for itself, and all do the same, so that parameters and moments stay equal to the last bit. Validation
//! is shared out, and rank 0 has the run's directory. How bytes go from rank to rank is [`Ranks`]'s business:
//! `rwkv-mpi` does it with MPI.

mod all_reduce;
mod courier;
mod sums;

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

pub(crate) use courier::Courier;
pub(crate) use sums::{Rows, Sums};

use crate::error::{Error, Result};
use crate::options::SumPrecision;

/// How bytes go from rank to rank. All ranks call the same functions in the same order, always from one thread.
pub trait Ranks: Debug + Send {
    /// Which one this is: 0, 1, …
    fn rank(&self) -> usize;

    /// How many there are.
    fn count(&self) -> usize;

    /// Sends every rank its part of `sent`, and fills `received` with the parts that every rank sends to this one. Parts
    /// are of one length, not 0, and in the order of the ranks; this rank's own is one of them.
    ///
    /// # Errors
    /// [`Error::Ranks`] if another rank cannot be reached.
    fn exchange(&mut self, sent: &[u8], received: &mut [u8]) -> Result<()>;

    /// Fills `all` with what every rank has as its `own`, of one length, not 0, in the order of the ranks.
    ///
    /// # Errors
    /// Those of [`exchange`](Self::exchange).
    fn collect(&mut self, own: &[u8], all: &mut [u8]) -> Result<()>;

    /// [`collect`](Self::collect) and [`exchange`](Self::exchange) at the same time: others may do them one after the
    /// other, in this order.
    ///
    /// # Errors
    /// Those of [`exchange`](Self::exchange).
    fn collect_and_exchange(
        &mut self,
        [own, sent]: [&[u8]; 2],
        [all, received]: [&mut [u8]; 2],
    ) -> Result<()> {
        self.collect(own, all)?;
        self.exchange(sent, received)
    }

    /// Replaces `bytes`, as many on every rank and not none, by those of rank 0.
    ///
    /// # Errors
    /// Those of [`exchange`](Self::exchange).
    fn take_from_first(&mut self, bytes: &mut [u8]) -> Result<()>;
}

/// What each rank says, in the order of the ranks, however long.
pub fn gather(ranks: &mut dyn Ranks, own: &[u8]) -> Result<Vec<Vec<u8>>> {
    let count = ranks.count();
    let mut lengths = vec![0; 8 * count];
    ranks.collect(&(own.len() as u64).to_le_bytes(), &mut lengths)?;
    let (lengths, _) = lengths.as_chunks::<8>();
    let lengths: Vec<_> = lengths.iter().map(|&len| u64::from_le_bytes(len) as usize).collect();
    let longest = lengths.iter().max().copied().unwrap_or_default();
    if longest == 0 {
        return Ok(vec![Vec::new(); count]);
    }
    let mut padded = own.to_vec();
    padded.resize(longest, 0);
    let mut all = vec![0; longest * count];
    ranks.collect(&padded, &mut all)?;
    Ok(all.chunks_exact(longest).zip(lengths).map(|(said, len)| said[..len].to_vec()).collect())
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

    fn exchange(&mut self, sent: &[u8], received: &mut [u8]) -> Result<()> {
        self.collect(sent, received)
    }

    fn collect(&mut self, own: &[u8], all: &mut [u8]) -> Result<()> {
        all.copy_from_slice(own);
        Ok(())
    }

    fn take_from_first(&mut self, _: &mut [u8]) -> Result<()> {
        Ok(())
    }
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
        let all = gather(ranks, &own)?;
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
