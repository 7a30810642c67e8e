//! [`Ranks`] over MPI.

use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Root};
use rwkv_train::Result;
use rwkv_train::ranks::Ranks;

/// The processes that `mpirun` started.
pub struct Mpi {
    world: SimpleCommunicator,
    rank: usize,
    count: usize,
    /// What is sent of a bucket, a part for each rank, and what comes back.
    sent: Vec<f32>,
    received: Vec<f32>,
    /// The sum of this rank's part.
    own: Vec<f32>,
}

// SAFETY: MPI was initialized for calls from any thread, one at a time (`MPI_THREAD_SERIALIZED`), and every call takes
// `&mut self` but those that read numbers of this struct.
unsafe impl Send for Mpi {}
// SAFETY: as above.
unsafe impl Sync for Mpi {}

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.count)
    }
}

impl Mpi {
    /// All processes of `universe`.
    pub fn new(universe: &Universe) -> Self {
        let world = universe.world();
        let (rank, count) = (world.rank().max(0) as usize, world.size().max(1) as usize);
        Self { world, rank, count, sent: Vec::new(), received: Vec::new(), own: Vec::new() }
    }
}

impl Ranks for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.count
    }

    /// Each rank adds up a part of the values, which it gets from all others, and all get all parts: every value goes
    /// over a rank's link twice, as in a ring, but the order of the sum is that of the ranks.
    fn sum(&mut self, values: &mut [f32]) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        let part = values.len().div_ceil(self.count);
        for buffer in [&mut self.sent, &mut self.received] {
            buffer.clear();
            buffer.resize(part * self.count, 0.0);
        }
        self.sent[..values.len()].copy_from_slice(values);
        self.world.all_to_all_into(&self.sent[..], &mut self.received[..]);
        self.own.clear();
        self.own.resize(part, 0.0);
        for one in self.received.chunks_exact(part) {
            self.own.iter_mut().zip(one).for_each(|(sum, x)| *sum += x);
        }
        self.world.all_gather_into(&self.own[..], &mut self.received[..]);
        values.copy_from_slice(&self.received[..values.len()]);
        Ok(())
    }

    fn take_from_first(&mut self, values: &mut [f32]) -> Result<()> {
        self.world.process_at_rank(0).broadcast_into(values);
        Ok(())
    }

    fn gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut lengths = vec![0_u64; self.count];
        self.world.all_gather_into(&(own.len() as u64), &mut lengths[..]);
        let longest = lengths.iter().max().map_or(0, |&len| len as usize);
        if longest == 0 {
            // MPI refuses two empty buffers, which have the same address.
            return Ok(vec![Vec::new(); self.count]);
        }
        let mut padded = own.to_vec();
        padded.resize(longest, 0);
        let mut all = vec![0_u8; longest * self.count];
        self.world.all_gather_into(&padded[..], &mut all[..]);
        let said =
            lengths.iter().enumerate().map(|(rank, &len)| all[rank * longest..][..len as usize].to_vec());
        Ok(said.collect())
    }
}
