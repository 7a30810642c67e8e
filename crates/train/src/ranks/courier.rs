//! A thread that talks to other ranks while the others compute.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use super::all_reduce::{AllReduce, Room};
use super::{Alone, Ranks, SumPrecision};
use crate::error::{Error, Result};

type Call = Box<dyn FnOnce(&mut dyn Ranks) + Send>;

enum Task {
    Call(Call),
    Sum(Sum),
}

/// Values to be summed, and where the sums go.
struct Sum {
    values: Vec<f32>,
    precision: SumPrecision,
    done: Sender<Result<Vec<f32>>>,
}

/// Talks to other ranks, one task after the other, in the order in which they come.
#[derive(Debug)]
pub(crate) struct Courier {
    rank: usize,
    count: usize,
    /// None of a rank alone, which has nobody to wait for.
    thread: Option<(Sender<Task>, JoinHandle<()>)>,
}

/// The result of a task, once it is done. The mutex is never locked: it makes a trainer `Sync`, which a receiver is not.
#[derive(Debug)]
pub(crate) struct Awaited<T>(Mutex<Receiver<T>>);

impl Courier {
    /// Of a rank alone.
    pub(crate) fn alone() -> Self {
        Self { rank: 0, count: 1, thread: None }
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::Ranks`] if the system has no thread to give.
    pub(crate) fn start(mut ranks: Box<dyn Ranks>) -> Result<Self> {
        let (rank, count) = (ranks.rank(), ranks.count());
        if count == 1 {
            return Ok(Self::alone());
        }
        let (tasks, from) = channel::<Task>();
        let work = move || work(&mut *ranks, &from);
        let thread = std::thread::Builder::new().name("ranks".to_owned()).spawn(work);
        let thread =
            thread.map_err(|error| Error::Ranks { problem: format!("a thread to send: {error}") })?;
        Ok(Self { rank, count, thread: Some((tasks, thread)) })
    }

    pub(crate) fn rank(&self) -> usize {
        self.rank
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Begins a task, which runs after those that were begun before it.
    pub(crate) fn begin<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut dyn Ranks) -> T + Send + 'static,
    ) -> Awaited<T> {
        let (done, awaited) = channel();
        match &self.thread {
            // Who does not wait for it any more does not want it. If the thread is gone, the one who waits is told so.
            Some((tasks, _)) => {
                drop(tasks.send(Task::Call(Box::new(move |ranks| drop(done.send(task(ranks)))))));
            }
            None => drop(done.send(task(&mut Alone))),
        }
        Awaited(Mutex::new(awaited))
    }

    /// Begins to replace `values`, as many on every rank and not none, by their sums over all ranks.
    pub(crate) fn begin_sum(&self, values: Vec<f32>, precision: SumPrecision) -> Awaited<Result<Vec<f32>>> {
        let (done, awaited) = channel();
        let sum = Sum { values, precision, done };
        match &self.thread {
            Some((tasks, _)) => drop(tasks.send(Task::Sum(sum))),
            None => drop(sum.done.send(Ok(sum.values))),
        }
        Awaited(Mutex::new(awaited))
    }

    /// Does a task.
    ///
    /// # Errors
    /// Those of the task.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut dyn Ranks) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.begin(task).wait()
    }
}

impl<T> Awaited<Result<T>> {
    /// What the task has done, if it is done.
    pub(crate) fn poll(&mut self) -> Option<Result<T>> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).try_recv().ok()
    }

    /// Waits for it.
    ///
    /// # Errors
    /// Those of the task.
    pub(crate) fn wait(self) -> Result<T> {
        let gone = |_| Error::Ranks { problem: "the thread that talks to other ranks has ended".to_owned() };
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner).recv().map_err(gone)?
    }
}

impl Drop for Courier {
    /// Ends the thread, after the tasks that it has.
    fn drop(&mut self) {
        if let Some((tasks, thread)) = self.thread.take() {
            drop(tasks);
            // A panic was told where it was.
            drop(thread.join());
        }
    }
}

/// Does all tasks.
fn work(ranks: &mut dyn Ranks, tasks: &Receiver<Task>) {
    let (mut rooms, mut next) = (Vec::new(), None);
    while let Some(task) = next.take().or_else(|| tasks.recv().ok()) {
        match task {
            Task::Call(call) => call(ranks),
            Task::Sum(sum) => next = all_reduce(ranks, sum, tasks, &mut rooms),
        }
    }
}

/// Takes a sum, and those that are queued when its first round is done: the second round of one overlaps with the first
/// of the next, so that the link is not idle. Returns the task that is queued after them, if there is one.
fn all_reduce(
    ranks: &mut dyn Ranks,
    first: Sum,
    tasks: &Receiver<Task>,
    rooms: &mut Vec<Room>,
) -> Option<Task> {
    let count = ranks.count();
    let begin = |sum: &mut Sum, rooms: &mut Vec<Room>| {
        let values = std::mem::take(&mut sum.values);
        AllReduce::new(values, sum.precision, count, rooms.pop().unwrap_or_default())
    };
    let mut task = first;
    let mut sum = begin(&mut task, rooms);
    let (sent, received) = sum.first_round();
    let mut result = ranks.exchange(sent, received);
    // A result that cannot be sent is one that nobody waits for.
    while result.is_ok() {
        sum.add();
        let (own, all) = sum.second_round();
        let mut next = match tasks.try_recv() {
            Ok(Task::Sum(next)) => next,
            other => {
                result = ranks.collect(own, all);
                let (sums, room) = sum.finish();
                rooms.push(room);
                drop(task.done.send(result.map(|()| sums)));
                return other.ok();
            }
        };
        let mut following = begin(&mut next, rooms);
        let (sent, received) = following.first_round();
        result = ranks.collect_and_exchange([own, sent], [all, received]);
        if result.is_ok() {
            let (sums, room) = std::mem::replace(&mut sum, following).finish();
            rooms.push(room);
            drop(std::mem::replace(&mut task, next).done.send(Ok(sums)));
        }
    }
    // If the next sum was begun too, its sender is dropped, which is an error for whoever waits for it.
    drop(task.done.send(result.map(|()| Vec::new())));
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Second;

    impl Ranks for Second {
        fn rank(&self) -> usize {
            1
        }

        fn count(&self) -> usize {
            2
        }

        fn exchange(&mut self, _: &[u8], _: &mut [u8]) -> Result<()> {
            panic!("the network is gone");
        }

        fn collect(&mut self, own: &[u8], all: &mut [u8]) -> Result<()> {
            all.copy_from_slice(&own.repeat(2));
            Ok(())
        }

        fn take_from_first(&mut self, _: &mut [u8]) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn tasks_are_done_in_their_order() {
        let courier = Courier::start(Box::new(Second)).expect("a thread");
        assert_eq!((courier.rank(), courier.count()), (1, 2));
        let (said, all) = channel();
        for number in 0..20 {
            let said = said.clone();
            let _ = courier.begin(move |_| said.send(number));
        }
        let said = courier.call(|ranks| super::super::gather(ranks, b"here")).expect("what all say");
        assert_eq!(said, [b"here", b"here"]);
        assert!(all.try_iter().eq(0..20));
    }

    #[test]
    fn a_thread_that_ended_is_told_and_nobody_waits_for_it() {
        let courier = Courier::start(Box::new(Second)).expect("a thread");
        for _ in 0..2 {
            let error = courier.call(|ranks| ranks.exchange(&[1], &mut [0])).expect_err("no answer");
            assert!(error.to_string().contains("the thread that talks to other ranks has ended"), "{error}");
        }
    }

    #[test]
    fn one_alone_needs_no_thread() {
        let said = Courier::alone().call(|ranks| super::super::gather(ranks, b"")).expect("what it says");
        assert_eq!(said, [b""]);
    }

    /// A rank that records which of its functions are called, and how often it can still collect and exchange at once.
    #[derive(Debug)]
    struct Recording(Vec<&'static str>, usize);

    impl Ranks for Recording {
        fn rank(&self) -> usize {
            0
        }

        fn count(&self) -> usize {
            1
        }

        fn exchange(&mut self, sent: &[u8], received: &mut [u8]) -> Result<()> {
            self.0.push("exchange");
            Alone.exchange(sent, received)
        }

        fn collect(&mut self, own: &[u8], all: &mut [u8]) -> Result<()> {
            self.0.push("collect");
            Alone.collect(own, all)
        }

        fn collect_and_exchange(&mut self, sent: [&[u8]; 2], received: [&mut [u8]; 2]) -> Result<()> {
            self.0.push("both");
            self.1 = self.1.checked_sub(1).ok_or(Error::Ranks { problem: "the link is gone".to_owned() })?;
            let ([own, sent], [all, received]) = (sent, received);
            Alone.collect(own, all).and_then(|()| Alone.exchange(sent, received))
        }

        fn take_from_first(&mut self, _: &mut [u8]) -> Result<()> {
            Ok(())
        }
    }

    /// The results of three sums that are queued, with a call after them, and which functions of the ranks were called.
    fn sums_of_three(precision: SumPrecision, most: usize) -> (Vec<String>, Vec<&'static str>) {
        let (tasks, from) = channel();
        let begin = |value: u8| {
            let (done, awaited) = channel();
            let sum = Sum { values: vec![f32::from(value); 3], precision, done };
            tasks.send(Task::Sum(sum)).expect("room for it");
            awaited
        };
        let awaited = [1, 2, 3].map(begin);
        let (done, called) = channel();
        tasks
            .send(Task::Call(Box::new(move |_| done.send(()).expect("somebody waits"))))
            .expect("room for it");
        drop(tasks);
        let mut ranks = Recording(Vec::new(), most);
        work(&mut ranks, &from);
        called.try_recv().expect("the call after the sums");
        let told = awaited.map(|awaited| match awaited.try_recv() {
            Ok(Ok(sums)) => format!("{sums:?}"),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "nothing".to_owned(),
        });
        (told.to_vec(), ranks.0)
    }

    #[test]
    fn the_second_round_of_a_sum_goes_with_the_first_of_the_next() {
        for precision in [SumPrecision::F32, SumPrecision::Bf16] {
            let (told, calls) = sums_of_three(precision, 3);
            assert_eq!(told, ["[1.0, 1.0, 1.0]", "[2.0, 2.0, 2.0]", "[3.0, 3.0, 3.0]"]);
            assert_eq!(calls, ["exchange", "both", "both", "collect"]);
        }
    }

    #[test]
    fn a_sum_that_failed_says_why() {
        let (told, calls) = sums_of_three(SumPrecision::F32, 1);
        assert_eq!(told, ["[1.0, 1.0, 1.0]", "the link is gone", "nothing"]);
        assert_eq!(calls, ["exchange", "both", "both"]);
    }
}
