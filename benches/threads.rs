//! `Team` beside rayon on what training does: a step is hundreds of short parallel loops, one after the
//! other.
//!
//! `cargo bench -p rwkv-benches --bench threads [THREADS]`. Both run the same loops in turn, a sequence of
//! the one and a sequence of the other, and what is printed are medians over many such pairs: so other load
//! on the machine meets both. Rayon is given its best case, a whole sequence within one `install`, so that no
//! loop waits for the pool to be entered.

use std::hint::black_box;
use std::time::Instant;

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use rwkv_kernels::{Cpu, Isa};

/// Parallel loops of a step of a small model (4 layers, 128 wide).
const LOOPS: usize = 330;
/// Pieces of a loop.
const PIECES: usize = 16;
const PAIRS: usize = 101;

fn main() {
    // cargo passes `--bench`.
    let threads = std::env::args().skip(1).find_map(|arg| arg.parse().ok());
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
    let cpu = Cpu::new(Isa::Scalar, threads);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
    let a_microsecond = calibrate();
    println!("{threads} threads, {LOOPS} loops of {PIECES} pieces, medians of {PAIRS} pairs");
    println!("{:>12} {:>12} {:>12} {:>14}", "work a loop", "Team", "rayon", "rayon / Team");
    for micros in [15, 60, 250] {
        // Of all threads together the work is so many microseconds by the clock.
        let rounds = a_microsecond * micros * threads / PIECES;
        let team = || (0..LOOPS).for_each(|_| cpu.run(PIECES, |_| work(rounds)));
        let rayon = || {
            pool.install(|| (0..LOOPS).for_each(|_| (0..PIECES).into_par_iter().for_each(|_| work(rounds))));
        };
        let pairs: Vec<_> = (0..PAIRS).map(|_| (a_loop(team), a_loop(rayon))).collect();
        let team = median(pairs.iter().map(|pair| pair.0));
        let rayon = median(pairs.iter().map(|pair| pair.1));
        let ratio = median(pairs.iter().map(|pair| pair.1 / pair.0));
        println!("{micros:>9} µs {team:>9.1} µs {rayon:>9.1} µs {ratio:>14.2}");
    }
}

/// Microseconds of one loop of the sequence.
fn a_loop(sequence: impl Fn()) -> f64 {
    let start = Instant::now();
    sequence();
    start.elapsed().as_secs_f64() * 1e6 / LOOPS as f64
}

/// Multiplications that wait for each other.
fn work(rounds: usize) {
    let mut x = black_box(1.0_f32);
    for _ in 0..rounds {
        x = x * 1.000_1 + 1e-6;
    }
    black_box(x);
}

/// Rounds of [`work`] in a microsecond: those of the fastest of some tries.
fn calibrate() -> usize {
    const ROUNDS: usize = 1 << 16;
    let tries = (0..50).map(|_| {
        let start = Instant::now();
        work(ROUNDS);
        start.elapsed().as_secs_f64() * 1e6
    });
    (ROUNDS as f64 / tries.fold(f64::INFINITY, f64::min)) as usize
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
