//! What a damaged file gets: an error that says what, where and what was expected; never a panic, never a
//! large allocation.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use crate::common::cpu;
use proptest::prelude::*;
use rwkv_core::model::Network;
use rwkv_core::{Error, Fault, Model, ModelConfig, ModelFile, Result};
use rwkv_kernels::Isa;

/// A model file in pieces, to be put together wrongly.
#[derive(Clone)]
struct Pieces {
    header: [u32; 6],
    tensors: Vec<Tensor>,
    /// Bytes after the last tensor.
    tail: Vec<u8>,
    /// Bytes cut off at the end.
    cut: usize,
}

#[derive(Clone)]
struct Tensor {
    dim_count: u32,
    name_len: u32,
    data_type: u32,
    dims: Vec<u32>,
    name: Vec<u8>,
    data: Vec<u8>,
}

impl Tensor {
    fn new(name: &str, dims: &[u32]) -> Self {
        Self {
            dim_count: dims.len() as u32,
            name_len: name.len() as u32,
            data_type: 0,
            dims: dims.to_vec(),
            name: name.into(),
            data: vec![0; 4 * dims.iter().product::<u32>() as usize],
        }
    }
}

impl Pieces {
    fn sound(n_embd: usize) -> Self {
        let config = ModelConfig { n_ffn: 2 * n_embd, ..ModelConfig::v4(3, n_embd, 2) };
        let (_, layout, _) = Network::new(&config);
        let tensors = layout.specs().iter().map(|spec| {
            let dims: Vec<_> = spec.dims.iter().map(|&dim| dim as u32).collect();
            Tensor::new(&spec.name, &dims)
        });
        let header = [0x6767_6d66, 101, 3, n_embd as u32, 2, 0];
        Self { header, tensors: tensors.collect(), tail: Vec::new(), cut: 0 }
    }

    fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name.as_bytes()).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let put = |numbers: &[u32]| -> Vec<u8> { numbers.iter().flat_map(|n| n.to_le_bytes()).collect() };
        bytes.extend(put(&self.header));
        for tensor in &self.tensors {
            bytes.extend(put(&[tensor.dim_count, tensor.name_len, tensor.data_type]));
            bytes.extend(put(&tensor.dims));
            bytes.extend(&tensor.name);
            bytes.extend(&tensor.data);
        }
        bytes.extend(&self.tail);
        bytes.truncate(bytes.len() - self.cut);
        bytes
    }
}

/// Opens a file of these bytes. The same bytes in memory are found sound, or get the same answer.
fn open(path: &Path, bytes: &[u8]) -> Result<ModelFile> {
    fs::write(path, bytes).unwrap();
    let file = ModelFile::open(path);
    let says = |found: &Result<ModelFile>| {
        let error = found.as_ref().err();
        error.map(|error| (error.code(), error.fault(), error.to_string()))
    };
    let of_memory = says(&ModelFile::from_bytes(bytes.to_vec()));
    let named = path.display().to_string();
    let of_file = says(&file).map(|(code, fault, text)| (code, fault, text.replace(&named, "the buffer")));
    assert_eq!(of_memory, of_file);
    file
}

/// Where an error is expected.
enum At {
    /// In the file's header, or between tensors: this byte.
    Byte(u64),
    /// In this tensor.
    Tensor(&'static str),
    /// Anywhere.
    File,
}

struct Case {
    damage: fn(&mut Pieces),
    at: At,
    says: &'static str,
}

const KEY: &str = "blocks.1.att.key.weight";

#[test]
#[allow(clippy::too_many_lines)] // one table
fn every_kind_of_damage_has_its_answer() {
    use At::{Byte, File, Tensor as In};
    let cases = [
        // The header.
        Case { damage: |f| (f.tensors, f.cut) = (vec![], 24), at: Byte(0), says: "empty" },
        Case { damage: |f| (f.tensors, f.cut) = (vec![], 1), at: Byte(23), says: "header of 24 bytes" },
        Case { damage: |f| f.header[0] ^= 1, at: Byte(0), says: "not an rwkv.cpp model" },
        Case { damage: |f| f.header[1] = 99, at: Byte(4), says: "expected 100 or 101" },
        Case { damage: |f| f.header[1] = 102, at: Byte(4), says: "version 102" },
        Case { damage: |f| f.header[2] = 0, at: Byte(8), says: "n_vocab is 0" },
        Case { damage: |f| f.header[3] = 0, at: Byte(12), says: "n_embd is 0" },
        Case { damage: |f| f.header[4] = 0, at: Byte(16), says: "n_layer is 0" },
        Case { damage: |f| f.header[5] = 10, at: Byte(20), says: "data type 10" },
        Case { damage: |f| f.header[5] = u32::MAX, at: Byte(20), says: "data type 4294967295" },
        // A tensor's header.
        Case { damage: |f| f.tensors[0].dim_count = 0, at: Byte(24), says: "0 dimensions; expected 1 to 3" },
        Case { damage: |f| f.tensors[0].dim_count = 4, at: Byte(24), says: "4 dimensions" },
        Case { damage: |f| f.tensors[0].dim_count = u32::MAX, at: Byte(24), says: "dimensions" },
        Case { damage: |f| f.tensors[0].name_len = 0, at: Byte(28), says: "name of 0 bytes" },
        Case { damage: |f| f.tensors[0].name_len = 257, at: Byte(28), says: "expected 1 to 256" },
        Case { damage: |f| f.tensors[0].name_len = u32::MAX, at: Byte(28), says: "name of 4294967295 bytes" },
        Case { damage: |f| f.tensors[0].name[3] = 0xff, at: Byte(44), says: "not UTF-8" },
        Case { damage: |f| f.tensor(KEY).data_type = 10, at: In(KEY), says: "unknown data type 10" },
        Case { damage: |f| f.tensor(KEY).dims[1] = 0, at: In(KEY), says: "make no FP32 tensor" },
        Case { damage: |f| f.tensor(KEY).dims[1] = u32::MAX, at: In(KEY), says: "the file has" },
        Case {
            damage: |f| (f.tensor(KEY).dim_count, f.tensor(KEY).dims) = (3, vec![u32::MAX; 3]),
            at: In(KEY),
            says: "make no FP32 tensor",
        },
        Case {
            damage: |f| (f.tensor(KEY).data_type, f.tensor(KEY).dims[0]) = (8, 33),
            at: In(KEY),
            says: "make no Q5_1 tensor",
        },
        // The end.
        Case { damage: |f| f.tensors.clear(), at: In("emb.weight"), says: "ended without" },
        Case { damage: |f| f.cut = 1, at: In("head.weight"), says: "384 bytes; the file has 383 left" },
        Case { damage: |f| f.cut = 384, at: In("head.weight"), says: "the file has 0 left" },
        Case { damage: |f| f.cut = 385, at: File, says: "ends within a tensor's header" },
        Case { damage: |f| f.cut = 384 + 19 + 1, at: File, says: "11 trailing bytes" },
        Case { damage: |f| f.tail = vec![0], at: File, says: "1 trailing bytes" },
        Case { damage: |f| f.tail = vec![0; 12], at: File, says: "0 dimensions" },
        Case { damage: |f| f.tail = vec![1; 64], at: File, says: "dimensions" },
        // Which tensors there are.
        Case { damage: |f| f.tensors.truncate(41), at: In("head.weight"), says: "ended without" },
        Case {
            damage: |f| drop(f.tensors.remove(10)),
            at: In("blocks.0.att.time_mix_v"),
            says: "ended without",
        },
        Case {
            damage: |f| f.tensors.push(Tensor::new("extra", &[32])),
            at: In("extra"),
            says: "has no such tensor",
        },
        Case {
            damage: |f| f.tensors.push(f.tensors[3].clone()),
            at: In("blocks.0.ln1.weight"),
            says: "second",
        },
        Case {
            damage: |f| f.header[4] = 1,
            at: In("blocks.1.ln1.weight"),
            says: "with 1 layers has no such",
        },
        Case { damage: |f| f.header[4] = 3, at: In("blocks.2.ln1.weight"), says: "ended without" },
        Case {
            // Many layers of which there is next to nothing.
            damage: |f| {
                f.header[4] = 50_000;
                let norms = (2..50_000).map(|layer| format!("blocks.{layer}.ln1.weight"));
                f.tensors.extend(norms.map(|name| Tensor::new(&name, &[32])));
            },
            at: In("blocks.2.ln1.bias"),
            says: "ended without",
        },
        Case { damage: |f| f.header[4] = u32::MAX, at: Byte(16), says: "the file has 42 tensors" },
        // Their shapes.
        Case { damage: |f| f.header[2] = 4, at: In("emb.weight"), says: "[32, 3]; a model with n_vocab 4" },
        Case { damage: |f| f.header[3] = 31, at: In("emb.weight"), says: "n_embd 31" },
        Case { damage: |f| f.header[3] = u32::MAX, at: In("emb.weight"), says: "n_embd 4294967295" },
        Case {
            damage: |f| f.tensor("blocks.0.ffn.key.weight").dims.reverse(),
            at: In("blocks.0.ffn.key.weight"),
            says: "[64, 32]",
        },
        Case {
            damage: |f| f.tensor("blocks.1.ffn.key.weight").dims.reverse(),
            at: In("blocks.1.ffn.key.weight"),
            says: "has [32, 64] here",
        },
        Case {
            damage: |f| f.tensor("blocks.1.ffn.value.weight").dims.reverse(),
            at: In("blocks.1.ffn.value.weight"),
            says: "has [64, 32] here",
        },
        Case { damage: |f| *f.tensor(KEY) = Tensor::new(KEY, &[32, 31]), at: In(KEY), says: "[32, 31]" },
        Case {
            damage: |f| *f.tensor(KEY) = Tensor::new(KEY, &[32, 32, 1]),
            at: In(KEY),
            says: "[32, 32, 1]",
        },
        Case {
            damage: |f| *f.tensor("ln_out.bias") = Tensor::new("ln_out.bias", &[16]),
            at: In("ln_out.bias"),
            says: "[16]",
        },
        Case {
            damage: |f| {
                let bias = f.tensor("ln_out.bias");
                (bias.data_type, bias.data) = (2, vec![0; 18]);
            },
            at: In("ln_out.bias"),
            says: "vector stored as Q4_0",
        },
    ];
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.bin");
    for (number, Case { damage, at, says }) in cases.into_iter().enumerate() {
        let mut pieces = Pieces::sound(32);
        damage(&mut pieces);
        let bytes = pieces.bytes();
        let error = open(&path, &bytes).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(says), "case {number}: {message}");
        let Error::ModelFile { path: named, tensor, offset, .. } = error else {
            panic!("case {number}: {error:?}");
        };
        assert_eq!(named, path);
        assert!(offset <= bytes.len() as u64, "case {number}: {message}");
        match at {
            Byte(byte) => assert_eq!((tensor, offset), (None, byte), "case {number}"),
            In(name) => assert_eq!(tensor.as_deref(), Some(name), "case {number}"),
            File => {}
        }
    }
}

#[test]
fn kinds_of_damage_are_told_apart() {
    struct Case {
        damage: fn(&mut Pieces),
        is: Fault,
    }
    let cases = [
        Case { damage: |f| f.header[2] = 0, is: Fault::Other },
        Case { damage: |f| (f.tensors, f.cut) = (vec![], 1), is: Fault::Truncated },
        Case { damage: |f| f.cut = 1, is: Fault::Truncated },
        Case { damage: |f| f.cut = 385, is: Fault::Truncated },
        Case { damage: |f| f.tail = vec![0], is: Fault::Truncated },
        Case { damage: |f| f.header[0] ^= 1, is: Fault::Magic },
        Case { damage: |f| f.header[1] = 102, is: Fault::FormatVersion },
        Case { damage: |f| (f.header[1], f.header[5]) = (100, 7), is: Fault::DataType },
        Case { damage: |f| f.header[5] = 4, is: Fault::DataType },
        Case { damage: |f| f.tensor(KEY).data_type = 10, is: Fault::DataType },
        Case { damage: |f| f.tensors[0].dim_count = 4, is: Fault::Shape },
        Case { damage: |f| f.tensor(KEY).dims[1] = 0, is: Fault::Shape },
        Case { damage: |f| f.header[3] = 31, is: Fault::Dimensions },
        Case { damage: |f| f.tensors[0].name_len = 257, is: Fault::Name },
        Case { damage: |f| f.tensors.push(Tensor::new("extra", &[32])), is: Fault::Name },
        Case { damage: |f| f.tensors.push(f.tensors[3].clone()), is: Fault::Name },
        Case { damage: |f| f.tensors.truncate(41), is: Fault::Missing },
        Case { damage: |f| f.header[4] = 3, is: Fault::Missing },
        Case {
            damage: |f| f.tensors.push(Tensor::new("blocks.0.ffn.s_emb.weight", &[32])),
            is: Fault::Version,
        },
    ];
    let directory = tempfile::tempdir().unwrap();
    for Case { damage, is } in cases {
        let mut pieces = Pieces::sound(32);
        damage(&mut pieces);
        let error = open(&directory.path().join("model.bin"), &pieces.bytes()).unwrap_err();
        assert_eq!(error.fault(), Some(is), "{error}");
    }
}

#[test]
fn what_is_sound_but_not_for_this_version_is_unsupported() {
    struct Case {
        change: fn(&mut Pieces),
        says: &'static str,
    }
    fn quantized(pieces: &mut Pieces) {
        let key = pieces.tensor(KEY);
        (key.data_type, key.data) = (9, vec![0; 32 * 34]);
    }
    let cases = [
        Case { change: |f| f.header[5] = 4, says: "data type 4 was removed" },
        Case { change: |f| f.tensor(KEY).data_type = 6, says: "data type 6 was removed" },
        Case { change: |f| (f.header[1], f.header[5]) = (100, 7), says: "version 100" },
        Case {
            change: |f| {
                f.header[1] = 100;
                quantized(f);
            },
            says: "version 100",
        },
        Case { change: |f| f.tensors.push(Tensor::new("blocks.0.att.ln_x.weight", &[32])), says: "v5.1" },
        Case {
            change: |f| {
                f.tensors.push(Tensor::new("blocks.0.att.ln_x.weight", &[32]));
                f.tensors.push(Tensor::new("blocks.0.att.gate.weight", &[32, 32]));
            },
            says: "v5.2",
        },
        Case { change: |f| f.tensors.push(Tensor::new("blocks.0.att.time_maa_x", &[32])), says: "v6" },
        Case {
            change: |f| f.tensors.push(Tensor::new("blocks.0.ffn.s_emb.weight", &[32])),
            says: "an RWKV v7a model",
        },
    ];
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.bin");
    for Case { change, says } in cases {
        let mut pieces = Pieces::sound(32);
        change(&mut pieces);
        let error = open(&path, &pieces.bytes()).unwrap_err();
        assert_eq!(error.code(), "UNSUPPORTED", "{error}");
        let message = error.to_string();
        assert!(message.contains(says) && message.contains("model.bin"), "{message}");
    }
}

#[test]
fn any_order_of_tensors_and_both_versions_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let (path, again) = (directory.path().join("model.bin"), directory.path().join("again.bin"));
    for version in [100, 101] {
        let mut pieces = Pieces::sound(2);
        pieces.header[1] = version;
        pieces.tensors.reverse();
        pieces.tensors.swap(3, 20);
        let bytes = pieces.bytes();
        let file = open(&path, &bytes).unwrap();
        assert_eq!(file.format_version(), version);
        file.write_to(&again).unwrap();
        assert_eq!(fs::read(&again).unwrap(), bytes);
    }
}

#[test]
fn paths_that_are_no_files_are_named() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path().join("missing.bin"), directory.path().to_owned()] {
        let error = ModelFile::open(&path).unwrap_err();
        assert!(matches!(&error, Error::Io { path: named, .. } if *named == path), "{error}");
    }
    // A run's directory without a model says which file it looked for.
    let error = Model::load_on(directory.path(), cpu(Isa::Scalar, 1)).unwrap_err();
    assert!(error.to_string().contains("model.bin"), "{error}");
}

/// Opens the file; if it is sound after all, uses it for all that a caller might.
fn use_all(path: &Path, bytes: &[u8]) {
    let Ok(file) = open(path, bytes) else { return };
    let again = path.with_extension("again");
    file.write_to(&again).unwrap();
    assert_eq!(fs::read(&again).unwrap(), bytes);
    // A changed byte of a weight can make it infinite, or so large that a product is.
    let is_about_values = |error: &Error| match error {
        Error::NotFinite { .. } => true,
        Error::ModelFile { problem, .. } => problem.contains("finite"),
        _ => false,
    };
    match Model::load_on(path, cpu(Isa::Scalar, 1)) {
        Ok(model) => match model.eval(&[0, 1, 2], &mut model.new_state()) {
            Ok(logits) => assert!(logits.iter().all(|logit| logit.is_finite())),
            Err(error) => assert!(is_about_values(&error), "{error}"),
        },
        Err(error) => assert!(is_about_values(&error), "{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = Pieces::sound(2).bytes();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        use_all(&directory.path().join("model.bin"), &bytes);
    }

    #[test]
    fn changed_numbers_never_panic(
        index: prop::sample::Index,
        value in prop_oneof![0_u32..12, any::<u32>(), Just(u32::MAX), Just(1 << 31), Just(1 << 30)],
    ) {
        // Every number of the file's own, rather than bytes of names and weights.
        let mut pieces = Pieces::sound(2);
        let tensors = pieces.tensors.iter_mut();
        let numbers = tensors.flat_map(|Tensor { dim_count, name_len, data_type, dims, .. }| {
            [dim_count, name_len, data_type].into_iter().chain(dims)
        });
        let mut numbers: Vec<_> = pieces.header.iter_mut().chain(numbers).collect();
        let index = index.index(numbers.len());
        *numbers[index] = value;
        let directory = tempfile::tempdir().unwrap();
        use_all(&directory.path().join("model.bin"), &pieces.bytes());
    }

    #[test]
    fn no_truncation_is_accepted(index: prop::sample::Index) {
        let directory = tempfile::tempdir().unwrap();
        let bytes = Pieces::sound(2).bytes();
        let error = open(&directory.path().join("model.bin"), &bytes[..index.index(bytes.len())]).unwrap_err();
        prop_assert_eq!(error.code(), "MODEL_FILE");
    }

    #[test]
    fn any_bytes_after_a_sound_header_never_panic(tail: Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let mut pieces = Pieces::sound(2);
        pieces.tensors.clear();
        pieces.tail = tail;
        use_all(&directory.path().join("model.bin"), &pieces.bytes());
    }
}

/// No program writes such a file, but nothing is wrong with it.
#[test]
fn a_quantized_embedding_is_as_good_as_any() {
    let mut pieces = Pieces::sound(32);
    // Q8_0: a scale of 1 and the weights 0 to 31 in the row of token 2.
    let embedding = pieces.tensor("emb.weight");
    embedding.data_type = 9;
    embedding.data = vec![0; 3 * 34];
    embedding.data[2 * 34 + 1] = 0x3c;
    (0..32).for_each(|i| embedding.data[2 * 34 + 2 + i] = i as u8);
    for name in ["blocks.0.ln0.weight", "ln_out.weight"] {
        pieces.tensor(name).data = 1_f32.to_le_bytes().repeat(32);
    }
    let mut head: Vec<u8> = vec![0; 3 * 32 * 4];
    // Logit 1 is the last channel.
    head[(32 + 31) * 4..][..4].copy_from_slice(&1_f32.to_le_bytes());
    pieces.tensor("head.weight").data = head;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.bin");
    fs::write(&path, pieces.bytes()).unwrap();
    for isa in Isa::available() {
        let model = Model::load_on(&path, cpu(isa, 2)).unwrap();
        let logits = model.eval(&[0, 2], &mut model.new_state()).unwrap();
        // 0 to 31, of mean 15.5 and variance (32² − 1)/12, after two norms.
        let expected = 15.5 / (1023_f32 / 12.0).sqrt();
        assert!(logits[0] == 0.0 && (logits[1] - expected).abs() < 1e-4, "{logits:?}");
    }
}
