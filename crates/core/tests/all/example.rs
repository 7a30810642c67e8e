//! The example does what it says.
#![allow(dead_code)] // its `main`

#[path = "../../examples/half_precision.rs"]
mod half_precision;

use crate::common::{fixture, shared};
use rwkv_core::{DataType, ModelFile};

/// Every tensor, in the layout's order: files may have another.
fn tensors(file: &ModelFile) -> Vec<(&str, DataType, &[usize], &[u8])> {
    let tensors = (0..file.layout().specs().len()).map(|index| file.tensor(index));
    tensors.map(|(info, data)| (info.name.as_str(), info.data_type, &info.dims[..], data)).collect()
}

#[test]
fn half_precision_is_that_of_the_converter() {
    let directory = tempfile::tempdir().expect("a directory");
    let made = directory.path().join("model.bin");
    let published = ["FP32", "FP16"].map(|name| shared(&format!("models/tiny-rwkv-4v0-660K-{name}.bin")));
    let ours = ["FP32", "FP16"].map(|name| Some(fixture(&format!("tiny-v4-{name}.bin"))));
    for pair in [ours, published] {
        let [Some(single), Some(half)] = pair else { continue };
        half_precision::halve(&single, &made).expect("a model");
        let [made, half] = [&made, &half].map(|path| ModelFile::open(path).expect("a sound file"));
        assert_eq!(made.data_type(), DataType::F16);
        assert!(tensors(&made) == tensors(&half), "{}", half.path().display());
    }
}
