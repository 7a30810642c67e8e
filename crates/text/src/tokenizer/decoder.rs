//! Text out of bytes that arrive in pieces.

/// Puts bytes together to text and gives out whole characters only.
///
/// What all calls return, put together, is [`String::from_utf8_lossy`] of all bytes: what can no longer
/// become a character turns into U+FFFD at once, what still can is held back until the next call.
///
/// ```
/// let mut decoder = rwkv_text::Decoder::default();
/// let [first, rest @ ..] = "é!".as_bytes() else { unreachable!() };
/// assert_eq!(decoder.push(&[*first]), "");
/// assert_eq!(decoder.push(rest), "é!");
/// assert_eq!(decoder.finish(), "");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoder {
    /// The beginning of a character: at most three bytes.
    pending: Vec<u8>,
}

impl Decoder {
    /// Takes the next bytes, and returns the text that is now certain.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.pending.len());
        let mut chunks = self.pending.utf8_chunks().peekable();
        let mut held = 0;
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            if chunks.peek().is_none() && is_beginning(chunk.invalid()) {
                held = chunk.invalid().len();
            } else if !chunk.invalid().is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.pending.drain(..self.pending.len() - held);
        text
    }

    /// Whether no character is unfinished.
    pub fn is_whole(&self) -> bool {
        self.pending.is_empty()
    }

    /// Ends the text: a character that was never completed turns into U+FFFD.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

/// Whether more bytes could make a character of these.
fn is_beginning(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(error) if error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(bytes: &[u8], piece: usize) -> String {
        let mut decoder = Decoder::default();
        let mut text: String = bytes.chunks(piece).map(|piece| decoder.push(piece)).collect();
        text += &decoder.finish();
        text
    }

    proptest! {
        #[test]
        fn pieces_make_the_same_text_as_the_whole(bytes: Vec<u8>, piece in 1_usize..5) {
            prop_assert_eq!(stream(&bytes, piece), String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn texts_come_through_unchanged(text: String, piece in 1_usize..5) {
            prop_assert_eq!(stream(text.as_bytes(), piece), text);
        }
    }

    #[test]
    fn bytes_that_cannot_become_a_character_are_not_held_back() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.push(b"\xf0\x9f"), "");
        assert_eq!(decoder.push(b"a\xff"), "\u{fffd}a\u{fffd}");
        assert_eq!(decoder.push(b"\xe4\xb8"), "");
        assert_eq!(decoder.finish(), "\u{fffd}");
        assert_eq!(decoder.push(b"b"), "b");
    }
}
