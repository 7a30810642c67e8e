//! A loaded model.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use napi::Env;
use napi::bindgen_prelude::ObjectFinalize;
use napi_derive::napi;
use rwkv_core::{LoadOptions, Model};

use crate::control::Cancel;
use crate::environment::{Close, Held, Open};
use crate::failure::Result;
use crate::job::Job;
use crate::lora::AdapterOptions;
use crate::number::count;
use crate::slot::SharedSlot;

/// What a model is and how it is run.
#[napi(object)]
pub struct ModelInfo {
    /// RWKV's version, such as "v7".
    pub version: String,
    /// Tokens in the vocabulary.
    pub n_vocab: u32,
    /// Width of the residual stream.
    pub n_embd: u32,
    /// Number of blocks.
    pub n_layer: u32,
    /// Width of the channel mix's hidden layer.
    pub n_ffn: u32,
    /// The numbers that only this version has, by name.
    pub sizes: HashMap<String, u32>,
    /// Number of weights.
    pub parameters: f64,
    /// The format that matrices are stored in: "FP32", "FP16", "BF16" or a quantized one.
    pub format: String,
    /// The file's size in bytes.
    pub file_size: f64,
    /// The instruction set in use.
    pub isa: String,
    /// The threads in use.
    pub threads: u32,
}

/// What to measure; what is left out has the default of the crate `rwkv`.
#[napi(object)]
pub struct BenchOptions {
    /// Tokens of a stretch of decoding.
    pub decode: Option<f64>,
    /// Tokens of the prompt.
    pub prompt: Option<f64>,
    /// Sessions that are decoded together.
    pub sessions: Option<f64>,
    /// How long to go on.
    pub seconds: Option<f64>,
}

impl BenchOptions {
    fn options(&self) -> Result<rwkv_core::BenchOptions> {
        let default = rwkv_core::BenchOptions::default();
        Ok(rwkv_core::BenchOptions {
            decode: count("decode", self.decode)?.unwrap_or(default.decode),
            prompt: count("prompt", self.prompt)?.unwrap_or(default.prompt),
            sessions: count("sessions", self.sessions)?.unwrap_or(default.sessions),
            seconds: self.seconds.unwrap_or(default.seconds),
            ..default
        })
    }
}

/// How fast a model runs.
#[napi(object)]
pub struct Bench {
    /// Rounds that the medians are of.
    pub rounds: u32,
    /// Seconds of the first token.
    pub first_token_seconds: f64,
    /// One session, one token at a time.
    pub decode_tokens_per_second: f64,
    /// A prompt.
    pub prefill_tokens_per_second: f64,
    /// All sessions together.
    pub batch_tokens_per_second: f64,
    /// The last over the first.
    pub batch_gain: f64,
    /// Bytes of weights that decoding one token reads.
    pub bytes_per_token: f64,
    /// Bytes a second that decoding reads.
    pub read_bandwidth: f64,
    /// Bytes a second that the same threads can read.
    pub available_read_bandwidth: f64,
    /// The former over the latter.
    pub read_bandwidth_share: f64,
}

/// A loaded model.
#[napi(custom_finalize)]
pub struct NativeModel {
    pub(crate) handle: Arc<SharedSlot<Model>>,
    info: ModelInfo,
    held: Held,
    /// Those that read with it.
    pub(crate) sessions: RefCell<Open>,
}

#[napi]
impl NativeModel {
    /// Loads a `.bin` file, or the `model.bin` of a training run's directory; with the adapter at `lora`, if
    /// there is one.
    #[napi(ts_return_type = "Promise<NativeModel>")]
    pub fn load(
        path: String,
        lora: Option<String>,
        adapter: Option<AdapterOptions>,
        threads: Option<f64>,
        cancel: &Cancel,
    ) -> Job<NativeModel> {
        let source = move || Ok(Source::File(PathBuf::from(path)));
        Self::load_from(source, lora, adapter, threads, cancel)
    }

    /// The same, of the bytes of a `.bin` file. They are copied before this returns: what becomes of the buffer
    /// afterwards is no matter.
    #[napi(ts_return_type = "Promise<NativeModel>")]
    pub fn load_bytes(
        bytes: &[u8],
        lora: Option<String>,
        adapter: Option<AdapterOptions>,
        threads: Option<f64>,
        cancel: &Cancel,
    ) -> Job<NativeModel> {
        let mut copy = Vec::new();
        let has_room = copy.try_reserve_exact(bytes.len());
        if has_room.is_ok() {
            copy.extend_from_slice(bytes);
        }
        let source = move || {
            let no_room = |_| std::io::Error::from(std::io::ErrorKind::OutOfMemory);
            has_room.map_err(no_room).map_err(rwkv_core::Error::io("copy", "the buffer"))?;
            Ok(Source::Bytes(copy))
        };
        Self::load_from(source, lora, adapter, threads, cancel)
    }

    fn load_from(
        source: impl FnOnce() -> Result<Source> + Send + 'static,
        lora: Option<String>,
        adapter: Option<AdapterOptions>,
        threads: Option<f64>,
        cancel: &Cancel,
    ) -> Job<NativeModel> {
        let flag = cancel.flag();
        let cancel = flag.clone();
        let work = move || {
            cancel.check()?;
            let source = source()?;
            let options = LoadOptions { threads: count("threads", threads)?, isa: None };
            let file_size = source.len()?;
            let cpu = options.shared_cpu()?;
            let model = match source {
                Source::File(path) => Model::load_with(path, cpu, cancel.control())?,
                Source::Bytes(bytes) => Model::from_bytes_with(bytes, cpu, cancel.control())?,
            };
            let model = match lora {
                Some(lora) => model.with_lora_options(lora, &AdapterOptions::of(adapter))?,
                None => model,
            };
            cancel.check()?;
            Ok((model, file_size))
        };
        Job::run_then(&flag, work, |(model, file_size), env| Self::new(model, file_size, env))
    }

    fn new(model: Model, file_size: u64, env: Env) -> Self {
        let config = *model.config();
        let info = ModelInfo {
            version: config.version.to_string(),
            n_vocab: config.n_vocab as u32,
            n_embd: config.n_embd as u32,
            n_layer: config.n_layer as u32,
            n_ffn: config.n_ffn as u32,
            sizes: config.named_sizes().map(|(name, size)| (name.to_owned(), size)).collect(),
            parameters: model.n_params() as f64,
            format: model.data_type().to_string(),
            file_size: file_size as f64,
            isa: model.cpu().isa().to_string(),
            threads: model.cpu().threads() as u32,
        };
        Self {
            handle: SharedSlot::new("model", model),
            info,
            held: Held::new(file_size, env),
            sessions: RefCell::default(),
        }
    }

    /// What it is and how it is run.
    #[napi(getter)]
    pub fn info(&self) -> ModelInfo {
        ModelInfo {
            version: self.info.version.clone(),
            sizes: self.info.sizes.clone(),
            format: self.info.format.clone(),
            isa: self.info.isa.clone(),
            ..self.info
        }
    }

    /// How fast it runs, and how near that is to what the machine can do.
    #[napi(ts_return_type = "Promise<Bench>")]
    pub fn bench(&self, options: BenchOptions, cancel: &Cancel) -> Job<Bench> {
        let (handle, flag) = (Arc::clone(&self.handle), cancel.flag());
        let cancel = flag.clone();
        Job::stoppable(&flag, move || {
            let model = handle.get()?;
            let options = options.options()?;
            let mut stopped = Ok(());
            let result = model.bench(&options, |done, total| {
                cancel.progress(done, total);
                stopped = handle.go_on(&cancel);
                if stopped.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            stopped?;
            let found = result?;
            Ok(Bench {
                rounds: found.rounds as u32,
                first_token_seconds: found.first_token,
                decode_tokens_per_second: found.decode,
                prefill_tokens_per_second: found.prefill,
                batch_tokens_per_second: found.batch,
                batch_gain: found.batch_gain,
                bytes_per_token: found.bytes_per_token as f64,
                read_bandwidth: found.bandwidth(),
                available_read_bandwidth: found.available_bandwidth,
                read_bandwidth_share: found.bandwidth_share,
            })
        })
    }

    /// Frees the model, when the work under way has stopped.
    #[napi]
    pub fn close(&self, env: Env) {
        self.handle.close();
        self.sessions.take().close();
        self.held.release(env);
    }
}

impl ObjectFinalize for NativeModel {
    fn finalize(self, env: Env) -> napi::Result<()> {
        self.close(env);
        Ok(())
    }
}

/// What a model is loaded from.
enum Source {
    File(PathBuf),
    Bytes(Vec<u8>),
}

impl Source {
    /// The size of the file, which is that which [`Model::load`] takes for its path, or of the bytes.
    fn len(&self) -> Result<u64> {
        let path = match self {
            Self::Bytes(bytes) => return Ok(bytes.len() as u64),
            Self::File(path) => path,
        };
        let file = rwkv_core::resolve(path).model;
        Ok(std::fs::metadata(&file).map_err(rwkv_core::Error::io("read", &file))?.len())
    }
}
