//! Quantized files are rwkv.cpp's, byte for byte; what cannot be quantized is refused and leaves nothing
//! behind.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::common::shared;
use half::f16;
use rwkv_core::model::Network;
use rwkv_core::{DataType, Error, Fault, LoadOptions, ModelConfig, Result, quantize, write_model};
use rwkv_core::{Quantized, quantized_format};
use rwkv_kernels::Isa;
use sha2::{Digest, Sha256};

/// A file as this test makes it: no model, but each kind of tensor that quantization tells apart.
struct Synthetic {
    version: u32,
    data_type: DataType,
}

impl Synthetic {
    fn bytes(&self) -> Vec<u8> {
        let numbers = [0x6767_6d66, self.version, 5, 64, 2, self.data_type.code().unwrap()];
        let mut bytes: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
        let vector = DataType::F32;
        let matrix = self.data_type;
        for (name, dims, data_type) in [
            ("emb.weight", &[64, 5][..], matrix),
            ("blocks.0.ln1.weight", &[64], vector),
            ("blocks.0.att.time_faaaa", &[1, 32, 2], vector),
            ("blocks.0.att.key.weight", &[64, 67], matrix),
            ("blocks.0.att.w1", &[64, 32], matrix),
            ("blocks.0.att.r_k", &[32, 2], vector),
            ("blocks.0.att.time_maa_w1", &[64, 2], matrix),
            // Of another type than the header says.
            ("blocks.1.att.value.weight", &[32, 40], DataType::F32),
            ("blocks.1.att.output.weight", &[96, 40], DataType::F16),
            ("head.weight", &[64, 5], matrix),
        ] {
            let seed = bytes.len() as u32;
            bytes.extend(
                [dims.len() as u32, name.len() as u32, data_type.code().unwrap()]
                    .map(u32::to_le_bytes)
                    .concat(),
            );
            bytes.extend(dims.iter().flat_map(|dim: &u32| dim.to_le_bytes()));
            bytes.extend(name.as_bytes());
            for weight in weights(dims.iter().product(), seed) {
                if data_type == DataType::F16 {
                    bytes.extend(f16::from_f32(weight).to_le_bytes());
                } else {
                    bytes.extend(weight.to_le_bytes());
                }
            }
        }
        bytes
    }
}

/// Blocks of every size of weight, among them zeros, ties of the largest, halves of a step, and such as have
/// no scale.
fn weights(count: u32, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let weight = |i: u32| {
        let uniform = next() as f32 / (1 << 23) as f32 - 1.0;
        let block = i / 32;
        match block % 8 {
            0 => 0.0,
            1 => ((next() % 31) as f32 - 15.0) / 2.0,
            2 => ((next() % 509) as f32 - 254.0) / 2.0,
            3 if i.is_multiple_of(2) => -0.0,
            4 => uniform * 1e-39,
            5 => uniform * 3e-7,
            _ => uniform * ((block % 23) as f32 - 14.0).exp2(),
        }
    };
    (0..count).map(weight).collect()
}

/// The tensors that a model of `n_layer` layers would have beside those of `file`, each of one number: what is
/// to be quantized must be whole. They are copied as they are.
fn rest(file: &[u8], n_layer: usize) -> Vec<u8> {
    let contains = |name: &str| file.windows(name.len()).any(|bytes| bytes == name.as_bytes());
    // Of RWKV-7a, which cannot be run, if it has a tensor that RWKV-4 has not.
    let names: Vec<_> = if contains("att.r_k") {
        let of_a_block = ["ln1.weight", "att.time_faaaa", "att.key.weight", "att.w1", "att.r_k"];
        let more = ["att.time_maa_w1", "att.value.weight", "att.output.weight", "ffn.s_emb.weight"];
        let of_a_block = of_a_block.iter().chain(&more);
        let blocks =
            (0..n_layer).flat_map(|i| of_a_block.clone().map(move |name| format!("blocks.{i}.{name}")));
        let others =
            ["blocks.0.ln0.weight", "blocks.0.ln0.bias", "ln_out.weight", "ln_out.bias", "head.weight"];
        blocks.chain(others.map(String::from)).collect()
    } else {
        let (_, layout, _) = Network::new(&ModelConfig::v4(5, 64, n_layer));
        layout.specs().iter().map(|spec| spec.name.clone()).collect()
    };
    let mut bytes = Vec::new();
    for name in names.iter().filter(|name| !contains(name)) {
        bytes.extend([1, name.len() as u32, DataType::F32.code().unwrap(), 1].map(u32::to_le_bytes).concat());
        bytes.extend(name.as_bytes());
        bytes.extend(0.5_f32.to_le_bytes());
    }
    bytes
}

/// The number of tensors that [`rest`] has added.
fn count(rest: &[u8]) -> usize {
    let half = 0.5_f32.to_le_bytes();
    rest.windows(4).filter(|bytes| *bytes == half).count()
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(b"0123456789abcdef"[digit as usize]))
        .collect()
}

fn go_on(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What rwkv.cpp's `rwkv_quantize_model_file` (at 4358e70, built with `-march=native` for a CPU with FMA,
/// called through Python's ctypes) made of the files above, in each format of [`DataType::QUANTIZED`]. It
/// writes version 101 whichever it reads.
const SYNTHETIC: [(DataType, [&str; 5]); 2] = [
    (
        DataType::F32,
        [
            "a2688abcd54c9e7dd6837a208cca7495a54a91efc5ba9600659110dd6b21dbc5",
            "c8142a1e5339ca077b4ce50d3b6ea57bad38ffda6faddd321e23fee51546b160",
            "52c5773b0db2dcccc486c1fad95bcdc10083f358dcfe8f1629413f060daf185b",
            "f94d90dd4fd807081de37312c4e3188121cf24cb5b554da27df4c84567c2d224",
            "7ede70b3867f485f4ffaba21ea13227d69c6327479e876843df6348b833d6e8f",
        ],
    ),
    (
        DataType::F16,
        [
            "12e2e05387aab0cbbf65d1e029725e226c4b4ebb05caa8a9b8f6af89ca66e8f8",
            "f269d9e16d9708d3ac9121d4cc45f0289e1ce7e8d4e57c4a314faac43fb2feca",
            "a4dd93746ddca4b9ffb6282e0f4da9290ec8769baa41578e73fe76878fa0b76a",
            "85fb30ac55f95b342e4c382d033e04256b9edfb5022c100214e5995d66abab6b",
            "a00b0920e6c312df0dc5b70e053fffdf60c9613dad4c1188e743cc960a77fe64",
        ],
    ),
];

/// The same of the half-precision models in ../shared/models. For single precision ../shared/vectors has the
/// hashes.
const HALF_PRECISION: [(&str, [&str; 5]); 3] = [
    (
        "4v0-660K",
        [
            "bc1eed563a7d7f0b82c83b4d324aee07c4f0c027cd8087e5a15112d56abbdca3",
            "92d03a429655721fa9ee42bbcb13a20b2a5591f0a1e19f653bcc93291a8d8236",
            "fdd7c99028d4c120924675ce601cd5015b87475536fb2a38d1b813d69b4cba6f",
            "c78c7cad11ab3c7307678c9f4288c8bc11aeae42f26c75f6da0b0d8a3801509b",
            "bc2e0f9157760dd28a0bc270c71209e6416ff78ce8d688d55c2f265d9998f407",
        ],
    ),
    (
        "5v2-730K",
        [
            "36437aaffe327d3208b657642f59973d56a81e929b8a6ca244fbaf1bb89837f7",
            "f48704f10be4ec87554cdb45627125408e56dd408192fe086ebb6918bd1da016",
            "7e2774de06679cdfbad1d2258eeaa4d5363cb4f05adea3bd52285bb96f47a466",
            "0117e5fdb70a8ec4b3d73de3a897becd72b9da287a6c88ed33489dc458c8e530",
            "5b81ea15a34e7662b42e6e871fe0d4e95f06393628219997da6779563dbcce57",
        ],
    ),
    (
        "7v0-834K",
        [
            "cca41f07f77034253202d1a41b52698a12d639fe0a2e79d5c0263ca6e3ac1b48",
            "9c8ae698abdcea9cf5ef632a489c0e93c2e86d4dce139c7ccb7b97010949f8f2",
            "3af71fe88af18839c0b5e677649df474d39b9796c7ea30dc9fc56f7d8d04420e",
            "a2fdc52fd300dad9d0ef115022a99e811e420a133345afeab573236848c3067e",
            "e9ad8ab74d9cacaa0d112cf187e3e562af4136ba90960627f48b7b14fe1dfbad",
        ],
    ),
];

#[test]
fn a_synthetic_file_of_either_type_and_version() {
    let directory = tempfile::tempdir().unwrap();
    let (input, output) = (directory.path().join("in.bin"), directory.path().join("out.bin"));
    for (version, (data_type, hashes)) in [100, 101].into_iter().flat_map(|v| SYNTHETIC.map(|case| (v, case)))
    {
        let file = Synthetic { version, data_type }.bytes();
        let rest = rest(&file, 2);
        fs::write(&input, [&file[..], &rest].concat()).unwrap();
        for (format, want) in DataType::QUANTIZED.into_iter().zip(hashes) {
            for (isa, threads) in Isa::available().into_iter().flat_map(|isa| [(isa, 1), (isa, 3)]) {
                let options = LoadOptions { isa: Some(isa), threads: Some(threads) };
                let made = quantize(&input, &output, format, &options, go_on).unwrap();
                let written = fs::read(&output).unwrap();
                let (ours, copied) = written.split_at(written.len() - rest.len());
                let what = format!("{data_type} of version {version} to {format}, {options:?}");
                assert_eq!(sha256(ours), want, "{what}");
                assert_eq!(copied, rest, "{what}");
                let bytes = |path| fs::metadata(path).unwrap().len();
                assert_eq!(
                    made,
                    Quantized {
                        from: data_type,
                        to: format,
                        bytes_in: bytes(&input),
                        bytes_out: bytes(&output),
                        tensors: 10 + count(&rest),
                        quantized: 4
                    }
                );
            }
        }
    }
}

#[test]
fn the_tiny_models_of_three_versions() {
    let Some(recorded) = shared("vectors/quantized-sha256.txt") else { return };
    let recorded = fs::read_to_string(recorded).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("out.bin");
    for (model, half_precision) in HALF_PRECISION {
        for (format, of_half) in DataType::QUANTIZED.into_iter().zip(half_precision) {
            let line = recorded.lines().find(|line| line.ends_with(&format!(": {model}-{format}.bin")));
            let of_single = line.unwrap().split_whitespace().next().unwrap();
            for (data_type, want) in [(DataType::F32, of_single), (DataType::F16, of_half)] {
                let Some(input) = shared(&format!("models/tiny-rwkv-{model}-{data_type}.bin")) else {
                    return;
                };
                quantize(&input, &output, format, &LoadOptions::default(), go_on).unwrap();
                assert_eq!(sha256(&fs::read(&output).unwrap()), want, "{model}, {data_type} to {format}");
            }
        }
    }
}

#[test]
fn progress_reaches_the_end_and_can_stop_the_work() {
    let directory = tempfile::tempdir().unwrap();
    let (input, output) = (directory.path().join("in.bin"), directory.path().join("out.bin"));
    let mut bytes = Synthetic { version: 101, data_type: DataType::F32 }.bytes();
    let rest = rest(&bytes, 2);
    bytes.extend(&rest);
    fs::write(&input, &bytes).unwrap();
    let run = |stop_at: u64, seen: &mut Vec<u64>| {
        quantize(&input, &output, DataType::Q5_0, &LoadOptions::default(), |done, total| {
            assert_eq!(total, bytes.len() as u64);
            seen.push(done);
            if done >= stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    };
    for stop_at in [0, 1, 20_000, bytes.len() as u64] {
        for old in [None, Some("old")] {
            if let Some(old) = old {
                fs::write(&output, old).unwrap();
            }
            let error = run(stop_at, &mut Vec::new()).unwrap_err();
            assert!(matches!(error, Error::Aborted), "{error}");
            assert_eq!(names(directory.path()).len(), if old.is_some() { 2 } else { 1 });
            assert_eq!(fs::read_to_string(&output).ok().as_deref(), old);
        }
        fs::remove_file(&output).unwrap();
    }
    let mut seen = Vec::new();
    run(u64::MAX, &mut seen).unwrap();
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!((seen[0], seen[seen.len() - 1]), (0, bytes.len() as u64));
    assert_eq!(seen.len(), 11 + count(&rest), "before the first of some small tensors and after each");
    assert_eq!(names(directory.path()), ["in.bin", "out.bin"]);
}

/// A file of a tensor `blocks.0.att.key.weight`, and of others that do not matter.
fn one_tensor(dims: &[u32], data_type: DataType, data: &[u8]) -> Vec<u8> {
    let name = "blocks.0.att.key.weight";
    let header =
        [0x6767_6d66, 101, 5, 64, 1, 0, dims.len() as u32, name.len() as u32, data_type.code().unwrap()];
    let mut bytes: Vec<u8> = header.iter().chain(dims).flat_map(|number| number.to_le_bytes()).collect();
    bytes.extend(name.as_bytes());
    bytes.extend(data);
    bytes.extend(rest(&bytes, 1));
    bytes
}

/// Cut between two tensors, a file looks whole but for what it lacks.
#[test]
fn a_file_that_was_cut_between_two_tensors_is_refused_and_what_is_missing_named() {
    let directory = tempfile::tempdir().unwrap();
    let (input, output) = (directory.path().join("in.bin"), directory.path().join("out.bin"));
    let convert = |file: &[u8]| {
        fs::write(&input, file).unwrap();
        // A file of long ago need not be watched for a while.
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        fs::File::options().write(true).open(&input).unwrap().set_modified(long_ago).unwrap();
        quantize(&input, &output, DataType::Q4_0, &LoadOptions::default(), go_on)
    };
    let refuse = |file: &[u8], missing: &[&str]| {
        let error = convert(file).unwrap_err();
        assert_eq!((error.code(), error.fault()), ("MODEL_FILE", Some(Fault::Missing)), "{error}");
        let text = error.to_string();
        let named = missing.iter().any(|name| text.contains(&format!("tensor {name:?}")));
        assert!(named || text.contains("n_layer is"), "{text}");
        assert!(!output.exists());
    };
    let (_, layout, _) = Network::new(&ModelConfig::v4(5, 64, 2));
    let values: Vec<_> = layout.specs().iter().map(|spec| vec![-0.5; spec.len()]).collect();
    write_model(&input, &ModelConfig::v4(5, 64, 2), &layout, &values, DataType::F16).unwrap();
    let mut files = vec![fs::read(&input).unwrap()];
    for (model, _) in HALF_PRECISION {
        files.extend(
            shared(&format!("models/tiny-rwkv-{model}-FP16.bin")).map(|path| fs::read(path).unwrap()),
        );
    }
    for file in files {
        let tensors = tensors(&file);
        for (index, &(_, start)) in tensors.iter().enumerate() {
            let missing: Vec<_> = tensors[index..].iter().map(|&(name, _)| name).collect();
            refuse(&file[..start], &missing);
        }
        // One in the middle is not there.
        for (index, &(name, start)) in tensors.iter().enumerate().step_by(7) {
            let end = tensors.get(index + 1).map_or(file.len(), |&(_, start)| start);
            refuse(&[&file[..start], &file[end..]].concat(), &[name]);
        }
        convert(&file).unwrap();
        fs::remove_file(&output).unwrap();
    }
}

/// Name and offset of each tensor of a file of FP32 and FP16 weights.
fn tensors(file: &[u8]) -> Vec<(&str, usize)> {
    let number = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let (mut at, mut tensors) = (24, Vec::new());
    while at < file.len() {
        let (dims, name, size) = (number(at), number(at + 4), [4, 2][number(at + 8)]);
        let values: usize = (0..dims).map(|i| number(at + 12 + 4 * i)).product();
        let name_at = at + 12 + 4 * dims;
        tensors.push((std::str::from_utf8(&file[name_at..name_at + name]).unwrap(), at));
        at = name_at + name + size * values;
    }
    tensors
}

#[test]
fn what_cannot_be_quantized_is_refused_and_nothing_is_written() {
    struct Case {
        file: Vec<u8>,
        format: DataType,
        code: &'static str,
        says: &'static str,
    }
    let sound = one_tensor(&[32, 2], DataType::F32, &[0; 256]);
    let header_of = |data_type: DataType| {
        let mut file = sound.clone();
        file[20] = data_type.code().unwrap() as u8;
        file
    };
    let mut twice = sound.clone();
    twice.extend(&sound[24..]);
    let mut infinite = vec![0; 256];
    infinite[128 + 40..][..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let mut large = vec![0; 128];
    large[66..68].copy_from_slice(&f16::MAX.to_le_bytes());
    let cases = [
        Case {
            file: sound.clone(),
            format: DataType::F16,
            code: "INVALID_OPTION",
            says: "format is FP16; it must be Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0",
        },
        Case {
            file: header_of(DataType::Q8_0),
            format: DataType::Q4_0,
            code: "UNSUPPORTED",
            says: "quantized already, to Q8_0; quantize the FP32 or FP16 file",
        },
        Case {
            file: one_tensor(&[32, 2], DataType::Q4_0, &[0; 36]),
            format: DataType::Q4_0,
            code: "UNSUPPORTED",
            says: "\"blocks.0.att.key.weight\" is quantized already",
        },
        Case {
            file: one_tensor(&[48, 2], DataType::F16, &[0; 192]),
            format: DataType::Q5_1,
            code: "UNSUPPORTED",
            says: "\"blocks.0.att.key.weight\" has rows of 48 weights, and Q5_1 stores blocks of 32",
        },
        Case {
            file: one_tensor(&[32, 2], DataType::F32, &infinite),
            format: DataType::Q8_0,
            code: "MODEL_FILE",
            says: "tensor \"blocks.0.att.key.weight\" at byte 195: among the 32 weights here one is infinite",
        },
        Case {
            file: twice,
            format: DataType::Q4_1,
            code: "MODEL_FILE",
            says: "a second tensor of this name",
        },
        Case {
            file: sound[..100].to_vec(),
            format: DataType::Q4_1,
            code: "MODEL_FILE",
            says: "the file has",
        },
        Case { file: Vec::new(), format: DataType::Q4_1, code: "MODEL_FILE", says: "empty" },
    ];
    let directory = tempfile::tempdir().unwrap();
    let (input, output) = (directory.path().join("in.bin"), directory.path().join("out.bin"));
    let convert = |file: &[u8], format| -> Result<Quantized> {
        fs::write(&input, file).unwrap();
        quantize(&input, &output, format, &LoadOptions::default(), go_on)
    };
    for Case { file, format, code, says } in cases {
        let error = convert(&file, format).unwrap_err();
        assert!(error.code() == code && error.to_string().contains(says), "{error}");
        assert_eq!(names(directory.path()), ["in.bin"]);
    }
    // The largest half is no trouble for any scale, and 48 columns none for a tensor that stays as it is.
    convert(&one_tensor(&[32, 2], DataType::F16, &large), DataType::Q4_1).unwrap();
    let made = convert(&one_tensor(&[48, 2, 1], DataType::F16, &[0; 192]), DataType::Q4_0).unwrap();
    assert_eq!(made.quantized, 0);
}

#[test]
fn the_input_is_not_overwritten_whatever_it_is_called() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("model.bin");
    let mut bytes = Synthetic { version: 101, data_type: DataType::F16 }.bytes();
    bytes.extend(rest(&bytes, 2));
    fs::write(&input, &bytes).unwrap();
    let run = |from: &Path, to: &Path| {
        quantize(from, to, DataType::Q4_0, &LoadOptions::default(), go_on).unwrap_err()
    };
    let again = directory.path().join(".").join("model.bin");
    for error in [run(&input, &input), run(&input, &again), run(directory.path(), &input)] {
        assert!(matches!(error, Error::InvalidOption { name: "output", .. }), "{error}");
    }
    let error = run(&input, &directory.path().join("missing").join("out.bin"));
    assert!(error.code() == "IO" && error.to_string().contains("out.bin"), "{error}");
    let error = run(&directory.path().join("missing.bin"), &directory.path().join("out.bin"));
    assert!(error.code() == "IO" && error.to_string().contains("missing.bin"), "{error}");
    assert_eq!(fs::read(&input).unwrap(), bytes);
    assert_eq!(names(directory.path()), ["model.bin"]);
    // A directory stands for its model.bin.
    quantize(
        directory.path(),
        directory.path().join("out.bin"),
        DataType::Q4_0,
        &LoadOptions::default(),
        go_on,
    )
    .unwrap();
    assert_eq!(names(directory.path()), ["model.bin", "out.bin"]);
}

#[test]
fn formats_by_name() {
    assert_eq!(quantized_format("Q5_1").unwrap(), DataType::Q5_1);
    assert_eq!(quantized_format("q4_0").unwrap(), DataType::Q4_0);
    for (name, says) in [
        ("FP16", "format is FP16; it must be Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0, which are the quantized ones"),
        ("bf16", "format is BF16; it must be Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0, which are the quantized ones"),
        (
            "Q4_2",
            "format is Q4_2; it must be Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0; this one was removed from rwkv.cpp",
        ),
        ("Q4_K", "format is Q4_K; it must be Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0"),
        ("", "format is ; it must be"),
    ] {
        let error = quantized_format(name).unwrap_err();
        assert!(error.code() == "INVALID_OPTION" && error.to_string().starts_with(says), "{error}");
    }
}
