//! Any bytes as a checkpoint of PyTorch: opened, and evaluated if they make a model.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rwkv_fuzz::fixture;
use rwkv_fuzz::formats::{Sound, bytes, open};

// The pickle comes first, and the zip's directory last.
const FILES: [Sound; 3] = [
    fixture!("tiny-v7.pth", 7000, 4883),
    fixture!("tiny-v4.pth", 4000, 3053),
    fixture!("tiny.pth", 1000, 939),
];

fuzz_target!(|data: &[u8]| open(bytes(data, &FILES, |data| data.starts_with(b"PK\x03\x04"))));
