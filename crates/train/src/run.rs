//! The folder of a training run.
//!
//! | file | content |
//! |---|---|
//! | `config.json` | the model's shape, the options in force, the text's checksum |
//! | `tokenizer.json` | how text becomes tokens |
//! | `model.bin` | the trained model, as inference reads it |
//! | `checkpoint-<step>/` | all that is needed to go on bit for bit; the newest two are kept |
//! | `log.jsonl` | one object a line: a step, or a validation |
//!
//! Every file is written under another name and renamed, so that a crash leaves the last good one; only the log is
//! appended to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rwkv::{Error, ModelConfig, Result, Tokenizer, write_atomically};
use serde::{Deserialize, Serialize};

use crate::options::TrainOptions;

/// How many checkpoints are kept.
const KEPT: usize = 2;

/// `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunConfig {
    /// Version of this file's format.
    pub format: u32,
    /// The model's shape.
    pub model: ModelConfig,
    /// The options in force.
    pub options: TrainOptions,
    /// CRC-32 of the text's file.
    pub data_crc32: u32,
}

impl RunConfig {
    /// The version of the format that this crate writes, and the only one it reads.
    pub const FORMAT: u32 = 1;
}

/// A line of `log.jsonl`. A step's line has a loss, a validation's line a validation loss.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogLine {
    /// The step, counted from 1.
    pub step: u64,
    /// Mean loss of the step's batch, in nats a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f32>,
    /// The learning rate of the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// The norm of all gradients before clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Mean loss of the validation split after the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f32>,
    /// Time spent in training steps since the run began.
    pub seconds: f64,
}

/// Paths of a run, and the log under way.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    log: File,
}

impl RunFolder {
    /// Makes the folder of a new run.
    pub(crate) fn create(path: &Path, config: &RunConfig, tokenizer: &Tokenizer) -> Result<Self> {
        if path.join("config.json").exists() {
            return Err(fault(
                path,
                "this folder holds a run already; go on with it by --resume, or take another --out",
            ));
        }
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
        tokenizer.save(path.join("tokenizer.json"))?;
        // Last: a folder with a config.json is a whole run.
        write_config(path, config)?;
        Self::with_log(path, 0)
    }

    /// Opens a run's folder: its configuration and tokenizer.
    pub(crate) fn read(path: &Path) -> Result<(RunConfig, Tokenizer)> {
        let file = path.join("config.json");
        let bytes = match fs::read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(fault(path, "there is no run to go on with: the folder has no config.json"));
            }
            result => result.map_err(Error::io("read", &file))?,
        };
        let config: RunConfig = serde_json::from_slice(&bytes)
            .map_err(|error| fault(&file, format!("not a run's configuration: {error}")))?;
        if config.format != RunConfig::FORMAT {
            let problem =
                format!("format {}, and this version reads format {}", config.format, RunConfig::FORMAT);
            return Err(fault(&file, problem));
        }
        let tokenizer = Tokenizer::load(path.join("tokenizer.json"))?;
        // Before anything takes memory by these numbers. The folder is not among them: it is where it was found.
        let options = TrainOptions { out: path.to_owned(), ..config.options.clone() };
        options.validate().map_err(|error| fault(&file, error.to_string()))?;
        let expected = config.options.model(tokenizer.n_vocab());
        if config.model != expected {
            let problem = format!(
                "its model is not the one of its options and of tokenizer.json: {:?}, not {expected:?}",
                config.model
            );
            return Err(fault(&file, problem));
        }
        Ok((config, tokenizer))
    }

    /// Goes on with a run from `step`: what the log says of later steps is dropped, and what a killed process left
    /// half written is removed.
    pub(crate) fn resume(path: &Path, config: &RunConfig, step: u64) -> Result<Self> {
        sweep(path)?;
        write_config(path, config)?;
        Self::with_log(path, step)
    }

    fn with_log(path: &Path, step: u64) -> Result<Self> {
        let file = path.join("log.jsonl");
        let lines = read_log(path)?;
        write_atomically(&file, |w| {
            lines.iter().filter(|line| line.step <= step).try_for_each(|line| {
                serde_json::to_writer(&mut *w, line)?;
                w.write_all(b"\n")
            })
        })?;
        let log = OpenOptions::new().append(true).open(&file).map_err(Error::io("open", &file))?;
        Ok(Self { path: path.to_owned(), log })
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line to the log.
    pub(crate) fn log(&mut self, line: &LogLine) -> Result<()> {
        let path = self.path.join("log.jsonl");
        let mut text = serde_json::to_vec(line).map_err(|error| fault(&path, error.to_string()))?;
        text.push(b'\n');
        self.log.write_all(&text).map_err(Error::io("write", path))
    }

    /// Removes all checkpoints but the newest.
    pub(crate) fn prune(&self) -> Result<()> {
        for (_, old) in checkpoints(&self.path)?.into_iter().rev().skip(KEPT) {
            fs::remove_dir_all(&old).map_err(Error::io("remove", &old))?;
        }
        Ok(())
    }
}

/// The lines of a run's log, in order; none if there is no log. A last line that a crash cut off is left out.
///
/// # Errors
/// [`Error::Io`].
pub fn read_log(run: &Path) -> Result<Vec<LogLine>> {
    let file = run.join("log.jsonl");
    match fs::read(&file) {
        Ok(bytes) => Ok(bytes
            .split(|&byte| byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("read", file)(error)),
    }
}

/// The checkpoints of a run, oldest first: steps and folders.
pub(crate) fn checkpoints(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(run).map_err(Error::io("read", run))? {
        let entry = entry.map_err(Error::io("read", run))?;
        let step = entry.file_name().to_str().and_then(|name| name.strip_prefix("checkpoint-")?.parse().ok());
        found.extend(step.map(|step| (step, entry.path())));
    }
    found.sort_unstable();
    Ok(found)
}

/// Removes files and folders that were being written when a process was killed: all are called `.<name>….tmp`.
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
    })
}

pub(crate) fn fault(path: &Path, problem: impl Into<String>) -> Error {
    Error::Run { path: path.to_owned(), problem: problem.into() }
}

fn write_config(path: &Path, config: &RunConfig) -> Result<()> {
    write_json(&path.join("config.json"), config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> RunConfig {
        let options = TrainOptions::new("/texts/book.txt", "").resolved();
        RunConfig { format: RunConfig::FORMAT, model: options.model(256), options, data_crc32: 7 }
    }

    #[test]
    fn a_run_is_read_as_it_was_written_and_not_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a/b");
        assert!(RunFolder::read(&path).expect_err("no run").to_string().contains("no run to go on with"));
        RunFolder::create(&path, &config(), &Tokenizer::Byte).expect("a new run");
        assert_eq!(RunFolder::read(&path).expect("a run"), (config(), Tokenizer::Byte));
        let error = RunFolder::create(&path, &config(), &Tokenizer::Byte).expect_err("a run is there");
        assert!(error.to_string().contains("--resume"), "{error}");
    }

    #[test]
    fn a_damaged_configuration_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        RunFolder::create(folder.path(), &config(), &Tokenizer::Byte).expect("a new run");
        let file = folder.path().join("config.json");
        let good = fs::read_to_string(&file).expect("config.json");
        for (from, to) in [
            ("{", "["),
            ("\"format\": 1", "\"format\": 2"),
            ("\"nVocab\": 256", "\"nVocab\": 65"),
            ("\"nLayer\": 4", "\"nLayer\": 4000000000"),
            ("\"beta1\": 0.9", "\"beta1\": 9.0"),
        ] {
            fs::write(&file, good.replacen(from, to, 1)).expect("a damaged file");
            let error = RunFolder::read(folder.path()).expect_err(to);
            assert!(error.code() == "RUN" && error.to_string().contains("config.json"), "{error}");
        }
    }

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        RunFolder::create(folder.path(), &config(), &Tokenizer::Byte).expect("a new run");
        let names = || {
            let mut names: Vec<_> =
                fs::read_dir(folder.path()).expect("the run").flatten().map(|e| e.file_name()).collect();
            names.sort();
            names
        };
        let before = names();
        fs::create_dir(folder.path().join(".checkpoint-5.tmp")).expect("a folder");
        fs::write(folder.path().join(".checkpoint-5.tmp/means.f32"), "x").expect("a file");
        fs::write(folder.path().join(".model.bin.x7Yz.tmp"), "x").expect("a file");
        RunFolder::resume(folder.path(), &config(), 0).expect("the run");
        assert_eq!(names(), before);
    }

    #[test]
    fn the_log_forgets_what_comes_after_the_checkpoint_and_lines_cut_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut run = RunFolder::create(folder.path(), &config(), &Tokenizer::Byte).expect("a new run");
        let line = |step| LogLine { step, loss: Some(1.5), seconds: 0.25, ..LogLine::default() };
        for step in 1..=5 {
            run.log(&line(step)).expect("a line");
        }
        run.log.write_all(b"{\"step\": 6, \"lo").expect("a line cut off");
        let mut run = RunFolder::resume(folder.path(), &config(), 3).expect("the run");
        run.log(&line(4)).expect("a line");
        assert_eq!(read_log(folder.path()).expect("a log"), (1..=4).map(line).collect::<Vec<_>>());
    }
}
