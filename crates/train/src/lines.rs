//! Files of a run with one JSON object a line: its log, and what its model has written.

use std::io;
use std::path::Path;

use rwkv_core::{machine, read_regular};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Result;

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
    /// Time by the clock since then, without that between two sessions.
    pub clock: f64,
}

/// A line of `samples.jsonl`: what the model wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The step after which it did.
    pub step: u64,
    /// What it was to go on from.
    pub prompt: String,
    /// What it wrote.
    pub text: String,
}

/// Adds a value's line.
pub(crate) fn push_line(lines: &mut Vec<u8>, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *lines, line)?;
    lines.push(b'\n');
    Ok(())
}

/// The lines of a run's log, in order; none if there is no log. A last line that a crash cut off is left out.
///
/// # Errors
/// [`rwkv_core::Error::Io`].
pub fn read_log(run: &Path) -> Result<Vec<LogLine>> {
    read_lines(&run.join("log.jsonl"))
}

/// What the model of a run has written, in order; nothing if there is no such file.
///
/// # Errors
/// [`rwkv_core::Error::Io`].
pub fn read_samples(run: &Path) -> Result<Vec<Sample>> {
    read_lines(&run.join("samples.jsonl"))
}

/// The lines of a file, each an object; none if there is no file. What is none of these objects is left out.
pub(crate) fn read_lines<T: DeserializeOwned>(file: &Path) -> Result<Vec<T>> {
    // As large as a text may be that is learned.
    let bytes = contents(file, (machine::memory() / 8.0) as u64)?.unwrap_or_default();
    let lines = bytes.split(|&byte| byte == b'\n');
    Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// The bytes of a regular file of at most so many; none if there is no file.
pub(crate) fn contents(path: &Path, most_bytes: u64) -> Result<Option<Vec<u8>>> {
    match read_regular(path, most_bytes) {
        Ok(bytes) => Ok(Some(bytes)),
        // Of a path through a file it is said as of one that is not there.
        Err(rwkv_core::Error::Io { source, .. })
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
