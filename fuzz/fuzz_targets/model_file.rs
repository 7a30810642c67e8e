//! Any bytes as a model file: opened, written again, loaded and run.

#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rwkv_core::{FileFormat, Model, ModelFile};
use rwkv_fuzz::{check_error, cpu, directory, exercise, model_files};

fuzz_target!(|data: &[u8]| {
    let bytes = model_files::bytes(data);
    let path = directory::write("model.bin", &bytes);
    let opened = ModelFile::open(&path);
    match &opened {
        Ok(file) => {
            if file.format() == FileFormat::RwkvCpp {
                let copy = directory::path("copy.bin");
                file.write_to(&copy).expect("a copy of a sound file");
                assert_eq!(fs::read(copy).expect("the copy"), bytes, "the copy differs");
            }
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
            change(&path, &bytes, &model);
        }
        Err(error) => check_error(&error),
    }
});

/// Cuts the file of a model that is in use short, or writes something else to it: an error, or what was there
/// before.
fn change(path: &Path, bytes: &[u8], model: &Model) {
    let expected = model.eval(&[0, 1], &mut model.new_state());
    let seed = crc32fast::hash(bytes) as usize;
    match seed % 4 {
        0 => fs::write(path, b"").expect("an empty file"),
        1 => fs::write(path, &bytes[..seed / 4 % bytes.len()]).expect("a shorter file"),
        2 => {
            let other: Vec<u8> = bytes.iter().map(|byte| byte ^ 1).collect();
            fs::write(path, other).expect("another file of the same length");
        }
        _ => fs::remove_file(path).expect("no file"),
    }
    match (model.eval(&[0, 1], &mut model.new_state()), expected) {
        (Ok(logits), Ok(expected)) => assert_eq!(exercise::bits(&logits), exercise::bits(&expected)),
        (Err(error), _) => check_error(&error),
        (Ok(_), Err(error)) => panic!("an error before and none after: {error}"),
    }
}
