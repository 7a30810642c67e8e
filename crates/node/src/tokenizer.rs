//! Texts as tokens.

use std::path::PathBuf;
use std::sync::Arc;

use napi::bindgen_prelude::{AsyncTask, Buffer, Uint32Array};
use napi_derive::napi;
use rwkv_core::Tokenizer;

use crate::failure::{Failure, Thrown};
use crate::job::Job;

/// Characters or bytes as tokens.
#[napi]
pub struct NativeTokenizer(pub(crate) Arc<Tokenizer>);

#[napi]
impl NativeTokenizer {
    /// The 256 bytes.
    #[napi(factory)]
    pub fn byte() -> Self {
        Self(Arc::new(Tokenizer::Byte))
    }

    /// The distinct characters of a text.
    #[napi(factory)]
    pub fn characters_of(text: String) -> Result<Self, Thrown> {
        Ok(Self(Arc::new(Tokenizer::characters_of(&text).map_err(Failure::from)?)))
    }

    /// Reads a `tokenizer.json`.
    #[napi(ts_return_type = "Promise<NativeTokenizer>")]
    pub fn load(path: String) -> AsyncTask<Job<NativeTokenizer>> {
        Job::run(move || Ok(Self(Arc::new(Tokenizer::load(path)?))))
    }

    /// "character" or "byte".
    #[napi(getter)]
    pub fn kind(&self) -> &'static str {
        Self::kind_of(&self.0)
    }

    fn kind_of(tokenizer: &Tokenizer) -> &'static str {
        match tokenizer {
            Tokenizer::Character(_) => "character",
            Tokenizer::Byte => "byte",
        }
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
    pub fn save(&self, path: String) -> AsyncTask<Job<()>> {
        let tokenizer = Arc::clone(&self.0);
        Job::run(move || Ok(tokenizer.save(PathBuf::from(path))?))
    }
}
