//! Any bytes as a model file: opened, written again, loaded and run.

#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use rwkv::{Model, ModelFile};
use rwkv_fuzz::{check_error, cpu, exercise, folder, model_files};

fuzz_target!(|data: &[u8]| {
    let bytes = model_files::bytes(data);
    let path = folder::write("model.bin", &bytes);
    let opened = ModelFile::open(&path);
    match &opened {
        Ok(file) => {
            let copy = folder::path("copy.bin");
            file.write_to(&copy).expect("a copy of a sound file");
            assert_eq!(fs::read(copy).expect("the copy"), bytes, "the copy differs");
            for (index, spec) in file.layout().specs().iter().enumerate() {
                assert_eq!(file.read(index).len(), spec.len());
            }
        }
        Err(error) => check_error(error),
    }
    match Model::load_on(&path, cpu()) {
        Ok(model) => {
            assert!(opened.is_ok(), "a file that cannot be opened was loaded");
            exercise::evaluate(&model, &model.new_state());
        }
        Err(error) => check_error(&error),
    }
});
