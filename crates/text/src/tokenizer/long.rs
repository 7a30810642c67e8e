//! Long texts, piece by piece, so that the work can be stopped between two.

use std::ops::Range;
use std::time::{Duration, Instant};

use rwkv_core::{Control, Result, ask};

/// Bytes of the first piece. The slowest tokenizer takes some 20 ms for them.
pub(super) const PIECE: usize = 1 << 16;

/// A piece that takes less is followed by one of twice its size: each costs about 0.1 ms beside its text.
const SHORT: Duration = Duration::from_millis(4);
/// One that takes longer is followed by one of half its size.
const LONG: Duration = Duration::from_millis(16);
/// The largest piece has so many times the bytes of the first.
const MOST: usize = 16;

/// Gives `text` to `work`, range after range, each ended where `cut` says that a text can be cut
/// ([`Tokenize::cut`](super::Tokenize::cut)). A range has `piece` bytes at most, up to 16 times as many where that takes few
/// ms, and twice that, and so on, where no place to cut is known. `control` is told bytes.
///
/// # Errors
/// Those of `work`; [`Error::Aborted`](rwkv_core::Error::Aborted) if `control` says so.
pub(super) fn in_pieces(
    text: &[u8],
    piece: usize,
    cut: impl Fn(&[u8]) -> usize,
    mut control: impl Control,
    mut work: impl FnMut(Range<usize>) -> Result<()>,
) -> Result<()> {
    let total = text.len() as u64;
    let (mut start, mut usual, mut size) = (0, piece, piece);
    ask(&mut control, 0, total)?;
    while start < text.len() {
        let rest = &text[start..];
        // The end is no cut: what follows a text is nothing.
        let len = if rest.len() <= size { rest.len() } else { cut(&rest[..size]) };
        if len == 0 {
            size = size.saturating_mul(2);
        } else {
            let begin = Instant::now();
            work(start..start + len)?;
            start += len;
            usual = match begin.elapsed() {
                took if took < SHORT => usual.saturating_mul(2).min(piece.saturating_mul(MOST)),
                took if took > LONG => (usual / 2).max(piece),
                _ => usual,
            };
            size = usual;
        }
        ask(&mut control, start as u64, total)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::path::Path;

    use proptest::prelude::*;
    use rwkv_core::{Control, Result, go_on};
    use serde_json::{Value, json};

    use crate::tokenizer::{Characters, Tokenizer, Unknown, WordCounts, json};

    /// Words, and all that patterns treat in a way of its own, close together.
    const PARTS: [&str; 32] = [
        "a",
        "It",
        "don't",
        "WE'LL",
        "'s",
        "12",
        "3,456.78",
        " ",
        "  ",
        "   ",
        "\n",
        "\r\n",
        "\n\n",
        "\t",
        "_",
        "x_y",
        ".",
        "?!",
        "--",
        "/",
        "(",
        "日本",
        "日本。",
        "、語",
        "，",
        "e\u{301}",
        "क\u{93f}",
        "é",
        "\u{a0}",
        "\u{3000}",
        "😀",
        "\u{85}",
    ];

    fn tokens(tokenizer: &Tokenizer, piece: usize, text: &str, control: impl Control) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        tokenizer.encode_text_in(piece, text, control, &mut tokens).map(|()| tokens)
    }

    fn with(json: &str, change: impl FnOnce(&mut Value)) -> Tokenizer {
        let mut file = serde_json::from_str(json).unwrap();
        change(&mut file);
        json::read(file.to_string()).unwrap()
    }

    /// Of every kind; those of Hugging Face's also with the patterns of Llama 3, GPT-4o and DeepSeek-V3, and with
    /// what has no place to be cut at.
    fn all() -> Vec<Tokenizer> {
        let mut counts = WordCounts::new().unwrap();
        counts.add(&PARTS.concat().repeat(3)).unwrap();
        counts.add(&PARTS.join(" ").repeat(2)).unwrap();
        let trained = counts.train_up_to(500, go_on).unwrap();
        let json = trained.to_json();
        let patterns = [
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ];
        let deepseek = [
            r"\p{N}{1,3}",
            "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+",
            // As the file has it, with a carriage return and a line feed.
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
        ];
        let split = |patterns: &[&str]| {
            with(&json, |file| {
                let split = |pattern| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
                let mut all: Vec<Value> = patterns.iter().map(split).collect();
                all.push(file["pre_tokenizer"].clone());
                all[patterns.len()]["use_regex"] = false.into();
                file["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": all});
            })
        };
        let added = |content: &str, rstrip: bool| {
            with(&json, |file| {
                let id = file["model"]["vocab"].as_object().unwrap().len() + 1;
                file["added_tokens"].as_array_mut().unwrap().push(json!({
                    "id": id, "content": content, "single_word": false,
                    "lstrip": false, "rstrip": rstrip, "normalized": false, "special": false
                }));
            })
        };
        let characters = Characters::of_text(&PARTS[..26].concat()).unwrap();
        // A normalizer after which no place to cut is known.
        let lower = with(&json, |file| file["normalizer"] = json!({"type": "Lowercase"}));
        let mut all = vec![
            Tokenizer::bytes(),
            Tokenizer::world(),
            Tokenizer::gpt2().unwrap(),
            Tokenizer::pile().unwrap(),
            characters.clone().with_bytes().into(),
            Tokenizer::from(characters).with_unknown(Some(Unknown::Skip)).unwrap(),
            trained,
            lower,
            added("a 12", false),
            added("a", true),
        ];
        all.extend(patterns.map(|pattern| split(&[pattern])));
        all.push(split(&deepseek));
        all
    }

    fn text() -> impl Strategy<Value = String> {
        proptest::collection::vec((0..PARTS.len(), 1..4_usize), 0..60)
            .prop_map(|parts| parts.into_iter().map(|(part, times)| PARTS[part].repeat(times)).collect())
    }

    #[test]
    fn pieces_of_any_size_have_the_tokens_of_the_whole() {
        let all = all();
        let config = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
        proptest!(config, |(text in text(), piece in 1..40_usize)| {
            for tokenizer in &all {
                let whole = tokenizer.encode(&text).unwrap();
                let (mut last, mut total) = (0, 0);
                let watch = |done, all| {
                    assert!(done >= last && done <= all);
                    (last, total) = (done, all);
                    ControlFlow::Continue(())
                };
                prop_assert_eq!(&tokens(tokenizer, piece, &text, watch).unwrap(), &whole, "{:?}", tokenizer);
                prop_assert_eq!((last, total), (text.len() as u64, text.len() as u64));
                let bytes = tokenizer.encode_bytes_in(piece, text.as_bytes(), Path::new("it"), go_on).unwrap();
                prop_assert_eq!(&bytes, &whole);
                prop_assert_eq!(&tokenizer.encode_with(&text, go_on).unwrap(), &whole);
            }
        });
    }

    /// The longest stretch between two questions.
    fn longest(tokenizer: &Tokenizer, text: &str) -> u64 {
        let (mut before, mut longest) = (0, 0);
        let watch = |done, _| {
            longest = longest.max(done - before);
            before = done;
            ControlFlow::Continue(())
        };
        tokens(tokenizer, 100, text, watch).unwrap();
        longest
    }

    #[test]
    fn texts_without_lines_are_cut_too() {
        let gpt2 = Tokenizer::gpt2().unwrap();
        for text in ["word ", "日本語の文章、", "слово ", "3,", "ab/", "a\n"] {
            assert!(longest(&gpt2, &text.repeat(1000)) <= 1600, "{text}");
        }
        // One word.
        assert_eq!(longest(&gpt2, &"a".repeat(5000)), 5000);
        for tokenizer in [Tokenizer::bytes(), Tokenizer::world()] {
            assert!(longest(&tokenizer, &"a".repeat(5000)) <= 1600);
        }
    }

    #[test]
    fn the_work_ends_when_it_is_told_to_and_errors_say_where() {
        let text = "word ".repeat(1000);
        for tokenizer in all() {
            let mut asked = 0;
            let stop = |_, _| {
                asked += 1;
                if asked == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            assert_eq!(tokens(&tokenizer, 64, &text, stop).unwrap_err().code(), "ABORTED");
            assert_eq!(asked, 2);
        }
        let characters = Tokenizer::from(Characters::of_text("äb").unwrap());
        let text = format!("{}x", "äb".repeat(500));
        let says = |result: rwkv_core::Result<Vec<u32>>| result.unwrap_err().to_string();
        assert_eq!(says(tokens(&characters, 64, &text, go_on)), says(characters.encode(&text)));
        let bytes = [text.as_bytes(), b"\xff"].concat();
        let gpt2 = Tokenizer::gpt2().unwrap();
        let error = says(gpt2.encode_bytes_in(7, &bytes, Path::new("it"), go_on));
        assert_eq!(error, says(gpt2.encode_bytes(&bytes, Path::new("it"))));
    }
}
