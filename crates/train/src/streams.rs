//! The order of sequences when states are carried from one to the next: truncated back-propagation through
//! time.

use std::ops::Range;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A text cut into as many streams as a step has sequences. Each step takes the next window of each stream,
/// so that the state that the i-th sequence of a step leaves is where the i-th of the next one starts. An
/// epoch ends when the streams do; the next one lays its windows at another offset, and starts from empty
/// states.
///
/// Which windows a step has follows from (seed, step) alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streams {
    seed: u64,
    ctx_len: usize,
    /// Tokens of a stream.
    len: usize,
    count: usize,
}

impl Streams {
    /// `count` streams over `n_tokens` tokens; none if they are too short for a window each and a token after
    /// it.
    pub(crate) fn new(seed: u64, n_tokens: usize, ctx_len: usize, count: usize) -> Option<Self> {
        let len = (n_tokens - 1) / count;
        (len >= ctx_len).then_some(Self { seed, ctx_len, len, count })
    }

    /// Number of streams.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Steps until the streams end.
    fn per_epoch(&self) -> u64 {
        // One fewer than fit leaves room for every offset; short streams have no such choice.
        (self.len / self.ctx_len - 1).max(1) as u64
    }

    /// Whether the sequences of `step`, counted from 0, start from empty states.
    pub(crate) fn starts_anew(&self, step: u64) -> bool {
        step.is_multiple_of(self.per_epoch())
    }

    /// The window of `stream` in `step`; the token after it is the last target.
    pub(crate) fn get(&self, step: u64, stream: usize) -> Range<usize> {
        let (epoch, position) = (step / self.per_epoch(), (step % self.per_epoch()) as usize);
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(u64::MAX - epoch);
        let slack = self.len - self.per_epoch() as usize * self.ctx_len;
        let offset = rng.random_range(0..=slack as u64) as usize;
        let start = stream * self.len + offset + position * self.ctx_len;
        start..start + self.ctx_len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_a_stream_adjoin_and_streams_do_not_overlap() {
        let streams = Streams::new(3, 1000, 10, 4).expect("streams");
        let per_epoch = streams.per_epoch();
        assert_eq!(per_epoch, 23);
        for epoch in 0..3 {
            for stream in 0..4 {
                let windows: Vec<_> =
                    (0..per_epoch).map(|step| streams.get(epoch * per_epoch + step, stream)).collect();
                assert!(windows.windows(2).all(|pair| pair[0].end == pair[1].start));
                let last = windows[windows.len() - 1].end;
                assert!(windows[0].start >= stream * 249 && last <= (stream + 1) * 249 && last < 1000);
            }
        }
        assert!((0..100).filter(|&step| streams.starts_anew(step)).eq([0, 23, 46, 69, 92]));
        assert_ne!(streams.get(0, 0), streams.get(23, 0));
    }

    #[test]
    fn a_short_text_has_few_streams() {
        assert!(Streams::new(1, 41, 10, 4).is_some_and(|streams| streams.per_epoch() == 1));
        assert!(Streams::new(1, 40, 10, 4).is_none());
    }
}
