//! One text: a state that tokens move forward, and the writing of new ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use napi::bindgen_prelude::{AsyncTask, Float32Array};
use napi_derive::napi;
use rwkv_core::{Model, Sampler, SamplerOptions, State};
use rwkv_text::{Decoder, Tokenizer};

use crate::control::Cancel;
use crate::environment::Close;
use crate::failure::{Failure, Result, Thrown};
use crate::job::Job;
use crate::model::NativeModel;
use crate::number::{count, whole};
use crate::slot::{SharedSlot, Slot};
use crate::state::NativeState;
use crate::tokenizer::NativeTokenizer;

/// Tokens between two looks at the cancel flag.
const STRETCH: usize = 512;

/// A small model writes a token in less time than it takes to come here from JavaScript: pieces are as long
/// as a reader's eye does not notice.
const PIECE: Duration = Duration::from_millis(8);

/// A text so far.
struct Text {
    state: State,
    /// What may come next (n_vocab); none before the first token, and after the state was replaced.
    logits: Option<Vec<f32>>,
}

/// A session.
#[napi]
pub struct NativeSession {
    model: Arc<SharedSlot<Model>>,
    text: Arc<Slot<Text>>,
}

#[napi]
impl NativeModel {
    /// A session at the start of a text.
    #[napi]
    pub fn create_session(&self) -> std::result::Result<NativeSession, Thrown> {
        let text = Text { state: self.handle.get()?.new_state(), logits: None };
        Ok(NativeSession { model: Arc::clone(&self.handle), text: Slot::new("session", text) })
    }
}

#[napi]
impl NativeSession {
    /// Reads tokens; the logits of what may come next. If it fails or is stopped, the text is as it was.
    #[napi(ts_return_type = "Promise<Float32Array>")]
    pub fn eval(
        &self,
        tokens: &[u32],
        cancel: &Cancel,
    ) -> std::result::Result<AsyncTask<Job<Float32Array>>, Thrown> {
        let (handle, cancel, tokens) = (Arc::clone(&self.model), cancel.flag(), tokens.to_vec());
        let model = handle.get()?;
        let mut text = self.text.claim(&cancel)?;
        Ok(Job::run(move || {
            let mut state = text.state.clone();
            let mut logits = Vec::new();
            // At least one stretch: no tokens at all are for the model to refuse.
            let count = tokens.len().div_ceil(STRETCH).max(1);
            for index in 0..count {
                handle.go_on(&cancel)?;
                let stretch = &tokens[index * STRETCH..tokens.len().min((index + 1) * STRETCH)];
                logits = model.eval(stretch, &mut state)?;
            }
            *text = Text { state, logits: Some(logits.clone()) };
            Ok(Float32Array::new(logits))
        }))
    }

    /// The state after the text so far.
    #[napi(getter)]
    pub fn state(&self) -> std::result::Result<NativeState, Thrown> {
        self.model.get()?;
        Ok(NativeState(Arc::new(self.text.with(|text| text.state.clone())?)))
    }

    /// Goes on from `state`, which is of the same model.
    #[napi]
    pub fn restore(&self, state: &NativeState) -> std::result::Result<(), Thrown> {
        let model = self.model.get()?;
        model.check_state(&state.0).map_err(Failure::from)?;
        let text = Text { state: State::clone(&state.0), logits: None };
        Ok(self.text.with(|now| *now = text)?)
    }

    /// Begins to write; nothing is written yet.
    #[napi]
    pub fn writer(
        &self,
        tokenizer: &NativeTokenizer,
        sampling: Sampling,
    ) -> std::result::Result<NativeWriter, Thrown> {
        let sampler = Sampler::new(sampling.options()?).map_err(Failure::from)?;
        let pen = Pen { sampler, decoder: Decoder::default(), tokenizer: tokenizer.0.clone() };
        Ok(NativeWriter {
            model: Arc::clone(&self.model),
            text: Arc::clone(&self.text),
            pen: Slot::new("writer", pen),
        })
    }

    /// Frees the state; a call under way ends first.
    #[napi]
    pub fn close(&self) {
        self.text.close();
    }
}

/// How the next token is chosen.
#[napi(object)]
pub struct Sampling {
    /// 0 always takes the likeliest token.
    pub temperature: Option<f64>,
    /// Candidates at most.
    pub top_k: Option<f64>,
    /// Probability of all candidates together.
    pub top_p: Option<f64>,
    /// Start of the random numbers.
    pub seed: Option<f64>,
}

impl Sampling {
    pub(crate) fn options(&self) -> Result<SamplerOptions> {
        let default = SamplerOptions::default();
        Ok(SamplerOptions {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: count("topK", self.top_k)?,
            top_p: self.top_p.unwrap_or(default.top_p),
            seed: whole("seed", self.seed)?.unwrap_or(default.seed),
            ..default
        })
    }
}

/// Whole characters, and the number of tokens that were written for them.
#[napi(object)]
pub struct Piece {
    /// May be empty: a character can take several tokens.
    pub text: String,
    /// At least one.
    pub tokens: u32,
}

struct Pen {
    sampler: Sampler,
    decoder: Decoder,
    tokenizer: Tokenizer,
}

/// Writes on in a session's text.
#[napi]
pub struct NativeWriter {
    model: Arc<SharedSlot<Model>>,
    text: Arc<Slot<Text>>,
    pen: Arc<Slot<Pen>>,
}

#[napi]
impl NativeWriter {
    /// Writes a few tokens, `limit` at most. If it is stopped, what is written by then is the piece.
    #[napi(ts_return_type = "Promise<Piece>")]
    pub fn write(&self, limit: f64, cancel: &Cancel) -> std::result::Result<AsyncTask<Job<Piece>>, Thrown> {
        let limit = count("maxTokens", Some(limit))?.unwrap_or_default();
        let (handle, cancel) = (Arc::clone(&self.model), cancel.flag());
        let model = handle.get()?;
        let mut text = self.text.claim(&cancel)?;
        let mut pen = self.pen.claim(&cancel)?;
        Ok(Job::run(move || {
            handle.go_on(&cancel)?;
            let Text { state, logits: Some(logits) } = &mut *text else {
                return Err(rwkv_core::Error::option(
                    "prompt",
                    "empty",
                    "at least one token for a text that has none",
                )
                .into());
            };
            let mut piece = Piece { text: String::new(), tokens: 0 };
            let start = Instant::now();
            while (piece.tokens as usize) < limit {
                let token = pen.sampler.sample(logits);
                *logits = model.eval(&[token], state)?;
                let bytes = pen.tokenizer.decode(&[token])?;
                piece.text += &pen.decoder.push(&bytes);
                piece.tokens += 1;
                if start.elapsed() >= PIECE || handle.go_on(&cancel).is_err() {
                    break;
                }
            }
            Ok(piece)
        }))
    }

    /// Ends the writing: what is left of a character that was not finished, as U+FFFD.
    #[napi]
    pub fn finish(&self) -> std::result::Result<String, Thrown> {
        let rest = self.pen.with(|pen| pen.decoder.finish())?;
        self.pen.close();
        Ok(rest)
    }
}
