//! Any bytes as the files of a training run, which is gone on with: an error, or a run that works.

#![no_main]

use std::sync::atomic::AtomicBool;

use libfuzzer_sys::fuzz_target;
use rwkv::{Model, SamplerOptions, Tokenizer};
use rwkv_fuzz::{check_error, cpu, folder, runs};
use rwkv_train::{ResumeOptions, TokenizerKind, Trainer};

fuzz_target!(init: check_a_sound_run(), |data: &[u8]| {
    let text = folder::write("book.txt", runs::TEXT.as_bytes());
    let run = folder::path("run");
    let Some(changes) = runs::make(&run, &text, data) else { return };
    let mut trainer = match Trainer::resume(&run, &changes) {
        Ok(trainer) => trainer,
        Err(error) => return check_error(&error),
    };
    let before = trainer.steps();
    for _ in 0..2 {
        if trainer.done() {
            break;
        }
        match trainer.step() {
            Ok(report) => assert!(report.step > before && report.loss.is_finite()),
            Err(error) => {
                check_error(&error);
                break;
            }
        }
    }
    let results = [
        trainer.validate(&AtomicBool::new(false), |_| ()).map(drop),
        trainer.sample("ab", 3, SamplerOptions::default()).map(drop),
        trainer.save_model(),
        trainer.save_checkpoint(),
    ];
    results.iter().filter_map(|result| result.as_ref().err()).for_each(check_error);
    let [.., model, checkpoint] = results;
    drop(trainer);
    assert!(Tokenizer::load(&run).is_ok());
    if model.is_ok() {
        let _ = Model::load_on(&run, cpu()).inspect_err(check_error);
    }
    if checkpoint.is_ok() {
        let again = Trainer::resume(&run, &ResumeOptions { max_steps: None, ..changes });
        assert!(again.is_ok(), "a checkpoint of its own is refused: {:?}", again.err());
    }
});

/// What is made from the files of a run is a run: else nothing here would be looked at behind the checksums.
fn check_a_sound_run() {
    let text = folder::write("book.txt", runs::TEXT.as_bytes());
    let run = folder::path("run");
    for (kind, steps) in [(TokenizerKind::Byte, 2), (TokenizerKind::Character, 0)] {
        let data = runs::sound(kind, steps > 0);
        let changes = runs::make(&run, &text, &data).expect("a small run");
        assert_eq!(Trainer::resume(&run, &changes).expect("a sound run").steps(), steps);
    }
}
