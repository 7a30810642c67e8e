use std::path::Path;

use proptest::prelude::*;

use super::*;

/// Made by PyPI's safetensors: see the script beside them.
const FIXTURE: &[u8] = include_bytes!("../../../tests/fixtures/tensors.safetensors");
const SAYS: &str = include_str!("../../../tests/fixtures/tensors.json");

fn open(bytes: &[u8]) -> Result<(Vec<TensorInfo>, Metadata)> {
    directory(Path::new("x.safetensors"), bytes)
}

/// A file of this header and so many bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

/// A tensor's entry in a header.
fn tensor(name: &str, dtype: &str, shape: &str, data: &str) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{data}}}"#)
}

/// A header of these entries.
fn header(entries: &[&str]) -> String {
    format!("{{{}}}", entries.join(","))
}

/// A file of one tensor, `a`, and 12 bytes of data.
fn one(dtype: &str, shape: &str, data: &str) -> Vec<u8> {
    file(&header(&[&tensor("a", dtype, shape, data)]), 12)
}

/// A file of the tensors `a` and `b`, F32, and 24 bytes of data.
fn two(a: &str, b: &str) -> Vec<u8> {
    file(&header(&[&tensor("a", "F32", "[3]", a), &tensor("b", "F32", "[3]", b)]), 24)
}

#[test]
fn a_file_of_another_writer_holds_what_its_reader_says() {
    let (mut tensors, metadata) = open(FIXTURE).unwrap();
    let texts: Vec<_> = metadata.iter().collect();
    assert_eq!(texts, [("format", "pt"), ("written by", "make_tensors.py")]);
    assert_eq!((metadata.get("format"), metadata.get("pt")), (Some("pt"), None));
    assert!(tensors.is_sorted_by_key(|tensor| tensor.data.start));
    tensors.sort_by(|a, b| a.name.cmp(&b.name));

    let says: serde_json::Value = serde_json::from_str(SAYS).unwrap();
    let mut expected = says["safetensors"].as_array().unwrap().clone();
    expected.sort_by_key(|tensor| tensor["name"].as_str().unwrap().to_owned());
    assert_eq!(tensors.len(), expected.len());
    for (tensor, expected) in tensors.iter().zip(&expected) {
        assert_eq!(tensor.name, expected["name"].as_str().unwrap());
        let numbers = |field: &str| expected[field].as_array().unwrap().clone();
        let dims: Vec<_> = numbers("dims").iter().map(|dim| dim.as_u64().unwrap() as usize).collect();
        assert_eq!(tensor.dims, dims, "{}", tensor.name);
        let data_type = match expected["dataType"].as_str().unwrap() {
            "F32" => DataType::F32,
            "F16" => DataType::F16,
            _ => DataType::BF16,
        };
        assert_eq!(tensor.data_type, data_type, "{}", tensor.name);
        let mut values = vec![0.0; dims.iter().product()];
        data_type.decode(&FIXTURE[tensor.data()], &mut values);
        let expected: Vec<_> = numbers("values").iter().map(|value| value.as_f64().unwrap() as f32).collect();
        assert_eq!(values, expected, "{}", tensor.name);
        // The entry begins with the name, unless that is written with escapes.
        if tensor.name.contains('"') {
            assert_eq!(tensor.offset, LENGTH);
        } else {
            let entry = format!("\"{}\":", tensor.name);
            assert_eq!(FIXTURE[tensor.offset..][..entry.len()], *entry.as_bytes());
        }
    }
}

#[test]
fn headers_with_spaces_and_nothing_in_them() {
    for text in ["{}", "{}   ", "{ \n}", r#"{"__metadata__":{}}"#] {
        let (tensors, metadata) = open(&file(text, 0)).unwrap();
        assert!(tensors.is_empty() && metadata == Metadata::default(), "{text:?}");
    }
    let spaced =
        "{\n  \"a\" : { \"shape\" : [ 1 , 3 ], \"data_offsets\" : [ 0 , 12 ], \"dtype\" : \"F32\" } }  ";
    let (tensors, _) = open(&file(spaced, 12)).unwrap();
    assert_eq!(
        (tensors[0].offset, tensors[0].data()),
        (LENGTH + 4, LENGTH + spaced.len()..LENGTH + spaced.len() + 12)
    );
    assert_eq!(tensors[0].dims, [3, 1]);
}

/// What is wrong, the file, the message without the path, and its kind.
type Bad = (&'static str, Vec<u8>, &'static str, Fault);

fn refused(table: Vec<Bad>) {
    for (what, bytes, expected, kind) in table {
        let error = open(&bytes).expect_err(what);
        assert_eq!(error.to_string(), format!("x.safetensors: {expected}"), "{what}");
        assert_eq!(error.fault(), Some(kind), "{what}");
    }
}

#[test]
#[rustfmt::skip] // a table
fn bad_headers() {
    let short_of_a_header = file("{}", 0)[..9].to_vec();
    let of_length = |length: u64| [&length.to_le_bytes(), &b"{}"[..]].concat();
    let index = br#"{"metadata": {"total_size": 12}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}"#;
    let head = |text: &str| file(text, 12);
    refused(vec![
        ("empty", vec![],
         "at byte 0: the file has 0 bytes; a .safetensors file starts with the length of its header in 8; it is cut short or damaged, so copy or make it again", Fault::Truncated),
        ("a header that is cut", short_of_a_header,
         "at byte 0: a header of 2 bytes is announced; the file has 1 left; it is cut short or damaged, so copy or make it again", Fault::Truncated),
        ("a header beyond the file", of_length(1000),
         "at byte 0: a header of 1000 bytes is announced; the file has 2 left; it is cut short or damaged, so copy or make it again", Fault::Truncated),
        ("a header of 100 MB", of_length(100_000_000),
         "at byte 0: a header of 100000000 bytes is announced; expected at most 33554432: this is not a .safetensors file, or it is damaged", Fault::Magic),
        ("a header of everything", of_length(u64::MAX),
         "at byte 0: a header of 18446744073709551615 bytes is announced; expected at most 33554432: this is not a .safetensors file, or it is damaged", Fault::Magic),
        ("an index", index.to_vec(),
         r#"this is the index of a model that was split into several files, which this version does not read; join them, for example with Python's transformers: load the model and call save_pretrained(folder, max_shard_size="100GB"), and use that folder's model.safetensors"#, Fault::Other),
        ("another file", b"PK\x03\x04\0\0\0\0\0\0".to_vec(),
         "at byte 0: a header of 67324752 bytes is announced; expected at most 33554432: this is not a .safetensors file, or it is damaged", Fault::Magic),
        ("no object", head("[1]"),
         "at byte 8: the header does not start with '{': this is not a .safetensors file, or it is damaged", Fault::Magic),
        ("JSON that ends", head(r#"{"a":{"dtype":"#),
         r#"tensor "a" at byte 21: the header: EOF while parsing a value"#, Fault::Other),
        ("not UTF-8", [&4_u64.to_le_bytes(), &b"{\"\xFF\""[..]].concat(),
         "at byte 10: the header: invalid unicode code point", Fault::Other),
        ("two objects", head("{}{}"), "at byte 10: the header: trailing characters", Fault::Other),
        ("deep JSON", head(&format!(r#"{{"a":{}"#, "[".repeat(100_000))),
         r#"tensor "a" at byte 13: the header: invalid type: sequence, expected a string"#, Fault::Other),
        ("deep JSON without a length", format!(r#"{{"weight_map":{}"#, "[".repeat(100_000)).into_bytes(),
         "at byte 0: this is no model, but a text in JSON, such as a model's config.json", Fault::Magic),
        ("a field that is missing", head(r#"{"a":{"dtype":"F32","shape":[3]}}"#),
         r#"tensor "a" at byte 39: the header: missing field `data_offsets`"#, Fault::Other),
        ("a field twice", head(r#"{"a":{"dtype":"F32","dtype":"F16","shape":[3],"data_offsets":[0,12]}}"#),
         r#"tensor "a" at byte 34: the header: duplicate field `dtype`"#, Fault::Other),
        ("an unknown field", head(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12],"scale":2}}"#),
         r#"tensor "a" at byte 68: the header: unknown field `scale`, expected one of `dtype`, `shape`, `data_offsets`"#, Fault::Other),
        ("metadata that are no texts", head(r#"{"__metadata__":{"n":1}}"#),
         "at byte 29: the header: invalid type: integer `1`, expected a string", Fault::Other),
        ("metadata twice", head(r#"{"__metadata__":{},"__metadata__":{}}"#),
         "at byte 40: the header: __metadata__ is there twice", Fault::Other),
        ("a text twice", head(r#"{"__metadata__":{"k":"1","k":"2"}}"#),
         r#"at byte 40: the header: "k" of __metadata__ is there twice"#, Fault::Other),
    ]);
}

#[test]
#[rustfmt::skip] // a table
fn bad_tensors() {
    let head = |text: &str| file(text, 12);
    let a = tensor("a", "F32", "[3]", "[0,12]");
    // Data that end near 2⁶⁴, where it would wrap to add the header's length.
    let eighth = (1_u64 << 61) - 4;
    let wrapping: Vec<_> = (0..9_u64)
        .map(|n| {
            let (begin, end) = (n * eighth, if n == 8 { u64::MAX - 3 } else { (n + 1) * eighth });
            tensor(&format!("t{n}"), "F32", &format!("[{}]", (end - begin) / 4), &format!("[{begin},{end}]"))
        })
        .collect();
    let wrapping: Vec<_> = wrapping.iter().map(String::as_str).collect();
    refused(vec![
        ("a tensor twice", head(&header(&[&a, &a])),
         r#"tensor "a" at byte 63: it is there twice"#, Fault::Name),
        ("a name twice, once with escapes", head(&header(&[&a, &a.replace("\"a\"", r#""\u0061""#)])),
         r#"tensor "a" at byte 9: it is there twice"#, Fault::Name),
        ("no name", head(&header(&[&tensor("", "F32", "[3]", "[0,12]")])),
         "at byte 10: the header: a tensor's name of 0 bytes; expected 1 to 256", Fault::Other),
        ("a long name", head(&header(&[&tensor(&"n".repeat(257), "F32", "[3]", "[0,12]")])),
         "at byte 267: the header: a tensor's name of 257 bytes; expected 1 to 256", Fault::Other),
        ("F64", one("F64", "[3]", "[0,24]"),
         r#"tensor "a" is stored as F64; expected F32, F16 or BF16; write the model in one of these"#, Fault::DataType),
        ("F8_E4M3", one("F8_E4M3", "[12]", "[0,12]"),
         r#"tensor "a" is stored as F8_E4M3; expected F32, F16 or BF16; write the model in one of these"#, Fault::DataType),
        ("an unknown dtype", one("f32", "[3]", "[0,12]"),
         r#"tensor "a" at byte 9: unknown dtype "f32"; expected F32, F16 or BF16"#, Fault::DataType),
        ("a number as dtype", head(r#"{"a":{"dtype":3,"shape":[3],"data_offsets":[0,12]}}"#),
         r#"tensor "a" at byte 22: the header: invalid type: integer `3`, expected a string"#, Fault::Other),
        ("no dimensions", one("F32", "[]", "[0,4]"),
         r#"tensor "a" at byte 9: a tensor without dimensions; expected 1 to 4"#, Fault::Shape),
        ("a dimension of 0", one("F32", "[3,0]", "[0,0]"),
         r#"tensor "a" at byte 9: shape [3, 0]; each dimension should be at least 1 and fit this machine's memory"#, Fault::Shape),
        ("5 dimensions", one("F32", "[1,1,1,1,3]", "[0,12]"),
         r#"tensor "a" at byte 46: the header: a shape of more than 4 dimensions"#, Fault::Other),
        ("a negative dimension", one("F32", "[-3]", "[0,12]"),
         r#"tensor "a" at byte 38: the header: invalid value: integer `-3`, expected u64"#, Fault::Other),
        ("a fraction", one("F32", "[3.5]", "[0,12]"),
         r#"tensor "a" at byte 39: the header: invalid type: floating point `3.5`, expected u64"#, Fault::Other),
        ("a dimension beyond 64 bits", one("F32", "[36893488147419103235]", "[0,12]"),
         r#"tensor "a" at byte 56: the header: invalid type: floating point `3.6893488147419103e+19`, expected u64"#, Fault::Other),
        ("a shape that wraps", one("F32", "[4294967296,4294967296]", "[0,0]"),
         r#"tensor "a" at byte 9: shape [4294967296, 4294967296] makes more values than there can be"#, Fault::Shape),
        ("bytes that wrap", one("F32", "[4611686018427387907]", "[0,12]"),
         r#"tensor "a" at byte 9: shape [4611686018427387907] makes more values than there can be"#, Fault::Shape),
        ("a shape of fewer values", one("F32", "[2]", "[0,12]"),
         r#"tensor "a" at byte 9: its data_offsets are 0 to 12, but [2] values of F32 are 8 bytes"#, Fault::Shape),
        ("another size", one("F16", "[3]", "[0,12]"),
         r#"tensor "a" at byte 9: its data_offsets are 0 to 12, but [3] values of F16 are 6 bytes"#, Fault::Shape),
        ("an end before the beginning", one("F32", "[3]", "[0,0]"),
         r#"tensor "a" at byte 9: its data_offsets are 0 to 0, but [3] values of F32 are 12 bytes"#, Fault::Shape),
        ("data beyond the file", one("F32", "[4]", "[0,16]"),
         r#"tensor "a" at byte 9: its data end 16 bytes after the header, which has 12 bytes after it; it is cut short or damaged, so copy or make it again"#, Fault::Truncated),
        ("three offsets", one("F32", "[3]", "[0,12,24]"),
         r#"tensor "a" at byte 61: the header: trailing characters"#, Fault::Other),
        ("one offset", one("F32", "[3]", "[0]"),
         r#"tensor "a" at byte 57: the header: invalid length 1, expected an array of length 2"#, Fault::Other),
        ("one tensor twice as data", two("[0,12]", "[0,12]"),
         r#"tensor "b" at byte 63: its data_offsets 0 to 12 overlap those that end at 12"#, Fault::Other),
        ("one tensor over another", two("[0,12]", "[8,20]"),
         r#"tensor "b" at byte 63: its data_offsets 8 to 20 overlap those that end at 12"#, Fault::Other),
        ("a gap", two("[0,12]", "[16,28]"),
         r#"tensor "b" at byte 63: its data_offsets 16 to 28 leave a gap after those that end at 12"#, Fault::Other),
        ("a gap at the beginning", one("F32", "[2]", "[4,12]"),
         r#"tensor "a" at byte 9: its data_offsets 4 to 12 leave a gap after those that end at 0"#, Fault::Other),
        ("trailing bytes", file(&header(&[&a]), 13),
         "at byte 75: 1 trailing bytes that belong to no tensor", Fault::Other),
        ("trailing bytes alone", file("{}", 12),
         "at byte 10: 12 trailing bytes that belong to no tensor", Fault::Other),
        ("ends that wrap", head(&header(&wrapping)),
         r#"tensor "t0" at byte 9: its data end 2305843009213693948 bytes after the header, which has 12 bytes after it; it is cut short or damaged, so copy or make it again"#, Fault::Truncated),
    ]);
}

#[test]
fn messages_are_shorter_than_what_they_are_about() {
    let long = "é".repeat(1 << 20);
    let entry = tensor("a", &long, "[3]", "[0,12]");
    let field = format!(r#"{{"a":{{"{long}":1}}}}"#);
    let text = format!(r#"{{"__metadata__":{{"{long}":"","{long}":""}}}}"#);
    for header in [header(&[&entry]), field, text] {
        let error = open(&file(&header, 12)).unwrap_err().to_string();
        assert!(error.len() < 300 && error.contains("éé…"), "{error}");
    }
}

#[test]
fn counts_are_limited() {
    let many: Vec<_> = (0..=1 << 16)
        .map(|n| tensor(&format!("t{n}"), "F16", "[1]", &format!("[{},{}]", 2 * n, 2 * n + 2)))
        .collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let error = open(&file(&header(&many), 2 * many.len())).unwrap_err().to_string();
    assert!(error.ends_with("the header: more than 65536 tensors"), "{error}");
    assert_eq!(open(&file(&header(&many[..1 << 16]), 2 << 16)).unwrap().0.len(), 1 << 16);
}

/// What holds of whatever is read without an error.
fn check(bytes: &[u8]) {
    let Ok((tensors, _)) = open(bytes) else { return };
    let mut end = tensors.first().map_or(bytes.len(), |tensor| tensor.data.start);
    for tensor in &tensors {
        assert_eq!(tensor.data.start, end);
        end = tensor.data.end;
        assert_eq!(tensor.data.len(), tensor.dims.iter().product::<usize>() * tensor.data_type.block().1);
    }
    assert_eq!(end, bytes.len());
}

#[test]
fn every_beginning_is_refused() {
    for len in 0..FIXTURE.len() {
        let error = open(&FIXTURE[..len]).unwrap_err();
        assert_eq!(error.fault(), Some(Fault::Truncated), "{len}: {error}");
    }
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
    fn numbers_that_are_put_in_never_panic(
        at in LENGTH..480_usize,
        number in prop_oneof![Just(u64::MAX), Just(1 << 63), (0..64_u32).prop_map(|n| 1 << n), any::<u64>()],
    ) {
        let mut bytes = FIXTURE.to_vec();
        // Over the next digits, so that the header is still JSON, and as long as it says.
        if let Some(start) = (at..bytes.len()).find(|&at| bytes[at].is_ascii_digit()) {
            let end = (start..bytes.len()).find(|&at| !bytes[at].is_ascii_digit()).unwrap_or(bytes.len());
            bytes.splice(start..end, number.to_string().into_bytes());
            let length = u64::from_le_bytes(*bytes.first_chunk().unwrap());
            let length = length + bytes.len() as u64 - FIXTURE.len() as u64;
            bytes[..8].copy_from_slice(&length.to_le_bytes());
        }
        check(&bytes);
    }

    #[test]
    fn any_header_never_panics(text in r#"[{}\[\]",:a-z0-9\\_]{0,60}"#, data in 0..40_usize) {
        check(&file(&format!("{{{text}"), data));
    }
}
