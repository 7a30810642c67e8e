//! What a path stands for: a file, or the directory of a training run.

use std::path::{Path, PathBuf};

use crate::lora::LoraInfo;
use crate::state::State;

/// The files that belong to what a path names. Nothing says that they are there.
///
/// In a directory each has its name. A path of a file is the model, the adapter or the state that whoever reads it
/// expects, and its tokenizer is the one beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The model: `model.bin`.
    pub model: PathBuf,
    /// Adapters of a model: `lora.safetensors`.
    pub adapter: PathBuf,
    /// An initial state for a model: `tuned.state`.
    pub state: PathBuf,
    /// How text becomes tokens: `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// What a run is: `config.json`. None for a file.
    pub config: Option<PathBuf>,
    /// The directory in which all of these are.
    pub directory: PathBuf,
}

impl Place {
    /// The names of what a run may leave in its directory: a model, adapters or a state.
    pub const RESULTS: [&'static str; 3] = ["model.bin", "lora.safetensors", "tuned.state"];

    /// Whether this is a directory in which there is no model, but adapters or a state of one.
    pub fn has_no_model_of_its_own(&self) -> bool {
        self.config.is_some() && !self.model.exists() && (self.adapter.exists() || self.state.exists())
    }
}

/// The files that belong to what `path` names.
pub fn resolve(path: impl AsRef<Path>) -> Place {
    let path = path.as_ref();
    if path.is_dir() {
        let [model, adapter, state] = Place::RESULTS.map(|name| path.join(name));
        return Place {
            model,
            adapter,
            state,
            tokenizer: path.join("tokenizer.json"),
            config: Some(path.join("config.json")),
            directory: path.to_owned(),
        };
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    // Of a path without a directory, the name alone: as it is written.
    let beside = path.with_file_name("tokenizer.json");
    let [model, adapter, state] = [(); 3].map(|()| path.to_owned());
    Place { model, adapter, state, tokenizer: beside, config: None, directory }
}

/// What is where a path points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A model, or nothing that is known.
    Model,
    /// A LoRA adapter, of this program or another.
    Adapter,
    /// A state.
    State,
}

/// What is where `path` points: of a directory a model, if it has one, otherwise adapters, otherwise a state; of a file
/// what its first bytes say. Whether it is sound is not looked at.
pub fn content(path: impl AsRef<Path>) -> Content {
    let path = path.as_ref();
    let place = resolve(path);
    if place.config.is_some() && place.model.exists() {
        Content::Model
    } else if LoraInfo::is_any(path) {
        Content::Adapter
    } else if place.state.exists() && (place.config.is_some() || State::is_one(path)) {
        Content::State
    } else {
        Content::Model
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_each_file_by_its_name_and_a_file_is_what_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let run = resolve(directory.path());
        for (path, name) in [
            (&run.model, "model.bin"),
            (&run.adapter, "lora.safetensors"),
            (&run.state, "tuned.state"),
            (&run.tokenizer, "tokenizer.json"),
        ] {
            assert_eq!(*path, directory.path().join(name));
        }
        assert_eq!(
            (run.config, run.directory),
            (Some(directory.path().join("config.json")), directory.path().into())
        );
        let file = directory.path().join("a.bin");
        std::fs::write(&file, "x").unwrap();
        let place = resolve(&file);
        assert_eq!([&place.model, &place.adapter, &place.state], [&file; 3]);
        assert_eq!((place.tokenizer, place.config), (directory.path().join("tokenizer.json"), None));
        let alone = resolve("a.bin");
        assert_eq!((alone.tokenizer, alone.directory), ("tokenizer.json".into(), ".".into()));
    }

    #[test]
    fn what_a_path_has_is_told_by_names_of_directories_and_by_bytes_of_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        assert_eq!(content(directory.path()), Content::Model);
        std::fs::write(path("tuned.state"), "rwkvstat, and what follows").unwrap();
        assert_eq!([content(directory.path()), content(path("tuned.state"))], [Content::State; 2]);
        let header = r#"{"__metadata__":{"rwkv_lora":"{}"}}"#;
        let adapter = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        std::fs::write(path("lora.safetensors"), adapter).unwrap();
        assert_eq!([content(directory.path()), content(path("lora.safetensors"))], [Content::Adapter; 2]);
        std::fs::write(path("model.bin"), "x").unwrap();
        assert_eq!([content(directory.path()), content(path("model.bin"))], [Content::Model; 2]);
        assert_eq!(content(path("not there")), Content::Model);
    }

    #[test]
    fn a_run_that_trained_an_adapter_has_no_model_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let has_none = || resolve(directory.path()).has_no_model_of_its_own();
        assert!(!has_none());
        std::fs::write(directory.path().join("tuned.state"), "x").unwrap();
        assert!(has_none());
        std::fs::write(directory.path().join("model.bin"), "x").unwrap();
        assert!(!has_none());
    }
}
