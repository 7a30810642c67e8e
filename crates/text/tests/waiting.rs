//! Whoever waits for a pipe can be stopped, and gets all that comes in the end.
//!
//! The tests depend on no time: where waiting cannot be stopped, they do not end.

#![cfg(unix)]
#![allow(clippy::unwrap_used)] // the helpers of tests are no tests to clippy

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use rwkv_core::{Error, go_on};
use rwkv_text::documents::read_documents;
use rwkv_text::prepare::{PrepareOptions, Recipe, prepare, train_bpe};
use rwkv_text::source::{Kind, Position, SourceOptions, Sources};

/// Breaks when it is asked for the fifth time.
fn fifth<T>() -> impl FnMut(T) -> ControlFlow<()> {
    let mut asked = 0;
    move |_| {
        asked += 1;
        if asked == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn documents_of(path: &Path) -> Result<String, Error> {
    let mut stop = fifth();
    let control = |done, total| stop((done, total));
    read_documents(&[path.into()], &SourceOptions::default(), false, |_| (), control)
        .map(|documents| String::from_utf8(documents[0].text.clone()).unwrap())
}

/// The text in pieces, between which the reader finds nothing for longer than it waits at a time.
fn write_slowly(mut pipe: impl Write, text: &str) {
    for part in text.as_bytes().chunks(text.len().div_ceil(3)) {
        std::thread::sleep(Duration::from_millis(120));
        pipe.write_all(part).unwrap();
        pipe.flush().unwrap();
    }
}

const LINES: &str = "{\"text\": \"ä\"}\n\n{\"text\": \"日本\"}\n";

fn pipe_in(directory: &Path) -> PathBuf {
    let pipe = directory.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    pipe
}

#[test]
fn waiting_for_a_pipe_can_be_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = pipe_in(directory.path());
    // Without a writer.
    assert_eq!(documents_of(&pipe).unwrap_err().code(), "ABORTED");
    // With one that says nothing.
    let silent = File::options().read(true).write(true).open(&pipe).unwrap();
    assert_eq!(documents_of(&pipe).unwrap_err().code(), "ABORTED");
    drop(silent);
    std::thread::scope(|scope| {
        scope.spawn(|| write_slowly(File::options().write(true).open(&pipe).unwrap(), LINES));
        let read =
            read_documents(&[(&pipe).into()], &SourceOptions::default(), false, |_| (), go_on).unwrap();
        assert_eq!(read[0].text, LINES.as_bytes());
    });
}

const TASK: &str = "RWKV_TEST_STANDARD_INPUT";

/// This test once more, in a process of its own whose standard input is known.
fn start(test: &str, task: &str) -> (Child, ChildStdin) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(TASK, task)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    (child, stdin)
}

fn stdin(kind: Kind) -> Sources {
    let options = SourceOptions { stdin: kind, ..SourceOptions::default() };
    Sources::find(&["-".to_owned()], &options).unwrap()
}

#[test]
fn waiting_for_standard_input_can_be_stopped() {
    let name = "waiting_for_standard_input_can_be_stopped";
    let stop_pieces = |kind| {
        let mut stop = fifth();
        let mut pieces = stdin(kind).pieces(Position::default());
        let error = pieces.next_with(&mut || stop(())).unwrap().unwrap_err();
        assert!(pieces.next().is_none());
        error
    };
    let directory = tempfile::tempdir().unwrap();
    let error = match std::env::var(TASK).as_deref() {
        Ok("text") => stop_pieces(Kind::Text),
        Ok("lines") => stop_pieces(Kind::JsonLines),
        Ok("documents") => documents_of(Path::new("-")).unwrap_err(),
        Ok("bpe") => train_bpe(&stdin(Kind::Text), 300, 2, fifth()).unwrap_err(),
        Ok("prepare") => {
            let options = PrepareOptions::new(directory.path().join("out"));
            prepare(&Recipe::Inputs(vec!["-".to_owned()]), &options, fifth()).unwrap_err()
        }
        _ => {
            for task in ["text", "lines", "documents", "bpe", "prepare"] {
                let (mut child, mut stdin) = start(name, task);
                // The beginning of a line, and nothing after it.
                stdin.write_all(b"{\"text\": ").unwrap();
                assert!(child.wait().unwrap().success(), "{task}");
            }
            return;
        }
    };
    assert_eq!(error.code(), "ABORTED", "{error}");
}

#[test]
fn what_comes_slowly_comes_whole() {
    let read = |kind| {
        let pieces = stdin(kind).pieces(Position::default());
        pieces.map(|piece| String::from_utf8(piece.unwrap().text).unwrap()).collect::<Vec<_>>()
    };
    match std::env::var(TASK).as_deref() {
        Ok("text") => assert_eq!(read(Kind::Text), [LINES]),
        Ok("lines") => assert_eq!(read(Kind::JsonLines), ["ä", "日本"]),
        _ => {
            for task in ["text", "lines"] {
                let (mut child, stdin) = start("what_comes_slowly_comes_whole", task);
                write_slowly(stdin, LINES);
                assert!(child.wait().unwrap().success(), "{task}");
            }
        }
    }
}
