//! Any bytes as files of tokens and what stands beside them.
//!
//! The first byte says as which: 0 as a file alone, 1 as the index of a pair, after two bytes that say how
//! many the tokens have, 2 as nanoGPT's `meta.pkl`, 3 as a description and, after a zero byte, what it
//! describes.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rwkv_core::go_on;
use rwkv_fuzz::{check_error, directory};
use rwkv_text::token_file::{Format, TokenFile, meta_pickle, read_meta};

fuzz_target!(|data: &[u8]| {
    let Some((&kind, bytes)) = data.split_first() else { return };
    match kind % 4 {
        0 => {
            open(&directory::write("alone.bin", bytes));
        }
        1 => {
            let Some((&len, index)) = bytes.split_first_chunk() else { return };
            let tokens = vec![7; usize::from(u16::from_le_bytes(len))];
            let path = directory::write("pair.bin", &tokens);
            directory::write("pair.idx", index);
            if let Some(file) = open(&path) {
                assert_eq!(file.format(), Format::Binidx);
            }
        }
        2 => meta(bytes),
        _ => {
            let at = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
            directory::write("described.bin.json", &bytes[..at]);
            open(&directory::write("described.bin", bytes.get(at + 1..).unwrap_or(&[])));
        }
    }
});

/// A file that can be opened can be read whole, and all that is said of it agrees.
fn open(path: &Path) -> Option<TokenFile> {
    let file = TokenFile::open(path).inspect_err(check_error).ok()?;
    let mut tokens = vec![1];
    file.read(0..file.len(), &mut tokens).expect("a sound file that nobody changes");
    let size = std::fs::metadata(path).expect("a file").len();
    assert!(!tokens.is_empty() && tokens.len() as u64 == file.len());
    assert!(file.len() * file.width().bytes() as u64 <= size);
    let most = tokens.iter().copied().max().expect("a token");
    assert_eq!(file.max_token(go_on).expect("a pass"), most);
    let position = tokens.iter().position(|&token| token == most).expect("it") as u64;
    assert_eq!(file.first_beyond(most, go_on).expect("a pass"), Some((position, most)));
    check_error(&file.check_vocab(most, go_on).expect_err("an id beyond"));
    for range in [file.len()..file.len() + 1, 1..0, u64::MAX - 1..u64::MAX] {
        check_error(&file.read(range, &mut tokens).expect_err("no such tokens"));
    }
    if let Some(documents) = file.documents() {
        let mut next = 0;
        for at in 0..documents.len() {
            let range = documents.get(at).expect("a document");
            assert!(range.start == next && range.end >= next);
            next = range.end;
        }
        assert_eq!(next, file.len());
        check_error(&documents.get(documents.len()).expect_err("no such document"));
    }
    Some(file)
}

fn meta(bytes: &[u8]) {
    let path = directory::write("characters.pkl", bytes);
    match read_meta(&path) {
        Ok(characters) => {
            let again = meta_pickle(&characters).expect("distinct characters");
            directory::write("characters.pkl", &again);
            assert_eq!(read_meta(&path).expect("its own pickle"), characters);
        }
        Err(error) => check_error(&error),
    }
}
