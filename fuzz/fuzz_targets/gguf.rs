//! Any bytes as a GGUF file: opened, and evaluated if they make a model.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rwkv_fuzz::fixture;
use rwkv_fuzz::formats::{Sound, bytes, open};

const FILES: [Sound; 3] = [
    fixture!("tiny-v7.gguf", 4416, 0),
    fixture!("tiny-v7-q8_0.gguf", 4416, 0),
    fixture!("tensors.gguf", 2976, 0),
];

fuzz_target!(|data: &[u8]| open(bytes(data, &FILES, |data| data.starts_with(b"GGUF"))));
