//! A loaded model.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rwkv_kernels::Cpu;

use super::batch::{Outputs, Segment};
use super::cpu::LoadOptions;
use super::loaded::{self, Identity};
use super::shared::Shared;
use crate::config::ModelConfig;
use crate::control::{Control, go_on};
use crate::data_type::DataType;
use crate::error::{Error, Result};
use crate::file::ModelFile;
use crate::fingerprint::{Fingerprint, OR_ALLOW};
use crate::lora::{Lora, LoraOptions};
use crate::model::Network;
use crate::place::resolve;
use crate::state::{State, time_state};
use crate::store::Parameters;

/// A model that is ready to run. Clones share it; threads may use it at the same time.
///
/// It holds no text: what has been read so far is a [`State`], and every state of one model may go its own
/// way.
#[derive(Clone)]
pub struct Model {
    pub(crate) shared: Arc<Shared>,
    pub(crate) cpu: Arc<Cpu>,
}

impl Model {
    /// Loads a `.bin` file, or the `model.bin` of a training run's directory.
    ///
    /// FP32 and FP16 weights are mapped and not read: they come from the disk when they are first used, and
    /// processes that load the same file share them. Quantized weights are repacked into memory of their own.
    /// Models that one process loads from one file share its weights either way, and all models that are loaded
    /// with the same options share their threads ([`LoadOptions::shared_cpu`]).
    ///
    /// The file should not be written to while the model is in use; if it is, every later call answers with
    /// [`Error::FileChanged`](crate::Error::FileChanged). Renaming another file over it, or removing it, is
    /// no harm.
    ///
    /// # Errors
    /// As [`ModelFile::open`] and [`LoadOptions::start_cpu`]; [`Error::ModelFile`](crate::Error::ModelFile)
    /// also for a vector with a value that is infinite or no number; [`Error::Io`](crate::Error::Io) if there
    /// is not enough memory.
    pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Self> {
        Self::load_on(path, options.shared_cpu()?)
    }

    /// As [`load`](Self::load), with threads that others may use too.
    pub fn load_on(path: impl AsRef<Path>, cpu: Arc<Cpu>) -> Result<Self> {
        Self::load_with(path, cpu, go_on)
    }

    /// As [`load_on`](Self::load_on), calling `progress(done, total)` with numbers of bytes now and then.
    ///
    /// # Errors
    /// [`Error::Aborted`](crate::Error::Aborted) if `progress` breaks.
    pub fn load_with(path: impl AsRef<Path>, cpu: Arc<Cpu>, progress: impl Control) -> Result<Self> {
        let path = path.as_ref();
        let path = &*resolve(path).model;
        // Looked at before the file is opened: if it is replaced in between, it will not be taken for the new
        // one.
        let identity = Identity::of(path)?;
        if let Some(shared) = loaded::find(&identity)
            && shared.parameters.check_file().is_ok()
        {
            return Ok(Self { shared, cpu });
        }
        let model = Self::of_file(ModelFile::open(path)?, cpu, progress)?;
        loaded::remember(identity, &model.shared);
        Ok(model)
    }

    /// Loads a model from the bytes of a `.bin` file: one that was downloaded, or that is part of a program.
    ///
    /// It gives the logits, and accepts the states, that the file does. The bytes stay in memory as long as the
    /// model; quantized weights are repacked into memory besides. All of them are read once.
    ///
    /// # Errors
    /// As [`load`](Self::load), with `the buffer` in place of a path; none of them is
    /// [`Error::FileChanged`](crate::Error::FileChanged), and [`Error::Io`](crate::Error::Io) is about memory
    /// alone.
    pub fn from_bytes(bytes: Vec<u8>, options: &LoadOptions) -> Result<Self> {
        Self::from_bytes_with(bytes, options.shared_cpu()?, go_on)
    }

    /// As [`from_bytes`](Self::from_bytes), with threads that others may use too, and calling
    /// `progress(done, total)` with numbers of bytes now and then.
    ///
    /// # Errors
    /// [`Error::Aborted`](crate::Error::Aborted) if `progress` breaks.
    pub fn from_bytes_with(bytes: Vec<u8>, cpu: Arc<Cpu>, progress: impl Control) -> Result<Self> {
        let model = Self::of_file(ModelFile::from_bytes(bytes)?, cpu, progress)?;
        // Once that is known, no state keeps the bytes when the model is gone.
        model.fingerprint()?;
        Ok(model)
    }

    fn of_file(file: ModelFile, cpu: Arc<Cpu>, progress: impl Control) -> Result<Self> {
        let config = *file.config();
        let parameters = Parameters::of_file(file, &cpu, progress)?;
        Ok(Self { shared: Shared::new(config, parameters, &cpu), cpu })
    }

    /// A model of these values, one vector for each parameter of the model's
    /// [`Layout`](crate::params::Layout), as files store them (see [`Stored`](crate::params::Stored)).
    ///
    /// It gives the logits, and accepts the states, that the FP32 file with the same values does.
    ///
    /// # Panics
    /// If the values do not have the model's shapes.
    pub fn from_parameters(config: ModelConfig, values: Vec<Vec<f32>>, cpu: Arc<Cpu>) -> Self {
        let (_, layout, _) = Network::new(&config);
        Self::of_store(config, Parameters::of_values(layout, values), cpu)
    }

    /// A model of the parameters in `store`, adapters included.
    ///
    /// # Panics
    /// If they are not those of the model that `config` describes.
    pub fn of_store(config: ModelConfig, store: Parameters, cpu: Arc<Cpu>) -> Self {
        Self { shared: Shared::new(config, store, &cpu), cpu }
    }

    /// Its parameters.
    pub fn store(&self) -> &Parameters {
        &self.shared.parameters
    }

    /// The same model, weights and all, on threads of its own.
    ///
    /// Models that share a [`Cpu`] take turns; those with a `Cpu` each run side by side. States go from one
    /// to the other.
    #[must_use]
    pub fn with_cpu(&self, cpu: Arc<Cpu>) -> Self {
        Self { shared: Arc::clone(&self.shared), cpu }
    }

    /// This model with the adapter at `path`: a `.safetensors` file, or the directory of a training run that
    /// has one. The weights are shared; states of the one are not states of the other.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io); [`Error::Adapter`](crate::Error::Adapter) if the adapter is damaged
    /// or was trained on another model, or if this model has an adapter already.
    pub fn with_lora(&self, path: impl AsRef<Path>) -> Result<Self> {
        self.with_lora_options(path, &LoraOptions::default())
    }

    /// As [`with_lora`](Self::with_lora), with options for the adapter.
    ///
    /// # Errors
    /// Those of [`with_lora`](Self::with_lora).
    pub fn with_lora_options(&self, path: impl AsRef<Path>, options: &LoraOptions) -> Result<Self> {
        let path = path.as_ref();
        let store = &self.shared.parameters;
        if store.has_adapters() {
            let problem = "this model has an adapter already; load the model without one first".to_owned();
            return Err(Error::Adapter { path: path.to_owned(), problem });
        }
        let base = if options.allow_other_base {
            Fingerprint { config: self.shared.config, weights: 0 }
        } else {
            self.fingerprint()?
        };
        let lora = Lora::read_with(path, &base, store.layout(), options)?;
        let mut store = store.clone();
        lora.apply(&mut store);
        Ok(Self::of_store(self.shared.config, store, Arc::clone(&self.cpu)))
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.shared.config
    }

    /// Number of weights.
    pub fn n_params(&self) -> usize {
        self.shared.parameters.n_params()
    }

    /// The format that matrices are stored in.
    pub fn data_type(&self) -> DataType {
        self.shared.parameters.data_type()
    }

    /// The instructions and threads in use.
    pub fn cpu(&self) -> &Arc<Cpu> {
        &self.cpu
    }

    /// What its states and adapters are recognised by: the first call reads all weights.
    ///
    /// # Errors
    /// [`Error::FileChanged`](crate::Error::FileChanged) if the model's file was written to,
    /// [`Error::Io`](crate::Error::Io).
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        self.shared.origin.fingerprint(Some(&self.cpu))
    }

    /// The state before the first token.
    pub fn new_state(&self) -> State {
        State::new(&self.shared.origin, &self.shared.state_layout)
    }

    /// The state that [`State::to_bytes`] made these bytes of.
    ///
    /// # Errors
    /// [`Error::State`](crate::Error::State) if they are damaged or were made by another model; those of
    /// [`fingerprint`](Self::fingerprint).
    pub fn state_from_bytes(&self, bytes: &[u8]) -> Result<State> {
        self.state_from_bytes_with(bytes, false)
    }

    /// As [`state_from_bytes`](Self::state_from_bytes); with `allow_other_base` also if they were made by another model of
    /// the same shape: meant for the same model in another precision, to which they are about what its own would be. To
    /// a model that has nothing to do with theirs they are noise. Then the bytes can also be those of a `.pth` or
    /// `.safetensors` with the `blocks.N.att.time_state` of RWKV-7 (heads, value, key), as RWKV-PEFT tunes them.
    ///
    /// # Errors
    /// Those of [`state_from_bytes`](Self::state_from_bytes).
    pub fn state_from_bytes_with(&self, bytes: &[u8], allow_other_base: bool) -> Result<State> {
        if time_state::is_one(bytes) {
            if !allow_other_base {
                let problem = "it is a time_state of another program, which does not say which model it was tuned for; if \
                    that is this one, also in another precision, say so with the option allowOtherBase: \
                    with any other model the text is wrong, and no message says so";
                return Err(Error::State { problem: problem.to_owned() });
            }
            let values = time_state::read(bytes, &self.shared.config, &self.shared.state_layout)?;
            let state = State::of_values(&self.shared.origin, values);
            self.check_state(&state)?;
            return Ok(state);
        }
        let state = State::from_bytes(bytes)?;
        let is_of_shape = state.model()?.config == self.shared.config;
        if allow_other_base && is_of_shape {
            let state = state.with_origin(&self.shared.origin);
            self.check_state(&state)?;
            return Ok(state);
        }
        if is_of_shape && state.model()? != self.fingerprint()? {
            let problem = format!(
                "it was made by a model of this shape, but with other weights; load the model that it was made with{OR_ALLOW}"
            );
            return Err(Error::State { problem });
        }
        self.check_state(&state)?;
        Ok(state.with_origin(&self.shared.origin))
    }

    /// Whether this model can go on from `state`. Of a state that this model made that costs next to nothing;
    /// of another's, the first time, a read of all weights.
    ///
    /// # Errors
    /// [`Error::State`](crate::Error::State) that says why not; those of [`fingerprint`](Self::fingerprint).
    pub fn check_state(&self, state: &State) -> Result<()> {
        state.check(&self.shared.origin, &self.shared.state_layout, &self.cpu)
    }

    /// Reads `tokens` from `state` on: the logits (n_vocab) of what comes after the last one.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`](crate::Error::TokenOutOfRange), [`Error::State`](crate::Error::State) for a
    /// state of another model or one that is not finite,
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for no tokens at all;
    /// [`Error::FileChanged`](crate::Error::FileChanged) if the model's file was written to;
    /// [`Error::ModelFile`](crate::Error::ModelFile) the first time that a weight takes part which is
    /// infinite or not a number; [`Error::NotFinite`](crate::Error::NotFinite) if a result is. The state is
    /// then as it was. The same holds for the methods below.
    pub fn eval(&self, tokens: &[u32], state: &mut State) -> Result<Vec<f32>> {
        let mut logits = self.eval_batch(&mut [Segment { tokens, state }], Outputs::Last)?;
        Ok(logits.swap_remove(0))
    }

    /// Reads `tokens` from `state` on: the logits (tokens, n_vocab) of what comes after each of them.
    pub fn eval_all(&self, tokens: &[u32], state: &mut State) -> Result<Vec<f32>> {
        let mut logits = self.eval_batch(&mut [Segment { tokens, state }], Outputs::All)?;
        Ok(logits.swap_remove(0))
    }

    /// Reads several texts at once, each from its own state on; weights are read once for all of them.
    ///
    /// Returns for each segment the logits asked for: none, (n_vocab) or (tokens, n_vocab). They are, to the
    /// last bit, those of evaluating each segment alone.
    pub fn eval_batch(&self, segments: &mut [Segment<'_>], outputs: Outputs) -> Result<Vec<Vec<f32>>> {
        self.eval_batch_until(segments, outputs, &|| false)
    }

    /// As [`eval_batch`](Self::eval_batch), asking before every product whether to stop.
    ///
    /// # Errors
    /// [`Error::Aborted`](crate::Error::Aborted) if `stop` says so.
    pub(super) fn eval_batch_until(
        &self,
        segments: &mut [Segment<'_>],
        outputs: Outputs,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<Vec<f32>>> {
        let n_vocab = self.shared.config.n_vocab;
        let mut logits: Vec<_> = segments
            .iter()
            .map(|segment| Vec::with_capacity(outputs.count(segment.tokens.len()) * n_vocab))
            .collect();
        self.shared.run_segments(&self.cpu, segments, outputs, stop, |segment, _, rows| {
            logits[segment].extend_from_slice(rows);
            Ok(())
        })?;
        Ok(logits)
    }

    /// As [`eval_batch`](Self::eval_batch), but shows the logits where they were computed, with no copy.
    ///
    /// Calls `sink(segment, tokens, logits)` with the logits (tokens, n_vocab) after those tokens of the
    /// segment, in order within a segment.
    pub fn eval_each(
        &self,
        segments: &mut [Segment<'_>],
        outputs: Outputs,
        mut sink: impl FnMut(usize, Range<usize>, &[f32]),
    ) -> Result<()> {
        self.shared.run_segments(&self.cpu, segments, outputs, &|| false, |segment, tokens, logits| {
            sink(segment, tokens, logits);
            Ok(())
        })
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("config", &self.shared.config)
            .field("data_type", &self.data_type())
            .field("cpu", &self.cpu)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::file::write_model;
    use crate::quantize;

    /// Writes an FP32 model whose values depend on `seed`.
    fn write(path: &Path, seed: usize) {
        let config = ModelConfig::v4(7, 32, 2);
        let (_, layout, _) = Network::new(&config);
        let value = |i: usize| -(((i + seed) * 37 % 101) as f32) / 101.0;
        let values: Vec<Vec<_>> =
            layout.specs().iter().map(|spec| (0..spec.len()).map(value).collect()).collect();
        write_model(path, &config, &layout, &values, DataType::F32).unwrap();
    }

    fn load(path: &Path) -> Model {
        Model::load(path, &LoadOptions { threads: Some(1), ..Default::default() }).unwrap()
    }

    #[test]
    fn models_are_shared_between_threads() {
        fn check<T: Send + Sync + Clone>() {}
        check::<Model>();
    }

    #[test]
    fn models_of_one_file_share_its_weights_until_the_file_is_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.bin");
        write(&path, 1);
        let (first, again, of_the_directory) = (load(&path), load(&path), load(directory.path()));
        assert!(Arc::ptr_eq(&first.shared, &again.shared));
        assert!(Arc::ptr_eq(&first.shared, &of_the_directory.shared));
        write(&path, 2);
        let other = load(&path);
        assert!(!Arc::ptr_eq(&first.shared, &other.shared));
        let read = |model: &Model| model.eval(&[1, 2, 3], &mut model.new_state()).unwrap();
        assert_ne!(read(&first), read(&other));
        assert_eq!(read(&first), read(&again));
    }

    #[test]
    fn loading_says_how_far_it_is_and_can_be_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let (path, small) = (directory.path().join("model.bin"), directory.path().join("small.bin"));
        write(&path, 1);
        quantize(&path, &small, DataType::Q5_0, &LoadOptions::default(), go_on).unwrap();
        let cpu = LoadOptions { threads: Some(2), ..Default::default() }.start_cpu().unwrap();
        let mut calls = 0;
        let stopped = Model::load_with(&small, Arc::clone(&cpu), |_, _| {
            calls += 1;
            if calls == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!((stopped.unwrap_err().code(), calls), ("ABORTED", 3));
        let mut seen = Vec::new();
        let model = Model::load_with(&small, cpu, |done, total| {
            seen.push((done, total));
            ControlFlow::Continue(())
        });
        assert_eq!(model.unwrap().data_type(), DataType::Q5_0);
        let total = std::fs::metadata(&small).unwrap().len();
        assert!(seen.is_sorted() && seen.iter().all(|&(done, of)| done <= of && of == total));
        assert_eq!((seen[0].0, seen[seen.len() - 1].0), (0, total));
    }
}
