//! Writes a model again in half precision: `cargo run --release -p rwkv-core --example half_precision IN OUT`.
//!
//! IN is a model file or a run's directory. Matrices become FP16, vectors stay FP32, as in the files of
//! rwkv.cpp's converter.

use std::path::Path;

use rwkv_core::{DataType, ModelFile, write_model};

/// Reads the FP32 or FP16 weights of `input` and writes them to `output`.
pub(crate) fn halve(input: &Path, output: &Path) -> rwkv_core::Result<()> {
    let input = if input.is_dir() { &input.join("model.bin") } else { input };
    let file = ModelFile::open(input)?;
    let values: Vec<_> = (0..file.layout().specs().len()).map(|index| file.read(index)).collect();
    write_model(output, file.config(), file.layout(), &values, DataType::F16)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let paths: Vec<_> = std::env::args_os().skip(1).collect();
    let [input, output] = &paths[..] else {
        return Err("usage: half_precision IN OUT".into());
    };
    halve(input.as_ref(), output.as_ref())?;
    Ok(())
}
