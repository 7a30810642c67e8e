//! Files of tokens, compared with what NumPy and Python's pickle wrote: tests/data/token_file/make.py made
//! those and the numbers here.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use rwkv_core::{Error, Result, go_on};
use rwkv_text::token_file::{
    Description, Format, TokenFile, TokenWriter, Width, meta_pickle, read_meta, write_meta,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const TEXT: &str = "To be, or not to be: that is the question.\n\u{102}\u{20ac} \u{1f600} \u{fc}\n";

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/token_file").join(name)
}

fn bytes_of(name: &str) -> Vec<u8> {
    std::fs::read(data(name)).expect("a file of tests/data/token_file")
}

fn tokens_of(file: &TokenFile) -> Vec<u32> {
    let mut tokens = Vec::new();
    file.read(0..file.len(), &mut tokens).expect("a sound file");
    tokens
}

/// A directory, and the path of a file in it with these bytes.
fn file_of(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(name);
    write(&path, bytes);
    (directory, path)
}

/// Writes a file a second old: a reader waits for the end of the clock's tick if it is a new one.
fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::write(path, bytes).expect("a file");
    let file = std::fs::File::options().write(true).open(path).expect("it");
    file.set_modified(SystemTime::now() - Duration::from_secs(1)).expect("a time");
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, says: &str) {
    let error = result.expect_err(says);
    let text = error.to_string();
    assert!(error.code() == "DATA" && text.contains(says), "{text:?} does not say {says:?}");
}

#[test]
fn nanogpts_files_of_characters() {
    let text: Vec<char> = TEXT.repeat(4).chars().collect();
    let characters = read_meta(data("meta.pkl")).expect("a meta.pkl");
    assert!(characters.is_sorted() && characters.len() == 22);
    let mut found = Vec::new();
    for (name, len) in [("train.bin", 180), ("val.bin", 20)] {
        let file = TokenFile::open(data(name)).expect("a file of NumPy");
        assert_eq!((file.len(), file.width(), file.format()), (len, Width::U16, Format::Raw));
        assert_eq!((file.n_vocab(), file.documents().is_none()), (Some(22), true));
        found.extend(tokens_of(&file));
    }
    assert_eq!(found.iter().map(|&token| characters[token as usize]).collect::<Vec<_>>(), text);
    assert_eq!(found[..8], [5, 12, 1, 7, 8, 2, 1, 12]);
}

#[test]
fn llm_cs_files() {
    let cases = [
        ("llmc-gpt2.bin", Width::U16, &[50256, 464, 0, 65535, 7][..]),
        ("llmc-llama3.bin", Width::U32, &[128_000, 1, 70_000]),
    ];
    for (name, width, tokens) in cases {
        let file = TokenFile::open(data(name)).expect("a file of NumPy");
        assert_eq!((file.width(), file.format(), file.n_vocab()), (width, Format::LlmC, None));
        assert_eq!(tokens_of(&file), tokens);
    }
}

#[test]
fn binidx_by_any_of_its_names() {
    for (stem, width, base) in [("binidx-u16", Width::U16, 60_000), ("binidx-i32", Width::U32, 100_000)] {
        for name in [stem.to_owned(), format!("{stem}.bin"), format!("{stem}.idx")] {
            let file = TokenFile::open(data(&name)).expect("a pair of NumPy");
            assert_eq!((file.width(), file.format(), file.len()), (width, Format::Binidx, 8));
            assert_eq!(file.path(), data(&format!("{stem}.bin")));
            assert_eq!(tokens_of(&file), (base + 1..=base + 8).collect::<Vec<_>>());
            let documents = file.documents().expect("an index");
            let ranges: Vec<_> =
                (0..documents.len()).map(|at| documents.get(at).expect("a document")).collect();
            assert_eq!(ranges, [0..3, 3..4, 4..6, 6..6, 6..8]);
            refused(documents.get(5), "document 5 was asked for; there are 5");
        }
    }
}

/// An index whose only boundary is the beginning, as some tools write it.
#[allow(clippy::single_range_in_vec_init)] // one document
#[test]
fn what_follows_the_last_boundary_is_a_document() {
    for (boundaries, ranges) in [
        (&[0][..], &[0..5][..]),
        (&[0, 1], &[0..2, 2..5]),
        (&[0, 2], &[0..5]),
        (&[0, 0, 2, 2], &[0..0, 0..5, 5..5]),
    ] {
        let (directory, path) = file_of("a.bin", &[7; 10]);
        std::fs::write(directory.path().join("a.idx"), index(8, &[2, 3], &[0, 4], boundaries))
            .expect("a file");
        let file = TokenFile::open(path).expect("a pair");
        let documents = file.documents().expect("an index");
        let found: Vec<_> = (0..documents.len()).map(|at| documents.get(at).expect("a document")).collect();
        assert_eq!(found, ranges);
    }
}

fn index(code: u8, sizes: &[i32], pointers: &[i64], boundaries: &[i64]) -> Vec<u8> {
    let mut bytes = b"MMIDIDX\0\0\x01\0\0\0\0\0\0\0".to_vec();
    bytes.push(code);
    bytes.extend((sizes.len() as u64).to_le_bytes());
    bytes.extend((boundaries.len() as u64).to_le_bytes());
    bytes.extend(sizes.iter().flat_map(|size| size.to_le_bytes()));
    bytes.extend(pointers.iter().chain(boundaries).flat_map(|number| number.to_le_bytes()));
    bytes
}

#[test]
fn parts_of_a_file_and_what_is_beyond_it() {
    let file = TokenFile::open(data("llmc-gpt2.bin")).expect("a file");
    let mut tokens = vec![1, 2, 3];
    file.read(1..3, &mut tokens).expect("a part");
    assert_eq!(tokens, [464, 0]);
    for range in [0..0, 5..5] {
        file.read(range, &mut tokens).expect("nothing");
        assert!(tokens.is_empty());
    }
    #[allow(clippy::reversed_empty_ranges)]
    for range in [4..6, 6..6, 3..2, 0..u64::MAX, u64::MAX..u64::MAX] {
        tokens.push(1);
        refused(file.read(range, &mut tokens), "were asked for; it has 5, counted from 0");
        assert!(tokens.is_empty());
    }
}

#[test]
fn damaged_raw_files_are_refused() {
    for (bytes, says) in [
        (&b""[..], "the file is empty"),
        (b"abc", "ends within a token: it has 3 bytes, and its tokens have 2 each"),
        (b"MMIDIDX\0\0\x01", "byte 0: this is the index of a binidx pair"),
        (b"\x93NUMPY\x01\0", "NumPy's .npy format"),
    ] {
        let (_directory, path) = file_of("train.bin", bytes);
        let error = TokenFile::open(&path).expect_err(says).to_string();
        assert!(error.contains(says) && error.starts_with(&path.display().to_string()), "{error}");
    }
    let (directory, path) = file_of("train.bin", b"abcd");
    assert_eq!(TokenFile::open(directory.path()).expect_err("a directory").code(), "IO");
    assert_eq!(TokenFile::open(directory.path().join("none")).expect_err("nothing").code(), "IO");
    for (json, says) in [
        ("{\"bytes_per_token\": 4}", None),
        ("{\"bytes_per_token\": 2, \"tokens\": 2, \"n_vocab\": 30000, \"more\": []}", None),
        (
            "{\"bytes_per_token\": 4, \"tokens\": 2}",
            Some("it has 1 tokens, and train.bin.json says that it has 2"),
        ),
        ("{\"bytes_per_token\": 3}", Some("bytes_per_token is 3; it must be 2 or 4")),
        ("{\"bytes_per_token\": 2, \"n_vocab\": 0}", Some("n_vocab is 0")),
        ("{\"tokens\": 2}", Some("no description of a file of tokens: missing field `bytes_per_token`")),
        ("{", Some("no description of a file of tokens: EOF")),
    ] {
        write(&directory.path().join("train.bin.json"), json);
        match (TokenFile::open(&path), says) {
            (result, Some(says)) => refused(result, says),
            (result, None) => assert!(result.expect("a description").len() <= 2),
        }
    }
    let (_directory, path) = file_of("train.bin", b"abcdef");
    write(&Description::path_of(&path), "{\"bytes_per_token\": 4}");
    refused(TokenFile::open(&path), "it has 6 bytes, and its tokens have 4 each, as train.bin.json says");
}

#[test]
fn damaged_files_of_llm_c_are_refused() {
    let sound = bytes_of("llmc-gpt2.bin");
    let with = |at: usize, word: i32| {
        let mut bytes = sound.clone();
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        bytes
    };
    let cases = [
        (with(4, 2), "byte 4: version 2 of llm.c's format 20240520; expected 1"),
        (with(0, 20_240_801), "byte 4: version 1 of llm.c's format 20240801; expected 7"),
        (with(0, 20_240_522), "llm.c's format for multiple-choice questions"),
        (with(8, 6), "the file is cut: byte 8 announces 6 tokens of 2 bytes, which makes 1036 bytes"),
        (with(8, i32::MAX), "the file is cut"),
        (with(8, 4), "the file has bytes too many"),
        (with(8, 0), "byte 8: the header announces 0 tokens"),
        (with(8, -5), "byte 8: the header announces -5 tokens"),
        (sound[..1033].to_vec(), "the file is cut"),
        (sound[..1023].to_vec(), "whose header has 1024 bytes, and has 1023"),
        (sound[..4].to_vec(), "whose header has 1024 bytes, and has 4"),
    ];
    for (bytes, says) in cases {
        let (_directory, path) = file_of("train.bin", &bytes);
        refused(TokenFile::open(path), says);
    }
}

#[test]
fn an_index_that_lies_is_refused() {
    let sound = index(8, &[2, 3], &[0, 4], &[0, 1, 2]);
    let with = |at: usize, bytes: &[u8]| {
        let mut index = sound.clone();
        index[at..at + bytes.len()].copy_from_slice(bytes);
        index
    };
    let cases = [
        (sound[..33].to_vec(), "the file is cut: it has 33 bytes"),
        (sound[..8].to_vec(), "this is no index"),
        (b"something else that has as many bytes".to_vec(), "byte 0: this is no index"),
        (with(9, &[2]), "byte 9: version 2 of the index; expected 1"),
        (with(17, &[5]), "byte 17: type 5 of tokens (i64) is not read; expected 8 (u16) or 4 (i32)"),
        (with(17, &[0]), "byte 17: type 0 of tokens is unknown"),
        (with(17, &[4]), "byte 50: sequence 1 begins at byte 4 of the tokens; expected 8"),
        (
            with(18, &[3]),
            "byte 18: 3 sequences and 3 boundaries of documents are announced, which makes 94 bytes",
        ),
        (with(18, &[0xff; 16]), "byte 18: 18446744073709551615 sequences"),
        // 12 s + 8 d + 34 would be the size again, if it were counted in 64 bits.
        (with(18, &(2 + (1u64 << 62)).to_le_bytes()), "byte 18: 4611686018427387906 sequences"),
        (sound[..sound.len() - 1].to_vec(), "it has 81"),
        ([&sound[..], &[0]].concat(), "it has 83"),
        (index(8, &[2, -3], &[0, 4], &[0]), "byte 38: sequence 1 has -3 tokens"),
        (
            index(8, &[2, i32::MAX], &[0, 4], &[0]),
            "byte 38: sequence 1 ends at byte 4294967298 of a.bin, which has 10",
        ),
        (index(8, &[2, 2], &[0, 4], &[0]), "byte 18: the sequences end at byte 8 of a.bin, which has 10"),
        (index(8, &[2, 3], &[0, 5], &[0]), "byte 50: sequence 1 begins at byte 5 of the tokens; expected 4"),
        (index(8, &[2, 3], &[0, -4], &[0]), "byte 50: sequence 1 begins at byte -4"),
        (index(8, &[2, 3], &[i64::MAX, 4], &[0]), "byte 42: sequence 0 begins at byte 9223372036854775807"),
        (index(8, &[], &[], &[0]), "byte 18: the sequences end at byte 0"),
        (index(8, &[2, 3], &[0, 4], &[]), "byte 26: no boundary of documents"),
        (index(8, &[2, 3], &[0, 4], &[1]), "byte 58: document 0 begins with sequence 1; expected 0 to 0"),
        (index(8, &[2, 3], &[0, 4], &[0, 3]), "byte 66: document 1 begins with sequence 3; expected 0 to 2"),
        (
            index(8, &[2, 3], &[0, 4], &[0, 2, 1]),
            "byte 74: document 2 begins with sequence 1; expected 2 to 2",
        ),
        (index(8, &[2, 3], &[0, 4], &[0, -1]), "byte 66: document 1 begins with sequence -1"),
    ];
    let (directory, path) = file_of("a.bin", &[7; 10]);
    let idx = directory.path().join("a.idx");
    write(&idx, &sound);
    TokenFile::open(&path).expect("a sound pair");
    for (index, says) in cases {
        write(&idx, &index);
        let error = TokenFile::open(&path).expect_err(says);
        assert!(error.to_string().starts_with(&idx.display().to_string()), "{error}");
        refused(Err::<(), _>(error), says);
    }
    write(&idx, &sound);
    for (bytes, says) in
        [(&[7; 9][..], "which has 9"), (&[7; 12], "which has 12"), (&[], "a.bin: the file is empty")]
    {
        write(&path, bytes);
        refused(TokenFile::open(&path), says);
    }
}

#[test]
fn one_file_of_a_pair_is_not_enough() {
    let (directory, idx) = file_of("a.idx", &index(8, &[2, 3], &[0, 4], &[0]));
    let stem = directory.path().join("a");
    for path in [&idx, &stem] {
        refused(TokenFile::open(path), "a.idx: the tokens beside it, a.bin, are not there");
    }
    std::fs::rename(&idx, directory.path().join("a.bin")).expect("a name");
    for path in [&idx, &stem] {
        refused(TokenFile::open(path), "a.bin: the index beside it, a.idx, is not there");
    }
    refused(TokenFile::open(directory.path().join("a.bin")), "this is the index of a binidx pair");
}

#[cfg(unix)]
#[test]
fn a_pipe_is_refused_without_waiting() {
    let directory = tempfile::tempdir().expect("a directory");
    let [bin, other] = ["train.bin", "val.bin.partial"].map(|name| directory.path().join(name));
    for pipe in [&bin, &other] {
        assert!(std::process::Command::new("mkfifo").arg(pipe).status().expect("mkfifo").success());
    }
    let error = TokenFile::open(&bin).expect_err("a pipe").to_string();
    assert!(error.contains("it is a pipe, not a regular file"), "{error}");
    let written = [bin, directory.path().join("val.bin")].map(|path| TokenWriter::create(path, Width::U16));
    for error in written.map(|writer| writer.expect_err("a pipe").to_string()) {
        assert!(error.contains("not a regular file"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_file_that_is_cut_while_it_is_mapped_is_an_error() {
    // Long enough for pages that were never read.
    let (_directory, path) = file_of("train.bin", &vec![7; 1 << 20]);
    let file = TokenFile::open(&path).expect("a file");
    let mut tokens = Vec::new();
    file.read(0..10, &mut tokens).expect("tokens");
    std::fs::File::options().write(true).open(&path).expect("it").set_len(4096).expect("a cut");
    let error = file.read(400_000..500_000, &mut tokens).expect_err("pages that are gone");
    assert!(error.code() == "FILE_CHANGED" && tokens.is_empty(), "{error}");
    assert_eq!(file.max_token(go_on).expect_err("pages that are gone").code(), "FILE_CHANGED");
}

#[test]
fn ids_beyond_the_vocabulary_are_found() {
    for width in [Width::U16, Width::U32] {
        // More than two pieces of a pass.
        let mut tokens: Vec<u32> = (0..2_500_000u64).map(|at| (at * 7919 % 50_000) as u32).collect();
        tokens[2_222_222] = 60_001;
        tokens[2_333_333] = 65_535;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("train.bin");
        let mut writer = TokenWriter::create(&path, width).expect("a file");
        writer.push(&tokens).expect("room");
        writer.finish(None).expect("a file");
        let file = TokenFile::open(&path).expect("a file");
        let mut asked = Vec::new();
        let control = |done, total| {
            asked.push((done, total));
            ControlFlow::Continue(())
        };
        assert_eq!(file.max_token(control).expect("a pass"), 65_535);
        assert_eq!(asked, [(0, 2_500_000), (1 << 20, 2_500_000), (2 << 20, 2_500_000)]);
        for (n_vocab, found) in [
            (65_536, None),
            (u32::MAX, None),
            (65_535, Some((2_333_333, 65_535))),
            (60_002, Some((2_333_333, 65_535))),
            (60_001, Some((2_222_222, 60_001))),
            (1, Some((1, 7919))),
            (0, Some((0, 0))),
        ] {
            assert_eq!(file.first_beyond(n_vocab, go_on).expect("a pass"), found, "{n_vocab}");
        }
        file.check_vocab(65_536, go_on).expect("all are known");
        let byte = 2_222_222 * width.bytes();
        let says = format!("token 2222222, at byte {byte}, is 60001; this vocabulary has 60000 tokens");
        refused(file.check_vocab(60_000, go_on), &says);
        let stopped = file.max_token(|_, _| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(Error::Aborted)));
    }
    let file = TokenFile::open(data("llmc-gpt2.bin")).expect("a file");
    refused(file.check_vocab(50_000, go_on), "token 0, at byte 1024, is 50256");
}

#[test]
fn a_writer_goes_on_after_a_kill() {
    for width in [Width::U16, Width::U32] {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("train.bin");
        let tokens: Vec<u32> = (0..20_000).collect();
        let mut writer = TokenWriter::create(&path, width).expect("a file");
        writer.push(&tokens[..9_000]).expect("room");
        assert_eq!(writer.sync().expect("a disk"), 9_000);
        writer.push(&tokens[..5_000]).expect("room");
        // As a kill would: what is in the buffer is lost, what was written stays.
        drop(writer);
        assert!(!path.exists() && TokenWriter::partial_path(&path).exists());
        refused(TokenWriter::reopen(&path, width, 20_001), "go on with after 20001 tokens has only");
        refused(TokenWriter::reopen(&path, width, u64::MAX), "begin it anew");
        let mut writer = TokenWriter::reopen(&path, width, 9_000).expect("what is left");
        writer.push(&tokens[9_000..]).expect("room");
        assert_eq!(writer.len(), 20_000);
        refused(TokenWriter::create(&path, width), "is being written already");
        writer.finish(Some(20_000)).expect("a file");
        assert!(!TokenWriter::partial_path(&path).exists());
        let file = TokenFile::open(&path).expect("a file");
        assert_eq!((file.width(), file.n_vocab()), (width, Some(20_000)));
        assert_eq!(tokens_of(&file), tokens);
        let bytes: Vec<u8> =
            tokens.iter().flat_map(|token| token.to_le_bytes()[..width.bytes()].to_owned()).collect();
        assert_eq!(std::fs::read(&path).expect("the file"), bytes);
        // What the description says is what makes a cut between two tokens known.
        write(&path, &bytes[..bytes.len() - width.bytes()]);
        refused(TokenFile::open(&path), "it has 19999 tokens, and train.bin.json says that it has 20000");
    }
}

#[test]
fn a_writer_refuses_what_it_cannot_write() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("train.bin");
    let mut writer = TokenWriter::create(&path, Width::U16).expect("a file");
    writer.push(&[1, 65_535]).expect("room");
    refused(writer.push(&[3, 65_536]), "token 3 is 65536, and a token of 2 bytes is at most 65535");
    assert_eq!(writer.len(), 2);
    writer.discard().expect("a file to remove");
    assert!(!TokenWriter::partial_path(&path).exists());
    let writer = TokenWriter::create(&path, Width::U32).expect("a file");
    refused(writer.finish(None), "there are no tokens to be written");
    refused(
        TokenWriter::reopen(directory.path().join("b"), Width::U16, 1),
        "b.partial: the file to go on with",
    );
    assert_eq!(TokenWriter::create(directory.path(), Width::U16).expect_err("a directory").code(), "IO");
    assert_eq!((Width::of(65_536), Width::of(65_537)), (Width::U16, Width::U32));
}

#[test]
fn meta_is_written_as_cpython_writes_it() {
    assert_eq!(
        meta_pickle(&read_meta(data("meta.pkl")).expect("a meta.pkl")).expect("it"),
        bytes_of("meta.pkl")
    );
    // Counts of characters, bytes of the pickle and their SHA-256, as make.py printed them.
    for (count, len, sha256) in [
        (1, 63, "68a6082c6ad17da34ccfb12bc3ff79c74d5dddfbac3ff11ed54db6ef114751e2"),
        (2, 77, "156bba70047e10eff4a8376dd69f01729d60fe1bbacf6947bb22cf0352c7c8a3"),
        (128, 1589, "2900ba2df3b1045a9b03251d2dde4242b11110ca2bd6d712980aefcf06d7ff56"),
        (255, 3122, "4957cb80cd6be4c33fdb599822fa4e877363154110521accc1e792094f5f22ee"),
        (256, 3138, "d391763092183b5e69170b93ba81249a8d5f8a3b352985e6f10d98d85533f0c7"),
        (257, 3155, "c0cf0b47f1c79a0809c843468aba65a4e7fbe5a48403c00f70fb9e64e4213fd6"),
        (999, 15769, "46c573e671896e84e79535c77bad2c43c2594cd9f2e2240a58cb93d72a428e3e"),
        (1000, 15790, "20fadf1ab34c741b16dc3a8fa20925ca9508d7674e7839c1c291860ba2fc95ed"),
        (1001, 15808, "ceade8ffbc75b06b1e178f548babb71529248b93961da381287a8056e95333e1"),
        (2000, 33794, "e7a92c5a190c4f9848d085d3814f0815418bc0f8b1801d148dec98aeb1f0cc27"),
        (20000, 357_911, "dafedd1446b4cefdb5128a14d0abc7c689c4a5dfffddec99188748a523ca989d"),
        (70000, 1_276_095, "ae763115767059b653c10cbd0f40541732e856099a2a40393e5782ebab8e558e"),
    ] {
        let characters = characters(count);
        let bytes = meta_pickle(&characters).expect("characters");
        let digest = Sha256::digest(&bytes);
        let expected: Vec<u8> = (0..32)
            .map(|at| u8::from_str_radix(&sha256[2 * at..2 * at + 2], 16).expect("two digits"))
            .collect();
        assert_eq!((bytes.len(), &digest[..]), (len, &expected[..]), "{count} characters");
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("meta.pkl");
        write_meta(&path, &characters).expect("a file");
        assert_eq!(read_meta(&path).expect("its own file"), characters);
    }
    for wrong in [&[][..], &['a', 'b', 'a']] {
        assert_eq!(meta_pickle(wrong).expect_err("no vocabulary").code(), "INVALID_OPTION");
    }
}

fn characters(count: u32) -> Vec<char> {
    (0..count)
        .map(|at| char::from_u32(if at < 1000 { 0x1f00 + at } else { 0x10000 + at }).expect("a character"))
        .collect()
}

#[test]
fn meta_of_every_protocol_is_the_same() {
    let expected = read_meta(data("meta.pkl")).expect("a meta.pkl");
    for protocol in [2, 3, 5] {
        let found = read_meta(data(&format!("meta-protocol-{protocol}.pkl"))).expect("a meta.pkl");
        assert_eq!(found, expected);
    }
}

#[test]
fn a_pickle_that_is_something_else_is_refused() {
    // Written by hand, in the instructions of pickletools.
    let text = |text: &str| [&[0x8c, text.len() as u8][..], text.as_bytes()].concat();
    let dict = |items: &[u8]| [b"}(", items, b"u"].concat();
    let meta = |size: &[u8], itos: &[u8], stoi: &[u8]| {
        let body =
            [&text("vocab_size"), size, &text("itos"), &dict(itos), &text("stoi"), &dict(stoi)].concat();
        [b"\x80\x04", &dict(&body)[..], b"."].concat()
    };
    let item = |id: u8, character: &str| [&[b'K', id][..], &text(character)].concat();
    let back = |character: &str, id: u8| [&text(character)[..], &[b'K', id]].concat();
    let (itos, stoi) = ([item(0, "a"), item(1, "b")].concat(), [back("a", 0), back("b", 1)].concat());
    let sound = meta(b"K\x02", &itos, &stoi);
    let (_directory, path) = file_of("meta.pkl", &sound);
    assert_eq!(read_meta(&path).expect("a sound one"), ['a', 'b']);
    let os = b"\x80\x04cos\nsystem\n(\x8c\x04truetR.";
    let cases = [
        (os.to_vec(), "byte 2: instruction GLOBAL (0x63) would have Python import os.system"),
        (
            b"\x80\x04\x8c\x02os\x8c\x06system\x93.".to_vec(),
            "byte 14: instruction STACK_GLOBAL (0x93) would have Python import os.system",
        ),
        (b"\x80\x04}\x8f.".to_vec(), "byte 3: instruction EMPTY_SET (0x8f) makes something else"),
        (b"\x80\x04}]R.".to_vec(), "byte 4: instruction REDUCE (0x52) without a function"),
        (
            b"\x80\x04}}\x8c\x01aK\x01sb.".to_vec(),
            "BUILD (0x62) would set the attribute \"a\" of a dictionary",
        ),
        (b"\x80\x04}K\x01b.".to_vec(), "instruction BUILD (0x62) would set the state"),
        (b"\x80\x04\x81.".to_vec(), "instruction NEWOBJ (0x81)"),
        (b"\x80\x04\xff.".to_vec(), "byte 2: byte 0xff is no instruction"),
        (b"\x80\x06}.".to_vec(), "byte 1: protocol 6 of pickle; expected 2 to 5"),
        (b"(dp0\n.".to_vec(), "byte 0: this is no pickle of protocol 2 to 5"),
        (b"".to_vec(), "byte 0: this is no pickle"),
        (b"\x80\x04".to_vec(), "byte 2: the file is cut"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff.".to_vec(), "a frame of 18446744073709551615 bytes"),
        (b"\x80\x04X\xff\xff\xff\xff.".to_vec(), "a string of 4294967295 bytes is announced; 1 are left"),
        (b"\x80\x04\x8c\x03\xed\xa0\x80.".to_vec(), "a string that is not UTF-8"),
        (b"\x80\x04}r\xff\xff\xff\x7f.".to_vec(), "place 2147483647 of the memo after 0 others"),
        (b"\x80\x04j\xff\xff\xff\xff.".to_vec(), "place 4294967295 of the memo is empty"),
        (b"\x80\x04\x94.".to_vec(), "byte 2: a value is missing"),
        (b"\x80\x04u.".to_vec(), "a mark is missing"),
        (b"\x80\x04s.".to_vec(), "a value is missing"),
        (b"\x80\x04(u.".to_vec(), "items without a dictionary"),
        (b"\x80\x04K\x01(u.".to_vec(), "items without a dictionary"),
        (b"\x80\x04}(K\x01u.".to_vec(), "a key without a value"),
        (b"\x80\x04}(}K\x01u.".to_vec(), "a dictionary as a key"),
        (b"\x80\x04}(.".to_vec(), "a mark is left"),
        (b"\x80\x04}}.".to_vec(), "2 values are left"),
        (b"\x80\x04.".to_vec(), "0 values are left"),
        ([&sound[..], b"."].concat(), "1 bytes follow the end"),
        ([b"\x80\x04", &[b'('; 2000][..]].concat(), "more than 1000 marks"),
        (
            [b"\x80\x04", &b"}".repeat(1 << 18)[..]].concat(),
            "byte 131074: more than 131072 dictionaries and lists",
        ),
        (b"\x80\x04K\x01.".to_vec(), "there is no \"itos\""),
        (meta(b"K\x03", &itos, &stoi), "\"vocab_size\" is 3, \"itos\" has 2 entries and \"stoi\" 2"),
        (meta(b"J\xfe\xff\xff\xff", &itos, &stoi), "\"vocab_size\" is -2"),
        (meta(b"}", &itos, &stoi), "\"vocab_size\" is no number"),
        (meta(b"K\x02", &itos, &back("a", 0)), "\"stoi\" 1; they must be the same"),
        (meta(b"K\x00", b"", b""), "the vocabulary is empty"),
        (
            meta(b"K\x02", &[item(0, "a"), item(2, "b")].concat(), &stoi),
            "\"itos\" has token 2; expected 0 to 1",
        ),
        (meta(b"K\x02", &[item(0, "a"), item(0, "b")].concat(), &stoi), "\"itos\" has token 0 twice"),
        (
            meta(b"K\x02", &[item(0, "a"), item(1, "bc")].concat(), &stoi),
            "has \"bc\"; expected one character",
        ),
        (meta(b"K\x02", &[item(0, "a"), item(1, "")].concat(), &stoi), "has \"\"; expected one character"),
        (meta(b"K\x02", &itos, &[back("a", 1), back("b", 0)].concat()), "\"stoi\" has 'a' as token 1"),
        (meta(b"K\x02", &itos, &[back("a", 0), back("a", 0)].concat()), "\"stoi\" has 'a' twice"),
        (meta(b"K\x02", &itos, &[back("a", 0), back("b", 7)].concat()), "\"stoi\" has token 7"),
        (meta(b"K\x02", &stoi, &itos), "\"itos\" has a token that is no number"),
        (meta(b"K\x02", b"K\x00K\x00K\x01K\x01", &stoi), "\"itos\" has a character that is no string"),
    ];
    for (bytes, says) in cases {
        write(&path, &bytes);
        refused(read_meta(&path), says);
    }
    // Cut anywhere it is no vocabulary, and it is not taken for none.
    let (directory, tokens) = file_of("train.bin", &[0, 0]);
    for cut in 0..sound.len() {
        write(&directory.path().join("meta.pkl"), &sound[..cut]);
        refused(TokenFile::open(&tokens), "meta.pkl: byte ");
    }
}

proptest! {
    // Each waits for the end of a tick of the clock.
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn what_is_written_is_read_again(tokens in prop::collection::vec(0..70_000u32, 1..300), cuts in 0..300usize) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.bin");
        let width = Width::of(tokens.iter().max().map_or(0, |most| most + 1));
        let cut = cuts.min(tokens.len());
        let mut writer = TokenWriter::create(&path, width).expect("a file");
        writer.push(&tokens[..cut]).expect("room");
        writer.push(&tokens[cut..]).expect("room");
        writer.finish(None).expect("a file");
        let file = TokenFile::open(&path).expect("a file");
        prop_assert_eq!(tokens_of(&file), tokens.clone());
        prop_assert_eq!(file.max_token(go_on).ok(), tokens.iter().max().copied());
    }
}
