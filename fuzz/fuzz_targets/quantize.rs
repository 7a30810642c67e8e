//! Any bytes as a model file to be quantized, to each format. The first byte chooses the format, and whether
//! to stop.

#![no_main]

use std::fs;
use std::ops::ControlFlow;

use libfuzzer_sys::fuzz_target;
use rwkv_core::{DataType, LoadOptions, Model, ModelFile, quantize};
use rwkv_fuzz::{check_error, cpu, directory, exercise, model_files};

const BEFORE: &[u8] = b"what was there before";

fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else { return };
    let formats = DataType::QUANTIZED;
    let format = formats[choice as usize % formats.len()];
    // Most go on to the end.
    let stop_at = if choice >= 250 { u64::from(choice - 250) } else { u64::MAX };
    let options = LoadOptions { threads: Some(1), isa: Some(cpu().isa()) };

    let bytes = model_files::bytes(data);
    let input = directory::write("input.bin", &bytes);
    let output = directory::write("output.bin", BEFORE);
    let mut calls = 0;
    let made = quantize(&input, &output, format, &options, |done, total| {
        assert!(done <= total && total == bytes.len() as u64);
        calls += 1;
        if calls > stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let made = match made {
        Ok(made) => made,
        Err(error) => {
            check_error(&error);
            assert_eq!(fs::read(&output).expect("the output"), BEFORE, "an error changed the output");
            return;
        }
    };
    directory::age(&output);
    let written = fs::read(&output).expect("the output");
    assert_eq!((made.bytes_in, made.bytes_out), (bytes.len() as u64, written.len() as u64));
    assert_eq!((made.to, &written[20..24]), (format, &format.code().expect("a code").to_le_bytes()[..]));

    // Quantized files of other versions of RWKV have no reader here.
    let (before, after) = (ModelFile::open(&input), ModelFile::open(&output));
    assert_eq!(before.is_ok(), after.is_ok(), "{:?} became {:?}", before.err(), after.err());
    if let Ok(file) = after {
        assert_eq!((file.data_type(), file.tensors().len()), (format, made.tensors));
        match Model::load_on(&output, cpu()) {
            Ok(model) => exercise::evaluate(&model, &model.new_state()),
            Err(error) => check_error(&error),
        }
    }
    let again = directory::path("again.bin");
    let twice = quantize(&output, &again, format, &options, |_, _| ControlFlow::Continue(()));
    assert!(twice.is_err() && !again.exists(), "a quantized file was quantized again");
});
