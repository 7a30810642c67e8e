//! Runs as their options say, and runs that are stopped at any moment and go on: they end alike.

#![allow(clippy::disallowed_methods)] // compared with what others compute

use std::fs;
use std::ops::ControlFlow;

use crate::common::{Place, prose};
use rwkv_core::go_on;
use rwkv_train::run::{read_log, read_samples};
use rwkv_train::{Keep, OptimizerKind, ResumeOptions, TrainOptions, Trainer, read_kept};

/// A run that validates every 4 steps and saves every 6: some steps do one, some the other, some both.
fn options(place: &Place, out: &str) -> TrainOptions {
    let (eval_interval, checkpoint_interval) = (4, 6);
    TrainOptions { eval_interval, checkpoint_interval, learning_rate: Some(1e-2), ..place.options(out) }
}

/// What a run leaves that is the same each time it is done: a run that is stopped while the model writes a sample
/// goes without that one.
fn left(place: &Place, out: &str) -> Vec<Vec<u8>> {
    let files = ["model.bin", "result.json", "tokenizer.json", "config.json"];
    let checkpoint =
        ["parameters.f32", "means.f32", "squares.f32"].map(|name| format!("checkpoint-20/{name}"));
    let names = files.into_iter().chain(checkpoint.iter().map(String::as_str));
    names.map(|name| fs::read(place.path(out).join(name)).expect(name)).collect()
}

/// Steps and losses of a run's log, without the times.
fn log(place: &Place, out: &str) -> Vec<(u64, Option<u32>, Option<u32>)> {
    let lines = read_log(&place.path(out)).expect("a log");
    let bits = |loss: Option<f32>| loss.map(f32::to_bits);
    lines.into_iter().map(|line| (line.step, bits(line.loss), bits(line.val_loss))).collect()
}

#[test]
fn a_run_does_what_its_options_say() {
    let place = Place::new(&prose(120));
    let mut trainer = Trainer::create(&options(&place, "run"), go_on).expect("a run");
    let mut told = Vec::new();
    let tell = |trainer: &Trainer, advance: &rwkv_train::Advance| {
        assert_eq!(trainer.steps(), advance.step.step);
        told.push((advance.step.step, advance.val_loss.is_some(), advance.saved.is_some()));
    };
    trainer.run(go_on, tell).expect("a run to its end");
    let expected: Vec<_> = (1..=20).map(|step| (step, step % 4 == 0, step % 6 == 0 || step == 20)).collect();
    assert_eq!(told, expected);
    assert!(trainer.done() && trainer.advance(go_on).expect("nothing").is_none());
    let best = trainer.best().expect("a best");
    let kept = read_kept(trainer.out()).expect("a look").expect("a result");
    assert_eq!((kept.step, kept.val_loss), (best.step, Some(best.val_loss)));
    // It writes on from the beginning of the validation text's first whole line.
    let samples = read_samples(trainer.out()).expect("samples");
    assert_eq!(samples.iter().map(|sample| sample.step).collect::<Vec<_>>(), [6, 12, 18, 20]);
    let start =
        trainer.tokenizer().decode(&trainer.data().validation().first(256).expect("tokens")).expect("text");
    let start = String::from_utf8(start).expect("text");
    assert!(samples.iter().all(|sample| start.contains(&format!("\n{}", sample.prompt))));
    assert!(samples.iter().all(|sample| sample.text.chars().count() == 400 && !sample.prompt.is_empty()));
}

/// What the log says of the step before goes on with the run, times included.
#[test]
fn a_step_that_is_taken_up_again_took_as_long_as_it_did() {
    let place = Place::new(&prose(120));
    let mut trainer = Trainer::create(&options(&place, "run"), go_on).expect("a run");
    for _ in 0..4 {
        trainer.step(go_on).expect("a step");
    }
    trainer.save_checkpoint(go_on).expect("a checkpoint");
    drop(trainer);
    let mut lines = read_log(&place.path("run")).expect("a log");
    lines[3].clock = 1000.0;
    let log: Vec<_> = lines.iter().map(|line| serde_json::to_string(line).expect("JSON") + "\n").collect();
    fs::write(place.path("run/log.jsonl"), log.concat()).expect("a log");
    let mut trainer = Trainer::resume(place.path("run"), &ResumeOptions::default(), go_on).expect("the run");
    let advance = trainer.advance(go_on).expect("the validation").expect("a step");
    assert_eq!((advance.step.step, advance.val_loss.is_some()), (4, true));
    assert_eq!(advance.step.seconds.to_bits(), (lines[3].seconds - lines[2].seconds).to_bits());
    assert!((1000.0..1500.0).contains(&trainer.clock()));
}

/// At questions that the run asks in a step with a validation, in one with a checkpoint and in one with both, while
/// it learns, validates, measures or writes: it is stopped there, and then saved and resumed, or called again.
#[test]
fn a_run_that_is_stopped_anywhere_ends_as_one_that_was_not() {
    let place = Place::new(&prose(120));
    let changes: [fn(TrainOptions) -> TrainOptions; 3] = [
        |options| options,
        |options| TrainOptions { optimizer: Some(OptimizerKind::Muon), ..options },
        |options| TrainOptions { keep: Keep::Last, ..options },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let whole = format!("whole-{number}");
        let mut questions = [0_u32; 21];
        let mut trainer = Trainer::create(&change(options(&place, &whole)), go_on).expect("a run");
        while !trainer.done() {
            let count = &mut questions[trainer.steps() as usize + 1];
            let counting = |_, _| {
                *count += 1;
                ControlFlow::Continue(())
            };
            trainer.advance(counting).expect("a step");
        }
        drop(trainer);
        let (expected, lines) = (left(&place, &whole), log(&place, &whole));
        for step in [4, 6, 20] {
            let all = questions[step];
            // All of them would take long; the last ones are those of what comes after a step.
            let at = (0..all).step_by(all as usize / 4 + 1).chain(all.saturating_sub(3)..all);
            for at in at {
                for resumed in [false, true] {
                    let out = format!("run-{number}-{step}-{at}-{resumed}");
                    let mut trainer = Trainer::create(&change(options(&place, &out)), go_on).expect("a run");
                    while trainer.steps() + 1 < step as u64 {
                        trainer.advance(go_on).expect("a step");
                    }
                    let mut left_to_ask = at;
                    let stopping = |_, _| {
                        left_to_ask = left_to_ask.wrapping_sub(1);
                        if left_to_ask == u32::MAX {
                            ControlFlow::Break(())
                        } else {
                            ControlFlow::Continue(())
                        }
                    };
                    let stopped = trainer.advance(stopping);
                    if resumed {
                        trainer.save_without_sample(go_on).expect("a checkpoint");
                        drop(trainer);
                        trainer =
                            Trainer::resume(place.path(&out), &ResumeOptions::default(), go_on).expect("it");
                    }
                    // What is told is each step once, stopped in its middle or not.
                    let mut next = if stopped.is_ok() { step as u64 + 1 } else { step as u64 };
                    trainer
                        .run(go_on, |_, advance| {
                            assert_eq!(advance.step.step, next, "{out}");
                            next += 1;
                        })
                        .expect("the rest");
                    assert!(left(&place, &out) == expected, "{out}");
                    assert_eq!(log(&place, &out), lines, "{out}");
                    drop(trainer);
                    fs::remove_dir_all(place.path(&out)).expect("the run");
                }
            }
        }
    }
}

#[test]
fn the_configuration_has_every_option_in_force() {
    let place = Place::new(&prose(120));
    drop(Trainer::create(&options(&place, "run"), go_on).expect("a run"));
    let json = fs::read_to_string(place.path("run/config.json")).expect("it");
    let config: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let found = config["options"].as_object().expect("options");
    for option in TrainOptions::table() {
        // What is off has no value; where the run is, and on how many threads, is the machine's matter.
        let is_off =
            ["from", "freeze", "train", "loraRank", "loraAlpha", "loraTargets", "matrixLearningRate"];
        if is_off.contains(&option.name.as_str())
            || [
                "patience",
                "out",
                "force",
                "threads",
                "vocabSize",
                "tokenizerFile",
                "val",
                "textField",
                "evalTokens",
                "localSteps",
                "outerLearningRate",
                "outerMomentum",
            ]
            .contains(&option.name.as_str())
        {
            continue;
        }
        assert!(found.get(&option.name).is_some_and(|value| !value.is_null()), "{}: {json}", option.name);
    }
}

#[test]
fn a_run_that_its_patience_has_ended_says_so() {
    let place = Place::new(&prose(120));
    // So high a rate that no validation after the first few is better.
    let options = TrainOptions {
        eval_interval: 1,
        patience: Some(1),
        learning_rate: Some(1.0),
        ..place.options("run")
    };
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    trainer.check_not_done().expect("a run that has just begun");
    trainer.run(go_on, |_, _| ()).expect("a run to its end");
    assert!(trainer.done() && trainer.steps() < 20);
    let says = trainer.check_not_done().expect_err("the end").to_string();
    assert!(says.starts_with("patience is 1; it must be more to go on"), "{says}");
    drop(trainer);
    let options = TrainOptions { max_steps: 2, ..place.options("short") };
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    trainer.run(go_on, |_, _| ()).expect("a run to its end");
    let says = trainer.check_not_done().expect_err("the end").to_string();
    assert!(says.starts_with("max_steps is 2; it must be more to go on"), "{says}");
}
