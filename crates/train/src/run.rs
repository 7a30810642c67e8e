//! The directory of a training run.
//!
//! | file | content |
//! |---|---|
//! | `config.json` | the model's shape, the options in force, the text's checksum |
//! | `tokenizer.json` | how text becomes tokens |
//! | `data.txt`, `val.txt` | the texts, if they were given in memory; without them a run cannot go on |
//! | `model.bin` | the model with the best validation loss (or the last, see [`Keep`](crate::Keep)) |
//! | `lora.safetensors`, `tuned.state` | instead of `model.bin`, of a run that trains an adapter or a state |
//! | `result.json` | which step's that is, its loss, its checksum: see [`Kept`](crate::Kept) |
//! | `checkpoint-<step>/` | all that is needed to go on bit for bit; the newest two are kept, and the newest sound one |
//! | `samples.jsonl` | one object a line: what the model wrote when it was saved |
//! | `log.jsonl` | one object a line: a step, or a validation |
//! | `.lock`, `.lock.json` | while a trainer is at work here: what it has locked, and who it is |
//!
//! Every file is written under another name and renamed, so that a crash leaves the last good one; only the
//! log is appended to. One trainer works in a directory at a time; anyone may read. At each save whatever is
//! missing by then is written again, but for texts. Paths within the directory are relative to it in its files, so
//! that it can be moved.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use rwkv_core::{ModelConfig, Place, read_regular, write_atomically};
use rwkv_text::Tokenizer;
use rwkv_text::source::Bytes;
use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::checkpoint::{self, Manifest};
use crate::error::{Error, Result};
use crate::lines::push_line;
pub use crate::lines::{LogLine, Sample, read_log, read_samples};
use crate::lock::Lock;
use crate::options::{OF_COMMAND, TrainOptions};
use crate::record::{self, Holding, read_kept};

/// More than a `config.json` has: its patterns and names of files may be long.
const MOST_BYTES: u64 = 16 << 20;

/// How many checkpoints are kept, besides the newest sound one.
const KEPT: usize = 2;

/// What a run may write as its result, one of these.
pub(crate) const RESULTS: [&str; 3] = Place::RESULTS;

/// What else a run writes, besides `config.json` and checkpoints.
const FILES: [&str; 5] = ["tokenizer.json", "log.jsonl", "result.json", "samples.jsonl", "report.html"];

/// `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunConfig {
    /// Version of this file's format.
    pub format: u32,
    /// The model's shape.
    pub model: ModelConfig,
    /// The options in force: all of them, but for where the run is and on how many threads.
    #[serde(serialize_with = "all_options")]
    pub options: TrainOptions,
    /// CRC-32 of the text's file.
    pub data_crc32: u32,
    /// The fingerprint of the model that the run starts from, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// How many bytes of text a token of the validation set stands for, on average: losses of different tokenizers
    /// compare as bits per byte. None in runs of before this was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_token: Option<f64>,
}

/// Every option that has a value, defaults included.
fn all_options<S: Serializer>(options: &TrainOptions, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    let values = options.values().map_err(S::Error::custom)?;
    let is_said = |(name, value): &(&str, Value)| {
        !OF_COMMAND.contains(name) && (!value.is_null() || *name == "threads")
    };
    serializer.collect_map(values.into_iter().filter(is_said))
}

impl RunConfig {
    /// The version of the format that this crate writes. It reads version 1 too, which differs in what `base`
    /// is: a checksum of a part of the weights, which fits no model now.
    pub const FORMAT: u32 = 2;
}

/// A run's directory, held by this trainer: what has to be in it, and the log under way.
#[derive(Debug)]
pub(crate) struct RunDirectory {
    path: PathBuf,
    config: RunConfig,
    tokenizer: Tokenizer,
    log: File,
    /// All that the log has to hold, some 150 bytes a step: its file may be deleted, replaced or emptied.
    lines: Vec<u8>,
    /// What the model has written.
    samples: Vec<Sample>,
    /// The last step's line of the log, and the time in steps at the one before it.
    last: Option<(LogLine, f64)>,
    /// Dropped last.
    lock: Lock,
}

/// A run's directory, held, as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    path: PathBuf,
    pub(crate) config: RunConfig,
    pub(crate) tokenizer: Tokenizer,
    lock: Lock,
}

impl RunDirectory {
    /// Refuses a directory that holds a run or is held by a trainer, or, unless `force` is given, files that a
    /// run would replace. Changes nothing.
    pub(crate) fn check_free(path: &Path, force: bool) -> Result<()> {
        Lock::check(path)?;
        check_empty(path)?;
        if force { Ok(()) } else { check_foreign(path, None) }
    }

    /// Makes the directory of a new run, with `texts` in it, by their names. With `force`, files that are in its way
    /// are removed.
    pub(crate) fn create(
        path: &Path,
        config: RunConfig,
        tokenizer: Tokenizer,
        texts: &[(String, Bytes)],
        force: bool,
    ) -> Result<Self> {
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
        let lock = Lock::take(path)?;
        check_empty(path)?;
        if force {
            // A model that stayed would be taken for this run's.
            for name in in_the_way(path) {
                let file = path.join(name);
                fs::remove_file(&file).map_err(Error::io("remove", &file))?;
            }
        } else {
            check_foreign(path, Some(&tokenizer))?;
            texts.iter().try_for_each(|(name, text)| check_text(path, name, text))?;
        }
        for (name, text) in texts {
            write_atomically(&path.join(name), |w| w.write_all(text.as_ref()))?;
        }
        Self::write(Found { path: path.to_owned(), config, tokenizer, lock }, 0)
    }

    /// Takes a run's directory: its configuration and tokenizer.
    pub(crate) fn take(path: &Path) -> Result<Found> {
        let file = path.join("config.json");
        if !file.exists() {
            return Err(fault(path, "there is no run to go on with: the directory has no config.json"));
        }
        let lock = Lock::take(path)?;
        let bytes = read_regular(&file, MOST_BYTES)?;
        let config: RunConfig = serde_json::from_slice(&bytes)
            .map_err(|error| fault(&file, format!("not a run's configuration: {error}")))?;
        if !(1..=RunConfig::FORMAT).contains(&config.format) {
            let problem = format!(
                "format {}, and this version reads formats 1 to {}",
                config.format,
                RunConfig::FORMAT
            );
            return Err(fault(&file, problem));
        }
        let tokenizer = Tokenizer::load(path.join("tokenizer.json"))?;
        // Before anything takes memory by these numbers. The directory is not among them: it is where it was
        // found.
        let options = TrainOptions { out: path.to_owned(), ..config.options.clone() };
        options.validate().map_err(|error| fault(&file, error.to_string()))?;
        if !config.options.fits(&config.model) || config.model.n_vocab != tokenizer.n_vocab() {
            let problem = format!(
                "its model is not the one of its options and of tokenizer.json: {}",
                config.model.describe()
            );
            return Err(fault(&file, problem));
        }
        Ok(Found { path: path.to_owned(), config, tokenizer, lock })
    }

    /// Goes on with a run from `step`: what the log says of later steps is dropped, later checkpoints are
    /// removed (none of them is sound), and so is what a killed process left half written.
    pub(crate) fn resume(found: Found, step: u64) -> Result<Self> {
        sweep(&found.path)?;
        for (_, later) in checkpoints(&found.path)?.into_iter().filter(|&(at, _)| at > step) {
            fs::remove_dir_all(&later).map_err(Error::io("remove", &later))?;
        }
        Self::write(found, step)
    }

    /// Writes all but checkpoints and models; `config.json` last, because a directory that has one is a whole
    /// run.
    fn write(found: Found, step: u64) -> Result<Self> {
        let Found { path, config, tokenizer, lock } = found;
        // Not written, so not there when it is read again.
        let options = TrainOptions { out: PathBuf::new(), ..config.options.relative_to(&path) };
        let config = RunConfig { options, ..config };
        tokenizer.save(path.join("tokenizer.json"))?;
        let file = path.join("log.jsonl");
        let mut lines = Vec::new();
        let (mut last, mut seconds) = (None, 0.0);
        for line in read_log(&path)?.iter().filter(|line| line.step <= step) {
            push_line(&mut lines, line).map_err(Error::io("write", &file))?;
            if line.loss.is_some() {
                last = Some((line.clone(), seconds));
                seconds = line.seconds;
            }
        }
        let samples = read_samples(&path)?.into_iter().filter(|sample| sample.step <= step).collect();
        write_atomically(&file, |w| w.write_all(&lines))?;
        write_config(&path, &config)?;
        let log = open_log(&file)?;
        Ok(Self { path, config, tokenizer, log, lines, samples, last, lock })
    }

    /// Writes again what is no longer there, or no longer what this trainer wrote: a run that goes on must
    /// end as one that can be resumed and sampled.
    ///
    /// # Errors
    /// [`rwkv_core::Error::Io`]; [`Error::Run`] if the directory was removed and another trainer has begun in a
    /// new one.
    pub(crate) fn mend(&mut self) -> Result<()> {
        let Self { path, config, tokenizer, log, lines, lock, .. } = self;
        fs::create_dir_all(&*path).map_err(Error::io("create", &*path))?;
        lock.renew()?;
        if !Tokenizer::load(&*path).is_ok_and(|there| there == *tokenizer) {
            tokenizer.save(path.join("tokenizer.json"))?;
        }
        let file = path.join("log.jsonl");
        if !fs::metadata(&file).is_ok_and(|there| there.is_file() && there.len() == lines.len() as u64) {
            write_atomically(&file, |w| w.write_all(lines))?;
            *log = open_log(&file)?;
        }
        let there = read_regular(path.join("config.json"), MOST_BYTES).ok();
        let there = there.and_then(|bytes| serde_json::from_slice::<RunConfig>(&bytes).ok());
        if there.as_ref() != Some(config) {
            write_config(path, config)?;
        }
        Ok(())
    }

    /// CRC-32 of the options in force, as JSON.
    pub(crate) fn options_crc32(&self) -> u32 {
        let json = serde_json::to_vec(&self.config.options).expect("options all have a JSON form");
        crc32fast::hash(&json)
    }

    /// The fingerprint of the model that the run starts from, in hexadecimal.
    pub(crate) fn base(&self) -> Option<&str> {
        self.config.base.as_deref()
    }

    /// How many bytes a token of the validation set stands for.
    pub(crate) fn bytes_per_token(&self) -> Option<f64> {
        self.config.bytes_per_token
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line to the log.
    pub(crate) fn log(&mut self, line: &LogLine) -> Result<()> {
        let path = self.path.join("log.jsonl");
        let before = self.lines.len();
        let written =
            push_line(&mut self.lines, line).and_then(|()| self.log.write_all(&self.lines[before..]));
        written.map_err(Error::io("write", path))
    }

    /// The last step's line of the log that the run went on from, and the time in steps at the one before it.
    pub(crate) fn last(&self) -> Option<&(LogLine, f64)> {
        self.last.as_ref()
    }

    /// Adds what the model wrote, in the place of what it wrote after the same step before.
    pub(crate) fn add_sample(&mut self, sample: Sample) -> Result<()> {
        self.samples.retain(|other| other.step < sample.step);
        self.samples.push(sample);
        let mut lines = Vec::new();
        let path = self.path.join("samples.jsonl");
        for sample in &self.samples {
            push_line(&mut lines, sample).map_err(Error::io("write", &path))?;
        }
        Ok(write_atomically(&path, |w| w.write_all(&lines))?)
    }

    /// Removes all checkpoints but the newest two, and the newest sound one.
    pub(crate) fn prune(&self) -> Result<()> {
        let sound = self.newest_sound()?.map(|(_, path)| path);
        for (_, old) in checkpoints(&self.path)?.into_iter().rev().skip(KEPT) {
            if Some(&old) != sound.as_ref() {
                fs::remove_dir_all(&old).map_err(Error::io("remove", &old))?;
            }
        }
        Ok(())
    }

    /// The newest checkpoint that a run can go on from. Damaged ones are passed over.
    pub(crate) fn newest_sound(&self) -> Result<Option<(Manifest, PathBuf)>> {
        let read = |(_, path): (u64, PathBuf)| Some((checkpoint::read_manifest(&path).ok()?, path));
        let mut newest_first = checkpoints(&self.path)?.into_iter().rev().filter_map(read);
        Ok(newest_first.find(|(manifest, _)| manifest.is_sound()))
    }
}

impl Found {
    /// The checkpoint to go on from: the newest before the step `before` that is sound or does not say. None
    /// if there is none.
    ///
    /// # Errors
    /// [`Error::Run`] if a newer one is damaged.
    pub(crate) fn newest_sound(&self, before: u64) -> Result<Option<(Manifest, PathBuf)>> {
        for (step, path) in checkpoints(&self.path)?.into_iter().rev().filter(|&(step, _)| step < before) {
            let manifest =
                checkpoint::read_manifest(&path).map_err(|unread| unread.with(&self.without(step)))?;
            if manifest.is_sound() {
                return Ok(Some((manifest, path)));
            }
        }
        Ok(None)
    }

    /// What can be done if the checkpoint of a step is damaged.
    pub(crate) fn without(&self, damaged: u64) -> String {
        let mut older =
            checkpoints(&self.path).unwrap_or_default().into_iter().rev().filter(|&(step, _)| step < damaged);
        let sound = |(_, path): &(u64, PathBuf)| {
            checkpoint::read_manifest(path).is_ok_and(|manifest| manifest.is_sound())
        };
        if let Some((step, _)) = older.find(|found| sound(found)) {
            return format!("remove its directory to go on from the one before, of step {step}");
        }
        let begin = "there is none before it, so this run cannot go on";
        match read_kept(&self.path) {
            Ok(Some(kept)) if kept.file == RESULTS[0] => {
                let loss =
                    kept.val_loss.map(|loss| format!(", validation loss {loss:.3}")).unwrap_or_default();
                format!(
                    "{begin}; {} is of step {}{loss}, and a new run can start from it",
                    kept.file, kept.step
                )
            }
            Ok(Some(kept)) => format!("{begin}; {} is of step {} and can be used", kept.file, kept.step),
            _ => format!("{begin}; begin a new one"),
        }
    }

    /// Refuses a run with something else in the place of its result; with `force` that is removed.
    pub(crate) fn check_result(&self, name: &str, force: bool) -> Result<()> {
        match record::look(&self.path, name)? {
            Holding::Nothing | Holding::Ours(_) => Ok(()),
            Holding::Foreign(reason) if !force => Err(record::foreign(&self.path, name, reason)),
            Holding::Foreign(_) => {
                let file = self.path.join(name);
                fs::remove_file(&file).map_err(Error::io("remove", file))
            }
        }
    }

    /// The step of the newest checkpoint, sound or not.
    pub(crate) fn newest_step(&self) -> Result<Option<u64>> {
        Ok(checkpoints(&self.path)?.last().map(|&(step, _)| step))
    }
}

/// Refuses a directory that holds a run, or what is left of one: its checkpoints would be taken for the new
/// run's.
fn check_empty(path: &Path) -> Result<()> {
    if path.join("config.json").exists() {
        let problem = "this directory holds a run already; resume that, or train in another directory";
        return Err(fault(path, problem));
    }
    if path.is_dir() && !checkpoints(path)?.is_empty() {
        let problem = "this directory has checkpoints of a run whose config.json is gone; remove them, or train \
                       in another directory";
        return Err(fault(path, problem));
    }
    Ok(())
}

/// Refuses a directory with files that a run would replace, and that no run here has written. `tokenizer` is the
/// run's, if that is known yet.
fn check_foreign(path: &Path, tokenizer: Option<&Tokenizer>) -> Result<()> {
    let names = in_the_way(path);
    if names.iter().all(|name| is_of_a_beginning(path, name, tokenizer)) {
        return Ok(());
    }
    let problem = format!(
        "this directory holds {}, which the run would replace; train in another directory, or give force to have \
         them replaced",
        names.join(", ")
    );
    Err(fault(path, problem))
}

/// Refuses to replace a file by a text of a new run, unless it is the same, which a run that was killed left.
fn check_text(path: &Path, name: &str, text: &Bytes) -> Result<()> {
    let file = path.join(name);
    let is_the_same =
        || read_regular(&file, text.as_ref().len() as u64).is_ok_and(|there| there == text.as_ref());
    if fs::symlink_metadata(&file).is_err() || is_the_same() {
        return Ok(());
    }
    let problem = format!(
        "this directory holds {name}, which the run would replace by its text; train in another directory, or give \
         force to have it replaced"
    );
    Err(fault(path, problem))
}

/// The files of a directory without `config.json` that a run would replace.
fn in_the_way(path: &Path) -> Vec<&'static str> {
    let is_there = |name: &&str| fs::symlink_metadata(path.join(name)).is_ok();
    RESULTS.into_iter().chain(FILES).filter(is_there).collect()
}

/// Whether a file is what a run writes before its `config.json`, and no more. A run that was killed in between,
/// or found no room for the rest, can be begun again: nothing is lost by that.
fn is_of_a_beginning(path: &Path, name: &str, tokenizer: Option<&Tokenizer>) -> bool {
    let file = path.join(name);
    match name {
        "tokenizer.json" => {
            Tokenizer::load(&file).is_ok_and(|there| tokenizer.is_none_or(|ours| there == *ours))
        }
        "log.jsonl" => fs::symlink_metadata(&file).is_ok_and(|there| there.is_file() && there.len() == 0),
        _ => false,
    }
}

fn open_log(file: &Path) -> Result<File> {
    OpenOptions::new().append(true).open(file).map_err(Error::io("open", file))
}

/// The checkpoints of a run, oldest first: steps and directories.
pub(crate) fn checkpoints(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(run).map_err(Error::io("read", run))? {
        let entry = entry.map_err(Error::io("read", run))?;
        let step = entry.file_name().to_str().and_then(|name| name.strip_prefix("checkpoint-")?.parse().ok());
        // A file of that name is somebody's, and no checkpoint.
        found.extend(step.filter(|_| entry.path().is_dir()).map(|step| (step, entry.path())));
    }
    found.sort_unstable();
    Ok(found)
}

/// Removes files and directories that were being written when a process was killed: all are called
/// `.<name>….tmp`.
fn sweep(run: &Path) -> Result<()> {
    for entry in fs::read_dir(run).map_err(Error::io("read", run))? {
        let entry = entry.map_err(Error::io("read", run))?;
        let path = entry.path();
        let hidden = entry.file_name().to_str().is_some_and(|name| name.starts_with('.'));
        if hidden && path.extension().is_some_and(|extension| extension == "tmp") {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Writes `value` as a file of indented JSON, whole or not at all.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    write_atomically(path, |w| {
        serde_json::to_writer_pretty(&mut *w, value)?;
        w.write_all(b"\n")
    })?;
    Ok(())
}

pub(crate) fn fault(path: &Path, problem: impl Into<String>) -> Error {
    Error::Run { path: path.to_owned(), problem: problem.into() }
}

fn write_config(path: &Path, config: &RunConfig) -> Result<()> {
    write_json(&path.join("config.json"), config)
}

#[cfg(test)]
mod tests;
