//! Model files made into quantized ones.

// napi leaves its registration out of test builds, and with it the only use of what is here.
#![cfg_attr(test, allow(dead_code))]

use napi_derive::napi;
use rwkv_core::LoadOptions;
use rwkv_core::{Quantized, quantized_format};

use crate::control::Cancel;
use crate::job::Job;
use crate::number::count;

/// What was made of a file.
#[napi(object)]
pub(crate) struct QuantizeResult {
    /// The format that the input's header announces.
    pub from: String,
    /// The format of the output's matrices.
    pub to: String,
    /// The input's size.
    pub bytes_in: f64,
    /// The output's size.
    pub bytes_out: f64,
    /// Number of tensors.
    pub tensors: u32,
    /// How many of them were quantized.
    pub quantized: u32,
}

/// Quantizes the model file or directory `input` to the file `output`.
#[napi(ts_return_type = "Promise<QuantizeResult>")]
pub(crate) fn quantize(
    input: String,
    output: String,
    format: String,
    threads: Option<f64>,
    cancel: &Cancel,
) -> Job<QuantizeResult> {
    let flag = cancel.flag();
    let cancel = flag.clone();
    Job::stoppable(&flag, move || {
        cancel.check()?;
        let format = quantized_format(&format)?;
        let options = LoadOptions { threads: count("threads", threads)?, isa: None };
        let made = rwkv_core::quantize(input, output, format, &options, cancel.control())?;
        let Quantized { from, to, bytes_in, bytes_out, tensors, quantized } = made;
        Ok(QuantizeResult {
            from: from.to_string(),
            to: to.to_string(),
            bytes_in: bytes_in as f64,
            bytes_out: bytes_out as f64,
            tensors: tensors as u32,
            quantized: quantized as u32,
        })
    })
}
