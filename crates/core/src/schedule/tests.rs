use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::config::ModelConfig;
use crate::infer::LoadOptions;
use crate::model::Network;

fn model() -> Model {
    model_on(&LoadOptions { threads: Some(2), ..Default::default() }.start_cpu().unwrap())
}

fn model_on(cpu: &Arc<Cpu>) -> Model {
    let config = ModelConfig::v4(40, 32, 2);
    let (_, layout, _) = Network::new(&config);
    let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 70.0;
    let values = layout.specs().iter().map(|spec| (0..spec.len()).map(value).collect()).collect();
    Model::from_parameters(config, values, Arc::clone(cpu))
}

/// Writes on with the likeliest tokens, and reports what it wrote, with the logits after it.
struct Greedy {
    left: usize,
    written: Vec<u32>,
    done: Sender<Outcome>,
    demand: Arc<AtomicU8>,
}

type Outcome = std::result::Result<(Vec<u32>, Vec<f32>, Arc<State>), Error>;

const NOW: u8 = 0;
const LATER: u8 = 1;
const NEVER: u8 = 2;

impl Reader for Greedy {
    fn next(&mut self, logits: &[f32], state: &Arc<State>) -> Next {
        if self.left == 0 {
            let written = std::mem::take(&mut self.written);
            let _ = self.done.send(Ok((written, logits.to_vec(), Arc::clone(state))));
            return Next::End;
        }
        self.left -= 1;
        let token = likeliest(logits);
        self.written.push(token);
        Next::Read(vec![token])
    }

    fn fail(&mut self, error: Error) {
        let _ = self.done.send(Err(error));
    }

    fn demand(&self) -> Demand {
        match self.demand.load(Ordering::Relaxed) {
            NOW => Demand::Now,
            LATER => Demand::Later,
            _ => Demand::Never,
        }
    }
}

fn likeliest(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

/// Writes `count` tokens after `prompt`.
fn write(
    scheduler: &Scheduler,
    model: &Model,
    prompt: &[u32],
    count: usize,
) -> (Receiver<Outcome>, Arc<AtomicU8>) {
    let (done, outcome) = channel();
    let demand = Arc::new(AtomicU8::new(NOW));
    let reader = Greedy { left: count, written: Vec::new(), done, demand: Arc::clone(&demand) };
    scheduler.read(model, Arc::new(model.new_state()), prompt.to_vec(), Box::new(reader));
    (outcome, demand)
}

fn prompt(seed: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * i + 7 * seed + 3 * i) % 40) as u32).collect()
}

/// The same, alone and with plain calls.
fn written_alone(model: &Model, prompt: &[u32], count: usize) -> (Vec<u32>, Vec<f32>, State) {
    let mut state = model.new_state();
    let mut logits = model.eval(prompt, &mut state).unwrap();
    let mut written = Vec::new();
    for _ in 0..count {
        written.push(likeliest(&logits));
        logits = model.eval(&[likeliest(&logits)], &mut state).unwrap();
    }
    (written, logits, state)
}

#[test]
fn texts_that_share_passes_are_those_written_alone() {
    let model = model();
    let scheduler = Scheduler::of(model.cpu()).unwrap();
    // From one token to several passes' worth, and more texts than a pass has room for.
    let texts: Vec<_> = (0..300).map(|i| (prompt(i, 1 + (i * 53) % 700), i % 9)).collect();
    let outcomes: Vec<_> =
        texts.iter().map(|(text, count)| write(&scheduler, &model, text, *count).0).collect();
    for ((text, count), outcome) in texts.iter().zip(outcomes) {
        let (written, logits, state) = outcome.recv().unwrap().unwrap();
        let alone = written_alone(&model, text, *count);
        assert_eq!((&written, &logits), (&alone.0, &alone.1));
        assert_eq!(*state, alone.2);
    }
}

#[test]
fn models_on_the_same_threads_take_turns() {
    let first = model();
    let second = model_on(first.cpu());
    let scheduler = Scheduler::of(first.cpu()).unwrap();
    assert!(Arc::ptr_eq(&scheduler, &Scheduler::of(second.cpu()).unwrap()));
    let outcomes = [&first, &second, &first].map(|model| write(&scheduler, model, &prompt(1, 90), 20).0);
    let alone = written_alone(&first, &prompt(1, 90), 20);
    for outcome in outcomes {
        assert_eq!(outcome.recv().unwrap().unwrap().0, alone.0);
    }
}

#[test]
fn the_fault_of_one_is_not_that_of_the_others() {
    let model = model();
    let scheduler = Scheduler::of(model.cpu()).unwrap();
    let bad = [5, 40, 6];
    let outcomes: Vec<_> =
        (0..8).map(|i| write(&scheduler, &model, if i == 3 { &bad } else { &[5, 7, 6] }, 4).0).collect();
    let alone = written_alone(&model, &[5, 7, 6], 4);
    for (i, outcome) in outcomes.into_iter().enumerate() {
        match outcome.recv().unwrap() {
            Ok((written, ..)) => assert_eq!((written, i == 3), (alone.0.clone(), false)),
            Err(error) => assert_eq!((error.code(), i), ("TOKEN_OUT_OF_RANGE", 3)),
        }
    }
}

#[test]
fn what_is_held_goes_on_when_it_is_wanted_again_and_what_is_not_wanted_is_dropped() {
    let model = model();
    let scheduler = Scheduler::of(model.cpu()).unwrap();
    let (held, demand) = write(&scheduler, &model, &prompt(2, 30), 5);
    demand.store(LATER, Ordering::Relaxed);
    let (gone, never) = write(&scheduler, &model, &prompt(2, 100_000), 5);
    never.store(NEVER, Ordering::Relaxed);
    scheduler.wake();
    // Its reader is dropped, and with it the sending end.
    assert!(gone.recv().is_err());
    demand.store(NOW, Ordering::Relaxed);
    scheduler.wake();
    assert_eq!(held.recv().unwrap().unwrap().0, written_alone(&model, &prompt(2, 30), 5).0);
}

/// Panics when it is asked, or else counts.
struct Panics(Arc<AtomicUsize>, Arc<AtomicBool>);

impl Reader for Panics {
    fn next(&mut self, _: &[f32], _: &Arc<State>) -> Next {
        panic!("as the test wants it")
    }

    fn fail(&mut self, _: Error) {}

    fn demand(&self) -> Demand {
        Demand::Now
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
        self.1.store(true, Ordering::Relaxed);
    }
}

#[test]
fn after_a_panic_others_are_served() {
    let model = model();
    let scheduler = Scheduler::of(model.cpu()).unwrap();
    let (count, dropped) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let reader = Panics(Arc::clone(&count), Arc::clone(&dropped));
    scheduler.read(&model, Arc::new(model.new_state()), vec![1], Box::new(reader));
    while !dropped.load(Ordering::Relaxed) {
        std::thread::yield_now();
    }
    let (outcome, _) = write(&scheduler, &model, &[1, 2], 2);
    assert_eq!(outcome.recv().unwrap().unwrap().0, written_alone(&model, &[1, 2], 2).0);
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[test]
fn its_end_drops_what_is_left() {
    let model = model();
    let scheduler = Scheduler::of(model.cpu()).unwrap();
    let (outcome, _) = write(&scheduler, &model, &prompt(1, 10), usize::MAX);
    let weak = Arc::downgrade(&scheduler);
    drop(scheduler);
    assert!(weak.upgrade().is_none());
    assert!(outcome.recv().is_err());
}

#[test]
fn prompts_are_read_however_many_texts_are_written_and_no_tokens_are_an_error() {
    let model = model();
    let scheduler = Scheduler::of(model.cpu()).unwrap();
    let writing: Vec<_> = (0..300).map(|i| write(&scheduler, &model, &[i % 40], usize::MAX)).collect();
    let (outcome, _) = write(&scheduler, &model, &prompt(3, 200), 1);
    assert_eq!(outcome.recv().unwrap().unwrap().0, written_alone(&model, &prompt(3, 200), 1).0);
    for (_, demand) in &writing {
        demand.store(NEVER, Ordering::Relaxed);
    }
    let (none, _) = write(&scheduler, &model, &[], 1);
    assert_eq!(none.recv().unwrap().unwrap_err().code(), "INVALID_OPTION");
}
