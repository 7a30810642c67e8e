//! Documents that are held in memory, for what is learned or measured without being prepared first.

use std::path::{Path, PathBuf};

use rwkv_core::machine::{self, Bytes};
use rwkv_core::{Control, Error, Result, ask, go_on, read_text};

use crate::Tokenizer;
use crate::source::{Input, Invalid, Kind, Position, SourceOptions, Sources};

/// Documents take one part in so many of the memory: as tokens they take four times as much again.
const PART_OF_MEMORY: f64 = 8.0;

/// A document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its bytes: text, unless the tokenizer is to take anything.
    pub text: Vec<u8>,
    /// The file that it is from.
    pub file: PathBuf,
    /// Its line of JSON Lines, or its row of Parquet, in words; none if it is the whole file.
    place: Option<String>,
}

impl Document {
    /// Appends its tokens.
    ///
    /// # Errors
    /// [`Error::InvalidUtf8`] if only text has tokens and it is none; [`Error::UnknownCharacter`], with its place in
    /// the file.
    pub fn encode_into(&self, tokenizer: &Tokenizer, out: &mut Vec<u32>) -> Result<()> {
        out.extend(self.encode_with(tokenizer, go_on)?);
        Ok(())
    }

    /// Its tokens; `control` is told bytes.
    fn encode_with(&self, tokenizer: &Tokenizer, control: impl Control) -> Result<Vec<u32>> {
        tokenizer.encode_bytes_with(&self.text, &self.file, control).map_err(|error| match error {
            Error::UnknownCharacter { character, position, n_vocab, .. } => {
                Error::UnknownCharacter { character, position, n_vocab, place: Some(self.place_of(position)) }
            }
            error => error,
        })
    }

    /// Where the character number `position` is, for people.
    fn place_of(&self, position: usize) -> String {
        let file = self.file.display();
        if let Some(place) = &self.place {
            return format!("{file}, {place}, character {} of the text", position + 1);
        }
        let text = String::from_utf8_lossy(&self.text);
        let (mut line, mut column) = (1, 1);
        for character in text.chars().take(position) {
            (line, column) = if character == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        format!("{file}, line {line}, column {column}")
    }
}

/// Reads all documents of some inputs, as [`Sources::find`] finds them, into memory. `checksum` is given all of them,
/// with where they end.
///
/// A single file of text, and a single text in memory, is read as it is, a byte order mark included; the file may be
/// a pipe. Unless invalid UTF-8 is
/// to be replaced, bytes that are no text stay as they are if `takes_bytes`, and else are an error here or when the
/// document is encoded.
///
/// # Errors
/// Those of [`Sources::find`] and of reading; [`Error::Data`] for more than an eighth of the memory;
/// [`Error::Aborted`] if `control` says so, which is told bytes of the files.
pub fn read_documents(
    inputs: &[Input],
    options: &SourceOptions,
    takes_bytes: bool,
    mut checksum: impl FnMut(&[u8]),
    mut control: impl Control,
) -> Result<Vec<Document>> {
    let limit = machine::limit();
    let most = (limit.bytes / PART_OF_MEMORY) as usize;
    let too_much = |path: &Path| {
        let problem = format!(
            "here there are more than {} of text, an eighth of the {limit} that there are; rwkv prepare makes a \
             file of tokens of it, which takes no memory",
            Bytes(most as f64)
        );
        Error::Data { path: path.to_owned(), problem }
    };
    let whole = match inputs {
        [Input::Path(path)] if is_plain_text(path) => Some(read_text(path, &mut control)?),
        [input @ Input::Text(text)] if text.as_ref().len() > most => return Err(too_much(input.name())),
        [Input::Text(text)] => Some(text.as_ref().to_vec()),
        _ => None,
    };
    if let (Some(mut text), [input]) = (whole, inputs) {
        checksum(&text);
        if options.invalid == Invalid::Replace {
            text = String::from_utf8_lossy(&text).into_owned().into_bytes();
        }
        return Ok(vec![Document { text, file: input.name().to_owned(), place: None }]);
    }
    let keeps = takes_bytes && options.invalid == Invalid::Error;
    let options =
        SourceOptions { invalid: if keeps { Invalid::Keep } else { options.invalid }, ..options.clone() };
    inputs.iter().try_for_each(check_utf8)?;
    let sources = Sources::of_inputs(inputs, &options)?;
    let total = sources.total_bytes().unwrap_or(0);
    let (mut documents, mut text, mut len) = (Vec::new(), Vec::new(), 0);
    let (mut pieces, mut done) = (sources.pieces(Position::default()), 0);
    loop {
        let piece = pieces.next_with(&mut || control(done, total)).transpose()?;
        let Some(piece) = piece else { break };
        done = piece.bytes_read.min(total);
        ask(&mut control, done, total)?;
        let source = &sources.files()[piece.at.file];
        len += piece.text.len();
        if len > most {
            return Err(too_much(&source.path));
        }
        checksum(&piece.text);
        text.extend_from_slice(&piece.text);
        if piece.is_last {
            // Where a document ends belongs to what was read.
            checksum(&(text.len() as u64).to_le_bytes());
            let place = match source.kind {
                Kind::Text => None,
                Kind::JsonLines => Some(format!("line {}", piece.at.document + 1)),
                Kind::Parquet => Some(format!("row {}", piece.at.document + 1)),
            };
            documents.push(Document { text: std::mem::take(&mut text), file: source.path.clone(), place });
        }
    }
    Ok(documents)
}

/// The tokens of some documents; if there are several in all, each ends with the tokenizer's end of text.
///
/// # Errors
/// As [`Document::encode_into`].
pub fn tokens_of<'a>(
    documents: impl IntoIterator<Item = &'a Document>,
    are_several: bool,
    tokenizer: &Tokenizer,
) -> Result<Vec<u32>> {
    tokens_with(documents, are_several, tokenizer, go_on)
}

/// As [`tokens_of`], in work that can be stopped: `control` is told bytes of the documents, and asked as
/// [`Tokenizer::encode_with`] asks.
///
/// # Errors
/// As [`tokens_of`], and [`Error::Aborted`] if `control` says so.
pub fn tokens_with<'a>(
    documents: impl IntoIterator<Item = &'a Document>,
    are_several: bool,
    tokenizer: &Tokenizer,
    mut control: impl Control,
) -> Result<Vec<u32>> {
    let documents: Vec<&Document> = documents.into_iter().collect();
    let total = documents.iter().map(|document| document.text.len() as u64).sum();
    let (mut tokens, mut before) = (Vec::new(), 0);
    for document in documents {
        let new = document.encode_with(tokenizer, |done, _| control(before + done, total))?;
        if tokens.is_empty() {
            tokens = new;
        } else {
            tokens.extend(new);
        }
        if are_several {
            tokens.extend(tokenizer.end_of_text());
        }
        before += document.text.len() as u64;
    }
    Ok(tokens)
}

/// Whether an input is a text and nothing that is read document by document.
fn is_plain_text(path: &Path) -> bool {
    let Ok(there) = std::fs::metadata(path) else { return false };
    // Whatever else it is, it is read or refused by name as a text.
    if there.is_dir() {
        return false;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let of_documents = [".jsonl", ".ndjson", ".parquet", ".gz", ".zst"];
    !of_documents.iter().any(|ending| name.ends_with(ending))
}

fn check_utf8(input: &Input) -> Result<()> {
    match input.path() {
        Some(path) if path.to_str().is_none() => Err(Error::option("data", path.display(), "UTF-8")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::Characters;

    fn read(files: &[(&str, &[u8])], options: &SourceOptions, takes_bytes: bool) -> Result<Vec<Document>> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut paths = Vec::new();
        for (name, content) in files {
            paths.push(folder.path().join(name));
            std::fs::write(&paths[paths.len() - 1], content).expect("a file");
        }
        let inputs: Vec<Input> = paths.into_iter().map(Input::from).collect();
        read_documents(&inputs, options, takes_bytes, |_| (), go_on)
    }

    #[test]
    fn an_unknown_character_is_named_with_its_place() {
        let tokenizer = Tokenizer::from(Characters::of_text("ab\n").expect("characters"));
        let says = |files: &[(&str, &[u8])]| {
            let documents = read(files, &SourceOptions::default(), false).expect("documents");
            tokens_of(&documents, documents.len() > 1, &tokenizer).expect_err("unknown").to_string()
        };
        let text = says(&[("book.txt", "ab\nbé".as_bytes())]);
        assert!(
            text.contains("book.txt, line 2, column 2: character 'é' (U+00E9) is not among the 3"),
            "{text}"
        );
        assert!(text.contains("unknown \"skip\""), "{text}");
        let lines = says(&[("a.jsonl", b"{\"text\":\"ab\"}\n\n{\"text\":\"bax\"}\n")]);
        assert!(lines.contains("a.jsonl, line 3, character 3 of the text: character 'x'"), "{lines}");
    }

    #[test]
    fn making_tokens_of_documents_is_watched_and_can_be_stopped() {
        making_tokens_is_watched(&Tokenizer::gpt2().expect("GPT-2's"), 50_256);
        making_tokens_is_watched(&Tokenizer::world(), 0);
    }

    /// `end` stands after each document.
    fn making_tokens_is_watched(tokenizer: &Tokenizer, end: u32) {
        let files: [(&str, &[u8]); 2] = [("a.txt", b"one two"), ("b.txt", b"three")];
        let documents = read(&files, &SourceOptions::default(), false).expect("documents");
        let mut seen = Vec::new();
        let tokens = tokens_with(&documents, true, tokenizer, |done, total| {
            seen.push((done, total));
            ControlFlow::Continue(())
        });
        let encode = |text| tokenizer.encode(text).expect("tokens");
        assert_eq!(
            tokens.expect("tokens"),
            [encode("one two"), vec![end], encode("three"), vec![end]].concat()
        );
        assert_eq!(seen, [(0, 12), (7, 12), (7, 12), (12, 12)]);
        let stop = |done, _| if done > 7 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let error = tokens_with(&documents, true, tokenizer, stop).expect_err("stopped");
        assert_eq!(error.code(), "ABORTED");
    }

    #[test]
    fn a_text_in_memory_is_what_a_file_of_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let other = folder.path().join("b.jsonl");
        std::fs::write(&other, "{\"text\":\"two\"}\n{\"text\":\"three\"}\n").expect("a file");
        let long = "one \u{e9}".repeat(400_000);
        for (text, invalid) in [
            (&b"one"[..], Invalid::Error),
            (b"", Invalid::Error),
            (b"\xef\xbb\xbfmarked", Invalid::Error),
            (b"a\xffb", Invalid::Replace),
            (long.as_bytes(), Invalid::Error),
        ] {
            let file = folder.path().join("a.txt");
            std::fs::write(&file, text).expect("a file");
            let options = SourceOptions { invalid, ..SourceOptions::default() };
            for others in [&[][..], &[Input::from(&other)]] {
                let read = |first: Input| {
                    let (mut seen, inputs) = (Vec::new(), [&[first], others].concat());
                    let sum = |bytes: &[u8]| seen.extend_from_slice(bytes);
                    let documents = read_documents(&inputs, &options, false, sum, go_on).expect("documents");
                    let texts: Vec<_> = documents.into_iter().map(|document| document.text).collect();
                    (texts, seen)
                };
                assert!(read(Input::text(text)) == read(Input::from(&file)), "{}", text.len());
            }
        }
        let read = |inputs: &[Input]| read_documents(inputs, &SourceOptions::default(), false, |_| (), go_on);
        let error = read(&[Input::text("a"), Input::text(b"b\xff")]).expect_err("no text").to_string();
        assert!(error.contains("the text: byte 1 is not UTF-8"), "{error}");
        let tokenizer = Tokenizer::from(Characters::of_text("ab\n").expect("characters"));
        let documents = read(&[Input::text("ab\nbx")]).expect("a document");
        let error = tokens_of(&documents, false, &tokenizer).expect_err("unknown").to_string();
        assert!(error.contains("the text, line 2, column 2: character 'x'"), "{error}");
    }

    #[test]
    fn invalid_text_stays_for_bytes_and_can_be_replaced() {
        let replace = SourceOptions { invalid: Invalid::Replace, ..SourceOptions::default() };
        for files in [&[("a.txt", &b"a\xffb"[..])][..], &[("a.txt", b"a\xffb"), ("b.txt", b"c")]] {
            let kept = read(files, &SourceOptions::default(), true).expect("documents");
            assert_eq!(kept[0].text, b"a\xffb");
            for takes_bytes in [false, true] {
                let replaced = read(files, &replace, takes_bytes).expect("documents");
                assert_eq!(replaced[0].text, "a\u{fffd}b".as_bytes());
            }
            let tokens = read(files, &SourceOptions::default(), false)
                .and_then(|documents| tokens_of(&documents, false, &Tokenizer::gpt2()?));
            let error = tokens.expect_err("no text").to_string();
            assert!(error.contains("a.txt") && error.contains("byte 1"), "{error}");
        }
    }
}
