//! rwkv.cpp's files.

use super::values::Values;
use super::{Job, Written};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::file::{Header, write_header, write_tensor_header};
use crate::quantize::Counted;

pub(super) fn write(out: &mut Counted<'_>, job: &Job<'_>, values: &mut Values<'_, impl Control>) -> Written {
    let size = |name: &'static str, size: usize| -> Result<u32> {
        u32::try_from(size).map_err(|_| Error::option(name, size, format!("at most {}", u32::MAX)))
    };
    let header = Header {
        version: 101,
        n_vocab: size("n_vocab", job.config.n_vocab)?,
        n_embd: size("n_embd", job.config.n_embd)?,
        n_layer: size("n_layer", job.config.n_layer)?,
        data_type: job.to_type,
    };
    size("n_ffn", job.config.n_ffn)?;
    write_header(out, &header)?;
    for tensor in job.tensors {
        write_tensor_header(out, &tensor.name, &tensor.dims, tensor.data_type)?;
        values.write(tensor, out)?;
    }
    Ok(())
}
