//! What the files of a run say of it.

use std::fs;
use std::path::Path;

use rwkv_core::ModelConfig;
use rwkv_core::model::Network;
use rwkv_text::{Characters, Tokenizer, TokenizerKind};
use serde::Deserialize;
use wildmatch::WildMatch;

use super::series::Point;
use crate::base::targets;
use crate::error::Result;
use crate::lines::{Sample, contents, read_lines, read_samples};
use crate::options::{TrainOptions, Tune};
use crate::record::{Kept, read_kept};
use crate::run::{RESULTS, RunConfig, checkpoints, fault};

/// More bytes than a file that is no log or model of a run has.
const MAX_BYTES: u64 = 64 << 20;

/// Beyond this many blocks the trained parameters are not counted: each has to be named for that.
const MAX_LAYERS: usize = 4096;

/// A training run, as its directory tells of it. Nothing is said of a file that was not looked at.
#[derive(Clone, Debug)]
pub struct RunView {
    /// The run's name: its directory's.
    pub name: String,
    /// `config.json`.
    pub config: RunConfig,
    /// How text becomes tokens; none if `tokenizer.json` is gone.
    pub tokenizer: Option<Tokenizer>,
    /// The file that the run leaves, `model.bin` or what stands for it; none if it is not there.
    pub file: Option<String>,
    /// What that file is. None if nothing says so, or if it is not the one of which that is said.
    pub kept: Option<Kept>,
    /// The texts that the run's model wrote, oldest first, one for a step.
    pub samples: Vec<Sample>,
    /// The steps of the checkpoints, in order.
    pub checkpoints: Vec<u64>,
    /// The steps of the log, in order.
    pub(super) steps: Vec<Line>,
    /// The validations of the log, in order.
    pub(super) validations: Vec<Point>,
}

/// A step, as a line of `log.jsonl` tells of it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    pub(super) step: u64,
    pub(super) loss: Option<f64>,
    pub(super) learning_rate: Option<f64>,
    pub(super) grad_norm: Option<f64>,
    val_loss: Option<f64>,
    #[serde(default)]
    pub(super) seconds: f64,
    /// Seconds since the run began, over all its sessions, all that is not a step included.
    pub(super) clock: Option<f64>,
}

impl Line {
    /// A value of the step as a point of a curve.
    pub(super) fn point(&self, value: f64) -> Point {
        Point { step: self.step, seconds: self.seconds, value }
    }
}

impl RunView {
    /// Reads what is in the directory of a run, whether a trainer is at work there or not. A log, samples, a model
    /// or a tokenizer that are not there yet are no error.
    ///
    /// # Errors
    /// [`Error::Run`](crate::Error::Run) that names the file, if there is no run or `config.json` is not of one;
    /// [`rwkv_core::Error::Io`] if a file cannot be read, is too large or is no regular file.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = path.join("config.json");
        let bytes = contents(&file, MAX_BYTES)?
            .ok_or_else(|| fault(path, "there is no run here: the directory has no config.json"))?;
        let config: RunConfig = serde_json::from_slice(&bytes)
            .map_err(|error| fault(&file, format!("not a run's configuration: {error}")))?;
        check(&config).map_err(|problem| fault(&file, problem))?;
        let mut steps = Vec::new();
        let mut validations = Vec::new();
        for line in read_lines::<Line>(&path.join("log.jsonl"))? {
            if line.val_loss.is_none() {
                steps.push(line);
            }
            validations.extend(line.val_loss.map(|loss| line.point(loss)));
        }
        in_order(&mut steps, |line| line.step);
        in_order(&mut validations, |point| point.step);
        // Time does not run back, even if the log was put together by hand.
        let mut before = 0.0_f64;
        for line in &mut steps {
            before = before.max(line.seconds);
            line.seconds = before;
        }
        let last = steps.iter().map(|line| line.step).chain(validations.iter().map(|point| point.step)).max();
        // Those of steps that were undone, when the run went on from a checkpoint before them, are not its own.
        let mut samples = samples(path)?;
        samples.retain(|sample| last.is_none_or(|last| sample.step <= last));
        let file = RESULTS.into_iter().find(|file| path.join(file).is_file());
        Ok(Self {
            name: name(path),
            tokenizer: tokenizer(path)?,
            file: file.map(str::to_owned),
            kept: read_kept(path)?,
            samples,
            checkpoints: checkpoints(path)?.into_iter().map(|(step, _)| step).collect(),
            config,
            steps,
            validations,
        })
    }

    /// The last step that the run has done and logged; 0 before the first.
    pub fn last_step(&self) -> u64 {
        self.steps.last().map_or(0, |line| line.step)
    }

    /// The validation with the lowest loss: its step and its loss.
    pub fn best(&self) -> Option<(u64, f64)> {
        let lowest = self.validations.iter().min_by(|a, b| a.value.total_cmp(&b.value));
        lowest.map(|point| (point.step, point.value))
    }

    /// The last validation: its step and its loss.
    pub fn last_validation(&self) -> Option<(u64, f64)> {
        self.validations.last().map(|point| (point.step, point.value))
    }

    /// Tokens that a step learns from.
    pub fn tokens_per_step(&self) -> f64 {
        let TrainOptions { ctx_len, batch_size, accumulate, .. } = &self.config.options;
        *ctx_len as f64 * *batch_size as f64 * *accumulate as f64
    }

    /// Number of parameters of the model.
    pub fn parameters(&self) -> f64 {
        let model = self.config.model;
        let of = |n_layer: usize| Network::new(&ModelConfig { n_layer, ..model }).1.n_params() as f64;
        // Every block is like the second.
        match model.n_layer {
            1 => of(1),
            n => of(2) + (n as f64 - 2.0) * (of(2) - of(1)),
        }
    }

    /// Number of values that are trained: parameters of the model, of its adapters, or of the initial state. None
    /// if that cannot be said.
    pub fn trained_parameters(&self) -> Option<f64> {
        let RunConfig { model, options, .. } = &self.config;
        if model.n_layer > MAX_LAYERS {
            return None;
        }
        let (_, layout, states) = Network::new(model);
        let specs = layout.specs();
        if options.tune == Tune::State {
            return Some(states.len() as f64);
        }
        if let Some(rank) = options.lora_rank {
            let targets = targets(options, specs).ok()?;
            let sides = targets.into_iter().map(|index| specs[index].rows as f64 + specs[index].cols as f64);
            return Some(rank as f64 * sides.sum::<f64>());
        }
        let matches =
            |patterns: &[String], name: &str| patterns.iter().any(|it| WildMatch::new(it).matches(name));
        let is_trained = |name: &str| {
            options.train.as_ref().is_none_or(|patterns| matches(patterns, name))
                && !options.freeze.as_ref().is_some_and(|patterns| matches(patterns, name))
        };
        Some(specs.iter().filter(|spec| is_trained(&spec.name)).map(|spec| spec.len() as f64).sum())
    }

    /// How many bytes of text a token of the validation set stands for, on average: as the run has written, or
    /// one where the tokenizer says that. None if it is not known.
    pub fn bytes_per_token(&self) -> Option<f64> {
        let is_ascii = |characters: &Characters| characters.iter().all(|character| character.is_ascii());
        let is_one = |tokenizer: &Tokenizer| {
            tokenizer.kind() == TokenizerKind::Byte || tokenizer.as_characters().is_some_and(is_ascii)
        };
        self.config.bytes_per_token.or_else(|| self.tokenizer.as_ref().filter(|it| is_one(it)).map(|_| 1.0))
    }

    /// A loss of validation, in nats a token, as bits for each byte of the text: comparable between tokenizers.
    pub fn bits_per_byte(&self, loss: f64) -> Option<f64> {
        Some(loss * std::f64::consts::LOG2_E / self.bytes_per_token()?)
    }
}

/// Refuses sizes that no run has, before anything is computed from them.
fn check(config: &RunConfig) -> std::result::Result<(), String> {
    const MAX: usize = 1 << 24;
    let RunConfig { format, model, options, .. } = config;
    if !(1..=RunConfig::FORMAT).contains(format) {
        return Err(format!("format {format}, and this version reads formats 1 to {}", RunConfig::FORMAT));
    }
    let of_model = [model.n_vocab, model.n_embd, model.n_layer, model.n_ffn];
    let of_options =
        [options.ctx_len, options.batch_size, options.accumulate, options.lora_rank.unwrap_or(1)];
    if config.bytes_per_token.is_some_and(|bytes| !(bytes.is_finite() && bytes > 0.0)) {
        return Err("its bytes per token are no number of bytes".to_owned());
    }
    if of_model.into_iter().chain(of_options).all(|size| (1..=MAX).contains(&size)) {
        Ok(())
    } else {
        Err("its sizes are not those of a run".to_owned())
    }
}

/// The samples of a run, oldest first; of a step that was done twice the last.
fn samples(run: &Path) -> Result<Vec<Sample>> {
    let mut samples = read_samples(run)?;
    in_order(&mut samples, |sample| sample.step);
    Ok(samples)
}

fn tokenizer(run: &Path) -> Result<Option<Tokenizer>> {
    let path = run.join("tokenizer.json");
    if fs::symlink_metadata(&path).is_err() {
        return Ok(None);
    }
    Ok(Some(Tokenizer::load(path)?))
}

/// What a run is called.
fn name(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = whole.file_name().or(path.file_name());
    name.map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Sorts by step; of two with the same step the later one stays.
fn in_order<T>(values: &mut Vec<T>, step: impl Fn(&T) -> u64) {
    if values.windows(2).all(|pair| step(&pair[0]) < step(&pair[1])) {
        return;
    }
    values.reverse();
    values.sort_by_key(&step);
    values.dedup_by_key(|value| step(value));
}
