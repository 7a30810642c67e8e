//! What is known of a folder: how far it is, or that it is finished.

use std::path::{Path, PathBuf};

use rwkv_core::{Error, Result, read_regular, write_atomically};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::batches::Place;
use super::division::Survey;
use super::inputs::Input;
use crate::TokenizerKind;

/// Both files may have so many bytes: one line for each input.
const MOST_BYTES: u64 = 1 << 28;

/// Of the files' own form.
const VERSION: u64 = 1;

/// What is in a file of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Documents. One that is divided between training and validation counts in both.
    pub documents: u64,
    /// Bytes of text.
    pub bytes: u64,
    /// Tokens, the ends of documents among them.
    pub tokens: u64,
}

/// What the tokenizer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) kind: TokenizerKind,
    pub(super) n_vocab: usize,
    pub(super) end_of_text: Option<u32>,
    /// Of `tokenizer.json`.
    pub(super) crc32: u32,
}

/// The names that both files share.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Head {
    version: u64,
    /// The version of this program that wrote it.
    rwkv: String,
    pub(super) options: Map<String, Value>,
    pub(super) inputs: Vec<Input>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) val_inputs: Vec<Input>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) notes: Vec<String>,
}

impl Head {
    pub(super) fn new(options: Map<String, Value>, inputs: Vec<Input>, val_inputs: Vec<Input>) -> Self {
        let rwkv = env!("CARGO_PKG_VERSION").to_owned();
        Self { version: VERSION, rwkv, options, inputs, val_inputs, notes: Vec::new() }
    }

    /// # Errors
    /// [`Error::Data`] that says which options differ, or that `path` is of a later program.
    pub(super) fn check_options(&self, options: &Map<String, Value>, path: &Path) -> Result<()> {
        let shown = |options: &Map<String, Value>, name: &str| {
            options.get(name).map_or_else(|| "not set".to_owned(), Value::to_string)
        };
        let names =
            self.options.keys().chain(options.keys().filter(|name| !self.options.contains_key(*name)));
        let differences: Vec<String> = names
            .filter(|name| self.options.get(*name) != options.get(*name))
            .map(|name| format!("{name} was {} and is {}", shown(&self.options, name), shown(options, name)))
            .collect();
        if differences.is_empty() {
            return Ok(());
        }
        let problem = format!(
            "this folder was begun with other options: {}; take those again, take another folder, or begin anew (force)",
            differences.join("; ")
        );
        Err(Error::Data { path: path.to_owned(), problem })
    }
}

/// `prepare.partial.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct State {
    #[serde(flatten)]
    pub(super) head: Head,
    /// Whether files that were there before may be replaced.
    pub(super) may_replace: bool,
    pub(super) tokenizer: Made,
    pub(super) survey: Survey,
    pub(super) val_survey: Option<Survey>,
    pub(super) stage: Stage,
    pub(super) place: Place,
    pub(super) train: Counts,
    /// None if nothing is for validation.
    pub(super) val: Option<Counts>,
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// The inputs are read.
    Inputs,
    /// A validation set of its own is read.
    Val,
    /// All tokens are there; files get their names.
    Finish,
}

/// `prepare.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Finished {
    #[serde(flatten)]
    pub(super) head: Head,
    pub(super) tokenizer: Made,
    pub(super) train: Counts,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) val: Option<Counts>,
}

pub(super) fn partial_path(out: &Path) -> PathBuf {
    out.join("prepare.partial.json")
}

pub(super) fn finished_path(out: &Path) -> PathBuf {
    out.join("prepare.json")
}

/// What such a file says, if it is there.
pub(super) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match read_regular(path, MOST_BYTES) {
        Ok(bytes) => bytes,
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let fault = |problem: String| Error::Data { path: path.to_owned(), problem };
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| {
        fault(format!("it is damaged ({error}); remove it to begin anew, or take another folder"))
    })?;
    match value["version"].as_u64() {
        Some(VERSION) => {}
        Some(version) => {
            let problem =
                format!("it has version {version}, and this program knows {VERSION}; take another folder");
            return Err(fault(problem));
        }
        None => return Err(fault("it is no file of this program; take another folder".to_owned())),
    }
    T::deserialize(value).map(Some).map_err(|error| {
        fault(format!("it is damaged ({error}); remove it to begin anew, or take another folder"))
    })
}

pub(super) fn save(path: &Path, what: &impl Serialize) -> Result<()> {
    write_atomically(path, |to| {
        serde_json::to_writer_pretty(&mut *to, what)?;
        to.write_all(b"\n")
    })
}
