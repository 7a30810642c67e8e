//! Any bytes as a state, and what models make of those that they take.
//!
//! The first byte says what is put right: 1 the checksum, 2 the beginning (up to the number of floats), 4
//! that number.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rwkv_core::{DataType, Model, State};
use rwkv_fuzz::{check_error, cpu, directory, exercise, model_files};

/// Bytes before the number of floats, and with it.
const HEAD: usize = 8 + 4 + 24;

static MODELS: LazyLock<[Model; 2]> = LazyLock::new(|| {
    [(DataType::F32, "f32.bin"), (DataType::Q5_1, "q5_1.bin")].map(|(data_type, name)| {
        let path = directory::write(name, &model_files::sound(&model_files::config(5, 32, 2, 32), data_type));
        Model::load_on(path, cpu()).expect("a sound model")
    })
});

fuzz_target!(init: { LazyLock::force(&MODELS); }, |data: &[u8]| {
    let Some((&flags, bytes)) = data.split_first() else { return };
    let model = &MODELS[usize::from(flags >> 3 & 1)];
    let mut bytes = bytes.to_owned();
    if flags & 2 == 2 && bytes.len() >= HEAD {
        bytes[..HEAD].copy_from_slice(&model.new_state().to_bytes().expect("a state")[..HEAD]);
    }
    if flags & 4 == 4 && bytes.len() >= HEAD + 8 {
        let count = (bytes.len() - HEAD - 8) as u32 / 4;
        bytes[HEAD..HEAD + 4].copy_from_slice(&count.to_le_bytes());
    }
    if let (1, Some((body, checksum))) = (flags & 1, bytes.split_last_chunk_mut::<4>()) {
        *checksum = crc32fast::hash(body).to_le_bytes();
    }

    match State::from_bytes(&bytes) {
        Ok(mut state) => {
            assert_eq!(state.to_bytes().expect("a state"), bytes, "a state's bytes changed on the way");
            for model in &*MODELS {
                let taken = model.state_from_bytes(&bytes);
                if taken.is_err() {
                    // Whether it is of another model or not a number: evaluating finds the same.
                    assert!(model.eval(&[1], &mut state.clone()).is_err(), "refused bytes made a state that runs");
                }
            }
            state.as_mut_slice().iter_mut().for_each(|value| *value = -*value);
            assert_eq!(state.to_bytes().expect("a state").len(), bytes.len());
        }
        Err(error) => check_error(&error),
    }
    match model.state_from_bytes(&bytes) {
        Ok(state) => exercise::evaluate(model, &state),
        Err(error) => check_error(&error),
    }
});
