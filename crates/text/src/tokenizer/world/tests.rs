use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn encode(text: impl AsRef<[u8]>) -> Vec<u32> {
    let mut tokens = Vec::new();
    World::get().encode(text.as_ref(), &mut tokens);
    tokens
}

fn decode(tokens: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for &token in tokens {
        World::get().decode_into(token, &mut bytes).unwrap();
    }
    bytes
}

/// Of rwkv.cpp (python/rwkv_cpp/rwkv_world_tokenizer.test.py) and cahya-wirawan/rwkv-tokenizer, the first two;
/// the rest from ChatRWKV's tokenizer.
#[test]
fn published_texts_have_their_published_tokens() {
    let cases: [(&str, &[u32]); 9] = [
        (
            "I'll 'd test блабла 以下は、]) -> <|endoftext|><|padding|> int",
            &[
                74, 5229, 274, 101, 32223, 5092, 27980, 2795, 27980, 33, 10399, 10258, 10139, 10079, 1682,
                3463, 295, 125, 25258, 7588, 2318, 125, 790, 125, 49520, 125, 63, 21888,
            ],
        ),
        (
            "Today is a beautiful day. 今天是美好的一天。",
            &[
                33520, 4600, 332, 59219, 21509, 47, 33, 10381, 11639, 13091, 15597, 11685, 14734, 10250,
                11639, 10080,
            ],
        ),
        ("Hello, world!", &[33155, 45, 40213, 34]),
        ("\n\n", &[261]),
        ("✿", &[10060]),
        ("User: hi\n\nAssistant:", &[24281, 59, 4571, 261, 5585, 41693, 59]),
        ("<s>", &[61, 116, 63]),
        ("🙂👍🏽", &[3319, 2417, 28333, 3319, 144, 190]),
        ("\0a", &[1, 98]),
    ];
    for (text, tokens) in cases {
        assert_eq!(encode(text), tokens, "{text:?}");
        assert_eq!(decode(tokens), text.as_bytes());
    }
    assert_eq!(encode("  \t\r\n"), [267, 10, 263]);
    assert!(encode("").is_empty());
}

/// `tests/data/world.json`, made by `tests/data/world.py`: twenty-one texts of many scripts, runs of spaces and
/// digits, any bytes.
#[test]
fn tokens_are_those_of_the_reference_in_python() {
    #[derive(serde::Deserialize)]
    struct Case {
        hex: String,
        tokens: Vec<u32>,
    }
    let cases: Vec<Case> = serde_json::from_str(include_str!("../../../tests/data/world.json")).unwrap();
    assert_eq!(cases.len(), 21);
    for Case { hex, tokens } in cases {
        let text: Vec<u8> =
            (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
        assert_eq!(encode(&text), tokens, "{}", String::from_utf8_lossy(&text));
        assert_eq!(decode(&tokens), text);
    }
}

/// Where the published file is, `pack` makes the packed one of it and compares.
#[test]
fn the_packed_file_is_the_one_that_was_tested() {
    assert_eq!(crc32fast::hash(include_bytes!("../../../data/world.bin")), 0xf89a_1120);
}

#[test]
fn every_token_is_the_token_of_its_bytes() {
    let world = World::get();
    assert_eq!(world.vocabulary.len(), 65_530);
    let mut all = Vec::new();
    for token in 1..65_530 {
        let bytes = decode(&[token]);
        assert!((1..=128).contains(&bytes.len()), "{token}");
        assert_eq!(encode(&bytes), [token], "{bytes:?}");
        all.extend(bytes);
    }
    assert_eq!(decode(&(1..65_530).collect::<Vec<_>>()), all);
    for byte in 0..=255 {
        assert_eq!(encode([byte]), [u32::from(byte) + 1]);
    }
}

#[test]
fn the_end_of_a_text_is_no_text_and_numbers_beyond_the_vocabulary_are_refused() {
    assert_eq!(decode(&[33155, World::END_OF_TEXT, 34]), b"Hello!");
    // A model has six more than there are, and may write one of them.
    assert_eq!(decode(&[33155, 65_530, 65_535]), b"Hello");
    for no in [65_536, u32::MAX] {
        let error = World::get().decode_into(no, &mut Vec::new()).unwrap_err();
        assert!(
            matches!(error, Error::TokenOutOfRange { token, n_vocab: World::N_VOCAB } if token == no),
            "{error}"
        );
    }
}

/// The longest token that a text begins with, found by looking at every token.
fn longest(text: &[u8]) -> u32 {
    let world = World::get();
    (1..65_530).filter(|&token| text.starts_with(world.vocabulary.get(token).unwrap())).max().unwrap()
}

/// Texts that are long tokens, parts of them, and what is between.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => (1..65_530u32).prop_map(|token| decode(&[token])),
        2 => (1..65_530u32, 0..9usize).prop_map(|(token, n)| decode(&[token]).into_iter().take(n).collect()),
        1 => vec(any::<u8>(), 0..4),
        1 => (proptest::sample::select(b" -=\n\t0*#\0".to_vec()), 0..300usize).prop_map(|(byte, n)| vec![byte; n]),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// The tokens of `text`, one after another.
fn encode_plainly(mut text: &[u8]) -> Vec<u32> {
    let mut tokens = Vec::new();
    while !text.is_empty() {
        let found = World::get().trie.longest(text);
        tokens.push(found.token);
        text = &text[found.length..];
    }
    tokens
}

proptest! {
    /// Long texts are searched in many places at once.
    #[test]
    fn long_texts_have_the_tokens_of_a_plain_search(texts in vec(text(), 0..200), bytes in vec(any::<u8>(), 0..4000)) {
        let text = [texts.concat(), bytes].concat();
        prop_assert_eq!(encode(&text), encode_plainly(&text));
    }

    #[test]
    fn any_bytes_come_back(bytes in vec(any::<u8>(), 0..2000), text in text()) {
        prop_assert_eq!(decode(&encode(&bytes)), bytes);
        prop_assert_eq!(decode(&encode(&text)), text);
    }

    #[test]
    fn each_token_is_the_longest(text in text()) {
        let mut rest = &text[..];
        for token in encode(&text).into_iter().take(20) {
            prop_assert_eq!(token, longest(rest));
            rest = &rest[decode(&[token]).len()..];
        }
    }

    #[test]
    fn a_cut_changes_no_token_whatever_follows(text in text(), more in text(), at in any::<prop::sample::Index>()) {
        // What follows may go on with a token that the text ends within, or not.
        let text = &text[..at.index(text.len() + 1)];
        let cut = World::get().cut(text);
        prop_assert!(cut <= text.len() && text.len() - cut < 128);
        for more in [&more[..], b"", b" ", b"\xa0"] {
            let whole = [text, more].concat();
            let parts = [encode(&text[..cut]), encode(&whole[cut..])].concat();
            prop_assert_eq!(parts, encode(&whole));
        }
    }

    /// Behind the cut is the beginning of a longer token. With the rest of that, nothing later parts two tokens.
    #[test]
    fn there_is_no_later_cut(text in text()) {
        let world = World::get();
        let cut = world.cut(&text);
        if cut < text.len() {
            let behind = &text[cut..];
            let longer = (1..65_530).map(|token| world.vocabulary.get(token).unwrap());
            let longer = longer.filter(|token| token.len() > behind.len() && token.starts_with(behind)).max();
            prop_assert!(longer.is_some(), "{:?} could be cut later than at {}", text, cut);
        }
    }
}

/// More than are searched at once, with and without places to part them at, and every length of an end.
#[test]
fn very_long_texts_have_the_tokens_of_a_plain_search() {
    let some: Vec<_> = (0..9000).map(|i| format!("{i} words, {}\n", i * i)).collect();
    let some = some.concat();
    let text = [&some[..], &" ".repeat(200_000), &some, &"\0".repeat(70_000)].concat();
    assert_eq!(encode(&text), encode_plainly(text.as_bytes()));
    for length in (0..3000).chain(65_000..65_600) {
        let text = &some.as_bytes()[..length];
        assert_eq!(encode(text), encode_plainly(text), "{length}");
    }
}

#[test]
fn texts_are_cut_where_a_longer_token_could_begin() {
    let cut = |text: &str| World::get().cut(text.as_bytes());
    assert_eq!(cut(""), 0);
    // No token begins with "Hello" but itself; " world" may become " worldwide", and " Hell" " Hello".
    assert_eq!(cut("Hello"), 5);
    assert_eq!(cut("Hello, world"), "Hello,".len());
    assert_eq!(cut("Hello, worldw"), "Hello,".len());
    assert_eq!(cut(" Hell"), 0);
    // The longest token is of 128 spaces.
    assert_eq!([127, 128, 129, 300].map(|n| cut(&" ".repeat(n))), [0, 128, 128, 256]);
}
