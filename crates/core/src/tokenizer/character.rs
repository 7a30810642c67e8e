//! One token a character.

use std::collections::{BTreeSet, HashMap};

use crate::error::{Error, Result};

/// A vocabulary of distinct characters; a token is a position in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Characters {
    characters: Vec<char>,
    tokens: HashMap<char, u32>,
}

impl Characters {
    /// The distinct characters of `text`, in the order of their code points.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if there are none.
    pub fn of_text(text: &str) -> Result<Self> {
        let characters: BTreeSet<char> = text.chars().collect();
        Self::new(characters).map_err(|_| Error::option("text", "empty", "at least one character"))
    }

    /// The vocabulary that lists these characters, or what is wrong with the list.
    pub(super) fn new(characters: impl IntoIterator<Item = char>) -> std::result::Result<Self, String> {
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
        Ok(Self { characters, tokens })
    }

    /// Number of characters.
    pub fn n_vocab(&self) -> usize {
        self.characters.len()
    }

    /// The characters in the order of their tokens.
    pub fn iter(&self) -> impl Iterator<Item = char> {
        self.characters.iter().copied()
    }

    /// Whether the vocabulary has `character`.
    pub fn contains(&self, character: char) -> bool {
        self.tokens.contains_key(&character)
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        text.chars()
            .enumerate()
            .map(|(position, character)| {
                self.tokens.get(&character).copied().ok_or(Error::UnknownCharacter {
                    character,
                    position,
                    n_vocab: self.n_vocab(),
                })
            })
            .collect()
    }

    pub(super) fn decode(&self, tokens: &[u32]) -> Result<Vec<u8>> {
        let mut text = String::with_capacity(tokens.len());
        for &token in tokens {
            let n_vocab = self.n_vocab();
            let character =
                self.characters.get(token as usize).ok_or(Error::TokenOutOfRange { token, n_vocab })?;
            text.push(*character);
        }
        Ok(text.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_follow_code_points() {
        let characters = Characters::of_text("hello, Wörld").unwrap();
        assert_eq!(characters.iter().collect::<String>(), " ,Wdehlorö");
        assert_eq!(characters.encode("ö W").unwrap(), [9, 0, 2]);
        assert!(characters.contains('ö') && !characters.contains('z'));
    }

    #[test]
    fn an_unknown_character_is_named_with_its_position() {
        let error = Characters::of_text("äb").unwrap().encode("ääxb").unwrap_err();
        assert!(
            matches!(error, Error::UnknownCharacter { character: 'x', position: 2, n_vocab: 2 }),
            "{error}"
        );
    }

    /// Nobody sees it in an editor.
    #[test]
    fn a_byte_order_mark_is_called_by_its_name() {
        let characters = Characters::of_text("ab").unwrap();
        let says = |text| characters.encode(text).unwrap_err().to_string();
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
}
