use super::*;

fn config() -> RunConfig {
    let options = TrainOptions::new("/texts/book.txt", "").resolved();
    RunConfig {
        format: RunConfig::FORMAT,
        model: options.model(256).expect("a shape"),
        options,
        data_crc32: 7,
        base: None,
        bytes_per_token: None,
    }
}

fn create(path: &Path) -> RunDirectory {
    RunDirectory::create(path, config(), Tokenizer::bytes(), &[], false).expect("a new run")
}

fn resume(path: &Path, step: u64) -> RunDirectory {
    RunDirectory::resume(RunDirectory::take(path).expect("a run"), step).expect("the run")
}

#[test]
fn a_run_is_read_as_it_was_written_and_not_overwritten() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a/b");
    assert!(RunDirectory::take(&path).expect_err("no run").to_string().contains("no run to go on with"));
    drop(create(&path));
    let found = RunDirectory::take(&path).expect("a run");
    assert_eq!((&found.config, &found.tokenizer), (&config(), &Tokenizer::bytes()));
    drop(found);
    for file in ["config.json", "checkpoint-3"] {
        let error = RunDirectory::check_free(&path, false).expect_err("a run is there");
        assert!(error.to_string().contains("another directory"), "{error}");
        let error = RunDirectory::create(&path, config(), Tokenizer::bytes(), &[], false)
            .expect_err("a run is there");
        assert!(error.to_string().contains("another directory"), "{error}");
        // What is left of a run is none to begin in.
        fs::create_dir_all(path.join("checkpoint-3")).expect("a checkpoint");
        fs::remove_file(path.join("config.json")).unwrap_or_else(|_| assert_eq!(file, "checkpoint-3"));
    }
}

/// As a kill or a full disk leaves it: `config.json` is written last.
#[test]
fn a_run_that_stopped_as_it_began_can_be_begun_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    drop(create(path));
    let refuse = |tokenizer: &Tokenizer| {
        RunDirectory::create(path, config(), tokenizer.clone(), &[], false)
            .err()
            .map(|error| error.to_string())
    };
    for name in ["config.json", "log.jsonl"] {
        fs::remove_file(path.join(name)).expect("a file");
        RunDirectory::check_free(path, false).expect("a free directory");
        // Of another text: it may be somebody's.
        let other = Tokenizer::characters_of("abc").expect("a tokenizer");
        let refused = refuse(&other).expect("a refusal");
        assert!(refused.contains("holds tokenizer.json"), "{refused}");
    }
    drop(create(path));
    fs::remove_file(path.join("config.json")).expect("a file");
    fs::write(path.join("log.jsonl"), "{}\n").expect("a log");
    assert!(RunDirectory::check_free(path, false).is_err());
    fs::write(path.join("log.jsonl"), "").expect("a log");
    assert_eq!(refuse(&Tokenizer::bytes()), None);
}

#[test]
fn a_damaged_configuration_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(create(directory.path()));
    let file = directory.path().join("config.json");
    let good = fs::read_to_string(&file).expect("config.json");
    for (from, to) in [
        ("{", "["),
        ("\"format\": 2", "\"format\": 3"),
        ("\"format\": 2", "\"format\": 0"),
        ("\"nVocab\": 256", "\"nVocab\": 65"),
        ("\"nLayer\": 4", "\"nLayer\": 4000000000"),
        ("\"beta1\": 0.9", "\"beta1\": 9.0"),
    ] {
        fs::write(&file, good.replacen(from, to, 1)).expect("a damaged file");
        let error = RunDirectory::take(directory.path()).expect_err(to);
        assert!(error.code() == "RUN" && error.to_string().contains("config.json"), "{error}");
    }
}

#[test]
fn what_a_killed_process_left_is_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(create(directory.path()));
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(directory.path()).expect("the run").flatten().map(|e| e.file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    fs::create_dir(directory.path().join(".checkpoint-5.tmp")).expect("a directory");
    fs::write(directory.path().join(".checkpoint-5.tmp/means.f32"), "x").expect("a file");
    fs::write(directory.path().join(".model.bin.x7Yz.tmp"), "x").expect("a file");
    drop(resume(directory.path(), 0));
    assert_eq!(names(), before);
}

fn line(step: u64) -> LogLine {
    LogLine { step, loss: Some(1.5), seconds: 0.25, ..LogLine::default() }
}

#[test]
fn the_log_forgets_what_comes_after_the_checkpoint_and_lines_cut_off() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut run = create(directory.path());
    for step in 1..=5 {
        run.log(&line(step)).expect("a line");
    }
    run.log.write_all(b"{\"step\": 6, \"lo").expect("a line cut off");
    drop(run);
    let mut run = resume(directory.path(), 3);
    run.log(&line(4)).expect("a line");
    assert_eq!(read_log(directory.path()).expect("a log"), (1..=4).map(line).collect::<Vec<_>>());
}

/// Deleted, emptied or replaced: each file alone, and the directory as a whole.
#[test]
fn what_is_missing_is_written_again_with_every_line_of_the_log() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("run");
    let mut run = create(&path);
    let mut step = 0;
    let removals: [&dyn Fn(); 7] = [
        &|| fs::remove_file(path.join("config.json")).expect("config.json"),
        &|| fs::write(path.join("config.json"), "").expect("config.json"),
        &|| fs::remove_file(path.join("tokenizer.json")).expect("tokenizer.json"),
        &|| fs::remove_file(path.join("log.jsonl")).expect("log.jsonl"),
        // In place: it stays the file that the trainer has open.
        &|| fs::write(path.join("log.jsonl"), "").expect("log.jsonl"),
        &|| {
            fs::remove_file(path.join("log.jsonl")).expect("log.jsonl");
            fs::write(path.join("log.jsonl"), "another").expect("another file");
        },
        &|| fs::remove_dir_all(&path).expect("the directory"),
    ];
    for remove in removals {
        remove();
        step += 1;
        run.log(&line(step)).expect("a line");
        run.mend().expect("the rest");
        step += 1;
        run.log(&line(step)).expect("a line");
        assert_eq!(read_log(&path).expect("a log"), (1..=step).map(line).collect::<Vec<_>>());
        assert!(RunDirectory::take(&path).expect_err("held").to_string().contains("training here"));
    }
    drop(run);
    assert_eq!(RunDirectory::take(&path).expect("the run").config, config());
}
