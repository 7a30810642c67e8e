//! Where each node of the double array goes.

use super::{PLACES, Vocabulary};

/// Places are looked for in blocks of this size: nodes with one parent lie in one.
const BLOCK: usize = 256;
/// A block in which so many searches found nothing is left alone. More would save no place worth the time.
const MOST_MISSES: u8 = 8;

/// A node that has no place yet.
pub(super) struct Draft {
    /// The node's index; the root is its own.
    pub(super) parent: usize,
    /// The byte that leads here from the parent.
    pub(super) byte: u8,
    /// Bytes from the root to here.
    pub(super) depth: u8,
    /// The longest token that begins with them, 0 if there is none.
    pub(super) token: u16,
    /// That token's bytes.
    pub(super) length: u8,
    pub(super) n_children: u16,
}

/// All nodes, each after its parent: the root first, then in the order of their bytes.
pub(super) fn drafts(vocabulary: &Vocabulary, order: &[u32]) -> Vec<Draft> {
    let mut drafts = vec![Draft { parent: 0, byte: 0, depth: 0, token: 0, length: 0, n_children: 0 }];
    // The nodes on the way to the token before.
    let (mut path, mut before): (_, &[u8]) = (vec![0], &[]);
    for (&number, token) in order.iter().filter_map(|number| Some((number, vocabulary.get(*number)?))) {
        let kept = before.iter().zip(token).take_while(|(a, b)| a == b).count();
        path.truncate(kept + 1);
        for (depth, &byte) in token.iter().enumerate().skip(kept) {
            let parent = path[depth];
            drafts[parent].n_children += 1;
            let Draft { token, length, .. } = drafts[parent];
            path.push(drafts.len());
            drafts.push(Draft { parent, byte, depth: depth as u8 + 1, token, length, n_children: 0 });
        }
        if let Some(last) = drafts.last_mut() {
            (last.token, last.length) = (number as u16, token.len() as u8);
        }
        before = token;
    }
    drafts
}

/// The base of each node, 0 of those without children and of those whose children have no place of their own.
pub(super) fn bases(drafts: &[Draft]) -> Vec<usize> {
    // The bytes that lead from a node to its children: children[first[node]..first[node + 1]].
    let first: Vec<_> = std::iter::once(0)
        .chain(drafts.iter().scan(0, |n, draft| {
            *n += usize::from(draft.n_children);
            Some(*n)
        }))
        .collect();
    let mut next = first.clone();
    let mut children = vec![0; drafts.len()];
    for draft in &drafts[1..] {
        children[next[draft.parent]] = draft.byte;
        next[draft.parent] += 1;
    }
    // Large families first, while there is room. Only children fill the gaps, and are the longest chains: in
    // this order those of a chain lie beside each other.
    let mut parents: Vec<_> =
        (0..drafts.len()).filter(|&node| drafts[node].depth > 1 && drafts[node].n_children > 0).collect();
    parents.sort_by_key(|&node| std::cmp::Reverse(drafts[node].n_children));
    let (mut places, mut bases) = (Places::new(), vec![0; drafts.len()]);
    for node in parents {
        bases[node] = places.base_for(&children[first[node]..first[node + 1]]);
    }
    bases
}

/// What is not in use, of places and of bases: a bit each.
struct Places {
    free: Vec<Block>,
    /// Base 0 is that of all nodes without children.
    no_base: Vec<Block>,
    /// How often nothing was found in a block.
    misses: Vec<u8>,
    /// The first block that is not given up.
    from: usize,
    /// Number of children that misses are of.
    n_children: usize,
}

impl Places {
    fn new() -> Self {
        let mut no_base = vec![Block([u64::MAX; 4]); PLACES / BLOCK];
        no_base[0].remove(0);
        Self {
            free: vec![Block([u64::MAX; 4]); PLACES / BLOCK],
            no_base,
            misses: vec![0; PLACES / BLOCK],
            from: 0,
            n_children: 0,
        }
    }

    /// A base for a node with children by these bytes, whose places it takes: that which gives the first child
    /// the first place.
    ///
    /// # Panics
    /// If there is no room, which the one vocabulary that there is settles.
    fn base_for(&mut self, bytes: &[u8]) -> usize {
        if bytes.len() != self.n_children {
            // Fewer children fit where more did not.
            (self.from, self.n_children) = (0, bytes.len());
            self.misses.fill(0);
        }
        let first = bytes[0];
        for block in self.from..self.free.len() {
            if self.misses[block] == MOST_MISSES {
                self.from += usize::from(block == self.from);
                continue;
            }
            let (free, no_base) = (&mut self.free[block], &mut self.no_base[block]);
            let fitting =
                bytes.iter().fold(no_base.moved(first), |places, byte| places.and(free.moved(first ^ byte)));
            if let Some(place) = fitting.first() {
                let base = place ^ first;
                no_base.remove(base);
                for &byte in bytes {
                    free.remove(base ^ byte);
                }
                return block * BLOCK + usize::from(base);
            }
            self.misses[block] += 1;
        }
        unreachable!("the double array has no place for the vocabulary")
    }
}

/// A set of bytes.
#[derive(Clone, Copy)]
struct Block([u64; BLOCK / 64]);

impl Block {
    /// Its elements, each `^ by`.
    fn moved(self, by: u8) -> Self {
        /// The bits of a word whose index lacks 1, 2, 4, 8, 16, 32.
        const LOW: [u64; 6] = [
            0x5555_5555_5555_5555,
            0x3333_3333_3333_3333,
            0x0f0f_0f0f_0f0f_0f0f,
            0x00ff_00ff_00ff_00ff,
            0x0000_ffff_0000_ffff,
            0x0000_0000_ffff_ffff,
        ];
        Self(std::array::from_fn(|word| {
            let word = self.0[word ^ usize::from(by >> 6)];
            LOW.iter()
                .enumerate()
                .filter(|(bit, _)| by >> bit & 1 == 1)
                .fold(word, |word, (bit, low)| (word & low) << (1 << bit) | word >> (1 << bit) & low)
        }))
    }

    fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    /// The least element.
    fn first(self) -> Option<u8> {
        let (word, bits) = self.0.iter().enumerate().find(|(_, bits)| **bits != 0)?;
        Some((word * 64) as u8 + bits.trailing_zeros() as u8)
    }

    fn remove(&mut self, element: u8) {
        self.0[usize::from(element / 64)] &= !(1 << (element % 64));
    }
}
