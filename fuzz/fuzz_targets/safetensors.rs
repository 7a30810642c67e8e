//! Any bytes as safetensors: opened, and evaluated if they make a model.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rwkv_fuzz::fixture;
use rwkv_fuzz::formats::{Sound, bytes, open};

const FILES: [Sound; 5] = [
    fixture!("tiny-v7-official.safetensors", 6344, 0),
    fixture!("tiny-v7-fla.safetensors", 6520, 0),
    fixture!("tiny-v7-rs.safetensors", 6192, 0),
    fixture!("tiny-v7-web.safetensors", 5840, 0),
    fixture!("tiny-v4-hf.safetensors", 3976, 0),
];

fuzz_target!(|data: &[u8]| open(bytes(data, &FILES, |data| data.get(8) == Some(&b'{'))));
