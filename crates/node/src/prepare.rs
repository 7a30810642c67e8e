//! Texts made into files of tokens.

// napi leaves its registration out of test builds, and with it the only use of what is here.
#![cfg_attr(test, allow(dead_code))]

use std::ops::ControlFlow;

use napi_derive::napi;
use rwkv_text::TokenizerKind;
use rwkv_text::prepare::{Counts, PrepareOptions, Recipe, Vocabulary};

use crate::control::Cancel;
use crate::job::Job;
use crate::number::count;
use crate::texts::Texts;

/// How a data set is prepared; what is left out is as `PrepareOptions` has it.
#[napi(object)]
pub(crate) struct PrepareSettings {
    /// The folder.
    pub out: String,
    /// A local copy instead of a download.
    pub from: Option<Vec<String>>,
    /// A kind of tokenizer.
    pub tokenizer: Option<String>,
    /// Tokens of a BPE.
    pub vocab_size: Option<f64>,
    /// A `tokenizer.json`.
    pub tokenizer_file: Option<String>,
    /// A validation set of its own.
    pub val: Option<Vec<String>>,
    /// The share for validation.
    pub val_fraction: Option<f64>,
    /// Chooses the documents for validation.
    pub seed: Option<f64>,
    /// How texts are read.
    pub texts: Texts,
    /// Threads.
    pub threads: Option<f64>,
    /// Replace what is there.
    pub force: Option<bool>,
}

/// What is in a file of tokens.
#[napi(object)]
pub(crate) struct PreparedPart {
    /// Documents.
    pub documents: f64,
    /// Bytes of text.
    pub bytes: f64,
    /// Tokens.
    pub tokens: f64,
}

/// What was prepared.
#[napi(object)]
pub(crate) struct PrepareResult {
    /// The folder.
    pub out: String,
    /// What its tokens are.
    pub tokenizer: String,
    /// Number of different tokens.
    pub n_vocab: u32,
    /// What is for training.
    pub train: PreparedPart,
    /// What is for validation.
    pub val: Option<PreparedPart>,
    /// Whether it was finished before.
    pub was_finished: bool,
    /// What is to be told.
    pub notes: Vec<String>,
}

/// Prepares the data set of a name, or some inputs.
#[napi(ts_return_type = "Promise<PrepareResult>")]
pub(crate) fn prepare(inputs: Vec<String>, settings: PrepareSettings, cancel: &Cancel) -> Job<PrepareResult> {
    let flag = cancel.flag();
    let cancel = flag.clone();
    Job::stoppable(&flag, move || {
        cancel.check()?;
        let recipe = match &inputs[..] {
            [word] => Recipe::of_word(word),
            _ => None,
        };
        let recipe = recipe.unwrap_or(Recipe::Inputs(inputs));
        let options = options(settings)?;
        let mut control = cancel.control();
        let made = rwkv_text::prepare::prepare(&recipe, &options, |progress| {
            let total = progress.total.max(progress.done);
            if cancel.check().is_err() { ControlFlow::Break(()) } else { control(progress.done, total) }
        })?;
        let part = |Counts { documents, bytes, tokens }: Counts| PreparedPart {
            documents: documents as f64,
            bytes: bytes as f64,
            tokens: tokens as f64,
        };
        Ok(PrepareResult {
            out: made.out.display().to_string(),
            tokenizer: made.kind.word().to_owned(),
            n_vocab: made.n_vocab as u32,
            train: part(made.train),
            val: made.val.map(part),
            was_finished: made.was_finished,
            notes: made.notes,
        })
    })
}

fn options(settings: PrepareSettings) -> Result<PrepareOptions, crate::failure::Failure> {
    let mut options = PrepareOptions::new(settings.out);
    let vocab_size = count("vocabSize", settings.vocab_size)?;
    options.tokenizer = match (settings.tokenizer.as_deref(), vocab_size, settings.tokenizer_file) {
        (None | Some("bpe"), Some(vocab_size), None) => Some(Vocabulary::Trained { vocab_size }),
        (None, None, Some(path)) => Some(Vocabulary::File(path.into())),
        (Some(word), None, None) => TokenizerKind::of_word(word).map(Vocabulary::Kind),
        (None, None, None) => None,
        _ => {
            let expected = "one of tokenizer, vocab_size (of a BPE) and tokenizer_file";
            return Err(rwkv_core::Error::option("tokenizer", "said more than once", expected).into());
        }
    };
    (options.from, options.val, options.val_fraction) = (settings.from, settings.val, settings.val_fraction);
    options.source = settings.texts.into();
    options.seed = count("seed", settings.seed)?.map_or(options.seed, |seed| seed as u64);
    options.threads = count("threads", settings.threads)?.unwrap_or(0);
    options.force = settings.force.unwrap_or(false);
    Ok(options)
}
