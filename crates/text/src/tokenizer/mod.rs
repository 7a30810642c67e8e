//! Text as tokens and back.
//!
//! A tokenizer is a type behind the trait [`Tokenize`], in a file of its own, and a [`Tokenizer`] is any of
//! them. Each writes itself as a `tokenizer.json`, in the format of Hugging Face's `tokenizers` wherever that can
//! say it, so that Python and transformers.js read the same tokens:
//!
//! | kind | tokens | `tokenizer.json` |
//! |---|---|---|
//! | [`Characters`] | the characters of a text, and bytes for all others | a BPE without merges, with byte fallback |
//! | [`Bytes`] | the 256 bytes | a byte-level BPE without merges |
//! | [`World`] | the 65,536 of the RWKV "World" models | `{"type": "world"}`: greedy matching has no name there |
//! | [`HuggingFace`] | those of any such file; those of GPT-2, of the Pile models (20B), or of a BPE trained on a text | as it was read |
//!
//! Text never stands for a special token: `<|endoftext|>` in a text is thirteen characters, as in tiktoken's
//! `encode_ordinary`, so that no document can end another. The end of a document is
//! [`end_of_text`](Tokenizer::end_of_text).

mod bpe;
mod byte;
mod character;
mod decoder;
mod hugging_face;
mod json;
mod kind;
mod known;
mod long;
mod world;

use std::fmt::Debug;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rwkv_core::{Control, Error, Result, go_on, read_regular, write_atomically};

pub use bpe::WordCounts;
pub use byte::Bytes;
pub use character::{Characters, Unknown};
pub use decoder::Decoder;
pub use hugging_face::HuggingFace;
pub use kind::TokenizerKind;
pub use world::World;

/// How text becomes tokens, and tokens the bytes of text.
pub trait Tokenize: Debug + Send + Sync {
    /// What its tokens are.
    fn kind(&self) -> TokenizerKind;

    /// Number of different tokens: one more than the highest.
    fn n_vocab(&self) -> usize;

    /// Appends the tokens of `text`.
    ///
    /// # Errors
    /// [`Error::UnknownCharacter`] if no token stands for one of its characters.
    fn encode_into(&self, text: &str, out: &mut Vec<u32>) -> Result<()>;

    /// Appends the tokens of bytes that need not be text. `None` if only text has tokens.
    fn encode_bytes_into(&self, _bytes: &[u8], _out: &mut Vec<u32>) -> Option<Result<()>> {
        None
    }

    /// Appends the bytes that `token` stands for. They need not be whole characters.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`].
    fn decode_into(&self, token: u32, out: &mut Vec<u8>) -> Result<()>;

    /// The token that ends a document, if there is one.
    fn end_of_text(&self) -> Option<u32>;

    /// A place at which a text can be cut, near its end: the tokens of what is before it and of what is from
    /// there on are, one after the other, those of the whole, whatever comes after `text`. 0 if none is known.
    fn cut(&self, text: &[u8]) -> usize;

    /// The content of its `tokenizer.json`.
    fn to_json(&self) -> String;

    /// Itself, if it is a vocabulary of characters, the only kind that can lack one.
    fn as_characters(&self) -> Option<&Characters> {
        None
    }
}

/// A tokenizer of any kind. Clones share it.
#[derive(Clone, Debug)]
pub struct Tokenizer(Arc<dyn Tokenize>);

/// Two tokenizers are equal if their files are.
impl PartialEq for Tokenizer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.to_json() == other.to_json()
    }
}

impl Eq for Tokenizer {}

impl<T: Tokenize + 'static> From<T> for Tokenizer {
    fn from(tokenizer: T) -> Self {
        Self(Arc::new(tokenizer))
    }
}

/// Largest `tokenizer.json` that is read. The largest that people use have 35 MB.
const MAX_BYTES: u64 = 1 << 28;

impl Tokenizer {
    /// The 256 bytes.
    pub fn bytes() -> Self {
        Bytes.into()
    }

    /// The distinct characters of `text` in the order of their code points, as nanoGPT numbers them, and no
    /// others; see [`Characters`] for bytes.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if the text is empty.
    pub fn characters_of(text: &str) -> Result<Self> {
        Ok(Characters::of_text(text)?.into())
    }

    /// The vocabulary of the RWKV "World" models.
    pub fn world() -> Self {
        World::get().into()
    }

    /// The vocabulary of GPT-2: 50,257 tokens.
    ///
    /// # Errors
    /// None but those of a damaged program.
    pub fn gpt2() -> Result<Self> {
        Ok(known::gpt2()?.into())
    }

    /// The vocabulary of the RWKV-4 models that were trained on the Pile, which is GPT-NeoX-20B's: 50,277 tokens.
    ///
    /// # Errors
    /// As [`gpt2`](Self::gpt2).
    pub fn pile() -> Result<Self> {
        Ok(known::pile()?.into())
    }

    /// The tokenizer of a kind, if there is only one; none if it is made of a text.
    ///
    /// # Errors
    /// As [`gpt2`](Self::gpt2).
    pub fn of_kind(kind: TokenizerKind) -> Result<Option<Self>> {
        match kind {
            TokenizerKind::Character | TokenizerKind::Bpe => Ok(None),
            TokenizerKind::Byte => Ok(Some(Self::bytes())),
            TokenizerKind::Gpt2 => Self::gpt2().map(Some),
            TokenizerKind::Pile => Self::pile().map(Some),
            TokenizerKind::World => Ok(Some(Self::world())),
        }
    }

    /// The tokenizer that a model of `n_vocab` tokens has if no `tokenizer.json` is beside it: bytes for 256,
    /// World for 65,536, the Pile's for 50,277.
    ///
    /// # Errors
    /// As [`gpt2`](Self::gpt2).
    pub fn for_vocabulary(n_vocab: usize) -> Result<Option<Self>> {
        match n_vocab {
            256 => Ok(Some(Self::bytes())),
            World::N_VOCAB => Ok(Some(Self::world())),
            known::PILE_N_VOCAB => Self::pile().map(Some),
            _ => Ok(None),
        }
    }

    /// What its tokens are.
    pub fn kind(&self) -> TokenizerKind {
        self.0.kind()
    }

    /// Number of different tokens.
    pub fn n_vocab(&self) -> usize {
        self.0.n_vocab()
    }

    /// The token that ends a document, if there is one. Between documents of bytes it is byte 0.
    pub fn end_of_text(&self) -> Option<u32> {
        self.0.end_of_text()
    }

    /// The tokens of `text`.
    ///
    /// # Errors
    /// [`Error::UnknownCharacter`] if the vocabulary lacks one and has no bytes to write it in.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = Vec::with_capacity(text.len() / 2);
        self.0.encode_into(text, &mut tokens)?;
        Ok(tokens)
    }

    /// Appends the tokens of `text`.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_into(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        self.0.encode_into(text, out)
    }

    /// The tokens of `text`, as [`encode`](Self::encode) gives them, in work that can be stopped: `control` is told
    /// bytes and asked after pieces of 64 KiB, or up to 1 MiB where that takes few ms, or at the next place behind
    /// them at which the text can be [cut](Self::cut).
    ///
    /// Bytes, characters and World can cut any text. The byte-pair vocabularies of GPT-2 and of those after it need
    /// a blank, a punctuation mark or the end of a line somewhere. Within a single word the work cannot be stopped:
    /// with GPT-2's vocabulary one letter 1 MB long takes 0.1 s, and 33 MB long 4 s. Other files of Hugging Face's, such
    /// as those of SentencePiece, have no place that is known, so that with them only the whole text is a piece.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), and [`Error::Aborted`] if `control` says so.
    pub fn encode_with(&self, text: &str, control: impl Control) -> Result<Vec<u32>> {
        let mut tokens = Vec::with_capacity(text.len() / 2);
        self.encode_into_with(text, control, &mut tokens)?;
        Ok(tokens)
    }

    /// Appends the tokens of `text`, as [`encode_with`](Self::encode_with).
    pub(crate) fn encode_into_with(
        &self,
        text: &str,
        control: impl Control,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        self.encode_text_in(long::PIECE, text, control, out)
    }

    fn encode_text_in(
        &self,
        piece: usize,
        text: &str,
        control: impl Control,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let text_of = |range: Range<usize>| {
            // Only a vocabulary of bytes cuts within a character, and that does not get here.
            let error = || Error::InvalidUtf8 { path: "text".into(), offset: range.start };
            text.get(range.clone()).ok_or_else(error)
        };
        self.encode_in(piece, text.as_bytes(), control, text_of, out)
    }

    /// The tokens of bytes read from the file `source`.
    ///
    /// # Errors
    /// [`Error::InvalidUtf8`] if only text has tokens and they are none, and as [`encode`](Self::encode).
    pub fn encode_bytes(&self, bytes: &[u8], source: &Path) -> Result<Vec<u32>> {
        self.encode_bytes_in(usize::MAX, bytes, source, go_on)
    }

    /// The tokens of bytes read from the file `source`, in work that can be stopped as in
    /// [`encode_with`](Self::encode_with).
    ///
    /// # Errors
    /// As [`encode_bytes`](Self::encode_bytes), and [`Error::Aborted`] if `control` says so.
    pub fn encode_bytes_with(&self, bytes: &[u8], source: &Path, control: impl Control) -> Result<Vec<u32>> {
        self.encode_bytes_in(long::PIECE, bytes, source, control)
    }

    fn encode_bytes_in(
        &self,
        piece: usize,
        bytes: &[u8],
        source: &Path,
        control: impl Control,
    ) -> Result<Vec<u32>> {
        let text_of = |range: Range<usize>| {
            std::str::from_utf8(&bytes[range.clone()]).map_err(|error| Error::InvalidUtf8 {
                path: source.to_owned(),
                offset: range.start + error.valid_up_to(),
            })
        };
        let mut tokens = Vec::with_capacity(bytes.len() / 2);
        self.encode_in(piece, bytes, control, text_of, &mut tokens)?;
        Ok(tokens)
    }

    /// `text_of` makes text of a part of `bytes`, for tokenizers that take nothing else.
    fn encode_in<'a>(
        &self,
        piece: usize,
        bytes: &[u8],
        control: impl Control,
        text_of: impl Fn(Range<usize>) -> Result<&'a str>,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let encode = |range: Range<usize>| {
            if let Some(done) = self.0.encode_bytes_into(&bytes[range.clone()], out) {
                return done;
            }
            self.0.encode_into(text_of(range.clone())?, out).map_err(|error| match error {
                Error::UnknownCharacter { character, position, n_vocab, place } => {
                    // Counted only now: there is one such error at most.
                    let before = text_of(0..range.start).map_or(0, |text| text.chars().count());
                    Error::UnknownCharacter { character, position: before + position, n_vocab, place }
                }
                error => error,
            })
        };
        long::in_pieces(bytes, piece, |text| self.cut(text), control, encode)
    }

    /// Whether bytes that are no text have tokens too.
    pub fn takes_bytes(&self) -> bool {
        self.0.encode_bytes_into(&[], &mut Vec::new()).is_some()
    }

    /// The bytes that `tokens` stand for. They need not be whole characters: [`Decoder`] makes text of a
    /// stream of them.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`].
    pub fn decode(&self, tokens: &[u32]) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(4 * tokens.len());
        tokens.iter().try_for_each(|&token| self.0.decode_into(token, &mut bytes))?;
        Ok(bytes)
    }

    /// A place at which a text can be cut, near its end; see [`Tokenize::cut`].
    pub fn cut(&self, text: &[u8]) -> usize {
        self.0.cut(text)
    }

    /// Its vocabulary of characters, if it is one.
    pub fn as_characters(&self) -> Option<&Characters> {
        self.0.as_characters()
    }

    /// What stands before the first token of a text that has no beginning of its own: the end of another
    /// document, or else a line break, or else the first token.
    pub fn beginning(&self) -> Vec<u32> {
        match self.end_of_text() {
            // A zero byte is no text that anybody wants to see.
            Some(end) if self.kind() != TokenizerKind::Byte => vec![end],
            // A line break that the text does not have is no beginning of it, even if it can be written in bytes.
            _ if self.as_characters().is_some_and(|characters| !characters.contains('\n')) => vec![0],
            _ => self.encode("\n").ok().filter(|tokens| !tokens.is_empty()).unwrap_or_else(|| vec![0]),
        }
    }

    /// Writes `tokenizer.json`, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write_atomically(path.as_ref(), |w| w.write_all(self.to_json().as_bytes()))
    }

    /// The content of its `tokenizer.json`.
    pub fn to_json(&self) -> String {
        self.0.to_json()
    }

    /// Reads a `tokenizer.json`, or that of a directory.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Tokenizer`] if it is damaged or of an unknown kind.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let path = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        let bytes = read_regular(&path, MAX_BYTES)?;
        let fault = |problem: String| Error::Tokenizer { path: path.clone(), problem };
        let text = String::from_utf8(bytes)
            .map_err(|error| fault(format!("byte {} is not UTF-8", error.utf8_error().valid_up_to())))?;
        json::read(text).map_err(fault)
    }

    /// The same, with what characters become that the vocabulary lacks, if it can lack any. Left out, they are
    /// written in bytes if the vocabulary has those, and else an error.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if they are to be written in bytes, and the vocabulary has none.
    pub fn with_unknown(&self, unknown: Option<Unknown>) -> Result<Self> {
        character::with_unknown(self, unknown)
    }
}
