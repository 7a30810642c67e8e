//! [`Ranks`] over MPI.

use std::time::{Duration, Instant};

use mpi::environment::Universe;
use mpi::request::{self, Request, Scope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Root};
use rwkv_train::Result;
use rwkv_train::ranks::Ranks;

/// A message that is not there yet is looked for without a pause at first: on one machine it takes a few microseconds.
const AT_ONCE: Duration = Duration::from_millis(1);

/// Then there is a pause between two looks. MPI itself would look all the time, and keep a core from computing.
const PAUSE: Duration = Duration::from_micros(100);

/// Looks between two pauses: each moves a fragment of a message on, 128 KB over TCP.
const LOOKS: usize = 16;

/// The processes that `mpirun` started.
pub struct Mpi {
    world: SimpleCommunicator,
    rank: usize,
    count: usize,
}

// SAFETY: MPI was initialized for calls from any thread, one at a time (`MPI_THREAD_SERIALIZED`), and every call takes
// `&mut self` but those that read numbers of this struct.
unsafe impl Send for Mpi {}

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
        Self { world, rank, count }
    }
}

impl Ranks for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.count
    }

    fn exchange(&mut self, sent: &[u8], received: &mut [u8]) -> Result<()> {
        request::scope(|scope| wait(self.world.immediate_all_to_all_into(scope, sent, received)));
        Ok(())
    }

    fn collect(&mut self, own: &[u8], all: &mut [u8]) -> Result<()> {
        request::scope(|scope| wait(self.world.immediate_all_gather_into(scope, own, all)));
        Ok(())
    }

    fn take_from_first(&mut self, bytes: &mut [u8]) -> Result<()> {
        let first = self.world.process_at_rank(0);
        request::scope(|scope| wait(first.immediate_broadcast_into(scope, bytes)));
        Ok(())
    }
}

/// Waits for a message, and lets MPI go on with it meanwhile.
fn wait<'a, D: ?Sized, S: Scope<'a>>(mut request: Request<'a, D, S>) {
    let start = Instant::now();
    loop {
        for _ in 0..LOOKS {
            match request.test() {
                Ok(_) => return,
                Err(unfinished) => request = unfinished,
            }
        }
        if start.elapsed() < AT_ONCE {
            std::thread::yield_now();
        } else {
            std::thread::sleep(PAUSE);
        }
    }
}
