//! [`Ranks`] over MPI.

use std::time::{Duration, Instant};

use mpi::environment::Universe;
use mpi::request::{self, Request, Scope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Root};
use rwkv_train::Result;
use rwkv_train::ranks::Ranks;

/// A short message is looked for without a pause at first: on one machine it takes a few microseconds.
const AT_ONCE: Duration = Duration::from_millis(1);

/// Bytes of a message that takes longer than that over most links.
const LONG: usize = 1 << 16;

/// Between two looks there is a pause, which becomes longer: what comes meanwhile is kept by the system. MPI itself would
/// look all the time, and keep a core from computing.
const PAUSES: [Duration; 2] = [Duration::from_micros(50), Duration::from_micros(500)];

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
        let len = sent.len();
        request::scope(|scope| wait(self.world.immediate_all_to_all_into(scope, sent, received), len));
        Ok(())
    }

    fn collect(&mut self, own: &[u8], all: &mut [u8]) -> Result<()> {
        let len = all.len();
        request::scope(|scope| wait(self.world.immediate_all_gather_into(scope, own, all), len));
        Ok(())
    }

    fn take_from_first(&mut self, bytes: &mut [u8]) -> Result<()> {
        let first = self.world.process_at_rank(0);
        let len = bytes.len();
        request::scope(|scope| wait(first.immediate_broadcast_into(scope, bytes), len));
        Ok(())
    }
}

/// Waits for a message of so many bytes, and lets MPI go on with it meanwhile.
fn wait<'a, D: ?Sized, S: Scope<'a>>(mut request: Request<'a, D, S>, len: usize) {
    let (start, mut pause) = (Instant::now(), PAUSES[0]);
    loop {
        for _ in 0..LOOKS {
            match request.test() {
                Ok(_) => return,
                Err(unfinished) => request = unfinished,
            }
        }
        if len < LONG && start.elapsed() < AT_ONCE {
            std::thread::yield_now();
        } else {
            std::thread::sleep(pause);
            pause = PAUSES[1].min(2 * pause);
        }
    }
}
