//! How a run begins, and how it goes on.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rwkv_core::model::Network;
use rwkv_core::{Control, Fingerprint, Model, ModelConfig, ModelFile, OF_A_PART, resolve};
use rwkv_kernels::Cpu;
use rwkv_text::Tokenizer;
use rwkv_text::source::Bytes;

use super::measure::{boundary, bytes_per_token};
use super::outer::Outer;
use super::{Trainer, save, schedule};
use crate::base::{self, Start};
use crate::checkpoint::{self, Checkpoint, PARAMETERS};
use crate::data::{Dataset, Windows};
use crate::error::{Error, Result};
use crate::optimizer;
use crate::options::{Inputs, Order, ResumeOptions, TokenizerKind, TrainOptions, Tune};
use crate::ranks::{Courier, Sums};
use crate::run::{Found, RunConfig, RunDirectory, fault};
use crate::streams::Streams;
use crate::tape::Tape;

/// What a run is made of, before its first step or as its checkpoint has it.
struct Parts {
    options: TrainOptions,
    model: ModelConfig,
    start: Start,
    data: Dataset,
    tokenizer: Tokenizer,
    /// Of the validation set.
    bytes_per_token: Option<f64>,
    cpu: Arc<Cpu>,
}

impl Trainer {
    /// Begins a run in a new directory.
    ///
    /// # Errors
    /// [`rwkv_core::Error::InvalidOption`]; [`rwkv_core::Error::Io`], [`rwkv_core::Error::InvalidUtf8`] and
    /// [`rwkv_core::Error::Data`] if the text cannot be learned; those of reading a model, if the run starts from
    /// one; [`Error::Run`] if the directory holds a run already or another trainer is at work in it. Nothing
    /// is written before all of these are ruled out. Texts in memory are then written into the directory, as
    /// `data.txt` and `val.txt` (of several `data-1.txt` and so on), and the run's options name these files.
    /// [`rwkv_core::Error::Aborted`] if `control` says so, which is told bytes of the text, while that is read, and
    /// asked while a new model is made.
    pub fn create(options: &TrainOptions, mut control: impl Control + Send) -> Result<Self> {
        let mut options = options.clone().of_new_run();
        options.validate()?;
        RunDirectory::check_free(&options.out, options.force)?;
        check_base_is_elsewhere(&options)?;
        let file = options.from.as_deref().map(base::open).transpose()?;
        let known = known_tokenizer(&options, file.as_ref())?;
        let (data, tokenizer) = Dataset::read(&options, known.as_ref(), &mut control)?;
        options.tokenizer = Some(tokenizer.kind());
        let n_vocab = tokenizer.n_vocab();
        if let Some(file) = &file {
            options.take_shape(file.config())?;
            check_vocabulary(&options, file.config(), n_vocab)?;
        }
        options = options.resolved();
        let model = match &file {
            Some(file) => *file.config(),
            None => options.model(n_vocab)?,
        };
        let mut parts = Parts::new(options, model, file, data, tokenizer, true, control)?;
        let texts = keep_texts(&mut parts.options)?;
        let config = RunConfig {
            format: RunConfig::FORMAT,
            model,
            options: TrainOptions { threads: None, ..parts.options.clone() },
            data_crc32: parts.data.crc32(),
            base: parts.base(),
            bytes_per_token: parts.bytes_per_token,
        };
        let Parts { options, tokenizer, .. } = &parts;
        let run = RunDirectory::create(&options.out, config, tokenizer.clone(), &texts, options.force)?;
        Ok(Self::assemble(parts, run, None))
    }

    /// Goes on with the run in `out` from its newest checkpoint, as if it had never stopped; from the
    /// beginning if it has none.
    ///
    /// Checkpoints that are not sound (see [`Soundness`](super::Soundness)) do not count: if the newest ones
    /// are not, the run goes on from before them, they are removed, and
    /// [`went_back_from`](Self::went_back_from) says so.
    ///
    /// # Errors
    /// [`Error::Run`] if there is no run, if another trainer is at work on it, if its checkpoint is damaged,
    /// or if the model that it began from is another one now; [`rwkv_core::Error::Data`] if the text is not the
    /// one it began with; otherwise as [`create`](Self::create).
    pub fn resume(
        out: impl AsRef<Path>,
        changes: &ResumeOptions,
        mut control: impl Control + Send,
    ) -> Result<Self> {
        let out = out.as_ref();
        for (name, inputs) in [("data", &changes.data), ("val", &changes.val)] {
            if inputs.as_ref().is_some_and(Inputs::has_texts) {
                let expected = "left out, or paths: a run that began with a text has it in its directory";
                return Err(rwkv_core::Error::option(name, "a text", expected).into());
            }
        }
        let mut found = RunDirectory::take(out)?;
        found.check_result(found.config.options.result_name(), changes.force == Some(true))?;
        if changes.from.is_some() && found.config.options.from.is_none() {
            let expected = "left out: this run did not start from a model";
            return Err(rwkv_core::Error::option("from", "given", expected).into());
        }
        let newest = found.newest_step()?;
        let (mut before, mut text) = (u64::MAX, None);
        let (checkpoint, parts) = loop {
            let checkpoint = found.newest_sound(before)?;
            let manifest = checkpoint.as_ref().map(|(manifest, _)| manifest);
            if manifest
                .is_some_and(|manifest| manifest.model != found.config.model || !manifest.is_consistent())
            {
                return Err(fault(out, "its checkpoint is of another model than its config.json"));
            }
            let step = manifest.map_or(0, |manifest| manifest.step);
            // One that does not say whether it is sound may be passed over.
            let is_unknown = manifest.is_some_and(|manifest| manifest.soundness.is_none());
            if let (false, Some(too_few)) = (is_unknown, changes.max_steps.filter(|&steps| steps < step)) {
                let problem = format!("at least {step}, the steps that this run has done");
                return Err(rwkv_core::Error::option("max_steps", too_few, problem).into());
            }
            let options = manifest.map_or(&found.config.options, |manifest| &manifest.options).clone();
            // Where things are is what the run was told last; all else is as it was at the checkpoint.
            let TrainOptions { data, from, .. } = found.config.options.clone();
            let mut options = TrainOptions { data, from, ..options };
            let directory = std::path::absolute(out).map_err(Error::io("find", out))?;
            options.inputs_mut().for_each(|inputs| inputs.within(&directory));
            let options = changes.apply(TrainOptions { out: out.to_owned(), ..options.resolved() });
            let is_new = checkpoint.is_none();
            let mut parts = Parts::of_run(&found, options, is_new, text.take(), &mut control)?;
            let checkpoint = checkpoint
                .map(|(manifest, path)| checkpoint::read(&path, manifest, &parts.lengths()))
                .transpose()
                .map_err(|unread| unread.with(&found.without(step)))?;
            if let Some(checkpoint) = &checkpoint {
                parts.start.set(&checkpoint.params);
            }
            if is_unknown {
                let checked =
                    Model::of_store(parts.model, parts.start.params.clone(), Arc::clone(&parts.cpu));
                if !save::is_sound(&checked, &parts.data, &parts.options, &mut control)? {
                    (before, text) = (step, Some(parts.data));
                    continue;
                }
                changes.check_steps(step)?;
            }
            break (checkpoint, parts);
        };
        let step = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.manifest.step);
        found.config.options = TrainOptions { threads: None, ..parts.options.clone() };
        found.config.bytes_per_token = parts.bytes_per_token;
        let run = RunDirectory::resume(found, step)?;
        let is_pending = checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.manifest.is_pending);
        let mut trainer = Self::assemble(parts, run, checkpoint);
        trainer.went_back_from = newest.filter(|&newest| newest > step);
        trainer.write_what_is_missing()?;
        trainer.find_what_is_due(is_pending);
        Ok(trainer)
    }

    fn assemble(parts: Parts, run: RunDirectory, checkpoint: Option<Checkpoint>) -> Self {
        let Parts { options, model, start, data, tokenizer, cpu, .. } = parts;
        let Start { params, state, .. } = start;
        let mut optimizer = optimizer::new(&options, &params);
        let mut outer = Outer::new(&options, &params);
        let n_trained = params.trained().count();
        let (network, _, state_layout) = Network::new(&model);
        let streams = streams(&options, &data);
        let (mut step, mut seconds, mut best, mut soundness) = (0, 0.0, None, None);
        // A checkpoint holds as many states before the first step as after it.
        let mut states = vec![state_layout.initial(); streams.map_or(0, |streams| streams.count())];
        if let Some(Checkpoint { manifest, params: mut values, moments }) = checkpoint {
            (step, seconds, best) = (manifest.step, manifest.seconds, manifest.best);
            soundness = manifest.soundness;
            let trained: Vec<_> = params.trained().collect();
            let outer = outer.iter_mut().flat_map(Outer::moments_mut);
            for (own, read) in optimizer.moments_mut().iter_mut().chain(outer).zip(moments) {
                trained.iter().zip(read).for_each(|(&index, read)| own.values[index] = read);
            }
            states = values.split_off(n_trained);
        }
        // A checkpoint has the loss of the whole split, if that was taken after its step.
        let is_validated = best.is_some_and(|best| best.last == step);
        let val_loss = soundness.filter(|_| is_validated).map(|soundness| soundness.val_loss);
        let mut tape = Tape::of_store(cpu, params);
        tape.recompute(options.recompute);
        if let Some(state) = state {
            tape.start_from_parameter(state);
        }
        if let Some(end) = boundary(&options, &tokenizer) {
            tape.reset_at(end, state_layout.initial());
        }
        let windows = Windows::new(options.seed, data.train().len(), options.ctx_len);
        let sums = Sums::new(options.sum_precision, tape.params().layout().specs().len());
        Self {
            windows: if options.order == Order::Random { windows.at_random() } else { windows },
            streams,
            schedule: schedule(&options),
            options,
            config: model,
            network,
            state_layout,
            state,
            states,
            tokenizer,
            data,
            tape,
            optimizer,
            ranks: Courier::alone(),
            sums,
            is_asked: false,
            is_to_end: false,
            outer,
            run,
            step,
            seconds,
            profiled_from: (step, seconds),
            went_back_from: None,
            diverged: None,
            val_loss,
            soundness,
            best,
            pending: None,
            clock: (Instant::now(), 0.0),
            kept: None,
            inputs: Vec::new(),
            targets: Vec::new(),
        }
    }
}

impl Parts {
    /// Puts together what a run is made of: a new one, or, without its values, one that is gone on with.
    fn new(
        mut options: TrainOptions,
        model: ModelConfig,
        file: Option<ModelFile>,
        data: Dataset,
        tokenizer: Tokenizer,
        is_new: bool,
        control: impl Control + Send,
    ) -> Result<Self> {
        options.check_memory_for(&model, file.as_ref().map(ModelFile::len))?;
        absolute(&mut options)?;
        check_streams(&options, &data)?;
        check_documents(&options, &tokenizer)?;
        let bytes_per_token = bytes_per_token(data.validation(), &tokenizer, &options)?;
        let cpu = Arc::new(options.start_cpu()?);
        // A machine that has another default goes on with this one.
        options.precision = Some(cpu.precision().into());
        let start = Start::new(&options, &model, file, is_new, &cpu, control)?;
        Ok(Self { options, model, start, data, tokenizer, bytes_per_token, cpu })
    }

    /// The fingerprint of the model that the run starts from, in hexadecimal.
    fn base(&self) -> Option<String> {
        self.start.base.map(Fingerprint::to_hex)
    }

    /// What the run in a directory is made of; `text` is its data, if that was read before: it may come
    /// through a pipe.
    fn of_run(
        found: &Found,
        options: TrainOptions,
        is_new: bool,
        text: Option<Dataset>,
        mut control: impl Control + Send,
    ) -> Result<Self> {
        let (model, tokenizer) = (found.config.model, found.tokenizer.with_unknown(options.unknown)?);
        options.validate()?;
        let data = if let Some(data) = text {
            data
        } else {
            let crc32 = found.config.data_crc32;
            Dataset::read_again(&options, &tokenizer, crc32, &mut control)?
        };
        let file = options.from.as_deref().map(base::open).transpose()?;
        if file.as_ref().is_some_and(|file| *file.config() != model) {
            return Err(fault(&options.out, other_base(&options)));
        }
        let parts = Self::new(options, model, file, data, tokenizer, is_new, control)?;
        if parts.base() != found.config.base {
            let options = &parts.options;
            // An older fingerprint of the same model is another number.
            let problem = if found.config.format == 1 {
                format!(
                    "the run was {OF_A_PART}: whether {} is that model cannot be told; begin the run again",
                    options.base_path()
                )
            } else {
                other_base(options)
            };
            return Err(fault(&options.out, problem));
        }
        Ok(parts)
    }

    /// What a checkpoint holds: parameters, with the states that are carried after them, and the optimizer's
    /// moments.
    fn lengths(&self) -> Vec<(&'static str, Vec<usize>)> {
        let params = &self.start.params;
        let (_, _, state) = Network::new(&self.model);
        let streams = streams(&self.options, &self.data).map_or(0, |streams| streams.count());
        let states = std::iter::repeat_n(state.len(), streams);
        let values = params.trained().map(|index| params.raw(index).len()).chain(states).collect();
        let optimizer = optimizer::new(&self.options, params);
        let outer = Outer::new(&self.options, params);
        let moments =
            optimizer.moments().iter().chain(outer.iter().flat_map(Outer::moments)).map(|moment| {
                (moment.name, params.trained().map(|index| moment.values[index].len()).collect())
            });
        [(PARAMETERS, values)].into_iter().chain(moments).collect()
    }
}

/// The tokenizer, unless it is to be made of the text: that of the model that the run starts from, which stands
/// beside it or follows from its vocabulary; that of a file; or one that is always the same.
fn known_tokenizer(options: &TrainOptions, file: Option<&ModelFile>) -> Result<Option<Tokenizer>> {
    if let Some(path) = &options.tokenizer_file {
        return Ok(Some(Tokenizer::load(path)?));
    }
    let Some((file, from)) = file.zip(options.from.as_ref()) else {
        return Ok(Tokenizer::of_kind(options.tokenizer.unwrap_or(TokenizerKind::Character))?);
    };
    let beside = resolve(from).tokenizer;
    let n_vocab = file.config().n_vocab;
    let tokenizer =
        if beside.exists() { Some(Tokenizer::load(beside)?) } else { Tokenizer::for_vocabulary(n_vocab)? };
    let Some(tokenizer) = tokenizer else {
        let expected = format!(
            "a model with a tokenizer.json beside it: a vocabulary of {n_vocab} tokens is none that this program knows"
        );
        return Err(rwkv_core::Error::option("from", options.base_path(), expected).into());
    };
    let kind = tokenizer.kind();
    if let Some(asked) = options.tokenizer.filter(|&asked| asked != kind) {
        let expected = format!("left out, or {}: with from, it is that of the model", kind.word());
        return Err(rwkv_core::Error::option("tokenizer", asked.word(), expected).into());
    }
    Ok(Some(tokenizer.with_unknown(options.unknown)?))
}

fn check_vocabulary(options: &TrainOptions, model: &ModelConfig, n_vocab: usize) -> Result<()> {
    if model.n_vocab == n_vocab {
        return Ok(());
    }
    let expected = format!(
        "a model with the vocabulary of the text: it has {} tokens, and the text's tokenizer has {n_vocab}",
        model.n_vocab
    );
    Err(rwkv_core::Error::option("from", options.base_path(), expected).into())
}

/// A run must not write over the model that it starts from.
fn check_base_is_elsewhere(options: &TrainOptions) -> Result<()> {
    let Some(from) = &options.from else { return Ok(()) };
    let Ok(out) = options.out.canonicalize() else { return Ok(()) };
    if resolve(from).directory.canonicalize().is_ok_and(|base| base == out) {
        let expected = "another directory than that of the model to start from";
        return Err(rwkv_core::Error::option("out", options.out.display(), expected).into());
    }
    Ok(())
}

/// Puts files of the run's directory in the place of texts in memory: their names, and what is to be in them.
fn keep_texts(options: &mut TrainOptions) -> Result<Vec<(String, Bytes)>> {
    let run = std::path::absolute(&options.out).map_err(Error::io("find", &options.out))?;
    let mut kept = options.data.keep_texts(&run, "data");
    kept.extend(options.val.iter_mut().flat_map(|val| val.keep_texts(&run, "val")));
    Ok(kept)
}

/// Relative paths would mean something else when the run goes on elsewhere.
fn absolute(options: &mut TrainOptions) -> Result<()> {
    let name = options.data.name();
    options.data.absolute().map_err(Error::io("find", name))?;
    if let Some(val) = &mut options.val {
        let name = val.name();
        val.absolute().map_err(Error::io("find", name))?;
    }
    for from in [&mut options.from, &mut options.tokenizer_file].into_iter().flatten() {
        *from = std::path::absolute(&*from).map_err(Error::io("find", &*from))?;
    }
    Ok(())
}

fn other_base(options: &TrainOptions) -> String {
    format!(
        "the run began from the model {}, which is another one now; put that model back to go on",
        options.base_path()
    )
}

/// The streams of a run that carries states.
fn streams(options: &TrainOptions, data: &Dataset) -> Option<Streams> {
    let count = options.batch_size * options.accumulate;
    let streams = || Streams::new(options.seed, data.train().len(), options.ctx_len, count);
    options.carry_state.then(streams).flatten()
}

/// Refuses to start documents anew where nothing says where one ends.
fn check_documents(options: &TrainOptions, tokenizer: &Tokenizer) -> Result<()> {
    if !options.reset_state || tokenizer.end_of_text().is_some() {
        return Ok(());
    }
    let expected = "off: the tokenizer has no end of text, which stands between documents";
    Err(rwkv_core::Error::option("reset_state", true, expected).into())
}

fn check_streams(options: &TrainOptions, data: &Dataset) -> Result<()> {
    if options.carry_state && options.tune == Tune::State {
        let expected = "off where the initial state is trained: carried states would take its place";
        return Err(rwkv_core::Error::option("carry_state", true, expected).into());
    }
    if options.carry_state && streams(options, data).is_none() {
        let (count, tokens) = (options.batch_size * options.accumulate, data.train().len());
        let problem = format!(
            "{tokens} tokens are too few for {count} sequences of {} that each go on from the one before; take a \
             smaller batch or a shorter context, or a longer text",
            options.ctx_len
        );
        return Err(rwkv_core::Error::Data { path: options.data.name(), problem }.into());
    }
    Ok(())
}
