use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::data_type::DataType;

mod bad;
mod build;

use build::{File, key, string};

/// Made by PyPI's gguf: see the script beside them.
const FIXTURE: &[u8] = include_bytes!("../../../tests/fixtures/tensors.gguf");
const SAYS: &str = include_str!("../../../tests/fixtures/tensors.json");

fn open(bytes: &[u8]) -> Result<Gguf> {
    directory(Path::new("x.gguf"), bytes)
}

#[test]
fn a_file_of_another_writer_holds_what_its_reader_says() {
    let gguf = open(FIXTURE).unwrap();
    let says: serde_json::Value = serde_json::from_str(SAYS).unwrap();
    let expected = says["gguf"].as_array().unwrap();
    assert_eq!(gguf.tensors.len(), expected.len());
    for (tensor, expected) in gguf.tensors.iter().zip(expected) {
        assert_eq!(tensor.name, expected["name"].as_str().unwrap());
        let numbers = |field: &str| expected[field].as_array().unwrap().clone();
        let dims: Vec<_> = numbers("dims").iter().map(|dim| dim.as_u64().unwrap() as usize).collect();
        assert_eq!(tensor.dims, dims, "{}", tensor.name);
        let of = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
            .iter()
            .position(|of| expected["dataType"] == *of);
        let types = [
            DataType::F32,
            DataType::F16,
            DataType::BF16,
            DataType::Q4_0,
            DataType::Q4_1,
            DataType::Q5_0,
            DataType::Q5_1,
            DataType::Q8_0,
        ];
        assert_eq!(tensor.data_type, types[of.unwrap()], "{}", tensor.name);
        let mut values = vec![0.0; dims.iter().product()];
        tensor.data_type.decode(&FIXTURE[tensor.data()], &mut values);
        let expected: Vec<_> = numbers("values").iter().map(|value| value.as_f64().unwrap() as f32).collect();
        assert_eq!(values, expected, "{}", tensor.name);
        // The entry begins with the length of the name, and the name.
        let entry = string(&tensor.name);
        assert_eq!(FIXTURE[tensor.offset..][..entry.len()], entry, "{}", tensor.name);
    }
}

#[test]
fn metadata_of_every_type() {
    let gguf = open(FIXTURE).unwrap();
    assert_eq!(gguf.architecture, "rwkv7");
    assert_eq!(gguf.string("general.name").unwrap(), "a file of tensors");
    assert_eq!(gguf.u32("rwkv7.wkv.head_size").unwrap(), 64);
    assert_eq!(gguf.u32("of.u16").unwrap(), 65_535);
    assert_eq!(gguf.f32("rwkv7.attention.layer_norm_epsilon").unwrap().to_bits(), 1e-5_f32.to_bits());
    assert!(gguf.has("of.f64") && !gguf.has("of.nothing"));
    let message = |error: Error| error.to_string();
    let wrong = [
        (
            message(gguf.u32("of.i8").unwrap_err()),
            r#"key "of.i8": it is the I8 -2; expected an integer from 0 to 4294967295"#,
        ),
        (
            message(gguf.u32("of.u64").unwrap_err()),
            r#"key "of.u64": it is the U64 18446744073709551615; expected an integer from 0 to 4294967295"#,
        ),
        (
            message(gguf.u32("of.bool").unwrap_err()),
            r#"key "of.bool": it is the Bool true; expected an integer from 0 to 4294967295"#,
        ),
        (
            message(gguf.f32("of.f64").unwrap_err()),
            r#"key "of.f64": it is the F64 0.1; expected a finite F32"#,
        ),
        (
            message(gguf.u32("of.array").unwrap_err()),
            r#"key "of.array": it is an array of 3 I32; expected an integer from 0 to 4294967295"#,
        ),
        (
            message(gguf.string("of.long").unwrap_err()),
            r#"key "of.long": it is a String of 2000 bytes; expected a String of at most 1024 bytes"#,
        ),
    ];
    for (message, expected) in wrong {
        assert!(message.starts_with("x.gguf: at byte ") && message.ends_with(expected), "{message}");
    }
    let missing = gguf.u32("of.nothing").unwrap_err();
    assert_eq!(missing.fault(), Some(Fault::Missing));
    assert!(missing.to_string().ends_with(r#"key "of.nothing": it is missing"#), "{missing}");
}

#[test]
fn tokens_stay_in_the_file() {
    let tokens = open(FIXTURE).unwrap().tokens.unwrap();
    let says: serde_json::Value = serde_json::from_str(SAYS).unwrap();
    let expected: Vec<_> =
        says["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap().as_bytes()).collect();
    assert_eq!(tokens.count, expected.len());
    assert_eq!(tokens.strings(FIXTURE).collect::<Vec<_>>(), expected);
    // Of other bytes, no strings and no panic.
    assert_eq!(tokens.strings(&[]).count(), 0);
    assert_eq!(tokens.strings(&[255; 4096]).count(), 0);
}

#[test]
fn version_2_and_other_alignments() {
    for (version, alignment) in [(2, None), (3, None), (3, Some(1)), (3, Some(64)), (3, Some(1 << 16))] {
        let mut file = File { version, ..File::sound() };
        if let Some(alignment) = alignment {
            file = file.aligned(alignment);
        }
        let bytes = file.bytes();
        let gguf = open(&bytes).unwrap();
        assert_eq!(gguf.tensors.len(), 3);
        for tensor in &gguf.tensors {
            assert_eq!(tensor.data.start % alignment.unwrap_or(32) as usize, 0);
            assert_eq!(
                bytes[tensor.data.start],
                tensor.name.as_bytes()[0],
                "the first byte of each is its name"
            );
        }
    }
}

#[test]
fn no_keys_but_one_and_no_tensors() {
    let mut file = File::sound();
    file.keys = vec![key("general.architecture", 8, &string("llama"))];
    file.tensors.clear();
    let gguf = open(&file.bytes()).unwrap();
    assert_eq!((&*gguf.architecture, gguf.tensors.len(), gguf.tokens), ("llama", 0, None));
}

/// What holds of whatever is read without an error.
fn check(bytes: &[u8]) {
    let Ok(gguf) = open(bytes) else { return };
    let mut end = 0;
    for tensor in &gguf.tensors {
        assert!(
            tensor.offset < tensor.data.start && end <= tensor.data.start && tensor.data.end <= bytes.len()
        );
        end = tensor.data.end;
        let (values, size) = tensor.data_type.block();
        assert_eq!(tensor.data.len(), tensor.dims.iter().product::<usize>() / values * size);
    }
    if let Some(tokens) = gguf.tokens {
        assert_eq!(tokens.strings(bytes).count(), tokens.count);
    }
}

#[test]
fn every_beginning_is_refused() {
    // Nothing after the last tensor but its padding.
    let end = open(FIXTURE).unwrap().tensors.last().unwrap().data.end;
    for len in 0..end {
        let error = open(&FIXTURE[..len]).unwrap_err();
        assert!(matches!(error.fault(), Some(Fault::Truncated)), "{len}: {error}");
    }
    open(&FIXTURE[..end]).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((0..FIXTURE.len(), any::<u8>()), 1..8)) {
        let mut bytes = FIXTURE.to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        check(&bytes);
    }

    #[test]
    fn lying_numbers_never_panic(
        at in 0..2600_usize,
        number in prop_oneof![Just(u64::MAX), Just(1 << 63), Just((1 << 63) - 1), Just(u64::MAX - 31), (0..64_u32).prop_map(|n| 1 << n), any::<u64>()],
    ) {
        let mut bytes = FIXTURE.to_vec();
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        check(&bytes);
    }

    #[test]
    fn bytes_that_are_put_in_or_taken_out_never_panic(
        at in 0..FIXTURE.len(), out in 0..40_usize, put in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = FIXTURE.to_vec();
        let end = (at + out).min(bytes.len());
        bytes.splice(at..end, put);
        check(&bytes);
    }

    #[test]
    fn any_bytes_after_a_header_never_panic(n_tensors in 0..4_u64, n_keys in 0..4_u64, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut file = [*b"GGUF", 3_u32.to_le_bytes()].concat();
        file.extend([n_tensors.to_le_bytes(), n_keys.to_le_bytes()].concat());
        file.extend(bytes);
        check(&file);
    }
}
