//! States of other programs: the `time_state` of state tuning.
//!
//! RWKV-PEFT's state tuning saves a `.pth` with `blocks.N.att.time_state` for each layer: (heads, value, key), with the
//! rows of what follows "value by key" as in this program's own states. The token shifts of its texts start from zeros. The
//! same names in a `.safetensors` are read alike.
//!
//! Facts from RWKV-PEFT's `rwkvt/rwkv7/att.py` and `rwkvt/operator/rwkvop.py`.

use std::io::Read;
use std::path::Path;

use super::{State, StateLayout};
use crate::config::{ModelConfig, Version};
use crate::convert::stage_floats;
use crate::data_type::DataType;
use crate::error::{Error, Result};
use crate::file::{FileFormat, recognise, tensors_of};
use crate::place::resolve;
use crate::regular::open_regular;

/// What messages call bytes that have no name here.
const NAME: &str = "the state";
/// Bytes that a state may have: far more than any model's.
const MOST: u64 = 1 << 30;

/// What a layer keeps, as rwkv.cpp and `model/v7/declare.rs` have it: two shifts, then the matrices of all heads.
#[derive(Clone, Copy)]
struct Shape {
    /// Floats of all that a layer keeps, and those of its shifts, which come first.
    of_layer: usize,
    shifts: usize,
    /// Of `time_state`, row length first: keys, values, heads.
    dims: [usize; 3],
}

impl Shape {
    /// That of a model of RWKV-7 whose state has `len` floats; None if there is no such model.
    fn of(config: &ModelConfig, len: usize) -> Option<Self> {
        let of_layer = len.checked_div(config.n_layer)?;
        let shifts = config.n_embd.checked_mul(2)?;
        let head = of_layer.checked_sub(shifts)?.checked_div(config.n_embd)?;
        let heads = config.n_embd.checked_div(head)?;
        let is_whole =
            config.n_layer * (shifts + heads * head * head) == len && heads * head == config.n_embd;
        is_whole.then_some(Self { of_layer, shifts, dims: [head, head, heads] })
    }
}

fn name(layer: usize) -> String {
    format!("blocks.{layer}.att.time_state")
}

/// Writes the state at `input`, a file of [`State::to_bytes`] or the directory of the run that tuned one, to `output` as
/// the `time_state` of RWKV-PEFT and its users: a `.pth`, or a `.safetensors` of the same names, in FP32. Its size in
/// bytes.
///
/// # Errors
/// - [`Error::State`] if the input is damaged, if its model is not of RWKV-7, or if its token shifts are not zeros: it is
///   then the state after a text, and those have no place in a `time_state`.
/// - [`Error::InvalidOption`] if `to` is no `.pth` or `.safetensors`, or `output` is the input.
/// - [`Error::Io`].
pub fn write_time_state(input: impl AsRef<Path>, output: impl AsRef<Path>, to: FileFormat) -> Result<u64> {
    let (input, output) = (&*resolve(input).state, output.as_ref());
    let fault = |problem: String| Error::State { problem: format!("{}: {problem}", input.display()) };
    if !matches!(to, FileFormat::Pth | FileFormat::Safetensors) {
        return Err(Error::option("to", to, "pth or safetensors: the input is a state"));
    }
    if output.canonicalize().is_ok_and(|path| input.canonicalize().is_ok_and(|input| input == path)) {
        let expected = "another file than the input, which would be replaced";
        return Err(Error::option("output", output.display(), expected));
    }
    let file = open_regular(input).map_err(Error::io("open", input))?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).map_err(Error::io("read", input))?;
    let state = State::from_bytes(&bytes).map_err(|error| fault(error.to_string()))?;
    let config = state.model()?.config;
    if config.version != Version::V7 {
        let problem = format!("it is of an RWKV {}, and only RWKV-7 has a time_state", config.version);
        return Err(fault(problem));
    }
    let values = state.as_slice();
    let Some(Shape { of_layer, shifts, dims }) = Shape::of(&config, values.len()) else {
        let problem =
            format!("its {} floats fit no state of its model ({})", values.len(), config.describe());
        return Err(fault(problem));
    };
    let mut floats = Vec::new();
    for (layer, values) in values.chunks_exact(of_layer).enumerate() {
        let (shifts, matrices) = values.split_at(shifts);
        if shifts.iter().any(|&shift| shift != 0.0) {
            let problem = "it is the state after a text: a time_state has no place for the last token's vectors; only a \
                state that was tuned can be written as one";
            return Err(fault(problem.to_owned()));
        }
        floats.push((name(layer), dims.to_vec(), matrices));
    }
    let staged = stage_floats(output, to, &floats)?;
    let len = staged.len();
    staged.commit()?;
    Ok(len)
}

/// Whether bytes are a file of PyTorch's or of safetensors, for [`read`], rather than a state of this program.
pub(crate) fn is_one(bytes: &[u8]) -> bool {
    !bytes.starts_with(super::MAGIC) && matches!(recognise(bytes), FileFormat::Pth | FileFormat::Safetensors)
}

/// The floats of a state of a model of this shape, that begins with the `time_state` in `bytes`.
pub(crate) fn read(bytes: &[u8], config: &ModelConfig, layout: &StateLayout) -> Result<Vec<f32>> {
    let fault = |problem: String| Error::State { problem };
    if config.version != Version::V7 {
        let problem =
            format!("it is a time_state, and this model is an RWKV {}, which has none", config.version);
        return Err(fault(problem));
    }
    let tensors = tensors_of(Path::new(NAME), bytes).map_err(|error| fault(error.to_string()))?;
    let n_layer = config.n_layer;
    let Some(Shape { of_layer, shifts, dims }) = Shape::of(config, layout.len()) else {
        return Err(fault("this model has no such state".to_owned()));
    };
    let mut state = layout.initial();
    for layer in 0..n_layer {
        let name = name(layer);
        let Some(tensor) = tensors.iter().find(|tensor| tensor.name == name) else {
            return Err(fault(format!("tensor {name:?} is missing; this model has {n_layer} layers")));
        };
        if tensor.dims != dims {
            let problem = format!(
                "tensor {name:?} has dimensions {:?}; this model needs {dims:?} (row length first)",
                tensor.dims
            );
            return Err(fault(problem));
        }
        if !matches!(tensor.data_type, DataType::F32 | DataType::F16 | DataType::BF16) {
            let problem = format!("tensor {name:?} is {}; it should be FP32, FP16 or BF16", tensor.data_type);
            return Err(fault(problem));
        }
        let matrices = &mut state[layer * of_layer + shifts..(layer + 1) * of_layer];
        tensor.data_type.decode(&bytes[tensor.data()], matrices);
    }
    // In the file's order: what else there is was trained too, and would be left out.
    let is_known = |tensor_name: &String| (0..n_layer).any(|layer| *tensor_name == name(layer));
    match tensors.iter().find(|tensor| !is_known(&tensor.name)) {
        None => Ok(state),
        Some(other) => Err(fault(format!("tensor {:?} is no time_state of this model", other.name))),
    }
}
