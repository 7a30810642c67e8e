//! Byte-pair vocabularies that are published, packed into the program: their merges alone, from which the tokens
//! and their numbers follow.

use super::json::{END_OF_TEXT, File, byte_level_alphabet, char_of_byte};
use super::{HuggingFace, TokenizerKind};
use rwkv_core::{Error, Result};

/// Merges as pairs of tokens, each two little-endian `u16`. See data/README.md for where they are from.
static GPT2: &[u8] = include_bytes!("../../data/gpt2.bin");
static PILE: &[u8] = include_bytes!("../../data/pile.bin");

pub(super) const PILE_N_VOCAB: usize = 50_277;

/// GPT-2: the 256 bytes, 50,000 merges, and the end of text.
pub(super) fn gpt2() -> Result<HuggingFace> {
    let (vocab, merges) = unpack(GPT2, &[], &byte_level_alphabet());
    let end = vocab.len() as u32;
    of(
        &File::byte_level(numbered(vocab), &merges, true).with_added(end, END_OF_TEXT, true),
        TokenizerKind::Gpt2,
    )
}

/// GPT-NeoX-20B: the end of text and padding, the 243 bytes that UTF-8 has, 50,009 merges, and runs of 24 to 2
/// spaces.
pub(super) fn pile() -> Result<HuggingFace> {
    let is_utf8 = |byte: &u8| !matches!(byte, 0xc0 | 0xc1 | 0xf5..);
    let alphabet: Vec<u8> = byte_level_alphabet().into_iter().filter(is_utf8).collect();
    let (vocab, merges) = unpack(PILE, &[END_OF_TEXT, "<|padding|>"], &alphabet);
    let spaces = vocab.len() as u32;
    let mut file = File::byte_level(numbered(vocab), &merges, true)
        .with_nfc()
        .with_added(0, END_OF_TEXT, true)
        .with_added(1, "<|padding|>", true);
    for (id, count) in (spaces..).zip((2..=24).rev()) {
        file = file.with_added(id, &" ".repeat(count), false);
    }
    of(&file, TokenizerKind::Pile)
}

/// The tokens in their order, and the merges that make them.
fn unpack(packed: &[u8], special: &[&str], alphabet: &[u8]) -> (Vec<String>, Vec<(String, String)>) {
    let special = special.iter().map(|&token| token.to_owned());
    let bytes = alphabet.iter().map(|&byte| char_of_byte(byte).to_string());
    let mut vocab: Vec<String> = special.chain(bytes).collect();
    let mut merges = Vec::with_capacity(packed.len() / 4);
    for pair in packed.as_chunks::<4>().0 {
        let [left, right] = [[pair[0], pair[1]], [pair[2], pair[3]]]
            .map(|token| vocab.get(usize::from(u16::from_le_bytes(token))).cloned().unwrap_or_default());
        vocab.push(format!("{left}{right}"));
        merges.push((left, right));
    }
    (vocab, merges)
}

fn numbered(vocab: Vec<String>) -> impl Iterator<Item = (String, u32)> {
    vocab.into_iter().zip(0..)
}

fn of(file: &File, kind: TokenizerKind) -> Result<HuggingFace> {
    HuggingFace::from_json(file.to_json(), &file.to_value())
        .map(|tokenizer| tokenizer.of_kind(kind))
        .map_err(|problem| Error::Tokenizer { path: kind.word().into(), problem })
}
