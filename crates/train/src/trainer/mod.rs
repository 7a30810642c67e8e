//! A training run, moved on by its caller one step at a time.

mod advance;
mod begin;
mod measure;
mod outer;
mod ranks;
mod save;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rwkv_core::model::Network;
use rwkv_core::params::{Matrix, Vector};
use rwkv_core::store::Parameters;
use rwkv_core::{Control, Model, ModelConfig, State, StateLayout, ask};
use rwkv_kernels::{Isa, Precision};
use rwkv_text::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::data::{Dataset, Windows};
use crate::error::{Error, Result, SoundCheckpoint};
use crate::optimizer::{Moment, Optimizer, Step, global_norm};
use crate::options::TrainOptions;
use crate::profile::{Cost, Pass, StepProfile};
use crate::ranks::{Courier, Sums};
use crate::record::Kept;
use crate::run::{LogLine, RunDirectory};
use crate::schedule::Schedule;
use crate::streams::Streams;
use crate::tape::{Tape, Until};

pub use advance::Advance;
use outer::Outer;
pub use save::{Best, Saved, Soundness};

/// A model in training, with its data, its optimizer and its directory.
///
/// [`run`](Self::run) is the whole of a run: it learns, validates, keeps the best model, saves and stops as the
/// options say. [`advance`](Self::advance) is one step of that, for a caller who wants to do something in
/// between; [`step`](Self::step), [`validate`](Self::validate) and [`save`](Self::save) are its parts.
///
/// What takes long takes a [`Control`], which may end it: the call then ends soon with
/// [`rwkv_core::Error::Aborted`], and the trainer is as it was before the call. Of several ranks none can leave the
/// others in the middle of a step: once one of them is asked, each finishes the step that it is in (with `local_steps`,
/// all up to the next synchronization), and the next call ends so on all of them.
#[derive(Debug)]
pub struct Trainer {
    options: TrainOptions,
    config: ModelConfig,
    network: Network,
    state_layout: StateLayout,
    /// The parameter that is the initial state, if that is trained.
    state: Option<Vector>,
    /// Where the sequences of the next step start, if states are carried.
    states: Vec<Vec<f32>>,
    tokenizer: Tokenizer,
    data: Dataset,
    windows: Windows,
    /// In place of `windows`, if states are carried.
    streams: Option<Streams>,
    tape: Tape,
    optimizer: Box<dyn Optimizer>,
    /// Those that learn with this one, and itself.
    ranks: Courier,
    /// Their gradients.
    sums: Sums,
    /// Of ranks that take steps by themselves.
    outer: Option<Outer>,
    /// Of several ranks: whether the control of this one has asked for an end since the ranks last told each other, and
    /// whether all know by now that one of them is to end.
    is_asked: bool,
    is_to_end: bool,
    schedule: Schedule,
    run: RunDirectory,
    step: u64,
    seconds: f64,
    /// The step and the seconds at which the profile begins.
    profiled_from: (u64, f64),
    went_back_from: Option<u64>,
    /// The step in which the run diverged, and the loss.
    diverged: Option<(u64, f32)>,
    /// The validation loss after the last step, if that was validated.
    val_loss: Option<f32>,
    /// What is known of the model after the last step.
    soundness: Option<Soundness>,
    /// The best validation so far.
    best: Option<Best>,
    /// The last step, if what is due after it is not done.
    pending: Option<StepReport>,
    /// When this trainer began, and the time by the clock that the run had taken before.
    clock: (Instant, f64),
    /// What the run's result is, as far as this trainer has looked.
    kept: Option<Kept>,
    /// Tokens and targets of the pass under way.
    inputs: Vec<u32>,
    targets: Vec<u32>,
}

/// What the passes of a step give on one rank.
struct Passes {
    /// The sum of their mean losses.
    loss: f64,
    tokens: usize,
    /// What each sequence left, if states are carried.
    states: Vec<Vec<f32>>,
}

/// What the passes of a step give on all ranks.
struct Gradients {
    /// Mean over all passes.
    loss: f32,
    /// Global norm of the gradients.
    norm: f64,
    tokens: usize,
    /// What each sequence left, if states are carried.
    states: Vec<Vec<f32>>,
}

/// Report of a training step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step, counted from 1.
    pub step: u64,
    /// Mean loss of the batch before the step, in nats a token.
    pub loss: f32,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// The norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Tokens of the batch.
    pub tokens: usize,
    /// How long the step took.
    pub seconds: f64,
    /// The options ask for a validation after this step: always so after the last.
    pub validation_due: bool,
    /// The options ask for a checkpoint after this step: always so after the last.
    pub checkpoint_due: bool,
}

impl Trainer {
    /// Learns from one batch, and does nothing else. `control` is asked between two operators, with batches.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss or a gradient is not finite: the parameters stay as they were, and
    /// nothing more is saved. [`rwkv_core::Error::Io`] if the log cannot be written.
    /// [`rwkv_core::Error::Aborted`] if `control` says so: parameters, moments, log and the number of steps are as
    /// before, and the next step is the one that this would have been. From where it begins to change the
    /// parameters, a step is finished instead; of several ranks always.
    pub fn step(&mut self, mut control: impl Control + Send) -> Result<StepReport> {
        self.check_not_diverged()?;
        if std::mem::take(&mut self.is_to_end) {
            return Err(rwkv_core::Error::Aborted.into());
        }
        let start = Instant::now();
        let Gradients { loss, norm: grad_norm, tokens, states } = self.gradients(&mut control)?;
        // From here on there is no way back.
        let learning_rate = self.schedule.learning_rate(self.step);
        self.update(learning_rate, grad_norm);
        self.states = states;
        self.step += 1;
        (self.val_loss, self.soundness, self.pending) = (None, None, None);
        self.synchronize()?;
        let seconds = start.elapsed().as_secs_f64();
        self.seconds += seconds;
        self.log(&LogLine {
            step: self.step,
            loss: Some(loss),
            learning_rate: Some(learning_rate),
            grad_norm: Some(grad_norm),
            val_loss: None,
            seconds: self.seconds,
            clock: self.clock(),
        })?;
        let (validation_due, checkpoint_due) = self.due();
        let step = self.step;
        Ok(StepReport {
            step,
            loss,
            learning_rate,
            grad_norm,
            tokens,
            seconds,
            validation_due,
            checkpoint_due,
        })
    }

    /// Whether the options ask for a validation after the last step, and for a checkpoint.
    fn due(&self) -> (bool, bool) {
        let due = |interval: u64| self.is_last_step() || (interval > 0 && self.step.is_multiple_of(interval));
        (due(self.options.eval_interval), due(self.options.checkpoint_interval))
    }

    /// Forward and backward over all passes of the step after `self.step`: the tape holds the gradients of
    /// their mean. Changes nothing that a step would leave.
    fn gradients(&mut self, control: &mut (impl Control + Send)) -> Result<Gradients> {
        let (is_alone, mut is_asked) = (self.ranks.count() == 1, false);
        let mut control = |done, total| match control(done, total) {
            ControlFlow::Break(()) if !is_alone => {
                is_asked = true;
                ControlFlow::Continue(())
            }
            wish => wish,
        };
        let mut own = self.passes(&mut control);
        self.is_asked |= is_asked;
        if self.outer.is_none() {
            // After an error too: others wait for it.
            let summed = self.finish();
            own = own.and_then(|own| summed.map(|()| own));
        }
        let norm = self.norm();
        if self.outer.is_some() {
            // What is not finite here is so on this rank alone.
            own = own.and_then(|own| self.check_finite(own.loss as f32, norm).map(|()| own));
        }
        let Passes { loss, tokens, states } = self.of_all_ranks(own)?;
        let loss = (loss / (self.options.accumulate * self.ranks_of_step()) as f64) as f32;
        self.check_finite(loss, norm)?;
        Ok(Gradients { loss, norm, tokens, states })
    }

    /// Ends the run if the loss or the norm of the gradients is not finite.
    fn check_finite(&mut self, loss: f32, norm: f64) -> Result<()> {
        if !loss.is_finite() {
            return Err(self.diverge(self.step + 1, loss));
        }
        if !norm.is_finite() {
            // The next loss would not be finite either.
            return Err(self.diverge(self.step + 1, f32::NAN));
        }
        Ok(())
    }

    /// The global norm of the gradients.
    fn norm(&mut self) -> f64 {
        let profile = self.tape.profile();
        let start = profile.start();
        let norm = global_norm(self.tape.cpu(), self.tape.params(), self.tape.param_gradients());
        let threads = self.tape.cpu().threads();
        let bytes = 4 * self.n_trained() as u64;
        let work = || Cost { operations: 0, bytes };
        self.tape.profile().stop(start, (Pass::Update, "norm of the gradients"), threads, work);
        norm
    }

    /// The passes of a step over this rank's part of the batch. They end with the first loss that is not finite.
    fn passes(&mut self, control: &mut (impl Control + Send)) -> Result<Passes> {
        let passes = self.options.accumulate;
        let (ranks_of_step, sums_gradients) = (self.ranks_of_step(), self.outer.is_none());
        let mut all = Passes { loss: 0.0, tokens: 0, states: Vec::new() };
        for pass in 0..passes {
            self.next_batch(pass)?;
            all.tokens += self.inputs.len();
            self.begin_pass(pass);
            let mut stop = || control(pass as u64, passes as u64).is_break();
            let Self { tape, ranks, sums, network, targets, .. } = &mut *self;
            let mut whole = |gradients: &mut [Vec<f32>], matrices: &[Matrix]| {
                if pass + 1 == passes && sums_gradients {
                    sums.add(ranks, gradients, matrices);
                }
            };
            let (of, is_first) = (passes * ranks_of_step, pass == 0);
            let loss =
                Until::new(tape, &mut stop).learn_and_tell(network, targets, of, is_first, &mut whole)?;
            // A frozen model's file that changed explains more than what was computed with it.
            self.tape.params().check_file()?;
            all.loss += f64::from(loss);
            if !loss.is_finite() {
                break;
            }
            if self.streams.is_some() {
                all.states.extend(self.tape.states());
            }
        }
        // The last time: what other ranks are told now must not be taken back.
        ask(control, passes as u64, passes as u64)?;
        Ok(all)
    }

    /// Moves the trained parameters by the gradients that the tape holds.
    fn update(&mut self, learning_rate: f64, norm: f64) {
        let cpu = Arc::clone(self.tape.cpu());
        let start = self.tape.profile().start();
        let (params, gradients) = self.tape.params_and_gradients();
        let step = Step { number: self.step + 1, learning_rate, peak: self.schedule.peak, norm };
        self.optimizer.step(&cpu, &step, params, gradients);
        self.clamp_state();
        self.tape.profile().stop(start, (Pass::Update, "optimizer"), cpu.threads(), Cost::default);
    }

    /// Keeps the initial state, if it is trained, within what the model's arithmetic can take.
    fn clamp_state(&mut self) {
        let (params, _) = self.tape.params_and_gradients();
        if let Some(state) = self.state {
            self.state_layout.clamp(params.raw_mut(state.index()));
        }
    }

    /// What the optimizer, and the outer one if there is one, remember: what a checkpoint holds beside the parameters.
    fn moments(&self) -> impl Iterator<Item = &Moment> {
        self.optimizer.moments().iter().chain(self.outer.iter().flat_map(Outer::moments))
    }

    /// The model as it is now, ready to run on the trainer's threads. It shares its values with the trainer
    /// until a step changes those.
    pub fn model(&self) -> Model {
        Model::of_store(self.config, self.tape.params().clone(), Arc::clone(self.tape.cpu()))
    }

    /// Whether the run is over: all steps are done, or as many validations as `patience` says have found no
    /// better loss; and [`advance`](Self::advance) has nothing left to do after the last step.
    pub fn done(&self) -> bool {
        self.is_last_step() && self.pending.is_none()
    }

    /// Whether no step comes after this one.
    fn is_last_step(&self) -> bool {
        let is_hopeless =
            self.options.patience.zip(self.best).is_some_and(|(patience, best)| best.since >= patience);
        self.step >= self.options.max_steps || is_hopeless
    }

    /// Refuses what would go beyond the end of the run.
    ///
    /// # Errors
    /// [`rwkv_core::Error::InvalidOption`] that names the option which ends the run: `max_steps`, or `patience`.
    pub fn check_not_done(&self) -> Result<()> {
        if self.step >= self.options.max_steps {
            let expected = "more to go on: that many steps are done";
            return Err(rwkv_core::Error::option("max_steps", self.step, expected).into());
        }
        match self.options.patience {
            Some(patience) if self.is_last_step() => {
                let expected = "more to go on: as many validations have found no better loss";
                Err(rwkv_core::Error::option("patience", patience, expected).into())
            }
            _ => Ok(()),
        }
    }

    /// The validation with the lowest loss so far.
    pub fn best(&self) -> Option<Best> {
        self.best
    }

    /// What [`result`](Self::result) is, as it was last written or looked at: the model of another step than the
    /// last one, perhaps, or of an attempt that the run has gone back from since. None before it is there.
    pub fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// Takes the time of every operator of the steps from now on.
    pub fn take_time(&mut self) {
        self.profiled_from = (self.step, self.seconds);
        self.tape.take_time();
    }

    /// Where the time of the steps since [`take_time`](Self::take_time) went, beside what this machine does at best,
    /// which takes half a second to measure.
    pub fn profile(&mut self) -> StepProfile {
        let (step, seconds) = self.profiled_from;
        let cpu = Arc::clone(self.tape.cpu());
        StepProfile::new(&cpu, self.tape.profile(), self.step - step, self.seconds - seconds)
    }

    /// Steps done so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The step of the newest checkpoint there was, if the run was resumed from before it, because it was not
    /// sound.
    pub fn went_back_from(&self) -> Option<u64> {
        self.went_back_from
    }

    /// Time spent in steps since the run began, over all its sessions.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Seconds by the clock since the run began, over all its sessions: with validating and saving, and without
    /// the time in between.
    pub fn clock(&self) -> f64 {
        self.clock.0.elapsed().as_secs_f64() + self.clock.1
    }

    /// The options in force.
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The state that every text starts from: the one that is trained, or the empty one.
    pub fn initial_state(&self, model: &Model) -> State {
        let mut state = model.new_state();
        if let Some(trained) = self.state {
            state.as_mut_slice().copy_from_slice(self.tape.params().vector(trained));
        }
        state
    }

    /// Number of parameters of the model.
    pub fn n_params(&self) -> usize {
        self.tape.params().n_params()
    }

    /// Number of parameters that are trained.
    pub fn n_trained(&self) -> usize {
        self.tape.params().n_trained()
    }

    /// How the text became tokens.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The text.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// The directory of the run.
    pub fn out(&self) -> &Path {
        self.run.path()
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.tape.cpu().threads()
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.tape.cpu().isa()
    }

    /// Precision of the operands of matrix products.
    pub fn precision(&self) -> Precision {
        self.tape.cpu().precision()
    }

    /// The parameters.
    pub fn params(&self) -> &Parameters {
        self.tape.params()
    }

    /// Gathers the sequences of one pass of the step after `self.step`, and what follows each of their
    /// tokens.
    ///
    /// # Errors
    /// Those of reading a file of tokens.
    fn next_batch(&mut self, pass: usize) -> Result<()> {
        let (tokens, batch_size) = (self.data.train(), self.options.batch_size);
        let own = self.own_sequences(pass);
        let mut sequence = Vec::with_capacity(self.options.ctx_len + 1);
        let a_step = (batch_size * self.options.accumulate) as u64;
        self.inputs.clear();
        self.targets.clear();
        for index in own {
            let window = match &self.streams {
                None => self.windows.get(self.step * a_step + index as u64),
                Some(streams) => streams.get(self.step, index),
            };
            sequence.clear();
            tokens.read(window.start..window.end + 1, &mut sequence)?;
            self.inputs.extend_from_slice(&sequence[..window.len()]);
            self.targets.extend_from_slice(&sequence[1..]);
        }
        Ok(())
    }

    fn begin_pass(&mut self, pass: usize) {
        let &TrainOptions { ctx_len, batch_size, accumulate, seed, dropout, .. } = &self.options;
        // A number of its own for each pass of a run; the tape makes seeds that have nothing in common of
        // them.
        let number = self.step * accumulate as u64 + pass as u64;
        self.tape.dropout(dropout as f32, seed.rotate_left(32) ^ number.wrapping_mul(0x2545_f491_4f6c_dd1d));
        match &self.streams {
            None => self.tape.begin(&self.inputs, ctx_len),
            Some(streams) if streams.starts_anew(self.step) => {
                let empty = vec![self.state_layout.initial(); batch_size];
                self.tape.begin_from(&self.inputs, ctx_len, &empty);
            }
            Some(_) => {
                let states = &self.states[pass * batch_size..(pass + 1) * batch_size];
                self.tape.begin_from(&self.inputs, ctx_len, states);
            }
        }
    }

    /// Ends the run: what comes after `loss`, which is not finite, would not be a model.
    fn diverge(&mut self, step: u64, loss: f32) -> Error {
        self.diverged = Some((step, loss));
        self.divergence(step, loss)
    }

    fn check_not_diverged(&self) -> Result<()> {
        self.diverged.map_or(Ok(()), |(step, loss)| Err(self.divergence(step, loss)))
    }

    fn divergence(&self, step: u64, loss: f32) -> Error {
        // If the directory cannot be read, the divergence is still the greater news.
        let checkpoint = self.run.newest_sound().ok().flatten().map(|(manifest, path)| SoundCheckpoint {
            path,
            step: manifest.step,
            val_loss: manifest.soundness.map(|soundness| soundness.val_loss),
        });
        let run = self.run.path().to_owned();
        Error::Diverged { step, loss, run, checkpoint, learning_rate: self.schedule.peak }
    }
}

/// # Panics
/// If the options are not resolved.
fn schedule(options: &TrainOptions) -> Schedule {
    let resolved = "options are resolved when a run begins";
    Schedule {
        decay: options.decay,
        cooldown: options.cooldown,
        peak: options.learning_rate.expect(resolved),
        last: options.final_learning_rate.expect(resolved),
        warmup: options.warmup_steps.expect(resolved),
        max_steps: options.max_steps,
    }
}

#[cfg(test)]
mod tests;
