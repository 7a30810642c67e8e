//! One text: tokens that it reads, and the writing of new ones.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use napi::bindgen_prelude::{Float32Array, Float64Array, Uint32Array};
use napi_derive::napi;
use rwkv_core::schedule::Scheduler;
use rwkv_core::{LogProbabilities, SamplerOptions};
use rwkv_session::{End, GenerateOptions, Generation, Piece, Session, Taker};

use crate::control::{Cancel, Flag};
use crate::environment::{self, Close, Open};
use crate::failure::{Failure, Result, Thrown};
use crate::job::{Job, Settle};
use crate::model::NativeModel;
use crate::number::count;
use crate::state::NativeState;
use crate::tokenizer::NativeTokenizer;

/// A prompt of at most so many bytes becomes tokens at once, on JavaScript's thread: in less time than another one
/// takes to wake up.
const SHORT: usize = 2048;

/// A session.
#[napi]
pub struct NativeSession(Arc<Holder>);

/// Holds a session until it is closed.
struct Holder {
    session: Mutex<Option<Arc<Session>>>,
    /// What it writes, or has written.
    writings: Mutex<Open>,
}

impl Holder {
    fn get(&self) -> Result<Arc<Session>> {
        lock(&self.session).clone().ok_or_else(|| Failure::closed("session"))
    }
}

impl Close for Holder {
    fn close(&self) {
        // Without the lock: whoever waits is told.
        let session = lock(&self.session).take();
        if let Some(session) = session {
            session.abort();
        }
        // They hold the model too.
        std::mem::take(&mut *lock(&self.writings)).close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in it is replaced whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[napi]
impl NativeModel {
    /// A session at the start of a text. Without a tokenizer it is given tokens only.
    #[napi]
    pub fn create_session(
        &self,
        tokenizer: Option<&NativeTokenizer>,
    ) -> std::result::Result<NativeSession, Thrown> {
        let model = self.handle.get()?;
        environment::keep(Scheduler::of(model.cpu()).map_err(Failure::from)?);
        let session = Session::new(&model, tokenizer.map(|tokenizer| &tokenizer.0)).map_err(Failure::from)?;
        let holder =
            Arc::new(Holder { session: Mutex::new(Some(Arc::new(session))), writings: Mutex::default() });
        self.sessions.borrow_mut().add(&holder);
        environment::watch(&holder);
        Ok(NativeSession(holder))
    }
}

#[napi]
impl NativeSession {
    /// Reads tokens; the logits of what may come next. If it fails or is stopped, the text is as it was.
    #[napi(ts_return_type = "Promise<Float32Array>")]
    pub fn eval(&self, tokens: &[u32], cancel: &Cancel) -> std::result::Result<Job<Float32Array>, Thrown> {
        let (session, flag, tokens) = (self.0.get()?, cancel.flag(), tokens.to_vec());
        Ok(Job::start(move |settle| read(&session, tokens, &flag, settle)))
    }

    /// Reads a text; otherwise as `eval`.
    #[napi(ts_return_type = "Promise<Float32Array>")]
    pub fn prompt(&self, text: String, cancel: &Cancel) -> std::result::Result<Job<Float32Array>, Thrown> {
        let (session, flag) = (self.0.get()?, cancel.flag());
        Ok(Job::start(move |settle| {
            with_tokens(session, text, true, flag, settle, |session, tokens, flag, settle| {
                read(session, tokens, flag, settle);
            });
        }))
    }

    /// The state after the text so far.
    #[napi(getter)]
    pub fn state(&self) -> std::result::Result<NativeState, Thrown> {
        Ok(NativeState(self.0.get()?.state()))
    }

    /// Goes on from `state`, which is of the same model.
    #[napi]
    pub fn restore(&self, state: &NativeState) -> std::result::Result<(), Thrown> {
        Ok(self.0.get()?.set_state(Arc::clone(&state.0)).map_err(Failure::from)?)
    }

    /// Begins to write on after `prompt`.
    #[napi(ts_return_type = "Promise<NativeWriting>")]
    pub fn generate(
        &self,
        prompt: String,
        settings: Settings,
        cancel: &Cancel,
    ) -> std::result::Result<Job<NativeWriting>, Thrown> {
        let (session, flag, options) = (self.0.get()?, cancel.flag(), settings.options()?);
        options.validate().map_err(Failure::from)?;
        let holder = Arc::clone(&self.0);
        Ok(Job::start(move |settle| {
            with_tokens(session, prompt, false, flag, settle, move |session, tokens, _, settle| {
                let begun = session
                    .write(tokens, &options)
                    .map(|writing| Arc::new(Writing(Mutex::new(Some(writing)))));
                settle.with(begun.map_err(Failure::from).map(|writing| {
                    lock(&holder.writings).add(&writing);
                    NativeWriting(writing)
                }));
            });
        }))
    }

    /// Frees the state; a call under way ends.
    #[napi]
    pub fn close(&self) {
        self.0.close();
    }
}

/// Has tokens read, and the logits after them told.
fn read(session: &Session, tokens: Vec<u32>, flag: &Flag, settle: Settle<Float32Array>) {
    let over = Over::of(flag);
    let is_over = over.clone();
    let reading = session.read(
        tokens,
        Box::new(move |found| {
            is_over.set();
            settle.with(found.map(|logits| Float32Array::new(logits.to_vec())).map_err(Failure::from));
        }),
    );
    over.on_raise(move || reading.abort());
}

/// Whether a call is over, whose flag then has no hooks: they would keep what they stop.
#[derive(Clone)]
struct Over(Flag, Arc<AtomicBool>);

impl Over {
    fn of(flag: &Flag) -> Self {
        Self(flag.clone(), Arc::default())
    }

    fn set(&self) {
        self.1.store(true, Ordering::SeqCst);
        self.0.forget_hooks();
    }

    /// Has `hook` called when the flag is raised, unless the call is over by now.
    fn on_raise(&self, hook: impl FnOnce() + Send + 'static) {
        self.0.on_raise(hook);
        if self.1.load(Ordering::SeqCst) {
            self.0.forget_hooks();
        }
    }
}

/// Makes tokens of `text`, away from JavaScript's thread if that may take long, and goes on with them.
fn with_tokens<T: napi::bindgen_prelude::ToNapiValue + Send + 'static>(
    session: Arc<Session>,
    text: String,
    is_plain: bool,
    flag: Flag,
    settle: Settle<T>,
    then: impl FnOnce(&Session, Vec<u32>, &Flag, Settle<T>) + Send + 'static,
) {
    let is_short = text.len() <= SHORT;
    // Whoever takes it first, a thread that works or the one that raises the flag, settles.
    let waiting = Arc::new(Mutex::new(Some((settle, then))));
    let take = move || lock(&waiting).take();
    let go_on = {
        let (flag, take) = (flag.clone(), take.clone());
        move || {
            let tokens = catch_unwind(AssertUnwindSafe(|| {
                flag.check()?;
                let tokens = if is_plain {
                    session.encode(&text, flag.control())?
                } else {
                    session.tokens_of(&text, flag.control())?
                };
                Ok(tokens)
            }));
            flag.forget_hooks();
            let Some((settle, then)) = take() else { return };
            match tokens.unwrap_or_else(|payload| Err(Failure::panic(&*payload))) {
                // If it panics, what it was given is dropped, and says so.
                Ok(tokens) => drop(catch_unwind(AssertUnwindSafe(|| then(&session, tokens, &flag, settle)))),
                Err(failure) => settle.fail(failure),
            }
        }
    };
    if is_short {
        return go_on();
    }
    flag.on_raise({
        let take = take.clone();
        move || {
            if let Some((settle, _)) = take() {
                settle.fail(rwkv_core::Error::Aborted.into());
            }
        }
    });
    if !environment::work(&flag, go_on) {
        drop(take());
        flag.forget_hooks();
    }
}

/// How to write.
#[napi(object)]
pub struct Settings {
    /// Tokens at most.
    pub max_tokens: f64,
    /// What to end before.
    pub stop: Vec<String>,
    /// Whether to go on after the end of a text.
    pub ignore_end_of_text: Option<bool>,
    /// Of how many tokens at each place to tell how likely they were held, beside the one that was chosen.
    pub log_probabilities: Option<f64>,
    /// How tokens are chosen: a JSON object.
    pub sampling: String,
}

impl Settings {
    fn options(self) -> Result<GenerateOptions> {
        Ok(GenerateOptions {
            max_tokens: count("maxTokens", Some(self.max_tokens))?.unwrap_or_default(),
            stop: self.stop,
            ignore_end_of_text: self.ignore_end_of_text.unwrap_or(false),
            log_probabilities: count("logProbabilities", self.log_probabilities)?,
            sampler: sampling(&self.sampling)?,
        })
    }
}

/// Options of a sampler, from a JSON object.
pub(crate) fn sampling(json: &str) -> Result<SamplerOptions> {
    let options = serde_json::from_str(json);
    options.map_err(|error| rwkv_core::Error::option("sampling", error, "options that a sampler has").into())
}

/// How likely the model held a token that it wrote.
#[napi(object, object_from_js = false)]
pub struct NativeLogProbabilities {
    /// ln p of the token.
    pub chosen: f64,
    /// The likeliest tokens.
    pub tokens: Uint32Array,
    /// ln p of those.
    pub best: Float64Array,
}

impl From<LogProbabilities> for NativeLogProbabilities {
    fn from(LogProbabilities { chosen, best }: LogProbabilities) -> Self {
        let (tokens, best): (Vec<_>, Vec<_>) = best.into_iter().unzip();
        Self { chosen, tokens: Uint32Array::new(tokens), best: Float64Array::new(best) }
    }
}

/// Whole characters, and the tokens that they are made of.
#[napi(object, object_from_js = false)]
pub struct NativePiece {
    /// May be empty.
    pub text: String,
    /// May be none.
    pub tokens: Uint32Array,
    /// Of each of them, if that was asked for.
    pub log_probabilities: Vec<Option<NativeLogProbabilities>>,
    /// Why writing ended, if this is the last piece: "length", "stop", "endOfText".
    pub end: Option<&'static str>,
}

impl From<Piece> for NativePiece {
    fn from(Piece { text, tokens, log_probabilities, end }: Piece) -> Self {
        let end = end.map(|end| match end {
            End::Length => "length",
            End::Stop => "stop",
            End::EndOfText => "endOfText",
        });
        let log_probabilities =
            log_probabilities.into_iter().map(|each| each.map(NativeLogProbabilities::from)).collect();
        Self { text, tokens: Uint32Array::new(tokens), log_probabilities, end }
    }
}

/// A text that is being written.
#[napi]
pub struct NativeWriting(Arc<Writing>);

struct Writing(Mutex<Option<Generation>>);

impl Close for Writing {
    fn close(&self) {
        // Its drop ends the writing, and may tell whoever waits: without the lock.
        let writing = lock(&self.0).take();
        drop(writing);
    }
}

#[napi]
impl NativeWriting {
    /// The next piece; nothing after the last. If it is stopped, the session's text is what was taken of it.
    #[napi(ts_return_type = "Promise<NativePiece | null>")]
    pub fn next(&self, cancel: &Cancel) -> Job<Option<NativePiece>> {
        let (writing, flag) = (Arc::clone(&self.0), cancel.flag());
        Job::start(move |settle: Settle<Option<NativePiece>>| {
            let over = Over::of(&flag);
            let is_over = over.clone();
            let taker: Taker = Box::new(move |found: rwkv_core::Result<Option<Piece>>| {
                is_over.set();
                settle.with(found.map(|piece| piece.map(NativePiece::from)).map_err(Failure::from));
            });
            match &*lock(&writing.0) {
                Some(generation) => generation.pull(taker),
                None => taker(Err(rwkv_core::Error::Aborted)),
            }
            over.on_raise(move || writing.close());
        })
    }

    /// Ends the writing.
    #[napi]
    pub fn close(&self) {
        self.0.close();
    }
}
