//! One pass over all tokens, for ids that no vocabulary has.

use rwkv_core::{Control, Result, ask};

use super::{TokenFile, Width, fault};

/// Tokens between two questions to the control: a few MB, some milliseconds of a disk's time.
const CHUNK: u64 = 1 << 20;

impl TokenFile {
    /// The largest id in the file. `control` is asked now and then, with tokens.
    ///
    /// # Errors
    /// [`Error::FileChanged`](rwkv_core::Error::FileChanged), [`Error::Io`](rwkv_core::Error::Io),
    /// [`Error::Aborted`](rwkv_core::Error::Aborted).
    pub fn max_token(&self, control: impl Control) -> Result<u32> {
        let mut most = 0;
        self.scan(control, |_, bytes| {
            most = most.max(max_of(self.width(), bytes));
            false
        })?;
        Ok(most)
    }

    /// The first token whose id is `n_vocab` or more, as (its position, its id).
    ///
    /// # Errors
    /// As [`max_token`](Self::max_token).
    pub fn first_beyond(&self, n_vocab: u32, control: impl Control) -> Result<Option<(u64, u32)>> {
        let mut found = None;
        self.scan(control, |first, bytes| {
            if max_of(self.width(), bytes) >= n_vocab {
                found = position_of(self.width(), bytes, n_vocab).map(|(at, id)| (first + at as u64, id));
            }
            found.is_some()
        })?;
        Ok(found)
    }

    /// Looks at every token whether a vocabulary of `n_vocab` has it.
    ///
    /// # Errors
    /// [`Error::Data`](rwkv_core::Error::Data) that names the first token beyond it; as
    /// [`max_token`](Self::max_token).
    pub fn check_vocab(&self, n_vocab: u32, control: impl Control) -> Result<()> {
        let Some((at, id)) = self.first_beyond(n_vocab, control)? else { return Ok(()) };
        let layout = self.0.layout;
        let byte = layout.start as u64 + at * layout.width.bytes() as u64;
        Err(fault(
            self.path(),
            format!(
                "token {at}, at byte {byte}, is {id}; this vocabulary has {n_vocab} tokens, counted from 0; take the \
                 vocabulary that the file was made with, or make the file again with this one"
            ),
        ))
    }

    /// Gives all tokens to `look`, piece by piece, with the position of the piece's first, until it says that
    /// it has seen enough.
    fn scan(&self, mut control: impl Control, mut look: impl FnMut(u64, &[u8]) -> bool) -> Result<()> {
        let len = self.len();
        let mut at = 0;
        while at < len {
            ask(&mut control, at, len)?;
            let end = len.min(at + CHUNK);
            if look(at, self.bytes(&(at..end))?) {
                break;
            }
            at = end;
        }
        self.0.map.check()
    }
}

/// The largest of some tokens; 0 if there are none. Plain loops, which the compiler makes into vectors.
fn max_of(width: Width, bytes: &[u8]) -> u32 {
    match width {
        Width::U16 => {
            let tokens = bytes.as_chunks().0.iter();
            u32::from(tokens.fold(0, |most: u16, &token| most.max(u16::from_le_bytes(token))))
        }
        Width::U32 => {
            let tokens = bytes.as_chunks().0.iter();
            tokens.fold(0, |most: u32, &token| most.max(u32::from_le_bytes(token)))
        }
    }
}

fn position_of(width: Width, bytes: &[u8], n_vocab: u32) -> Option<(usize, u32)> {
    let token = |bytes: &[u8]| bytes.iter().rev().fold(0, |id, &byte| id << 8 | u32::from(byte));
    bytes.chunks_exact(width.bytes()).map(token).enumerate().find(|&(_, id)| id >= n_vocab)
}
