//! Files that lie, and what is said of each.
//!
//! Bytes in the messages are those of [`File::sound`], whose parts begin where
//! [`positions_are_those_of_the_writer`] says.

use super::build::{File, Tensor, array, key, string};
use super::*;

/// What is wrong, the file, the message without the path, and its kind.
type Bad = (&'static str, Vec<u8>, &'static str, Fault);

fn refused(table: Vec<Bad>) {
    for (what, bytes, expected, kind) in table {
        let error = open(&bytes).expect_err(what);
        assert_eq!(error.to_string(), format!("x.gguf: {expected}"), "{what}");
        assert_eq!(error.fault(), Some(kind), "{what}");
    }
}

/// A sound file and a key, of a type, with a value.
fn keyed(name: &str, of: u32, value: &[u8]) -> Vec<u8> {
    File::sound().with(key(name, of, value)).bytes()
}

fn tensor(index: usize, change: impl FnOnce(&mut Tensor)) -> Vec<u8> {
    File::sound().change(index, change).bytes()
}

#[test]
fn positions_are_those_of_the_writer() {
    let bytes = File::sound().bytes();
    for (at, name) in
        [(24, "general.architecture"), (69, "tokenizer.ggml.tokens"), (134, "a"), (175, "b"), (216, "c")]
    {
        assert_eq!(bytes[at..][..8 + name.len()], string(name));
    }
}

#[test]
#[rustfmt::skip] // a table
fn headers() {
    let of_version = |version| File { version, ..File::sound() }.bytes();
    refused(vec![
        ("empty", vec![],
         "at byte 0: the file has 0 bytes; a GGUF file starts with a header of 24 bytes", Fault::Truncated),
        ("short", b"GGUF\x03\0\0\0".to_vec(),
         "at byte 8: the file has 8 bytes; a GGUF file starts with a header of 24 bytes", Fault::Truncated),
        ("another magic", File { magic: *b"ggml", ..File::sound() }.bytes(),
         "at byte 0: the file starts with 0x6c6d6767, not 0x46554747: this is not a GGUF file", Fault::Magic),
        ("version 1", of_version(1),
         "a GGUF file of version 1; convert the original model again with a current llama.cpp", Fault::FormatVersion),
        ("version 4", of_version(4), "at byte 4: GGUF version 4; expected 2 or 3", Fault::FormatVersion),
        ("big-endian", of_version(3 << 24),
         "a big-endian GGUF file; turn it into a little-endian one with llama.cpp's gguf_convert_endian.py", Fault::FormatVersion),
        ("keys that are not there", File { n_keys: Some(1 << 60), ..File::sound() }.bytes(),
         "at byte 16: 1152921504606846976 keys are announced; expected at most 26 here", Fault::Truncated),
        ("all keys", File { n_keys: Some(u64::MAX), ..File::sound() }.bytes(),
         "at byte 16: 18446744073709551615 keys are announced; expected at most 26 here", Fault::Truncated),
        ("tensors that are not there", File { n_tensors: Some(1 << 62), ..File::sound() }.bytes(),
         "at byte 8: 4611686018427387904 tensors are announced; expected at most 7 here", Fault::Truncated),
        ("all tensors", File { n_tensors: Some(u64::MAX), ..File::sound() }.bytes(),
         "at byte 8: 18446744073709551615 tensors are announced; expected at most 7 here", Fault::Truncated),
        ("one tensor less", File { n_tensors: Some(2), ..File::sound() }.bytes(),
         "at byte 324: 70 trailing bytes after the last tensor; expected less than the alignment, 32: what is before them is damaged, or something was appended", Fault::Other),
    ]);
}

#[test]
#[rustfmt::skip] // a table
fn metadata() {
    let u32 = |value: u32| value.to_le_bytes();
    let u64 = |value: u64| value.to_le_bytes();
    let without_architecture = File { keys: vec![], ..File::sound() }.bytes();
    let of_architecture = |of, value: &[u8]| {
        File { keys: vec![key("general.architecture", of, value)], ..File::sound() }.bytes()
    };
    let tokens = |value: &[u8]| {
        let keys =
            vec![key("general.architecture", 8, &string("rwkv7")), key("tokenizer.ggml.tokens", 9, value)];
        File { keys, tensors: vec![], ..File::sound() }.bytes()
    };
    let long_token = [string("a"), u64(1 << 40).to_vec(), b"xyz".to_vec()].concat();
    let wrapping_token = [string("a"), u64(u64::MAX - 7).to_vec(), b"xyz".to_vec()].concat();
    let mut long_key = File::sound().bytes();
    long_key[24..32].copy_from_slice(&u64(u64::MAX));
    let mut not_utf8 = File::sound().bytes();
    not_utf8[32] = 0xFF;
    refused(vec![
        ("no architecture", without_architecture,
         r#"at byte 24: key "general.architecture": it is missing"#, Fault::Missing),
        ("an architecture of a number", of_architecture(4, &u32(7)),
         r#"at byte 56: key "general.architecture": it is the U32 7; expected a String of at most 1024 bytes"#, Fault::Other),
        ("a key's length", long_key,
         "at byte 32: a key takes 18446744073709551615 bytes, but the file has 362 left; it is cut short or damaged, so copy or make it again", Fault::Truncated),
        ("a key that is not UTF-8", not_utf8, "at byte 24: a key is not UTF-8", Fault::Name),
        ("a key without a name", keyed("", 0, &[1]),
         "at byte 134: a key of 0 bytes; expected 1 to 1024", Fault::Name),
        ("a long key", keyed(&"k".repeat(1025), 0, &[1]),
         "at byte 134: a key of 1025 bytes; expected 1 to 1024", Fault::Name),
        ("a key twice", keyed("general.architecture", 8, &string("llama")),
         r#"at byte 134: key "general.architecture": it is there twice"#, Fault::Name),
        ("an unknown type", keyed("k", 13, &[0; 8]),
         r#"at byte 143: key "k": the type of its value is 13; expected 0 to 12"#, Fault::DataType),
        ("a string beyond the file", keyed("k", 8, &u64(1 << 33)),
         r#"at byte 155: key "k": its string takes 8589934592 bytes, but the file has 271 left; it is cut short or damaged, so copy or make it again"#, Fault::Truncated),
        ("a string that wraps", keyed("k", 8, &u64(u64::MAX)),
         r#"at byte 155: key "k": its string takes 18446744073709551615 bytes, but the file has 271 left; it is cut short or damaged, so copy or make it again"#, Fault::Truncated),
        ("a string that is not UTF-8", keyed("k", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xFF]),
         r#"at byte 147: key "k": its string is not UTF-8"#, Fault::Other),
        ("a Bool of 2", keyed("k", 7, &[2]),
         r#"at byte 147: key "k": its Bool is 2; expected 0 or 1"#, Fault::Other),
        ("an array of arrays", keyed("k", 9, &array(9, 1, &array(0, 1, &[1]))),
         r#"key "k" is an array of arrays, which no RWKV model needs"#, Fault::DataType),
        ("an array of an unknown type", keyed("k", 9, &array(77, 1, &[1])),
         r#"at byte 147: key "k": the type of its array's elements is 77; expected 0 to 12"#, Fault::DataType),
        ("an array that wraps", keyed("k", 9, &array(10, 1 << 61, &[0; 8])),
         r#"at byte 151: key "k": an array of 2305843009213693952 U64; expected at most 33 here"#, Fault::Truncated),
        ("an array of everything", keyed("k", 9, &array(0, u64::MAX, &[])),
         r#"at byte 151: key "k": an array of 18446744073709551615 U8; expected at most 267 here"#, Fault::Truncated),
        ("an array beyond the file", keyed("k", 9, &array(4, 1000, &[])),
         r#"at byte 151: key "k": an array of 1000 U32; expected at most 66 here"#, Fault::Truncated),
        ("a huge array of strings", keyed("k", 9, &array(8, 1 << 59, &[])),
         r#"at byte 151: key "k": an array of 576460752303423488 String; expected at most 33 here"#, Fault::Truncated),
        ("a token beyond the file", tokens(&array(8, 2, &long_token)),
         r#"at byte 123: key "tokenizer.ggml.tokens": string 1 of its array takes 1099511627776 bytes, but the file has 3 left"#, Fault::Truncated),
        ("a token that wraps", tokens(&array(8, 2, &wrapping_token)),
         r#"at byte 123: key "tokenizer.ggml.tokens": string 1 of its array takes 18446744073709551608 bytes, but the file has 3 left"#, Fault::Truncated),
        ("tokens that are numbers", tokens(&array(4, 1, &u32(1))),
         r#"at byte 102: key "tokenizer.ggml.tokens": it is an array of 1 U32; expected an array of String"#, Fault::Other),
        ("an alignment of 0x80000000", keyed("general.alignment", 4, &u32(0x8000_0000)),
         r#"at byte 163: key "general.alignment": it is the U32 2147483648; expected a power of two from 1 to 65536, of type U32"#, Fault::Other),
        ("an alignment of 0", keyed("general.alignment", 4, &u32(0)),
         r#"at byte 163: key "general.alignment": it is the U32 0; expected a power of two from 1 to 65536, of type U32"#, Fault::Other),
        ("an alignment of 48", keyed("general.alignment", 4, &u32(48)),
         r#"at byte 163: key "general.alignment": it is the U32 48; expected a power of two from 1 to 65536, of type U32"#, Fault::Other),
        ("an alignment of type U64", keyed("general.alignment", 10, &u64(32)),
         r#"at byte 163: key "general.alignment": it is the U64 32; expected a power of two from 1 to 65536, of type U32"#, Fault::Other),
        ("an alignment of type String", keyed("general.alignment", 8, &string("32")),
         r#"at byte 163: key "general.alignment": it is the String "32"; expected a power of two from 1 to 65536, of type U32"#, Fault::Other),
        ("one part of three", keyed("split.count", 2, &3_u16.to_le_bytes()),
         "one part of a model that was split into 3 files; join them with llama-gguf-split --merge", Fault::Other),
        ("a number of parts that is a text", keyed("split.count", 8, &string("3")),
         r#"at byte 157: key "split.count": it is the String "3"; expected an integer from 0 to 4294967295"#, Fault::Other),
    ]);
}

#[test]
#[rustfmt::skip] // a table
fn tensors() {
    let same_name = Tensor { name: "a", ..File::sound().tensors[1].clone() };
    let mut cut = File::sound().bytes();
    cut.truncate(cut.len() - 3);
    refused(vec![
        ("a tensor twice", tensor(1, |b| *b = same_name),
         r#"tensor "a" at byte 175: it is there twice"#, Fault::Name),
        ("no name", tensor(0, |a| a.name = ""),
         "at byte 134: a tensor's name of 0 bytes; expected 1 to 256", Fault::Name),
        ("no dimensions", tensor(0, |a| a.dims.clear()),
         r#"tensor "a" at byte 143: a tensor of 0 dimensions; expected 1 to 4"#, Fault::Shape),
        ("5 dimensions", tensor(0, |a| a.dims = vec![3, 2, 1, 1, 1]),
         r#"tensor "a" at byte 143: a tensor of 5 dimensions; expected 1 to 4"#, Fault::Shape),
        ("a dimension of 0", tensor(0, |a| a.dims = vec![3, 0]),
         r#"tensor "a" at byte 155: a dimension of 0; it should be at least 1 and fit this machine's memory"#, Fault::Shape),
        ("dimensions that wrap", tensor(0, |a| a.dims = vec![1 << 32, 1 << 32]),
         r#"tensor "a" at byte 143: dimensions [4294967296, 4294967296] make more values than there can be"#, Fault::Shape),
        ("dimensions that wrap to what is there", tensor(0, |a| a.dims = vec![3, (1 << 63) + 2]),
         r#"tensor "a" at byte 143: dimensions [3, 9223372036854775810] make more values than there can be"#, Fault::Shape),
        ("bytes that wrap", tensor(0, |a| a.dims = vec![1 << 62]),
         r#"tensor "a" at byte 143: dimensions [4611686018427387904] make more values than there can be"#, Fault::Shape),
        ("more values than there are", tensor(2, |c| c.dims = vec![6]),
         r#"tensor "c" at byte 216: [6] values of BF16 are 12 bytes from byte 384 on; the file ends at 394; it is cut short or damaged, so copy or make it again"#, Fault::Truncated),
        ("far more values", tensor(2, |c| c.dims = vec![1 << 40]),
         r#"tensor "c" at byte 216: [1099511627776] values of BF16 are 2199023255552 bytes from byte 384 on; the file ends at 394; it is cut short or damaged, so copy or make it again"#, Fault::Truncated),
        ("fewer values than there are", tensor(0, |a| a.dims = vec![3, 3]),
         r#"tensor "b" at byte 208: its data's offset 32 overlaps the tensor before it; expected 64"#, Fault::Other),
        ("rows of half a block", tensor(1, |b| b.dims = vec![16, 4]),
         r#"tensor "b" at byte 184: rows of 16 values, stored as Q8_0 in blocks of 32"#, Fault::Shape),
        ("Q4_K", tensor(1, |b| b.of = 12),
         r#"tensor "b" is stored as Q4_K, which this version does not read; convert it from a BF16, F16 or Q8_0 file of the same model"#, Fault::DataType),
        ("IQ4_XS", tensor(1, |b| b.of = 23),
         r#"tensor "b" is stored as IQ4_XS, which this version does not read; convert it from a BF16, F16 or Q8_0 file of the same model"#, Fault::DataType),
        ("TQ2_0", tensor(1, |b| b.of = 35),
         r#"tensor "b" is stored as TQ2_0, which this version does not read; convert it from a BF16, F16 or Q8_0 file of the same model"#, Fault::DataType),
        ("MXFP4", tensor(1, |b| b.of = 39),
         r#"tensor "b" is stored as MXFP4, which this version does not read; convert it from a BF16, F16 or Q8_0 file of the same model"#, Fault::DataType),
        ("an unknown type of a tensor", tensor(1, |b| b.of = 99),
         r#"tensor "b" at byte 204: unknown type 99; expected 0 (F32), 1 (F16), 2 (Q4_0), 3 (Q4_1), 6 (Q5_0), 7 (Q5_1), 8 (Q8_0), 30 (BF16)"#, Fault::DataType),
        ("an offset that is not aligned", tensor(1, |b| b.offset = 33),
         r#"tensor "b" at byte 208: its data's offset 33 is no multiple of the alignment, 32; expected 32"#, Fault::Other),
        ("one tensor over another", tensor(1, |b| b.offset = 0),
         r#"tensor "b" at byte 208: its data's offset 0 overlaps the tensor before it; expected 32"#, Fault::Other),
        ("a gap", tensor(1, |b| b.offset = 64),
         r#"tensor "b" at byte 208: its data's offset 64 leaves a gap after the tensor before it; expected 32"#, Fault::Other),
        ("an offset that wraps", tensor(2, |c| c.offset = u64::MAX - 31),
         r#"tensor "c" at byte 241: its data's offset 18446744073709551584 leaves a gap after the tensor before it; expected 128"#, Fault::Other),
        ("a file that was cut", cut,
         r#"tensor "c" at byte 216: [5] values of BF16 are 10 bytes from byte 384 on; the file ends at 391; it is cut short or damaged, so copy or make it again"#, Fault::Truncated),
        ("bytes after the last tensor", File { end: vec![0; 32], ..File::sound() }.bytes(),
         "at byte 394: 32 trailing bytes after the last tensor; expected less than the alignment, 32: what is before them is damaged, or something was appended", Fault::Other),
    ]);
}
