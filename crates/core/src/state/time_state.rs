//! States of other programs: the `time_state` of state tuning.
//!
//! RWKV-PEFT's state tuning saves a `.pth` with `blocks.N.att.time_state` for each layer: (heads, value, key), with the
//! rows of what follows "value by key" as in this program's own states. The token shifts of its texts start from zeros. The
//! same names in a `.safetensors` are read alike.
//!
//! Facts from RWKV-PEFT's `rwkvt/rwkv7/att.py` and `rwkvt/operator/rwkvop.py`.

use std::path::Path;

use super::StateLayout;
use crate::config::{ModelConfig, Version};
use crate::data_type::DataType;
use crate::error::{Error, Result};
use crate::file::{FileFormat, recognise, tensors_of};

/// What messages call bytes that have no name here.
const NAME: &str = "the state";

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
    let (n_embd, n_layer) = (config.n_embd, config.n_layer);
    // As rwkv.cpp and `model/v7/declare.rs` have it: two shifts, then the matrices of all heads.
    let of_layer = layout.len() / n_layer;
    let len = of_layer - 2 * n_embd;
    let head = len / n_embd;
    let dims = [head, head, n_embd / head];
    let mut state = layout.initial();
    let name = |layer: usize| format!("blocks.{layer}.att.time_state");
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
        let at = layer * of_layer + 2 * n_embd;
        tensor.data_type.decode(&bytes[tensor.data()], &mut state[at..at + len]);
    }
    // In the file's order: what else there is was trained too, and would be left out.
    let is_known = |tensor_name: &String| (0..n_layer).any(|layer| *tensor_name == name(layer));
    match tensors.iter().find(|tensor| !is_known(&tensor.name)) {
        None => Ok(state),
        Some(other) => Err(fault(format!("tensor {:?} is no time_state of this model", other.name))),
    }
}
