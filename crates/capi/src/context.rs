//! `struct rwkv_context`: a model, threads of its own, and the state of the text that is being read.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use rwkv_core::{LoadOptions, Model, Outputs, Segment, State};

use crate::failure::{Failure, Global, Record, Result};

/// What C programs hold a pointer to.
///
/// Everything in it may be used by several threads: two evaluations at once take turns.
#[derive(Debug)]
pub struct Context {
    pub(crate) model: Model,
    /// The state before the first token.
    pub(crate) empty: State,
    /// The state under way. It is copied in and out: a caller's buffers may overlap, and may hold nothing
    /// yet.
    state: Mutex<State>,
    last_error: AtomicU32,
    print_errors: AtomicBool,
}

impl Context {
    /// Loads a model, to be run on `n_threads` threads; 0 means as many as the process may use.
    pub(crate) fn load(path: &Path, n_threads: u32) -> Result<Self> {
        let options = LoadOptions { threads: threads(n_threads), ..LoadOptions::default() };
        // As those of rwkv.cpp, contexts have threads of their own, and may run side by side.
        Ok(Self::new(Model::load_on(path, options.start_cpu()?)?, Global.prints()))
    }

    /// Another context of the same model, with threads and errors of its own.
    pub(crate) fn another(&self, n_threads: u32) -> Result<Self> {
        let options = LoadOptions { threads: threads(n_threads), isa: Some(self.model.cpu().isa()) };
        Ok(Self::new(self.model.with_cpu(options.start_cpu()?), self.prints()))
    }

    fn new(model: Model, print_errors: bool) -> Self {
        let empty = model.new_state();
        Self {
            state: Mutex::new(empty.clone()),
            empty,
            model,
            last_error: AtomicU32::new(0),
            print_errors: AtomicBool::new(print_errors),
        }
    }

    /// Number of floats of a state.
    pub(crate) fn state_len(&self) -> usize {
        self.empty.as_slice().len()
    }

    /// Reads `tokens` from the state at `state_in` on, or from the beginning if that is null, and writes the
    /// state and the logits after the last one to where `state_out` and `logits_out` point, if anywhere.
    ///
    /// # Safety
    /// `state_in` is null or points to `state_len` floats that may be read, `state_out` and `logits_out` are
    /// null or point to as many floats as they need that may be written, and no other thread touches those
    /// meanwhile.
    pub(crate) unsafe fn eval(
        &self,
        tokens: &[u32],
        state_in: *const f32,
        state_out: *mut f32,
        logits_out: *mut f32,
    ) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state_in.is_null() {
            state.as_mut_slice().copy_from_slice(self.empty.as_slice());
        } else {
            let own = state.as_mut_slice();
            // SAFETY: the caller promises `state_len` floats, which is the length of `own`; nobody else has a
            // pointer to `own`, so the two do not overlap.
            unsafe { own.as_mut_ptr().copy_from_nonoverlapping(state_in, own.len()) };
        }
        let outputs = if logits_out.is_null() { Outputs::None } else { Outputs::Last };
        let mut segments = [Segment { tokens, state: &mut state }];
        self.model.eval_each(&mut segments, outputs, |_, _, logits| {
            // SAFETY: `logits` is one row of n_vocab floats, because only the last was asked for, and it is
            // only shown if `logits_out` is not null; then the caller promises that many floats. They are not
            // the model's own.
            unsafe { logits_out.copy_from_nonoverlapping(logits.as_ptr(), logits.len()) };
        })?;
        if !state_out.is_null() {
            let own = state.as_slice();
            // SAFETY: as for `state_in`.
            unsafe { state_out.copy_from_nonoverlapping(own.as_ptr(), own.len()) };
        }
        Ok(())
    }

    /// The same for the `len` tokens at `tokens`, which may be null: then there is nothing to do, because
    /// nothing needs preparing.
    ///
    /// # Safety
    /// As [`eval`](Self::eval), and `tokens` is null or points to `len` numbers.
    pub(crate) unsafe fn eval_sequence(
        &self,
        tokens: *const u32,
        len: usize,
        state_in: *const f32,
        state_out: *mut f32,
        logits_out: *mut f32,
    ) -> Result<()> {
        if len == 0 {
            return Err(Failure::args("sequence_len is 0; it must be at least 1"));
        }
        if tokens.is_null() {
            return Ok(());
        }
        if len > isize::MAX as usize / size_of::<u32>() {
            return Err(Failure::args(format!("sequence_len is {len}; no array is as long as that")));
        }
        // SAFETY: the caller promises `len` numbers there, and they fit an address space.
        let tokens = unsafe { std::slice::from_raw_parts(tokens, len) };
        // SAFETY: the caller's promise.
        unsafe { self.eval(tokens, state_in, state_out, logits_out) }
    }
}

/// rwkv.cpp asks for a positive number, and takes 0 for a number of its own choosing; so do we.
fn threads(n_threads: u32) -> Option<usize> {
    (n_threads > 0).then_some(n_threads as usize)
}

impl Record for Context {
    fn prints(&self) -> bool {
        self.print_errors.load(Ordering::Relaxed)
    }

    fn set_prints(&self, prints: bool) {
        self.print_errors.store(prints, Ordering::Relaxed);
    }

    fn add(&self, flags: u32) {
        self.last_error.fetch_or(flags, Ordering::Relaxed);
    }

    fn take(&self) -> u32 {
        self.last_error.swap(0, Ordering::Relaxed)
    }
}
