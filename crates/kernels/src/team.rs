//! A team of threads that share one loop at a time.
//!
//! A training step of a small model (4 layers, 128 wide) is 330 parallel loops in 20 ms: 60 µs each. A
//! work-stealing join often costs a sleeping thread's wake-up for each of them; here a loop costs a few
//! atomic operations (an uncontended lock is one), because workers spin a little before they sleep. Each
//! thread begins with an equal range of the indices and takes them in order, so that it reads memory in
//! order. One that is done takes indices of the others' ranges, so that a slow core (shared with another
//! process, or an efficiency core) ends with fewer. What an index computes never depends on the thread that
//! computes it nor on the number of threads: so results do not either.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// How many times a worker polls for the next loop before it sleeps: some 100 µs on a Zen 4. A compromise
/// between the latency of a wake-up and a core kept busy for nothing; not tuned.
const SPINS: u32 = 4_000;

/// A loop under way. It lives on the caller's stack, and the caller does not return before every member has
/// left it.
struct Job<'a> {
    body: &'a (dyn Fn(usize) + Sync),
    count: usize,
    /// One for each thread of the team: the next index of its range.
    next: &'a [Counter],
    panicked: AtomicBool,
}

/// In a cache line pair of its own, against false sharing: only its own thread writes it, until others help.
#[repr(align(128))]
struct Counter(AtomicUsize);

impl Job<'_> {
    /// Where the range of `member` begins; it ends where the next member's begins.
    fn start(&self, member: usize) -> usize {
        self.count * member / self.next.len()
    }

    /// The member's own range, and then what is left of the others'.
    fn work(&self, member: usize) {
        for other in (member..self.next.len()).chain(0..member) {
            let end = self.start(other + 1);
            loop {
                let index = self.next[other].0.fetch_add(1, Ordering::Relaxed);
                if index >= end {
                    break;
                }
                if catch_unwind(AssertUnwindSafe(|| (self.body)(index))).is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
            }
        }
    }
}

/// The state that the caller and the workers share, in one word: how many loops there have been, whether the
/// last one still takes workers, and how many of them are in it. A worker that comes too late finds the loop
/// closed, and the caller does not wait for it: a sleeping or preempted thread never delays a loop whose work
/// is done.
const EPOCH: u64 = 1 << 32;
const OPEN: u64 = 1 << 31;
const MEMBERS: u64 = OPEN - 1;

struct Shared {
    state: AtomicU64,
    /// The current loop; valid while `state` is open or has members.
    job: AtomicPtr<()>,
    stop: AtomicBool,
    /// Workers asleep; guards `wake`.
    asleep: Mutex<usize>,
    wake: Condvar,
}

/// A fixed set of threads (the caller is one of them) that run loops together.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held for the length of a loop: two callers take turns. One counter for each thread.
    turn: Mutex<Box<[Counter]>>,
    threads: usize,
}

impl Team {
    /// Starts `threads - 1` workers; at least one thread, the caller itself, always works.
    ///
    /// Fewer threads than asked for is not an error: if the system refuses to start one, the team is smaller.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: AtomicPtr::new(std::ptr::null_mut()),
            stop: AtomicBool::new(false),
            asleep: Mutex::new(0),
            wake: Condvar::new(),
        });
        let workers: Vec<_> = (1..threads)
            .map_while(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("rwkv-{index}"))
                    .spawn(move || worker(&shared, index))
                    .ok()
            })
            .collect();
        let threads = workers.len() + 1;
        let counters = (0..threads).map(|_| Counter(AtomicUsize::new(0))).collect();
        Self { shared, workers, turn: Mutex::new(counters), threads }
    }

    /// How many threads share a loop, the caller included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `body(0)`, …, `body(count - 1)`, each once, in any order, on any of the team's threads; returns
    /// when all are done.
    ///
    /// # Panics
    /// If `body` panicked for some index; the other indices are still run. `body` must not call `run` of the
    /// same team.
    pub fn run(&self, count: usize, body: impl Fn(usize) + Sync) {
        if count <= 1 || self.threads == 1 {
            (0..count).for_each(body);
            return;
        }
        let next = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let job = Job { body: &body, count, next: &next, panicked: AtomicBool::new(false) };
        for (member, next) in next.iter().enumerate() {
            next.0.store(job.start(member), Ordering::Relaxed);
        }
        self.open(&job);
        job.work(0);
        self.close();
        if job.panicked.load(Ordering::Relaxed) {
            resume_unwind(Box::new("a parallel loop's body panicked"));
        }
    }

    fn open(&self, job: &Job<'_>) {
        let shared = &*self.shared;
        shared.job.store(std::ptr::from_ref(job).cast_mut().cast(), Ordering::Relaxed);
        // SeqCst, as the workers' look at it before they sleep: either a worker sees the loop or we see it
        // asleep.
        shared.state.fetch_add(EPOCH | OPEN, Ordering::SeqCst);
        let asleep = shared.asleep.lock().unwrap_or_else(PoisonError::into_inner);
        if *asleep > 0 {
            shared.wake.notify_all();
        }
    }

    /// Lets no more workers in, and waits for those that are; each is at most one index behind.
    fn close(&self) {
        // Acquire, here and below: what the members wrote is visible once they are seen to have left.
        let mut state = self.shared.state.fetch_and(!OPEN, Ordering::Acquire);
        let mut spins = 0_u32;
        while state & MEMBERS != 0 {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
            state = self.shared.state.load(Ordering::Acquire);
        }
    }
}

/// Joins the workers: a program that unloads this code (Node does) may do so once its teams are dropped.
impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.state.fetch_add(EPOCH, Ordering::SeqCst);
        drop(self.shared.asleep.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches its body's panics, so it always ends well.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Team").field("threads", &self.threads).finish_non_exhaustive()
    }
}

fn worker(shared: &Shared, index: usize) {
    let mut seen = 0;
    while !shared.stop.load(Ordering::SeqCst) {
        let state = next_epoch(shared, seen);
        seen = state / EPOCH;
        if state & OPEN == 0 || !join(shared, seen) {
            continue;
        }
        let job = shared.job.load(Ordering::Relaxed).cast::<Job<'_>>();
        // SAFETY: we are a member of an open loop, whose `Job` was stored before the loop was opened (we read
        // `state` with Acquire) and which the caller keeps alive until we have left.
        unsafe { &*job }.work(index);
        // Release: what the body wrote is visible to the caller that sees us gone.
        shared.state.fetch_sub(1, Ordering::Release);
    }
}

/// Becomes a member of the loop `epoch`; false if it is closed by now.
fn join(shared: &Shared, epoch: u64) -> bool {
    shared
        .state
        .fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
            (state / EPOCH == epoch && state & OPEN != 0).then_some(state + 1)
        })
        .is_ok()
}

/// Waits until the epoch is no longer `seen`; spins first, then sleeps. Returns the state that showed it.
fn next_epoch(shared: &Shared, seen: u64) -> u64 {
    for _ in 0..SPINS {
        let state = shared.state.load(Ordering::SeqCst);
        if state / EPOCH != seen {
            return state;
        }
        std::hint::spin_loop();
    }
    let mut asleep = shared.asleep.lock().unwrap_or_else(PoisonError::into_inner);
    *asleep += 1;
    loop {
        let state = shared.state.load(Ordering::SeqCst);
        if state / EPOCH != seen {
            *asleep -= 1;
            return state;
        }
        asleep = shared.wake.wait(asleep).unwrap_or_else(PoisonError::into_inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_runs_once_for_any_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let team = Team::new(threads);
            for count in [0, 1, 2, 7, 1000] {
                let hits: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                team.run(count, |index| {
                    hits[index].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    hits.iter().all(|hit| hit.load(Ordering::Relaxed) == 1),
                    "{threads} threads, {count}"
                );
            }
        }
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let team = Team::new(2);
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(2));
            let sum = AtomicUsize::new(0);
            team.run(64, |index| {
                sum.fetch_add(index, Ordering::Relaxed);
            });
            assert_eq!(sum.load(Ordering::Relaxed), 64 * 63 / 2);
        }
    }

    #[test]
    fn callers_on_several_threads_take_turns() {
        let team = Team::new(2);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let sum = AtomicUsize::new(0);
                        team.run(16, |index| {
                            sum.fetch_add(index, Ordering::Relaxed);
                        });
                        assert_eq!(sum.load(Ordering::Relaxed), 120);
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_team_working() {
        let team = Team::new(2);
        let caught = catch_unwind(AssertUnwindSafe(|| team.run(8, |index| assert_ne!(index, 5))));
        assert!(caught.is_err());
        let sum = AtomicUsize::new(0);
        team.run(8, |_| {
            sum.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(sum.load(Ordering::Relaxed), 8);
    }
}
