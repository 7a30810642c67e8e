//! Several parts of a text at once.
//!
//! A search waits most of its time: for the node that tells where the next one is, and for the processor to
//! learn that it guessed wrong where a token ends. So parts of the text are searched in turns, byte by byte,
//! and without branches that depend on them. This is about twice as fast as one part after another.

use std::hint::select_unpredictable;

use super::{Node, PLACES, Trie, pair};

/// Parts that take turns. Three are as fast, two are slower.
const LANES: usize = 4;
/// Bytes of a part, at least.
const PART: usize = 256;
/// Bytes whose parts are searched before their tokens are put together.
const GROUP: usize = 1 << 16;

/// A part of the text that is being searched.
#[derive(Clone, Copy)]
struct Lane {
    /// Which part it is.
    part: usize,
    /// Where the part ends, and its last token.
    end: usize,
    /// Where the current token begins.
    start: usize,
    /// What is there, from `start` to `at`.
    node: Node,
    at: usize,
    /// Where the token is written to.
    out: usize,
}

impl Trie {
    /// Appends the tokens of `text` to `out`.
    pub(in super::super) fn encode(&self, text: &[u8], out: &mut Vec<u32>) {
        let (mut rest, mut buffer) = (text, Vec::new());
        while !rest.is_empty() {
            let n_bytes = self.encode_in_lanes(rest, &mut buffer, out);
            rest = &rest[n_bytes..];
            if n_bytes == 0 {
                // Short, the end, or without places to part it at, such as many spaces: then there are some later.
                let few = rest.len().saturating_sub(GROUP);
                while rest.len() > few {
                    let found = self.longest(rest);
                    out.push(found.token);
                    rest = &rest[found.length..];
                }
            }
        }
    }

    /// Appends the tokens of the beginning of `text` to `out`. Returns how many bytes they stand for: most of a
    /// group, or 0 if there are too few places to part it at.
    fn encode_in_lanes(&self, text: &[u8], buffer: &mut Vec<u32>, out: &mut Vec<u32>) -> usize {
        let text = &text[..text.len().min(GROUP)];
        let parts = self.parts(text);
        let Some(first) = parts.first_chunk::<LANES>() else { return 0 };
        buffer.resize(text.len().max(buffer.len()), 0);
        let mut n_tokens = vec![0; parts.len()];
        let mut waiting = parts.iter().enumerate().skip(LANES);
        let mut lanes: [Lane; LANES] = std::array::from_fn(|part| self.lane(text, part, first[part]));
        // A part's tokens are written from where it begins itself: there are no more than it has bytes.
        'all: loop {
            for lane in &mut lanes {
                self.step(lane, text, buffer);
                if lane.start == lane.end {
                    n_tokens[lane.part] = lane.out - parts[lane.part].0;
                    let Some((part, &range)) = waiting.next() else { break 'all };
                    *lane = self.lane(text, part, range);
                }
            }
        }
        for lane in &mut lanes {
            while lane.start < lane.end {
                let found = self.longest(&text[lane.start..lane.end]);
                buffer[lane.out] = found.token;
                lane.out += 1;
                lane.start += found.length;
            }
            n_tokens[lane.part] = lane.out - parts[lane.part].0;
        }
        for (&(begin, _), &n_tokens) in parts.iter().zip(&n_tokens) {
            out.extend_from_slice(&buffer[begin..begin + n_tokens]);
        }
        parts.last().map_or(0, |&(_, end)| end)
    }

    /// Where parts begin and end, at places that are never within a token. The last ends two or more bytes before
    /// the text does, so that a search can look at two bytes wherever it is.
    fn parts(&self, text: &[u8]) -> Vec<(usize, usize)> {
        let parted = |&at: &usize| !self.joins(text[at - 1], text[at]);
        let (mut parts, mut begin) = (Vec::with_capacity(text.len() / PART), 0);
        while let Some(end) = (begin + PART..text.len().saturating_sub(1)).find(parted) {
            parts.push((begin, end));
            begin = end;
        }
        parts
    }

    fn lane(&self, text: &[u8], part: usize, (begin, end): (usize, usize)) -> Lane {
        Lane { part, end, start: begin, node: self.pair_at(text, begin), at: begin + 2, out: begin }
    }

    fn pair_at(&self, text: &[u8], at: usize) -> Node {
        self.pairs[pair(text[at], text[at + 1])]
    }

    /// Follows one byte, or ends a token and begins the next.
    #[inline]
    fn step(&self, lane: &mut Lane, text: &[u8], buffer: &mut [u32]) {
        let byte = text[lane.at];
        let next = self.nodes[(lane.node.base() ^ usize::from(byte)) & (PLACES - 1)];
        let hit = next.is_reached_by(byte);
        // Kept if this is the token's end, else written over.
        buffer[lane.out] = lane.node.token();
        lane.out += usize::from(!hit);
        lane.start += select_unpredictable(hit, 0, lane.node.length());
        lane.node = select_unpredictable(hit, next, self.pair_at(text, lane.start));
        lane.at = select_unpredictable(hit, lane.at + 1, lane.start + 2);
    }
}
