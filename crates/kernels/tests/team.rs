//! What the threads of a team write, seen by the caller: in a form in which ThreadSanitizer would notice a
//! missing order.

use std::ops::Range;

use rwkv_kernels::{Cpu, Isa, Parts};

const LEN: usize = 300;

fn double_each(values: &mut [u64]) {
    for value in values {
        *value = *value * 2 % 1_000_003;
    }
}

/// Doubles each element in parts of a few, with no atomic operation of the loop's own.
fn double(cpu: &Cpu, values: &mut [u64]) {
    let parts = Parts::new(values);
    cpu.run_blocks(LEN, 7, |range: Range<usize>| {
        // SAFETY: `run_blocks` gives each index to one call.
        let part = unsafe { parts.part(range) };
        double_each(part);
    });
}

fn expected(rounds: usize) -> Vec<u64> {
    let mut values: Vec<u64> = (0..LEN as u64).collect();
    for _ in 0..rounds {
        double_each(&mut values);
    }
    values
}

#[test]
fn what_a_loop_wrote_is_there_when_it_returns() {
    for threads in [2, 3, 5] {
        let cpu = Cpu::new(Isa::Scalar, threads);
        let mut values: Vec<u64> = (0..LEN as u64).collect();
        for round in 0..200 {
            if round % 50 == 49 {
                // Long enough for the workers to sleep.
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            double(&cpu, &mut values);
            // Read and written by this thread alone: what the workers wrote has to be seen, and they have to
            // see this.
            values.reverse();
            values.reverse();
        }
        assert_eq!(values, expected(200), "{threads} threads");
    }
}

#[test]
fn a_map_returns_results_in_order() {
    for threads in [1, 2, 5] {
        let cpu = Cpu::new(Isa::Scalar, threads);
        let squares = cpu.map(LEN, |index| Box::new(index * index));
        assert!(squares.iter().enumerate().all(|(index, square)| **square == index * index));
        assert_eq!((squares.len(), cpu.map(0, |index| index)), (LEN, vec![]));
    }
}

#[test]
fn callers_that_take_turns_leave_nothing_behind() {
    let cpu = Cpu::new(Isa::Scalar, 3);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                // On this thread's stack and heap, which the team must not touch once the loop has returned.
                for _ in 0..20 {
                    let mut values: Vec<u64> = (0..LEN as u64).collect();
                    for _ in 0..5 {
                        double(&cpu, &mut values);
                    }
                    assert_eq!(values, expected(5));
                }
            });
        }
    });
}

#[test]
fn a_team_ends_as_soon_as_its_last_loop() {
    for round in 0..40 {
        let cpu = Cpu::new(Isa::Scalar, 2 + round % 3);
        let mut values: Vec<u64> = (0..LEN as u64).collect();
        double(&cpu, &mut values);
        drop(cpu);
        assert_eq!(values, expected(1));
    }
}
