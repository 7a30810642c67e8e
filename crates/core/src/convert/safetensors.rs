//! `.safetensors`, with the names of official checkpoints.
//!
//! The library's own writer takes every tensor as bytes that are in memory; of it we take the header.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{self, Write};

use ::safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::plan::Tensor;
use super::values::Values;
use super::{Job, Written};
use crate::control::Control;
use crate::data_type::DataType;
use crate::quantize::Counted;

/// What headers are padded to, so that the data are aligned.
const ALIGNMENT: usize = 8;

pub(super) fn write(out: &mut Counted<'_>, job: &Job<'_>, values: &mut Values<'_, impl Control>) -> Written {
    write_tensors(out, job.tensors, |tensor, w| values.write(tensor, w))
}

/// Writes these tensors, each with the values that `body` writes.
pub(super) fn write_tensors(
    out: &mut Counted<'_>,
    tensors: &[Tensor],
    mut body: impl FnMut(&Tensor, &mut dyn Write) -> Written,
) -> Written {
    // Wide numbers first: so all tensors are aligned.
    let mut tensors: Vec<_> = tensors.iter().collect();
    tensors.sort_by_key(|tensor| Reverse(tensor.data_type.block().1));
    let mut end = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for tensor in &tensors {
        let begin = end;
        end += tensor.bytes();
        let dtype = match tensor.data_type {
            DataType::F32 => Dtype::F32,
            DataType::F16 => Dtype::F16,
            DataType::BF16 => Dtype::BF16,
            other => return Err(io::Error::other(format!(".safetensors cannot hold {other}")).into()),
        };
        let shape = tensor.dims.iter().rev().copied().collect();
        infos.push((tensor.name.clone(), TensorInfo { dtype, shape, data_offsets: (begin, end) }));
    }
    // What transformers looks for.
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let header = Metadata::new(Some(about), infos).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&header).map_err(io::Error::other)?;
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    tensors.into_iter().try_for_each(|tensor| body(tensor, out))
}
