//! A training run, moved on by its caller one step at a time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rwkv::model::Network;
use rwkv::params::Layout;
use rwkv::state::StateLayout;
use rwkv::{
    DataType, Decoder, Error, Model, ModelConfig, Result, Sampler, SamplerOptions, Tokenizer, write_model,
};
use rwkv_kernels::{Cpu, Isa, Precision};

use crate::checkpoint::{self, Checkpoint, Manifest};
use crate::data::{Dataset, Windows, validation_windows};
use crate::init::initialize;
use crate::optimizer::{AdamW, AdamWSettings, global_norm};
use crate::options::{ResumeOptions, TrainOptions};
use crate::run::{LogLine, RunConfig, RunFolder, checkpoints, fault};
use crate::schedule::Schedule;
use crate::tape::Tape;

/// A model in training, with its data, its optimizer and its folder.
///
/// The caller pulls: [`step`](Self::step) until [`done`](Self::done), and in between, when a report says it is due or
/// whenever it likes, [`validate`](Self::validate) and [`save_checkpoint`](Self::save_checkpoint).
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
    diverged: Option<f32>,
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
    /// learned; [`Error::Run`] if the folder holds a run already. Nothing is written before all of these are ruled out.
    pub fn create(options: &TrainOptions) -> Result<Self> {
        options.validate()?;
        let mut options = options.resolved();
        let (data, tokenizer) = Dataset::read(&options.data, options.tokenizer, options.ctx_len)?;
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
        let run = RunFolder::create(&options.out, &config, &tokenizer)?;
        Ok(Self::assemble(options, Network::new(&model), (data, tokenizer), run, cpu, None))
    }

    /// Goes on with the run in `out` from its newest checkpoint, as if it had never stopped; from the beginning if it
    /// has none.
    ///
    /// # Errors
    /// [`Error::Run`] if there is no run, or if its checkpoint is damaged; [`Error::Data`] if the text is not the one it
    /// began with; otherwise as [`create`](Self::create).
    pub fn resume(out: impl AsRef<Path>, changes: &ResumeOptions) -> Result<Self> {
        let out = out.as_ref();
        let (mut config, tokenizer) = RunFolder::read(out)?;
        let network = Network::new(&config.model);
        let newest = checkpoints(out)?.pop();
        let checkpoint = newest.map(|(_, path)| checkpoint::read(&path, &network.1)).transpose()?;
        if let Some(Manifest { model, options, .. }) =
            checkpoint.as_ref().map(|checkpoint| &checkpoint.manifest)
        {
            if *model != config.model || options.model(model.n_vocab) != *model {
                return Err(fault(out, "its checkpoint is of another model than its config.json"));
            }
            config.options = options.clone();
        }
        let step = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.manifest.step);
        if let Some(too_few) = changes.max_steps.filter(|&max_steps| max_steps < step) {
            return Err(Error::option(
                "maxSteps",
                too_few,
                format!("at least {step}, the steps that this run has done"),
            ));
        }
        let mut options = changes.apply(TrainOptions { out: out.to_owned(), ..config.options.resolved() });
        options.validate()?;
        let data = Dataset::read_again(&options.data, &tokenizer, options.ctx_len, config.data_crc32)?;
        options.check_memory(tokenizer.n_vocab())?;
        options.data = std::path::absolute(&options.data).map_err(Error::io("find", &options.data))?;
        let cpu = Arc::new(options.start_cpu()?);

        config.options = TrainOptions { threads: None, ..options.clone() };
        let run = RunFolder::resume(out, &config, step)?;
        Ok(Self::assemble(options, network, (data, tokenizer), run, cpu, checkpoint))
    }

    fn assemble(
        options: TrainOptions,
        (network, layout, _): (Network, Layout, StateLayout),
        (data, tokenizer): (Dataset, Tokenizer),
        run: RunFolder,
        cpu: Arc<Cpu>,
        checkpoint: Option<Checkpoint>,
    ) -> Self {
        let config = options.model(tokenizer.n_vocab());
        let optimizer = AdamW::new(&layout, settings(&options));
        let (step, seconds, params, optimizer) = match checkpoint {
            None => (0, 0.0, initialize(&cpu, &config, &layout, options.seed), optimizer),
            Some(Checkpoint { manifest, params, means, squares }) => {
                (manifest.step, manifest.seconds, params, optimizer.with_moments(means, squares))
            }
        };
        let tape = Tape::new(cpu, &layout, params);
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
            diverged: None,
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
        self.sound()?;
        let start = Instant::now();
        self.next_batch();
        let loss = self.forward();
        if !loss.is_finite() {
            return Err(self.diverge(loss));
        }
        self.tape.backward();
        let cpu = Arc::clone(self.tape.cpu());
        let grad_norm = global_norm(&cpu, self.tape.param_gradients());
        if !grad_norm.is_finite() {
            // The next loss would be.
            return Err(self.diverge(f32::NAN));
        }
        let learning_rate = self.schedule.learning_rate(self.step);
        let (params, gradients) = self.tape.params_and_gradients();
        self.optimizer.step(&cpu, self.step + 1, learning_rate, grad_norm, params, gradients);
        self.step += 1;
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

    /// Mean loss over the whole validation split, in nats a token: in adjoining windows of `ctx_len` tokens, each from
    /// an empty state. `progress` hears how much is done, from 0 to 1. Always in f32, as inference will run the model.
    ///
    /// # Errors
    /// [`Error::Aborted`] soon after `cancel` is set. [`Error::Io`] if the log cannot be written.
    pub fn validate(&mut self, cancel: &AtomicBool, mut progress: impl FnMut(f64)) -> Result<f32> {
        let (len, count) = validation_windows(self.data.validation().len(), self.options.ctx_len);
        let total = len * count;
        let (mut sum, mut done) = (0.0, 0);
        let training = self.tape.compute_on(Arc::new(self.tape.cpu().with_precision(Precision::F32)));
        while done < total && !cancel.load(Ordering::Relaxed) {
            // Passes as large as a training step's, so that they use its buffers.
            let end = total.min(done + len * self.options.batch_size);
            let tokens = self.data.validation();
            self.inputs.clear();
            self.inputs.extend_from_slice(&tokens[done..end]);
            self.targets.clear();
            self.targets.extend_from_slice(&tokens[done + 1..=end]);
            self.tape.begin(&self.inputs, len);
            let logits = self.network.forward(&mut self.tape);
            sum += f64::from(self.tape.cross_entropy(logits, &self.targets)) * (end - done) as f64;
            done = end;
            progress(done as f64 / total as f64);
        }
        self.tape.compute_on(training);
        if done < total {
            return Err(Error::Aborted);
        }
        let val_loss = (sum / total as f64) as f32;
        let line = LogLine {
            step: self.step,
            val_loss: Some(val_loss),
            seconds: self.seconds,
            ..LogLine::default()
        };
        self.run.log(&line)?;
        Ok(val_loss)
    }

    /// Writes `checkpoint-<step>/`, from which [`resume`](Self::resume) goes on, and removes all but the newest two.
    ///
    /// # Errors
    /// [`Error::Io`], with the last good checkpoint still there; [`Error::Diverged`] once the run has diverged.
    pub fn save_checkpoint(&self) -> Result<()> {
        self.sound()?;
        let options = TrainOptions { threads: None, ..self.options.clone() };
        let manifest = Manifest::new(self.step, self.config, options, self.data.crc32(), self.seconds);
        let (means, squares) = self.optimizer.moments();
        checkpoint::write(self.run.path(), manifest, [self.tape.params(), means, squares])?;
        self.run.prune()
    }

    /// Writes `model.bin`, which inference reads.
    ///
    /// # Errors
    /// As [`save_checkpoint`](Self::save_checkpoint).
    pub fn save_model(&self) -> Result<()> {
        self.sound()?;
        let path = self.run.path().join("model.bin");
        write_model(path, &self.config, &self.layout, &self.stored_params(), DataType::F32)
    }

    /// The model as it is now, ready to run on the trainer's threads.
    pub fn model(&self) -> Model {
        Model::from_parameters(self.config, self.stored_params(), Arc::clone(self.tape.cpu()))
    }

    /// What the model writes after `prompt`: `n_tokens` tokens. Without a prompt it goes on from a line break, or from
    /// the first token if the text has none.
    ///
    /// # Errors
    /// [`Error::UnknownCharacter`] in the prompt; [`Error::InvalidOption`] among the options.
    pub fn sample(&self, prompt: &str, n_tokens: usize, options: SamplerOptions) -> Result<String> {
        let mut sampler = Sampler::new(options)?;
        let mut tokens = self.tokenizer.encode(prompt)?;
        if tokens.is_empty() {
            tokens = self.tokenizer.encode("\n").unwrap_or_else(|_| vec![0]);
        }
        let model = self.model();
        let mut state = model.new_state();
        let mut decoder = Decoder::default();
        let mut text = String::new();
        for _ in 0..n_tokens {
            let logits = model.eval(&tokens, &mut state)?;
            tokens = vec![sampler.sample(&logits)];
            text += &decoder.push(&self.tokenizer.decode(&tokens)?);
        }
        Ok(text + &decoder.finish())
    }

    /// Whether all steps are done.
    pub fn done(&self) -> bool {
        self.step >= self.options.max_steps
    }

    /// Steps done so far.
    pub fn steps(&self) -> u64 {
        self.step
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

    /// Raw parameters, in the order of the model's layout.
    pub fn params(&self) -> &[Vec<f32>] {
        self.tape.params()
    }

    /// Parameters as model files and inference have them.
    fn stored_params(&self) -> Vec<Vec<f32>> {
        let specs = self.layout.specs().iter().zip(self.tape.params());
        specs.map(|(spec, raw)| raw.iter().map(|&raw| spec.stored.to_file(raw)).collect()).collect()
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

    fn forward(&mut self) -> f32 {
        self.tape.begin(&self.inputs, self.options.ctx_len);
        let logits = self.network.forward(&mut self.tape);
        self.tape.cross_entropy(logits, &self.targets)
    }

    fn diverge(&mut self, loss: f32) -> Error {
        self.diverged = Some(loss);
        Error::Diverged { step: self.step + 1, loss }
    }

    fn sound(&self) -> Result<()> {
        match self.diverged {
            Some(loss) => Err(Error::Diverged { step: self.step + 1, loss }),
            None => Ok(()),
        }
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
