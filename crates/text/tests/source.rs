//! Documents come out of every kind of file as they went in, from any position on, and what is wrong with an
//! input is said.

#![allow(clippy::unwrap_used)] // the helpers of tests are no tests to clippy

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rwkv_core::Error;
use rwkv_text::source::{Compression, Invalid, Kind, Piece, Pieces, Position, SourceOptions, Sources};
use tempfile::TempDir;

const MIB: usize = 1 << 20;

fn find(inputs: &[&Path], options: &SourceOptions) -> Result<Sources, Error> {
    let inputs: Vec<String> = inputs.iter().map(|path| path.display().to_string()).collect();
    Sources::find(&inputs, options)
}

fn read(path: &Path, options: &SourceOptions) -> Result<Vec<Piece>, Error> {
    find(&[path], options)?.pieces(Position::default()).collect()
}

/// The documents, put together of their pieces.
fn documents(pieces: &[Piece]) -> Vec<String> {
    let mut documents = vec![Vec::new()];
    for piece in pieces {
        documents.last_mut().unwrap().extend_from_slice(&piece.text);
        if piece.is_last {
            documents.push(Vec::new());
        }
    }
    assert!(documents.pop().unwrap().is_empty(), "the last document has no end");
    documents.into_iter().map(|document| String::from_utf8(document).unwrap()).collect()
}

fn texts(path: &Path) -> Vec<String> {
    documents(&read(path, &SourceOptions::default()).unwrap())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap(); // as zstd's own program does
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn error_of(path: &Path, options: &SourceOptions) -> String {
    let message =
        read(path, options).err().unwrap_or_else(|| panic!("{} is read", path.display())).to_string();
    assert!(message.contains(&path.display().to_string()), "{message}");
    message
}

/// What reading a file of these bytes says.
fn error_with(name: &str, bytes: &[u8], options: &SourceOptions) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, bytes).unwrap();
    error_of(&path, options)
}

fn with(change: impl FnOnce(&mut SourceOptions)) -> SourceOptions {
    let mut options = SourceOptions::default();
    change(&mut options);
    options
}

#[test]
fn every_kind_and_packing_gives_the_same_documents() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    // Longer than a piece, with characters of one to four bytes across its ends.
    let long: String = "aä€𝄞".chars().cycle().take(MIB).collect();
    let want = ["A first,\nwith \"quotes\".".to_owned(), String::new(), long];
    let lines: String = want
        .iter()
        .map(|text| format!("{}\n  \n", serde_json::json!({"id": [1, {"text": 2}], "text": text, "z": null})))
        .collect::<Vec<_>>()
        .concat();
    for (name, pack) in [("", <[u8]>::to_vec as fn(&[u8]) -> Vec<u8>), (".gz", gzip), (".zst", zstd)] {
        for ending in ["jsonl", "ndjson"] {
            let file = path(&format!("a.{ending}{name}"));
            fs::write(&file, pack(lines.as_bytes())).unwrap();
            assert!(texts(&file) == want, "{}", file.display());
            // The last line's end is missing, and lines end as on Windows.
            fs::write(&file, pack(lines.trim_end().replace('\n', "\r\n").as_bytes())).unwrap();
            assert!(texts(&file) == want, "{}", file.display());
        }
        for text in &want {
            for ending in ["txt", "md", "rs"] {
                let file = path(&format!("a.{ending}{name}"));
                fs::write(&file, pack(text.as_bytes())).unwrap();
                assert!(texts(&file) == [&**text], "{}", file.display());
                fs::write(&file, pack(format!("\u{feff}{text}").as_bytes())).unwrap();
                assert!(texts(&file) == [&**text], "{}", file.display());
            }
        }
    }
    // Archives that were put together of several.
    let halves = || lines.as_bytes().split_at(lines.len() / 2);
    for (name, pack) in [("b.jsonl.gz", gzip as fn(&[u8]) -> Vec<u8>), ("b.jsonl.zst", zstd)] {
        fs::write(path(name), [pack(halves().0), pack(b""), pack(halves().1)].concat()).unwrap();
        assert!(texts(&path(name)) == want, "{name}");
    }
    let mark = path("mark.jsonl");
    fs::write(&mark, "\u{feff}{\"text\": \"x\"}").unwrap();
    assert_eq!(texts(&mark), ["x"]);
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parquet").join(format!("{name}.parquet"))
}

/// What tests/data/parquet/make.py writes.
fn row(row: usize) -> String {
    let begin = if row == 5 {
        String::new()
    } else {
        format!("Row {row}: {}", "naïve “words” 𝄞 \n".repeat(row % 7))
    };
    begin + &"the same end".repeat(row % 2)
}

const FIXTURES: [&str; 15] = [
    "none_plain",
    "none_dictionary",
    "none_v2",
    "snappy_plain",
    "snappy_dictionary",
    "snappy_v2",
    "gzip_plain",
    "gzip_dictionary",
    "gzip_v2",
    "zstd_plain",
    "zstd_dictionary",
    "zstd_v2",
    "required",
    "delta_length_byte_array",
    "delta_byte_array",
];

#[test]
fn parquet_of_every_codec_and_encoding_is_read_from_any_row() {
    let want: Vec<String> = (0..40).map(row).collect();
    for name in FIXTURES {
        let sources = find(&[&fixture(name)], &SourceOptions::default()).unwrap();
        let all = sources.pieces(Position::default()).collect::<Result<Vec<_>, _>>().expect(name);
        assert!(documents(&all) == want, "{name}");
        assert_eq!(all[39].bytes_read, sources.total_bytes().unwrap());
        check_positions(&sources, &all);
    }
    let options = with(|options| options.text_field = "meta.lang".to_owned());
    assert_eq!(documents(&read(&fixture("zstd_plain"), &options).unwrap()), ["en"; 40]);
}

#[test]
fn parquet_that_cannot_be_read_says_why() {
    let field = |name: &str| with(|options| options.text_field = name.to_owned());
    let cases = [
        (
            "zstd_plain",
            field("content"),
            r#"no column "content": it has "id", "text", "meta.lang", "tags.list"#,
        ),
        ("zstd_plain", field("id"), r#"the column "id" has INT64; the text must be a string"#),
        ("zstd_plain", field("tags.list.element"), "has lists; the text must be a string"),
        ("null", field("text"), "row 1 (from 0) has no text"),
        (
            "brotli",
            field("text"),
            "packed by brotli, which is not supported; pack them by zstd, snappy or gzip",
        ),
        ("none_plain", with(|options| options.max_line = 1000), "allow more (max_line)"),
        ("zstd_plain", with(|options| options.max_line = 1000), "allow more (max_line)"),
        ("snappy_plain", with(|options| options.max_line = 1000), "allow more (max_line)"),
    ];
    for (name, options, says) in cases {
        let message = error_of(&fixture(name), &options);
        assert!(message.contains(says), "{message}");
    }
    let whole = fs::read(fixture("zstd_plain")).unwrap();
    for len in [0, 7, 8, whole.len() / 2, whole.len() - 1] {
        let message = error_with("cut.parquet", &whole[..len], &SourceOptions::default());
        assert!(message.contains("this is no sound Parquet file"), "{message}");
    }
    let message = error_with("text.parquet", &[b'x'; 5000], &SourceOptions::default());
    assert!(message.contains("this is no sound Parquet file"), "{message}");
}

/// Two billion booleans, which take no bytes, in a part of a header that no reader knows: at any byte of the file, so
/// at that of a header too.
#[test]
fn a_header_that_would_keep_the_reader_busy_is_refused() {
    let list = [0xf9, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x07];
    let whole = fs::read(fixture("none_plain")).unwrap();
    let messages = (0..whole.len() - list.len()).map(|at| {
        let bytes = [&whole[..at], &list, &whole[at + list.len()..]].concat();
        let path = tempfile::NamedTempFile::with_suffix(".parquet").unwrap();
        fs::write(&path, bytes).unwrap();
        read(path.path(), &SourceOptions::default()).err().map_or(String::new(), |error| error.to_string())
    });
    let refused = messages.filter(|message| message.contains("the header of the page at byte")).count();
    assert!(refused > 0);
}

/// One, two or eight bytes changed, all over the files: an answer, whatever it is, and no panic.
#[test]
fn damaged_parquet_is_an_error_or_another_text() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("damaged.parquet");
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut errors = 0;
    // What the crate panics at is an error, but would be written to the standard error stream too.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let file = info.location().map_or("", |at| at.file()).replace('\\', "/");
        if !file.contains("/parquet-") && !file.contains("/bytes-") {
            hook(info);
        }
    }));
    for name in FIXTURES {
        let whole = fs::read(fixture(name)).unwrap();
        for _ in 0..300 {
            let mut bytes = whole.clone();
            for _ in 0..[1, 2, 8][random(3)] {
                let at = random(bytes.len());
                bytes[at] = [0, 0xff, 0x7f, 0x80, random(256) as u8][random(5)];
            }
            fs::write(&path, bytes).unwrap();
            errors += usize::from(read(&path, &SourceOptions::default()).is_err());
        }
    }
    assert!((500..4400).contains(&errors), "{errors}");
}

fn rest(sources: &Sources, from: Position) -> Vec<Piece> {
    sources.pieces(from).collect::<Result<_, _>>().unwrap()
}

/// From the beginning of each piece, and from where the one before ended: the pieces from there on. The first
/// four of them, because what comes after those is asked from a position nearer to it.
fn check_positions(sources: &Sources, all: &[Piece]) {
    for (i, piece) in all.iter().enumerate() {
        let same = |from: Position, want: &[Piece]| {
            let part = |p: &Piece| (p.text.clone(), p.is_last, p.at, p.next);
            let again = sources.pieces(from).take(4).map(|piece| part(&piece.unwrap()));
            again.eq(want.iter().take(4).map(part))
        };
        assert!(same(piece.at, &all[i..]), "{:?}", piece.at);
        assert!(same(piece.next, &all[i + 1..]), "{:?}", piece.next);
        let json = serde_json::to_string(&piece.at).unwrap();
        assert_eq!(serde_json::from_str::<Position>(&json).unwrap(), piece.at);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reading_goes_on_from_any_piece(
        documents in proptest::collection::vec("\\PC{0,12}", 0..12),
        blanks in proptest::collection::vec(0..3_usize, 12),
        long in proptest::collection::vec(any::<u8>(), 1..40),
        len in 0..3 * MIB,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let lines: String = documents
            .iter()
            .zip(&blanks)
            .map(|(text, &blanks)| format!("{}{}\n", "\n".repeat(blanks), serde_json::json!({"text": text})))
            .collect::<Vec<_>>()
            .concat();
        let long: Vec<u8> = long.iter().copied().cycle().take(len).collect();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("a.jsonl"), &lines).unwrap();
        fs::write(path("b.jsonl.gz"), gzip(lines.as_bytes())).unwrap();
        fs::write(path("c.jsonl.zst"), zstd(lines.trim_end().as_bytes())).unwrap();
        fs::write(path("d.txt"), &long).unwrap();
        fs::write(path("e.txt.gz"), gzip(&long)).unwrap();
        fs::write(path("f.txt.zst"), zstd(&long)).unwrap();
        for invalid in [Invalid::Replace, Invalid::Keep] {
            let sources = find(&[directory.path()], &with(|options| options.invalid = invalid)).unwrap();
            let all = rest(&sources, Position::default());
            check_positions(&sources, &all);
            prop_assert!(all.iter().map(|piece| piece.bytes_read).is_sorted());
            prop_assert_eq!(all.last().unwrap().bytes_read, sources.total_bytes().unwrap());
            // Cut into pieces, and replaced or not, the texts are what they are uncut.
            let n = documents.len();
            let want = if invalid == Invalid::Keep { long.clone() } else { String::from_utf8_lossy(&long).into_owned().into_bytes() };
            let mark = if want.starts_with("\u{feff}".as_bytes()) { 3 } else { 0 };
            for file in 3..6 {
                let text: Vec<u8> = all.iter().filter(|p| p.at.file == file).flat_map(|p| p.text.clone()).collect();
                prop_assert!(text == want[mark..]);
            }
            for (i, piece) in all[..3 * n].iter().enumerate() {
                prop_assert_eq!(&*piece.text, documents[i % n].as_bytes());
            }
        }
    }
}

#[test]
fn a_position_of_another_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("a.jsonl", b"{\"text\": \"one\"}\n{\"text\": \"two\"}\n".to_vec()),
        ("b.txt", b"text".to_vec()),
        ("c.txt.gz", gzip(b"text")),
    ] {
        fs::write(directory.path().join(name), bytes).unwrap();
    }
    let sources = find(&[directory.path()], &SourceOptions::default()).unwrap();
    let cases = [
        (Position { file: 0, document: 1, byte: 7 }, "byte 7, where no line begins"),
        (Position { file: 0, document: 1, byte: 700 }, "it is not the file that was read before"),
        (Position { file: 1, document: 0, byte: 5 }, "byte 5 of its text, which has 4 only"),
        (Position { file: 2, document: 0, byte: 5 }, "byte 5 of its text, which has 4 only"),
        (Position { file: 4, document: 0, byte: 0 }, "file is 4; it must be a position in one of 3 files"),
    ];
    for (position, says) in cases {
        let mut pieces = sources.pieces(position);
        let message = pieces.next().unwrap().unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
        assert!(pieces.next().is_none());
    }
    assert!(sources.pieces(Position { file: 3, ..Position::default() }).next().is_none());
    let parquet = find(&[&fixture("none_plain")], &SourceOptions::default()).unwrap();
    let beyond = parquet.pieces(Position { file: 0, document: 41, byte: 0 }).next().unwrap().unwrap_err();
    assert!(beyond.to_string().contains("row 41 of a file of 40"), "{beyond}");
}

#[test]
fn lines_that_are_no_documents_are_refused_with_their_place() {
    let good = "\n{\"text\": \"ä\"}\n"; // 15 bytes, with the blank line
    let cases: [(&[u8], &str); 12] = [
        (b"{\"text\": \"a\" \"b\"}", "line 3, column 14 (byte 29): expected `,` or `}`; each line must be"),
        (b"{\"text\": \"a\"", "line 3, column 12 (byte 27): EOF while parsing an object"),
        (
            b"{\"text\": 5}",
            "line 3, column 10 (byte 25): invalid type: integer `5`, expected a string in the field \"text\"",
        ),
        (b"{\"text\": null}", "expected a string in the field \"text\""),
        (b"{\"text\": [\"a\"]}", "invalid type: sequence, expected a string in the field \"text\""),
        (b"[1]", "invalid type: sequence, expected an object"),
        (
            b"{\"b\": 1, \"a\": 2}",
            "line 3, column 1 (byte 16): no field \"text\": it has \"a\", \"b\"; name the one",
        ),
        (b"{}", "no field \"text\": it has none"),
        (b"{\"text\": \"a\", \"text\": \"b\"}", "the field \"text\" is there twice"),
        (b"{\"text\": \"a\"} {}", "trailing characters"),
        (
            b"{\"text\": \"a\xffb\"}",
            "line 3, column 12 (byte 27): not UTF-8; save the file as UTF-8, or have such bytes replaced",
        ),
        (b"{\"text\": \"\\ud800\"}", "--invalid replace"),
    ];
    for (line, says) in cases {
        let bytes = [good.as_bytes(), line, b"\n"].concat();
        for (name, bytes) in [("a.jsonl", bytes.clone()), ("a.jsonl.gz", gzip(&bytes))] {
            let message = error_with(name, &bytes, &SourceOptions::default());
            let says = if name.ends_with("gz") {
                says.replace("):", " of the unpacked text):")
            } else {
                says.to_owned()
            };
            assert!(message.contains(&says), "{message}\n{says}");
        }
    }
    let many: Vec<String> = (0..30).map(|i| format!("\"field {i:02}\": 1")).collect();
    let message =
        error_with("a.jsonl", format!("{{{}}}", many.join(",")).as_bytes(), &SourceOptions::default());
    assert!(message.contains("\"field 19\", others;"), "{message}");
    // A byte order mark counts.
    let message = error_with("a.jsonl", "\u{feff}{\"text\" 1}".as_bytes(), &SourceOptions::default());
    assert!(message.contains("line 1, column 12 (byte 11)"), "{message}");
    // Bytes in a field that is not read have to be UTF-8 too.
    let message =
        error_with("a.jsonl", b"{\"text\": \"a\", \"b\": \"\xff\"}", &with(|o| o.invalid = Invalid::Keep));
    assert!(message.contains("not UTF-8"), "{message}");
}

#[test]
fn invalid_bytes_are_refused_replaced_or_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.txt");
    // A character that the file's end cuts off; another at the end of a piece; a byte alone before it.
    let mut bytes = vec![b'a'; MIB - 2];
    bytes.extend_from_slice(b"\xf0\x9f\x98b\x80\xe2\x82");
    fs::write(&path, &bytes).unwrap();
    let message = error_of(&path, &SourceOptions::default());
    assert!(message.contains(&format!("byte {} is not UTF-8; save the text as UTF-8", MIB - 2)), "{message}");
    assert!(message.contains("--invalid replace") && message.contains("tokenizer of bytes"), "{message}");
    let replaced = read(&path, &with(|options| options.invalid = Invalid::Replace)).unwrap();
    assert!(documents(&replaced) == [String::from_utf8_lossy(&bytes)]);
    assert!(replaced.len() == 2);
    let kept = read(&path, &with(|options| options.invalid = Invalid::Keep)).unwrap();
    assert!(kept.iter().flat_map(|piece| piece.text.clone()).collect::<Vec<_>>() == bytes);

    let message = error_with("a.txt.gz", &gzip(b"ab\xff"), &SourceOptions::default());
    assert!(message.contains("byte 2 of the unpacked text is not UTF-8"), "{message}");
    let message = error_with("a.txt", b"\xff\xfea\0b\0", &SourceOptions::default());
    assert!(message.contains("byte 0 is not UTF-8; it begins like UTF-16"), "{message}");

    let lines = directory.path().join("a.jsonl");
    fs::write(&lines, b"{\"text\": \"\xff\\ud800x\\n\\ud83d\\ude00\"}").unwrap();
    let replaced = read(&lines, &with(|options| options.invalid = Invalid::Replace)).unwrap();
    assert_eq!(documents(&replaced), ["\u{fffd}\u{fffd}x\n😀"]);
}

#[test]
fn damaged_archives_are_refused_with_the_place_that_was_reached() {
    // Not to be packed: the archive has about as many bytes.
    let text: String =
        (0..200_000_u32).map(|i| char::from(b' ' + (i.wrapping_mul(2_654_435_761) >> 26) as u8)).collect();
    for (name, pack) in [("gz", gzip as fn(&[u8]) -> Vec<u8>), ("zst", zstd)] {
        let whole = pack(text.as_bytes());
        let file = format!("a.txt.{name}");
        for len in [1, 5, whole.len() / 2, whole.len() - 1] {
            let message = error_with(&file, &whole[..len], &SourceOptions::default());
            assert!(message.contains(&format!("cut off: it ends at byte {len} in the middle")), "{message}");
        }
        let message = error_with(&file, b"", &SourceOptions::default());
        assert!(message.contains("it is empty, which no archive is"), "{message}");
        let message = error_with(&file, b"plain text, not packed at all", &SourceOptions::default());
        assert!(message.contains("archive is damaged at or before byte"), "{message}");
        let message = error_with(&file, &[&*whole, b"more behind it"].concat(), &SourceOptions::default());
        assert!(message.contains("archive is damaged at or before byte"), "{message}");
        let mut bytes = whole.clone();
        bytes[whole.len() / 2] ^= 0x55;
        let message = error_with(&file, &bytes, &SourceOptions::default());
        assert!(message.contains("archive is damaged") || message.contains("cut off"), "{message}");
    }
    // A frame without a content size, with a window of 1 GiB, which its first byte after the flags says.
    let wide = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (30 - 10) << 3, 0x01, 0x00, 0x00];
    let message = error_with("a.txt.zst", &wide, &SourceOptions::default());
    assert!(message.contains("needs a window of more than 128 MiB"), "{message}");
}

#[test]
fn a_line_without_end_is_refused_and_a_text_without_end_is_read() {
    let zeros = gzip(&vec![b'0'; 64 * MIB]);
    assert!(zeros.len() < MIB);
    let options = with(|options| options.max_line = 4 * MIB as u64);
    let line = error_with("a.jsonl.gz", &zeros, &options);
    assert!(
        line.contains("line 1, column 1 (byte 0 of the unpacked text): the line has more than 4194304 bytes"),
        "{line}"
    );
    // A line of just that many bytes is read.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.jsonl");
    let text = "b".repeat(4 * MIB - 12);
    fs::write(&path, format!("{{\"text\": \"{text}\"}}\n")).unwrap();
    assert!(documents(&read(&path, &options).unwrap()) == [&*text]);
    fs::write(&path, format!("{{\"text\": \"{text}b\"}}\n")).unwrap();
    assert!(error_of(&path, &options).contains("allow more (max_line)"));

    let path = directory.path().join("a.txt.gz");
    fs::write(&path, &zeros).unwrap();
    let pieces = find(&[&path], &options).unwrap().pieces(Position::default());
    let mut len = 0;
    for piece in pieces {
        let piece = piece.unwrap();
        assert!(piece.text.len() <= MIB);
        len += piece.text.len();
    }
    assert_eq!(len, 64 * MIB);
}

/// A folder with texts, others, hidden ones and more below.
fn folder() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for folder in ["sub/deep", "empty", ".hidden"] {
        fs::create_dir_all(directory.path().join(folder)).unwrap();
    }
    for name in [
        "b.txt",
        "a.md",
        "c.JSONL",
        "d.jsonl.gz",
        "e.txt.zst",
        "f.rs",
        "g.json",
        "h.parquet.gz",
        ".h.txt",
        "i",
        "sub/a.txt",
        "sub/deep/z.ndjson",
        "sub.txt",
        ".hidden/a.txt",
        "[x].txt",
        "empty/x.bin",
    ] {
        fs::write(directory.path().join(name), "{}").unwrap();
    }
    directory
}

fn names(directory: &TempDir, inputs: &[&str]) -> Vec<String> {
    let inputs: Vec<PathBuf> = inputs.iter().map(|input| directory.path().join(input)).collect();
    let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
    let sources = find(&inputs, &SourceOptions::default()).unwrap();
    let name =
        |path: &Path| path.strip_prefix(directory.path()).unwrap().display().to_string().replace('\\', "/");
    sources.files().iter().map(|file| name(&file.path)).collect()
}

#[test]
fn folders_and_patterns_are_looked_into() {
    let directory = folder();
    let all = [
        "[x].txt",
        "a.md",
        "b.txt",
        "c.JSONL",
        "d.jsonl.gz",
        "e.txt.zst",
        "sub/a.txt",
        "sub/deep/z.ndjson",
        "sub.txt",
    ];
    assert_eq!(names(&directory, &[""]), all);
    assert_eq!(names(&directory, &["*.txt"]), ["[x].txt", "b.txt", "sub.txt"]);
    assert_eq!(names(&directory, &["**/*.txt"]), ["[x].txt", "b.txt", "sub/a.txt", "sub.txt"]);
    assert_eq!(names(&directory, &["?.[mr]?"]), ["a.md", "f.rs"]);
    assert_eq!(names(&directory, &["sub/**/z.*"]), ["sub/deep/z.ndjson"]);
    assert_eq!(names(&directory, &["[x].txt"]), ["[x].txt"]);
    // Named itself, anything is; in the order of the inputs, and once.
    assert_eq!(
        names(&directory, &["i", "sub", ".h.txt", "sub/../b.txt", "*.txt"]),
        ["i", "sub/a.txt", "sub/deep/z.ndjson", ".h.txt", "sub/../b.txt", "[x].txt", "sub.txt"]
    );

    let sources = find(&[directory.path()], &SourceOptions::default()).unwrap();
    let kinds: Vec<_> = sources.files().iter().map(|file| (file.kind, file.compression)).collect();
    assert_eq!(
        kinds[3..6],
        [
            (Kind::JsonLines, Compression::None),
            (Kind::JsonLines, Compression::Gzip),
            (Kind::Text, Compression::Zstd)
        ]
    );
    assert_eq!(sources.total_bytes(), Some(2 * all.len() as u64));
    let stdin =
        Sources::find(&["-".to_owned(), "-".to_owned()], &with(|o| o.stdin = Kind::JsonLines)).unwrap();
    assert!(
        stdin.files().len() == 1 && stdin.files()[0].kind == Kind::JsonLines && stdin.total_bytes().is_none()
    );
    let on = stdin.pieces(Position { file: 0, document: 1, byte: 1 }).next().unwrap().unwrap_err();
    assert!(on.to_string().contains("standard input cannot be gone on with"), "{on}");
}

#[test]
fn inputs_that_are_no_texts_are_refused_with_what_would_do() {
    let directory = folder();
    for (name, says) in [
        ("none.txt", "cannot open"),
        ("*.none", "no file of this name, and none that matches it as a pattern"),
        ("a[.txt", "this is no pattern"),
        ("empty", "there are no texts in this folder: .txt, .text, .md, .jsonl"),
        ("g.json", "if each of its lines is an object, name it .jsonl"),
        ("h.parquet.gz", "Parquet is packed within"),
    ] {
        let message = error_of(&directory.path().join(name), &SourceOptions::default());
        assert!(message.contains(says), "{message}");
    }
    for name in ["a.zip", "a.tar.gz", "a.txt.xz", "a.TGZ"] {
        let message = error_with(name, b"", &SourceOptions::default());
        assert!(message.contains("archive cannot be read; unpack it"), "{message}");
    }
    let options = [
        with(|options| options.text_field.clear()),
        with(|options| options.max_line = 0),
        with(|options| options.stdin = Kind::Parquet),
    ];
    for options in options {
        assert_eq!(Sources::find(&["-".to_owned()], &options).unwrap_err().code(), "INVALID_OPTION");
    }
    assert_eq!(Sources::find(&[], &SourceOptions::default()).unwrap_err().code(), "INVALID_OPTION");
}

#[test]
fn a_file_that_changes_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("a.txt", vec![b'a'; 3 * MIB]),
        ("a.jsonl", "{\"text\": \"abc\"}\n".repeat(100_000).into_bytes()),
        ("a.parquet", fs::read(fixture("none_plain")).unwrap()),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, &bytes).unwrap();
        let sources = find(&[&path], &SourceOptions::default()).unwrap();
        let begun = |sources: &Sources| {
            let mut pieces = sources.pieces(Position::default());
            pieces.next().unwrap().unwrap();
            pieces
        };
        let end = |pieces: Pieces| pieces.last().unwrap().unwrap_err();
        let pieces = begun(&sources);
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
        let error = end(pieces);
        assert!(error.code() == "FILE_CHANGED", "{name}: {error}");
        let says = format!("it had {} bytes when it was found and has {} now", bytes.len(), bytes.len() + 4);
        assert!(error.to_string().contains(&says), "{error}");
        assert_eq!(end(sources.pieces(Position::default())).code(), "FILE_CHANGED");

        let sources = find(&[&path], &SourceOptions::default()).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert!(end(sources.pieces(Position::default())).to_string().contains("it was written to"));
    }
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    use super::*;

    #[test]
    fn pipes_and_devices_are_refused_without_waiting_also_in_folders() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe.txt");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [&*pipe, Path::new("/dev/zero")] {
            let message = error_of(path, &SourceOptions::default());
            assert!(message.contains("it is a pipe, a socket or a device"), "{message}");
        }
        let error = find(&[directory.path()], &SourceOptions::default()).unwrap_err();
        assert!(error.to_string().contains("pipe.txt: it is a pipe"), "{error}");
        // One that took a file's place after it was found.
        fs::remove_file(&pipe).unwrap();
        fs::write(&pipe, "text").unwrap();
        let sources = find(&[&pipe], &SourceOptions::default()).unwrap();
        fs::remove_file(&pipe).unwrap();
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let error = sources.pieces(Position::default()).next().unwrap().unwrap_err();
        assert!(error.to_string().contains("it is a pipe, not a regular file"), "{error}");
    }

    #[test]
    fn links_to_files_are_read_and_those_to_folders_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("texts")).unwrap();
        fs::write(path("blob"), "text").unwrap();
        symlink(path("blob"), path("texts/a.txt")).unwrap();
        symlink(path("texts"), path("texts/round")).unwrap();
        symlink(path("texts"), path("texts/round.txt")).unwrap();
        let sources = find(&[&path("texts")], &SourceOptions::default()).unwrap();
        assert_eq!(sources.files().len(), 1);
        assert_eq!(documents(&rest(&sources, Position::default())), ["text"]);
        symlink(path("nowhere"), path("texts/b.txt")).unwrap();
        let error = find(&[&path("texts")], &SourceOptions::default()).unwrap_err();
        assert!(error.code() == "IO" && error.to_string().contains("b.txt"), "{error}");
    }

    #[test]
    fn a_folder_without_permission_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let locked = directory.path().join("locked");
        fs::create_dir(&locked).unwrap();
        fs::write(directory.path().join("a.txt"), "text").unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o0)).unwrap();
        let is_root = fs::read_dir(&locked).is_ok(); // who may look into everything
        for input in [directory.path().to_owned(), directory.path().join("**/*.txt")] {
            let found = find(&[&input], &SourceOptions::default());
            if !is_root {
                let error = found.unwrap_err();
                assert!(error.code() == "IO" && error.to_string().contains("locked"), "{error}");
            }
        }
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn pieces_can_be_read_on_another_thread() {
    fn check<T: Send + 'static>() {}
    check::<Pieces>();
}

/// In a process of its own, whose standard input is known.
#[test]
fn standard_input_is_read() {
    const KIND: &str = "RWKV_TEST_STANDARD_INPUT";
    if let Ok(kind) = std::env::var(KIND) {
        let kind = if kind == "lines" { Kind::JsonLines } else { Kind::Text };
        let pieces = read(Path::new("-"), &with(|options| options.stdin = kind)).unwrap();
        let text = "{\"text\": \"ä\"}\n".repeat(100_000);
        let want = if kind == Kind::Text { vec![text.clone()] } else { vec!["ä".to_owned(); 100_000] };
        assert!(documents(&pieces) == want);
        assert_eq!(pieces.last().unwrap().bytes_read, text.len() as u64);
        return;
    }
    for kind in ["lines", "text"] {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "standard_input_is_read"])
            .env(KIND, kind)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all("{\"text\": \"ä\"}\n".repeat(100_000).as_bytes()).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success(), "{kind}");
    }
}
