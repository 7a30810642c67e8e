//! Models, adapters and states made into files of other programs.

// napi leaves its registration out of test builds, and with it the only use of what is here.
#![cfg_attr(test, allow(dead_code))]

use napi_derive::napi;
use rwkv_core::lora::{Exported, LoraFormat, export};
use rwkv_core::{
    ConvertOptions, Converted, DataType, Error, FileFormat, ModelFile, Result, resolve, write_time_state,
};
use rwkv_text::{Tokenizer, TokenizerKind};

use crate::control::Cancel;
use crate::job::Job;

/// What was made of a file.
#[napi(object)]
pub(crate) struct ConvertResult {
    /// The input's format.
    pub from: String,
    /// The output's format.
    pub to: String,
    /// How the input stores its matrices.
    pub from_type: String,
    /// How the output does.
    pub to_type: String,
    /// The input's size.
    pub bytes_in: f64,
    /// The output's size.
    pub bytes_out: f64,
    /// Number of tensors of the output.
    pub tensors: u32,
    /// How many weights were rounded.
    pub changed: f64,
}

/// Writes the model of the file or directory `input` to the file `output`, in the format `to` or the one that
/// the name of the output ends with.
#[napi(ts_return_type = "Promise<ConvertResult>")]
pub(crate) fn convert(
    input: String,
    output: String,
    to: Option<String>,
    data_type: Option<String>,
    cancel: &Cancel,
) -> Job<ConvertResult> {
    let flag = cancel.flag();
    let cancel = flag.clone();
    Job::stoppable(&flag, move || {
        cancel.check()?;
        let to = to.map_or_else(|| FileFormat::of_name(&output), |to| FileFormat::named(&to))?;
        let data_type = data_type.as_deref().map(plain_type).transpose()?;
        let tokens = if to == FileFormat::Gguf { vocabulary(&input)? } else { None };
        let options = ConvertOptions { to, data_type, tokens: tokens.as_deref() };
        let made = rwkv_core::convert(input, output, &options, cancel.control())?;
        let Converted { from, to, from_type, to_type, bytes_in, bytes_out, tensors, changed } = made;
        Ok(ConvertResult {
            from: from.to_string(),
            to: to.to_string(),
            from_type: from_type.to_string(),
            to_type: to_type.to_string(),
            bytes_in: bytes_in as f64,
            bytes_out: bytes_out as f64,
            tensors: tensors as u32,
            changed: changed as f64,
        })
    })
}

/// What was written of an adapter.
#[napi(object)]
pub(crate) struct AdapterResult {
    /// Whose files they are: `peft` or `pth`.
    pub to: String,
    /// Rank.
    pub rank: u32,
    /// Alpha.
    pub alpha: f64,
    /// Number of adapted matrices.
    pub adapted: u32,
    /// Size of the factors' file.
    pub bytes_out: f64,
}

/// Writes the adapter of the file or directory `input` to `output`, as another program has it.
#[napi(ts_return_type = "Promise<AdapterResult>")]
pub(crate) fn convert_adapter(input: String, output: String, to: Option<String>) -> Job<AdapterResult> {
    Job::run(move || {
        let to = to.map_or_else(|| LoraFormat::of_name(&output), |to| LoraFormat::named(&to))?;
        let Exported { to, rank, alpha, adapted, bytes_out } = export(input, output, to)?;
        Ok(AdapterResult {
            to: to.name().to_owned(),
            rank: rank as u32,
            alpha: f64::from(alpha),
            adapted: adapted as u32,
            bytes_out: bytes_out as f64,
        })
    })
}

/// What was written of a state.
#[napi(object)]
pub(crate) struct StateResult {
    /// The output's format.
    pub to: String,
    /// Its size.
    pub bytes_out: f64,
}

/// Writes the tuned state of the file or directory `input` to `output`, as other programs have it.
#[napi(ts_return_type = "Promise<StateResult>")]
pub(crate) fn convert_state(input: String, output: String, to: Option<String>) -> Job<StateResult> {
    Job::run(move || {
        let to = to.map_or_else(|| FileFormat::of_name(&output), |to| FileFormat::named(&to))?;
        let bytes_out = write_time_state(input, output, to)? as f64;
        Ok(StateResult { to: to.to_string(), bytes_out })
    })
}

fn plain_type(name: &str) -> Result<DataType> {
    let known = DataType::ROWS.into_iter().find(|known| known.name().eq_ignore_ascii_case(name));
    known.ok_or_else(|| Error::option("data_type", name, "FP32, FP16 or BF16"))
}

/// The tokens of a model, as llama.cpp's tokenizer of RWKV takes them: always the longest that fits. None if the
/// model's own tokenizer works otherwise.
fn vocabulary(input: &str) -> Result<Option<Vec<Vec<u8>>>> {
    let place = resolve(input);
    let tokenizer = if place.tokenizer.exists() {
        Some(Tokenizer::load(&place.tokenizer)?)
    } else {
        Tokenizer::for_vocabulary(ModelFile::open(&place.model)?.config().n_vocab)?
    };
    let Some(tokenizer) = tokenizer else { return Ok(None) };
    let end = match tokenizer.kind() {
        // Its end of a text has no bytes.
        TokenizerKind::World => tokenizer.end_of_text(),
        TokenizerKind::Byte => None,
        _ => return Ok(None),
    };
    let bytes = |id: usize| {
        let id = id as u32;
        // A number that stands for nothing has no bytes either.
        if Some(id) == end { Vec::new() } else { tokenizer.decode(&[id]).unwrap_or_default() }
    };
    Ok(Some((0..tokenizer.n_vocab()).map(bytes).collect()))
}
