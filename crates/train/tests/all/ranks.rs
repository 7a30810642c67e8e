//! Several trainers learn together, as ranks: here on threads of one process, whose messages are moved in memory.

#![allow(clippy::disallowed_methods)] // compared with what others compute

use std::fs;
use std::ops::ControlFlow;
use std::sync::{Arc, Barrier, Mutex};

use crate::common::{Place, bits, prose};
use rwkv_core::go_on;
use rwkv_train::ranks::Ranks;
use rwkv_train::run::read_log;
use rwkv_train::{Error, OptimizerKind, Result, ResumeOptions, TrainOptions, TrainPrecision, Trainer};

#[derive(Debug)]
struct Threads {
    rank: usize,
    said: Arc<Mutex<Vec<Vec<u8>>>>,
    barrier: Arc<Barrier>,
}

impl Threads {
    fn group(count: usize) -> Vec<Self> {
        let said = Arc::new(Mutex::new(vec![Vec::new(); count]));
        let barrier = Arc::new(Barrier::new(count));
        let one = |rank| Self { rank, said: Arc::clone(&said), barrier: Arc::clone(&barrier) };
        (0..count).map(one).collect()
    }
}

impl Ranks for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.said.lock().expect("messages").len()
    }

    fn sum(&mut self, values: &mut [f32]) -> Result<()> {
        let own: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        values.fill(0.0);
        for said in self.gather(&own)? {
            let said = said.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().expect("four bytes")));
            values.iter_mut().zip(said).for_each(|(sum, x)| *sum += x);
        }
        Ok(())
    }

    fn take_from_first(&mut self, values: &mut [f32]) -> Result<()> {
        let own: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let first = &self.gather(&own)?[0];
        let first = first.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().expect("four bytes")));
        values.iter_mut().zip(first).for_each(|(value, x)| *value = x);
        Ok(())
    }

    fn gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.said.lock().expect("messages")[self.rank] = own.to_vec();
        self.barrier.wait();
        let all = self.said.lock().expect("messages").clone();
        self.barrier.wait();
        Ok(all)
    }
}

fn options(place: &Place, out: &str) -> TrainOptions {
    TrainOptions {
        ctx_len: 128,
        batch_size: 4,
        accumulate: 2,
        eval_interval: 4,
        checkpoint_interval: 6,
        dropout: 0.1,
        precision: Some(TrainPrecision::F32),
        optimizer: Some(OptimizerKind::Muon),
        learning_rate: Some(1e-2),
        max_steps: 12,
        ..place.options(out)
    }
}

/// Runs `body` with the trainer of each rank; the first of them is `first`.
fn together<T: Send>(
    place: &Place,
    options: &TrainOptions,
    first: Trainer,
    count: usize,
    body: impl Fn(usize, Trainer, Result<()>) -> T + Sync,
) -> Vec<T> {
    let mut first = Some(first);
    let trainers = (0..count).map(|rank| {
        let out = place.path(&format!("{}-rank-{rank}", options.out.display()));
        let own = TrainOptions { out, ..options.clone() };
        first.take().unwrap_or_else(|| Trainer::create(&own, go_on).expect("a run"))
    });
    let trainers: Vec<_> = trainers.zip(Threads::group(count)).collect();
    std::thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = { trainers }
            .into_iter()
            .map(|(mut trainer, ranks)| {
                scope.spawn(move || {
                    let rank = ranks.rank;
                    let joined = trainer.join(Box::new(ranks));
                    body(rank, trainer, joined)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread")).collect()
    })
}

/// The losses of a run's log, those of training and of validation.
fn losses(place: &Place, out: &str) -> Vec<f32> {
    let lines = read_log(&place.path(out)).expect("a log");
    lines.into_iter().filter_map(|line| line.loss.or(line.val_loss)).collect()
}

/// A whole run by `count` ranks: the bits of the parameters.
fn learn(place: &Place, out: &str, count: usize) -> Vec<u32> {
    let options = options(place, out);
    let first = Trainer::create(&options, go_on).expect("a run");
    let all = together(place, &options, first, count, |rank, mut trainer, joined| {
        joined.expect("alike");
        trainer.run(go_on, |_, _| ()).expect("a run to its end");
        assert_eq!(trainer.leads(), rank == 0);
        bits(&trainer)
    });
    assert!(all.iter().all(|other| *other == all[0]), "all ranks end with the same model");
    all.into_iter().next().expect("a rank")
}

#[test]
fn any_number_of_ranks_learns_what_one_does() {
    let place = Place::new(&prose(200));
    let alone = learn(&place, "one", 1);
    let expected = losses(&place, "one");
    assert_eq!(expected.len(), 15, "twelve steps and three validations");
    for count in [2, 4] {
        let out = format!("by-{count}");
        let shared = learn(&place, &out, count);
        let losses = losses(&place, &out);
        let differences = losses.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        let largest = differences.fold(0.0, f32::max);
        assert!(losses.len() == expected.len() && largest < 1e-4, "{count}: {largest}");
        assert!(shared != alone, "sums are taken in another order");
        // The same number of ranks makes the same model again, to the last bit.
        assert!(learn(&place, &format!("{out}-again"), count) == shared);
        let [one, two] = [&out, &format!("{out}-again")]
            .map(|out| fs::read(place.path(out).join("model.bin")).expect("a model"));
        assert!(one == two);
        let follower = place.path(&format!("{}-rank-1", place.path(&out).display()));
        let names = fs::read_dir(follower).expect("its directory").flatten();
        let names: Vec<_> = names.map(|entry| entry.file_name().into_string().expect("a name")).collect();
        assert!(names.iter().all(|name| !name.starts_with("checkpoint") && name != "model.bin"), "{names:?}");
    }
}

/// Six steps alone, then four ranks, then one again: the curve of a run without a break.
#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let place = Place::new(&prose(200));
    learn(&place, "whole", 1);
    let first = TrainOptions { max_steps: 3, ..options(&place, "parts") };
    Trainer::create(&first, go_on).expect("a run").run(go_on, |_, _| ()).expect("three steps");
    for (count, max_steps) in [(4, 8), (1, 12)] {
        let changes = ResumeOptions { max_steps: Some(max_steps), ..ResumeOptions::default() };
        let trainer = Trainer::resume(place.path("parts"), &changes, go_on).expect("the run");
        let options = trainer.options().clone();
        let options = TrainOptions { out: place.path(&format!("parts-{max_steps}")), ..options };
        together(&place, &options, trainer, count, |_, mut trainer, joined| {
            joined.expect("alike");
            trainer.run(go_on, |_, _| ()).expect("some steps");
            assert_eq!(trainer.steps(), max_steps);
        });
    }
    let of_steps = |out| {
        let lines = read_log(&place.path(out)).expect("a log");
        lines.into_iter().filter_map(|line| line.loss).collect::<Vec<_>>()
    };
    // The schedule of the first part is that of a shorter run: up to there the learning rate is another one.
    let (whole, parts) = (of_steps("whole"), of_steps("parts"));
    assert_eq!((whole.len(), parts.len()), (12, 12));
    assert!((whole[0] - parts[0]).abs() < 1e-4 && parts[11] < parts[0]);
}

#[test]
fn ranks_that_differ_are_told_in_what() {
    let refused = |change: fn(&mut TrainOptions)| {
        let place = Place::new(&prose(200));
        let mut others = options(&place, "run");
        let first = Trainer::create(&others, go_on).expect("a run");
        change(&mut others);
        let said =
            together(&place, &others, first, 2, |_, _, joined| joined.expect_err("refused").to_string());
        assert_eq!(said[0], said[1]);
        said.into_iter().next().expect("an error")
    };
    assert_eq!(
        refused(|options| options.seed = 5),
        "rank 1 has option seed 5, rank 0 has 1: all ranks must have the same"
    );
    let said = refused(|options| options.dropout = 0.2);
    assert_eq!(said, "rank 1 has option dropout 0.2, rank 0 has 0.1: all ranks must have the same");

    let [place, other] = [200, 201].map(|sentences| Place::new(&prose(sentences)));
    let options = options(&place, "other");
    let first = Trainer::create(&options, go_on).expect("a run");
    let text = TrainOptions { data: other.options("").data, ..options };
    let said = together(&other, &text, first, 2, |_, _, joined| joined.expect_err("refused").to_string());
    assert!(said.iter().all(|said| said.contains("rank 1 has a text with the checksum")), "{said:?}");
}

#[test]
fn a_batch_that_does_not_divide_is_refused() {
    let place = Place::new(&prose(200));
    let options = options(&place, "run");
    let first = Trainer::create(&options, go_on).expect("a run");
    let said = together(&place, &options, first, 3, |_, _, joined| joined.expect_err("refused").to_string());
    assert!(
        said.iter().all(|said| said.contains("batch_size") && said.contains("a multiple of 3")),
        "{said:?}"
    );
}

/// Rank 1 gives up in the middle of a step: nobody waits for it, and the others say who it was.
#[test]
fn a_rank_that_stops_is_told_by_the_others() {
    let place = Place::new(&prose(200));
    let options = options(&place, "run");
    let first = Trainer::create(&options, go_on).expect("a run");
    let said = together(&place, &options, first, 2, |rank, mut trainer, joined| {
        joined.expect("alike");
        trainer.step(go_on).expect("a step");
        let stop = |_, _| if rank == 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let error = trainer.step(stop).expect_err("stopped");
        assert_eq!(trainer.steps(), 1);
        error
    });
    assert!(matches!(&said[1], Error::Rwkv(rwkv_core::Error::Aborted)), "{:?}", said[1]);
    assert!(said[0].to_string().starts_with("rank 1: "), "{}", said[0]);
}
