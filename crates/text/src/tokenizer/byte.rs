//! One token a byte.

use rwkv_core::{Error, Result};

use super::character::last_boundary;
use super::json::{self, File};
use super::{Tokenize, TokenizerKind};

/// The 256 bytes: any input is accepted.
#[derive(Clone, Copy, Debug)]
pub struct Bytes;

const N_VOCAB: usize = 256;

impl Tokenize for Bytes {
    fn kind(&self) -> TokenizerKind {
        TokenizerKind::Byte
    }

    fn n_vocab(&self) -> usize {
        N_VOCAB
    }

    fn encode_into(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        out.extend(text.bytes().map(u32::from));
        Ok(())
    }

    fn encode_bytes_into(&self, bytes: &[u8], out: &mut Vec<u32>) -> Option<Result<()>> {
        out.extend(bytes.iter().copied().map(u32::from));
        Some(Ok(()))
    }

    fn decode_into(&self, token: u32, out: &mut Vec<u8>) -> Result<()> {
        out.push(u8::try_from(token).map_err(|_| Error::TokenOutOfRange { token, n_vocab: N_VOCAB })?);
        Ok(())
    }

    /// Byte 0, which no text has.
    fn end_of_text(&self) -> Option<u32> {
        Some(0)
    }

    fn cut(&self, text: &[u8]) -> usize {
        last_boundary(text)
    }

    fn to_json(&self) -> String {
        let vocab = (0..=u8::MAX).map(|byte| (json::char_of_byte(byte).to_string(), u32::from(byte)));
        File::byte_level(vocab, &[], false).to_json()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::tokenizer::Tokenizer;

    #[test]
    fn bytes_are_their_own_tokens() {
        let tokenizer = Tokenizer::bytes();
        let bytes: Vec<u8> = (0..=255).collect();
        let tokens = tokenizer.encode_bytes(&bytes, Path::new("x")).unwrap();
        assert_eq!(tokens, (0..256).collect::<Vec<_>>());
        assert_eq!(tokenizer.decode(&tokens).unwrap(), bytes);
        assert_eq!(tokenizer.decode(&[65, 256]).unwrap_err().code(), "TOKEN_OUT_OF_RANGE");
    }
}
