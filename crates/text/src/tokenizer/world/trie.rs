//! The longest token that a text begins with.
//!
//! A double array (J. Aoe, "An efficient digital search algorithm by using a double-array structure", IEEE
//! Transactions on Software Engineering 15(9), 1989) in the form in which a node's child by byte c lies at
//! `base ^ c` (S. Yata et al., <https://github.com/s-yata/darts-clone>): one lookup a byte. A node is a string
//! that some token begins with, and knows the longest token that it begins with itself, so that a search needs
//! to look at nothing but the last node that it reached. The first two bytes are looked up at once.

mod build;
mod lanes;

use super::packed::Vocabulary;

/// Places of nodes: all nodes of three and more bytes, 112,426, and a seventh of that to spare.
const PLACES: usize = 1 << 17;

/// A node, or what is in a place without one: from the lowest bits, 24 of its base, 8 of the length of the
/// longest token that it begins with, 16 of that token, 9 of the byte that leads to it.
///
/// Bases all differ, so that the byte alone says whether a node is a child of another. Base 0 is that of all
/// nodes without children: nobody's child lies at `0 ^ c`.
#[derive(Clone, Copy)]
struct Node(u64);

impl Node {
    /// No byte leads here.
    const NONE: Self = Self(256 << 48);

    fn new(base: usize, length: u8, token: u16, byte: u8) -> Self {
        Self(base as u64 | u64::from(length) << 24 | u64::from(token) << 32 | u64::from(byte) << 48)
    }

    fn base(self) -> usize {
        self.0 as usize & (PLACES - 1)
    }

    fn length(self) -> usize {
        (self.0 >> 24) as usize & 0xff
    }

    fn token(self) -> u32 {
        u32::from((self.0 >> 32) as u16)
    }

    fn is_reached_by(self, byte: u8) -> bool {
        self.0 >> 48 == u64::from(byte)
    }
}

/// Finds tokens in texts.
pub(super) struct Trie {
    /// The node of each two bytes: without children, and of the first byte's token, if no token begins with both.
    pairs: Box<[Node]>,
    nodes: Box<[Node; PLACES]>,
    /// Whether a token of more bytes begins with a byte.
    begins: [bool; 256],
    /// Whether a token has two bytes beside each other: a bit each.
    joins: Box<[u64]>,
}

/// The longest token that a text begins with.
pub(super) struct Found {
    pub(super) token: u32,
    /// Its bytes, at least one.
    pub(super) length: usize,
    /// Whether it can be a longer one if more text follows.
    pub(super) may_grow: bool,
}

impl Trie {
    /// `order` has the tokens, of 1 to 65,535, by their bytes. Every single byte must be a token.
    pub(super) fn new(vocabulary: &Vocabulary, order: &[u32]) -> Self {
        let drafts = build::drafts(vocabulary, order);
        let bases = build::bases(&drafts);
        // By way of a vector: a megabyte is much for a thread's stack.
        let nodes = vec![Node::NONE; PLACES].into_boxed_slice();
        let Ok(nodes) = nodes.try_into() else { unreachable!("it has this length") };
        let mut trie = Self {
            pairs: (0..=u16::MAX).map(|pair| Node::new(0, 1, (pair >> 8) + 1, 0)).collect(),
            nodes,
            begins: [false; 256],
            joins: vec![0; (1 << 16) / 64].into(),
        };
        for (draft, &base) in drafts.iter().zip(&bases) {
            let parent = &drafts[draft.parent];
            let node = Node::new(base, draft.length, draft.token, draft.byte);
            match draft.depth {
                0 => continue,
                1 => trie.begins[usize::from(draft.byte)] = draft.n_children > 0,
                2 => trie.pairs[pair(parent.byte, draft.byte)] = node,
                _ => trie.nodes[bases[draft.parent] ^ usize::from(draft.byte)] = node,
            }
            if draft.depth > 1 {
                let pair = pair(parent.byte, draft.byte);
                trie.joins[pair / 64] |= 1 << (pair % 64);
            }
        }
        trie
    }

    /// The longest token that `text` begins with. `text` must not be empty.
    #[inline]
    pub(super) fn longest(&self, text: &[u8]) -> Found {
        let &[first, second, ref rest @ ..] = text else {
            let first = text[0];
            return Found { token: u32::from(first) + 1, length: 1, may_grow: self.begins[first as usize] };
        };
        let mut node = self.pairs[pair(first, second)];
        for &byte in rest {
            let next = self.nodes[(node.base() ^ usize::from(byte)) & (PLACES - 1)];
            if !next.is_reached_by(byte) {
                return Found { token: node.token(), length: node.length(), may_grow: false };
            }
            node = next;
        }
        Found { token: node.token(), length: node.length(), may_grow: node.base() != 0 }
    }

    /// Whether any token has these two bytes beside each other.
    pub(super) fn joins(&self, first: u8, second: u8) -> bool {
        let pair = pair(first, second);
        self.joins[pair / 64] >> (pair % 64) & 1 == 1
    }
}

fn pair(first: u8, second: u8) -> usize {
    usize::from(u16::from_be_bytes([first, second]))
}
