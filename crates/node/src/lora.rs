//! Adapters: merged into their base, or looked at.

// napi leaves its registration out of test builds, and with it the only use of what is here.
#![cfg_attr(test, allow(dead_code))]

use napi_derive::napi;
use rwkv_core::lora::{LoraInfo, LoraOptions, Merged};

use crate::control::Cancel;
use crate::job::Job;

/// How an adapter is read.
#[napi(object)]
pub struct AdapterOptions {
    /// Whether one of another model of the same shape will do.
    pub allow_other_base: Option<bool>,
    /// Alpha of one whose file does not say it.
    pub alpha: Option<f64>,
}

impl AdapterOptions {
    pub(crate) fn of(options: Option<Self>) -> LoraOptions {
        options.map_or_else(LoraOptions::default, |Self { allow_other_base, alpha }| LoraOptions {
            allow_other_base: allow_other_base.unwrap_or(false),
            alpha: alpha.map(|alpha| alpha as f32),
        })
    }
}

/// What was made of a base and an adapter.
#[napi(object)]
pub(crate) struct MergeResult {
    /// The format of the base's matrices.
    pub from: String,
    /// The format of the output's matrices.
    pub to: String,
    /// The base's size.
    pub bytes_in: f64,
    /// The output's size.
    pub bytes_out: f64,
    /// How many matrices the adapter changed.
    pub adapted: u32,
    /// Number of tensors.
    pub tensors: u32,
}

/// Writes the model file or directory `base`, with the adapter at `adapter` added to its matrices, to
/// `output`.
#[napi(ts_return_type = "Promise<MergeResult>")]
pub(crate) fn merge(
    base: String,
    adapter: String,
    output: String,
    options: Option<AdapterOptions>,
    cancel: &Cancel,
) -> Job<MergeResult> {
    let flag = cancel.flag();
    let cancel = flag.clone();
    Job::stoppable(&flag, move || {
        cancel.check()?;
        let options = AdapterOptions::of(options);
        let merged = rwkv_core::lora::merge_with(base, adapter, output, &options, cancel.control())?;
        let Merged { from, to, bytes_in, bytes_out, adapted, tensors } = merged;
        Ok(MergeResult {
            from: from.to_string(),
            to: to.to_string(),
            bytes_in: bytes_in as f64,
            bytes_out: bytes_out as f64,
            adapted: adapted as u32,
            tensors: tensors as u32,
        })
    })
}

/// What an adapter's file says of it.
#[napi(object)]
pub(crate) struct AdapterInfo {
    /// Its rank.
    pub rank: f64,
    /// What it adds is multiplied by alpha / rank; nothing if the files do not say it.
    pub alpha: Option<f64>,
    /// The names of the matrices that it is for.
    pub targets: Vec<String>,
    /// Number of its values.
    pub parameters: f64,
    /// The file's size in bytes.
    pub file_size: f64,
    /// The shape of the model that it was trained on, in words; nothing for files of other programs.
    pub base: Option<String>,
}

/// Reads what the adapter at `path` says of itself.
#[napi(ts_return_type = "Promise<AdapterInfo>")]
pub(crate) fn adapter_info(path: String) -> Job<AdapterInfo> {
    Job::run(move || {
        let LoraInfo { base, rank, alpha, targets, n_params, bytes } = LoraInfo::read(path)?;
        Ok(AdapterInfo {
            rank: rank as f64,
            alpha: alpha.map(f64::from),
            targets,
            parameters: n_params as f64,
            file_size: bytes as f64,
            base: base.map(|base| base.config.describe()),
        })
    })
}
