//! What a run can learn from: one text, documents of several files, and tokens that were prepared.

use std::fs;
use std::path::Path;

use crate::common::{Place, prose, run_steps, validate};
use rwkv_core::go_on;
use rwkv_text::token_file::{TokenWriter, Width, write_meta};
use rwkv_text::{Characters, Tokenizer, TokenizerKind};
use rwkv_train::{Inputs, ResumeOptions, TrainOptions, Trainer, Unknown};

fn write_tokens(path: &Path, tokens: &[u32]) {
    // As nanoGPT writes them: nothing but the tokens.
    let bytes: Vec<u8> = tokens.iter().flat_map(|&token| (token as u16).to_le_bytes()).collect();
    fs::write(path, bytes).expect("a file");
}

fn error(options: &TrainOptions) -> String {
    Trainer::create(options, go_on).expect_err("a refusal").to_string()
}

#[test]
fn several_documents_end_with_an_end_of_text_and_a_tenth_of_them_validates() {
    let place = Place::new("unused");
    let line = |i| format!("{{\"id\": {i}, \"text\": \"Document {i} of many, é.\"}}");
    let lines = (0..50).map(line).collect::<Vec<_>>().join("\n");
    fs::create_dir(place.path("corpus")).expect("a folder");
    fs::write(place.path("corpus/a.jsonl"), lines).expect("a file");
    fs::write(place.path("corpus/b.txt"), prose(40)).expect("a file");
    let options = TrainOptions { data: place.path("corpus").into(), unknown: None, ..place.options("run") };
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    let tokenizer = trainer.tokenizer().clone();
    let end = tokenizer.end_of_text().expect("an end");
    let all = |part: &rwkv_train::data::Part| part.first(usize::MAX).expect("tokens");
    let (train, validation) = (all(trainer.data().train()), all(trainer.data().validation()));
    let count = |tokens: &[u32]| tokens.iter().filter(|&&token| token == end).count();
    assert_eq!((count(&train), count(&validation)), (46, 5));
    assert_eq!((train.last(), validation.last()), (Some(&end), Some(&end)));
    let both = [&train[..], &validation].concat();
    let text = String::from_utf8(tokenizer.decode(&both).expect("bytes")).expect("text");
    assert!(text.contains("of many, é.") && text.contains("whales"));
    run_steps(&mut trainer, 3);
    trainer.save_checkpoint(go_on).expect("a checkpoint");
    drop(trainer);
    // The same documents, and no others.
    let resume = || Trainer::resume(place.path("run"), &ResumeOptions::default(), go_on);
    let again = resume().expect("the run");
    assert_eq!(all(again.data().validation()), validation);
    drop(again);
    fs::write(place.path("corpus/b.txt"), prose(41)).expect("a file");
    assert!(resume().expect_err("another text").to_string().contains("not the text that the run began with"));
}

#[test]
fn several_files_and_a_validation_set_of_its_own() {
    let place = Place::new(&prose(60));
    fs::write(place.path("other.txt"), prose(90)).expect("a file");
    fs::write(place.path("val.txt"), prose(20)).expect("a file");
    let options = TrainOptions {
        data: Inputs::from(vec![place.path("book.txt"), place.path("other.txt")]),
        val: Some(place.path("val.txt").into()),
        tokenizer: Some(TokenizerKind::Byte),
        ..place.options("run")
    };
    let trainer = Trainer::create(&options, go_on).expect("a run");
    assert_eq!(trainer.data().train().len(), prose(60).len() + prose(90).len() + 2);
    assert_eq!(trainer.data().validation().len(), prose(20).len());
    let text = fs::read_to_string(place.path("run/config.json")).expect("it");
    assert!(text.contains("other.txt") && text.contains("val.txt"), "{text}");
}

#[test]
fn a_byte_pair_encoding_is_trained_on_the_text_and_kept() {
    let place = Place::new(&prose(300));
    let options =
        TrainOptions { tokenizer: Some(TokenizerKind::Bpe), vocab_size: Some(300), ..place.options("run") };
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    assert_eq!(trainer.tokenizer().n_vocab(), 300);
    assert!(trainer.data().train().len() < prose(300).len() / 2);
    run_steps(&mut trainer, 2);
    validate(&mut trainer);
    trainer.save_checkpoint(go_on).expect("a checkpoint");
    drop(trainer);
    let again = Trainer::resume(place.path("run"), &ResumeOptions::default(), go_on).expect("the run");
    assert_eq!(*again.tokenizer(), Tokenizer::load(place.path("run")).expect("its file"));
    let says = error(&TrainOptions {
        vocab_size: Some(100_000),
        ..TrainOptions { out: place.path("x"), ..options }
    });
    assert!(says.starts_with("vocab_size is 100000; it must be at most"), "{says}");
}

#[test]
fn nanogpt_s_folder_is_mapped_and_has_its_characters() {
    let place = Place::new(&prose(100));
    let text = prose(100);
    let characters = Characters::of_text(&text).expect("characters");
    let tokenizer = Tokenizer::from(characters.clone());
    let tokens = tokenizer.encode(&text).expect("tokens");
    let (train, validation) = tokens.split_at(tokens.len() / 10 * 9 + tokens.len() % 10 * 9 / 10);
    fs::create_dir(place.path("set")).expect("a folder");
    write_tokens(&place.path("set/train.bin"), train);
    write_tokens(&place.path("set/val.bin"), validation);
    write_meta(place.path("set/meta.pkl"), &characters.iter().collect::<Vec<_>>()).expect("a file");
    let options = TrainOptions { data: place.path("set").into(), ..place.options("set-run") };
    let mut mapped = Trainer::create(&options, go_on).expect("a run");
    let mut read = Trainer::create(&place.options("text-run"), go_on).expect("a run");
    assert_eq!(mapped.tokenizer(), read.tokenizer());
    let losses = |trainer: &mut Trainer| {
        let steps: Vec<_> = run_steps(trainer, 5).iter().map(|step| step.loss.to_bits()).collect();
        (steps, validate(trainer).to_bits())
    };
    assert_eq!(losses(&mut mapped), losses(&mut read));
    mapped.save_checkpoint(go_on).expect("a checkpoint");
    drop(mapped);
    Trainer::resume(place.path("set-run"), &ResumeOptions::default(), go_on).expect("the run");

    // A token that the vocabulary does not have, at a place that is named.
    let mut beyond = train.to_vec();
    beyond[77] = 900;
    write_tokens(&place.path("set/train.bin"), &beyond);
    let says = error(&TrainOptions { out: place.path("beyond"), ..options.clone() });
    assert!(says.contains("train.bin: token 77") && says.contains("is 900"), "{says}");
    // The vocabulary of another set beside the tokens of this one.
    write_tokens(&place.path("set/train.bin"), train);
    fs::write(place.path("set/tokenizer.json"), Tokenizer::bytes().to_json()).expect("a file");
    let says = error(&TrainOptions {
        tokenizer: Some(TokenizerKind::World),
        out: place.path("other"),
        ..options.clone()
    });
    assert!(says.contains("of another tokenizer") && says.contains("256"), "{says}");
}

#[test]
fn tokens_without_a_tokenizer_are_gpt_2_s_or_named() {
    let place = Place::new("unused");
    let tokenizer = Tokenizer::gpt2().expect("it");
    write_tokens(&place.path("a.bin"), &tokenizer.encode(&prose(100)).expect("tokens"));
    let options = TrainOptions { data: place.path("a.bin").into(), ..place.options("run") };
    let trainer = Trainer::create(&options, go_on).expect("a run");
    assert_eq!(trainer.options().tokenizer, Some(TokenizerKind::Gpt2));
    drop(trainer);
    // Two files are one text; a number beyond GPT-2's is none of its tokens.
    let mut writer = TokenWriter::create(place.path("b.bin"), Width::U16).expect("a file");
    writer.push(&[60_000; 500]).expect("tokens");
    writer.finish(Some(65_536)).expect("a file");
    let data = Inputs::from(vec![place.path("a.bin"), place.path("b.bin")]);
    let options = TrainOptions { data, ..place.options("two") };
    assert!(error(&options).contains("name one with tokenizer"), "{}", error(&options));
    let options = TrainOptions { tokenizer: Some(TokenizerKind::World), ..options };
    let trainer = Trainer::create(&options, go_on).expect("a run");
    assert_eq!(trainer.tokenizer().n_vocab(), 65_536);
}

#[test]
fn characters_that_a_new_run_has_not_seen_are_bytes() {
    let place = Place::new(&prose(60));
    let options = TrainOptions { unknown: None, ..place.options("run") };
    let trainer = Trainer::create(&options, go_on).expect("a run");
    assert!(trainer.sample("é日本", 5, rwkv_core::SamplerOptions::default(), go_on).is_ok());
    drop(trainer);
    let options = TrainOptions { unknown: Some(Unknown::Error), ..place.options("plain") };
    let trainer = Trainer::create(&options, go_on).expect("a run");
    let says = trainer.sample("aé", 5, rwkv_core::SamplerOptions::default(), go_on).expect_err("unknown");
    assert!(says.to_string().contains("'é' (U+00E9) at position 1"), "{says}");
}
