//! Runs that diverge: what is kept of them, what is said, and how they go on.

#![allow(clippy::disallowed_methods)] // compared with what others compute

use rwkv_core::go_on;
use std::ops::ControlFlow;

use crate::common::{Place, checkpoints, prose, run_steps, validate};
use rwkv_core::LoadOptions;
use rwkv_core::{Model, SamplerOptions};
use rwkv_train::{Error, ResumeOptions, TrainOptions, Trainer};

/// Nearly every step multiplies the matrices by 1 − 25.
fn absurd(options: TrainOptions) -> TrainOptions {
    TrainOptions {
        learning_rate: Some(0.3),
        weight_decay: 50.0,
        warmup_steps: Some(20),
        max_steps: 40,
        ..options
    }
}

/// Saves after every other step, until the run diverges.
fn run_until_it_diverges(trainer: &mut Trainer) -> Error {
    loop {
        if trainer.steps().is_multiple_of(2)
            && let Err(error) = trainer.save_checkpoint(go_on).and_then(|_| trainer.save_model(go_on))
        {
            return error;
        }
        if let Err(error) = trainer.step(go_on) {
            return error;
        }
    }
}

/// What a model writes that is worse than guessing is shown to nobody.
#[test]
fn a_model_that_is_not_sound_writes_no_sample() {
    let place = Place::new(&prose(120));
    let mut trainer = Trainer::create(&absurd(place.options("run")), go_on).expect("a run");
    let mut sound = Vec::new();
    loop {
        trainer.step(go_on).expect("a step");
        if !trainer.save(go_on).expect("it is finite").soundness.is_sound {
            break;
        }
        sound.push(trainer.steps());
    }
    let samples = rwkv_train::run::read_samples(trainer.out()).expect("samples");
    assert_eq!(samples.iter().map(|sample| sample.step).collect::<Vec<_>>(), sound);
    let report = std::fs::read_to_string(trainer.out().join("report.html")).expect("a report");
    assert!(report.contains("What it writes"));
    assert!(!report.contains(&format!("<h3>Step {}</h3>", trainer.steps())));
}

#[test]
fn a_run_that_diverges_keeps_its_newest_sound_checkpoint_and_goes_on_from_it() {
    let place = Place::new(&prose(120));
    let mut trainer = Trainer::create(&absurd(place.options("run")), go_on).expect("a run");
    let error = run_until_it_diverges(&mut trainer);
    let Error::Diverged { step, checkpoint: Some(ref sound), ref run, .. } = error else { panic!("{error}") };
    // A step found it, or the loss on validation text of what was to be saved.
    assert!([0, 1].contains(&(step - trainer.steps())) && *run == place.path("run"), "{error}");
    let most = (trainer.config().n_vocab as f32).ln() + 1.0;
    assert!(sound.val_loss.is_some_and(|loss| loss < most), "{sound:?}");
    assert_eq!(sound.path, place.path(&format!("run/checkpoint-{}", sound.step)));
    let error = trainer.step(go_on).expect_err("it has diverged");
    for says in [&format!("goes on from checkpoint-{}, whose", sound.step), "learning rate lower than 0.3:"] {
        assert!(error.to_string().contains(says), "{error}");
    }
    // The two newest ones are ruins.
    let kept = checkpoints(&place);
    assert!(kept.len() == 3 && kept[0] == sound.step && kept[1] > sound.step + 2, "{kept:?}, {sound:?}");
    for error in [
        trainer.save_checkpoint(go_on).expect_err("diverged"),
        trainer.save_model(go_on).expect_err("diverged"),
    ] {
        assert_eq!(error.code(), "DIVERGED");
    }
    // model.bin is of the last sound checkpoint too.
    let tokens = trainer.data().validation().first(100).expect("tokens");
    drop(trainer);
    let model = Model::load(place.path("run"), &LoadOptions::default()).expect("the model");
    let loss = model.evaluate(&tokens, Some(12), |_, _| ControlFlow::Continue(())).expect("a loss").loss;
    assert!(loss < f64::from(most), "{loss}");

    let milder = ResumeOptions { learning_rate: Some(1e-3), weight_decay: Some(0.1), ..Default::default() };
    let mut trainer = Trainer::resume(place.path("run"), &milder, go_on).expect("the last sound checkpoint");
    assert_eq!((trainer.steps(), trainer.went_back_from()), (sound.step, kept.last().copied()));
    assert_eq!(checkpoints(&place), [sound.step]);
    assert!(run_steps(&mut trainer, 4).last().expect("a step").loss < most + 1.0);
    assert!(trainer.save_checkpoint(go_on).expect("a checkpoint").is_sound);
}

#[test]
fn a_run_without_a_sound_checkpoint_begins_again() {
    let place = Place::new(&prose(120));
    // Every step multiplies the matrices by 1 - 100.
    let options = TrainOptions {
        learning_rate: Some(1.0),
        weight_decay: 100.0,
        warmup_steps: Some(0),
        ..place.options("run")
    };
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    run_steps(&mut trainer, 2);
    let found = trainer.save_checkpoint(go_on).expect("a checkpoint");
    assert!(!found.is_sound && found.val_loss > 10.0, "{found:?}");
    // There is none that it would replace.
    assert!(trainer.save_model(go_on).expect("a model"));
    run_steps(&mut trainer, 1);
    assert!(!trainer.save_model(go_on).expect("the one before"));
    let error = (0..100).find_map(|_| trainer.step(go_on).err()).expect("an overflow");
    assert!(error.to_string().contains("no checkpoint is sound, so it begins again"), "{error}");
    drop(trainer);
    let milder = ResumeOptions { learning_rate: Some(1e-3), weight_decay: Some(0.1), ..Default::default() };
    let mut trainer = Trainer::resume(place.path("run"), &milder, go_on).expect("the run");
    assert_eq!((trainer.steps(), trainer.went_back_from()), (0, Some(2)));
    assert!(run_steps(&mut trainer, 1)[0].loss < 5.0);
}

#[test]
fn a_model_whose_loss_is_not_finite_is_never_saved() {
    let place = Place::new(&prose(120));
    let mut first = Trainer::create(&absurd(place.options("first")), go_on).expect("a run");
    while first.step(go_on).is_ok() {}
    let sample = first.sample("", 3, SamplerOptions::default(), go_on);
    assert_eq!(sample.expect_err("no numbers").code(), "DIVERGED");
    // Its last step left parameters that the next one's loss was not finite with.
    let mut trainer = Trainer::create(&absurd(place.options("run")), go_on).expect("a run");
    run_steps(&mut trainer, first.steps() as usize);
    let error = trainer.save_checkpoint(go_on).expect_err("a loss that is not finite");
    assert!(
        matches!(error, Error::Diverged { step, loss, .. } if step == trainer.steps() && !loss.is_finite())
    );
    assert_eq!(trainer.save_model(go_on).expect_err("it has diverged").code(), "DIVERGED");
    assert_eq!(trainer.step(go_on).expect_err("it has diverged").code(), "DIVERGED");
    assert!(checkpoints(&place).is_empty() && !place.path("run/model.bin").exists());
}

/// Learned by heart and surprised by another text: far above chance there, and no ruin.
#[test]
fn a_model_that_has_overfitted_is_sound() {
    let place = Place::new(&("ab".repeat(450) + &"cd".repeat(50)));
    let options = TrainOptions { max_steps: 150, learning_rate: Some(1e-2), ..place.options("run") };
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    run_steps(&mut trainer, 150);
    let found = trainer.save_checkpoint(go_on).expect("a checkpoint");
    assert!(found.is_sound && found.val_loss > 4_f32.ln() + 1.0, "{found:?}");
}

#[test]
fn a_part_of_the_validation_text_tells_what_the_whole_does() {
    let place = Place::new(&prose(120));
    let mut trainer = Trainer::create(&place.options("run"), go_on).expect("a run");
    let part = trainer.soundness(go_on).expect("a loss");
    run_steps(&mut trainer, 1);
    let whole = validate(&mut trainer);
    let found = trainer.soundness(go_on).expect("a loss");
    assert_eq!(found.val_loss.to_bits(), whole.to_bits());
    assert!(part.is_sound && found.is_sound && (part.val_loss - whole).abs() < 0.5, "{part:?}, {found:?}");
}
