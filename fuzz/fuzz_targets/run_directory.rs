//! Any bytes as the files of a training run, which is gone on with: an error, or a run that works.

#![no_main]

use std::ops::ControlFlow;

use libfuzzer_sys::fuzz_target;
use rwkv_core::{Model, SamplerOptions, go_on};
use rwkv_fuzz::{check_error, check_train_error, cpu, directory, runs};
use rwkv_text::Tokenizer;
use rwkv_train::{Error, TokenizerKind, Trainer};

fuzz_target!(init: check_a_sound_run(), |data: &[u8]| {
    let text = directory::write("book.txt", runs::TEXT.as_bytes());
    let run = directory::path("run");
    let Some(changes) = runs::make(&run, &text, data) else { return };
    let mut trainer = match Trainer::resume(&run, &changes, go_on) {
        Ok(trainer) => trainer,
        Err(error) => return check_train_error(&error),
    };
    let second = Trainer::resume(&run, &changes, go_on);
    assert!(second.is_err(), "two trainers in one directory");
    learn(&mut trainer);
    let results = [
        trainer.validate(go_on).map(drop),
        trainer.sample("ab", 3, SamplerOptions::default(), go_on).map(drop),
        trainer.save_model(go_on).map(drop),
    ];
    results.iter().filter_map(|result| result.as_ref().err()).for_each(check_train_error);
    let saved = trainer.save_checkpoint(go_on);
    let steps = trainer.steps();
    drop(trainer);
    assert!(Tokenizer::load(&run).is_ok());
    if results[2].is_ok() && run.join("model.bin").is_file() {
        directory::age(&run.join("model.bin"));
        let _ = Model::load_on(&run, cpu()).inspect_err(check_error);
    }
    match saved {
        Ok(saved) if saved.is_sound => match Trainer::resume(&run, &changes, go_on) {
            Ok(again) => assert!(again.steps() >= steps || again.went_back_from().is_some()),
            Err(error) => assert!(changes.max_steps.is_some(), "its own checkpoint is refused: {error}"),
        },
        Ok(_) => {}
        Err(error) => check_train_error(&error),
    }
});

/// Two steps, the first of which is first begun in vain.
fn learn(trainer: &mut Trainer) {
    let before = trainer.steps();
    if trainer.done() {
        return;
    }
    let stopped = trainer.step(|_, _| ControlFlow::Break(()));
    assert!(
        matches!(stopped, Err(Error::Rwkv(rwkv_core::Error::Aborted))) && trainer.steps() == before,
        "{stopped:?}"
    );
    for step in before + 1..=before + 2 {
        if trainer.done() {
            return;
        }
        match trainer.step(go_on) {
            Ok(report) => assert!(report.step == step && report.loss.is_finite()),
            Err(error) => return check_train_error(&error),
        }
    }
}

/// What is made from the files of a run is a run: else nothing here would be looked at behind the checksums.
fn check_a_sound_run() {
    let text = directory::write("book.txt", runs::TEXT.as_bytes());
    let run = directory::path("run");
    for (kind, steps) in [(TokenizerKind::Byte, 2), (TokenizerKind::Character, 0)] {
        let data = runs::sound(kind, steps > 0);
        let changes = runs::make(&run, &text, &data).expect("a small run");
        assert_eq!(Trainer::resume(&run, &changes, go_on).expect("a sound run").steps(), steps);
    }
}
