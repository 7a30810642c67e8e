//! Text of bytes that may not be UTF-8.

use super::Invalid;

/// What some editors write before the first character of a file, unseen, to say that it is UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// How many bytes the mark at the beginning of a file has, 0 if there is none.
pub(super) fn mark_len(beginning: &[u8]) -> usize {
    if beginning.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 }
}

/// The bytes as `invalid` has them, or the first that is not UTF-8.
pub(super) fn settle(bytes: Vec<u8>, invalid: Invalid) -> Result<Vec<u8>, usize> {
    match (invalid, std::str::from_utf8(&bytes)) {
        (Invalid::Keep, _) | (_, Ok(_)) => Ok(bytes),
        (Invalid::Error, Err(error)) => Err(error.valid_up_to()),
        (Invalid::Replace, Err(_)) => Ok(String::from_utf8_lossy(&bytes).into_owned().into_bytes()),
    }
}

/// How many of the last bytes begin a character that they do not end. Before those, a text can be cut: the
/// parts make up the whole, also when each has its invalid bytes replaced for itself.
pub(super) fn begun(bytes: &[u8]) -> usize {
    let is_begun = |count: &usize| {
        let end = &bytes[bytes.len() - count..];
        std::str::from_utf8(end).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    (1..=bytes.len().min(3)).find(is_begun).unwrap_or(0)
}

/// What to do about a byte that is not UTF-8, and what the file may be.
pub(super) fn advice(beginning: &[u8]) -> &'static str {
    if beginning.starts_with(&[0xff, 0xfe]) || beginning.starts_with(&[0xfe, 0xff]) {
        "it begins like UTF-16; save it as UTF-8"
    } else {
        "save the text as UTF-8, have such bytes replaced (--invalid replace), or keep them for a tokenizer of \
         bytes (--invalid keep)"
    }
}
