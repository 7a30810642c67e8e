//! Files made here by a writer of their own, files that `torch.save` made, and what damaged ones get.

mod bad;
mod writer;

use std::path::Path;

use proptest::prelude::*;
use serde_json::Value as Json;

use super::super::TensorInfo;
use super::directory;
use crate::data_type::DataType;
use writer::{Entry, Tensor, Zip, call, dict, pickle};

const PATH: &str = "m.pth";

fn tensors(bytes: &[u8]) -> Vec<TensorInfo> {
    directory(Path::new(PATH), bytes).expect("a sound file")
}

/// A file of these entries besides the pickle.
fn zip(code: &[u8], storages: &[(&str, usize)]) -> Zip {
    let mut entries = vec![Entry::new("m/data.pkl", &pickle(code)), Entry::new("m/byteorder", b"little")];
    entries.extend(storages.iter().map(|&(key, len)| {
        let data: Vec<u8> = (0..len).map(|at| at as u8).collect();
        Entry::new(&format!("m/data/{key}"), &data)
    }));
    Zip { entries, ..Zip::default() }
}

/// Two tensors.
fn sound() -> Zip {
    let vector = Tensor { class: "BFloat16Storage", ..Tensor::new("1", &[1, 1, 5]) };
    let code = dict(&[("emb.weight", Tensor::new("0", &[2, 3]).code()), ("x_r", vector.code())]);
    zip(&code, &[("0", 24), ("1", 10)])
}

#[test]
fn a_file_of_our_own() {
    for zip64 in [false, true] {
        let bytes = Zip { zip64, ..sound() }.bytes();
        let found = tensors(&bytes);
        let said: Vec<_> = found.iter().map(|t| (t.name.as_str(), t.data_type, &t.dims[..])).collect();
        assert_eq!(said, [("emb.weight", DataType::F32, &[3, 2][..]), ("x_r", DataType::BF16, &[5, 1, 1])]);
        for (tensor, len) in found.iter().zip([24, 10]) {
            let expected: Vec<u8> = (0..len).collect();
            assert_eq!(bytes[tensor.data.clone()], expected);
            assert!(bytes[tensor.offset..].starts_with(b"PK\x03\x04"));
        }
    }
}

#[test]
fn weights_may_be_tied_and_storages_cut_up() {
    let part = |first, sizes: &[i64]| Tensor { numel: 10, first, ..Tensor::new("1", sizes) };
    let whole = Tensor::new("0", &[2, 3]);
    let flat = Tensor::new("0", &[6]);
    let parameter =
        call("torch._utils", "_rebuild_parameter", &[whole.code(), b"\x88".to_vec(), writer::ordered()]);
    let code = dict(&[
        ("a", whole.code()),
        ("tied", flat.code()),
        ("parameter", parameter),
        ("first", part(0, &[2, 2]).code()),
        ("second", Tensor { metadata: b"}".to_vec(), ..part(4, &[6]) }.code()),
    ]);
    let bytes = zip(&code, &[("0", 24), ("1", 40)]).bytes();
    let found = tensors(&bytes);
    assert_eq!(found[0].data, found[1].data);
    assert_eq!(found[0].data, found[2].data);
    assert_eq!((found[0].dims.as_slice(), found[1].dims.as_slice()), (&[3, 2][..], &[6][..]));
    assert_eq!(bytes[found[3].data.clone()], (0..16).collect::<Vec<_>>());
    assert_eq!(bytes[found[4].data.clone()], (16..40).collect::<Vec<_>>());
}

/// The files that fixtures/make_tiny_pth.py made with torch.save, and what PyTorch reads in them.
#[test]
fn files_of_pytorch() {
    let recorded: Json =
        serde_json::from_str(include_str!("../../../../tests/fixtures/tiny-pth.json")).expect("JSON");
    let files: [(&str, &[u8]); 2] = [
        ("tiny.pth", include_bytes!("../../../../tests/fixtures/tiny.pth")),
        ("tiny-protocol-4.pth", include_bytes!("../../../../tests/fixtures/tiny-protocol-4.pth")),
    ];
    for (file, bytes) in files {
        let found = tensors(bytes);
        let recorded = recorded[file].as_array().expect("a list");
        assert_eq!(found.len(), recorded.len());
        for (tensor, recorded) in found.iter().zip(recorded) {
            let numbers = |of: &str| recorded[of].as_array().expect("a list").iter();
            let data_type = match tensor.data_type {
                DataType::F32 => "torch.float32",
                DataType::F16 => "torch.float16",
                DataType::BF16 => "torch.bfloat16",
                other => panic!("{other}"),
            };
            assert_eq!((tensor.name.as_str(), data_type), (text(&recorded["name"]), text(&recorded["type"])));
            let sizes: Vec<_> = numbers("sizes").rev().filter_map(Json::as_u64).collect();
            assert_eq!(tensor.dims.iter().map(|&dim| dim as u64).collect::<Vec<_>>(), sizes);
            let values = values(tensor, bytes);
            let expected: Vec<_> = numbers("values").filter_map(Json::as_f64).collect();
            assert_eq!(values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>(), expected);
        }
    }
}

fn text(json: &Json) -> &str {
    json.as_str().expect("a string")
}

/// A model whose tensors PyTorch saved from a GPU, where there is one beside the repository.
#[test]
fn a_model_of_somebody_elses() {
    let file = [env!("CARGO_MANIFEST_DIR"), "../../../shared/models/reverse-rwkv7-L2-C32.pth"].join("/");
    let Ok(bytes) = std::fs::read(&file) else {
        println!("skipped: there is no {file}");
        return;
    };
    let found = tensors(&bytes);
    assert_eq!(found.len(), 99);
    assert!(found.iter().all(|tensor| tensor.data_type == DataType::F32));
    let named = |name: &str| found.iter().find(|tensor| tensor.name == name).map(|tensor| &tensor.dims[..]);
    assert_eq!(named("e.weight"), Some(&[32, 12][..]));
    assert_eq!(named("rwkv1.x_r"), Some(&[32, 1, 1][..]));
    let all: Vec<f32> = found.iter().flat_map(|tensor| values(tensor, &bytes)).collect();
    assert_eq!(all.len(), 39564);
    // What PyTorch 2.15.0 sums up in double precision.
    let sum: f64 = all.iter().map(|&value| f64::from(value)).sum();
    assert!((sum - 280.317_057_674_343_7).abs() < 1e-9, "{sum}");
}

fn values(tensor: &TensorInfo, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; tensor.dims.iter().product()];
    tensor.data_type.decode(&bytes[tensor.data.clone()], &mut values);
    values
}

/// What can be believed of what was found: it is all within the file, and of the size that is said.
fn check(bytes: &[u8]) {
    let Ok(found) = directory(Path::new(PATH), bytes) else { return };
    for tensor in found {
        let (_, size) = tensor.data_type.block();
        assert_eq!(bytes[tensor.data.clone()].len(), tensor.dims.iter().product::<usize>() * size);
        assert!(!tensor.data.is_empty() && tensor.offset < tensor.data.start);
    }
}

#[test]
fn no_truncation_is_accepted() {
    let bytes = sound().bytes();
    for len in 0..bytes.len() {
        assert!(directory(Path::new(PATH), &bytes[..len]).is_err(), "{len} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..Default::default() })]

    #[test]
    fn changed_bytes_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        zip64: bool,
    ) {
        let mut bytes = Zip { zip64, ..sound() }.bytes();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        check(&bytes);
    }

    #[test]
    fn changed_pickles_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        insert in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(b"}])(tR\x85\x86bsuaeQN.0hqrj".to_vec())), 0..4),
    ) {
        // The archive stays whole, so that it is the pickle that is read.
        let mut zip = sound();
        let pickle = &mut zip.entry("m/data.pkl").data;
        for (index, value) in changes {
            let at = index.index(pickle.len());
            pickle[at] = value;
        }
        for (index, code) in insert {
            pickle.insert(index.index(pickle.len()), code);
        }
        check(&zip.bytes());
    }

    #[test]
    fn any_instructions_never_panic(code in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&zip(&code, &[("0", 24)]).bytes());
    }
}
