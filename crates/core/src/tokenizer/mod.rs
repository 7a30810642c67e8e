//! Texts as tokens: characters or bytes, saved as `tokenizer.json`.
//!
//! # The file
//! ```json
//! { "type": "character", "characters": "\n !abc" }
//! ```
//! Token *i* is the *i*-th character of `characters`, all of which differ. Or
//! ```json
//! { "type": "byte" }
//! ```
//! where the 256 tokens are the bytes themselves.

mod character;
mod decoder;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::atomic::write_atomically;
use crate::error::{Error, Result};
use crate::regular::read_regular;

pub use character::Characters;
pub use decoder::Decoder;

/// Turns texts into tokens and back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tokenizer {
    /// One token a character, of those that a text has.
    Character(Characters),
    /// One token a byte: any input is accepted.
    Byte,
}

/// Largest `tokenizer.json` that is read: every character there is, each escaped as twelve.
const MOST_BYTES: u64 = 1 << 24;

/// `tokenizer.json`.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Json {
    Character { characters: String },
    Byte {},
}

impl Tokenizer {
    /// A tokenizer of the distinct characters of `text`, in the order of their code points, as nanoGPT
    /// numbers them.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if the text is empty.
    pub fn characters_of(text: &str) -> Result<Self> {
        Characters::of_text(text).map(Self::Character)
    }

    /// Number of different tokens.
    pub fn n_vocab(&self) -> usize {
        match self {
            Self::Character(characters) => characters.n_vocab(),
            Self::Byte => 256,
        }
    }

    /// The tokens of `text`.
    ///
    /// # Errors
    /// [`Error::UnknownCharacter`] if the vocabulary lacks one.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self {
            Self::Character(characters) => characters.encode(text),
            Self::Byte => Ok(text.bytes().map(u32::from).collect()),
        }
    }

    /// The tokens of bytes read from the file `source`.
    ///
    /// # Errors
    /// [`Error::InvalidUtf8`] if a character tokenizer is given something else, and as
    /// [`encode`](Self::encode).
    pub fn encode_bytes(&self, bytes: &[u8], source: &Path) -> Result<Vec<u32>> {
        match self {
            Self::Character(characters) => {
                let text = std::str::from_utf8(bytes).map_err(|error| Error::InvalidUtf8 {
                    path: source.to_owned(),
                    offset: error.valid_up_to(),
                })?;
                characters.encode(text)
            }
            Self::Byte => Ok(bytes.iter().copied().map(u32::from).collect()),
        }
    }

    /// The bytes that `tokens` stand for. They need not be whole characters: [`Decoder`] makes text of a
    /// stream of them.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`].
    pub fn decode(&self, tokens: &[u32]) -> Result<Vec<u8>> {
        match self {
            Self::Character(characters) => characters.decode(tokens),
            Self::Byte => {
                tokens.iter().map(|&token| u8::try_from(token).map_err(|_| self.no(token))).collect()
            }
        }
    }

    /// Writes `tokenizer.json`, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write_atomically(path.as_ref(), |w| w.write_all(self.to_json().as_bytes()))
    }

    /// The content of its `tokenizer.json`.
    ///
    /// # Panics
    /// Never: strings can all be written.
    pub fn to_json(&self) -> String {
        let json = match self {
            Self::Character(characters) => Json::Character { characters: characters.iter().collect() },
            Self::Byte => Json::Byte {},
        };
        let mut text = serde_json::to_string_pretty(&json).expect("strings can all be written");
        text.push('\n');
        text
    }

    /// Reads a `tokenizer.json`, or that of a training run's directory.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Tokenizer`] if it is damaged or of an unknown kind.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let path = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        let bytes = read_regular(&path, MOST_BYTES)?;
        let fault = |problem: String| Error::Tokenizer { path, problem };
        match serde_json::from_slice(&bytes) {
            Ok(Json::Byte {}) => Ok(Self::Byte),
            Ok(Json::Character { characters }) => {
                Characters::new(characters.chars()).map(Self::Character).map_err(fault)
            }
            Err(error) => Err(fault(format!("not a tokenizer of this program: {error}"))),
        }
    }

    fn no(&self, token: u32) -> Error {
        Error::TokenOutOfRange { token, n_vocab: self.n_vocab() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Grüße, 世界! 😀\r\n\t\"\\\u{0}\u{7f}e\u{301}";

    #[test]
    fn text_survives_every_tokenizer_and_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokenizer.json");
        for tokenizer in [Tokenizer::characters_of(TEXT).unwrap(), Tokenizer::Byte] {
            tokenizer.save(&path).unwrap();
            let loaded = Tokenizer::load(&path).unwrap();
            assert_eq!(loaded, tokenizer);
            assert_eq!(Tokenizer::load(directory.path()).unwrap(), tokenizer);
            let tokens = loaded.encode(TEXT).unwrap();
            assert_eq!(tokens, tokenizer.encode_bytes(TEXT.as_bytes(), &path).unwrap());
            assert!(tokens.iter().all(|&token| (token as usize) < loaded.n_vocab()));
            assert_eq!(loaded.decode(&tokens).unwrap(), TEXT.as_bytes());
        }
    }

    #[test]
    fn bytes_are_their_own_tokens() {
        let bytes: Vec<u8> = (0..=255).collect();
        let tokens = Tokenizer::Byte.encode_bytes(&bytes, Path::new("x")).unwrap();
        assert_eq!(tokens, (0..256).collect::<Vec<_>>());
        assert_eq!(Tokenizer::Byte.decode(&tokens).unwrap(), bytes);
        assert_eq!(Tokenizer::Byte.decode(&[65, 256]).unwrap_err().code(), "TOKEN_OUT_OF_RANGE");
    }

    #[test]
    fn characters_want_utf8_and_say_where_it_ends() {
        let tokenizer = Tokenizer::characters_of("ab").unwrap();
        let error = tokenizer.encode_bytes(b"aab\xffa", Path::new("book.txt")).unwrap_err();
        assert!(matches!(error, Error::InvalidUtf8 { offset: 3, .. }), "{error}");
    }

    #[test]
    fn damaged_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokenizer.json");
        let cases = [
            "",
            "{",
            "null",
            "[]",
            "{}",
            r#"{"type": "bpe"}"#,
            r#"{"type": "character"}"#,
            r#"{"type": "character", "characters": 3}"#,
            r#"{"type": "character", "characters": ""}"#,
            r#"{"type": "character", "characters": "aba"}"#,
            r#"{"type": "character", "characters": "\ud800"}"#,
            r#"{"type": "byte"} x"#,
        ];
        for text in cases {
            std::fs::write(&path, text).unwrap();
            let error = Tokenizer::load(&path).unwrap_err();
            assert_eq!(error.code(), "TOKENIZER", "{text}");
            assert!(error.to_string().contains("tokenizer.json"), "{error}");
        }
        std::fs::write(&path, b"{\"type\": \"character\", \"characters\": \"a\xff\"}").unwrap();
        assert_eq!(Tokenizer::load(&path).unwrap_err().code(), "TOKENIZER");
        assert_eq!(Tokenizer::load(directory.path().join("none.json")).unwrap_err().code(), "IO");
    }
}
