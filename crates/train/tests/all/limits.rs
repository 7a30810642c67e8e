//! What a process is told that may take less memory than the machine has.

#![cfg(target_os = "linux")]

use std::process::Command;

use rwkv_core::go_on;
use rwkv_train::{TrainOptions, Trainer};

/// In the process with the limit: the run's number of layers.
const LAYERS: &str = "RWKV_TEST_LAYERS";

#[test]
fn a_run_beyond_the_limit_of_addresses_is_refused_by_its_name_and_one_within_it_runs() {
    if let Ok(n_layer) = std::env::var(LAYERS) {
        in_the_limited_process(n_layer.parse().expect("a number"));
        return;
    }
    for (n_layer, is_refused) in [("4", true), ("1", false)] {
        // KiB: 1.5 GB, far less than any machine that this runs on.
        let output = Command::new("sh")
            .args(["-c", "ulimit -v 1500000 && exec \"$0\" --nocapture --exact \"$1\""])
            .arg(std::env::current_exe().expect("this program"))
            .arg("limits::a_run_beyond_the_limit_of_addresses_is_refused_by_its_name_and_one_within_it_runs")
            .env(LAYERS, n_layer)
            .output()
            .expect("a shell");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{n_layer}: {output:?}");
        let says = "GB: what is left of the limit of this process (ulimit -v)";
        assert_eq!(text.contains(says), is_refused, "{text}");
        assert_eq!(text.contains("this run would take about"), is_refused, "{text}");
        assert_eq!(text.contains("a step was done"), !is_refused, "{text}");
    }
}

/// Says what becomes of a run.
fn in_the_limited_process(n_layer: usize) {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("text");
    std::fs::write(&data, "It was a dark and stormy night; ".repeat(500)).expect("a text");
    let options = TrainOptions {
        n_layer,
        n_embd: 256 * n_layer,
        ctx_len: 64 * n_layer,
        batch_size: 24,
        threads: Some(2),
        ..TrainOptions::new(&data, directory.path().join("run"))
    };
    match Trainer::create(&options, go_on) {
        Ok(mut trainer) => {
            trainer.step(go_on).expect("a step");
            println!("a step was done");
        }
        Err(error) => println!("{error}"),
    }
}
