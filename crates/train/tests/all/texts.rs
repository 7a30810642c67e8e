//! Runs that learn texts in memory: these are in the run's directory afterwards, and the run goes on with them.

use std::fs;

use crate::common::{Place, bits, prose, run_steps};
use rwkv_core::go_on;
use rwkv_text::TokenizerKind;
use rwkv_train::{Input, Inputs, ResumeOptions, TrainOptions, Trainer};

fn text(sentences: usize) -> Input {
    Input::text(prose(sentences))
}

fn resume(place: &Place, run: &str) -> rwkv_train::Result<Trainer> {
    Trainer::resume(place.path(run), &ResumeOptions::default(), go_on)
}

fn error(options: &TrainOptions) -> (&'static str, String) {
    let error = Trainer::create(options, go_on).expect_err("a refusal");
    (error.code(), error.to_string())
}

#[test]
fn a_text_is_learned_as_its_file_is_kept_and_gone_on_with_also_elsewhere() {
    let place = Place::new(&prose(60));
    let from_file = place.options("of file");
    let from_memory = TrainOptions { data: text(60).into(), ..place.options("run") };
    let mut of_file = Trainer::create(&from_file, go_on).expect("a run");
    let mut trainer = Trainer::create(&from_memory, go_on).expect("a run");
    assert_eq!(trainer.options().data, Inputs::from(place.path("run/data.txt")));
    assert_eq!(fs::read_to_string(place.path("run/data.txt")).expect("the text"), prose(60));
    run_steps(&mut trainer, 3);
    run_steps(&mut of_file, 5);
    trainer.save_checkpoint(go_on).expect("a checkpoint");
    drop(trainer);
    let config = fs::read_to_string(place.path("run/config.json")).expect("config.json");
    assert!(config.contains("\"data\": \"data.txt\""), "{config}");

    // Twice, because the second time goes by what the first has written.
    for name in ["moved", "again"] {
        let before = if name == "moved" { "run" } else { "moved" };
        fs::rename(place.path(before), place.path(name)).expect("a move");
        let trainer = resume(&place, name).expect("the run");
        assert_eq!(trainer.options().data, Inputs::from(place.path(name).join("data.txt")));
    }
    let mut trainer = resume(&place, "again").expect("the run");
    run_steps(&mut trainer, 2);
    assert!(bits(&trainer) == bits(&of_file));
    drop(trainer);

    fs::write(place.path("again/data.txt"), prose(61)).expect("a file");
    let changed = resume(&place, "again").expect_err("another text").to_string();
    assert!(changed.contains("not the text that the run began with"), "{changed}");
    fs::remove_file(place.path("again/data.txt")).expect("no file");
    let gone = resume(&place, "again").expect_err("no text");
    assert!(gone.code() == "IO" && gone.to_string().contains("data.txt"), "{gone}");
}

#[test]
fn texts_and_files_mix_and_bytes_need_not_be_text() {
    let place = Place::new(&prose(60));
    let mixed =
        vec![text(50), place.path("book.txt").into(), Input::text([&[0xff, 0][..], &[7; 200]].concat())];
    let options = TrainOptions {
        data: mixed.into(),
        val: Some(text(20).into()),
        tokenizer: Some(TokenizerKind::Byte),
        unknown: None,
        ..place.options("run")
    };
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    assert_eq!(trainer.data().train().len(), prose(50).len() + prose(60).len() + 202 + 3);
    assert_eq!(trainer.data().validation().len(), prose(20).len());
    run_steps(&mut trainer, 1);
    trainer.save_checkpoint(go_on).expect("a checkpoint");
    drop(trainer);
    assert_eq!(fs::read(place.path("run/data-2.txt")).expect("the bytes")[..3], [0xff, 0, 7]);
    fs::rename(place.path("run"), place.path("moved")).expect("a move");
    let trainer = resume(&place, "moved").expect("the run");
    let files = ["moved/data-1.txt", "book.txt", "moved/data-2.txt"].map(|name| place.path(name));
    assert_eq!(trainer.options().data, Inputs::from(files.to_vec()));
    assert_eq!(trainer.options().val, Some(place.path("moved/val.txt").into()));
}

#[test]
fn what_cannot_be_learned_is_refused_and_nothing_is_written() {
    let place = Place::new(&prose(60));
    let of = |input: Input| TrainOptions { data: input.into(), ..place.options("run") };
    for (input, code, says) in [
        (Input::text(""), "DATA", "the text: the text is empty"),
        (Input::text("a"), "DATA", "the text is a single character"),
        (Input::text(b"abc\xff".repeat(20)), "INVALID_UTF8", "the text: byte 3 is not UTF-8"),
        (Input::text("abcabc"), "DATA", "only 6 characters"),
    ] {
        let (found, message) = error(&of(input));
        assert!(found == code && message.contains(says), "{found}: {message}");
        assert!(!place.path("run").exists());
    }
}

#[test]
fn a_file_of_somebody_else_is_not_replaced_unless_that_is_asked_for() {
    let place = Place::new(&prose(60));
    let options = TrainOptions { data: text(60).into(), ..place.options("run") };
    fs::create_dir(place.path("run")).expect("a directory");
    fs::write(place.path("run/data.txt"), "mine").expect("a file");
    let (code, message) = error(&options);
    assert!(code == "RUN" && message.contains("holds data.txt"), "{message}");
    assert_eq!(fs::read(place.path("run/data.txt")).expect("it"), b"mine");
    // What a run leaves that was killed before it had a config.json.
    fs::write(place.path("run/data.txt"), prose(60)).expect("a file");
    drop(Trainer::create(&options, go_on).expect("a run"));
    fs::create_dir(place.path("other")).expect("a directory");
    fs::write(place.path("other/data.txt"), "mine").expect("a file");
    let forced = TrainOptions { out: place.path("other"), force: true, ..options };
    drop(Trainer::create(&forced, go_on).expect("a run"));
    assert_eq!(fs::read_to_string(place.path("other/data.txt")).expect("it"), prose(60));
}

#[test]
fn a_run_that_goes_on_takes_no_text() {
    let place = Place::new(&prose(60));
    drop(Trainer::create(&place.options("run"), go_on).expect("a run"));
    for changes in [
        ResumeOptions { data: Some(text(60).into()), ..Default::default() },
        ResumeOptions { val: Some(vec![text(60)].into()), ..Default::default() },
    ] {
        let error = Trainer::resume(place.path("run"), &changes, go_on).expect_err("a text");
        let message = error.to_string();
        assert!(
            error.code() == "INVALID_OPTION" && message.contains("is a text; it must be left out"),
            "{message}"
        );
    }
}

#[test]
fn json_has_texts_too() {
    let json = r#"{"data":[{"text":"one"},"b.txt"],"val":{"text":""},"out":"run"}"#;
    let options = TrainOptions::from_json(json).expect("options");
    assert_eq!(options.data, Inputs::Several(vec![Input::text("one"), "b.txt".into()]));
    assert_eq!(options.val, Some(Input::text("").into()));
    assert_eq!(TrainOptions::from_json(&options.to_json().expect("JSON")).expect("options"), options);
    let one = TrainOptions::from_json(r#"{"data":["a.txt"],"out":"run"}"#).expect("options");
    assert_eq!(one.data, Inputs::Several(vec!["a.txt".into()]));
    for wrong in [r#"{"text":1}"#, r#"{"text":"a","more":1}"#, "{}", "[]", r#"["a",{"bytes":"b"}]"#] {
        let error = TrainOptions::from_json(&format!("{{\"data\":{wrong},\"out\":\"run\"}}"));
        let error = error.expect_err(wrong).to_string();
        assert!(error.contains("it must be a path, a text as {\"text\": \"…\"}"), "{error}");
    }
    let bytes = TrainOptions::new(Input::text(b"\xff"), "run").to_json().expect_err("no text").to_string();
    assert!(bytes.contains("UTF-8"), "{bytes}");
}
