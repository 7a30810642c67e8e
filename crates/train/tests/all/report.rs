//! Reports of runs: that they tell the truth, and nothing that is not theirs to tell.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use crate::common::{Place, prose, run_steps, validate};
use rwkv_core::go_on;
use rwkv_train::report::{RunView, render, write_report, write_report_to};
use rwkv_train::{TrainOptions, Trainer};
use serde_json::{Value, json};

/// A run of 80 steps whose model is that of step 60.
fn run(place: &Place, name: &str) -> PathBuf {
    let path = place.path(name);
    let options = TrainOptions { max_steps: 80, ..place.options(name) };
    let mut trainer = Trainer::create(&options, go_on).expect("a run");
    run_steps(&mut trainer, 2);
    validate(&mut trainer);
    trainer.save_model(go_on).expect("a model");
    drop(trainer);
    let mut log = String::new();
    for step in 1..=80 {
        let (loss, seconds) = (4.0 - 0.01 * f64::from(step), 0.5 * f64::from(step));
        let line =
            json!({"step": step, "loss": loss, "learningRate": 1e-3, "gradNorm": 0.7, "seconds": seconds});
        writeln!(log, "{line}").expect("a line");
        if step % 20 == 0 {
            let loss = [2.9, 2.8, 2.740, 2.748][step as usize / 20 - 1];
            writeln!(log, "{}", json!({"step": step, "valLoss": loss, "seconds": seconds})).expect("a line");
        }
    }
    fs::write(path.join("log.jsonl"), log).expect("a log");
    record(&path, 60, 2.740);
    let samples = [(20, "to"), (60, "be or n"), (80, "too late to be"), (99, "undone")];
    let samples =
        samples.map(|(step, text)| json!({"step": step, "prompt": "not ", "text": text}).to_string());
    fs::write(path.join("samples.jsonl"), samples.join("\n")).expect("samples");
    path
}

/// Records of which step the run's model is.
fn record(run: &std::path::Path, step: u64, loss: f64) {
    let model = fs::read(run.join("model.bin")).expect("a model");
    let kept = json!({
        "file": "model.bin", "bytes": model.len(), "crc32": crc32(&model), "step": step, "valLoss": loss,
        "isSound": true, "optionsCrc32": 1, "dataCrc32": 2, "tokenizerCrc32": 3,
    });
    // The other one is of a file that is no longer there.
    let old = json!({
        "file": "model.bin", "bytes": 3, "crc32": 7, "step": 20, "valLoss": 2.9, "isSound": true,
        "optionsCrc32": 1, "dataCrc32": 2, "tokenizerCrc32": 3,
    });
    fs::write(run.join("result.json"), json!({"format": 1, "results": [old, kept]}).to_string())
        .expect("a record");
}

/// Bit by bit, as its definition is.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    })
}

fn page(run: &std::path::Path) -> String {
    render(&[RunView::read(run).expect("a run")])
}

/// What the page's script draws.
fn data(page: &str) -> Value {
    let (_, rest) = page.split_once(r#"id="data">"#).expect("data");
    serde_json::from_str(rest.split_once("</script>").expect("its end").0).expect("JSON")
}

/// What a reader sees: without markup, styles and scripts.
fn words(page: &str) -> String {
    let body = page.split_once("<body>").expect("a body").1.split_once("<script>").expect("a script").0;
    let text: String =
        body.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text)).collect();
    text.replace('\n', " ")
}

#[test]
fn it_tells_of_the_model_that_is_there_and_not_of_the_last_one() {
    let place = Place::new(&prose(120));
    let run = run(&place, "run");
    write_report(&run).expect("a report");
    let page = fs::read_to_string(run.join("report.html")).expect("the report");
    let words = words(&page);
    assert!(
        words.contains("model.bin is the model of step 60 of 80. Its validation loss is 2.740."),
        "{words}"
    );
    assert!(words.contains("Validation loss2.740model.bin, of step 60 of 80"), "{words}");
    assert!(words.contains("Last validation2.748after step 80 of 80"), "{words}");
    assert!(words.contains("Bits per byte3.953of the validation text"), "{words}");
    assert!(words.contains("Perplexity15.49per character"), "{words}");
    // Its sample is the large one, without the word that was cut; that of a step that was undone is gone.
    assert!(
        words.contains("By model.bin, the model of step 60; it was given the words in colour. not be or …"),
        "{words}"
    );
    assert!(words.contains("Step 80") && words.contains("Step 20") && !words.contains("undone"), "{words}");
    let drawn = &data(&page)["runs"][0];
    assert_eq!(drawn["kept"], json!({"step": 60, "seconds": 30, "label": "model.bin: step 60"}));
    assert_eq!(drawn["val"]["y"], json!([2.9, 2.8, 2.74, 2.748]));
    assert!((drawn["speed"]["y"][5].as_f64().expect("a speed") - 2.0 * 36.0).abs() < 1.0);

    record(&run, 40, 2.8);
    let page = self::page(&run);
    assert!(
        self::words(&page)
            .contains("By the model of step 80, which is not the one in model.bin; it was given")
    );
    record(&run, 60, 2.740);
    assert!(!words.contains("worse than guessing"), "{words}");
    let told = fs::read_to_string(run.join("result.json")).expect("the record");
    fs::write(run.join("result.json"), told.replace("\"isSound\":true", "\"isSound\":false"))
        .expect("a record");
    assert!(self::words(&self::page(&run)).contains("It is worse than guessing."));
    fs::write(run.join("result.json"), told).expect("the record");

    let summary = RunView::read(&run).expect("a run").summary();
    assert_eq!((summary.steps, summary.max_steps, summary.tokens.to_bits()), (80, 80, 2880_f64.to_bits()));
    assert_eq!(summary.kept.map(|kept| kept.step), Some(60));
    assert_eq!(summary.val_loss.map(|last| last.step), Some(80));
    let names: Vec<_> = summary.options.keys().map(String::as_str).collect();
    assert_eq!(names, ["batchSize", "ctxLen", "data", "maxSteps", "nEmbd", "nLayer", "precision"]);
}

#[test]
fn nothing_is_said_of_a_model_that_is_not_the_recorded_one() {
    let place = Place::new(&prose(120));
    let run = run(&place, "run");
    let changes: [&dyn Fn(); 3] = [
        &|| {
            let mut model = fs::read(run.join("model.bin")).expect("a model");
            *model.last_mut().expect("a byte") ^= 1;
            fs::write(run.join("model.bin"), model).expect("another model");
        },
        &|| fs::write(run.join("result.json"), "{").expect("half a record"),
        &|| fs::remove_file(run.join("result.json")).expect("no record"),
    ];
    for change in changes {
        change();
        let page = page(&run);
        assert!(words(&page).contains(
            "Nothing says of which step model.bin is. The lowest validation loss of the run was 2.740, after step 60."
        ));
        assert_eq!(data(&page)["runs"][0]["kept"], Value::Null);
    }
    fs::remove_file(run.join("model.bin")).expect("no model");
    assert!(words(&page(&run)).contains("The run has written no model yet."));
}

#[test]
fn texts_are_no_markup_and_paths_of_the_machine_are_not_told() {
    let place = Place::new(&prose(120));
    let hostile = "a\"><script>alert(1)<script>\u{1b}[31m'&amp;";
    let run = run(&place, hostile);
    let text = "</script><img src=x onerror=alert(1)> \u{1b}]0;x\u{7} end";
    fs::write(run.join("samples.jsonl"), json!({"step": 60, "prompt": "<b>\"", "text": text}).to_string())
        .expect("samples");
    let config = fs::read_to_string(run.join("config.json")).expect("a configuration");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    config["options"]["data"] = json!("/home/me/secret/</script><b>.txt");
    config["options"]["from"] = json!("/home/me/secret/runs/base<i>/model.bin");
    config["options"]["freeze"] = json!(["<u>*", "' onclick='"]);
    fs::write(run.join("config.json"), config.to_string()).expect("a configuration");
    let page = page(&run);
    for markup in
        ["<script>alert", "<img", "<b>.txt", "<i>/", "base<i>", "<u>*", "\u{1b}", "\u{7}", "onclick='"]
    {
        assert!(!page.contains(markup), "{markup:?}");
    }
    // The library, the data and the page's own.
    assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (3, 3));
    assert_eq!(data(&page)["runs"][0]["name"], json!(hostile));
    let here = place.path("").to_string_lossy().into_owned();
    assert!(
        !page.contains("secret") && !page.contains("/home") && !page.contains(here.trim_end_matches('/'))
    );
    assert!(page.contains("base&lt;i&gt;") && page.contains("Fine-tuned from"));
}

#[test]
fn a_run_of_which_little_is_there_has_a_report() {
    let place = Place::new(&prose(120));
    let run = run(&place, "run");
    for file in ["log.jsonl", "samples.jsonl", "tokenizer.json", "result.json", "model.bin"] {
        fs::remove_file(run.join(file)).expect(file);
        page(&run);
    }
    let view = RunView::read(&run).expect("a run");
    assert_eq!((view.last_step(), view.best(), view.samples.len()), (0, None, 0));
    let refused = [("{}", "not a run's configuration"), ("", "not a run's configuration")];
    for (config, says) in refused {
        fs::write(run.join("config.json"), config).expect("a configuration");
        let error = RunView::read(&run).expect_err(says);
        assert!(error.code() == "RUN" && error.to_string().contains(says), "{error}");
        assert!(error.to_string().contains("config.json"), "{error}");
    }
    fs::remove_file(run.join("config.json")).expect("no configuration");
    assert!(RunView::read(&run).expect_err("no run").to_string().contains("there is no run here"));
    assert!(RunView::read(place.path("nowhere")).is_err());
}

#[test]
fn sizes_that_no_run_has_are_refused_before_anything_is_computed() {
    let place = Place::new(&prose(120));
    let run = run(&place, "run");
    let config = fs::read_to_string(run.join("config.json")).expect("a configuration");
    for (part, name) in
        [("model", "nLayer"), ("model", "nFfn"), ("options", "ctxLen"), ("options", "batchSize")]
    {
        for size in [json!(0), json!(u64::MAX), json!(1 << 30)] {
            let mut config: Value = serde_json::from_str(&config).expect("JSON");
            config[part][name] = size.clone();
            fs::write(run.join("config.json"), config.to_string()).expect("a configuration");
            let error = RunView::read(&run).expect_err("sizes").to_string();
            assert!(error.contains("config.json"), "{name} {size}: {error}");
        }
    }
    // The largest there are take no memory.
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    for name in ["nLayer", "nEmbd", "nFfn", "nVocab"] {
        config["model"][name] = json!(1 << 24);
    }
    fs::write(run.join("config.json"), config.to_string()).expect("a configuration");
    let view = RunView::read(&run).expect("a run");
    assert!(view.parameters() > 1e20 && view.trained_parameters().is_none());
    page(&run);
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_not_waited_for() {
    let place = Place::new(&prose(120));
    for name in ["config.json", "log.jsonl", "samples.jsonl", "tokenizer.json"] {
        let run = run(&place, name);
        let file = run.join(name);
        fs::remove_file(&file).expect("a file");
        let made = std::process::Command::new("mkfifo").arg(&file).status().expect("mkfifo");
        assert!(made.success());
        let error = RunView::read(&run).expect_err("a pipe").to_string();
        assert!(error.contains(name) && error.contains("not a regular file"), "{error}");
    }
}

#[test]
fn a_log_that_was_resumed_or_cut_off_is_read_as_one() {
    let place = Place::new(&prose(120));
    let run = run(&place, "run");
    let mut log = fs::read_to_string(run.join("log.jsonl")).expect("a log");
    // Steps 71 to 75 a second time, with an hour beside the steps, and half a line.
    for step in 71..=75 {
        let line = json!({"step": step, "loss": 9.0, "seconds": 40.0, "clock": 3600.0});
        writeln!(log, "{line}").expect("a line");
    }
    log.push_str("{\"step\": 81, \"lo");
    fs::write(run.join("log.jsonl"), log).expect("a log");
    let drawn = data(&page(&run));
    let steps = drawn["runs"][0]["loss"]["step"].as_array().expect("steps");
    assert_eq!(steps, &(1..=80).map(Value::from).collect::<Vec<_>>());
    assert_eq!(
        (&drawn["runs"][0]["loss"]["y"][69], &drawn["runs"][0]["loss"]["y"][72]),
        (&json!(3.3), &json!(9))
    );
}

#[test]
fn a_long_run_has_a_small_page_that_keeps_its_extremes() {
    let place = Place::new(&prose(120));
    let run = run(&place, "run");
    let mut log = String::new();
    for step in 1..=250_000_u32 {
        let spike = if step == 123_457 { 55.0 } else { 0.0 };
        let loss = 2.0 + 2.0 / f64::from(step) + f64::from(step * 7919 % 1009) / 5000.0 + spike;
        let seconds = 0.01 * f64::from(step);
        writeln!(
            log,
            r#"{{"step":{step},"loss":{loss},"learningRate":0.001,"gradNorm":{loss},"seconds":{seconds}}}"#
        )
        .expect("a line");
        if step % 4 == 0 {
            let loss = if step == 200_000 { 1.25 } else { loss + 0.1 };
            writeln!(log, r#"{{"step":{step},"valLoss":{loss},"seconds":{seconds}}}"#).expect("a line");
        }
    }
    fs::write(run.join("log.jsonl"), log).expect("a log");
    let page = page(&run);
    assert!(page.len() < 600_000, "{} bytes", page.len());
    let drawn = data(&page);
    for key in ["loss", "trend", "val", "rate", "norm", "speed"] {
        let steps = drawn["runs"][0][key]["step"].as_array().expect("steps").len();
        assert!((100..=2000).contains(&steps), "{key}: {steps}");
    }
    let has = |key: &str, value: f64| {
        drawn["runs"][0][key]["y"].as_array().expect("values").iter().any(|it| it.as_f64() == Some(value))
    };
    assert!(has("val", 1.25));
    assert!(
        drawn["runs"][0]["loss"]["y"].as_array().expect("values").iter().any(|it| it.as_f64() > Some(55.0))
    );
    // The spike does not flatten the rest, and the lowest validation is on the axis.
    let range = drawn["range"].as_array().expect("a range");
    assert!(range[0].as_f64() < Some(1.25) && range[1].as_f64() < Some(4.0), "{range:?}");
}

#[test]
fn several_runs_are_compared_in_bits_a_byte_where_that_can_be_said() {
    let place = Place::new(&prose(120));
    let runs = ["one", "two"].map(|name| run(&place, name));
    let out = place.path("both.html");
    write_report_to(&runs, &out, false).expect("a report");
    let page = fs::read_to_string(&out).expect("a report");
    let words = words(&page);
    assert!(words.contains("2 runs") && words.contains("Validation loss in bits a byte"), "{words}");
    assert_eq!(data(&page)["runs"][1]["val"]["y"][2], json!(3.953));
    // Tokens of two bytes, as the run says.
    let config = fs::read_to_string(runs[1].join("config.json")).expect("a configuration");
    let mut config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    config["bytesPerToken"] = json!(2.0);
    fs::write(runs[1].join("config.json"), config.to_string()).expect("a configuration");
    write_report_to(&runs, &out, false).expect("a report in the place of a report");
    let page = fs::read_to_string(&out).expect("a report");
    assert!(page.contains("Validation loss in bits a byte"));
    assert_eq!(data(&page)["runs"][0]["val"]["y"][2], json!(3.953));
    assert_eq!(data(&page)["runs"][1]["val"]["y"][2], json!(1.9765));
    // A character that is two bytes, in a run of before it was said how many bytes a token is.
    config.as_object_mut().expect("an object").remove("bytesPerToken");
    fs::write(runs[1].join("config.json"), config.to_string()).expect("a configuration");
    let tokenizer = fs::read_to_string(runs[1].join("tokenizer.json")).expect("a tokenizer");
    fs::write(runs[1].join("tokenizer.json"), tokenizer.replace('L', "é")).expect("a tokenizer");
    write_report_to(&runs, &out, false).expect("a report in the place of a report");
    let page = fs::read_to_string(&out).expect("a report");
    assert!(page.contains("in nats a token") && page.contains("cannot be compared"));
    assert_eq!(data(&page)["runs"][1]["val"]["y"][2], json!(2.74));
}

#[test]
fn a_file_that_is_no_report_is_replaced_only_by_force() {
    let place = Place::new(&prose(120));
    let run = run(&place, "run");
    let out = place.path("notes.html");
    fs::write(&out, "<!doctype html>\n<p>mine").expect("a file");
    let error = write_report_to(&[&run], &out, false).expect_err("a file of somebody else");
    assert!(error.code() == "RUN" && error.to_string().contains("no report of rwkv"), "{error}");
    assert_eq!(fs::read_to_string(&out).expect("the file"), "<!doctype html>\n<p>mine");
    write_report_to(&[&run], &out, true).expect("a report");
    write_report_to(&[&run], &out, false).expect("a report again");
    assert!(write_report_to(&[&run], &place.path(""), true).is_err());
}

#[test]
fn a_file_called_like_a_checkpoint_is_not_told_as_one() {
    let place = Place::new(&prose(120));
    let run = run(&place, "run");
    fs::create_dir(run.join("checkpoint-60")).expect("a directory");
    fs::write(run.join("checkpoint-70"), "mine").expect("a file");
    assert_eq!(RunView::read(&run).expect("a run").checkpoints, [60]);
}
