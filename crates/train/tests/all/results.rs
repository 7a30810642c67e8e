//! What the file that a run leaves is, whatever happens to the run: `result.json` and the file agree, and a better
//! model is not replaced by a worse one, nor a foreign one by any.

#![allow(clippy::disallowed_methods)] // compared with what others compute

use rwkv_core::go_on;
use std::fs;
use std::path::Path;

use crate::common::{Place, checkpoints, prose, run_steps, validate};
use rwkv_core::{LoadOptions, Model};
use rwkv_train::{Keep, Kept, ResumeOptions, TrainOptions, Trainer, read_kept};

/// The loss of the model in a run's directory over the validation split of the run's text.
fn loss_of(trainer: &Trainer, run: &Path) -> f32 {
    let model = Model::load(run, &LoadOptions::default()).expect("the model");
    let (tokens, window) =
        (trainer.data().validation().first(usize::MAX).expect("tokens"), trainer.options().ctx_len);
    let len = (tokens.len() - 1) / window * window;
    let go_on = |_, _| std::ops::ControlFlow::Continue(());
    model.evaluate_from(&model.new_state(), &tokens[..=len], Some(window), go_on).expect("a loss").loss as f32
}

/// Steps, a validation and what follows from it, up to `last`.
fn learn(trainer: &mut Trainer, last: u64) {
    while trainer.steps() < last {
        run_steps(trainer, 2);
        validate(trainer);
        trainer.save_model(go_on).expect("a model");
    }
}

fn kept(run: &Path) -> Kept {
    read_kept(run).expect("a look").expect("a result that is the run's")
}

fn resume(place: &Place, changes: &ResumeOptions) -> Trainer {
    Trainer::resume(place.path("run"), changes, go_on).expect("the run")
}

/// A run of 8 steps with a checkpoint of step 4, killed after its last validation.
fn killed(place: &Place, learning_rate: f64) -> Trainer {
    let options = TrainOptions { learning_rate: Some(learning_rate), ..place.options("run") };
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    learn(&mut trainer, 4);
    trainer.save_checkpoint(go_on).expect("a checkpoint");
    learn(&mut trainer, 8);
    trainer
}

#[test]
fn the_record_tells_the_step_and_the_loss_of_the_file() {
    let place = Place::new(&prose(120));
    let trainer = killed(&place, 1e-2);
    let run = place.path("run");
    let told = kept(&run);
    assert_eq!((Some(&told), Some(told.step)), (trainer.kept(), trainer.best().map(|best| best.step)));
    assert_eq!(told.val_loss, trainer.best().map(|best| best.val_loss));
    assert_eq!(told.val_loss.expect("a loss").to_bits(), loss_of(&trainer, &run).to_bits());
}

/// A kill, or a full disk, between the checkpoint and the model.
#[test]
fn a_model_that_was_not_written_with_its_checkpoint_is_written_when_the_run_goes_on() {
    let place = Place::new(&prose(120));
    let run = place.path("run");
    let mut trainer = Trainer::create(&place.options("run"), go_on).expect("a run");
    learn(&mut trainer, 2);
    let before = ["model.bin", "result.json"].map(|name| fs::read(run.join(name)).expect(name));
    learn(&mut trainer, 4);
    trainer.save_checkpoint(go_on).expect("a checkpoint");
    let after = ["model.bin", "result.json"].map(|name| fs::read(run.join(name)).expect(name));
    assert!(before[0] != after[0], "the run has learned");
    drop(trainer);
    for (name, bytes) in ["model.bin", "result.json"].iter().zip(&before) {
        fs::write(run.join(name), bytes).expect("an older file");
    }
    drop(resume(&place, &ResumeOptions::default()));
    assert!(["model.bin", "result.json"].map(|name| fs::read(run.join(name)).expect(name)) == after);
    // Nor does a run that is over end without its model.
    for name in ["model.bin", "result.json"] {
        fs::remove_file(run.join(name)).expect(name);
    }
    drop(resume(&place, &ResumeOptions::default()));
    assert!(["model.bin", "result.json"].map(|name| fs::read(run.join(name)).expect(name)) == after);
}

#[test]
fn a_record_is_of_a_file_of_its_name_and_of_a_format_that_is_known() {
    let place = Place::new(&prose(120));
    let run = place.path("run");
    drop(killed(&place, 1e-2));
    let record = fs::read_to_string(run.join("result.json")).expect("the record");
    fs::write(run.join("result.json"), record.replace("\"format\": 1", "\"format\": 2")).expect("another");
    assert_eq!(read_kept(&run).expect("a look"), None);
    fs::write(run.join("result.json"), record).expect("the record");
    kept(&run);
    fs::rename(run.join("model.bin"), run.join("lora.safetensors")).expect("another name");
    assert_eq!(read_kept(&run).expect("a look"), None);
}

#[test]
fn a_step_has_one_sample_and_one_that_was_undone_has_none() {
    let place = Place::new(&prose(120));
    let mut trainer = Trainer::create(&place.options("run"), go_on).expect("a run");
    for step in [2, 4] {
        run_steps(&mut trainer, 2);
        trainer.save(go_on).expect("all");
        trainer.save(go_on).expect("all again");
        assert_eq!(trainer.steps(), step);
    }
    let steps = || {
        let samples = rwkv_train::run::read_samples(&place.path("run")).expect("samples");
        samples.iter().map(|sample| sample.step).collect::<Vec<_>>()
    };
    assert_eq!(steps(), [2, 4]);
    drop(trainer);
    fs::remove_dir_all(place.path("run/checkpoint-4")).expect("the last checkpoint");
    let mut trainer = resume(&place, &ResumeOptions::default());
    assert_eq!((trainer.steps(), trainer.went_back_from()), (2, None));
    run_steps(&mut trainer, 3);
    trainer.save(go_on).expect("all");
    assert_eq!(steps(), [2, 5]);
}

#[test]
fn a_validation_tells_more_of_a_model_than_a_part_of_it_and_a_second_one_tells_no_more() {
    let place = Place::new(&prose(120));
    let options = TrainOptions { patience: Some(1), batch_size: 1, ..place.options("run") };
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    run_steps(&mut trainer, 2);
    let part = trainer.soundness(go_on).expect("a loss");
    let whole = validate(&mut trainer);
    assert!(part.val_loss.to_bits() != whole.to_bits());
    assert_eq!(trainer.soundness(go_on).expect("a loss").val_loss.to_bits(), whole.to_bits());
    validate(&mut trainer);
    assert!(!trainer.done(), "the same model is not a second that is no better");
}

#[test]
fn a_run_that_carries_states_validates_in_one_go() {
    let place = Place::new(&prose(120));
    let options = TrainOptions { carry_state: true, ..place.options("run") };
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    run_steps(&mut trainer, 2);
    let found = validate(&mut trainer);
    let (model, tokens, window) =
        (trainer.model(), trainer.data().validation().first(usize::MAX).expect("tokens"), options.ctx_len);
    let len = (tokens.len() - 1) / window * window;
    let loss = |window| model.evaluate(&tokens[..=len], window, go_on).expect("a loss").loss as f32;
    assert_eq!(found.to_bits(), loss(None).to_bits());
    assert!(found.to_bits() != loss(Some(window)).to_bits());
}

/// Steps so small that the second validation finds nothing better.
#[test]
fn a_run_that_patience_ends_saves_its_last_step() {
    let place = Place::new(&prose(120));
    let options = TrainOptions {
        patience: Some(1),
        learning_rate: Some(1e-30),
        eval_interval: 4,
        checkpoint_interval: 6,
        ..place.options("run")
    };
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    trainer.run(go_on, |_, _| ()).expect("a run to its end");
    assert_eq!((trainer.steps(), checkpoints(&place)), (8, vec![6, 8]));
}

/// A kill or a full disk after the last checkpoint: between the model and the end of its record, and before the
/// report.
#[test]
fn a_run_that_was_over_but_for_its_record_and_its_report_is_over_when_it_was_resumed() {
    let place = Place::new(&prose(120));
    let run = place.path("run");
    let options = TrainOptions { max_steps: 4, ..place.options("run") };
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    learn(&mut trainer, 2);
    let older = fs::read_to_string(run.join("result.json")).expect("the record");
    learn(&mut trainer, 4);
    trainer.save(go_on).expect("all");
    drop(trainer);
    let names = ["result.json", "report.html"];
    let [record, report] = names.map(|name| fs::read_to_string(run.join(name)).expect(name));
    let both = |record: &str, older: &str| {
        let [mut record, older] =
            [record, older].map(|json| serde_json::from_str::<serde_json::Value>(json).expect("JSON"));
        let old = older["results"][0].clone();
        record["results"].as_array_mut().expect("results").push(old);
        serde_json::to_string_pretty(&record).expect("JSON")
    };
    fs::write(run.join("result.json"), both(&record, &older)).expect("a record of both");
    fs::write(run.join("report.html"), "of step 2").expect("an older report");
    drop(resume(&place, &ResumeOptions { max_steps: Some(5), ..ResumeOptions::default() }));
    assert_eq!(fs::read_to_string(run.join("result.json")).expect("the record"), record);
    let there = fs::read_to_string(run.join("report.html")).expect("a report");
    assert_eq!(there, "of step 2", "the next save writes it");
    drop(resume(&place, &ResumeOptions { max_steps: Some(4), ..ResumeOptions::default() }));
    assert_eq!(fs::read_to_string(run.join("report.html")).expect("the report"), report);
}

#[test]
fn a_better_model_of_before_a_resumption_stays() {
    let place = Place::new(&prose(120));
    let run = place.path("run");
    drop(killed(&place, 1e-2));
    let before = (kept(&run), fs::read(run.join("model.bin")).expect("the model"));
    assert_eq!(before.0.step, 8);
    // So low a rate that what is learned from step 4 on is worse.
    let changes = ResumeOptions { learning_rate: Some(1e-5), ..ResumeOptions::default() };
    let mut trainer = resume(&place, &changes);
    assert_eq!(trainer.steps(), 4);
    learn(&mut trainer, 8);
    assert_eq!(trainer.best().map(|best| best.step), Some(8));
    assert!(trainer.best().expect("a best").val_loss > before.0.val_loss.expect("a loss"));
    assert_eq!((kept(&run), fs::read(run.join("model.bin")).expect("the model")), before);
    assert_eq!(trainer.kept(), Some(&before.0));
    drop(trainer);
    // A better one replaces it.
    let changes = ResumeOptions { learning_rate: Some(2e-2), ..ResumeOptions::default() };
    let mut trainer = resume(&place, &changes);
    learn(&mut trainer, 8);
    let better = kept(&run);
    assert!(better.val_loss < before.0.val_loss && better.crc32 != before.0.crc32);
    assert_eq!(better.val_loss.expect("a loss").to_bits(), loss_of(&trainer, &run).to_bits());
}

#[test]
fn keep_last_and_then_best_tells_what_the_file_is() {
    let place = Place::new(&prose(120));
    let run = place.path("run");
    let options =
        TrainOptions { keep: Keep::Last, max_steps: 8, learning_rate: Some(1e-2), ..place.options("run") };
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    learn(&mut trainer, 8);
    trainer.save_checkpoint(go_on).expect("a checkpoint");
    assert_eq!(kept(&run).step, 8);
    drop(trainer);
    let changes = ResumeOptions { keep: Some(Keep::Best), max_steps: Some(12), ..ResumeOptions::default() };
    let mut trainer = resume(&place, &changes);
    learn(&mut trainer, 12);
    let told = trainer.kept().expect("a result").clone();
    assert_eq!(told, kept(&run));
    assert_eq!(told.val_loss.expect("a loss").to_bits(), loss_of(&trainer, &run).to_bits());
}

#[test]
fn files_that_no_run_wrote_are_not_replaced() {
    let place = Place::new(&prose(120));
    let run = place.path("run");
    for name in ["model.bin", "lora.safetensors", "tuned.state", "tokenizer.json", "report.html", "log.jsonl"]
    {
        fs::create_dir(&run).expect("a directory");
        fs::write(run.join(name), "mine").expect("a file");
        let error = Trainer::create(&place.options("run"), go_on).expect_err(name);
        assert!(error.code() == "RUN" && error.to_string().contains(name), "{error}");
        assert_eq!(fs::read_dir(&run).expect("it").count(), 1, "{name}");
        assert_eq!(fs::read(run.join(name)).expect(name), b"mine");
        let forced = TrainOptions { force: true, ..place.options("run") };
        let mut trainer = Trainer::create(&forced, go_on).expect("a run");
        assert!(["tokenizer.json", "log.jsonl"].contains(&name) || !run.join(name).exists(), "{name}");
        run_steps(&mut trainer, 1);
        assert!(trainer.save_model(go_on).expect("a model"));
        drop(trainer);
        fs::remove_dir_all(&run).expect("the run");
    }
}

#[test]
fn a_file_that_somebody_puts_in_the_results_place_stays() {
    let place = Place::new(&prose(120));
    let run = place.path("run");
    let mut trainer = killed(&place, 1e-2);
    fs::write(run.join("model.bin"), "mine").expect("a file");
    validate(&mut trainer);
    let error = trainer.save(go_on).expect_err("a foreign file");
    assert!(error.code() == "RUN" && error.to_string().contains("did not write it"), "{error}");
    assert_eq!(checkpoints(&place), [4, 8], "the checkpoint was saved all the same");
    drop(trainer);
    let error = Trainer::resume(&run, &ResumeOptions::default(), go_on).expect_err("a foreign file");
    assert!(error.code() == "RUN" && error.to_string().contains("force"), "{error}");
    assert_eq!(fs::read(run.join("model.bin")).expect("the file"), b"mine");
    let force = ResumeOptions { force: Some(true), ..ResumeOptions::default() };
    let trainer = resume(&place, &force);
    assert_eq!(trainer.kept(), Some(&kept(&run)));
    assert_eq!(kept(&run).step, 8);
}

#[test]
fn a_damaged_checkpoint_says_what_is_left() {
    let place = Place::new(&prose(120));
    let run = place.path("run");
    let mut trainer = killed(&place, 1e-2);
    trainer.save_checkpoint(go_on).expect("a checkpoint");
    drop(trainer);
    let error = || Trainer::resume(&run, &ResumeOptions::default(), go_on).expect_err("damage").to_string();
    fs::write(run.join("checkpoint-8/means.f32"), "x").expect("damage");
    assert!(error().ends_with("remove its directory to go on from the one before, of step 4"), "{}", error());
    fs::write(run.join("checkpoint-8/checkpoint.json"), "x").expect("damage");
    assert!(error().ends_with("remove its directory to go on from the one before, of step 4"), "{}", error());
    fs::remove_dir_all(run.join("checkpoint-8")).expect("what is said");
    fs::write(run.join("checkpoint-4/parameters.f32"), "x").expect("damage");
    let says = error();
    assert!(says.contains("there is none before it, so this run cannot go on"), "{says}");
    assert!(says.contains("model.bin is of step 8, validation loss"), "{says}");
    // Whoever removes it all the same does not lose the model.
    let before = kept(&run);
    fs::remove_dir_all(run.join("checkpoint-4")).expect("the last one");
    let mut trainer =
        resume(&place, &ResumeOptions { learning_rate: Some(1e-4), ..ResumeOptions::default() });
    assert_eq!(trainer.steps(), 0);
    learn(&mut trainer, 2);
    trainer.save_checkpoint(go_on).expect("a checkpoint");
    assert_eq!(kept(&run), before);
}

#[test]
fn a_file_called_like_a_checkpoint_is_none() {
    let place = Place::new(&prose(120));
    let mut trainer = Trainer::create(&place.options("run"), go_on).expect("a run");
    fs::write(place.path("run/checkpoint-3"), "mine").expect("a file");
    for _ in 0..4 {
        run_steps(&mut trainer, 1);
        trainer.save_checkpoint(go_on).expect("a checkpoint");
    }
    // It made room for the checkpoint of that step, and is still there.
    assert_eq!(fs::read(place.path("run/checkpoint-3.aside-1")).expect("the file"), b"mine");
    drop(trainer);
    assert_eq!(checkpoints(&place), [3, 4]);
    assert_eq!(resume(&place, &ResumeOptions::default()).steps(), 4);
}

/// Whoever reads a pipe that nobody writes to waits for ever.
#[cfg(unix)]
#[test]
fn a_pipe_in_the_place_of_a_file_keeps_nobody_waiting() {
    let place = Place::new(&prose(120));
    let run = place.path("run");
    let mut trainer = killed(&place, 1e-2);
    trainer.save(go_on).expect("a checkpoint");
    drop(trainer);
    let names = ["config.json", "tokenizer.json", "log.jsonl", "samples.jsonl", "model.bin"];
    for name in names.into_iter().chain(["checkpoint-8/checkpoint.json", "checkpoint-8/means.f32"]) {
        let (file, aside) = (run.join(name), place.path("aside"));
        fs::rename(&file, &aside).expect(name);
        assert!(std::process::Command::new("mkfifo").arg(&file).status().expect("mkfifo").success());
        let error = Trainer::resume(&run, &ResumeOptions::default(), go_on).expect_err(name).to_string();
        let file_name = name.rsplit('/').next().expect("a name");
        let says = if file_name == "means.f32" { "it has 0 bytes" } else { "regular file" };
        assert!(error.contains(file_name) && error.contains(says), "{error}");
        fs::remove_file(&file).expect("the pipe");
        fs::rename(&aside, &file).expect(name);
    }
    drop(resume(&place, &ResumeOptions::default()));
}
