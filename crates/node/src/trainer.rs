//! A training run.

use std::sync::Arc;

use napi::Env;
use napi::bindgen_prelude::{ObjectFinalize, ToNapiValue, Uint8Array};
use napi_derive::napi;
use rwkv_train::{
    Input, Inputs, Kept, OptimizerKind, Part, Pass, ResumeOptions, Saved, StepProfile, StepReport,
    TrainOptions, Trainer,
};

use crate::control::Cancel;
use crate::environment::{Close, Held};
use crate::failure::{Failure, Result, Thrown};
use crate::job::Job;
use crate::number::count;
use crate::session::sampling;
use crate::slot::{Claim, Slot};
use crate::tokenizer::NativeTokenizer;

/// What a run is about.
#[napi(object)]
pub struct RunInfo {
    /// The options in force, as a JSON object.
    pub options: String,
    /// Number of the model's parameters.
    pub parameters: f64,
    /// Number of values that are trained: of parameters, of adapters, or of a state.
    pub trained_parameters: f64,
    /// The file that the run writes.
    pub result: String,
    /// Tokens in the vocabulary.
    pub n_vocab: u32,
    /// Tokens to learn.
    pub train_tokens: f64,
    /// Tokens to be tested on.
    pub val_tokens: f64,
    /// How many bytes of text such a token stands for, on average.
    pub bytes_per_token: Option<f64>,
    /// Steps done by now: more than 0 if the run goes on from a checkpoint.
    pub step: f64,
    /// Time spent in those steps.
    pub seconds: f64,
    /// The step of the newest checkpoint there was, if the run goes on from before it, because it was not
    /// sound.
    pub went_back_from: Option<f64>,
    /// The best validation so far.
    pub best: Option<BestInfo>,
    /// What the file that the run writes is.
    pub kept: Option<KeptInfo>,
    /// Whether the run is over.
    pub is_done: bool,
    /// The instruction set in use.
    pub isa: String,
}

impl RunInfo {
    fn of(trainer: &Trainer) -> Result<Self> {
        let options = TrainOptions {
            out: trainer.out().to_owned(),
            threads: Some(trainer.threads()),
            precision: Some(trainer.precision().into()),
            // A run of before there was a choice does not say.
            optimizer: Some(trainer.options().optimizer.unwrap_or(OptimizerKind::AdamW)),
            ..trainer.options().clone()
        };
        Ok(Self {
            options: options.to_json()?,
            parameters: trainer.n_params() as f64,
            trained_parameters: trainer.n_trained() as f64,
            result: trainer.result().display().to_string(),
            n_vocab: trainer.config().n_vocab as u32,
            train_tokens: trainer.data().train().len() as f64,
            val_tokens: trainer.data().validation().len() as f64,
            bytes_per_token: trainer.bytes_per_token(),
            step: trainer.steps() as f64,
            seconds: trainer.seconds(),
            went_back_from: trainer.went_back_from().map(|step| step as f64),
            best: BestInfo::of(trainer),
            kept: KeptInfo::of(trainer),
            is_done: trainer.done(),
            isa: trainer.isa().to_string(),
        })
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
}

impl StepInfo {
    fn of(report: &StepReport) -> Self {
        Self {
            step: report.step as f64,
            loss: report.loss.into(),
            learning_rate: report.learning_rate,
            grad_norm: report.grad_norm,
            tokens: report.tokens as f64,
            seconds: report.seconds,
        }
    }
}

/// A step of a run, what came after it, and what is known by then.
#[napi(object)]
pub struct AdvanceInfo {
    /// The step.
    pub step: StepInfo,
    /// Mean loss over the whole validation split, if it was due.
    pub val_loss: Option<f64>,
    /// What was saved, if that was due.
    pub saved: Option<SaveInfo>,
    /// The best validation so far.
    pub best: Option<BestInfo>,
    /// What the file that the run writes is.
    pub kept: Option<KeptInfo>,
    /// Time spent in steps.
    pub seconds: f64,
    /// Whether the run is over.
    pub is_done: bool,
}

/// The best validation of a run.
#[napi(object)]
pub struct BestInfo {
    /// The step after which it was.
    pub step: f64,
    /// Mean loss over the whole validation split.
    pub val_loss: f64,
}

impl BestInfo {
    fn of(trainer: &Trainer) -> Option<Self> {
        trainer.best().map(|best| Self { step: best.step as f64, val_loss: best.val_loss.into() })
    }
}

/// What the file is that a run writes.
#[napi(object)]
pub struct KeptInfo {
    /// The step after which it was written.
    pub step: f64,
    /// Mean loss over the whole validation split after that step, if that was taken.
    pub val_loss: Option<f64>,
}

impl KeptInfo {
    fn of(trainer: &Trainer) -> Option<Self> {
        let info = |kept: &Kept| Self { step: kept.step as f64, val_loss: kept.val_loss.map(f64::from) };
        trainer.kept().map(info)
    }
}

/// What a validation found.
#[napi(object)]
pub struct ValidationInfo {
    /// Mean loss over the whole validation split.
    pub val_loss: f64,
    /// The best validation of the run, perhaps this one.
    pub best: Option<BestInfo>,
    /// Whether the run is over.
    pub is_done: bool,
}

/// What was saved.
#[napi(object)]
pub struct SaveInfo {
    /// Mean loss on validation text: of the whole split if it was validated after this step, else of a part
    /// of it.
    pub val_loss: f64,
    /// Whether that, or the loss on training text, is at most one nat above that of guessing.
    pub is_sound: bool,
    /// Whether the file that the run writes is of this step: a model that is not sound does not replace
    /// another.
    pub wrote_model: bool,
    /// What that file is.
    pub kept: Option<KeptInfo>,
}

impl SaveInfo {
    fn of(saved: &Saved) -> Self {
        Self {
            val_loss: saved.soundness.val_loss.into(),
            is_sound: saved.soundness.is_sound,
            wrote_model: saved.wrote_result,
            kept: None,
        }
    }
}

/// A part of the time of some steps.
#[napi(object)]
pub struct PartInfo {
    /// `forward`, `backward` or `update`.
    #[napi(ts_type = "'forward' | 'backward' | 'update'")]
    pub pass: String,
    /// What was done.
    pub name: String,
    /// Time of all threads together.
    pub seconds: f64,
    /// The share of all threads' time.
    pub share: f64,
    /// Multiplications and additions of matrix products.
    pub operations: f64,
    /// Bytes of the tensors that were read and written.
    pub bytes: f64,
}

/// Where the time of some steps went.
#[napi(object)]
pub struct ProfileInfo {
    /// How many steps.
    pub steps: f64,
    /// Their time by the clock.
    pub seconds: f64,
    /// How many threads worked.
    pub threads: u32,
    /// What they did.
    pub parts: Vec<PartInfo>,
    /// The share of the time that no part has.
    pub rest: f64,
    /// Operations a second at best.
    pub peak_operations: f64,
    /// Bytes a second that are read from memory.
    pub read_bandwidth: f64,
}

impl ProfileInfo {
    fn of(profile: &StepProfile) -> Self {
        let part = |part: &Part| PartInfo {
            pass: match part.pass {
                Pass::Forward => "forward",
                Pass::Backward => "backward",
                Pass::Update => "update",
            }
            .to_owned(),
            name: part.name.to_owned(),
            seconds: part.time.as_secs_f64(),
            share: profile.share(part.time),
            operations: part.cost.operations as f64,
            bytes: part.cost.bytes as f64,
        };
        Self {
            steps: profile.steps as f64,
            seconds: profile.seconds,
            threads: profile.threads as u32,
            parts: profile.parts.iter().map(part).collect(),
            rest: profile.rest(),
            peak_operations: profile.peak_operations,
            read_bandwidth: profile.read_bandwidth,
        }
    }
}

/// A model in training.
#[napi(custom_finalize)]
pub struct NativeTrainer {
    trainer: Arc<Slot<Trainer>>,
    held: Held,
}

#[napi]
impl NativeTrainer {
    /// Begins a run in a new directory. The options are a JSON object; `texts` take the places of the texts in it, in
    /// their order: bytes, which JSON cannot hold.
    #[napi(ts_return_type = "Promise<NativeTrainer>")]
    #[allow(clippy::needless_pass_by_value)] // napi hands over strings
    pub fn create(
        options: String,
        texts: Vec<Uint8Array>,
        cancel: &Cancel,
    ) -> std::result::Result<Job<NativeTrainer>, Thrown> {
        let (mut options, flag) = (TrainOptions::from_json(&options).map_err(Failure::from)?, cancel.flag());
        let inputs = std::iter::once(&mut options.data).chain(&mut options.val).flat_map(Inputs::all_mut);
        let places = inputs.filter(|input| matches!(input, Input::Text(_)));
        for (place, text) in places.zip(texts) {
            *place = Input::text(text.to_vec());
        }
        let cancel = flag.clone();
        Ok(Job::run_then(
            &flag,
            move || {
                cancel.check()?;
                Ok(Trainer::create(&options, cancel.control())?)
            },
            Self::new,
        ))
    }

    /// Goes on with the run in `out`. The changes are a JSON object.
    #[napi(ts_return_type = "Promise<NativeTrainer>")]
    #[allow(clippy::needless_pass_by_value)] // napi hands over strings
    pub fn resume(
        out: String,
        changes: String,
        cancel: &Cancel,
    ) -> std::result::Result<Job<NativeTrainer>, Thrown> {
        let (changes, flag) = (ResumeOptions::from_json(&changes).map_err(Failure::from)?, cancel.flag());
        let cancel = flag.clone();
        Ok(Job::run_then(
            &flag,
            move || {
                cancel.check()?;
                Ok(Trainer::resume(out, &changes, cancel.control())?)
            },
            Self::new,
        ))
    }

    fn new(trainer: Trainer, env: Env) -> Self {
        // Values, gradients and two moments of what is trained. What is frozen belongs to the file.
        let held = Held::new(16 * trainer.n_trained() as u64, env);
        Self { trainer: Slot::new("trainer", trainer), held }
    }

    /// What the run is about.
    #[napi(getter)]
    pub fn info(&self) -> std::result::Result<RunInfo, Thrown> {
        Ok(self.trainer.with(|trainer| RunInfo::of(trainer))??)
    }

    /// How the text becomes tokens.
    #[napi(getter)]
    pub fn tokenizer(&self) -> std::result::Result<NativeTokenizer, Thrown> {
        Ok(self.trainer.with(|trainer| NativeTokenizer(trainer.tokenizer().clone()))?)
    }

    /// Learns from one batch.
    #[napi(ts_return_type = "Promise<StepInfo>")]
    pub fn step(&self, cancel: &Cancel) -> std::result::Result<Job<StepInfo>, Thrown> {
        let flag = cancel.flag();
        self.work(cancel, move |trainer| {
            flag.check()?;
            trainer.check_not_done()?;
            Ok(StepInfo::of(&trainer.step(flag.control())?))
        })
    }

    /// The next step of the run and what is due after it; nothing if the run is over.
    #[napi(ts_return_type = "Promise<AdvanceInfo | null>")]
    pub fn advance(&self, cancel: &Cancel) -> std::result::Result<Job<Option<AdvanceInfo>>, Thrown> {
        let flag = cancel.flag();
        self.work(cancel, move |trainer| {
            flag.check()?;
            let advance = trainer.advance(flag.control())?;
            Ok(advance.map(|advance| AdvanceInfo {
                step: StepInfo::of(&advance.step),
                val_loss: advance.val_loss.map(f64::from),
                saved: advance.saved.map(|saved| SaveInfo::of(&saved)),
                best: BestInfo::of(trainer),
                kept: KeptInfo::of(trainer),
                seconds: trainer.seconds(),
                is_done: trainer.done(),
            }))
        })
    }

    /// Mean loss over the whole validation split.
    #[napi(ts_return_type = "Promise<ValidationInfo>")]
    pub fn validate(&self, cancel: &Cancel) -> std::result::Result<Job<ValidationInfo>, Thrown> {
        let flag = cancel.flag();
        self.work(cancel, move |trainer| {
            let val_loss = trainer.validate(flag.control())?.into();
            Ok(ValidationInfo { val_loss, best: BestInfo::of(trainer), is_done: trainer.done() })
        })
    }

    /// Takes the time of the steps from now on.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn take_time(&self, cancel: &Cancel) -> std::result::Result<Job<()>, Thrown> {
        self.work(cancel, move |trainer| {
            trainer.take_time();
            Ok(())
        })
    }

    /// Where the time of the steps since then went.
    #[napi(ts_return_type = "Promise<ProfileInfo>")]
    pub fn profile(&self, cancel: &Cancel) -> std::result::Result<Job<ProfileInfo>, Thrown> {
        self.work(cancel, move |trainer| Ok(ProfileInfo::of(&trainer.profile())))
    }

    /// What the model writes after `prompt`, in `tokens` tokens.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn sample(
        &self,
        prompt: String,
        tokens: f64,
        options: String,
        cancel: &Cancel,
    ) -> std::result::Result<Job<String>, Thrown> {
        let tokens = count("maxTokens", Some(tokens))?.unwrap_or_default();
        let (flag, options) = (cancel.flag(), sampling(&options)?);
        self.work(cancel, move |trainer| {
            flag.check()?;
            Ok(trainer.sample(&prompt, tokens, options, flag.control())?)
        })
    }

    /// Writes a checkpoint, the model as it is, unless that would replace a better one, and, if asked to,
    /// something that the model writes.
    #[napi(ts_return_type = "Promise<SaveInfo>")]
    pub fn save(&self, with_sample: bool, cancel: &Cancel) -> std::result::Result<Job<SaveInfo>, Thrown> {
        let flag = cancel.flag();
        self.work(cancel, move |trainer| {
            let saved = if with_sample {
                trainer.save(flag.control())?
            } else {
                trainer.save_without_sample(flag.control())?
            };
            Ok(SaveInfo { kept: KeptInfo::of(trainer), ..SaveInfo::of(&saved) })
        })
    }

    /// Frees the run's memory and threads, when the call under way has stopped. Nothing is saved.
    #[napi]
    pub fn close(&self, env: Env) {
        self.trainer.close();
        self.held.release(env);
    }

    /// One call's work on the trainer.
    fn work<T: ToNapiValue + Send + 'static>(
        &self,
        cancel: &Cancel,
        work: impl FnOnce(&mut Trainer) -> Result<T> + Send + 'static,
    ) -> std::result::Result<Job<T>, Thrown> {
        let flag = cancel.flag();
        let mut trainer: Claim<Trainer> = self.trainer.claim(&flag)?;
        Ok(Job::stoppable(&flag, move || work(&mut trainer)))
    }
}

impl ObjectFinalize for NativeTrainer {
    fn finalize(self, env: Env) -> napi::Result<()> {
        self.close(env);
        Ok(())
    }
}
