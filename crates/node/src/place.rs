//! What a path stands for.

// napi leaves its registration out of test builds, and with it the only use of what is here.
#![cfg_attr(test, allow(dead_code))]

use std::path::Path;

use napi_derive::napi;
use rwkv_core::{Content, content};

use crate::job::Job;

/// The files that belong to what a path names.
#[napi(object)]
#[allow(clippy::struct_excessive_bools)] // one for each file
pub(crate) struct PlaceInfo {
    /// The model.
    pub model: String,
    /// Adapters of a model.
    pub adapter: String,
    /// An initial state for a model.
    pub state: String,
    /// How text becomes tokens.
    pub tokenizer: String,
    /// What is there: a `model`, if nothing else is known, an `adapter` or a `state`.
    pub content: String,
    /// What a run is, if the path names a directory.
    pub config: Option<String>,
    /// Whether each of them is there.
    pub has_model: bool,
    /// Adapters.
    pub has_adapter: bool,
    /// A state.
    pub has_state: bool,
    /// A tokenizer.
    pub has_tokenizer: bool,
    /// A configuration of a run.
    pub has_config: bool,
}

/// Looks at what is where `path` is.
#[napi(ts_return_type = "Promise<PlaceInfo>")]
pub(crate) fn place_of(path: String) -> Job<PlaceInfo> {
    Job::run(move || {
        let content = content(&path);
        let place = rwkv_core::resolve(path);
        let text = |path: &Path| path.display().to_string();
        Ok(PlaceInfo {
            model: text(&place.model),
            adapter: text(&place.adapter),
            state: text(&place.state),
            tokenizer: text(&place.tokenizer),
            config: place.config.as_deref().map(text),
            content: match content {
                Content::Model => "model",
                Content::Adapter => "adapter",
                Content::State => "state",
            }
            .to_owned(),
            has_model: place.model.exists(),
            has_adapter: match place.config {
                Some(_) => place.adapter.exists(),
                None => content == Content::Adapter,
            },
            has_state: place.state.exists(),
            has_tokenizer: place.tokenizer.exists(),
            has_config: place.config.is_some_and(|config| config.exists()),
        })
    })
}
