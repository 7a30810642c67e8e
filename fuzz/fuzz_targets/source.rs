//! Any bytes as a file of documents: an error, or documents that are the same from wherever they are read on.
//! The first byte is the kind of file, the second how it is read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rwkv_fuzz::{check_error, directory};
use rwkv_text::source::{Invalid, Piece, Position, SourceOptions, Sources};

const NAMES: [&str; 7] =
    ["a.txt", "a.txt.gz", "a.txt.zst", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"];

/// Small, for the limit to be met.
const MAX_LINE: u64 = 4096;

fuzz_target!(init: let_parquet_panic(), |data: &[u8]| {
    let [name, how, bytes @ ..] = data else { return };
    let name = NAMES[usize::from(*name) % NAMES.len()];
    let path = directory::write(name, bytes);
    let invalid = [Invalid::Error, Invalid::Replace, Invalid::Keep][usize::from(*how) % 3];
    let options = SourceOptions { invalid, max_line: MAX_LINE, ..SourceOptions::default() };
    let sources = Sources::find(&[path.display().to_string()], &options).expect("a file");
    let mut pieces: Vec<Piece> = Vec::new();
    let mut bytes_read = 0;
    for piece in sources.pieces(Position::default()) {
        match piece {
            // A page of few bytes can have millions of rows.
            Ok(_) if pieces.len() == 1000 => break,
            Ok(piece) => {
                assert!(piece.bytes_read >= bytes_read && piece.bytes_read <= bytes.len() as u64);
                assert!(invalid == Invalid::Keep || std::str::from_utf8(&piece.text).is_ok());
                bytes_read = piece.bytes_read;
                pieces.push(piece);
            }
            Err(error) => check_error(&error),
        }
    }
    let some = [0, pieces.len() / 2, pieces.len().saturating_sub(1)];
    for (piece, after) in some.iter().filter_map(|&at| Some((pieces.get(at)?, pieces.get(at + 1)))) {
        assert_same(&read(&sources, piece.at), Some(piece));
        if after.is_some() {
            assert_same(&read(&sources, piece.next), after);
        }
    }
});

/// How much was read for it does not count.
fn assert_same(again: &Option<Piece>, piece: Option<&Piece>) {
    let parts = |piece: &Piece| (piece.text.clone(), piece.is_last, piece.at, piece.next);
    assert_eq!(again.as_ref().map(parts), piece.map(parts));
}

/// The piece at a position, read again.
fn read(sources: &Sources, from: Position) -> Option<Piece> {
    sources.pieces(from).next().map(|piece| piece.expect("what was read before"))
}

/// The crate `parquet` may panic, which is caught; libFuzzer's hook would end the process all the same.
fn let_parquet_panic() {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // So may what it calls for it in the standard library and in the crate `bytes`.
        let is_caught = info
            .location()
            .is_some_and(|at| at.file().contains("/parquet-") || at.file().contains("/bytes-"));
        if !is_caught {
            abort(info);
        }
    }));
}
