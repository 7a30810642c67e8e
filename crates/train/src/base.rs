//! What a run trains: a new model, one that is there already, adapters of one, or a state.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rwkv_core::lora;
use rwkv_core::model::Network;
use rwkv_core::params::{Initial, Layout, Learned, Matrix, ParamSpec, Vector};
use rwkv_core::store::Parameters;
use rwkv_core::{Control, Error, Fingerprint, ModelConfig, ModelFile, Result, ask, resolve};
use rwkv_kernels::Cpu;
use wildmatch::WildMatch;

use crate::init::initialize_until;
use crate::options::{TrainOptions, Tune};

/// The name of the parameter that is the initial state, in runs that tune it.
const STATE: &str = "initial_state";

/// How much faster than parameters an initial state learns: it begins as zeros, and has the size of activations
/// rather than that of weights. In 1,000 steps from Shakespeare to Moby-Dick at the default rate of 0.003, 10
/// led to a validation loss of 2.00, 100 to 1.92 and 300 to 1.91.
const STATE_RATE: f64 = 100.0;

/// The file of a model to start from.
///
/// # Errors
/// [`Error::InvalidOption`] for the directory of a run that has no model of its own; those of
/// [`ModelFile::open`].
pub(crate) fn open(from: &Path) -> Result<ModelFile> {
    let place = resolve(from);
    if place.has_no_model_of_its_own() {
        let expected = "a model; this run trained an adapter or a state of one: start from that model, or \
            merge the adapter into it first";
        return Err(Error::option("from", from.display(), expected));
    }
    ModelFile::open(place.model)
}

/// All parameters of a run, before its first step.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) params: Parameters,
    /// The parameter that is the initial state, if that is what is trained.
    pub(crate) state: Option<Vector>,
    /// The model that the run starts from.
    pub(crate) base: Option<Fingerprint>,
}

/// The parameters of a new model: of a large one they take a while.
fn new_parameters(
    cpu: &Cpu,
    layout: &Layout,
    seed: u64,
    control: impl Control + Send,
) -> Result<Vec<Vec<f32>>> {
    let (control, is_stopped) = (Mutex::new(control), AtomicBool::new(false));
    let stop = || {
        // Whoever cannot ask now asks soon again.
        if let Ok(mut control) = control.try_lock()
            && ask(&mut *control, 0, 0).is_err()
        {
            is_stopped.store(true, Ordering::Relaxed);
        }
        is_stopped.load(Ordering::Relaxed)
    };
    let params = initialize_until(cpu, layout, seed, &stop);
    if is_stopped.load(Ordering::Relaxed) { Err(Error::Aborted) } else { Ok(params) }
}

impl Start {
    /// Takes the parameters from `base`, the file that the options name, or makes new ones. If the run is not
    /// new, those that are trained are to be [`set`](Self::set), and what they are until then means nothing.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for options that do not go together, or patterns that match nothing or
    /// everything; those of reading a model; [`Error::Aborted`] if `control` says so.
    pub(crate) fn new(
        options: &TrainOptions,
        model: &ModelConfig,
        base: Option<ModelFile>,
        is_new: bool,
        cpu: &Cpu,
        control: impl Control + Send,
    ) -> Result<Self> {
        let Some(file) = base else {
            let (_, layout, _) = Network::new(model);
            let raw = if is_new {
                new_parameters(cpu, &layout, options.seed, control)?
            } else {
                layout.specs().iter().map(|spec| vec![0.0; spec.len()]).collect()
            };
            let mut params = Parameters::of_raw(layout, raw);
            let chosen = chosen(options, &params)?;
            (0..params.n_model())
                .filter(|index| !chosen.contains(index))
                .for_each(|index| params.freeze(index));
            return Ok(Self { params, state: None, base: None });
        };
        let mut params = Parameters::of_file(file, cpu, |_, _| ControlFlow::Continue(()))?;
        let base = Some(params.base_fingerprint(*model, Some(cpu))?);
        let mut state = None;
        if options.tune == Tune::State {
            let (_, _, layout) = Network::new(model);
            let learned = Learned { rate: STATE_RATE, decays: Some(false), ..Initial::ZEROS.into() };
            state = Some(params.add_vector(STATE.to_owned(), learned, layout.tuned()));
        } else if let Some(rank) = options.lora_rank {
            add_adapters(options, rank, &mut params)?;
        } else {
            if params.data_type().is_quantized() {
                let expected = "an FP32 or FP16 model, because quantized weights cannot be trained; to train \
                    adapters of this model give lora_rank, to train its initial state set tune to \"state\"";
                return Err(Error::option("from", options.base_path(), expected));
            }
            for index in chosen(options, &params)? {
                params.train(index)?;
            }
            // What was read is checked once more, and what is left of the file is no longer needed if nothing
            // is frozen.
            params.check_file()?;
            params.close_file();
        }
        Ok(Self { params, state, base })
    }
}

impl Start {
    /// Takes the trained parameters from a checkpoint: those of [`Parameters::trained`], and perhaps more
    /// after them.
    pub(crate) fn set(&mut self, values: &[Vec<f32>]) {
        for (index, values) in self.params.trained().zip(values) {
            self.params.raw_mut(index).copy_from_slice(values);
        }
        self.params.refresh();
    }
}

/// The positions of the parameters of the model that `train` and `freeze` leave to be trained.
///
/// # Errors
/// [`Error::InvalidOption`] for a pattern that matches no name, or if nothing is left.
fn chosen(options: &TrainOptions, params: &Parameters) -> Result<Vec<usize>> {
    let names: Vec<_> =
        params.layout().specs()[..params.n_model()].iter().map(|spec| spec.name.as_str()).collect();
    let mut chosen = match &options.train {
        None => vec![true; names.len()],
        Some(patterns) => matches("train", patterns, &names)?,
    };
    if let Some(patterns) = &options.freeze {
        let frozen = matches("freeze", patterns, &names)?;
        chosen.iter_mut().zip(frozen).for_each(|(chosen, frozen)| *chosen = *chosen && !frozen);
        if !chosen.contains(&true) {
            let matched = if options.train.is_some() { "all that train names" } else { "all parameters" };
            let expected = format!("patterns that leave something to train; these match {matched}");
            return Err(Error::option("freeze", patterns.join(" "), expected));
        }
    }
    Ok((0..names.len()).filter(|&index| chosen[index]).collect())
}

/// Which of `names` match one of the patterns.
///
/// # Errors
/// [`Error::InvalidOption`] for a pattern that matches none.
fn matches(option: &'static str, patterns: &[String], names: &[&str]) -> Result<Vec<bool>> {
    let mut any = vec![false; names.len()];
    for pattern in patterns {
        let matcher = WildMatch::new(pattern);
        let found: Vec<_> = names.iter().map(|name| matcher.matches(name)).collect();
        if !found.iter().any(|&found| found) {
            let example = names.iter().find(|name| name.contains("att.key")).or(names.first()).unwrap_or(&"");
            let expected = format!("patterns that match names of parameters, such as {example}");
            return Err(Error::option(option, pattern, expected));
        }
        any.iter_mut().zip(found).for_each(|(any, found)| *any = *any || found);
    }
    Ok(any)
}

/// Positions of the matrices that get an adapter: those that the options name, or all of the blocks that are
/// not of low rank themselves.
///
/// # Errors
/// [`Error::InvalidOption`] for a pattern that matches no matrix.
pub(crate) fn targets(options: &TrainOptions, specs: &[ParamSpec]) -> Result<Vec<usize>> {
    let matrices: Vec<_> = (0..specs.len()).filter(|&index| specs[index].is_matrix()).collect();
    let names: Vec<_> = matrices.iter().map(|&index| specs[index].name.as_str()).collect();
    let is_target = if let Some(patterns) = &options.lora_targets {
        matches("lora_targets", patterns, &names)?
    } else {
        let is_target = |&index: &usize| {
            let spec: &ParamSpec = &specs[index];
            spec.name.starts_with("blocks.") && !spec.is_low_rank
        };
        matrices.iter().map(is_target).collect()
    };
    let targets = matrices.into_iter().zip(is_target).filter(|&(_, is_target)| is_target);
    Ok(targets.map(|(index, _)| index).collect())
}

/// Adds adapters of a rank to the matrices that the options name, or to all of the blocks.
///
/// A is uniform in ±√(3/inputs), so that its products have the variance of their input (Hu et al.'s Kaiming
/// initialisation has a third of it), and B is 0: the model starts as its base.
fn add_adapters(options: &TrainOptions, rank: usize, params: &mut Parameters) -> Result<()> {
    let targets = targets(options, &params.layout().specs()[..params.n_model()])?;
    // As whoever reads the adapter's file computes it: the same to the last bit.
    let scale = options.lora_alpha() as f32 / rank as f32;
    for (number, index) in targets.into_iter().enumerate() {
        let spec = &params.layout().specs()[index];
        let (rows, cols) = (spec.rows, spec.cols);
        let width = rows.min(cols);
        if rank > width {
            let expected = format!("at most {width}, the smaller side of {:?}", spec.name);
            return Err(Error::option("lora_rank", rank, expected));
        }
        if spec.is_embedding() {
            let expected = "matrices that are multiplied with; the embedding is only looked up";
            return Err(Error::option("lora_targets", &spec.name, expected));
        }
        let matrix: Matrix = params.matrix_at(index).expect("only matrices are among the targets");
        let bound = (3.0 / cols as f32).sqrt();
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        rng.set_stream(number as u64);
        let down = (0..rank * cols).map(|_| rng.random_range(-bound..=bound)).collect();
        let initial = [Initial::Uniform { bound }, Initial::ZEROS];
        lora::adapt(params, matrix, rank, scale, [down, vec![0.0; rows * rank]], initial);
    }
    Ok(())
}
