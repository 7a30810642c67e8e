//! Files without an index: raw tokens, and llm.c's header before them.

use std::path::Path;

use rwkv_core::{Mapped, Result};

use super::description::Description;
use super::meta::n_vocab_of;
use super::{Format, Layout, TokenFile, Width, binidx, fault, name};

/// What a header of llm.c begins with, the version it must have, and what it announces.
///
/// From `dev/data/data_common.py` of github.com/karpathy/llm.c.
const LLM_C: [(u32, u32, Width); 2] = [(20_240_520, 1, Width::U16), (20_240_801, 7, Width::U32)];

/// What its files of multiple-choice questions begin with.
const LLM_C_QUESTIONS: u32 = 20_240_522;

/// Bytes of a header of llm.c.
const LLM_C_HEADER: usize = 1024;

/// What files of NumPy's own format begin with.
const NPY: &[u8] = b"\x93NUMPY";

/// A file that has no index beside it.
pub(super) fn open(map: Mapped) -> Result<TokenFile> {
    let path = map.path();
    let llm_c = map.read(|bytes| {
        if bytes.is_empty() {
            return Err(fault(path, "the file is empty; a file of tokens has at least one"));
        }
        if bytes.starts_with(binidx::MAGIC) {
            return Err(fault(
                path,
                "byte 0: this is the index of a binidx pair, not its tokens; name it <name>.idx, with the tokens beside \
                 it as <name>.bin",
            ));
        }
        if bytes.starts_with(NPY) {
            return Err(fault(
                path,
                "byte 0: this is NumPy's .npy format, which is not read; write the tokens with \
                 array.astype('<u2').tofile(path)",
            ));
        }
        llm_c(path, bytes)
    })?;
    let Some(layout) = llm_c else { return raw(map) };
    Ok(TokenFile::new(map, layout, None, None))
}

/// The header of llm.c, if there is one.
///
/// No file of GPT-2's tokens can be mistaken for one: both magic numbers' lower halves are beyond its
/// vocabulary.
fn llm_c(path: &Path, bytes: &[u8]) -> Result<Option<Layout>> {
    let word = |index: usize| {
        let word = bytes.get(4 * index..).and_then(|rest| rest.first_chunk());
        word.copied().map(u32::from_le_bytes)
    };
    let magic = word(0);
    if magic == Some(LLM_C_QUESTIONS) {
        return Err(fault(
            path,
            "byte 0: this is llm.c's format for multiple-choice questions, not a file of tokens; take the file that was \
             made for training",
        ));
    }
    let Some((magic, expected, width)) = LLM_C.into_iter().find(|kind| magic == Some(kind.0)) else {
        return Ok(None);
    };
    let size = bytes.len();
    if size < LLM_C_HEADER {
        return Err(fault(
            path,
            format!(
                "the file is cut: it begins as one of llm.c, whose header has {LLM_C_HEADER} bytes, and has {size}; copy \
                 or make it again"
            ),
        ));
    }
    let [version, count] = [1, 2].map(|index| word(index).unwrap_or_default());
    if version != expected {
        return Err(fault(
            path,
            format!(
                "byte 4: version {version} of llm.c's format {magic}; expected {expected}, the only one known here; make \
                 the file again with llm.c's dev/data scripts, or as raw u16 without a header"
            ),
        ));
    }
    if count == 0 || count > i32::MAX as u32 {
        let count = count.cast_signed();
        return Err(fault(
            path,
            format!(
                "byte 8: the header announces {count} tokens; expected 1 to {}; make the file again",
                i32::MAX
            ),
        ));
    }
    // Below 2^33.
    let announced = LLM_C_HEADER as u64 + u64::from(count) * width.bytes() as u64;
    if announced != size as u64 {
        let what = if announced > size as u64 { "is cut" } else { "has bytes too many" };
        return Err(fault(
            path,
            format!(
                "the file {what}: byte 8 announces {count} tokens of {} bytes, which makes {announced} bytes with the \
                 header; it has {size}; copy or make it again",
                width.bytes()
            ),
        ));
    }
    Ok(Some(Layout { format: Format::LlmC, width, start: LLM_C_HEADER, len: count as usize }))
}

/// Tokens and nothing else.
fn raw(map: Mapped) -> Result<TokenFile> {
    let path = map.path();
    let size = map.bytes().len();
    let description = Description::beside(path)?;
    let width = description.as_ref().map_or(Width::U16, |description| description.width);
    if !size.is_multiple_of(width.bytes()) {
        let advice = match description {
            Some(_) => format!("as {} says; copy or make it again", name(&Description::path_of(path))),
            None => "as of a file without a header; if it is cut, copy or make it again; is it a file of tokens at all?"
                .to_owned(),
        };
        return Err(fault(
            path,
            format!(
                "the file ends within a token: it has {size} bytes, and its tokens have {} each, {advice}",
                width.bytes()
            ),
        ));
    }
    let len = size / width.bytes();
    let mut n_vocab = None;
    if let Some(description) = &description {
        description.check_len(path, len as u64)?;
        n_vocab = description.n_vocab;
    }
    if n_vocab.is_none() {
        n_vocab = n_vocab_of(path)?;
    }
    let layout = Layout { format: Format::Raw, width, start: 0, len };
    Ok(TokenFile::new(map, layout, None, n_vocab))
}
