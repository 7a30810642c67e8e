//! llama.cpp's files (see [`file`](crate::file)): what its loader wants of RWKV, and a vocabulary.
//!
//! Facts from llama.cpp's `conversion/rwkv.py`, `src/models/rwkv7.cpp` and `src/llama-vocab.cpp`.

use std::io::{self, Write};

use super::values::Values;
use super::{Job, Written};
use crate::control::Control;
use crate::data_type::DataType;
use crate::file::{GGUF_MAGIC, GgufType as Type, gguf_number_of};
use crate::quantize::Counted;

/// What each tensor's data are padded to.
const ALIGNMENT: usize = 32;
/// A state has no end; the converter of llama.cpp writes this one.
const CONTEXT: u32 = 1 << 20;
/// All norms but those of heads have it.
const EPS: f32 = 1e-5;

/// llama.cpp's numbers for kinds of tokens.
const NORMAL: u32 = 1;
const CONTROL: u32 = 3;
const UNUSED: u32 = 5;

pub(super) fn write(out: &mut Counted<'_>, job: &Job<'_>, values: &mut Values<'_, impl Control>) -> Written {
    let metadata = metadata(job);
    let mut directory = Vec::new();
    let (mut offset, mut padding) = (0_usize, Vec::with_capacity(job.tensors.len()));
    for tensor in job.tensors {
        let number = gguf_number_of(tensor.data_type)
            .ok_or_else(|| io::Error::other(format!("GGUF cannot hold {}", tensor.data_type)))?;
        string(&mut directory, tensor.name.as_bytes());
        directory.extend((tensor.dims.len() as u32).to_le_bytes());
        directory.extend(tensor.dims.iter().flat_map(|&dim| (dim as u64).to_le_bytes()));
        directory.extend(number.to_le_bytes());
        directory.extend((offset as u64).to_le_bytes());
        let end = offset + tensor.bytes();
        offset = end.next_multiple_of(ALIGNMENT);
        padding.push(offset - end);
    }
    out.write_all(&GGUF_MAGIC.to_le_bytes())?;
    out.write_all(&3_u32.to_le_bytes())?;
    out.write_all(&(job.tensors.len() as u64).to_le_bytes())?;
    out.write_all(&metadata.count.to_le_bytes())?;
    out.write_all(&metadata.bytes)?;
    out.write_all(&directory)?;
    let zeros = [0; ALIGNMENT];
    let begin = (out.count as usize).next_multiple_of(ALIGNMENT);
    out.write_all(&zeros[..begin - out.count as usize])?;
    for (tensor, padding) in job.tensors.iter().zip(padding) {
        values.write(tensor, out)?;
        out.write_all(&zeros[..padding])?;
    }
    Ok(())
}

fn metadata(job: &Job<'_>) -> Metadata {
    let config = job.config;
    let architecture = config.version.name().replacen('v', "rwkv", 1);
    let mut keys = Metadata { bytes: Vec::new(), count: 0 };
    keys.string("general.architecture", &architecture);
    keys.string("general.type", "model");
    keys.u32("general.alignment", ALIGNMENT as u32);
    keys.u32("general.file_type", file_type(job.to_type));
    if job.to_type.is_quantized() {
        keys.u32("general.quantization_version", 2);
    }
    let key = |name: &str| format!("{architecture}.{name}");
    keys.u32(&key("context_length"), CONTEXT);
    keys.u32(&key("embedding_length"), config.n_embd as u32);
    keys.u32(&key("block_count"), config.n_layer as u32);
    keys.u32(&key("feed_forward_length"), config.n_ffn as u32);
    keys.u32(&key("vocab_size"), config.n_vocab as u32);
    // There is no attention.
    keys.u32(&key("attention.head_count"), 0);
    keys.f32(&key("attention.layer_norm_epsilon"), EPS);
    for (index, name) in config.version.gguf_sizes().iter().enumerate() {
        keys.u32(&key(name), config.sizes.get(index) as u32);
    }
    match job.tokens {
        Some(tokens) => vocabulary(&mut keys, tokens, config.n_vocab),
        None => keys.string("tokenizer.ggml.model", "none"),
    }
    keys
}

/// llama.cpp's number for a file most of whose matrices are `data_type`.
fn file_type(data_type: DataType) -> u32 {
    match data_type {
        DataType::F32 => 0,
        DataType::F16 => 1,
        DataType::Q4_0 => 2,
        DataType::Q4_1 => 3,
        DataType::Q8_0 => 7,
        DataType::Q5_0 => 8,
        DataType::Q5_1 => 9,
        DataType::BF16 => 32,
    }
}

fn vocabulary(keys: &mut Metadata, tokens: &[Vec<u8>], n_vocab: usize) {
    let entry = |id: usize| match tokens.get(id).filter(|token| !token.is_empty()) {
        Some(token) => (escaped(token), NORMAL),
        None if id == 0 => ("<s>".to_owned(), CONTROL),
        None => (format!("[PAD{id}]"), UNUSED),
    };
    let entries: Vec<_> = (0..n_vocab).map(entry).collect();
    keys.string("tokenizer.ggml.model", "rwkv");
    keys.array("tokenizer.ggml.tokens", Type::String, n_vocab);
    for (text, _) in &entries {
        string(&mut keys.bytes, text.as_bytes());
    }
    keys.array("tokenizer.ggml.token_type", Type::I32, n_vocab);
    keys.bytes.extend(entries.iter().flat_map(|(_, kind)| kind.to_le_bytes()));
    // A turn of a chat ends with an empty line.
    if let Some(id) = tokens.iter().position(|token| token == b"\n\n") {
        keys.u32("tokenizer.ggml.eot_token_id", id as u32);
        keys.string("tokenizer.chat_template", "rwkv-world");
    }
}

/// A token as Python shows bytes, without the quotation marks: what llama.cpp reads a vocabulary of RWKV by.
fn escaped(token: &[u8]) -> String {
    let in_double_quotes = token.contains(&b'\'') && !token.contains(&b'"');
    let mut text = String::with_capacity(token.len());
    for &byte in token {
        match byte {
            b'\t' => text.push_str("\\t"),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\\' => text.push_str("\\\\"),
            b'\'' if !in_double_quotes => text.push_str("\\'"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                text.push_str("\\x");
                text.extend(
                    [byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])),
                );
            }
        }
    }
    text
}

/// Keys and their values.
struct Metadata {
    bytes: Vec<u8>,
    count: u64,
}

impl Metadata {
    fn key(&mut self, key: &str, of: Type) {
        self.count += 1;
        string(&mut self.bytes, key.as_bytes());
        self.bytes.extend(of.number().to_le_bytes());
    }

    fn u32(&mut self, key: &str, value: u32) {
        self.key(key, Type::U32);
        self.bytes.extend(value.to_le_bytes());
    }

    fn f32(&mut self, key: &str, value: f32) {
        self.key(key, Type::F32);
        self.bytes.extend(value.to_le_bytes());
    }

    fn string(&mut self, key: &str, value: &str) {
        self.key(key, Type::String);
        string(&mut self.bytes, value.as_bytes());
    }

    /// The beginning of an array, which so many values follow.
    fn array(&mut self, key: &str, of: Type, count: usize) {
        self.key(key, Type::Array);
        self.bytes.extend(of.number().to_le_bytes());
        self.bytes.extend((count as u64).to_le_bytes());
    }
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Python 3.11's `repr(token)[2:-1]` gives.
    #[test]
    fn tokens_are_written_as_python_shows_bytes() {
        for (token, text) in [
            (&b"\x00"[..], r"\x00"),
            (b" the", " the"),
            (b"\t\n\r", r"\t\n\r"),
            (b"don't", "don't"),
            (b"say \"hi\"", "say \"hi\""),
            (b"'\"", r#"\'""#),
            (b"C:\\x", r"C:\\x"),
            (b"\x7f\x80\xff", r"\x7f\x80\xff"),
            ("é".as_bytes(), r"\xc3\xa9"),
        ] {
            assert_eq!(escaped(token), text);
        }
    }
}
