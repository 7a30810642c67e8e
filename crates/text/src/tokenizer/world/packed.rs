//! `data/world.bin`: the vocabulary in 182 kB.
//!
//! Tokens are numbered by their length, and those of a length by their bytes. So the set of them is enough. It
//! is stored in the order of the bytes, each token as what is new after the one before it:
//!
//! - a byte: four bits (the high ones) say how many bytes both begin with, four how many follow;
//! - where four bits are 15, a byte with the number itself (that of the high ones first);
//! - the bytes that follow.

/// Most bytes of a token.
const LONGEST: usize = 128;

/// The bytes of each token.
pub(super) struct Vocabulary {
    bytes: Vec<u8>,
    /// Token i's bytes end here, and those of i + 1 begin. Token 0 has none.
    ends: Vec<u32>,
}

impl Vocabulary {
    /// Reads a packed vocabulary, up to where it is damaged if it is. Returns with it the tokens in the order of
    /// their bytes.
    pub(super) fn unpack(packed: &[u8]) -> (Self, Vec<u32>) {
        // How many tokens of each length there are says which number the first has, and where its bytes are.
        let mut count = [0u32; LONGEST + 1];
        let mut sorted = Sorted::new(packed);
        while let Some(token) = sorted.next() {
            count[token.len()] += 1;
        }
        let (mut next, mut ends) = ([0; LONGEST + 1], vec![0]);
        let mut n_bytes = 0;
        for (length, &count) in count.iter().enumerate() {
            next[length] = ends.len() as u32;
            for _ in 0..count {
                n_bytes += length as u32;
                ends.push(n_bytes);
            }
        }
        let (mut bytes, mut order) = (vec![0; n_bytes as usize], Vec::with_capacity(ends.len()));
        let mut sorted = Sorted::new(packed);
        while let Some(token) = sorted.next() {
            let number = next[token.len()];
            let end = ends[number as usize] as usize;
            bytes[end - token.len()..end].copy_from_slice(token);
            order.push(number);
            next[token.len()] += 1;
        }
        (Self { bytes, ends }, order)
    }

    /// The bytes of `token`, none for token 0; `None` if there is no such token.
    pub(super) fn get(&self, token: u32) -> Option<&[u8]> {
        let end = *self.ends.get(token as usize)? as usize;
        let begin = (token as usize).checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        Some(&self.bytes[begin..end])
    }

    /// Number of tokens, token 0 among them.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }
}

/// The tokens of a packed vocabulary, in the order of their bytes.
struct Sorted<'a> {
    packed: &'a [u8],
    token: Vec<u8>,
}

impl<'a> Sorted<'a> {
    fn new(packed: &'a [u8]) -> Self {
        Self { packed, token: Vec::with_capacity(LONGEST) }
    }

    /// Not an iterator's: the token is valid until the next call.
    fn next(&mut self) -> Option<&[u8]> {
        let head = self.byte()?;
        let [kept, added] = [self.number(head >> 4)?, self.number(head & 15)?];
        let (new, packed) = self.packed.split_at_checked(added)?;
        self.packed = packed;
        self.token.truncate(kept);
        self.token.extend_from_slice(new);
        (1..=LONGEST).contains(&self.token.len()).then_some(&self.token)
    }

    fn number(&mut self, four_bits: u8) -> Option<usize> {
        Some(if four_bits == 15 { self.byte()? } else { four_bits }.into())
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, packed) = self.packed.split_first()?;
        self.packed = packed;
        Some(byte)
    }
}
