//! Bad files, and the message that each gets.

use std::path::Path;

use super::super::directory;
use super::writer::{Code, Entry, Tensor, Zip, call, dict, global, int, ints, ordered, text, tuple};
use super::{PATH, sound, zip};
use crate::error::{Error, Fault};

#[track_caller]
fn refused(bytes: &[u8], fault: Fault, code: &str, says: &str) -> Error {
    let error = directory(Path::new(PATH), bytes).expect_err(says);
    let message = error.to_string();
    assert!(message.starts_with(PATH) && message.contains(says), "{message:?} does not say {says:?}");
    assert_eq!((error.fault(), error.code()), (Some(fault), code), "{message}");
    assert!(message.len() < 700, "{message}");
    error
}

#[test]
fn what_is_no_archive() {
    let legacy = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    let sound = sound().bytes();
    for (bytes, fault, code, says) in [
        (&b""[..], Fault::Truncated, "MODEL_FILE", "at byte 0: the file is empty"),
        (b"PK", Fault::Magic, "MODEL_FILE", "starts with bytes [50, 4b]: this is not a .pth"),
        (b"fmgg\x65\0\0\0", Fault::Magic, "MODEL_FILE", "this is not a .pth of PyTorch"),
        (legacy, Fault::FormatVersion, "UNSUPPORTED", "PyTorch's format before version 1.6"),
        (b"\x80\x04}.", Fault::FormatVersion, "UNSUPPORTED", "a bare pickle"),
        (&tar, Fault::FormatVersion, "UNSUPPORTED", "a tar archive, PyTorch's format before version 0.1.10"),
        (
            &sound[..sound.len() / 2],
            Fault::Truncated,
            "MODEL_FILE",
            "does not end with the directory of a zip archive (Missing end of central directory); it is cut short",
        ),
        (&[&sound[..], b"."].concat(), Fault::Other, "MODEL_FILE", "1 bytes follow the end of the zip"),
    ] {
        refused(bytes, fault, code, says);
    }
}

type Change = fn(&mut Zip);

#[test]
fn archives() {
    let cases: [(Change, Fault, &str, &str); 12] = [
        (
            |zip| zip.entry("m/data/0").method = 8,
            Fault::Other,
            "UNSUPPORTED",
            "\"m/data/0\" of the zip is compressed",
        ),
        (|zip| zip.entry("m/data.pkl").flags = 1, Fault::Other, "UNSUPPORTED", "is encrypted"),
        (
            |zip| zip.entries.push(Entry::new(&"n".repeat(513), b"")),
            Fault::Name,
            "MODEL_FILE",
            "an entry of the zip has a name of 513 bytes; expected 512 at most",
        ),
        (
            |zip| zip.entry("m/data/0").sizes[1] = Some(4_000_000_000),
            Fault::Other,
            "MODEL_FILE",
            "has 24 bytes that stand for 4000000000",
        ),
        (
            |zip| zip.entry("m/data/1").sizes = [Some(4_000_000_000); 2],
            Fault::Truncated,
            "MODEL_FILE",
            "\"m/data/1\" of the zip is not where its directory says",
        ),
        (
            |zip| zip.entry("m/data/1").sizes = [Some(60); 2],
            Fault::Truncated,
            "MODEL_FILE",
            "reaches into its directory",
        ),
        (
            |zip| zip.entry("m/data/1").at = Some(7),
            Fault::Truncated,
            "MODEL_FILE",
            "is not where its directory says",
        ),
        (
            |zip| zip.entry("m/data/1").at = Some(0),
            Fault::Name,
            "MODEL_FILE",
            "has another name at its own header",
        ),
        (
            |zip| zip.entry("m/data/1").local_name = Some("m/data/2".into()),
            Fault::Name,
            "MODEL_FILE",
            "\"m/data/1\" in the zip's directory has another name",
        ),
        (
            |zip| zip.entry("m/data/0").sizes = [Some(25); 2],
            Fault::Other,
            "MODEL_FILE",
            "\"m/data/1\" of the zip begins within \"m/data/0\"",
        ),
        (
            |zip| zip.entries.push(Entry::new("m/data/0", &[1; 24])),
            Fault::Name,
            "MODEL_FILE",
            "\"m/data/0\" is in the zip twice",
        ),
        (|zip| zip.announced = Some(3), Fault::Other, "MODEL_FILE", "announces 3 entries, and lists 4"),
    ];
    for (change, fault, code, says) in cases {
        refused_as_changed(change, fault, code, says);
    }
}

#[test]
fn entries_of_archives() {
    let cases: [(Change, Fault, &str, &str); 8] = [
        (
            |zip| zip.entries.retain(|e| e.name != "m/data.pkl"),
            Fault::Missing,
            "MODEL_FILE",
            "no \"data.pkl\"",
        ),
        (
            |zip| zip.entries.push(Entry::new("n/data.pkl", b"")),
            Fault::Name,
            "MODEL_FILE",
            "has \"m/data.pkl\" and \"n/data.pkl\"; expected one",
        ),
        (
            |zip| zip.entries.push(Entry::new("m/constants.pkl", b"")),
            Fault::FormatVersion,
            "UNSUPPORTED",
            "this is a TorchScript archive",
        ),
        (
            |zip| zip.entries.push(Entry { method: 8, ..Entry::new("m/code/__torch__.py", b"") }),
            Fault::FormatVersion,
            "UNSUPPORTED",
            "this is a TorchScript archive",
        ),
        (
            |zip| zip.entry("m/byteorder").data = b"big".to_vec(),
            Fault::DataType,
            "UNSUPPORTED",
            "its numbers are big-endian; load and save it again",
        ),
        (
            |zip| zip.entry("m/byteorder").data.clear(),
            Fault::Other,
            "MODEL_FILE",
            "neither \"little\" nor \"big\"",
        ),
        (
            |zip| zip.entry("m/data.pkl").data = vec![b'N'; (1 << 22) + 1],
            Fault::Other,
            "MODEL_FILE",
            "has 4194305 bytes; expected 4194304 at most",
        ),
        (
            |zip| zip.entries.retain(|e| e.name != "m/data/1"),
            Fault::Missing,
            "MODEL_FILE",
            "the zip has no entry \"m/data/1\"",
        ),
    ];
    for (change, fault, code, says) in cases {
        refused_as_changed(change, fault, code, says);
    }
}

/// What is said of 32 bits is said of 64 as well.
#[track_caller]
fn refused_as_changed(change: Change, fault: Fault, code: &str, says: &str) {
    for zip64 in [false, true] {
        let mut zip = Zip { zip64, ..sound() };
        change(&mut zip);
        refused(&zip.bytes(), fault, code, says);
    }
}

/// A dictionary of one tensor, "w", of 2 rows of 3 in float32.
fn one(change: impl FnOnce(&mut Tensor)) -> Code {
    let mut tensor = Tensor::new("0", &[2, 3]);
    change(&mut tensor);
    dict(&[("w", tensor.code())])
}

#[test]
fn tensors() {
    let shape = Fault::Shape;
    let cases = [
        (
            one(|w| w.numel = 7),
            shape,
            "its storage of 7 values of FP32 is entry \"m/data/0\" of the zip, which has 24",
        ),
        (one(|w| w.numel = -6), shape, "its storage of -6 values"),
        (one(|w| w.numel = i64::MAX), shape, "its storage of 9223372036854775807 values"),
        (one(|w| w.class = "HalfStorage"), shape, "its storage of 6 values of FP16"),
        (one(|w| w.first = 1), shape, "6 values from number 1 on are outside of its storage, which has 6"),
        (one(|w| w.first = -1), shape, "6 values from number -1 on"),
        (one(|w| w.first = i64::MAX), shape, "6 values from number 9223372036854775807 on"),
        (
            one(|w| (w.sizes, w.strides) = (ints(&[3, 3]), ints(&[3, 1]))),
            shape,
            "9 values from number 0 on are outside of its storage",
        ),
        (one(|w| w.sizes = ints(&[2, -3])), shape, "a size of -3; expected 1 or more"),
        (one(|w| w.sizes = ints(&[0, 3])), shape, "a size of 0; expected 1 or more"),
        (one(|w| w.sizes = ints(&[])), shape, "0 dimensions, 0 of them leading ones; expected 1 to 3"),
        (one(|w| w.sizes = ints(&[1, 2, 2, 2, 2])), shape, "5 dimensions, 1 of them leading ones"),
        (one(|w| w.sizes = ints(&[1; 9])), shape, "9 dimensions, 9 of them leading ones"),
        (one(|w| w.sizes = ints(&[i64::MAX, 3])), shape, "sizes whose product overflows"),
        (one(|w| w.sizes = ints(&[1 << 32, 1 << 31])), shape, "sizes whose product overflows"),
        (one(|w| w.sizes = tuple(&[int(2), text("3")])), shape, "a size that is a string; expected a number"),
        (one(|w| w.strides = ints(&[3])), shape, "it does not have a stride for each of its 2 sizes"),
        (one(|w| w.strides = tuple(&[int(3), b"N".to_vec()])), shape, "it does not have a stride for each"),
        (one(|w| w.sizes = int(6)), Fault::Other, "expected tuples of sizes and strides"),
        (
            one(|w| w.hooks = dict(&[("a", int(1))])),
            Fault::Other,
            "it is not as torch.save writes it; expected no hooks",
        ),
        (one(|w| w.metadata = [int(1), int(1)].concat()), Fault::Other, "expected 7 arguments at most"),
        (one(|w| w.key = "9"), Fault::Missing, "the zip has no entry \"m/data/9\", where its values are"),
        (one(|w| w.key = "../data/0"), Fault::Missing, "the zip has no entry \"m/data/../data/0\""),
        (
            dict(&[("w", call("torch._utils", "_rebuild_tensor_v2", &[int(1)]))]),
            Fault::Other,
            "torch._utils._rebuild_tensor_v2 is not as torch.save writes it; expected a storage",
        ),
        (
            dict(&[("w", call("torch._utils", "_rebuild_parameter", &[int(1)]))]),
            Fault::Other,
            "torch._utils._rebuild_parameter is not as torch.save writes it; expected a tensor",
        ),
        (
            dict(&[("w", Tensor::new("0", &[6]).code()), ("w", Tensor::new("0", &[6]).code())]),
            Fault::Name,
            "this name is there twice",
        ),
        (
            dict(&[
                ("a", Tensor { class: "HalfStorage", ..Tensor::new("1", &[5]) }.code()),
                ("w", Tensor { class: "BFloat16Storage", ..Tensor::new("1", &[5]) }.code()),
            ]),
            Fault::DataType,
            "its storage, entry \"m/data/1\" of the zip, is BF16 here and FP16 for another tensor",
        ),
    ];
    for (code, fault, says) in cases {
        let bytes = zip(&code, &[("0", 24), ("1", 10)]).bytes();
        let error = refused(&bytes, fault, "MODEL_FILE", says);
        let Error::ModelFile { tensor, offset, .. } = error else { panic!("{error}") };
        assert_eq!(tensor.as_deref(), Some("w"));
        // There its name stands, or the entry of its storage begins.
        let at = &bytes[offset as usize..];
        assert!(at.starts_with(b"w") || at.starts_with(b"PK\x03\x04"), "{says}");
    }
}

#[test]
fn what_is_not_supported() {
    let parts = |first: i64, sizes: &[i64]| Tensor { numel: 6, first, ..Tensor::new("0", sizes) }.code();
    let class = |class| one(|w| (w.class, w.numel) = (class, 3));
    let w = || Tensor::new("0", &[6]).code();
    let cases = [
        (class("DoubleStorage"), Fault::DataType, "tensor \"w\" holds values of float64"),
        (class("LongStorage"), Fault::DataType, "values of int64; expected float32, float16 or bfloat16"),
        (class("CharStorage"), Fault::DataType, "values of int8"),
        (class("ByteStorage"), Fault::DataType, "values of uint8"),
        (
            one(|w| w.strides = ints(&[1, 2])),
            Fault::Shape,
            "tensor \"w\" is the transpose of a matrix (sizes [2, 3], strides [1, 2]; expected strides [3, 1]); save it as \
             tensor.contiguous()",
        ),
        (
            one(|w| w.metadata = dict(&[("neg", b"\x88".to_vec())])),
            Fault::DataType,
            "save it as tensor.resolve_neg().resolve_conj()",
        ),
        (one(|w| w.strides = ints(&[0, 1])), Fault::Shape, "does not have its values one after the other"),
        (one(|w| w.strides = ints(&[-3, 1])), Fault::Shape, "does not have its values one after the other"),
        (
            one(|w| w.strides = ints(&[i64::MAX, i64::MIN])),
            Fault::Shape,
            "does not have its values one after the other",
        ),
        (
            dict(&[("a", parts(0, &[4])), ("b", parts(3, &[3]))]),
            Fault::Shape,
            "tensors \"a\" and \"b\" share a part of a storage",
        ),
        (dict(&[("a", parts(0, &[6])), ("b", parts(3, &[3]))]), Fault::Shape, "\"a\" and \"b\" share a part"),
        (dict(&[("a", parts(1, &[5])), ("b", parts(1, &[5]))]), Fault::Shape, "\"a\" and \"b\" share a part"),
        (
            dict(&[("_strategy", text("cpu fp32")), ("w", w())]),
            Fault::Other,
            "converted by the Python package rwkv (it has \"_strategy\")",
        ),
        (
            dict(&[("w", w()), ("_version", b"G\x40\x1c\0\0\0\0\0\0".to_vec())]),
            Fault::Other,
            "(it has \"_version\")",
        ),
        (dict(&[("_rescale_layer", int(6))]), Fault::Other, "use the original model"),
        (dict(&[("w", w()), ("epoch", int(3))]), Fault::Other, "\"epoch\" is the number 3, not a tensor"),
        (dict(&[("names", b"](X\x01\0\0\0ae".to_vec())]), Fault::Other, "\"names\" is a list, not a tensor"),
        (dict(&[("w", b"N".to_vec())]), Fault::Other, "\"w\" is None, not a tensor"),
        (dict(&[("w", Tensor::new("0", &[6]).storage())]), Fault::Other, "\"w\" is a storage, not a tensor"),
        (
            dict(&[("state_dict", dict(&[("w", w())])), ("epoch", int(3))]),
            Fault::Other,
            "\"state_dict\" is a dictionary in the file's dictionary, not a tensor; if it has the model, save it alone: \
             torch.save(torch.load(\"old.pth\", map_location=\"cpu\", weights_only=True)[\"state_dict\"]",
        ),
        (dict(&[("model", ordered())]), Fault::Other, "[\"model\"]"),
        (w(), Fault::Other, "it holds a tensor, not a dictionary from names to tensors"),
        (b"]".to_vec(), Fault::Other, "it holds a list, not a dictionary"),
    ];
    for (code, fault, says) in cases {
        refused(&zip(&code, &[("0", 24)]).bytes(), fault, "UNSUPPORTED", says);
    }
}

#[test]
fn pickles() {
    let attribute = |name: &str| [ordered(), dict(&[(name, int(1))]), b"b".to_vec()].concat();
    let deep = [&[b')'; 1][..], &[0x85; 5000]].concat();
    let cases = [
        (
            call("os", "system", &[text("true")]),
            "GLOBAL (0x63) would have Python import os.system: not followed",
        ),
        (
            call("posix", "system", &[text("true")]),
            "import posix.system: not followed; a model file has tensors",
        ),
        (call("builtins", "eval", &[text("1")]), "import builtins.eval"),
        (
            [text("builtins"), text("exec"), b"\x93".to_vec()].concat(),
            "STACK_GLOBAL (0x93) would have Python import builtins.exec",
        ),
        (
            dict(&[("w", call("__main__", "RWKV", &[]))]),
            "import __main__.RWKV: not followed; a model file has tensors",
        ),
        (
            global("torch._utils", "_rebuild_qtensor"),
            "import torch._utils._rebuild_qtensor: not followed; a model file has plain",
        ),
        (global("torch.serialization", "_get_layout"), "import torch.serialization._get_layout"),
        (
            global("torch._utils", "_rebuild_parameter_with_state"),
            "a parameter has attributes of its own; save the values",
        ),
        (global("torch", "_utils._rebuild_tensor"), "import torch._utils._rebuild_tensor"),
        (global("torch.FloatStorage", "__class__"), "import torch.FloatStorage.__class__"),
        (global("a\x1b[31m", "b"), "import a\\u{1b}[31m.b"),
        (global(&"m".repeat(1000), "n"), "mmm.n: not followed"),
        (call("torch", "FloatStorage", &[int(9)]), "REDUCE (0x52) would have Python call torch.FloatStorage"),
        (
            call("collections", "OrderedDict", &[b"]".to_vec()]),
            "would have Python call collections.OrderedDict with 1 arguments",
        ),
        ([ordered(), b")R".to_vec()].concat(), "REDUCE (0x52) without a function and its arguments"),
        (attribute("__class__"), "BUILD (0x62) would set the attribute \"__class__\" of a dictionary"),
        ([int(1), b"}b".to_vec()].concat(), "BUILD (0x62) would set the state of an object"),
        ([global("torch", "FloatStorage"), b")\x81".to_vec()].concat(), "instruction NEWOBJ (0x81)"),
        (b"(cos\nsystem\no".to_vec(), "import os.system"),
        (b"(ios\nsystem\n".to_vec(), "instruction INST (0x69) makes Python import names"),
        (b"\x82\x01".to_vec(), "instruction EXT1 (0x82)"),
        (b"\xff".to_vec(), "byte 0xff is no instruction of a pickle"),
        (b"\x8a\x09\0\0\0\0\0\0\0\0\x01".to_vec(), "a whole number of 9 bytes; expected 8 at most"),
        (
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
            "a string of 18446744073709551615 bytes is announced",
        ),
        (b"}r\xff\xff\xff\xff".to_vec(), "place 4294967295 of the memo after 0 others"),
        (b"h\x07".to_vec(), "place 7 of the memo is empty"),
        (b"Q".to_vec(), "a value is missing"),
        (b"(\x85".to_vec(), "a value is missing"),
        (b"K\x01a".to_vec(), "items without a list"),
        (b"}(}K\x01u".to_vec(), "a dictionary as a key"),
        (vec![b'('; 2000], "more than 1000 marks"),
        ([b'}', b']'].repeat(1 << 17), "more than 131072 dictionaries and lists"),
        (
            [ordered(), dict(&[("_metadata", int(1)), ("_metadata", int(2))]), b"b".to_vec()].concat(),
            "BUILD (0x62) would set an attribute twice",
        ),
        (
            [b"}(".to_vec(), deep, int(1), b"u".to_vec()].concat(),
            "a key of its dictionary is a tuple; expected a tensor's name",
        ),
        (dict(&[("", int(1))]), "a tensor's name of 0 bytes"),
        (dict(&[(&"n".repeat(257), int(1))]), "a tensor's name of 257 bytes; expected 1 to 256"),
        (b"}".to_vec(), "its dictionary is empty"),
    ];
    for (code, says) in cases {
        let bytes = zip(&code, &[("0", 24)]).bytes();
        let error = directory(Path::new(PATH), &bytes).expect_err(says);
        let message = error.to_string();
        assert!(message.contains(says) && message.len() < 700, "{message:?} does not say {says:?}");
        assert_eq!(error.code(), "MODEL_FILE", "{message}");
    }
    // A list within itself is no dictionary, and nobody follows it.
    let circle = b"]q\0h\0a".to_vec();
    refused(&zip(&circle, &[]).bytes(), Fault::Other, "UNSUPPORTED", "it holds a list");
    // The versions of modules, which Module.state_dict adds, are left out.
    let bytes =
        zip(&[one(|_| ()), dict(&[("_metadata", ordered())]), b"b".to_vec()].concat(), &[("0", 24)]).bytes();
    assert_eq!(super::tensors(&bytes).len(), 1);
}

/// Each value twice the one before, by reference: 2^60 if it were written out.
#[test]
fn references_stay_references() {
    let mut code = b"(K\x01q\0".to_vec();
    for at in 0..60_u8 {
        code.extend([b'h', at, b'h', at, 0x86, b'q', at + 1]);
    }
    code.push(b't');
    let bytes = zip(&dict(&[("w", code)]), &[]).bytes();
    refused(&bytes, Fault::Other, "UNSUPPORTED", "\"w\" is a tuple, not a tensor");
}
