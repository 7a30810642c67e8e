//! Every kind of tokenizer beside what Python makes, and what damaged files are called.

use std::fs;
use std::path::Path;

use rwkv_core::go_on;
use rwkv_text::tokenizer::WordCounts;
use rwkv_text::{Characters, Tokenizer, TokenizerKind};
use serde_json::Value;

const TEXT: &str = "Grüße, 世界! 😀\r\n\t\"\\\u{0}\u{7f}e\u{301}";

fn fixture(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    serde_json::from_str(&fs::read_to_string(path).expect("a fixture")).expect("JSON")
}

fn trained() -> Tokenizer {
    let mut counts = WordCounts::new().expect("a counter");
    for text in fixture("bpe.json")["corpus"].as_array().expect("texts") {
        counts.add(text.as_str().expect("a text")).expect("words");
    }
    counts.train(256 + 60 + 1, go_on).expect("a tokenizer")
}

/// One of each kind.
fn all() -> Vec<Tokenizer> {
    vec![
        Characters::of_text(TEXT).expect("characters").with_bytes().into(),
        Characters::of_text("abc").expect("characters").with_bytes().with_end_of_text().into(),
        Tokenizer::bytes(),
        Tokenizer::world(),
        Tokenizer::gpt2().expect("GPT-2's"),
        Tokenizer::pile().expect("the Pile's"),
        trained(),
    ]
}

#[test]
fn text_survives_every_tokenizer_and_its_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tokenizer.json");
    for tokenizer in all() {
        tokenizer.save(&path).expect("a file");
        let loaded = Tokenizer::load(&path).expect("the file");
        assert_eq!(loaded, tokenizer);
        assert_eq!(Tokenizer::load(directory.path()).expect("the directory"), tokenizer);
        assert_eq!(loaded.n_vocab(), tokenizer.n_vocab());
        assert_eq!(loaded.end_of_text(), tokenizer.end_of_text());
        // The Pile's brings a text into normal form C.
        let text =
            if tokenizer.kind() == TokenizerKind::Pile { TEXT.trim_end_matches("e\u{301}") } else { TEXT };
        let tokens = loaded.encode(text).expect("tokens");
        assert_eq!(tokens, tokenizer.encode(text).expect("tokens"));
        assert_eq!(tokens, tokenizer.encode_bytes(text.as_bytes(), &path).expect("tokens"));
        assert!(tokens.iter().all(|&token| (token as usize) < loaded.n_vocab()));
        assert_eq!(loaded.decode(&tokens).expect("bytes"), text.as_bytes(), "{:?}", tokenizer.kind());
        let beyond = loaded.n_vocab() as u32;
        assert_eq!(loaded.decode(&[beyond]).expect_err("no token").code(), "TOKEN_OUT_OF_RANGE");
    }
}

#[test]
fn the_end_of_a_text_is_a_token_that_no_text_has() {
    for tokenizer in all() {
        let Some(end) = tokenizer.end_of_text() else { continue };
        assert!(!tokenizer.encode("a<|endoftext|>b</s>").expect("tokens").contains(&end));
        if tokenizer.kind() != TokenizerKind::Byte {
            assert_eq!(tokenizer.decode(&[end]).expect("nothing"), b"");
        }
    }
}

#[test]
fn tokens_are_those_of_python() {
    let expected = fixture("tokens.json");
    let text = expected["text"].as_str().expect("a text");
    for (name, tokenizer) in [("gpt2", Tokenizer::gpt2()), ("20b", Tokenizer::pile())] {
        let tokenizer = tokenizer.expect(name);
        let expected: Vec<u32> = serde_json::from_value(expected[name].clone()).expect("tokens");
        assert_eq!(tokenizer.encode(text).expect("tokens"), expected, "{name}");
        assert_eq!(tokenizer.kind().word(), name);
    }
}

#[test]
fn the_packed_vocabulary_of_the_pile_is_that_of_its_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/20B_tokenizer.json");
    if !path.exists() {
        return;
    }
    let (file, packed) = (Tokenizer::load(path).expect("the file"), Tokenizer::pile().expect("ours"));
    assert_eq!((file.n_vocab(), file.end_of_text()), (packed.n_vocab(), packed.end_of_text()));
    for token in 0..file.n_vocab() as u32 {
        assert_eq!(file.decode(&[token]).expect("bytes"), packed.decode(&[token]).expect("bytes"), "{token}");
    }
}

#[test]
fn a_trained_vocabulary_has_the_merges_of_hugging_face() {
    let tokenizer = trained();
    let json: Value = serde_json::from_str(&tokenizer.to_json()).expect("JSON");
    assert_eq!(json["model"]["merges"], fixture("bpe.json")["merges"]);
    assert_eq!((tokenizer.n_vocab(), tokenizer.end_of_text()), (317, Some(316)));
}

#[test]
fn a_vocabulary_that_the_text_is_too_short_for_is_refused() {
    let counts = || {
        let mut counts = WordCounts::new().expect("a counter");
        counts.add("abab abab").expect("words");
        counts
    };
    let says = |n_vocab| counts().train(n_vocab, go_on).expect_err("no such vocabulary").to_string();
    assert!(
        says(1000).starts_with("vocab_size is 1000; it must be at most 259: the text has no more"),
        "{}",
        says(1000)
    );
    assert!(says(256).contains("from 257"));
    counts().train(259, go_on).expect("a small vocabulary");
    assert_eq!(counts().train_up_to(1000, go_on).expect("what there is").n_vocab(), 259);
}

#[test]
fn a_text_can_be_cut_without_changing_its_tokens() {
    let text = "One line.\nAnother 日本\nthird,\n\nfour  \n  five\nÄ six\r\nseven\n eight\n\tnine\nten!\n";
    for tokenizer in all() {
        for end in 0..=text.len() {
            let cut = tokenizer.cut(&text.as_bytes()[..end]);
            // A vocabulary of bytes can be cut within a character.
            assert!(cut <= end && (text.is_char_boundary(cut) || tokenizer.takes_bytes()));
            let encode = |part| tokenizer.encode_bytes(part, Path::new("it")).expect("tokens");
            let parts = [encode(&text.as_bytes()[..cut]), encode(&text.as_bytes()[cut..])].concat();
            assert_eq!(parts, tokenizer.encode(text).expect("tokens"), "{:?} at {cut}", tokenizer.kind());
        }
    }
}

#[test]
fn a_vocabulary_is_found_by_its_size() {
    let kind = |n_vocab| Tokenizer::for_vocabulary(n_vocab).expect("one or none").map(|found| found.kind());
    assert_eq!(kind(256), Some(TokenizerKind::Byte));
    assert_eq!(kind(65_536), Some(TokenizerKind::World));
    assert_eq!(kind(50_277), Some(TokenizerKind::Pile));
    assert_eq!(kind(50_257), None);
}

#[test]
fn files_of_before_there_was_hugging_face_s_format_are_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tokenizer.json");
    fs::write(&path, r#"{"type": "character", "characters": "\n !abc"}"#).expect("a file");
    let old = Tokenizer::load(&path).expect("an old file");
    assert_eq!((old.n_vocab(), old.encode("b\n").expect("tokens")), (6, vec![4, 0]));
    assert_eq!(old.encode("x").expect_err("unknown").code(), "UNKNOWN_CHARACTER");
    fs::write(&path, r#"{"type": "byte"}"#).expect("a file");
    assert_eq!(Tokenizer::load(&path).expect("an old file"), Tokenizer::bytes());
}

#[test]
fn damaged_files_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tokenizer.json");
    let bpe =
        |model: &str| format!(r#"{{"version":"1.0","added_tokens":[],"decoder":null,"model":{model}}}"#);
    let cases = [
        String::new(),
        "{".into(),
        "null".into(),
        "[]".into(),
        "{}".into(),
        r#"{"type": "words"}"#.into(),
        r#"{"type": "character"}"#.into(),
        r#"{"type": "character", "characters": 3}"#.into(),
        r#"{"type": "character", "characters": ""}"#.into(),
        r#"{"type": "character", "characters": "aba"}"#.into(),
        r#"{"type": "character", "characters": "\ud800"}"#.into(),
        r#"{"type": "byte"} x"#.into(),
        bpe("{}"),
        bpe(r#"{"type":"BPE"}"#),
        bpe(r#"{"type":"BPE","vocab":{},"merges":[]}"#),
        bpe(r#"{"type":"BPE","vocab":{"a":0},"merges":["a b"]}"#),
        bpe(r#"{"type":"BPE","vocab":{"a":-1},"merges":[]}"#),
        bpe(r#"{"type":"BPE","vocab":{"a":4294967295},"merges":[]}"#),
        bpe(r#"{"type":"BPE","vocab":{"a":0,"b":99999999999},"merges":[]}"#),
        bpe(r#"{"type":"Words","vocab":{"a":0},"merges":[]}"#),
    ];
    for text in cases {
        fs::write(&path, &text).expect("a file");
        let error = Tokenizer::load(&path).expect_err(&text);
        assert_eq!(error.code(), "TOKENIZER", "{text}");
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
    }
    fs::write(&path, b"{\"type\": \"character\", \"characters\": \"a\xff\"}").expect("a file");
    assert!(Tokenizer::load(&path).expect_err("not UTF-8").to_string().contains("byte 38 is not UTF-8"));
    assert_eq!(Tokenizer::load(directory.path().join("none.json")).expect_err("none").code(), "IO");
}

#[test]
fn characters_want_utf8_and_say_where_it_ends() {
    let tokenizer = Tokenizer::characters_of("ab").expect("characters");
    let error = tokenizer.encode_bytes(b"aab\xffa", Path::new("book.txt")).expect_err("not UTF-8");
    assert!(error.to_string().starts_with("book.txt: byte 3 is not UTF-8"), "{error}");
    assert!(Tokenizer::world().takes_bytes() && !tokenizer.takes_bytes());
}
