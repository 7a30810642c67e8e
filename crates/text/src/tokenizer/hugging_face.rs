//! Any tokenizer that Hugging Face's `tokenizers` describes in a `tokenizer.json`, by that library itself.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rwkv_core::{Error, Result};
use serde_json::Value;
use tokenizers::pipeline::{EncodeOptions, PipelineToken, PipelineTokenizer};

use super::json::END_OF_TEXT;
use super::{Tokenize, TokenizerKind};

/// A tokenizer of a `tokenizer.json`.
pub struct HuggingFace {
    pipeline: PipelineTokenizer,
    kind: TokenizerKind,
    /// The file, as it was read.
    json: String,
    /// The bytes of all tokens, one after the other, and where each begins; the last entry is their end.
    bytes: Vec<u8>,
    starts: Vec<u32>,
    end_of_text: Option<u32>,
    can_cut: bool,
}

/// What documents end with, in the vocabularies that people use.
const ENDS: [&str; 6] = [END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "<EOT>"];

/// The longest text that is given to the library at once: it counts in 32 bits.
const MAX_TEXT: usize = 1 << 31;

impl std::fmt::Debug for HuggingFace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HuggingFace")
            .field("kind", &self.kind)
            .field("n_vocab", &self.n_vocab())
            .finish_non_exhaustive()
    }
}

impl HuggingFace {
    /// The tokenizer of a file, or what is wrong with the file.
    pub(super) fn from_json(json: String, value: &Value) -> std::result::Result<Self, String> {
        // Before the library makes a table of all numbers up to the highest.
        let (tokens, special) = vocabulary(value)?;
        // The library panics at some files that lie.
        let read = catch_unwind(|| {
            let canonical = tokenizers::canonicalize_str(&json).map_err(|error| error.to_string())?;
            tokenizers::from_json(&canonical).map_err(|error| error.to_string())
        });
        let pipeline = read.map_err(|_| "it is damaged".to_owned())??;
        let (mut bytes, mut starts) = (Vec::new(), vec![0]);
        let is_byte_level = has_byte_level(&value["decoder"]);
        for (id, token) in tokens.iter().enumerate() {
            match token {
                None => {}
                Some(Token { text, is_added: true }) => bytes.extend_from_slice(text.as_bytes()),
                Some(Token { text, .. }) if is_byte_level => {
                    bytes.extend(text.chars().filter_map(byte_of_char));
                }
                Some(_) => bytes.extend_from_slice(&decoded(&pipeline, id as u32)?),
            }
            starts.push(u32::try_from(bytes.len()).map_err(|_| "its tokens are longer than 4 GB")?);
        }
        let id_of = |content: &&str| special.iter().find(|(text, _)| text == content).map(|&(_, id)| id);
        let end_of_text = ENDS.iter().find_map(id_of);
        let can_cut = splits_words(value);
        Ok(Self { pipeline, kind: TokenizerKind::Bpe, json, bytes, starts, end_of_text, can_cut })
    }

    /// The same, known by another name.
    pub(super) fn of_kind(self, kind: TokenizerKind) -> Self {
        Self { kind, ..self }
    }
}

struct Token<'a> {
    text: &'a str,
    is_added: bool,
}

/// The tokens of a file by their numbers, and the special ones.
#[allow(clippy::type_complexity)] // a list and a list
fn vocabulary(file: &Value) -> std::result::Result<(Vec<Option<Token<'_>>>, Vec<(&str, u32)>), String> {
    let vocab = &file["model"]["vocab"];
    let mut numbered: Vec<(u64, Token<'_>)> = match vocab {
        Value::Object(vocab) => vocab
            .iter()
            .map(|(text, id)| Some((id.as_u64()?, Token { text, is_added: false })))
            .collect::<Option<_>>()
            .ok_or("a token's number is no whole number")?,
        // Unigram has a list of pairs.
        Value::Array(vocab) => (0..)
            .zip(vocab)
            .map(|(id, pair)| Some((id, Token { text: pair[0].as_str()?, is_added: false })))
            .collect::<Option<_>>()
            .ok_or("a token is no string")?,
        _ => return Err("its model has no vocabulary".to_owned()),
    };
    let mut special = Vec::new();
    for added in file["added_tokens"].as_array().map_or(&[][..], |added| added) {
        let (Some(id), Some(text)) = (added["id"].as_u64(), added["content"].as_str()) else {
            return Err("an added token has no number or no content".to_owned());
        };
        if added["special"] == true {
            special.push((text, id as u32));
        }
        numbered.push((id, Token { text, is_added: true }));
    }
    let n_vocab = numbered.iter().map(|(id, _)| id + 1).max().unwrap_or(0);
    if n_vocab > 2 * numbered.len() as u64 + 1024 {
        return Err(format!("it has {} tokens and numbers up to {}", numbered.len(), n_vocab - 1));
    }
    let mut tokens: Vec<Option<Token<'_>>> = (0..n_vocab).map(|_| None).collect();
    for (id, token) in numbered {
        tokens[id as usize] = Some(token);
    }
    Ok((tokens, special))
}

/// Whether a decoder turns the characters of a byte-level vocabulary into bytes.
fn has_byte_level(decoder: &Value) -> bool {
    decoder["type"] == "ByteLevel"
        || decoder["decoders"].as_array().is_some_and(|all| all.iter().any(has_byte_level))
}

/// The byte that a character of a byte-level vocabulary stands for.
fn byte_of_char(character: char) -> Option<u8> {
    tokenizers::utils::byte_level::char_to_byte(character)
}

/// What a token adds to a text, in a vocabulary that is not of bytes: the text of a token and this one without
/// that of the former. A decoder may drop what would stand at the beginning of a text.
fn decoded(pipeline: &PipelineTokenizer, id: u32) -> std::result::Result<Vec<u8>, String> {
    let token = pipeline.get_model().id_to_token(id);
    if let Some(byte) = token.as_deref().and_then(byte_token) {
        return Ok(vec![byte]);
    }
    let decode = |ids: &[u32]| {
        catch_unwind(AssertUnwindSafe(|| pipeline.decode(ids, false)))
            .map_err(|_| format!("token {id} cannot be decoded"))?
            .map_err(|error| format!("token {id} cannot be decoded: {error}"))
    };
    let (alone, twice) = (decode(&[id])?, decode(&[id, id])?);
    Ok(twice.strip_prefix(&alone).unwrap_or(&alone).as_bytes().to_vec())
}

/// The byte that `<0x41>` stands for.
fn byte_token(token: &str) -> Option<u8> {
    u8::from_str_radix(token.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}

/// Whether its words are those of GPT-2's pattern or of one after it, and no token reaches over the places that
/// [`cut_between_words`] finds.
fn splits_words(file: &Value) -> bool {
    fn is_split(pre: &Value) -> bool {
        match pre["type"].as_str() {
            // The library refuses those that put a blank before every text.
            Some("ByteLevel") => pre["use_regex"] != false,
            Some("Sequence") => pre["pretokenizers"].as_array().is_some_and(|all| all.iter().any(is_split)),
            Some("Split") => {
                pre["pattern"]["Regex"].as_str().is_some_and(|regex| regex.contains(r"\s+(?!\S)"))
            }
            _ => false,
        }
    }
    // Added tokens are found before words are, but special ones are not looked for at all.
    let is_apart = |added: &Value| {
        added["special"] == true
            || (added["rstrip"] != true
                && added["content"].as_str().is_some_and(|text| cut_between_words(text.as_bytes()) == 0))
    };
    let normalizer = &file["normalizer"];
    (normalizer.is_null() || normalizer["type"] == "NFC")
        && is_split(&file["pre_tokenizer"])
        && file["added_tokens"].as_array().is_none_or(|all| all.iter().all(is_apart))
}

/// The last place of a text at which a word begins whatever comes after it, or 0:
///
/// - before a blank behind what is none;
/// - before a punctuation mark of ASCII behind a letter or digit of ASCII, but for an apostrophe, which some patterns
///   keep with its word, and for `_`;
/// - before a full stop or a comma of Chinese or Japanese behind one of their letters;
/// - behind a line break that stands between a visible character and a letter or digit, both of ASCII.
///
/// In the patterns of GPT-2 and of those after it, blanks and punctuation marks stand at the beginning of a word, or
/// in one of their own, and only line breaks stand at the end of one.
pub(super) fn cut_between_words(text: &[u8]) -> usize {
    let is_cut = |&at: &usize| {
        let (before, here) = (text[at - 1], text[at]);
        match here {
            b' ' => before.is_ascii_graphic() || last_char(&text[..at]).is_some_and(|it| !it.is_whitespace()),
            b'\'' | b'_' => false,
            b'!'..=b'~' if here.is_ascii_punctuation() => before.is_ascii_alphanumeric(),
            0xe3 | 0xef => {
                let is_mark = ["、", "。", "，"].iter().any(|mark| text[at..].starts_with(mark.as_bytes()));
                is_mark && last_char(&text[..at]).is_some_and(is_east_asian)
            }
            _ => before == b'\n' && here.is_ascii_alphanumeric() && at > 1 && text[at - 2].is_ascii_graphic(),
        }
    };
    (1..text.len()).rev().find(is_cut).unwrap_or(0)
}

/// The character that a text ends with; none within one and of control characters.
fn last_char(text: &[u8]) -> Option<char> {
    let start = (text.len().saturating_sub(4)..text.len()).rev().find(|&at| text[at] & 0xc0 != 0x80)?;
    std::str::from_utf8(&text[start..]).ok()?.chars().next().filter(|it| !it.is_control())
}

/// Whether this is a letter of Chinese, Japanese or Korean, so far as those are in one row.
fn is_east_asian(character: char) -> bool {
    matches!(
        character,
        '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}'
    )
}

impl Tokenize for HuggingFace {
    fn kind(&self) -> TokenizerKind {
        self.kind
    }

    fn n_vocab(&self) -> usize {
        self.starts.len() - 1
    }

    fn encode_into(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        let fault = |problem: String| Error::option("text", problem, "one that this tokenizer can read");
        if text.len() >= MAX_TEXT {
            return Err(fault("longer than 2 GB".to_owned()));
        }
        let options = EncodeOptions {
            add_special_tokens: false,
            encode_special_tokens: true,
            padding: tokenizers::pipeline::Override::Off,
            truncation: tokenizers::pipeline::Override::Off,
        };
        let mut tokens: Vec<PipelineToken> = Vec::with_capacity(text.len() / 4);
        self.pipeline
            .encode_into(text, &options, &mut tokens)
            .map_err(|error| fault(format!("({error})")))?;
        out.extend(tokens.into_iter().map(u32::from));
        Ok(())
    }

    fn decode_into(&self, token: u32, out: &mut Vec<u8>) -> Result<()> {
        match self.starts.get(token as usize..).and_then(|starts| starts.first_chunk::<2>()) {
            Some(&[start, end]) if self.end_of_text != Some(token) => {
                out.extend_from_slice(&self.bytes[start as usize..end as usize]);
                Ok(())
            }
            Some(_) => Ok(()),
            None => Err(Error::TokenOutOfRange { token, n_vocab: self.n_vocab() }),
        }
    }

    fn end_of_text(&self) -> Option<u32> {
        self.end_of_text
    }

    fn cut(&self, text: &[u8]) -> usize {
        if self.can_cut { cut_between_words(text) } else { 0 }
    }

    fn to_json(&self) -> String {
        self.json.clone()
    }
}
