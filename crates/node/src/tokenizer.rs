//! Texts as tokens.

use std::path::PathBuf;

use napi::Either;
use napi::bindgen_prelude::{Buffer, Uint8Array, Uint32Array};
use napi_derive::napi;
use rwkv_text::prepare::{Progress, train_bpe};
use rwkv_text::source::{SourceOptions, Sources};
use rwkv_text::{Tokenizer, TokenizerKind, Unknown};

use crate::control::Cancel;
use crate::failure::{Failure, Thrown};
use crate::job::Job;
use crate::number::count;
use crate::texts::{Texts, inputs_of};

/// Text as tokens.
#[napi]
pub struct NativeTokenizer(pub(crate) Tokenizer);

#[napi]
impl NativeTokenizer {
    /// The 256 bytes.
    #[napi(factory)]
    pub fn byte() -> Self {
        Self(Tokenizer::bytes())
    }

    /// The distinct characters of a text.
    #[napi(factory)]
    pub fn characters_of(text: String) -> Result<Self, Thrown> {
        Ok(Self(Tokenizer::characters_of(&text).map_err(Failure::from)?))
    }

    /// Reads a `tokenizer.json`.
    #[napi(ts_return_type = "Promise<NativeTokenizer>")]
    pub fn load(path: String) -> Job<NativeTokenizer> {
        Job::run(move || Ok(Self(Tokenizer::load(path)?)))
    }

    /// A BPE that is trained on texts.
    #[napi(ts_return_type = "Promise<NativeTokenizer>")]
    pub fn train(
        inputs: Vec<Either<String, Uint8Array>>,
        vocab_size: f64,
        texts: Texts,
        threads: Option<f64>,
        cancel: &Cancel,
    ) -> Job<NativeTokenizer> {
        let inputs = inputs_of(inputs);
        let flag = cancel.flag();
        let cancel = flag.clone();
        Job::stoppable(&flag, move || {
            cancel.check()?;
            let vocab_size = count("vocabSize", Some(vocab_size))?.unwrap_or_default();
            let sources = Sources::of_inputs(&inputs, &SourceOptions::from(texts))?;
            let mut control = cancel.control();
            let threads = count("threads", threads)?.unwrap_or(0);
            let trained = train_bpe(&sources, vocab_size, threads, |Progress { done, total, .. }| {
                control(done, total.max(done))
            });
            Ok(Self(trained?))
        })
    }

    /// The tokenizer of a model of `nVocab` tokens, if that tells; of those that are always the same.
    #[napi(ts_return_type = "Promise<NativeTokenizer | null>")]
    pub fn for_vocabulary(n_vocab: u32) -> Job<Option<NativeTokenizer>> {
        Job::run(move || Ok(Tokenizer::for_vocabulary(n_vocab as usize)?.map(Self)))
    }

    /// The tokenizer of a kind that is always the same: "byte", "gpt2", "20b", "world".
    #[napi(ts_return_type = "Promise<NativeTokenizer>")]
    pub fn named(kind: String) -> Job<NativeTokenizer> {
        Job::run(move || {
            let found = TokenizerKind::of_word(&kind).map(Tokenizer::of_kind).transpose()?.flatten();
            let refused = || rwkv_core::Error::option("kind", kind, "byte or gpt2 or 20b or world");
            Ok(Self(found.ok_or_else(refused)?))
        })
    }

    /// Its kind, in a word.
    #[napi(getter)]
    pub fn kind(&self) -> &'static str {
        self.0.kind().word()
    }

    /// What one of its tokens is called: "character", "byte" or "token".
    #[napi(getter)]
    pub fn unit(&self) -> &'static str {
        self.0.kind().unit()
    }

    /// The token that ends a document, if there is one.
    #[napi(getter)]
    pub fn end_of_text(&self) -> Option<u32> {
        self.0.end_of_text()
    }

    /// The same, with what characters become that the vocabulary lacks: "error", "skip", "byte".
    #[napi]
    pub fn with_unknown(&self, unknown: Option<String>) -> Result<Self, Thrown> {
        let unknown = unknown.as_deref().map(|word| Unknown::of_word(word).unwrap_or_default());
        Ok(Self(self.0.with_unknown(unknown).map_err(Failure::from)?))
    }

    /// What a text without a beginning begins with.
    #[napi]
    pub fn beginning(&self) -> Uint32Array {
        Uint32Array::new(self.0.beginning())
    }

    /// Number of different tokens.
    #[napi(getter)]
    pub fn n_vocab(&self) -> u32 {
        self.0.n_vocab() as u32
    }

    /// The tokens of a text.
    #[napi]
    pub fn encode(&self, text: String) -> Result<Uint32Array, Thrown> {
        Ok(Uint32Array::new(self.0.encode(&text).map_err(Failure::from)?))
    }

    /// The bytes that tokens stand for.
    #[napi]
    pub fn decode(&self, tokens: &[u32]) -> Result<Buffer, Thrown> {
        Ok(self.0.decode(tokens).map_err(Failure::from)?.into())
    }

    /// Writes a `tokenizer.json`, whole or not at all.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn save(&self, path: String) -> Job<()> {
        let tokenizer = self.0.clone();
        Job::run(move || Ok(tokenizer.save(PathBuf::from(path))?))
    }
}
