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
        request::scope(|scope| {
            wait(&mut [Some(self.world.immediate_all_to_all_into(scope, sent, received))], len);
        });
        Ok(())
    }

    fn collect(&mut self, own: &[u8], all: &mut [u8]) -> Result<()> {
        let len = all.len();
        request::scope(|scope| wait(&mut [Some(self.world.immediate_all_gather_into(scope, own, all))], len));
        Ok(())
    }

    fn collect_and_exchange(
        &mut self,
        [own, sent]: [&[u8]; 2],
        [all, received]: [&mut [u8]; 2],
    ) -> Result<()> {
        let len = all.len().max(sent.len());
        request::scope(|scope| {
            // In the order in which others may begin them one after the other.
            let collected = self.world.immediate_all_gather_into(scope, own, all);
            let exchanged = self.world.immediate_all_to_all_into(scope, sent, received);
            wait(&mut [Some(collected), Some(exchanged)], len);
        });
        Ok(())
    }

    fn take_from_first(&mut self, bytes: &mut [u8]) -> Result<()> {
        let (first, len) = (self.world.process_at_rank(0), bytes.len());
        request::scope(|scope| wait(&mut [Some(first.immediate_broadcast_into(scope, bytes))], len));
        Ok(())
    }
}

/// Waits for messages of so many bytes, and lets MPI go on with them meanwhile.
fn wait<'a, D: ?Sized, S: Scope<'a>>(requests: &mut [Option<Request<'a, D, S>>], len: usize) {
    let (start, mut pause) = (Instant::now(), PAUSES[0]);
    loop {
        for _ in 0..LOOKS {
            for request in &mut *requests {
                *request = request.take().and_then(|request| request.test().err());
            }
            if requests.iter().all(Option::is_none) {
                return;
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
