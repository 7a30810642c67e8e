//! A training run, moved on by its caller one step at a time.

mod measure;
mod save;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rwkv::model::Network;
use rwkv::params::{Layout, ParamSpec};
use rwkv::store::Parameters;
use rwkv::{Error, Model, ModelConfig, Result, SoundCheckpoint, Tokenizer};
use rwkv_kernels::{Cpu, Isa, Precision};

use crate::checkpoint::{self, Checkpoint};
use crate::data::{Dataset, Windows};
use crate::init::initialize;
use crate::optimizer::{AdamW, AdamWSettings, global_norm};
use crate::options::{ResumeOptions, TrainOptions};
use crate::run::{LogLine, RunConfig, RunFolder, fault};
use crate::schedule::Schedule;
use crate::tape::{Tape, Until};

pub use save::Soundness;

/// A model in training, with its data, its optimizer and its folder.
///
/// The caller pulls: [`step`](Self::step) until [`done`](Self::done), and in between, when a report says it is due or
/// whenever it likes, [`validate`](Self::validate) and [`save_checkpoint`](Self::save_checkpoint).
///
/// What takes long takes a flag, which another thread or a signal's handler may set: the call then ends soon with
/// [`Error::Aborted`], and the trainer is as it was before the call.
#[derive(Debug)]
pub struct Trainer {
    options: TrainOptions,
    config: ModelConfig,
    network: Network,
    layout: Layout,
    tokenizer: Tokenizer,
    data: Dataset,
    windows: Windows,
    tape: Tape,
    optimizer: AdamW,
    schedule: Schedule,
    run: RunFolder,
    step: u64,
    seconds: f64,
    went_back_from: Option<u64>,
    /// The step in which the run diverged, and the loss.
    diverged: Option<(u64, f32)>,
    /// The validation loss after the last step, if that was validated.
    val_loss: Option<f32>,
    /// What is known of the model after the last step.
    soundness: Option<Soundness>,
    /// Tokens and targets of the pass under way.
    inputs: Vec<u32>,
    targets: Vec<u32>,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// Begins a run in a new folder.
    ///
    /// # Errors
    /// [`Error::InvalidOption`]; [`Error::Io`], [`Error::InvalidUtf8`] and [`Error::Data`] if the text cannot be
    /// learned; [`Error::Run`] if the folder holds a run already or another trainer is at work in it. Nothing is written
    /// before all of these are ruled out.
    pub fn create(options: &TrainOptions) -> Result<Self> {
        Self::create_until(options, &AtomicBool::new(false))
    }

    /// As [`create`](Self::create), with a flag for a text that is long, or a pipe that nobody writes to.
    ///
    /// # Errors
    /// [`Error::Aborted`] soon after `stop` is set, if the text is not read by then.
    pub fn create_until(options: &TrainOptions, stop: &AtomicBool) -> Result<Self> {
        options.validate()?;
        let mut options = options.resolved();
        RunFolder::check_free(&options.out)?;
        let (data, tokenizer) = Dataset::read(&options.data, options.tokenizer, options.ctx_len, stop)?;
        options.check_memory(tokenizer.n_vocab())?;
        options.data = std::path::absolute(&options.data).map_err(Error::io("find", &options.data))?;
        let cpu = Arc::new(options.start_cpu()?);

        let model = options.model(tokenizer.n_vocab());
        let config = RunConfig {
            format: RunConfig::FORMAT,
            model,
            options: TrainOptions { threads: None, ..options.clone() },
            data_crc32: data.crc32(),
        };
        let run = RunFolder::create(&options.out, config, tokenizer.clone())?;
        let (network, layout, _) = Network::new(&model);
        Ok(Self::assemble(options, (network, layout), (data, tokenizer), run, cpu, None))
    }

    /// Goes on with the run in `out` from its newest checkpoint, as if it had never stopped; from the beginning if it
    /// has none.
    ///
    /// Checkpoints that are not sound (see [`Soundness`]) do not count: if the newest ones are not, the run goes on from
    /// before them, they are removed, and [`went_back_from`](Self::went_back_from) says so.
    ///
    /// # Errors
    /// [`Error::Run`] if there is no run, if another trainer is at work on it, or if its checkpoint is damaged;
    /// [`Error::Data`] if the text is not the one it began with; otherwise as [`create`](Self::create).
    pub fn resume(out: impl AsRef<Path>, changes: &ResumeOptions) -> Result<Self> {
        Self::resume_until(out, changes, &AtomicBool::new(false))
    }

    /// As [`resume`](Self::resume), with a flag as that of [`create_until`](Self::create_until).
    pub fn resume_until(out: impl AsRef<Path>, changes: &ResumeOptions, stop: &AtomicBool) -> Result<Self> {
        let out = out.as_ref();
        let mut found = RunFolder::take(out)?;
        let (model, tokenizer) = (found.config.model, found.tokenizer.clone());
        let (network, layout, _) = Network::new(&model);
        let newest = found.newest_step()?;
        let lengths: Vec<_> = layout.specs().iter().map(ParamSpec::len).collect();
        let (mut before, mut text) = (u64::MAX, None);
        let (checkpoint, options, data, cpu) = loop {
            let checkpoint = found.newest_sound(before)?;
            let checkpoint =
                checkpoint.map(|(manifest, path)| checkpoint::read(&path, manifest, &lengths)).transpose()?;
            let mut options = found.config.options.clone();
            if let Some(Checkpoint { manifest, .. }) = &checkpoint {
                if manifest.model != model || manifest.options.model(model.n_vocab) != model {
                    return Err(fault(out, "its checkpoint is of another model than its config.json"));
                }
                options = manifest.options.clone();
            }
            let mut options = changes.apply(TrainOptions { out: out.to_owned(), ..options.resolved() });
            let step = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.manifest.step);
            // One that does not say whether it is sound may be passed over.
            let unknown = checkpoint.as_ref().filter(|checkpoint| checkpoint.manifest.soundness.is_none());
            if let (None, Some(too_few)) = (unknown, changes.max_steps.filter(|&max_steps| max_steps < step))
            {
                let problem = format!("at least {step}, the steps that this run has done");
                return Err(Error::option("maxSteps", too_few, problem));
            }
            options.validate()?;
            // Once: it may come through a pipe.
            let data = if let Some(data) = text.take() {
                data
            } else {
                let crc32 = found.config.data_crc32;
                Dataset::read_again(&options.data, &tokenizer, options.ctx_len, crc32, stop)?
            };
            options.check_memory(tokenizer.n_vocab())?;
            options.data = std::path::absolute(&options.data).map_err(Error::io("find", &options.data))?;
            let cpu = Arc::new(options.start_cpu()?);
            if let Some(Checkpoint { params, .. }) = unknown {
                let store = Parameters::of_raw(layout.clone(), params.clone());
                let checked = Model::of_store(model, store, Arc::clone(&cpu));
                if !save::is_sound(&checked, &data, &options, stop)? {
                    (before, text) = (step, Some(data));
                    continue;
                }
                changes.check_steps(step)?;
            }
            break (checkpoint, options, data, cpu);
        };
        let step = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.manifest.step);
        found.config.options = TrainOptions { threads: None, ..options.clone() };
        let run = RunFolder::resume(found, step)?;
        let mut trainer = Self::assemble(options, (network, layout), (data, tokenizer), run, cpu, checkpoint);
        trainer.went_back_from = newest.filter(|&newest| newest > step);
        Ok(trainer)
    }

    fn assemble(
        options: TrainOptions,
        (network, layout): (Network, Layout),
        (data, tokenizer): (Dataset, Tokenizer),
        run: RunFolder,
        cpu: Arc<Cpu>,
        checkpoint: Option<Checkpoint>,
    ) -> Self {
        let config = options.model(tokenizer.n_vocab());
        let (step, seconds, raw, moments) = match checkpoint {
            None => (0, 0.0, initialize(&cpu, &layout, options.seed), None),
            Some(Checkpoint { manifest, params, means, squares }) => {
                (manifest.step, manifest.seconds, params, Some((means, squares)))
            }
        };
        let params = Parameters::of_raw(layout.clone(), raw);
        let mut optimizer = AdamW::new(&params, settings(&options));
        if let Some((means, squares)) = moments {
            optimizer = optimizer.with_moments(means, squares);
        }
        let tape = Tape::of_store(cpu, params);
        Self {
            windows: Windows::new(options.seed, data.train().len(), options.ctx_len),
            schedule: schedule(&options),
            options,
            config,
            network,
            layout,
            tokenizer,
            data,
            tape,
            optimizer,
            run,
            step,
            seconds,
            went_back_from: None,
            diverged: None,
            val_loss: None,
            soundness: None,
            inputs: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// Learns from one batch.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss or a gradient is not finite: the parameters stay as they were, and nothing more
    /// is saved. [`Error::Io`] if the log cannot be written.
    pub fn step(&mut self) -> Result<StepReport> {
        self.learn(|| false)
    }

    /// As [`step`](Self::step), looking at `stop` between two operators.
    ///
    /// # Errors
    /// [`Error::Aborted`] soon after `stop` is set: parameters, moments, log and the number of steps are as before, and
    /// the next step is the one that this would have been. From where it begins to change the parameters, a step is
    /// finished instead.
    pub fn step_until(&mut self, stop: &AtomicBool) -> Result<StepReport> {
        self.learn(|| stop.load(Ordering::Relaxed))
    }

    fn learn(&mut self, mut stop: impl FnMut() -> bool) -> Result<StepReport> {
        self.check_not_diverged()?;
        let start = Instant::now();
        self.next_batch();
        self.tape.begin(&self.inputs, self.options.ctx_len);
        let mut tape = Until::new(&mut self.tape, &mut stop);
        let logits = self.network.forward(&mut tape);
        let loss = tape.cross_entropy(logits, &self.targets)?;
        if !loss.is_finite() {
            return Err(self.diverge(self.step + 1, loss));
        }
        tape.backward()?;
        let cpu = Arc::clone(self.tape.cpu());
        let grad_norm = global_norm(&cpu, self.tape.params(), self.tape.param_gradients());
        if !grad_norm.is_finite() {
            // The next loss would be.
            return Err(self.diverge(self.step + 1, f32::NAN));
        }
        if stop() {
            return Err(Error::Aborted);
        }

        // From here on there is no way back.
        let learning_rate = self.schedule.learning_rate(self.step);
        let (params, gradients) = self.tape.params_and_gradients();
        self.optimizer.step(&cpu, self.step + 1, learning_rate, grad_norm, params, gradients);
        self.step += 1;
        (self.val_loss, self.soundness) = (None, None);
        let seconds = start.elapsed().as_secs_f64();
        self.seconds += seconds;
        self.run.log(&LogLine {
            step: self.step,
            loss: Some(loss),
            learning_rate: Some(learning_rate),
            grad_norm: Some(grad_norm),
            val_loss: None,
            seconds: self.seconds,
        })?;
        let due = |interval: u64| self.done() || (interval > 0 && self.step.is_multiple_of(interval));
        Ok(StepReport {
            step: self.step,
            loss,
            learning_rate,
            grad_norm,
            tokens: self.inputs.len(),
            seconds,
            validation_due: due(self.options.eval_interval),
            checkpoint_due: due(self.options.checkpoint_interval),
        })
    }

    /// The model as it is now, ready to run on the trainer's threads. It shares its values with the trainer until a step
    /// changes those.
    pub fn model(&self) -> Model {
        Model::of_store(self.config, self.tape.params().clone(), Arc::clone(self.tape.cpu()))
    }

    /// Whether all steps are done.
    pub fn done(&self) -> bool {
        self.step >= self.options.max_steps
    }

    /// Steps done so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The step of the newest checkpoint there was, if the run was resumed from before it, because it was not sound.
    pub fn went_back_from(&self) -> Option<u64> {
        self.went_back_from
    }

    /// Time spent in steps since the run began, over all its sessions.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// The options in force.
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Number of parameters.
    pub fn n_params(&self) -> usize {
        self.layout.n_params()
    }

    /// How the text became tokens.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The text.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// The folder of the run.
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

    /// What matrix products multiply.
    pub fn precision(&self) -> Precision {
        self.tape.cpu().precision()
    }

    /// The parameters.
    pub fn params(&self) -> &Parameters {
        self.tape.params()
    }

    /// Positions of the parameters that are trained.
    fn trained(&self) -> Vec<usize> {
        let params = self.tape.params();
        (0..params.layout().specs().len()).filter(|&index| params.is_trained(index)).collect()
    }

    /// Gathers the texts of the step after `self.step`, and what follows each of their tokens.
    fn next_batch(&mut self) {
        let (tokens, batch_size) = (self.data.train(), self.options.batch_size as u64);
        self.inputs.clear();
        self.targets.clear();
        for index in 0..batch_size {
            let window = self.windows.get(self.step * batch_size + index);
            self.inputs.extend_from_slice(&tokens[window.clone()]);
            self.targets.extend_from_slice(&tokens[window.start + 1..=window.end]);
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
        // If the folder cannot be read, the divergence is still the greater news.
        let checkpoint = self.run.newest_sound().ok().flatten().map(|(manifest, path)| SoundCheckpoint {
            path,
            step: manifest.step,
            val_loss: manifest.soundness.map(|soundness| soundness.val_loss),
        });
        let run = self.run.path().to_owned();
        Error::Diverged { step, loss, run, checkpoint, learning_rate: self.schedule.peak }
    }
}

fn settings(options: &TrainOptions) -> AdamWSettings {
    let &TrainOptions { beta1, beta2, weight_decay, grad_clip, .. } = options;
    AdamWSettings { beta1, beta2, eps: 1e-8, weight_decay, grad_clip }
}

/// # Panics
/// If the options are not resolved.
fn schedule(options: &TrainOptions) -> Schedule {
    let resolved = "options are resolved when a run begins";
    Schedule {
        peak: options.learning_rate.expect(resolved),
        last: options.final_learning_rate.expect(resolved),
        warmup: options.warmup_steps.expect(resolved),
        max_steps: options.max_steps,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(trainer: &Trainer) -> Vec<Vec<f32>> {
        trainer.trained().into_iter().map(|index| trainer.params().raw(index).to_vec()).collect()
    }

    #[test]
    fn a_checkpoint_that_does_not_say_whether_it_is_sound_is_measured() {
        let folder = tempfile::tempdir().expect("a folder");
        let (book, out) = (folder.path().join("book.txt"), folder.path().join("run"));
        std::fs::write(&book, "tick tock ".repeat(60)).expect("a text");
        let options = TrainOptions {
            n_layer: 1,
            n_embd: 16,
            ctx_len: 12,
            batch_size: 2,
            threads: Some(1),
            ..TrainOptions::new(&book, &out)
        };
        let trainer = Trainer::create(&options).expect("a run");
        // The step of each, and what its parameters are multiplied by: sound, far above chance, no numbers.
        for (step, factor) in [(3, 1.0), (4, 1e3), (5, f32::NAN)] {
            let soundness = Soundness { val_loss: 1.0, is_sound: true };
            let (crc32, model) = (trainer.data.crc32(), trainer.config);
            let mut manifest =
                checkpoint::Manifest::new(step, model, trainer.options.clone(), crc32, 0.0, soundness);
            (manifest.format, manifest.soundness) = (1, None);
            let params: Vec<Vec<f32>> =
                raw(&trainer).iter().map(|values| values.iter().map(|x| x * factor).collect()).collect();
            let (means, squares) = trainer.optimizer.moments();
            checkpoint::write(&out, manifest, [&params, means, squares]).expect("a checkpoint");
        }
        drop(trainer);
        let trainer = Trainer::resume(&out, &ResumeOptions::default()).expect("the run");
        assert_eq!((trainer.steps(), trainer.went_back_from()), (3, Some(5)));
        assert!(!out.join("checkpoint-4").exists());
    }

    #[test]
    fn a_step_can_be_stopped_at_every_look_and_leaves_no_trace() {
        let folder = tempfile::tempdir().expect("a folder");
        let lines: Vec<_> = (0..200).map(|i| format!("{} whales, {} ships", i * i % 97, i % 13)).collect();
        let book = folder.path().join("book.txt");
        std::fs::write(&book, lines.join("\n")).expect("a text");
        let create = |out: &str| {
            let shape = TrainOptions {
                n_layer: 2,
                n_embd: 8,
                ctx_len: 8,
                batch_size: 2,
                ..TrainOptions::new("", "")
            };
            let options = TrainOptions {
                data: book.clone(),
                out: folder.path().join(out),
                threads: Some(1),
                max_steps: 4,
                ..shape
            };
            Trainer::create(&options).expect("a run")
        };
        let (mut whole, mut stopped) = (create("whole"), create("stopped"));
        let log = |trainer: &Trainer| std::fs::read(trainer.out().join("log.jsonl")).expect("a log");
        for step in 1..=3 {
            let mut looks = 0_u32;
            let expected = whole.learn(|| {
                looks += 1;
                false
            });
            let expected = expected.expect("a step");
            let before = (raw(&stopped), log(&stopped));
            for at in 0..looks {
                let mut left = at;
                let error = stopped.learn(|| {
                    left = left.wrapping_sub(1);
                    left == u32::MAX
                });
                assert!(matches!(error, Err(Error::Aborted)), "step {step}, look {at} of {looks}: {error:?}");
                assert_eq!(stopped.steps(), step - 1);
                assert!((raw(&stopped), log(&stopped)) == before);
            }
            let found = stopped.step().expect("the same step");
            assert_eq!((found.loss, found.grad_norm), (expected.loss, expected.grad_norm));
            assert!(raw(&stopped) == raw(&whole) && stopped.optimizer.moments() == whole.optimizer.moments());
        }
    }
}
