//! A text that a model reads and writes.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use rwkv_core::schedule::{Next, Scheduler};
use rwkv_core::{Control, Error, Model, Result, State, ask, go_on};
use rwkv_text::Tokenizer;

use crate::outlet::{Outlet, Taker};
use crate::pen::Pen;
use crate::reading::{Done, Reading};
use crate::text::{Call, Point, Text};
use crate::{GenerateOptions, Piece};

/// How long a call waits between two looks at whether it is to stop.
const LOOK: Duration = Duration::from_millis(20);

/// One text: the tokens that were read and written so far, in the form of the state after them.
///
/// Sessions of one model share its passes, whatever threads they are used on: each is as fast as alone until the
/// processor is busy, and reads and writes the same bits as alone.
///
/// A session does one thing at a time; a second call meanwhile is answered with [`Error::Busy`].
///
/// ```no_run
/// use rwkv_core::{LoadOptions, Model};
/// use rwkv_session::{GenerateOptions, Session};
/// use rwkv_text::Tokenizer;
///
/// # fn main() -> rwkv_core::Result<()> {
/// let model = Model::load("runs/book", &LoadOptions::default())?;
/// let tokenizer = Tokenizer::load("runs/book")?;
/// let session = Session::new(&model, Some(&tokenizer))?;
/// for piece in session.generate("It was ", &GenerateOptions::default())? {
///     print!("{}", piece?.text);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Session {
    text: Arc<Text>,
    scheduler: Arc<Scheduler>,
}

impl Session {
    /// A session at the start of a text. Without a tokenizer it can only be given tokens.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses to start a thread.
    pub fn new(model: &Model, tokenizer: Option<&Tokenizer>) -> Result<Self> {
        let scheduler = Scheduler::of(model.cpu())?;
        Ok(Self { text: Text::new(model, tokenizer, scheduler.handle()), scheduler })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.text.model
    }

    /// The state after the text so far.
    pub fn state(&self) -> Arc<State> {
        self.text.point().state
    }

    /// Goes on from another state.
    ///
    /// # Errors
    /// [`Error::State`] for a state of another model; [`Error::Busy`].
    pub fn set_state(&self, state: Arc<State>) -> Result<()> {
        self.text.model.check_state(&state)?;
        self.text.go_to(Point { state, logits: None })
    }

    /// The logits (n_vocab) of what may come next; none before the first token, and after the state was set.
    pub fn logits(&self) -> Option<Arc<[f32]>> {
        self.text.point().logits
    }

    /// Reads tokens: the logits (n_vocab) of what may come after them. If it fails, the text is as it was.
    ///
    /// # Errors
    /// Those of [`Model::eval`]; [`Error::Busy`].
    pub fn eval(&self, tokens: &[u32]) -> Result<Arc<[f32]>> {
        self.eval_with(tokens, go_on)
    }

    /// As [`eval`](Self::eval), until `control` ends it; it is told nothing of how far it is.
    ///
    /// # Errors
    /// As [`eval`](Self::eval); [`Error::Aborted`] if `control` says so.
    pub fn eval_with(&self, tokens: &[u32], control: impl Control) -> Result<Arc<[f32]>> {
        let (tell, told) = sync_channel(1);
        let reading = self.read(tokens.to_vec(), Box::new(sender(tell)));
        wait(&told, control, || reading.abort())
    }

    /// Reads a text.
    ///
    /// # Errors
    /// As [`eval`](Self::eval); [`Error::UnknownCharacter`].
    pub fn prompt(&self, text: &str) -> Result<Arc<[f32]>> {
        self.eval(&self.text.tokenizer()?.encode(text)?)
    }

    /// Begins to read tokens, and has `done` told what comes of it: what [`eval`](Self::eval) returns.
    pub fn read(&self, tokens: Vec<u32>, done: Done) -> Reading {
        Reading::begin(&self.text, Arc::clone(&self.scheduler), tokens, done)
    }

    /// Gives the call under way up, if there is one: it ends with [`Error::Aborted`], at once.
    pub fn abort(&self) {
        self.text.abort();
    }

    /// What `prompt` is to the session, in tokens: if it is empty and nothing was read yet, that which a text begins
    /// with.
    ///
    /// # Errors
    /// [`Error::UnknownCharacter`]; [`Error::Aborted`] if `control` says so.
    pub fn tokens_of(&self, prompt: &str, control: impl Control) -> Result<Vec<u32>> {
        let tokenizer = self.text.tokenizer()?;
        if prompt.is_empty() && self.text.is_new() {
            return Ok(tokenizer.beginning());
        }
        tokenizer.encode_with(prompt, control)
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// As [`tokens_of`](Self::tokens_of).
    pub fn encode(&self, text: &str, control: impl Control) -> Result<Vec<u32>> {
        self.text.tokenizer()?.encode_with(text, control)
    }

    /// Reads `prompt` and writes on, in pieces.
    ///
    /// The prompt may be empty. A session that has read nothing then begins with what the texts that the model learned
    /// from begin with; one that was given a state has to read something first.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for options that make no sense, and where there is nothing to go on from;
    /// [`Error::UnknownCharacter`]; [`Error::Busy`]. From the pieces, those of [`Model::eval`].
    pub fn generate(&self, prompt: &str, options: &GenerateOptions) -> Result<Generation> {
        self.write(self.tokens_of(prompt, go_on)?, options)
    }

    /// As [`generate`](Self::generate), after tokens.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn write(&self, prompt: Vec<u32>, options: &GenerateOptions) -> Result<Generation> {
        let text = &self.text;
        options.sampler.check_vocabulary(text.model.config().n_vocab)?;
        let outlet = Outlet::new(text);
        let mut pen = Pen::new(Arc::clone(&outlet), text.tokenizer()?, options)?;
        outlet.begin()?;
        // From here on the end of the generation, or of the pen, ends the call.
        let generation = Generation { outlet, _scheduler: Arc::clone(&self.scheduler) };
        let point = text.point();
        let (from, tokens) = if !prompt.is_empty() {
            (point.state, prompt)
        } else if point.logits.is_some() {
            match pen.go_on(&point) {
                Next::Read(tokens) => (point.state, tokens),
                Next::ReadFrom(state, tokens) => (state, tokens),
                Next::End => return Ok(generation),
            }
        } else {
            return Err(Error::option("prompt", "empty", "at least one token for a text that has none"));
        };
        text.scheduler.read(&text.model, from, tokens, Box::new(pen));
        Ok(generation)
    }
}

/// A text that is being written. Dropping it ends the writing; the session's text is then what was taken of it.
pub struct Generation {
    outlet: Arc<Outlet>,
    /// Kept as long as something is to be written.
    _scheduler: Arc<Scheduler>,
}

impl Generation {
    /// Has `taker` told the next piece, or none after the last. One piece at a time.
    pub fn pull(&self, taker: Taker) {
        self.outlet.pull(taker);
    }

    /// Ends the writing, if it is not over: whoever waits is told [`Error::Aborted`], at once.
    pub fn abort(&self) {
        self.outlet.abort();
    }

    /// The next piece, or none after the last. `control` is told nothing of how far it is.
    ///
    /// # Errors
    /// Those of [`Model::eval`]; [`Error::Aborted`] if `control` says so.
    pub fn next_with(&mut self, control: impl Control) -> Result<Option<Piece>> {
        let (tell, told) = sync_channel(1);
        self.pull(Box::new(sender(tell)));
        wait(&told, control, || self.abort())
    }

    /// All that is left, in one piece.
    ///
    /// # Errors
    /// As [`next_with`](Self::next_with).
    pub fn rest_with(mut self, mut control: impl Control) -> Result<Piece> {
        let mut whole = Piece::default();
        while let Some(piece) = self.next_with(&mut control)? {
            whole.append(piece);
        }
        Ok(whole)
    }
}

impl Iterator for Generation {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_with(go_on).transpose()
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Sends what is told.
fn sender<T>(tell: SyncSender<Result<T>>) -> impl FnOnce(Result<T>) {
    move |told| {
        // Nobody may be there to hear it.
        let _ = tell.send(told);
    }
}

/// Waits for what is told, or until `control` ends it.
fn wait<T>(
    told: &std::sync::mpsc::Receiver<Result<T>>,
    mut control: impl Control,
    abort: impl Fn(),
) -> Result<T> {
    loop {
        if ask(&mut control, 0, 0).is_err() {
            abort();
        }
        match told.recv_timeout(LOOK) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::Internal { what: "a call was not answered".to_owned() });
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}
