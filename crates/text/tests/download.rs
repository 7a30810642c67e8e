//! Downloads from a server in this process, which answers as it is told to.
#![cfg(feature = "download")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rwkv_core::{Control, Error, Result, go_on};
use rwkv_text::download::{DownloadOptions, download_with};
use tempfile::TempDir;

/// SHA-256 of `abcdefghij`, a thousand times, by sha256sum of coreutils.
const SHA256: &str = "dce9b45e4f753351e0334bbae236195ad216b15c9b29fa0872dadd83cd10854d";

fn content() -> Vec<u8> {
    b"abcdefghij".repeat(1000)
}

/// What the server does with one connection: sends this, after a pause, and closes it.
struct Answer {
    bytes: Vec<u8>,
    pause: Duration,
}

fn answer(head: &str, body: &[u8]) -> Answer {
    let head = format!("HTTP/1.1 {}\r\nConnection: close\r\n\r\n", head.replace('\n', "\r\n"));
    Answer { bytes: [head.as_bytes(), body].concat(), pause: Duration::ZERO }
}

/// All of the content, under a mark.
fn whole() -> Answer {
    answer("200 OK\nContent-Length: 10000\nETag: \"one\"", &content())
}

/// A server's address, and the requests that it got.
fn serve(answers: Vec<Answer>) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let (sender, requests) = channel();
    std::thread::spawn(move || {
        for Answer { bytes, pause } in answers {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut lines = BufReader::new(stream.try_clone().expect("a socket"));
            let mut request = String::new();
            loop {
                let start = request.len();
                while !request.ends_with("\r\n\r\n") || request.len() == start {
                    if lines.read_line(&mut request).unwrap_or(0) == 0 {
                        break;
                    }
                }
                // A proxy is first asked for a connection, on which it then gets the request itself.
                if start > 0 || !request.starts_with("CONNECT ") {
                    break;
                }
                stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").expect("a socket");
            }
            let _ = sender.send(request.to_ascii_lowercase());
            std::thread::sleep(pause);
            let _ = stream.write_all(&bytes);
        }
    });
    (address, requests)
}

fn options() -> DownloadOptions {
    DownloadOptions {
        retries: 2,
        wait: Duration::from_millis(10),
        silence: Duration::from_secs(20),
        environment_proxies: false,
    }
}

struct Target {
    directory: TempDir,
    path: PathBuf,
}

fn target() -> Target {
    let directory = tempfile::tempdir().expect("a directory");
    Target { path: directory.path().join("a.bin"), directory }
}

impl Target {
    fn get(&self, url: &str, sha256: Option<&str>) -> Result<()> {
        self.get_with(url, sha256, go_on)
    }

    fn get_with(&self, url: &str, sha256: Option<&str>, control: impl Control) -> Result<()> {
        download_with(url, &self.path, sha256, &options(), control)
    }

    #[track_caller]
    fn is_whole_and_alone(&self) {
        assert!(std::fs::read(&self.path).expect("the file") == content());
        assert_eq!(self.names(), ["a.bin"]);
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path()).expect("a directory");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        names
    }

    fn partial(&self) -> PathBuf {
        Path::new(&format!("{}.partial", self.path.display())).to_owned()
    }
}

#[track_caller]
fn says(result: Result<()>, url: &str, what: &str) {
    let error = result.expect_err(what).to_string();
    for part in [url, what, "fetched by other means and named with --from"] {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

#[test]
fn a_file_is_downloaded_once() {
    let (url, requests) = serve(vec![whole(), whole()]);
    let target = target();
    let mut told = Vec::new();
    let control = |done, total| {
        told.push((done, total));
        ControlFlow::Continue(())
    };
    target.get_with(&url, Some(SHA256), control).expect("a file");
    target.is_whole_and_alone();
    assert!(told.is_sorted() && told.last().is_some_and(|&last| last == (10_000, 10_000)), "{told:?}");
    let request = requests.recv().expect("a request");
    assert!(!request.contains("range:") && request.contains("user-agent: rwkv/"), "{request}");
    // It is there: the server is not asked.
    target.get(&url, Some(&SHA256.to_uppercase())).expect("the file");
    assert!(requests.try_recv().is_err());
    // A damaged one is replaced, and without a checksum nothing is known of it.
    std::fs::write(&target.path, "damaged").expect("a file");
    target.get(&url, Some(SHA256)).expect("a file");
    target.is_whole_and_alone();
    assert!(requests.recv().is_ok());
}

#[test]
fn a_cut_is_gone_on_from() {
    let (mut cut, content) = (whole(), content());
    cut.bytes.truncate(cut.bytes.len() - 6000);
    let rest = answer(
        "206 Partial Content\nContent-Length: 6000\nContent-Range: bytes 4000-9999/10000\nETag: \"one\"",
        &content[4000..],
    );
    for sha256 in [Some(SHA256), None] {
        let answers =
            [&cut, &rest].map(|answer| Answer { bytes: answer.bytes.clone(), pause: Duration::ZERO });
        let (url, requests) = serve(answers.into());
        let target = target();
        target.get(&url, sha256).expect("a file");
        target.is_whole_and_alone();
        assert!(!requests.recv().expect("a request").contains("range:"));
        let request = requests.recv().expect("a request");
        assert!(request.contains("\r\nrange: bytes=4000-\r\n"), "{request}");
        assert!(request.contains("\r\nif-range: \"one\"\r\n"), "{request}");
    }
}

#[test]
fn a_stopped_download_is_gone_on_from_by_the_next() {
    let (mut cut, content) = (whole(), content());
    cut.bytes.truncate(cut.bytes.len() - 6000);
    let target = target();
    let rest = answer(
        "206 Partial Content\nContent-Range: bytes 4000-9999/10000\nContent-Length: 6000",
        &content[4000..],
    );
    let (url, requests) = serve(vec![cut, rest]);
    let mut pieces = 0;
    let stopped = target.get_with(&url, None, |done, _| {
        pieces = done;
        if done == 4000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(Error::Aborted)) && pieces == 4000);
    assert_eq!(target.names(), ["a.bin.partial", "a.bin.partial.json"]);
    target.get(&url, None).expect("a file");
    target.is_whole_and_alone();
    assert!(requests.iter().nth(1).expect("a request").contains("if-range: \"one\""));
}

#[test]
fn bytes_of_another_address_are_not_gone_on_from() {
    let target = target();
    for beside in [None, Some("{\"address\":\"00\",\"mark\":\"\\\"one\\\"\",\"total\":10000}"), Some("{")] {
        std::fs::write(target.partial(), "something else").expect("a file");
        if let Some(json) = beside {
            std::fs::write(format!("{}.json", target.partial().display()), json).expect("a file");
        }
        let (url, requests) = serve(vec![whole()]);
        target.get(&url, None).expect("a file");
        target.is_whole_and_alone();
        assert!(!requests.recv().expect("a request").contains("range:"));
    }
}

#[test]
fn a_server_without_parts_sends_all_again() {
    let mut cut = whole();
    cut.bytes.truncate(cut.bytes.len() - 1);
    let (url, _requests) = serve(vec![cut, whole()]);
    let target = target();
    target.get(&url, Some(SHA256)).expect("a file");
    target.is_whole_and_alone();
}

#[test]
fn all_of_it_but_the_name_was_there() {
    let target = target();
    let (url, requests) = serve(vec![
        answer("200 OK\nContent-Length: 10001", &content()),
        answer("416 Range Not Satisfiable\nContent-Range: bytes */10000\nContent-Length: 0", b""),
    ]);
    target.get(&url, Some(SHA256)).expect("a file");
    target.is_whole_and_alone();
    assert!(requests.iter().nth(1).expect("a request").contains("range: bytes=10000-"));
}

#[test]
fn halves_of_two_files_are_found_out() {
    let mut cut = answer("200 OK\nContent-Length: 10000", &[b'x'; 10_000]);
    cut.bytes.truncate(cut.bytes.len() - 6000);
    let rest = answer(
        "206 Partial Content\nContent-Range: bytes 4000-9999/10000\nContent-Length: 6000",
        &content()[4000..],
    );
    let (url, requests) = serve(vec![cut, rest, whole()]);
    let target = target();
    target.get(&url, Some(SHA256)).expect("a file");
    target.is_whole_and_alone();
    assert!(!requests.iter().nth(2).expect("a request").contains("range:"));
}

#[test]
fn another_file_than_expected_is_refused() {
    let (url, _requests) = serve(vec![answer("200 OK\nContent-Length: 3", b"abc")]);
    let target = target();
    // SHA-256 of "abc", from FIPS 180-4.
    let found = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    says(target.get(&url, Some(SHA256)), &url, &format!("its SHA-256 is {found}, and it must be {SHA256}"));
    assert!(target.names().is_empty());
}

#[test]
fn what_will_not_pass_is_not_tried_again() {
    for (head, what) in [
        ("404 Not Found\nContent-Length: 0", "the server answered 404 Not Found;"),
        ("403 Forbidden\nContent-Length: 0", "the server answered 403 Forbidden;"),
    ] {
        let (url, requests) = serve(vec![answer(head, b"")]);
        let target = target();
        std::fs::write(&target.path, "old").expect("a file");
        says(target.get(&url, None), &url, what);
        assert_eq!(requests.iter().count(), 1);
        assert_eq!(std::fs::read(&target.path).expect("the file"), b"old");
    }
    let target = target();
    for (url, what) in [("ftp://host/file", "ftp"), ("no address", "")] {
        says(target.get(url, None), url, what);
    }
    for wrong in ["", "abc", &"é".repeat(32), &SHA256[1..], &format!("+{}", &SHA256[1..])] {
        let error = target.get("http://127.0.0.1:1/", Some(wrong)).expect_err("no checksum");
        assert_eq!(error.code(), "INVALID_OPTION");
    }
}

#[test]
fn what_may_pass_is_tried_again_some_times() {
    let busy = || answer("503 Service Unavailable\nContent-Length: 0", b"");
    let (url, _requests) = serve(vec![busy(), busy(), whole()]);
    let ours = target();
    ours.get(&url, Some(SHA256)).expect("the third time");
    ours.is_whole_and_alone();
    let (url, requests) = serve(vec![busy(), busy(), busy()]);
    says(target().get(&url, None), &url, "the server answered 503 Service Unavailable; tried 3 times");
    assert_eq!(requests.iter().count(), 3);
    // Nobody listens.
    let url = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        format!("http://{}", listener.local_addr().expect("an address"))
    };
    says(target().get(&url, None), &url, "tried 3 times");
    // Closed without a word.
    let (url, _requests) =
        serve((0..3).map(|_| Answer { bytes: Vec::new(), pause: Duration::ZERO }).collect());
    says(target().get(&url, None), &url, "tried 3 times");
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let (there, _requests) = serve(vec![whole()]);
    let head = format!("302 Found\nLocation: {there}/file\nContent-Length: 0");
    let (url, _requests) = serve(vec![answer(&head, b"")]);
    let ours = target();
    ours.get(&url, Some(SHA256)).expect("a file");
    ours.is_whole_and_alone();
    let round = || answer("302 Found\nLocation: /again\nContent-Length: 0", b"");
    let (url, requests) = serve((0..30).map(|_| round()).collect());
    says(target().get(&url, None), &url, "redirects");
    drop(requests);
}

#[test]
fn a_slow_server_keeps_nobody_from_stopping_and_a_silent_one_is_left() {
    let slow = || Answer { pause: Duration::from_secs(5), ..whole() };
    let (url, _requests) = serve(vec![slow()]);
    let begin = Instant::now();
    let stop = |_, _| {
        if begin.elapsed() > Duration::from_millis(300) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    assert!(matches!(target().get_with(&url, None, stop), Err(Error::Aborted)));
    assert!(begin.elapsed() < Duration::from_secs(3));
    let (url, _requests) = serve(vec![slow()]);
    let begin = Instant::now();
    let impatient = DownloadOptions { retries: 0, silence: Duration::from_millis(200), ..options() };
    says(download_with(&url, &target().path, None, &impatient, go_on), &url, "timeout");
    assert!(begin.elapsed() < Duration::from_secs(3));
}

#[test]
fn nobody_else_writes_the_file_meanwhile() {
    let (url, _requests) = serve(vec![whole()]);
    let target = target();
    let mut second = None;
    let control = |_, _| {
        second.get_or_insert_with(|| target.get(&url, None));
        ControlFlow::Continue(())
    };
    target.get_with(&url, Some(SHA256), control).expect("a file");
    let error = second.expect("a second download").expect_err("the file is taken");
    // It was asked for within the first, when that had the file already.
    assert!(error.to_string().contains("is being written already"), "{error}");
}

/// Runs itself with a proxy in its environment, which is nothing that a thread should change.
#[test]
fn a_proxy_of_the_environment_is_asked() {
    const VARIABLE: &str = "RWKV_TEST_DOWNLOAD_TO";
    let url = "http://files.invalid/a.bin";
    if let Some(path) = std::env::var_os(VARIABLE) {
        let options = DownloadOptions { environment_proxies: true, ..options() };
        download_with(url, Path::new(&path), Some(SHA256), &options, go_on).expect("a file by the proxy");
        return;
    }
    let (proxy, requests) = serve(vec![whole()]);
    let target = target();
    let mut command = std::process::Command::new(std::env::current_exe().expect("this program"));
    for name in ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "http_proxy", "NO_PROXY", "no_proxy"]
    {
        command.env_remove(name);
    }
    command.args(["--exact", "a_proxy_of_the_environment_is_asked"]);
    let output = command.env("HTTP_PROXY", proxy).env(VARIABLE, &target.path).output().expect("this program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    target.is_whole_and_alone();
    let request = requests.recv().expect("a request");
    assert!(request.starts_with("connect files.invalid:80 ") && request.contains("get /a.bin "), "{request}");
}
