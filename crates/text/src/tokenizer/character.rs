//! One token a character, and bytes for the characters that the vocabulary lacks.

use std::collections::{BTreeSet, HashMap};

use rwkv_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::json::{END_OF_TEXT, File};
use super::{Tokenize, Tokenizer, TokenizerKind};

/// A vocabulary of distinct characters; a token is a position in it. Behind the characters there can be bytes,
/// in which every other character is written as UTF-8, and an end of text.
#[derive(Clone, Debug)]
pub struct Characters {
    characters: Vec<char>,
    tokens: HashMap<char, u32>,
    /// The bytes, in the order of their tokens, which follow those of the characters.
    bytes: Vec<u8>,
    /// The token of each byte, where there is one.
    byte_tokens: Box<[Option<u32>; 256]>,
    has_end: bool,
    unknown: Option<Unknown>,
}

/// What becomes of a character that a vocabulary lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// It is an error.
    #[default]
    Error,
    /// It is left out.
    Skip,
    /// It is written in bytes, which the vocabulary must have.
    Byte,
}

impl Unknown {
    /// The word of each.
    pub const WORDS: &'static [&'static str] = &["error", "skip", "byte"];

    /// That of a word.
    pub fn of_word(word: &str) -> Option<Self> {
        let all = [Self::Error, Self::Skip, Self::Byte];
        Self::WORDS.iter().position(|&it| it == word).map(|at| all[at])
    }
}

impl Characters {
    /// The distinct characters of `text`, in the order of their code points.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if there are none.
    pub fn of_text(text: &str) -> Result<Self> {
        let characters: BTreeSet<char> = text.chars().collect();
        Self::of(characters).map_err(|_| Error::option("text", "empty", "at least one character"))
    }

    /// The vocabulary of these characters, in their order.
    ///
    /// # Errors
    /// What is wrong with the list: it is empty, or has one twice.
    pub fn of(characters: impl IntoIterator<Item = char>) -> std::result::Result<Self, String> {
        let characters: Vec<char> = characters.into_iter().collect();
        if characters.is_empty() {
            return Err("it has no characters".into());
        }
        let mut tokens = HashMap::with_capacity(characters.len());
        // There are 1,112,064 characters, and each is listed at most once: a token fits 32 bits.
        for (token, &character) in characters.iter().enumerate() {
            if tokens.insert(character, token as u32).is_some() {
                return Err(format!("it lists the character {character:?} twice"));
            }
        }
        let (bytes, byte_tokens) = (Vec::new(), Box::new([None; 256]));
        Ok(Self { characters, tokens, bytes, byte_tokens, has_end: false, unknown: None })
    }

    /// With the bytes that all other characters need: those of the ASCII characters that are missing, and those
    /// that begin and go on a character of several bytes.
    #[must_use]
    pub fn with_bytes(self) -> Self {
        let is_needed = |byte: u8| match byte {
            ..0x80 => !self.contains(char::from(byte)),
            // These begin no character.
            0x80..0xc0 | 0xc2..0xf5 => true,
            0xc0 | 0xc1 | 0xf5.. => false,
        };
        let bytes: Vec<u8> = (0..=u8::MAX).filter(|&byte| is_needed(byte)).collect();
        self.with_these_bytes(bytes)
    }

    fn with_these_bytes(mut self, bytes: Vec<u8>) -> Self {
        let first = self.characters.len() as u32;
        for (token, &byte) in (first..).zip(&bytes) {
            self.byte_tokens[usize::from(byte)] = Some(token);
        }
        self.bytes = bytes;
        self
    }

    /// With a token that ends documents, the last one.
    #[must_use]
    pub fn with_end_of_text(self) -> Self {
        Self { has_end: true, ..self }
    }

    /// The characters in the order of their tokens.
    pub fn iter(&self) -> impl Iterator<Item = char> {
        self.characters.iter().copied()
    }

    /// Whether the vocabulary has `character`.
    pub fn contains(&self, character: char) -> bool {
        self.tokens.contains_key(&character)
    }

    /// Whether it has bytes for other characters.
    pub fn has_bytes(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Appends the bytes of a character that the vocabulary lacks; false if it lacks those too.
    fn push_bytes(&self, character: char, out: &mut Vec<u32>) -> bool {
        let before = out.len();
        for &byte in character.encode_utf8(&mut [0; 4]).as_bytes() {
            let Some(token) = self.byte_tokens[usize::from(byte)] else {
                out.truncate(before);
                return false;
            };
            out.push(token);
        }
        true
    }

    /// Reads what [`to_json`](Tokenize::to_json) writes; none if the file is something else.
    pub(super) fn from_json(file: &Value) -> Option<std::result::Result<Self, String>> {
        let model = &file["model"];
        let vocab = model["vocab"].as_object()?;
        let is_this = model["type"] == "BPE"
            && model["merges"].as_array().is_some_and(Vec::is_empty)
            && model["unk_token"].is_null()
            && file["normalizer"].is_null()
            && file["pre_tokenizer"].is_null()
            && file["decoder"]["type"] == "Sequence";
        let end = match file["added_tokens"].as_array().map_or(&[][..], |added| added) {
            [] => None,
            [end] if end["content"] == END_OF_TEXT && end["special"] == true => Some(end["id"].as_u64()?),
            _ => return None,
        };
        if !is_this {
            return None;
        }
        let mut by_id: Vec<Option<&str>> = vec![None; vocab.len()];
        for (token, id) in vocab {
            *by_id.get_mut(usize::try_from(id.as_u64()?).ok()?)? = Some(token);
        }
        let (mut characters, mut bytes) = (Vec::new(), Vec::new());
        for token in by_id {
            let token = token?;
            let mut all = token.chars();
            match (all.next(), all.next()) {
                (Some(character), None) if bytes.is_empty() => characters.push(character),
                _ => bytes.push(byte_of(token)?),
            }
        }
        let len = (characters.len() + bytes.len()) as u64;
        if end.is_some_and(|end| end != len) || (!bytes.is_empty() && model["byte_fallback"] != true) {
            return None;
        }
        let read = Self::of(characters).map(|read| read.with_these_bytes(bytes));
        Some(read.map(|read| Self { has_end: end.is_some(), ..read }))
    }
}

/// The byte that `<0x41>` stands for.
fn byte_of(token: &str) -> Option<u8> {
    u8::from_str_radix(token.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}

/// A tokenizer that does this with characters which it lacks.
pub(super) fn with_unknown(tokenizer: &Tokenizer, unknown: Option<Unknown>) -> Result<Tokenizer> {
    let Some(characters) = tokenizer.0.as_characters() else { return Ok(tokenizer.clone()) };
    match unknown {
        Some(Unknown::Byte) if !characters.has_bytes() => Err(Error::option(
            "unknown",
            "byte",
            "error or skip: this vocabulary has no bytes, because its model is of before there were any",
        )),
        _ => Ok(Characters { unknown, ..characters.clone() }.into()),
    }
}

impl Tokenize for Characters {
    fn kind(&self) -> TokenizerKind {
        TokenizerKind::Character
    }

    fn n_vocab(&self) -> usize {
        self.characters.len() + self.bytes.len() + usize::from(self.has_end)
    }

    fn encode_into(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        for (position, character) in text.chars().enumerate() {
            match self.tokens.get(&character) {
                Some(&token) => out.push(token),
                None if self.unknown == Some(Unknown::Skip) => {}
                None if self.unknown != Some(Unknown::Error) && self.push_bytes(character, out) => {}
                None => {
                    return Err(Error::UnknownCharacter {
                        character,
                        position,
                        n_vocab: self.characters.len(),
                        place: None,
                    });
                }
            }
        }
        Ok(())
    }

    fn decode_into(&self, token: u32, out: &mut Vec<u8>) -> Result<()> {
        let index = token as usize;
        if let Some(character) = self.characters.get(index) {
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        } else if let Some(&byte) = self.bytes.get(index - self.characters.len()) {
            out.push(byte);
        } else if self.end_of_text() != Some(token) {
            return Err(Error::TokenOutOfRange { token, n_vocab: self.n_vocab() });
        }
        Ok(())
    }

    fn end_of_text(&self) -> Option<u32> {
        self.has_end.then_some((self.characters.len() + self.bytes.len()) as u32)
    }

    fn cut(&self, text: &[u8]) -> usize {
        last_boundary(text)
    }

    fn to_json(&self) -> String {
        let characters = self.characters.iter().map(char::to_string);
        let bytes = self.bytes.iter().map(|byte| format!("<0x{byte:02X}>"));
        let file = File::characters(characters.chain(bytes).zip(0..), self.has_bytes());
        match self.end_of_text() {
            Some(end) => file.with_added(end, END_OF_TEXT, true).to_json(),
            None => file.to_json(),
        }
    }

    fn as_characters(&self) -> Option<&Characters> {
        Some(self)
    }
}

/// The end of the last whole character of a text that may end within one.
pub(super) fn last_boundary(text: &[u8]) -> usize {
    let tail = text.len().saturating_sub(3);
    let is_first = |&at: &usize| text[at] & 0xc0 != 0x80;
    match (tail..text.len()).rev().find(is_first) {
        Some(at) if std::str::from_utf8(&text[at..]).is_err() => at,
        _ => text.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_follow_code_points() {
        let characters = Characters::of_text("hello, Wörld").unwrap();
        assert_eq!(characters.iter().collect::<String>(), " ,Wdehlorö");
        assert_eq!(Tokenizer::from(characters.clone()).encode("ö W").unwrap(), [9, 0, 2]);
        assert!(characters.contains('ö') && !characters.contains('z'));
    }

    #[test]
    fn an_unknown_character_is_named_with_its_position() {
        let error = Tokenizer::from(Characters::of_text("äb").unwrap()).encode("ääxb").unwrap_err();
        assert!(
            matches!(error, Error::UnknownCharacter { character: 'x', position: 2, n_vocab: 2, .. }),
            "{error}"
        );
    }

    /// Nobody sees it in an editor.
    #[test]
    fn a_byte_order_mark_is_called_by_its_name() {
        let characters = Tokenizer::from(Characters::of_text("ab").unwrap());
        let says = |text: &str| characters.encode(text).unwrap_err().to_string();
        assert_eq!(
            says("\u{feff}ab"),
            "the byte order mark (U+FEFF) that the text begins with is not among the 2 characters this model was \
             trained on; save the text as UTF-8 without it"
        );
        assert!(says("ab\u{feff}").starts_with("the byte order mark (U+FEFF) at position 2 is not among"));
        assert!(says("\u{200b}").starts_with("character '\\u{200b}' (U+200B) at position 0 is not among"));
    }

    #[test]
    fn there_must_be_a_character() {
        assert_eq!(Characters::of_text("").unwrap_err().code(), "INVALID_OPTION");
        assert_eq!(Characters::of_text("aaa").unwrap().n_vocab(), 1);
    }

    #[test]
    fn what_the_vocabulary_lacks_is_written_in_bytes() {
        let characters = Characters::of_text("abcä\n").unwrap().with_bytes();
        assert!(!characters.contains('é') && characters.n_vocab() < 256 + 5);
        let tokenizer = Tokenizer::from(characters.with_end_of_text());
        let end = tokenizer.end_of_text().unwrap();
        assert_eq!(end as usize + 1, tokenizer.n_vocab());
        for text in ["abc", "ä", "é", "日本\u{0}", "a\u{feff}😀b<|endoftext|>"] {
            let tokens = tokenizer.encode(text).unwrap();
            assert!(!tokens.contains(&end));
            assert_eq!(tokenizer.decode(&tokens).unwrap(), text.as_bytes());
        }
        assert_eq!(tokenizer.encode("ä").unwrap().len(), 1);
        assert_eq!(tokenizer.encode("é").unwrap().len(), 2);
        assert_eq!(tokenizer.decode(&[end]).unwrap(), b"");
    }

    #[test]
    fn older_vocabularies_can_leave_out_what_they_lack() {
        let old = Tokenizer::from(Characters::of_text("abc").unwrap());
        assert_eq!(old.with_unknown(Some(Unknown::Skip)).unwrap().encode("xaéb").unwrap(), [0, 1]);
        assert!(old.with_unknown(Some(Unknown::Error)).unwrap().encode("x").is_err());
        let error = old.with_unknown(Some(Unknown::Byte)).unwrap_err().to_string();
        assert!(error.starts_with("unknown is byte; it must be error or skip"), "{error}");
        let new = Tokenizer::from(Characters::of_text("abc").unwrap().with_bytes());
        assert_eq!(new.with_unknown(Some(Unknown::Byte)).unwrap(), new);
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        for (text, cut) in [("ab", 2), ("aé", 3), ("", 0), ("😀", 4)] {
            assert_eq!(last_boundary(text.as_bytes()), cut);
        }
        assert_eq!(last_boundary(&"aé".as_bytes()[..2]), 1);
        assert_eq!(last_boundary(&"a😀".as_bytes()[..4]), 1);
    }
}
