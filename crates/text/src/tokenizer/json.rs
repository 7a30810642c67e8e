//! `tokenizer.json`, as Hugging Face's `tokenizers` writes it: what ours are in that format, and which of ours a
//! file is.

use serde_json::{Map, Value, json};

use super::{Bytes, Characters, HuggingFace, Tokenizer};

/// The text that ends a document in the vocabularies that have such a token.
pub(super) const END_OF_TEXT: &str = "<|endoftext|>";

/// The character that stands for a byte in byte-level vocabularies: itself if it can be seen, and else one from
/// U+0100 on (Radford et al. 2019, GPT-2's `bytes_to_unicode`).
pub(super) fn char_of_byte(byte: u8) -> char {
    let is_seen = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if is_seen(byte) {
        return char::from(byte);
    }
    let unseen = (0..byte).filter(|&before| !is_seen(before)).count() as u32;
    char::from_u32(0x100 + unseen).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// All bytes in the order that byte-level vocabularies give them: by the characters that stand for them.
pub(super) fn byte_level_alphabet() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..=u8::MAX).collect();
    bytes.sort_by_key(|&byte| char_of_byte(byte));
    bytes
}

/// The parts of a `tokenizer.json` with a BPE model.
pub(super) struct File {
    vocab: Map<String, Value>,
    merges: Vec<Value>,
    added: Vec<Value>,
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    byte_fallback: bool,
}

impl File {
    /// A byte-level vocabulary. `splits_words`: whether merges stay within words, as GPT-2's pattern splits
    /// them.
    pub(super) fn byte_level(
        vocab: impl IntoIterator<Item = (String, u32)>,
        merges: &[(String, String)],
        splits_words: bool,
    ) -> Self {
        let byte_level = |use_regex| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        Self {
            vocab: vocab.into_iter().map(|(token, id)| (token, id.into())).collect(),
            merges: merges.iter().map(|(left, right)| json!([left, right])).collect(),
            added: Vec::new(),
            normalizer: Value::Null,
            pre_tokenizer: byte_level(splits_words),
            decoder: byte_level(true),
            byte_fallback: false,
        }
    }

    /// A vocabulary of characters and, written as `<0x41>`, bytes.
    pub(super) fn characters(vocab: impl IntoIterator<Item = (String, u32)>, has_bytes: bool) -> Self {
        Self {
            vocab: vocab.into_iter().map(|(token, id)| (token, id.into())).collect(),
            merges: Vec::new(),
            added: Vec::new(),
            normalizer: Value::Null,
            pre_tokenizer: Value::Null,
            decoder: json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}),
            byte_fallback: has_bytes,
        }
    }

    /// With a token that is matched in a text before all others, unless it is special.
    pub(super) fn with_added(mut self, id: u32, content: &str, is_special: bool) -> Self {
        self.added.push(json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": !is_special, "special": is_special
        }));
        self
    }

    /// With the normal form C of Unicode.
    pub(super) fn with_nfc(mut self) -> Self {
        self.normalizer = json!({"type": "NFC"});
        self
    }

    pub(super) fn to_json(&self) -> String {
        let mut text = self.to_value().to_string();
        text.push('\n');
        text
    }

    pub(super) fn to_value(&self) -> Value {
        json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": self.added,
            "normalizer": self.normalizer,
            "pre_tokenizer": self.pre_tokenizer,
            "post_processor": null,
            "decoder": self.decoder,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": self.byte_fallback,
                "ignore_merges": false, "vocab": self.vocab, "merges": self.merges
            }
        })
    }
}

/// The tokenizer of a file, or what is wrong with the file.
pub(super) fn read(text: String) -> Result<Tokenizer, String> {
    let value: Value = serde_json::from_str(&text).map_err(|error| format!("not a tokenizer: {error}"))?;
    match value.get("type").and_then(Value::as_str) {
        Some("world") => Ok(Tokenizer::world()),
        // As this program wrote them before it had Hugging Face's format.
        Some("byte") => Ok(Bytes.into()),
        Some("character") => {
            let characters = value.get("characters").and_then(Value::as_str);
            let characters = characters.ok_or("a tokenizer of characters lists them as a string, \"characters\"")?;
            Ok(Characters::of(characters.chars())?.into())
        }
        Some(other) => Err(format!("{other:?} is no kind of tokenizer that this program knows")),
        None if value.get("model").is_none() => Err(
            "not a tokenizer: a tokenizer.json has the field \"model\", as Hugging Face's tokenizers write it"
                .to_owned(),
        ),
        None => {
            if let Some(characters) = Characters::from_json(&value) {
                return characters.map(Into::into);
            }
            if is_bytes(&value) {
                return Ok(Bytes.into());
            }
            HuggingFace::from_json(text, &value).map(Into::into)
        }
    }
}

/// Whether a file is what [`Bytes`] writes.
fn is_bytes(file: &Value) -> bool {
    let model = &file["model"];
    let added = file["added_tokens"].as_array();
    let is_of_bytes = |(token, id): (&String, &Value)| {
        id.as_u64().and_then(|id| u8::try_from(id).ok()).is_some_and(|byte| {
            let mut buffer = [0; 4];
            *token == *char_of_byte(byte).encode_utf8(&mut buffer)
        })
    };
    model["type"] == "BPE"
        && model["merges"].as_array().is_some_and(Vec::is_empty)
        && added.is_none_or(Vec::is_empty)
        && file["normalizer"].is_null()
        && file["pre_tokenizer"]["type"] == "ByteLevel"
        && file["pre_tokenizer"]["add_prefix_space"] == false
        && model["vocab"].as_object().is_some_and(|vocab| vocab.len() == 256 && vocab.iter().all(is_of_bytes))
}
