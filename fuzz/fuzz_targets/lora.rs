//! Any bytes as an adapter, and what the model that takes one computes with it.
//!
//! The first byte says how the others are used: 1 as the values of a sound adapter, else as the file itself;
//! 4 with the model's own base in place of the hexadecimal digits that are there; 8 for a quantized model.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rwkv_core::lora::{Lora, adapt, write_lora};
use rwkv_core::params::Initial;
use rwkv_core::{DataType, Model};
use rwkv_fuzz::{check_error, cpu, directory, exercise, model_files};

static MODELS: LazyLock<[Model; 2]> = LazyLock::new(|| {
    [(DataType::F32, "f32.bin"), (DataType::Q5_1, "q5_1.bin")].map(|(data_type, name)| {
        let path = directory::write(name, &model_files::sound(&model_files::config(5, 32, 2, 32), data_type));
        Model::load_on(path, cpu()).expect("a sound model")
    })
});

const BASE: &[u8] = b"\\\"base\\\":\\\"";

fuzz_target!(init: check_a_sound_one(), |data: &[u8]| {
    let Some((&flags, bytes)) = data.split_first() else { return };
    let model = &MODELS[usize::from(flags >> 3 & 1)];
    let path = directory::path("lora.safetensors");
    let own = model.fingerprint().expect("the weights of a file that nobody changes");
    if flags & 1 == 1 {
        write_values(model, bytes);
    } else {
        let mut bytes = bytes.to_owned();
        let base = own.to_hex();
        let at = bytes.windows(BASE.len()).position(|window| window == BASE).map(|at| at + BASE.len());
        if let (4, Some(digits)) = (flags & 4, at.and_then(|at| bytes.get_mut(at..at + base.len()))) {
            digits.copy_from_slice(base.as_bytes());
        }
        directory::write("lora.safetensors", &bytes);
    }
    let lora = match Lora::read(&path, &own, model.store().layout()) {
        Ok(lora) => lora,
        Err(error) => {
            check_error(&error);
            assert!(model.with_lora(&path).is_err(), "a refused adapter was loaded");
            return;
        }
    };
    let adapted = model.with_lora(&path).expect("an adapter that was read");
    assert_eq!(Lora::read(&path, &own, model.store().layout()).expect("again"), lora);
    // Written again it is the same adapter.
    write_lora(&path, *model.config(), adapted.store(), lora.alpha).expect("a file");
    assert_eq!(Lora::read(&path, &own, model.store().layout()).expect("its copy"), lora);
    exercise::evaluate(&adapted, &adapted.new_state());
});

/// Writes an adapter whose rank and values are those of `bytes`, over and over.
fn write_values(model: &Model, bytes: &[u8]) {
    let mut params = model.store().clone();
    let rank = usize::from(bytes.first().copied().unwrap_or(0) % 4) + 1;
    let mut words =
        bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).cycle();
    for name in ["blocks.0.att.key.weight", "blocks.1.ffn.value.weight"] {
        let matrix = params.layout().find(name).and_then(|index| params.matrix_at(index)).expect("a matrix");
        let spec = &params.layout().specs()[matrix.index()];
        let factors =
            [spec.cols, spec.rows].map(|len| (0..len * rank).map(|_| words.next().unwrap_or(0.5)).collect());
        adapt(&mut params, matrix, rank, 1.0, factors, [Initial::ZEROS; 2]);
    }
    write_lora(directory::path("lora.safetensors"), *model.config(), &params, rank as f32).expect("a file");
}

/// What is made of a seed is an adapter: else nothing here would be looked at behind the first checks.
fn check_a_sound_one() {
    for model in &*MODELS {
        write_values(model, &[]);
        model.with_lora(directory::path("lora.safetensors")).expect("a sound adapter");
    }
}
