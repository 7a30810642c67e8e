//! Work on a stream by several threads, with results in the order of the stream.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use rwkv_core::{Error, Result};

/// Time between two questions while nothing arrives.
const PAUSE: Duration = Duration::from_millis(50);

/// What waits before a thread, and behind it. Each piece of work is some MiB.
const WAITING: usize = 1;

/// Gives what `read` yields to `threads` threads, each with a worker of its own from `worker`, and what they make
/// of it to `consume` on this thread, in the order of reading. `consume` gets none from time to time while there
/// is nothing: it can end the work. What is under way then is told so by a [`Stop`], which `read` and the workers look
/// at whenever they wait or have worked for some ms.
///
/// Work goes around: the n-th piece to the n-th thread, and so on. That keeps the order without a store of
/// results that arrived too early, which would have no limit.
///
/// # Errors
/// The first in the order of the stream. A panic of a library is one too, and does not keep others waiting.
pub(super) fn run<T: Send, O: Send, W: FnMut(T, &Stop) -> Result<O>>(
    threads: usize,
    mut read: impl FnMut(&Stop) -> Result<Option<T>> + Send,
    worker: impl Fn() -> W + Sync,
    mut consume: impl FnMut(Option<O>) -> Result<()>,
) -> Result<()> {
    let stop = Stop::default();
    std::thread::scope(|scope| {
        // However this ends, nobody needs what is not done by then.
        let _stop = StopAtEnd(&stop);
        let stop = &stop;
        let (mut to, mut from) = (Vec::with_capacity(threads), Vec::with_capacity(threads));
        for _ in 0..threads {
            let (give, work) = sync_channel(WAITING);
            let (done, results) = sync_channel(WAITING);
            to.push(give);
            from.push(results);
            let worker = &worker;
            let thread = std::thread::Builder::new().name("prepare".to_owned());
            thread.spawn_scoped(scope, move || process(&work, &done, worker, stop)).map_err(no_thread)?;
        }
        let thread = std::thread::Builder::new().name("read".to_owned());
        thread.spawn_scoped(scope, move || supply(&mut || read(stop), &to)).map_err(no_thread)?;
        // When this returns early, the receivers are dropped, and with them every thread ends.
        for results in from.iter().cycle() {
            let result = loop {
                match results.recv_timeout(PAUSE) {
                    Ok(result) => break result?,
                    Err(RecvTimeoutError::Timeout) => consume(None)?,
                    // Whoever ends without saying so has failed.
                    Err(RecvTimeoutError::Disconnected) => return Err(broken("a thread ended early")),
                }
            };
            match result {
                Some(output) => consume(Some(output))?,
                None => break,
            }
        }
        Ok(())
    })
}

/// Whether the work has ended, for those who still work.
#[derive(Default)]
pub(super) struct Stop(AtomicBool);

impl Stop {
    /// Whether to go on.
    pub(super) fn go_on(&self) -> ControlFlow<()> {
        if self.0.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

struct StopAtEnd<'a>(&'a Stop);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// The reader: nothing at the end, and nothing after an error.
fn supply<T>(read: &mut impl FnMut() -> Result<Option<T>>, to: &[SyncSender<Result<Option<T>>>]) {
    for to in to.iter().cycle() {
        let piece = guarded(&mut *read);
        let is_last = !matches!(piece, Ok(Some(_)));
        if to.send(piece).is_err() || is_last {
            break;
        }
    }
}

fn process<T, O, W: FnMut(T, &Stop) -> Result<O>>(
    work: &Receiver<Result<Option<T>>>,
    done: &SyncSender<Result<Option<O>>>,
    worker: &impl Fn() -> W,
    stop: &Stop,
) {
    let mut worker = worker();
    while let Ok(piece) = work.recv() {
        let result = match piece {
            Ok(Some(piece)) => guarded(|| worker(piece, stop)).map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        if done.send(result).is_err() {
            break;
        }
    }
}

/// A panic as an error. What the work was on is not used afterwards.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason was given");
        Err(broken(said))
    })
}

fn broken(problem: &str) -> Error {
    let problem = format!("a library failed ({problem}); this is a fault of the program");
    Error::io("prepare", "the text")(std::io::Error::other(problem))
}

fn no_thread(error: std::io::Error) -> Error {
    Error::io("start", "a thread")(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(end: u32) -> impl FnMut(&Stop) -> Result<Option<u32>> {
        let mut all = 0..end;
        move |_| Ok(all.next())
    }

    #[test]
    fn results_come_in_order() {
        for threads in [1, 2, 5] {
            let mut seen = Vec::new();
            let worker = || {
                |number: u32, _: &Stop| {
                    std::thread::sleep(Duration::from_micros(u64::from(number * 37 % 300)));
                    Ok(2 * number)
                }
            };
            run(threads, numbers(200), worker, |number| {
                seen.extend(number);
                Ok(())
            })
            .unwrap();
            assert_eq!(seen, (0..200).map(|number| 2 * number).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_or_a_panic_anywhere_ends_all() {
        let fail = |where_: &str| {
            let mut read = numbers(100);
            let reader = |stop: &Stop| match read(stop)? {
                Some(50) if where_ == "reader" => Err(Error::Aborted),
                Some(50) if where_ == "reader panics" => panic!("on purpose"),
                number => Ok(number),
            };
            let worker = || {
                |number: u32, _: &Stop| match number {
                    50 if where_ == "worker" => Err(Error::Aborted),
                    50 if where_ == "worker panics" => panic!("on purpose"),
                    _ => Ok(number),
                }
            };
            let mut consumed = 0;
            let error = run(3, reader, worker, |number| {
                consumed += u32::from(number.is_some());
                if where_ == "consumer" && number == Some(49) { Err(Error::Aborted) } else { Ok(()) }
            })
            .unwrap_err();
            assert_eq!(consumed, 50, "{where_}");
            error.to_string()
        };
        for where_ in ["reader", "worker", "consumer"] {
            assert_eq!(fail(where_), "stopped on request");
        }
        for where_ in ["reader panics", "worker panics"] {
            assert!(fail(where_).contains("(on purpose)"));
        }
    }

    /// For ever, if nobody says stop.
    fn wait(stop: &Stop) -> Result<Option<()>> {
        while stop.go_on().is_continue() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(Error::Aborted)
    }

    #[test]
    fn readers_and_workers_that_are_under_way_are_stopped() {
        let consume = |output: Option<()>| if output.is_none() { Err(Error::Aborted) } else { Ok(()) };
        let result = run(2, wait, || |(), _: &Stop| Ok(()), consume);
        assert_eq!(result.unwrap_err().code(), "ABORTED");
        let worker = || |(), stop: &Stop| wait(stop).map(|_| ());
        let result = run(2, |_| Ok(Some(())), worker, consume);
        assert_eq!(result.unwrap_err().code(), "ABORTED");
    }
}
