//! Whole training runs: learning, stopping, going on, saving.

#![allow(clippy::disallowed_methods)] // compared with what others compute

use rwkv_core::{go_on, until};
use std::fs;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{Place, bits, checkpoints, prose, run_steps, validate};
use rwkv_core::LoadOptions;
use rwkv_core::{Model, ModelFile, SamplerOptions};
use rwkv_text::Tokenizer;
use rwkv_train::run::read_log;
use rwkv_train::tape::Tape;
use rwkv_train::{Error, Keep, ResumeOptions, TokenizerKind, TrainOptions, Trainer};

#[test]
fn a_periodic_text_is_learned_by_heart() {
    let place = Place::new(&"abcdefgh".repeat(60));
    let options = TrainOptions { max_steps: 150, learning_rate: Some(1e-2), ..place.options("run") };
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    let before = validate(&mut trainer);
    let reports = run_steps(&mut trainer, 150);
    let after = validate(&mut trainer);
    assert!((before - 8_f32.ln()).abs() < 0.3, "an untrained model guesses: {before}");
    // The first token of a window cannot be known: one in 12 costs up to ln 8 until its place is learned.
    assert!(after < 0.2, "{before} to {after}");
    assert!(trainer.done() && reports[149].checkpoint_due && reports[149].validation_due);
    let greedy = SamplerOptions { temperature: 0.0, ..SamplerOptions::default() };
    assert_eq!(trainer.sample("abcd", 12, greedy, go_on).expect("a sample"), "efghabcdefgh");
}

#[test]
fn a_run_that_stops_and_goes_on_is_the_same_to_the_last_bit() {
    let place = Place::new(&prose(120));
    let mut whole = Trainer::create(&place.options("whole"), go_on).expect("a run");
    let expected = run_steps(&mut whole, 20);

    let mut first = Trainer::create(&place.options("halves"), go_on).expect("a run");
    let mut reports = run_steps(&mut first, 10);
    validate(&mut first);
    first.save_checkpoint(go_on).expect("a checkpoint");
    run_steps(&mut first, 3); // lost
    drop(first);
    // Two threads: the result does not depend on them.
    let changes = ResumeOptions { threads: Some(2), ..ResumeOptions::default() };
    let mut second = Trainer::resume(place.path("halves"), &changes, go_on).expect("the run");
    assert_eq!((second.steps(), second.threads()), (10, 2));
    reports.extend(run_steps(&mut second, 10));

    assert!(bits(&whole) == bits(&second), "parameters differ");
    for (a, b) in expected.iter().zip(&reports) {
        assert_eq!((a.step, a.loss.to_bits(), a.grad_norm), (b.step, b.loss.to_bits(), b.grad_norm));
    }
    let log = read_log(&place.path("halves")).expect("a log");
    let steps: Vec<_> = log.iter().filter(|line| line.loss.is_some()).map(|line| line.step).collect();
    assert_eq!(steps, (1..=20).collect::<Vec<_>>());
    assert_eq!(log.iter().filter(|line| line.val_loss.is_some()).count(), 1);
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let place = Place::new(&prose(120));
    let train = |threads| {
        let options = TrainOptions {
            threads: Some(threads),
            n_embd: 64,
            ctx_len: 32,
            batch_size: 5,
            ..place.options(&format!("run-{threads}"))
        };
        let mut trainer = Trainer::create(&options, go_on).expect("a run");
        run_steps(&mut trainer, 4);
        let val_loss = validate(&mut trainer);
        (bits(&trainer), val_loss.to_bits())
    };
    let one = train(1);
    assert!([2, 3].into_iter().all(|threads| train(threads) == one));
}

#[test]
fn a_run_can_be_made_longer_and_needs_its_own_text() {
    let place = Place::new(&prose(120));
    let mut trainer =
        Trainer::create(&TrainOptions { max_steps: 3, ..place.options("run") }, go_on).expect("a run");
    run_steps(&mut trainer, 3);
    trainer.save_checkpoint(go_on).expect("a checkpoint");
    drop(trainer);
    let shorter = ResumeOptions { max_steps: Some(2), ..ResumeOptions::default() };
    let error = Trainer::resume(place.path("run"), &shorter, go_on).expect_err("fewer steps than done");
    assert!(error.to_string().starts_with("max_steps is 2; it must be at least 3"), "{error}");
    let longer = ResumeOptions { max_steps: Some(5), ..ResumeOptions::default() };
    let mut trainer = Trainer::resume(place.path("run"), &longer, go_on).expect("the run");
    assert!(!trainer.done());
    run_steps(&mut trainer, 2);
    assert!(trainer.done());
    drop(trainer);

    fs::write(place.path("book.txt"), prose(120).replacen("whales", "wheals", 1)).expect("another text");
    let error =
        Trainer::resume(place.path("run"), &ResumeOptions::default(), go_on).expect_err("another text");
    assert!(error.code() == "DATA" && error.to_string().contains("not the text"), "{error}");
    fs::write(place.path("moved.txt"), prose(120)).expect("the text");
    let moved = ResumeOptions { data: Some(place.path("moved.txt").into()), ..ResumeOptions::default() };
    assert_eq!(Trainer::resume(place.path("run"), &moved, go_on).expect("the text, moved").steps(), 3);
}

#[test]
fn the_saved_model_has_the_trainers_logits_and_rewrites_to_the_same_bytes() {
    let place = Place::new(&prose(120));
    let mut trainer = Trainer::create(&place.options("run"), go_on).expect("a run");
    run_steps(&mut trainer, 20);
    trainer.save_model(go_on).expect("a model");

    let tokens = trainer.data().train().first(48).expect("tokens");
    let (network, ..) = rwkv_core::model::Network::new(trainer.config());
    let model = Model::load(place.path("run"), &LoadOptions::default()).expect("the model");
    let mut tape = Tape::of_store(model.cpu().clone(), trainer.params().clone());
    tape.begin(&tokens, tokens.len());
    let logits = network.forward(&mut tape);
    let loaded = model.eval_all(&tokens, &mut model.new_state()).expect("logits");
    let largest = largest_difference(&tape.value(logits), &loaded);
    println!("largest difference between the trainer's logits and the loaded model's: {largest:e}");
    assert!(largest < 2e-5, "{largest}");
    let live = trainer.model();
    let live = live.eval_all(&tokens, &mut live.new_state()).expect("logits");
    assert!(live == loaded, "the model of the trainer and that of its file differ");

    let copy = place.path("copy.bin");
    ModelFile::open(place.path("run/model.bin")).expect("the file").write_to(&copy).expect("a copy");
    assert!(fs::read(place.path("run/model.bin")).expect("bytes") == fs::read(copy).expect("bytes"));
}

/// By another way than the trainer's: inference, one window after the other, each from a new state.
/// Learns a text whose end is unlike its beginning, so that the validation loss falls and then rises.
fn overfit(place: &Place, out: &str, change: impl Fn(&mut TrainOptions)) -> (Trainer, Vec<f32>) {
    let mut options = TrainOptions { max_steps: 60, learning_rate: Some(1e-2), ..place.options(out) };
    change(&mut options);
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    let mut losses = Vec::new();
    while !trainer.done() {
        let due = trainer.step(go_on).expect("a step").step.is_multiple_of(5);
        if due {
            losses.push(validate(&mut trainer));
            trainer.save_model(go_on).expect("a model");
        }
        // It stops for a while, in the middle of its patience.
        if trainer.steps() == 25 {
            trainer.save_checkpoint(go_on).expect("a checkpoint");
            drop(trainer);
            trainer = Trainer::resume(place.path(out), &ResumeOptions::default(), go_on).expect("the run");
        }
    }
    (trainer, losses)
}

#[test]
fn the_best_model_is_kept_and_patience_ends_a_run() {
    let place = Place::new(&("abc ".repeat(450) + &"bca ".repeat(20) + &"cd".repeat(50)));
    let (trainer, losses) = overfit(&place, "best", |_| ());
    let best = trainer.best().expect("a validation");
    let least = losses.iter().copied().fold(f32::INFINITY, f32::min);
    assert_eq!(losses.len(), 12);
    assert!(best.val_loss.to_bits() == least.to_bits() && losses[11] > least + 0.1, "{losses:?}");
    assert_eq!(losses[best.step as usize / 5 - 1].to_bits(), least.to_bits());
    let kept = |out: &str| {
        let model = Model::load(place.path(out), &LoadOptions::default()).expect("the model");
        let tokens = trainer.data().validation().first(usize::MAX).expect("tokens");
        model.evaluate(&tokens, Some(12), |_, _| ControlFlow::Continue(())).expect("a loss").loss as f32
    };
    assert!((kept("best") - least).abs() < 1e-5, "{} {losses:?}", kept("best"));

    let (_, again) = overfit(&place, "last", |options| options.keep = Keep::Last);
    assert_eq!(again, losses);
    assert!((kept("last") - losses[11]).abs() < 1e-5);

    let (impatient, fewer) = overfit(&place, "impatient", |options| options.patience = Some(2));
    assert_eq!(fewer, losses[..best.step as usize / 5 + 2]);
    assert_eq!(impatient.steps(), best.step + 10);
    assert!((kept("impatient") - least).abs() < 1e-5);
}

#[test]
fn the_validation_loss_is_the_mean_over_all_whole_windows() {
    let place = Place::new(&prose(120));
    let options = place.options("run");
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    run_steps(&mut trainer, 20);
    let model = trainer.model();
    let n_vocab = model.config().n_vocab;
    let validation = trainer.data().validation().first(usize::MAX).expect("tokens");
    let (mut sum, mut count) = (0.0, 0);
    // A window and the token after it; its first token is the target of the window before.
    for window in validation.windows(options.ctx_len + 1).step_by(options.ctx_len) {
        let logits = model.eval_all(&window[..options.ctx_len], &mut model.new_state()).expect("logits");
        for (row, &target) in logits.chunks_exact(n_vocab).zip(&window[1..]) {
            let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            sum += total.ln() - f64::from(row[target as usize]);
            count += 1;
        }
    }
    assert!(count > 300 && count + options.ctx_len >= validation.len() - 1);
    let expected = sum / f64::from(count as u32);
    let found = f64::from(validate(&mut trainer));
    assert!((found - expected).abs() < 1e-5, "{found}, by inference {expected}");
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |largest, (a, b)| largest.max((a - b).abs()))
}

#[test]
fn only_the_newest_two_checkpoints_are_kept_and_a_damaged_one_is_refused() {
    let place = Place::new(&prose(120));
    let mut trainer = Trainer::create(&place.options("run"), go_on).expect("a run");
    for _ in 0..3 {
        run_steps(&mut trainer, 1);
        trainer.save_checkpoint(go_on).expect("a checkpoint");
    }
    drop(trainer);
    let exists = |step: u64| place.path(&format!("run/checkpoint-{step}")).exists();
    assert_eq!([1, 2, 3].map(exists), [false, true, true]);

    let file = place.path("run/checkpoint-3/means.f32");
    let mut bytes = fs::read(&file).expect("moments");
    bytes[100] ^= 4;
    fs::write(&file, bytes).expect("damaged moments");
    let error = Trainer::resume(place.path("run"), &ResumeOptions::default(), go_on).expect_err("damaged");
    assert!(error.code() == "RUN" && error.to_string().contains("means.f32"), "{error}");
    fs::remove_dir_all(place.path("run/checkpoint-3")).expect("as the message says");
    assert_eq!(
        Trainer::resume(place.path("run"), &ResumeOptions::default(), go_on).expect("the one before").steps(),
        2
    );
}

#[test]
fn a_directory_with_a_run_is_not_trained_over() {
    let place = Place::new(&prose(120));
    drop(Trainer::create(&place.options("run"), go_on).expect("a run"));
    let config = fs::read(place.path("run/config.json")).expect("config.json");
    let error = Trainer::create(&TrainOptions { n_layer: 1, ..place.options("run") }, go_on)
        .expect_err("a run is there");
    assert!(error.code() == "RUN" && error.to_string().contains("resume that"), "{error}");
    assert_eq!(fs::read(place.path("run/config.json")).expect("config.json"), config);
    // It has no checkpoint yet: it goes on from its beginning.
    let mut again = Trainer::resume(place.path("run"), &ResumeOptions::default(), go_on).expect("the run");
    assert_eq!(run_steps(&mut again, 1)[0].step, 1);
}

#[test]
fn a_place_that_cannot_be_written_is_named_and_stays_empty() {
    let place = Place::new(&prose(120));
    fs::write(place.path("file"), "x").expect("a file");
    for out in ["file", "file/run"] {
        let error = Trainer::create(&place.options(out), go_on).expect_err("not a directory");
        assert!(
            matches!(&error, Error::Rwkv(rwkv_core::Error::Io { path, .. }) if path.starts_with(place.path("file"))),
            "{error}"
        );
    }
    assert_eq!(fs::read(place.path("file")).expect("the file"), b"x");
    // What is wrong with options or text is found before anything is written.
    assert!(Trainer::create(&TrainOptions { ctx_len: 100_000, ..place.options("run") }, go_on).is_err());
    assert!(Trainer::create(&TrainOptions { n_layer: 0, ..place.options("run") }, go_on).is_err());
    assert!(!place.path("run").exists());
}

#[test]
fn what_takes_long_ends_when_its_flag_is_set() {
    let place = Place::new(&prose(120));
    let mut trainer = Trainer::create(&place.options("run"), go_on).expect("a run");
    let set = AtomicBool::new(true);
    let sampling = SamplerOptions::default();
    let errors = [
        trainer.step(until(&set)).expect_err("a step"),
        trainer.advance(until(&set)).expect_err("a step"),
        trainer.validate(until(&set)).expect_err("a validation"),
        trainer.sample("", 10, sampling.clone(), until(&set)).expect_err("a sample"),
        Trainer::create(&place.options("other"), until(&set)).expect_err("a run"),
        Trainer::resume(place.path("run"), &ResumeOptions::default(), until(&set)).expect_err("a run"),
    ];
    let codes = errors.map(|error| error.code());
    assert_eq!(codes, ["ABORTED", "ABORTED", "ABORTED", "ABORTED", "ABORTED", "RUN"]);
    // A save measures the model first, unless it knows how good that is.
    assert_eq!(trainer.save(until(&set)).expect_err("a measuring").code(), "ABORTED");
    assert!(checkpoints(&place).is_empty());
    trainer.soundness(go_on).expect("a loss");
    assert!(trainer.save(until(&set)).expect("a checkpoint").wrote_result);
    assert!(!place.path("run/samples.jsonl").exists(), "there was no time for a sample");
    assert_eq!(checkpoints(&place), [0]);
    assert!(trainer.steps() == 0 && !place.path("other").exists());

    // A sample that would never end, nor ever read its prompt.
    let flag = AtomicBool::new(false);
    for (prompt, n_tokens) in [("", usize::MAX), ("whales".repeat(2_000_000).as_str(), 1)] {
        flag.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let sample = scope.spawn(|| trainer.sample(prompt, n_tokens, sampling.clone(), until(&flag)));
            std::thread::sleep(Duration::from_millis(20));
            flag.store(true, Ordering::Relaxed);
            assert_eq!(sample.join().expect("no panic").expect_err("a sample").code(), "ABORTED");
        });
    }
    let mut heard = Vec::new();
    let listen = |done, total| {
        heard.push((done, total));
        ControlFlow::Continue(())
    };
    trainer.validate(listen).expect("a validation");
    let (done, total) = heard[heard.len() - 1];
    assert!(heard.is_sorted_by_key(|&(done, _)| done) && done == total);
}

#[test]
fn two_trainers_cannot_work_in_one_directory() {
    let place = Place::new(&prose(120));
    let mut first = Trainer::create(&place.options("run"), go_on).expect("a run");
    run_steps(&mut first, 1);
    first.save_checkpoint(go_on).expect("a checkpoint");
    first.save_model(go_on).expect("a model");
    // What a trainer is writing just now; a second one would sweep it away.
    fs::write(place.path("run/.model.bin.x7Yz.tmp"), "x").expect("a file");
    let log = fs::read(place.path("run/log.jsonl")).expect("a log");
    // A text that is not there: the directory is looked at first.
    let missing = TrainOptions { data: place.path("none.txt").into(), ..place.options("run") };
    for error in [
        Trainer::create(&missing, go_on).expect_err("held"),
        Trainer::resume(place.path("run"), &ResumeOptions::default(), go_on).expect_err("held"),
    ] {
        let says = format!("process {} (this one)", std::process::id());
        assert!(error.code() == "RUN" && error.to_string().contains(&says), "{error}");
    }
    assert!(place.path("run/.model.bin.x7Yz.tmp").exists());
    assert_eq!(fs::read(place.path("run/log.jsonl")).expect("a log"), log);
    Model::load(place.path("run"), &LoadOptions::default()).expect("others may read");
    run_steps(&mut first, 1);
    drop(first);
    let second = Trainer::resume(place.path("run"), &ResumeOptions::default(), go_on).expect("the run");
    assert_eq!(second.steps(), 1);
}

#[test]
fn a_run_whose_directory_is_deleted_ends_as_a_whole_one() {
    let place = Place::new(&prose(120));
    let mut trainer = Trainer::create(&place.options("run"), go_on).expect("a run");
    run_steps(&mut trainer, 10);
    trainer.save_checkpoint(go_on).expect("a checkpoint");
    fs::remove_dir_all(place.path("run")).expect("the directory");
    run_steps(&mut trainer, 10);
    trainer.save_checkpoint(go_on).expect("a checkpoint");
    trainer.save_model(go_on).expect("a model");
    drop(trainer);
    let log = read_log(&place.path("run")).expect("a log");
    assert_eq!(log.iter().map(|line| line.step).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    let longer = ResumeOptions { max_steps: Some(21), ..ResumeOptions::default() };
    let mut trainer = Trainer::resume(place.path("run"), &longer, go_on).expect("the run");
    assert_eq!(run_steps(&mut trainer, 1)[0].step, 21);
    Model::load(place.path("run"), &LoadOptions::default()).expect("the model");
    Tokenizer::load(place.path("run")).expect("the tokenizer");
}

#[test]
fn bytes_that_are_no_text_can_be_learned_as_bytes() {
    let place = Place::new("");
    let bytes: Vec<u8> = (0..2000_u32).map(|i| (i * i % 251) as u8).collect();
    fs::write(place.path("book.txt"), bytes).expect("bytes");
    assert_eq!(Trainer::create(&place.options("run"), go_on).expect_err("not UTF-8").code(), "INVALID_UTF8");
    let mut trainer = Trainer::create(
        &TrainOptions { tokenizer: Some(TokenizerKind::Byte), ..place.options("run") },
        go_on,
    )
    .expect("a run");
    assert_eq!(trainer.config().n_vocab, 256);
    assert!(run_steps(&mut trainer, 1)[0].loss > 0.0);
}

#[test]
fn a_trainer_can_move_to_another_thread() {
    fn check<T: Send>() {}
    check::<Trainer>();
}
