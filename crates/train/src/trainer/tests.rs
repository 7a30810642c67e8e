//! Steps that are stopped, and states that are carried.

use super::*;
use crate::checkpoint;
use crate::options::{ResumeOptions, TrainPrecision};
use std::ops::ControlFlow;

use rwkv_core::go_on;

fn raw(trainer: &Trainer) -> Vec<Vec<f32>> {
    trainer.params().trained().map(|index| trainer.params().raw(index).to_vec()).collect()
}

#[test]
fn a_checkpoint_that_does_not_say_whether_it_is_sound_is_measured() {
    let directory = tempfile::tempdir().expect("a directory");
    let (book, out) = (directory.path().join("book.txt"), directory.path().join("run"));
    std::fs::write(&book, "tick tock ".repeat(60)).expect("a text");
    let options = TrainOptions {
        n_layer: 1,
        n_embd: 16,
        ctx_len: 12,
        batch_size: 2,
        threads: Some(1),
        ..TrainOptions::new(&book, &out)
    };
    let trainer = Trainer::create(&options, go_on).expect("a run");
    // The step of each, and what its parameters are multiplied by: sound, far above chance, no numbers.
    for (step, factor) in [(3, 1.0), (4, 1e3), (5, f32::NAN)] {
        let soundness = Soundness { val_loss: 1.0, is_sound: true };
        let (crc32, model) = (trainer.data.crc32(), trainer.config);
        let mut manifest =
            checkpoint::Manifest::new(step, model, trainer.options.clone(), crc32, 0.0, soundness);
        (manifest.format, manifest.soundness) = (1, None);
        let params: Vec<Vec<f32>> =
            raw(&trainer).iter().map(|values| values.iter().map(|x| x * factor).collect()).collect();
        let files = trainer.optimizer.moments().iter().map(|moment| (moment.name, &moment.values));
        let files = [(checkpoint::PARAMETERS, &params)].into_iter().chain(files).map(|(name, values)| {
            checkpoint::Floats { name, values: values.iter().map(Vec::as_slice).collect() }
        });
        checkpoint::write(&out, manifest, &files.collect::<Vec<_>>()).expect("a checkpoint");
    }
    drop(trainer);
    let trainer = Trainer::resume(&out, &ResumeOptions::default(), go_on).expect("the run");
    assert_eq!((trainer.steps(), trainer.went_back_from()), (3, Some(5)));
    assert!(!out.join("checkpoint-4").exists());
}

fn moments(trainer: &Trainer) -> Vec<&Vec<Vec<f32>>> {
    trainer.optimizer.moments().iter().map(|moment| &moment.values).collect()
}

/// A directory with a text, and options for small runs on it.
fn place() -> (tempfile::TempDir, TrainOptions) {
    let directory = tempfile::tempdir().expect("a directory");
    let lines: Vec<_> = (0..200).map(|i| format!("{} whales, {} ships", i * i % 97, i % 13)).collect();
    let book = directory.path().join("book.txt");
    std::fs::write(&book, lines.join("\n")).expect("a text");
    let options = TrainOptions {
        n_layer: 2,
        n_embd: 8,
        ctx_len: 8,
        batch_size: 2,
        threads: Some(1),
        max_steps: 4,
        ..TrainOptions::new(book, directory.path().join("run"))
    };
    (directory, options)
}

#[test]
fn a_step_can_be_stopped_at_every_look_and_leaves_no_trace() {
    let (directory, plain) = place();
    let everything =
        TrainOptions { accumulate: 3, carry_state: true, dropout: 0.1, recompute: true, ..plain.clone() };
    for (kind, options) in [("plain", plain), ("everything", everything)] {
        let create = |out: &str| {
            let out = directory.path().join(format!("{kind}-{out}"));
            Trainer::create(&TrainOptions { out, ..options.clone() }, go_on).expect("a run")
        };
        check_every_stop(create("whole"), create("stopped"));
    }
}

/// Begins each step of `stopped` as often as it can be stopped, and compares it with one that never was.
fn check_every_stop(mut whole: Trainer, mut stopped: Trainer) {
    let trace = |trainer: &Trainer| {
        let log = std::fs::read(trainer.out().join("log.jsonl")).expect("a log");
        (raw(trainer), trainer.states.clone(), log)
    };
    for step in 1..=3 {
        let mut looks = 0_u32;
        let expected = whole.step(|_, _| {
            looks += 1;
            ControlFlow::Continue(())
        });
        let expected = expected.expect("a step");
        let before = trace(&stopped);
        for at in 0..looks {
            let mut left = at;
            let error = stopped.step(|_, _| {
                left = left.wrapping_sub(1);
                if left == u32::MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert!(
                matches!(error, Err(Error::Rwkv(rwkv_core::Error::Aborted))),
                "step {step}, look {at} of {looks}: {error:?}"
            );
            assert_eq!(stopped.steps(), step - 1);
            assert!(trace(&stopped) == before);
        }
        let found = stopped.step(go_on).expect("the same step");
        assert_eq!((found.loss, found.grad_norm), (expected.loss, expected.grad_norm));
        assert!(raw(&stopped) == raw(&whole) && moments(&stopped) == moments(&whole));
        assert!(stopped.states == whole.states);
    }
}

/// By inference, in one go: each stream is one text from its first window to its last.
#[test]
fn carried_states_make_one_text_of_the_windows_of_a_stream() {
    let (_directory, plain) = place();
    // Parameters stay as they are, up to 1e-30 a step.
    let options = TrainOptions {
        carry_state: true,
        accumulate: 2,
        learning_rate: Some(1e-30),
        weight_decay: 0.0,
        max_steps: 1000,
        // Inference computes in f32, and the tolerance below is that of f32.
        precision: Some(TrainPrecision::F32),
        ..plain
    };
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    for index in trainer.tape.params.trained() {
        let values = trainer.tape.params.raw_mut(index).iter_mut();
        values.zip(0..).for_each(|(value, i)| *value += 0.4 * (f64::from(i) * 0.7548 % 1.0 - 0.5) as f32);
    }
    trainer.tape.params.refresh();
    let streams = trainer.streams.expect("streams");
    for epoch in 0..2 {
        let first = trainer.steps();
        assert!(streams.starts_anew(first), "epoch {epoch}");
        let mut losses = vec![f64::from(trainer.step(go_on).expect("a step").loss)];
        while !streams.starts_anew(trainer.steps()) {
            losses.push(f64::from(trainer.step(go_on).expect("a step").loss));
        }
        let n_steps = losses.len();
        assert!(n_steps > 20);
        let model = trainer.model();
        let (mut sum, mut empty, mut count) = (0.0, 0.0, 0);
        for stream in 0..streams.count() {
            let range = streams.get(first, stream).start..streams.get(trainer.steps() - 1, stream).end;
            let mut tokens = Vec::new();
            trainer.data.train().read(range.start..range.end + 1, &mut tokens).expect("tokens");
            let tokens = &tokens[..];
            let loss = |len| {
                let evaluation = model.evaluate(tokens, len, |_, _| std::ops::ControlFlow::Continue(()));
                evaluation.expect("a loss").loss
            };
            sum += loss(Some(range.len()));
            empty += loss(Some(options.ctx_len));
            count += 1;
        }
        let (carried, mean) = (sum / f64::from(count), losses.iter().sum::<f64>() / n_steps as f64);
        assert!((mean - carried).abs() < 1e-5, "{mean}, in one go {carried}");
        assert!((mean - empty / f64::from(count)).abs() > 1e-3, "states change nothing");
    }
}
