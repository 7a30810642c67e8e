//! Runs that start from a model that is there already: trained whole or in part, with adapters, or with a
//! state.

use rwkv_core::go_on;
use std::fs;
use std::path::{Path, PathBuf};

use rwkv_core::model::Network;
use rwkv_core::{DataType, LoadOptions, Model, ModelConfig, State, quantize, write_model};
use rwkv_train::{Error, ResumeOptions, TokenizerKind, TrainOptions, Trainer, Tune};
use tempfile::TempDir;

/// A directory with two texts, and a model that was trained on the first of them.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a directory"));
        let line = |i: usize| format!("Line {i}: {} whales and {} ships.", i * i % 97, i * 7 % 13);
        fs::write(place.path("first.txt"), (0..120).map(line).collect::<Vec<_>>().join("\n"))
            .expect("a text");
        let verse = |i: usize| format!("{} thou {} art, {} thine", i * 31 % 11, i * i % 7, i % 5);
        fs::write(place.path("second.txt"), (0..160).map(verse).collect::<Vec<_>>().join("; "))
            .expect("a text");
        let mut trainer = Trainer::create(&place.options("first.txt", "base"), go_on).expect("a run");
        run(&mut trainer);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn options(&self, data: &str, out: &str) -> TrainOptions {
        TrainOptions {
            tokenizer: Some(TokenizerKind::Byte),
            n_layer: 2,
            n_embd: 32,
            ctx_len: 16,
            batch_size: 4,
            max_steps: 40,
            learning_rate: Some(5e-3),
            threads: Some(2),
            ..TrainOptions::new(self.path(data), self.path(out))
        }
    }

    /// Goes on from the base, or from a file of it in another format.
    fn tuned(&self, out: &str, from: &str) -> TrainOptions {
        TrainOptions { from: Some(self.path(from)), ..self.options("second.txt", out) }
    }

    /// A file of the base in another format.
    fn stored(&self, format: DataType) -> &'static str {
        let (base, name) = (self.path("base/model.bin"), "other.bin");
        if format == DataType::F16 {
            let file = rwkv_core::ModelFile::open(&base).expect("the model");
            let values: Vec<_> = (0..file.layout().specs().len()).map(|index| file.read(index)).collect();
            rwkv_core::write_model(self.path(name), file.config(), file.layout(), &values, format)
                .expect("a file");
        } else {
            let go_on = |_, _| std::ops::ControlFlow::Continue(());
            quantize(&base, self.path(name), format, &LoadOptions::default(), go_on).expect("a file");
        }
        name
    }
}

fn run(trainer: &mut Trainer) {
    while !trainer.done() {
        trainer.step(go_on).expect("a step");
    }
    trainer.save_checkpoint(go_on).expect("a checkpoint");
    assert!(trainer.save_model(go_on).expect("a model"));
}

fn validate(trainer: &mut Trainer) -> f32 {
    trainer.validate(go_on).expect("a validation")
}

fn load(path: &Path) -> Model {
    Model::load(path, &LoadOptions { threads: Some(1), ..LoadOptions::default() }).expect("a model")
}

fn logits(model: &Model, state: &State) -> Vec<f32> {
    let tokens = b"thou art ".map(u32::from);
    model.eval_all(&tokens, &mut state.clone()).expect("logits")
}

#[test]
fn a_whole_model_goes_on_learning_from_where_it_was() {
    let place = Place::new();
    for from in ["base", "base/model.bin", place.stored(DataType::F16)] {
        let out = from.replace('/', "-") + "-tuned";
        let mut trainer = Trainer::create(&place.tuned(&out, from), go_on).expect("a run");
        // Raw parameters go through −exp and back.
        let (before, base) = (trainer.model(), load(&place.path(from)));
        let largest = logits(&before, &before.new_state())
            .iter()
            .zip(logits(&base, &base.new_state()))
            .fold(0.0_f32, |largest, (a, b)| largest.max((a - b).abs()));
        assert!(largest < 2e-2, "{from}: {largest}");
        let first = validate(&mut trainer);
        run(&mut trainer);
        let last = validate(&mut trainer);
        assert!(last < first - 0.3, "{from}: from {first} to {last}");
        let model = load(&place.path(&out));
        assert_eq!(logits(&model, &model.new_state()), logits(&trainer.model(), &model.new_state()));
    }
}

#[test]
fn what_is_frozen_stays_to_the_last_bit() {
    let place = Place::new();
    let freeze = Some(vec!["emb.*".to_owned(), "*.att.*".to_owned()]);
    let train = Some(vec!["*.ffn.*".to_owned(), "head.weight".to_owned()]);
    for (out, freeze, train) in [("frozen", freeze, None), ("trained", None, train)] {
        let mut trainer = Trainer::create(&TrainOptions { freeze, train, ..place.tuned(out, "base") }, go_on)
            .expect("a run");
        let before = trainer.params().clone();
        assert!(trainer.n_trained() < trainer.n_params());
        run(&mut trainer);
        for (index, spec) in before.layout().specs().iter().enumerate() {
            let is_frozen = if out == "frozen" {
                spec.name.starts_with("emb.") || spec.name.contains(".att.")
            } else {
                !spec.name.contains(".ffn.") && spec.name != "head.weight"
            };
            assert_eq!(before.stored(index) == trainer.params().stored(index), is_frozen, "{}", spec.name);
        }
        drop(trainer);
        let again = Trainer::resume(place.path(out), &ResumeOptions::default(), go_on).expect("the run");
        assert_eq!(again.steps(), 40);
    }
}

#[test]
fn adapters_learn_over_every_format_and_go_on_bit_for_bit() {
    let place = Place::new();
    for format in DataType::ALL {
        let from = if format == DataType::F32 { "base/model.bin" } else { place.stored(format) };
        let (out, other) = (format!("lora-{format}"), format!("lora-{format}-again"));
        let options =
            |out: &str| TrainOptions { lora_rank: Some(4), checkpoint_interval: 0, ..place.tuned(out, from) };
        let mut trainer = Trainer::create(&options(&out), go_on).expect("a run");
        let first = validate(&mut trainer);
        run(&mut trainer);
        let last = validate(&mut trainer);
        assert!(last < first - 0.2, "{format}: from {first} to {last}");
        assert!(
            trainer.result().ends_with("lora.safetensors") && !place.path(&out).join("model.bin").exists()
        );

        // The same run, stopped and taken up again.
        let mut trainer_again = Trainer::create(&options(&other), go_on).expect("a run");
        for _ in 0..15 {
            trainer_again.step(go_on).expect("a step");
        }
        trainer_again.save_checkpoint(go_on).expect("a checkpoint");
        drop(trainer_again);
        let mut trainer_again =
            Trainer::resume(place.path(&other), &ResumeOptions::default(), go_on).expect("the run");
        assert_eq!(trainer_again.steps(), 15);
        run(&mut trainer_again);
        let adapter = |out: &str| fs::read(place.path(out).join("lora.safetensors")).expect("an adapter");
        assert!(adapter(&out) == adapter(&other), "{format}: resumed");

        let error =
            Trainer::create(&place.tuned("of-adapter", &out), go_on).expect_err("no model").to_string();
        assert!(error.starts_with("from is ") && error.contains("merge the adapter"), "{error}");

        // The base with the adapter is what was trained.
        let base = load(&place.path(from));
        let adapted = base.with_lora(place.path(&out)).expect("the adapter");
        assert_eq!(logits(&adapted, &adapted.new_state()), logits(&trainer.model(), &adapted.new_state()));
        assert_ne!(logits(&adapted, &adapted.new_state()), logits(&base, &base.new_state()));
        assert_eq!(
            adapted.eval(&[1], &mut base.new_state()).expect_err("a state of the base").code(),
            "STATE"
        );
        assert_eq!(adapted.with_lora(place.path(&out)).expect_err("a second").code(), "ADAPTER");
        let another =
            load(&place.path(if format == DataType::F32 { place.stored(DataType::Q8_0) } else { "base" }));
        let error = another.with_lora(place.path(&out)).expect_err("another base").to_string();
        assert!(error.contains("with other weights"), "{error}");
    }
}

#[test]
fn a_state_learns_alone_and_is_one_that_a_model_starts_from() {
    let place = Place::new();
    let options = TrainOptions {
        tune: Tune::State,
        learning_rate: Some(0.02),
        ..place.tuned("state", place.stored(DataType::Q5_1))
    };
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    assert_eq!(trainer.n_trained(), 5 * 2 * 32);
    let first = validate(&mut trainer);
    run(&mut trainer);
    let last = validate(&mut trainer);
    assert!(last < first - 0.02, "from {first} to {last}");
    let base = load(&place.path("other.bin"));
    let state =
        base.state_from_bytes(&fs::read(place.path("state/tuned.state")).expect("a state")).expect("a state");
    assert_eq!(logits(&base, &state), logits(&trainer.model(), &trainer.initial_state(&trainer.model())));
    drop(trainer);
    let again = Trainer::resume(place.path("state"), &ResumeOptions::default(), go_on).expect("the run");
    assert_eq!(again.initial_state(&again.model()), state);
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    struct Case {
        change: fn(&mut TrainOptions),
        name: &'static str,
        says: &'static str,
    }
    let place = Place::new();
    let quantized = place.path(place.stored(DataType::Q4_0));
    let cases = [
        Case { change: |o| o.freeze = Some(vec!["nothing.*".into()]), name: "freeze", says: "att.key" },
        Case { change: |o| o.freeze = Some(vec!["*".into()]), name: "freeze", says: "leave something" },
        Case {
            change: |o| (o.train, o.freeze) = (Some(vec!["*.ffn.*".into()]), Some(vec!["*.ffn.*".into()])),
            name: "freeze",
            says: "all that train names",
        },
        Case { change: |o| o.train = Some(vec!["x".into()]), name: "train", says: "patterns that match" },
        Case { change: |o| o.lora_rank = Some(33), name: "lora_rank", says: "at most 32" },
        Case { change: |o| o.lora_rank = Some(0), name: "lora_rank", says: "" },
        Case { change: |o| (o.lora_rank, o.from) = (Some(4), None), name: "lora_rank", says: "from" },
        Case { change: |o| (o.tune, o.from) = (Tune::State, None), name: "tune", says: "from" },
        Case { change: |o| o.lora_alpha = Some(2.0), name: "lora_alpha", says: "without lora_rank" },
        Case { change: |o| (o.tune, o.carry_state) = (Tune::State, true), name: "carry_state", says: "off" },
        Case { change: |o| o.n_layer = 3, name: "n_layer", says: "that of the model, 2" },
        Case {
            change: |o| o.tokenizer = Some(TokenizerKind::Character),
            name: "tokenizer",
            says: "left out, or byte",
        },
    ];
    for Case { change, name, says } in cases {
        let mut options = place.tuned("refused", "base");
        change(&mut options);
        let error = Trainer::create(&options, go_on).expect_err(name);
        assert!(
            matches!(&error, Error::Rwkv(rwkv_core::Error::InvalidOption { name: n, .. }) if *n == name),
            "{name}: {error}"
        );
        assert!(error.to_string().contains(says), "{error}");
        assert!(!place.path("refused").exists(), "{name}");
    }
    let mut options = place.tuned("refused", "base");
    options.from = Some(quantized.clone());
    let error = Trainer::create(&options, go_on).expect_err("quantized").to_string();
    assert!(error.contains("lora_rank") && error.contains("tune"), "{error}");
    // Without a tokenizer beside the file, 256 tokens are bytes, and 7 are nobody's.
    (options.lora_rank, options.tokenizer) = (Some(2), None);
    let trainer = Trainer::create(&TrainOptions { out: place.path("bytes"), ..options.clone() }, go_on);
    assert_eq!(trainer.expect("a run").options().tokenizer, Some(TokenizerKind::Byte));
    let config = ModelConfig::v4(7, 32, 2);
    let (_, layout, _) = Network::new(&config);
    let values: Vec<_> = layout.specs().iter().map(|spec| vec![0.5; spec.len()]).collect();
    write_model(place.path("other.bin"), &config, &layout, &values, DataType::F32).expect("a file");
    options.from = Some(place.path("other.bin"));
    let error = Trainer::create(&options, go_on).expect_err("another vocabulary").to_string();
    assert!(error.contains("tokenizer.json beside it") && error.contains("7 tokens"), "{error}");
}

#[test]
fn a_run_does_not_go_on_with_another_base() {
    let place = Place::new();
    let base = place.path(place.stored(DataType::F16));
    let options = TrainOptions { lora_rank: Some(2), max_steps: 3, ..place.tuned("lora", "other.bin") };
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    run(&mut trainer);
    drop(trainer);
    let good = fs::read(&base).expect("the base");
    let refused = || {
        let error =
            Trainer::resume(place.path("lora"), &ResumeOptions::default(), go_on).expect_err("another base");
        assert!(error.code() == "RUN", "{error}");
        error.to_string()
    };
    place.stored(DataType::Q8_0);
    assert!(refused().contains("another one now"));
    // One bit of one weight: in the embedding, neither near its ends nor in the middle, and the last weight.
    fs::write(&base, &good).expect("the base");
    let file = rwkv_core::ModelFile::open(&base).expect("the base");
    let embedding = file.tensors().iter().find(|tensor| tensor.name == "emb.weight").expect("an embedding");
    // Behind the tensor's header and its name.
    for at in [embedding.offset + 30 + 5000, good.len() - 2] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        fs::write(&base, bytes).expect("another base");
        assert!(refused().contains("another one now"), "byte {at}");
        let error = load(&base).with_lora(place.path("lora")).expect_err("another base").to_string();
        assert!(error.contains("other weights"), "{error}");
    }
    // An older version's fingerprint is another number, whatever the model.
    fs::write(&base, &good).expect("the base");
    let config = place.path("lora/config.json");
    let text = fs::read_to_string(&config).expect("config.json");
    let start = text.find("\"base\"").expect("a base");
    let quote =
        start + text[start..].find("\",").unwrap_or_else(|| text[start..].rfind('"').expect("an end"));
    let older = format!("{}00000000{}", &text[..quote - 8], &text[quote..]).replacen(
        r#""format": 2"#,
        r#""format": 1"#,
        1,
    );
    fs::write(&config, older).expect("an older run");
    assert!(refused().contains("looked at a part of the weights only"), "{}", refused());
    fs::write(&config, text).expect("config.json");
    fs::remove_file(&base).expect("the base");
    // The same model in another place is the same model.
    let moved = place.path("moved.bin");
    fs::write(&moved, good).expect("the base");
    let from = ResumeOptions { from: Some(moved.clone()), ..ResumeOptions::default() };
    drop(Trainer::resume(place.path("lora"), &from, go_on).expect("the run"));
    let trainer = Trainer::resume(place.path("lora"), &ResumeOptions::default(), go_on).expect("the run");
    assert_eq!(trainer.options().from.as_ref(), Some(&moved));
}

#[test]
fn a_run_does_not_write_over_the_model_that_it_starts_from() {
    let place = Place::new();
    for force in [false, true] {
        let options = TrainOptions { out: place.path("base"), force, ..place.tuned("", "base") };
        let before = fs::read(place.path("base/model.bin")).expect("the base");
        Trainer::create(&options, go_on).expect_err("the base's own directory");
        assert_eq!(fs::read(place.path("base/model.bin")).expect("the base"), before);
        // Without its configuration the directory is none of a run.
        let alone = place.path(&format!("alone-{force}"));
        fs::create_dir(&alone).expect("a directory");
        fs::write(alone.join("model.bin"), &before).expect("a model");
        let options = TrainOptions { from: Some(alone.clone()), out: alone.clone(), ..options };
        let error = Trainer::create(&options, go_on).expect_err("the base's own directory");
        assert!(force == error.to_string().contains("than that of the model to start from"), "{error}");
        assert_eq!(fs::read(alone.join("model.bin")).expect("the base"), before);
    }
}

/// A model as its authors publish it, in the formats that people have: trained whole, by adapters, and by a state.
#[test]
fn checkpoints_of_other_programs_are_bases() {
    let place = Place::new();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/tests/fixtures");
    fs::write(place.path("tokenizer.json"), r#"{"type": "character", "characters": "\n abcdefghijklmn"}"#)
        .expect("a tokenizer");
    let letters = |i: usize| char::from(b'a' + (i * i % 7 + i % 5) as u8);
    fs::write(place.path("letters.txt"), (0..2000).map(letters).collect::<String>()).expect("a text");
    for name in ["tiny-v7.pth", "tiny-v7-official.safetensors", "tiny-v7-fla.safetensors", "tiny-v7.gguf"] {
        fs::copy(fixtures.join(name), place.path(name)).expect("a fixture");
        for (way, rate) in [("whole", 5e-3), ("lora", 2e-2), ("state", 0.1)] {
            let out = format!("{name}-{way}");
            let options = TrainOptions {
                data: place.options("letters.txt", &out).data,
                tokenizer: None,
                max_steps: 20,
                learning_rate: Some(rate),
                lora_rank: (way == "lora").then_some(4),
                tune: if way == "state" { Tune::State } else { Tune::default() },
                checkpoint_interval: 0,
                ..place.tuned(&out, name)
            };
            let base = load(&place.path(name));
            let mut trainer = Trainer::create(&options, go_on).expect("a run");
            let tokens = [2, 9, 4, 15];
            let before = |model: &Model| model.eval_all(&tokens, &mut model.new_state()).expect("logits");
            // Activations meet single-precision values of the weights, whatever their type.
            let (own, expected) = (before(&trainer.model()), before(&base));
            let largest = own.iter().zip(&expected).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(largest < 1e-4, "{out}: {largest}");
            let first = validate(&mut trainer);
            run(&mut trainer);
            let last = validate(&mut trainer);
            println!("{out}: from {first} to {last}");
            assert!(last < first - 0.02, "{out}: from {first} to {last}");
            match way {
                "whole" => {
                    let model = load(&place.path(&out));
                    assert_eq!(before(&model), before(&trainer.model()), "{out}");
                }
                "lora" => {
                    let adapted = base.with_lora(place.path(&out)).expect("the adapter");
                    assert_eq!(before(&adapted), before(&trainer.model()), "{out}");
                }
                _ => {
                    let bytes = fs::read(place.path(&out).join("tuned.state")).expect("a state");
                    let state = base.state_from_bytes(&bytes).expect("a state of the base");
                    assert_eq!(state, trainer.initial_state(&trainer.model()), "{out}");
                }
            }
        }
    }
}
