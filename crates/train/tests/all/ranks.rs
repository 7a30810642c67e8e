//! Several trainers learn together, as ranks: here on threads of one process, whose messages are moved in memory.

#![allow(clippy::disallowed_methods)] // compared with what others compute

use std::fs;
use std::ops::ControlFlow;
use std::sync::{Arc, Barrier, Mutex};

use crate::common::{Place, bits, prose};
use rwkv_core::go_on;
use rwkv_train::ranks::Ranks;
use rwkv_train::run::read_log;
use rwkv_train::{
    Error, OptimizerKind, Result, ResumeOptions, SumPrecision, TrainOptions, TrainPrecision, Trainer, Tune,
};

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

impl Threads {
    /// What all say, if each says something.
    fn say(&self, own: &[u8]) -> Vec<Vec<u8>> {
        self.said.lock().expect("messages")[self.rank] = own.to_vec();
        self.barrier.wait();
        let all = self.said.lock().expect("messages").clone();
        self.barrier.wait();
        all
    }
}

impl Ranks for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.said.lock().expect("messages").len()
    }

    fn exchange(&mut self, sent: &[u8], received: &mut [u8]) -> Result<()> {
        let (all, part) = (self.say(sent), sent.len() / self.count());
        for (received, sent) in received.chunks_exact_mut(part).zip(all) {
            received.copy_from_slice(&sent[self.rank * part..][..part]);
        }
        Ok(())
    }

    fn collect(&mut self, own: &[u8], all: &mut [u8]) -> Result<()> {
        all.copy_from_slice(&self.say(own).concat());
        Ok(())
    }

    fn take_from_first(&mut self, bytes: &mut [u8]) -> Result<()> {
        bytes.copy_from_slice(&self.say(bytes)[0]);
        Ok(())
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
    learn_with(place, &options(place, out), count)
}

fn learn_with(place: &Place, options: &TrainOptions, count: usize) -> Vec<u32> {
    let first = Trainer::create(options, go_on).expect("a run");
    let all = together(place, options, first, count, |rank, mut trainer, joined| {
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

/// Rank 1 cannot read its base any more: nobody waits for it, and the others say who it was.
#[test]
fn an_error_of_one_rank_is_told_by_the_others() {
    let place = Place::new(&prose(200));
    let base = TrainOptions { max_steps: 4, ..options(&place, "base") };
    Trainer::create(&base, go_on).expect("a run").run(go_on, |_, _| ()).expect("a base");
    let own = place.path("own.bin");
    fs::copy(place.path("base/model.bin"), &own).expect("a copy");
    fs::copy(place.path("base/tokenizer.json"), place.path("tokenizer.json")).expect("a copy");
    let tune = |options: &mut TrainOptions, from| {
        (options.from, options.optimizer, options.lora_rank) =
            (Some(from), Some(OptimizerKind::AdamW), Some(2));
    };
    let mut options = options(&place, "run");
    tune(&mut options, place.path("base"));
    let first = Trainer::create(&options, go_on).expect("a run");
    tune(&mut options, own.clone());
    let said = together(&place, &options, first, 2, |rank, mut trainer, joined| {
        joined.expect("alike");
        trainer.step(go_on).expect("a step");
        if rank == 1 {
            let len = fs::metadata(&own).expect("a file").len();
            fs::OpenOptions::new()
                .write(true)
                .open(&own)
                .and_then(|file| file.set_len(len - 4))
                .expect("shorter");
        }
        let error = trainer.step(go_on).expect_err("a file that changed");
        assert_eq!(trainer.steps(), 1);
        error.to_string()
    });
    assert!(said[1].contains("own.bin"), "{}", said[1]);
    assert_eq!(said[0], format!("rank 1: {}", said[1]));
}

/// Whether a control asks to end, by the steps that are done and what it is told.
type Asked = fn(u64, u64) -> bool;

/// Rank 1 is asked to end in the middle of a step, of a validation, or between two synchronizations: all ranks end after
/// the same step, and go on from what rank 0 saves as if nothing had been.
#[test]
fn ranks_end_together_when_one_is_asked() {
    let place = Place::new(&prose(200));
    let diloco =
        |out: &str| TrainOptions { local_steps: Some(4), checkpoint_interval: 0, ..options(&place, out) };
    // A step tells its control two passes, a validation many tokens.
    let cases: [(&str, TrainOptions, Asked, u64); 3] = [
        ("step", options(&place, "step"), |steps, total| steps == 2 && total == 2, 3),
        ("validation", options(&place, "validation"), |steps, total| steps == 3 && total > 2, 4),
        ("diloco", diloco("diloco"), |steps, total| steps == 1 && total == 2, 4),
    ];
    for (name, options, is_asked, ends_after) in cases {
        let whole = TrainOptions { out: place.path(&format!("{name}-whole")), ..options.clone() };
        let expected = learn_with(&place, &whole, 2);
        let first = Trainer::create(&options, go_on).expect("a run");
        together(&place, &options, first, 2, |rank, mut trainer, joined| {
            joined.expect("alike");
            let error = loop {
                let steps = trainer.steps();
                let control = |_, total| {
                    let is_asked = rank == 1 && is_asked(steps, total);
                    if is_asked { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                };
                if let Err(error) = trainer.advance(control) {
                    break error;
                }
            };
            assert!(matches!(error, Error::Rwkv(rwkv_core::Error::Aborted)), "{name}: {error}");
            assert_eq!(trainer.steps(), ends_after, "{name}");
            if trainer.leads() {
                trainer.save_without_sample(go_on).expect("a checkpoint");
            }
        });
        let resumed = Trainer::resume(place.path(name), &ResumeOptions::default(), go_on).expect("the run");
        let options = TrainOptions { out: place.path(&format!("{name}-2")), ..resumed.options().clone() };
        let all = together(&place, &options, resumed, 2, |_, mut trainer, joined| {
            joined.expect("alike");
            trainer.run(go_on, |_, _| ()).expect("the rest");
            bits(&trainer)
        });
        // Rank 1 has lost its own optimizer of DiLoCo.
        if name != "diloco" {
            assert!(all.iter().all(|bits| *bits == expected), "{name}");
            assert_eq!(losses(&place, name), losses(&place, &format!("{name}-whole")), "{name}");
        }
    }
}

/// What is trained beside a frozen model: a state, adapters, some of the parameters.
#[test]
fn ranks_tune_as_one_does() {
    let place = Place::new(&prose(200));
    let base = TrainOptions { max_steps: 4, ..options(&place, "base") };
    Trainer::create(&base, go_on).expect("a run").run(go_on, |_, _| ()).expect("a base");
    let tunes: [fn(&mut TrainOptions); 3] = [
        |options| options.lora_rank = Some(2),
        |options| options.tune = Tune::State,
        |options| options.freeze = Some(vec!["emb.*".to_owned(), "*.att.*".to_owned()]),
    ];
    for (number, tune) in tunes.into_iter().enumerate() {
        let learn = |count: usize| {
            let out = format!("tuned-{number}-{count}");
            let mut options = TrainOptions {
                from: Some(place.path("base")),
                optimizer: Some(OptimizerKind::AdamW),
                max_steps: 6,
                ..options(&place, &out)
            };
            tune(&mut options);
            let first = Trainer::create(&options, go_on).expect("a run");
            let before = bits(&first);
            let all = together(&place, &options, first, count, |_, mut trainer, joined| {
                joined.expect("alike");
                trainer.run(go_on, |_, _| ()).expect("a run to its end");
                bits(&trainer)
            });
            assert!(all.iter().all(|other| *other == all[0]) && all[0] != before);
            losses(&place, &out)
        };
        let (alone, shared) = (learn(1), learn(2));
        let largest = alone.iter().zip(&shared).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(alone.len() == 8 && shared.len() == 8 && largest < 1e-4, "{number}: {largest}");
    }
}

#[test]
fn sums_in_bf16_lead_to_nearly_the_same_losses() {
    let place = Place::new(&prose(200));
    learn(&place, "f32", 2);
    let bf16 = TrainOptions { sum_precision: SumPrecision::Bf16, ..options(&place, "bf16") };
    learn_with(&place, &bf16, 2);
    let (expected, losses) = (losses(&place, "f32"), losses(&place, "bf16"));
    let largest = expected.iter().zip(&losses).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest > 0.0 && largest < 2e-2, "{largest}");
}

/// With an outer rate of 1 and no momentum, one rank that synchronizes with itself alone learns as without.
#[test]
fn one_rank_with_a_plain_outer_step_learns_as_without() {
    let place = Place::new(&prose(200));
    let meeting = |out: &str, every| TrainOptions {
        local_steps: Some(every),
        outer_learning_rate: Some(1.0),
        outer_momentum: Some(0.0),
        ..options(&place, out)
    };
    learn(&place, "plain", 1);
    for every in [1, 2] {
        let out = format!("meets-{every}");
        learn_with(&place, &meeting(&out, every), 1);
        let (plain, meets) = (losses(&place, "plain"), losses(&place, &out));
        let largest = plain.iter().zip(&meets).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(plain.len() == meets.len() && largest < 1e-5, "{largest}");
    }
}

#[test]
fn ranks_that_take_steps_by_themselves_end_with_one_model() {
    let place = Place::new(&prose(200));
    let options = TrainOptions { local_steps: Some(2), ..options(&place, "diloco") };
    let one = learn_with(&place, &options, 4);
    let losses = losses(&place, "diloco");
    assert_eq!(losses.len(), 15);
    assert!(losses[14] < losses[0], "{losses:?}");
    // To the last bit, again; and from a checkpoint in the middle as far as the optimizer of rank 0 goes.
    let again = TrainOptions { out: place.path("again"), ..options.clone() };
    assert!(learn_with(&place, &again, 4) == one);
    let first = TrainOptions { out: place.path("parts"), max_steps: 6, ..options };
    learn_with(&place, &first, 1);
    let changes = ResumeOptions { max_steps: Some(12), ..ResumeOptions::default() };
    let resumed = || Trainer::resume(place.path("parts"), &changes, go_on).expect("the run");
    let (names, lengths): (Vec<_>, Vec<_>) = fs::read_dir(place.path("parts/checkpoint-6"))
        .expect("a checkpoint")
        .flatten()
        .map(|entry| {
            (entry.file_name().into_string().expect("a name"), entry.metadata().expect("a file").len())
        })
        .unzip();
    let length = |name: &str| lengths[names.iter().position(|other| other == name).expect(name)];
    assert_eq!(length("outer-parameters.f32"), length("parameters.f32"));
    assert_eq!(length("outer-momentum.f32"), length("parameters.f32"));
    let options = TrainOptions { out: place.path("parts-2"), ..resumed().options().clone() };
    together(&place, &options, resumed(), 2, |_, mut trainer, joined| {
        joined.expect("alike");
        trainer.run(go_on, |_, _| ()).expect("six more steps");
        assert_eq!(trainer.steps(), 12);
    });
}

#[test]
fn intervals_between_synchronizations_are_refused() {
    let place = Place::new(&prose(200));
    let options = TrainOptions { local_steps: Some(5), ..options(&place, "run") };
    let said = Trainer::create(&options, go_on).expect_err("refused").to_string();
    assert_eq!(
        said,
        "eval_interval is 4; it must be a multiple of local_steps, 5: processes are alike only then"
    );
    let options = TrainOptions { local_steps: None, outer_momentum: Some(0.5), ..options };
    let said = Trainer::create(&options, go_on).expect_err("refused").to_string();
    assert_eq!(said, "outer_momentum is given; it must be left out without local_steps");
}
