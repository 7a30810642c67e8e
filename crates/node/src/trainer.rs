//! A training run.

use std::path::PathBuf;
use std::sync::Arc;

use napi::Env;
use napi::bindgen_prelude::{AsyncTask, ObjectFinalize, ToNapiValue, TypeName};
use napi_derive::napi;
use rwkv::Error;
use rwkv_kernels::Precision;
use rwkv_train::{ResumeOptions, TrainOptions, TrainPrecision, Trainer};

use crate::control::Cancel;
use crate::environment::{Close, Held};
use crate::failure::{Result, Thrown};
use crate::job::Job;
use crate::number::{count, whole};
use crate::session::Sampling;
use crate::slot::{Claim, Slot};
use crate::tokenizer::NativeTokenizer;

/// Options as JavaScript has them: numbers are floats until they are checked. See `TrainOptions` of `rwkv-train`.
#[napi(object)]
#[derive(Default)]
pub struct TrainSettings {
    pub data: Option<String>,
    pub out: Option<String>,
    pub tokenizer: Option<String>,
    pub n_layer: Option<f64>,
    pub n_embd: Option<f64>,
    pub ctx_len: Option<f64>,
    pub batch_size: Option<f64>,
    pub max_steps: Option<f64>,
    pub learning_rate: Option<f64>,
    pub final_learning_rate: Option<f64>,
    pub warmup_steps: Option<f64>,
    pub weight_decay: Option<f64>,
    pub beta1: Option<f64>,
    pub beta2: Option<f64>,
    pub grad_clip: Option<f64>,
    pub seed: Option<f64>,
    pub threads: Option<f64>,
    pub precision: Option<String>,
    pub eval_interval: Option<f64>,
    pub checkpoint_interval: Option<f64>,
}

impl TrainSettings {
    /// Options of a new run; what was left out has its default.
    fn options(&self) -> Result<TrainOptions> {
        let missing = |name| Error::option(name, "missing", "a path");
        let data = self.data.as_deref().ok_or_else(|| missing("data"))?;
        let out = self.out.as_deref().ok_or_else(|| missing("out"))?;
        let default = TrainOptions::new(data, out);
        let tokenizer = self.tokenizer.as_deref().map_or(Ok(default.tokenizer), str::parse)?;
        Ok(TrainOptions {
            tokenizer,
            n_layer: count("nLayer", self.n_layer)?.unwrap_or(default.n_layer),
            n_embd: count("nEmbd", self.n_embd)?.unwrap_or(default.n_embd),
            ctx_len: count("ctxLen", self.ctx_len)?.unwrap_or(default.ctx_len),
            batch_size: count("batchSize", self.batch_size)?.unwrap_or(default.batch_size),
            max_steps: whole("maxSteps", self.max_steps)?.unwrap_or(default.max_steps),
            learning_rate: self.learning_rate.or(default.learning_rate),
            final_learning_rate: self.final_learning_rate.or(default.final_learning_rate),
            warmup_steps: whole("warmupSteps", self.warmup_steps)?.or(default.warmup_steps),
            weight_decay: self.weight_decay.unwrap_or(default.weight_decay),
            beta1: self.beta1.unwrap_or(default.beta1),
            beta2: self.beta2.unwrap_or(default.beta2),
            grad_clip: self.grad_clip.unwrap_or(default.grad_clip),
            seed: whole("seed", self.seed)?.unwrap_or(default.seed),
            threads: count("threads", self.threads)?.or(default.threads),
            precision: self.precision()?.or(default.precision),
            eval_interval: whole("evalInterval", self.eval_interval)?.unwrap_or(default.eval_interval),
            checkpoint_interval: whole("checkpointInterval", self.checkpoint_interval)?
                .unwrap_or(default.checkpoint_interval),
            ..default
        })
    }

    /// What changes when a run goes on.
    fn changes(&self) -> Result<ResumeOptions> {
        Ok(ResumeOptions {
            data: self.data.as_ref().map(PathBuf::from),
            max_steps: whole("maxSteps", self.max_steps)?,
            learning_rate: self.learning_rate,
            final_learning_rate: self.final_learning_rate,
            weight_decay: self.weight_decay,
            threads: count("threads", self.threads)?,
            precision: self.precision()?,
            eval_interval: whole("evalInterval", self.eval_interval)?,
            checkpoint_interval: whole("checkpointInterval", self.checkpoint_interval)?,
        })
    }

    fn precision(&self) -> Result<Option<TrainPrecision>> {
        Ok(self.precision.as_deref().map(str::parse).transpose()?)
    }

    /// The options in force.
    fn of(trainer: &Trainer) -> Self {
        let options = trainer.options();
        Self {
            data: Some(options.data.display().to_string()),
            out: Some(trainer.out().display().to_string()),
            tokenizer: Some(NativeTokenizer::kind_of(trainer.tokenizer()).to_owned()),
            n_layer: Some(options.n_layer as f64),
            n_embd: Some(options.n_embd as f64),
            ctx_len: Some(options.ctx_len as f64),
            batch_size: Some(options.batch_size as f64),
            max_steps: Some(options.max_steps as f64),
            learning_rate: options.learning_rate,
            final_learning_rate: options.final_learning_rate,
            warmup_steps: options.warmup_steps.map(|steps| steps as f64),
            weight_decay: Some(options.weight_decay),
            beta1: Some(options.beta1),
            beta2: Some(options.beta2),
            grad_clip: Some(options.grad_clip),
            seed: Some(options.seed as f64),
            threads: Some(trainer.threads() as f64),
            precision: Some(precision_name(trainer.precision()).to_owned()),
            eval_interval: Some(options.eval_interval as f64),
            checkpoint_interval: Some(options.checkpoint_interval as f64),
        }
    }
}

fn precision_name(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    }
}

/// What a run is about.
#[napi(object)]
pub struct RunInfo {
    /// The options in force.
    pub options: TrainSettings,
    /// Number of parameters.
    pub parameters: f64,
    /// Tokens in the vocabulary.
    pub n_vocab: u32,
    /// Tokens to learn.
    pub train_tokens: f64,
    /// Tokens to be tested on.
    pub val_tokens: f64,
    /// Steps done by now: more than 0 if the run goes on from a checkpoint.
    pub step: f64,
    /// Time spent in those steps.
    pub seconds: f64,
    /// The step of the newest checkpoint there was, if the run goes on from before it, because it was not sound.
    pub went_back_from: Option<f64>,
    /// The instruction set in use.
    pub isa: String,
}

impl RunInfo {
    fn of(trainer: &Trainer) -> Self {
        Self {
            options: TrainSettings::of(trainer),
            parameters: trainer.n_params() as f64,
            n_vocab: trainer.config().n_vocab as u32,
            train_tokens: trainer.data().train().len() as f64,
            val_tokens: trainer.data().validation().len() as f64,
            step: trainer.steps() as f64,
            seconds: trainer.seconds(),
            went_back_from: trainer.went_back_from().map(|step| step as f64),
            isa: trainer.isa().to_string(),
        }
    }
}

/// What a step did.
#[napi(object)]
pub struct StepInfo {
    /// The step, counted from 1.
    pub step: f64,
    /// Mean loss of the batch before the step, in nats a token.
    pub loss: f64,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// The norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Tokens of the batch.
    pub tokens: f64,
    /// How long the step took.
    pub seconds: f64,
    /// The options ask for a validation after this step.
    pub validation_due: bool,
    /// The options ask for a checkpoint after this step.
    pub checkpoint_due: bool,
}

/// What was saved.
#[napi(object)]
pub struct SaveInfo {
    /// Mean loss on validation text: of the whole split if it was validated after this step, else of a part of it.
    pub val_loss: f64,
    /// Whether that, or the loss on training text, is at most one nat above that of guessing.
    pub is_sound: bool,
    /// Whether model.bin is of this step: a model that is not sound does not replace another.
    pub wrote_model: bool,
}

/// A model in training.
#[napi(custom_finalize)]
pub struct NativeTrainer {
    trainer: Arc<Slot<Trainer>>,
    held: Held,
}

#[napi]
impl NativeTrainer {
    /// Begins a run in a new folder.
    #[napi(ts_return_type = "Promise<NativeTrainer>")]
    pub fn create(
        options: TrainSettings,
        cancel: &Cancel,
    ) -> std::result::Result<AsyncTask<Job<NativeTrainer>>, Thrown> {
        let (options, cancel) = (options.options()?, cancel.flag());
        Ok(Job::run_then(
            move || {
                cancel.check()?;
                Ok(Trainer::create_until(&options, cancel.raised())?)
            },
            Self::new,
        ))
    }

    /// Goes on with the run in `out`.
    #[napi(ts_return_type = "Promise<NativeTrainer>")]
    pub fn resume(
        out: String,
        changes: TrainSettings,
        cancel: &Cancel,
    ) -> std::result::Result<AsyncTask<Job<NativeTrainer>>, Thrown> {
        let (changes, cancel) = (changes.changes()?, cancel.flag());
        Ok(Job::run_then(
            move || {
                cancel.check()?;
                Ok(Trainer::resume_until(out, &changes, cancel.raised())?)
            },
            Self::new,
        ))
    }

    fn new(trainer: Trainer, env: Env) -> Self {
        // Values, gradients and two moments of each parameter.
        let held = Held::new(16 * trainer.n_params() as u64, env);
        Self { trainer: Slot::new("trainer", trainer), held }
    }

    /// What the run is about.
    #[napi(getter)]
    pub fn info(&self) -> std::result::Result<RunInfo, Thrown> {
        Ok(self.trainer.with(|trainer| RunInfo::of(trainer))?)
    }

    /// How the text becomes tokens.
    #[napi(getter)]
    pub fn tokenizer(&self) -> std::result::Result<NativeTokenizer, Thrown> {
        Ok(self.trainer.with(|trainer| NativeTokenizer(Arc::new(trainer.tokenizer().clone())))?)
    }

    /// Learns from one batch.
    #[napi(ts_return_type = "Promise<StepInfo>")]
    pub fn step(&self, cancel: &Cancel) -> std::result::Result<AsyncTask<Job<StepInfo>>, Thrown> {
        let flag = cancel.flag();
        self.work(cancel, move |trainer| {
            flag.check()?;
            if trainer.done() {
                let steps = trainer.steps();
                return Err(
                    Error::option("maxSteps", steps, "more to go on: that many steps are done").into()
                );
            }
            let report = trainer.step_until(flag.raised())?;
            Ok(StepInfo {
                step: report.step as f64,
                loss: report.loss.into(),
                learning_rate: report.learning_rate,
                grad_norm: report.grad_norm,
                tokens: report.tokens as f64,
                seconds: report.seconds,
                validation_due: report.validation_due,
                checkpoint_due: report.checkpoint_due,
            })
        })
    }

    /// Mean loss over the whole validation split.
    #[napi(ts_return_type = "Promise<number>")]
    pub fn validate(&self, cancel: &Cancel) -> std::result::Result<AsyncTask<Job<f64>>, Thrown> {
        let flag = cancel.flag();
        self.work(cancel, move |trainer| {
            const PARTS: f64 = 1000.0;
            let progress = |part: f64| flag.progress((part * PARTS) as usize, PARTS as usize);
            Ok(trainer.validate(flag.raised(), progress)?.into())
        })
    }

    /// What the model writes after `prompt`, in `tokens` tokens.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn sample(
        &self,
        prompt: String,
        tokens: f64,
        sampling: Sampling,
        cancel: &Cancel,
    ) -> std::result::Result<AsyncTask<Job<String>>, Thrown> {
        let tokens = count("maxTokens", Some(tokens))?.unwrap_or_default();
        let (flag, sampling) = (cancel.flag(), sampling.options()?);
        self.work(cancel, move |trainer| {
            flag.check()?;
            Ok(trainer.sample(&prompt, tokens, sampling, flag.raised())?)
        })
    }

    /// Writes a checkpoint, and the model as it is.
    #[napi(ts_return_type = "Promise<SaveInfo>")]
    pub fn save(&self, cancel: &Cancel) -> std::result::Result<AsyncTask<Job<SaveInfo>>, Thrown> {
        let flag = cancel.flag();
        self.work(cancel, move |trainer| {
            let (soundness, wrote_model) = trainer.save_until(flag.raised())?;
            Ok(SaveInfo { val_loss: soundness.val_loss.into(), is_sound: soundness.is_sound, wrote_model })
        })
    }

    /// Frees the run's memory and threads, when the call under way has stopped. Nothing is saved.
    #[napi]
    pub fn close(&self, env: Env) {
        self.trainer.close();
        self.held.release(env);
    }

    /// One call's work on the trainer.
    fn work<T: ToNapiValue + TypeName + Send + 'static>(
        &self,
        cancel: &Cancel,
        work: impl FnOnce(&mut Trainer) -> Result<T> + Send + 'static,
    ) -> std::result::Result<AsyncTask<Job<T>>, Thrown> {
        let mut trainer: Claim<Trainer> = self.trainer.claim(&cancel.flag())?;
        Ok(Job::run(move || work(&mut trainer)))
    }
}

impl ObjectFinalize for NativeTrainer {
    fn finalize(self, env: Env) -> napi::Result<()> {
        self.close(env);
        Ok(())
    }
}
