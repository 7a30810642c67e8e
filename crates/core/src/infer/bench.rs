//! The speed of a model on this machine, and how near it is to the speed of the memory.

use std::cell::RefCell;
use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

use rwkv_kernels::read_sum;

use super::batch::{Outputs, PASS, Segment};
use super::model::Model;
use crate::control::{Control, ask};
use crate::error::{Error, Result};
use crate::machine;
use crate::store::Memory;

/// Options of [`Model::bench`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BenchOptions {
    /// Tokens that a stretch of decoding reads, one after another; each session of a batch reads as many.
    pub decode: usize,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Sessions that are decoded together.
    pub sessions: usize,
    /// How long to go on, in seconds. There are [`ROUNDS`](Self::ROUNDS) rounds at least, however long they
    /// take.
    pub seconds: f64,
    /// Bytes of the buffer that the read bandwidth is measured on: several times what the caches hold.
    pub buffer: usize,
}

impl BenchOptions {
    /// Rounds at least: the fewest that have a median which an odd one out does not move.
    pub const ROUNDS: usize = 3;

    fn check(&self) -> Result<()> {
        let counts = [
            ("decode", self.decode, 1 << 20),
            ("prompt", self.prompt, 1 << 20),
            ("sessions", self.sessions, 1024),
        ];
        for (name, count, most) in counts {
            if count < 1 || count > most {
                return Err(Error::option(name, count, format!("from 1 to {most}")));
            }
        }
        if !(0.0..=3600.0).contains(&self.seconds) {
            return Err(Error::option("seconds", self.seconds, "from 0 to 3600"));
        }
        Ok(())
    }
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self { decode: 16, prompt: 256, sessions: 8, seconds: 6.0, buffer: 1 << 28 }
    }
}

/// Result of [`Model::bench`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bench {
    /// Rounds that the medians are of.
    pub rounds: usize,
    /// Seconds that the first token took. If it was the model's first, weights were brought into memory
    /// meanwhile.
    pub first_token: f64,
    /// Tokens a second of one session, one token at a time; the median of the rounds.
    pub decode: f64,
    /// Tokens a second of a prompt whose last logits alone are wanted; the median of the rounds.
    pub prefill: f64,
    /// Tokens a second of all sessions together; the median of the rounds.
    pub batch: f64,
    /// `batch` over `decode` in the same round; the median of the rounds.
    pub batch_gain: f64,
    /// Bytes of weights that decoding one token reads: [`Model::bytes_per_token`].
    pub bytes_per_token: usize,
    /// Bytes a second that the same threads read from memory when they do nothing else; the median of the
    /// rounds.
    pub available_bandwidth: f64,
    /// The part of the available bandwidth that decoding uses, each round's by what was available in that
    /// round; the median of the rounds. Near 1 if decoding waits for nothing but memory, and more than that
    /// if weights stay in the caches.
    pub bandwidth_share: f64,
}

impl Bench {
    /// Bytes of weights a second that decoding reads.
    pub fn bandwidth(&self) -> f64 {
        self.decode * self.bytes_per_token as f64
    }
}

impl Model {
    /// Bytes of weights that decoding one token reads: all vectors, one row of the embedding, and every other
    /// matrix, the head included, once.
    pub fn bytes_per_token(&self) -> usize {
        let parameters = &self.shared.parameters;
        let specs = parameters.layout().specs().iter().enumerate();
        specs
            .map(|(index, spec)| {
                let bytes = parameters.bytes(index);
                if spec.is_embedding() { bytes / spec.rows } else { bytes }
            })
            .sum()
    }

    /// Measures decoding, a prompt, a batch, and the memory below them.
    ///
    /// They are measured in turn, round after round, so that what else the machine does meanwhile meets all
    /// of them alike. Memory is read right before and right after decoding, because on a machine that others use
    /// too its speed may double or halve within seconds.
    ///
    /// `progress(done, total)` is called before every product of a pass; its unit is a millisecond or so. If it breaks, the
    /// measuring ends with [`Error::Aborted`].
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for counts or seconds that make no sense, and for a buffer that memory cannot
    /// hold.
    pub fn bench(&self, options: &BenchOptions, progress: impl Control) -> Result<Bench> {
        options.check()?;
        // Of each session the state, which is copied before a pass, and logits: in the pass and of two tokens.
        let of_a_session = 4.0 * (2 * self.shared.state_layout.len() + 3 * self.config().n_vocab) as f64;
        if let Err(error) = machine::limit().check(of_a_session * options.sessions as f64) {
            return Err(Error::option("sessions", options.sessions, format!("fewer: {error}")));
        }
        let (memory, range) = read_buffer(options.buffer)?;
        let buffer: &[f32] = bytemuck::cast_slice(memory.get(range));
        let mut clock = Clock { start: Instant::now(), seconds: options.seconds, pieces: 0, progress };
        // Brings the weights into memory and makes room for the largest pass: what every later round finds
        // done.
        let first_token = self.decode(1, 1, &mut clock)?.as_secs_f64();
        self.prefill(options.prompt.min(PASS), &mut clock)?;

        let [mut decode, mut prefill, mut batch, mut gain, mut available, mut share] =
            [const { Vec::new() }; 6];
        let bytes_per_token = self.bytes_per_token();
        let read = || {
            let start = Instant::now();
            black_box(read_sum(&self.cpu, black_box(buffer)));
            rate(size_of_val(buffer), start.elapsed())
        };
        while decode.len() < BenchOptions::ROUNDS || clock.start.elapsed().as_secs_f64() < options.seconds {
            let before = read();
            let one = rate(options.decode, self.decode(options.decode, 1, &mut clock)?);
            let memory = f64::midpoint(before, read());
            available.push(memory);
            share.push(one * bytes_per_token as f64 / memory);
            let all = options.decode * options.sessions;
            let all = rate(all, self.decode(options.decode, options.sessions, &mut clock)?);
            decode.push(one);
            batch.push(all);
            gain.push(all / one);
            prefill.push(rate(options.prompt, self.prefill(options.prompt, &mut clock)?));
        }
        clock.report(1.0)?;
        Ok(Bench {
            rounds: decode.len(),
            first_token,
            decode: median(decode),
            prefill: median(prefill),
            batch: median(batch),
            batch_gain: median(gain),
            bytes_per_token,
            available_bandwidth: median(available),
            bandwidth_share: median(share),
        })
    }

    /// The time in which `sessions` new texts each read `tokens` tokens, one at a time and all together.
    fn decode(&self, tokens: usize, sessions: usize, clock: &mut Clock<impl Control>) -> Result<Duration> {
        let mut states: Vec<_> = (0..sessions).map(|_| self.new_state()).collect();
        let start = Instant::now();
        for at in 0..tokens {
            let tokens: Vec<_> = (0..sessions).map(|session| [self.token(at + 31 * session)]).collect();
            let members = tokens.iter().zip(&mut states);
            let mut segments: Vec<_> = members.map(|(tokens, state)| Segment { tokens, state }).collect();
            black_box(clock.watch(|stop| self.eval_batch_until(&mut segments, Outputs::Last, stop))?);
        }
        let time = start.elapsed();
        clock.piece()?;
        Ok(time)
    }

    /// The time in which a new text reads a prompt, for the last logits alone.
    fn prefill(&self, tokens: usize, clock: &mut Clock<impl Control>) -> Result<Duration> {
        let prompt: Vec<_> = (0..tokens).map(|at| self.token(at)).collect();
        let mut state = self.new_state();
        let start = Instant::now();
        // Cut as `eval` itself cuts it, to be able to stop in between.
        let passes = prompt.len().div_ceil(PASS);
        for (pass, tokens) in prompt.chunks(PASS).enumerate() {
            let outputs = if pass + 1 == passes { Outputs::Last } else { Outputs::None };
            let mut segments = [Segment { tokens, state: &mut state }];
            black_box(clock.watch(|stop| self.eval_batch_until(&mut segments, outputs, stop))?);
        }
        let time = start.elapsed();
        clock.piece()?;
        Ok(time)
    }

    /// Some token: neighbours are far apart in the embedding, as a text's are.
    fn token(&self, at: usize) -> u32 {
        (at.wrapping_mul(7919) % self.shared.config.n_vocab) as u32
    }
}

/// How far the measuring is.
struct Clock<P> {
    start: Instant,
    /// Asked for.
    seconds: f64,
    /// Measurements done.
    pieces: usize,
    progress: P,
}

impl<P: Control> Clock<P> {
    /// Measurements there are at least: two to warm up, and in each round decoding, a batch and a prompt.
    const PIECES: usize = 2 + 3 * BenchOptions::ROUNDS;

    /// Says how far it is: as far as the time is gone, but no further than the measurements that there must
    /// be.
    fn tick(&mut self) -> Result<()> {
        let pieces = self.pieces as f64 / Self::PIECES as f64;
        let time = self.start.elapsed().as_secs_f64() / self.seconds.max(1e-3);
        self.report(pieces.min(time).min(1.0))
    }

    /// Does a pass, which asks whether to stop.
    fn watch<T>(&mut self, pass: impl FnOnce(&dyn Fn() -> bool) -> Result<T>) -> Result<T> {
        let clock = RefCell::new(self);
        pass(&|| clock.borrow_mut().tick().is_err())
    }

    fn report(&mut self, share: f64) -> Result<()> {
        let total = (1000.0 * self.seconds).max(1000.0);
        ask(&mut self.progress, (total * share) as u64, total as u64)
    }

    /// A measurement is done.
    fn piece(&mut self) -> Result<()> {
        self.pieces += 1;
        self.tick()
    }
}

/// About `bytes` of memory like that of the panels, in large pages where the system has them. It is written,
/// because pages that never were would all be one page of zeros.
fn read_buffer(bytes: usize) -> Result<(Memory, Range<usize>)> {
    let len = (bytes / size_of::<f32>()).max(1) * size_of::<f32>();
    let memory = Memory::for_lengths(std::iter::once(len));
    let mut memory =
        memory.map_err(|_| Error::option("buffer", bytes, "as many bytes as memory can hold"))?;
    let (range, values) = memory.take(len);
    bytemuck::cast_slice_mut(values).fill(1.0_f32);
    Ok((memory, range))
}

/// So many a second.
fn rate(count: usize, time: Duration) -> f64 {
    // A clock that stood still took a nanosecond at least.
    count as f64 / time.as_secs_f64().max(1e-9)
}

/// The middle value, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let (low, high) = ((values.len() - 1) / 2, values.len() / 2);
    f64::midpoint(values[low], values[high])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_one() {
        let cases: [(&[f64], f64); 3] =
            [(&[5.0, 1.0, 100.0], 5.0), (&[4.0, 1.0, 100.0, 2.0], 3.0), (&[7.0], 7.0)];
        for (values, want) in cases {
            assert!((median(values.to_vec()) - want).abs() < 1e-12, "{values:?}");
        }
    }
}
