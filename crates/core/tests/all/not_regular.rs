//! A pipe under the name of a file that is read: refused at once, not waited for.
#![cfg(unix)]

use std::ops::ControlFlow::Continue;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use rwkv_core::lora::{self, LoraInfo};
use rwkv_core::{DataType, Error, LoadOptions, Model, ModelFile, quantize};

#[test]
fn every_reader_refuses_a_pipe() {
    type Reader = fn(&Path) -> Result<(), Error>;
    let readers: [(&str, Reader); 5] = [
        ("lora.safetensors", |run| LoraInfo::read(run).map(drop)),
        ("model.bin", |run| Model::load(run, &LoadOptions::default()).map(drop)),
        ("model.bin", |run| ModelFile::open(run.join("model.bin")).map(drop)),
        ("model.bin", |run| {
            let out = run.join("out");
            quantize(run, out, DataType::Q8_0, &LoadOptions::default(), |_, _| Continue(())).map(drop)
        }),
        ("model.bin", |run| lora::merge(run, run, run.join("out"), |_, _| Continue(())).map(drop)),
    ];
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["lora.safetensors", "model.bin"] {
        let made = Command::new("mkfifo").arg(directory.path().join(name)).status();
        assert!(made.expect("mkfifo").success());
    }
    for (name, read) in readers {
        let (tell, told) = mpsc::channel();
        let run = directory.path().to_owned();
        // In a thread of its own, so that a reader that waits for the pipe is a failure and no hanging test.
        std::thread::spawn(move || tell.send(read(&run)));
        let result = told.recv_timeout(Duration::from_secs(60)).expect("an answer instead of waiting");
        let message = result.expect_err("a pipe").to_string();
        assert!(message.contains(name) && message.contains("it is a pipe, not a regular file"), "{message}");
    }
}
