//! A model through all formats and back: the same numbers, wherever a format can hold them.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::common::{largest_difference, tokens, values, write};
use half::{bf16, f16};
use rwkv_core::FileFormat::{Gguf, Pth, RwkvCpp, Safetensors};
use rwkv_core::{
    ConvertOptions, Converted, DataType, Error, Fault, FileFormat, LoadOptions, Model, ModelConfig,
    ModelFile, Result, Version, convert, go_on, quantize, write_model,
};
use rwkv_kernels::WEIGHTS_PER_BLOCK;

fn v7() -> ModelConfig {
    // A hidden width, and ranks, that are no other width.
    ModelConfig { n_ffn: 96, ..ModelConfig::usual(Version::V7, 37, 64, 3).unwrap() }
}

fn v4() -> ModelConfig {
    ModelConfig::v4(37, 32, 2)
}

/// A directory of files, each called by its format and a number.
struct Files {
    directory: tempfile::TempDir,
    made: Vec<PathBuf>,
}

impl Files {
    /// With a `.bin` file of FP32.
    fn of(config: &ModelConfig, values: &[Vec<f32>]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let first = directory.path().join("0.bin");
        write(&first, config, values, DataType::F32);
        Self { directory, made: vec![first] }
    }

    fn last(&self) -> &Path {
        self.made.last().unwrap()
    }

    /// Makes the latest file into the next one.
    fn next(&mut self, options: &ConvertOptions<'_>) -> Result<Converted> {
        let name = format!("{}.{}", self.made.len(), options.to);
        let path = self.directory.path().join(name);
        let made = convert(self.last(), &path, options, go_on)?;
        self.made.push(path);
        Ok(made)
    }
}

fn as_type(to: FileFormat, data_type: DataType) -> ConvertOptions<'static> {
    ConvertOptions { data_type: Some(data_type), ..ConvertOptions::to(to) }
}

fn numbers(path: &Path) -> Vec<Vec<f32>> {
    let file = ModelFile::open(path).unwrap();
    (0..file.layout().specs().len()).map(|index| file.read(index)).collect()
}

fn logits(path: &Path) -> Vec<f32> {
    let model = Model::load(path, &LoadOptions { threads: Some(1), ..Default::default() }).unwrap();
    let tokens = tokens(37, 20);
    model.eval(&tokens, &mut model.new_state()).unwrap()
}

fn bits(values: &[Vec<f32>]) -> Vec<Vec<u32>> {
    values.iter().map(|values| values.iter().map(|value| value.to_bits()).collect()).collect()
}

#[test]
fn a_v7_in_single_precision_keeps_every_bit_through_all_formats() {
    let mut files = Files::of(&v7(), &values(&v7(), 1));
    let first = numbers(files.last());
    let expected = logits(files.last());
    for to in [Pth, RwkvCpp, Safetensors, Gguf, RwkvCpp, Gguf, Pth, Safetensors, RwkvCpp] {
        let made = files.next(&ConvertOptions::to(to)).unwrap();
        assert_eq!((made.to, made.to_type, made.changed), (to, DataType::F32, 0));
        assert_eq!(made.bytes_out, fs::metadata(files.last()).unwrap().len());
        let file = ModelFile::open(files.last()).unwrap();
        assert_eq!((file.format(), *file.config()), (to, v7()));
        assert_eq!(bits(&numbers(files.last())), bits(&first), "{}", files.last().display());
        assert_eq!(logits(files.last()), expected, "{}", files.last().display());
    }
    assert_eq!(fs::read(files.last()).unwrap(), fs::read(&files.made[0]).unwrap());
}

/// Its decays are stored as −exp in `.bin` and as they are in checkpoints.
#[test]
fn a_v4_keeps_every_bit_but_the_last_of_its_decays() {
    let mut files = Files::of(&v4(), &values(&v4(), 2));
    let (first, expected) = (numbers(files.last()), logits(files.last()));
    let (_, layout, _) = rwkv_core::model::Network::new(&v4());
    for to in [FileFormat::Pth, FileFormat::Safetensors, FileFormat::RwkvCpp, FileFormat::Pth] {
        let made = files.next(&ConvertOptions::to(to)).unwrap();
        let decays = 2 * 32;
        assert!(made.changed <= decays, "{made:?}");
        assert_eq!(ModelFile::open(files.last()).unwrap().config(), &v4());
        for ((spec, before), after) in layout.specs().iter().zip(&first).zip(numbers(files.last())) {
            if spec.name.ends_with("time_decay") {
                let worst = before.iter().zip(&after).map(|(x, y)| ((x - y) / x).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-6, "{}: {worst:e}", spec.name);
            } else {
                assert_eq!(*before, after, "{}", spec.name);
            }
        }
        assert!(largest_difference(&expected, &logits(files.last())) < 1e-5);
    }
}

/// What half of the formats hold as it is, `.bin` as FP32; back in bf16 it is the same file.
#[test]
fn bf16_is_rounded_once_and_then_comes_back_as_the_same_file() {
    for config in [v7(), v4()] {
        let values = values(&config, 3);
        let mut files = Files::of(&config, &values);
        let made = files.next(&as_type(FileFormat::Pth, DataType::BF16)).unwrap();
        assert!(made.changed > 0 && made.to_type == DataType::BF16, "{made:?}");
        let first = files.last().to_owned();
        let rounded = numbers(&first);
        // Decays are the exponential of what was rounded.
        let worst = worst_error(&values, &rounded, |name| !name.ends_with("time_decay"), &config);
        assert!(worst <= 1.0 / 256.0, "{worst}");
        let before = numbers(&first);
        for to in [FileFormat::RwkvCpp, FileFormat::Safetensors] {
            let made = files.next(&ConvertOptions::to(to)).unwrap();
            assert_eq!(
                made.from_type,
                if to == FileFormat::RwkvCpp { DataType::BF16 } else { DataType::F32 }
            );
            assert_eq!(made.to_type, DataType::F32);
            assert!(made.changed == 0 || config.version == Version::V4, "{made:?}");
        }
        if config.version == Version::V7 {
            assert_eq!(bits(&numbers(files.last())), bits(&before));
        }
        let made = files.next(&as_type(FileFormat::Pth, DataType::BF16)).unwrap();
        assert_eq!(made.to_type, DataType::BF16);
        assert!(fs::read(files.last()).unwrap() == fs::read(first).unwrap(), "{config:?}");
    }
}

/// The largest relative error of numbers that half precision holds as normal ones.
fn worst_error(
    before: &[Vec<f32>],
    after: &[Vec<f32>],
    counts: impl Fn(&str) -> bool,
    config: &ModelConfig,
) -> f32 {
    let (_, layout, _) = rwkv_core::model::Network::new(config);
    let specs = layout.specs().iter().zip(before).zip(after).filter(|((spec, _), _)| counts(&spec.name));
    let pairs = specs.flat_map(|((_, x), y)| x.iter().zip(y));
    pairs.filter(|(x, _)| x.abs() > 1e-4).map(|(x, y)| ((x - y) / x).abs()).fold(0.0, f32::max)
}

#[test]
fn half_precision_rounds_as_the_library_of_halves_does_and_counts_what_changed() {
    let values = values(&v7(), 4);
    for (to, data_type) in [
        (FileFormat::RwkvCpp, DataType::F16),
        (FileFormat::Gguf, DataType::F16),
        (FileFormat::Gguf, DataType::BF16),
        (FileFormat::Pth, DataType::F16),
        (FileFormat::Safetensors, DataType::BF16),
    ] {
        let mut files = Files::of(&v7(), &values);
        let made = files.next(&as_type(to, data_type)).unwrap();
        let file = ModelFile::open(files.last()).unwrap();
        let keeps_vectors = matches!(to, FileFormat::RwkvCpp | FileFormat::Gguf);
        // Block 0 has copies of other factors where it has none of its own.
        let copied: &[&str] = match to {
            RwkvCpp => &[],
            Gguf => &["blocks.0.att.a0", "blocks.0.att.a1", "blocks.0.att.a2"],
            Pth | Safetensors => &["blocks.1.att.v0", "blocks.1.att.v1", "blocks.1.att.v2"],
        };
        let mut changed = 0;
        for (index, (spec, values)) in file.layout().specs().iter().zip(&values).enumerate() {
            let rounded = |&value: &f32| match data_type {
                _ if keeps_vectors && !spec.is_matrix() => value,
                DataType::F16 => f16::from_f32(value).to_f32(),
                _ => bf16::from_f32(value).to_f32(),
            };
            let expected: Vec<_> = values.iter().map(rounded).collect();
            let differ = |(x, y): &(&f32, &f32)| x.to_bits() != y.to_bits();
            let times = if copied.contains(&&*spec.name) { 2 } else { 1 };
            changed += times * expected.iter().zip(values).filter(differ).count() as u64;
            assert_eq!(file.read(index), expected, "{to}, {data_type}: {}", spec.name);
        }
        assert!(made.changed == changed && changed > 0, "{made:?}, {changed}");
        let bound = if data_type == DataType::F16 { 1.0 / 2048.0 } else { 1.0 / 256.0 };
        let worst = worst_error(&values, &numbers(files.last()), |_| true, &v7());
        assert!(worst <= bound, "{worst}");
        let lossless = files.next(&ConvertOptions::to(FileFormat::RwkvCpp)).unwrap();
        assert_eq!(lossless.changed, 0);
    }
}

/// Blocks are copied; where a format has none, FP32 holds their numbers exactly.
#[test]
fn quantized_weights_stay_the_same_blocks_or_become_the_numbers_they_stand_for() {
    let directory = tempfile::tempdir().unwrap();
    let (single, bin) = (directory.path().join("a.bin"), directory.path().join("q.bin"));
    write(&single, &v7(), &values(&v7(), 5), DataType::F16);
    for format in DataType::QUANTIZED {
        quantize(&single, &bin, format, &LoadOptions::default(), go_on).unwrap();
        let expected = numbers(&bin);
        let gguf = directory.path().join("q.gguf");
        let made = convert(&bin, &gguf, &ConvertOptions::to(FileFormat::Gguf), go_on).unwrap();
        assert_eq!((made.from_type, made.to_type, made.changed), (format, format, 0));
        assert_eq!(bits(&numbers(&gguf)), bits(&expected));
        assert_eq!(logits(&gguf), logits(&bin));
        let again = directory.path().join("again.bin");
        convert(&gguf, &again, &ConvertOptions::to(FileFormat::RwkvCpp), go_on).unwrap();
        assert!(fs::read(&again).unwrap() == fs::read(&bin).unwrap(), "{format}");
        for to in [FileFormat::Pth, FileFormat::Safetensors] {
            let path = directory.path().join(format!("q.{to}"));
            let made = convert(&gguf, &path, &ConvertOptions::to(to), go_on).unwrap();
            assert_eq!((made.to_type, made.changed), (DataType::F32, 0));
            assert_eq!(bits(&numbers(&path)), bits(&expected));
        }
    }
    // Narrow ones that are quantized too, and lie the other way there.
    let file = ModelFile::open(&bin).unwrap();
    let w2 = file.layout().find("blocks.1.att.w2").unwrap();
    assert!(file.layout().specs()[w2].cols.is_multiple_of(WEIGHTS_PER_BLOCK));
}

/// 2²⁰ values are read at a time, and the factors and squares here have more.
#[test]
fn matrices_of_more_than_one_chunk_are_turned_and_copied_whole() {
    let config = ModelConfig {
        n_ffn: 32,
        sizes: rwkv_core::Sizes::new(&[64, 1040, 32, 0, 32]),
        ..ModelConfig::usual(Version::V7, 37, 1088, 1).unwrap()
    };
    let mut files = Files::of(&config, &values(&config, 6));
    for to in [FileFormat::Pth, FileFormat::Gguf, FileFormat::Safetensors, FileFormat::RwkvCpp] {
        assert_eq!(files.next(&ConvertOptions::to(to)).unwrap().changed, 0);
    }
    assert!(fs::read(files.last()).unwrap() == fs::read(&files.made[0]).unwrap());
}

#[test]
fn progress_reaches_the_end_and_can_stop_the_work() {
    let mut files = Files::of(&v7(), &values(&v7(), 7));
    for to in FileFormat::ALL {
        let output = files.directory.path().join("out");
        let run = |stop_at: u64, seen: &mut Vec<(u64, u64)>| {
            convert(&files.made[0], &output, &ConvertOptions::to(to), |done, total| {
                seen.push((done, total));
                if done >= stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        };
        for stop_at in [0, 1, 100_000] {
            fs::write(&output, "old").unwrap();
            let error = run(stop_at, &mut Vec::new()).unwrap_err();
            assert!(matches!(error, Error::Aborted), "{error}");
            assert_eq!(fs::read_to_string(&output).unwrap(), "old");
            assert_eq!(fs::read_dir(files.directory.path()).unwrap().count(), 2);
        }
        let mut seen = Vec::new();
        run(u64::MAX, &mut seen).unwrap();
        let (_, total) = seen[0];
        assert!(seen.is_sorted() && seen.iter().all(|at| at.1 == total));
        assert_eq!((seen[0].0, seen[seen.len() - 1].0), (0, total));
        fs::remove_file(&output).unwrap();
    }
    files.next(&ConvertOptions::to(FileFormat::Pth)).unwrap();
}

#[test]
fn what_cannot_be_converted_is_refused_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let input = path("a.bin");
    let mut values = values(&v7(), 8);
    write(&input, &v7(), &values, DataType::F32);
    write(path("v4.bin"), &v4(), &crate::common::values(&v4(), 8), DataType::F32);
    let refused = |input: &Path, options: &ConvertOptions<'_>, code: &str, says: &str| {
        let error = convert(input, path("out"), options, go_on).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert!(!path("out").exists());
        error
    };
    for data_type in [DataType::BF16, DataType::Q8_0] {
        refused(&input, &as_type(FileFormat::RwkvCpp, data_type), "INVALID_OPTION", "FP32");
    }
    refused(&input, &as_type(FileFormat::Gguf, DataType::Q4_0), "INVALID_OPTION", "quantize makes");
    let gguf = ConvertOptions::to(FileFormat::Gguf);
    let error = refused(&path("v4.bin"), &gguf, "UNSUPPORTED", "llama.cpp cannot run");
    assert_eq!(error.fault(), Some(Fault::Version));
    let many = vec![vec![b'a']; 38];
    let tokens = ConvertOptions { tokens: Some(&many), ..gguf };
    refused(&input, &tokens, "INVALID_OPTION", "at most 37");
    refused(&path("none.bin"), &gguf, "IO", "none.bin");

    let key = ModelFile::open(&input).unwrap().layout().find("blocks.1.att.key.weight").unwrap();
    values[key][5] = -70_000.0;
    write(path("large.bin"), &v7(), &values, DataType::F32);
    for to in FileFormat::ALL {
        let says = "blocks.1.att.key.weight holds -70000";
        refused(&path("large.bin"), &as_type(to, DataType::F16), "INVALID_OPTION", says);
    }
    // BF16 goes almost as far as FP32.
    values[key][5] = f32::MAX;
    write(path("large.bin"), &v7(), &values, DataType::F32);
    refused(&path("large.bin"), &as_type(FileFormat::Pth, DataType::BF16), "INVALID_OPTION", "beyond BF16");
    for value in [f32::NAN, f32::INFINITY] {
        values[key][5] = value;
        write(path("large.bin"), &v7(), &values, DataType::F32);
        for to in FileFormat::ALL {
            refused(&path("large.bin"), &ConvertOptions::to(to), "MODEL_FILE", "weights are finite");
        }
    }
    // Where there is no such directory, and where there is one.
    for (output, says) in [(path("missing/a.pth"), "create it first"), (path(""), "it is a directory")] {
        let error = convert(&input, output, &ConvertOptions::to(FileFormat::Pth), go_on).unwrap_err();
        assert!(error.code() == "IO" && error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_file_is_not_converted_over_itself() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("model.bin");
    write(&input, &v7(), &values(&v7(), 9), DataType::F32);
    let before = fs::read(&input).unwrap();
    let mut same =
        vec![input.clone(), directory.path().join("../").join(directory.path().file_name().unwrap())];
    same[1].push("model.bin");
    #[cfg(unix)]
    {
        let link = directory.path().join("link.pth");
        std::os::unix::fs::symlink(&input, &link).unwrap();
        same.push(link);
    }
    // A directory stands for the model in it.
    for from in [&input, directory.path()] {
        for to in &same {
            let error = convert(from, to, &ConvertOptions::to(FileFormat::Pth), go_on).unwrap_err();
            assert!(
                error.code() == "INVALID_OPTION" && error.to_string().contains("another file"),
                "{error}"
            );
            assert!(fs::read(&input).unwrap() == before);
        }
    }
}

#[test]
fn a_format_is_named_by_its_word_or_by_the_end_of_a_files_name() {
    for format in FileFormat::ALL {
        assert_eq!(FileFormat::named(format.name()).unwrap(), format);
        assert_eq!(FileFormat::of_name(format!("a/b.c.{}", format.name().to_uppercase())).unwrap(), format);
    }
    assert_eq!(FileFormat::of_name("a.pt").unwrap(), FileFormat::Pth);
    for name in ["a", "a.st", "a.bin.part", ".bin", ""] {
        let error = FileFormat::of_name(name).unwrap_err();
        assert!(error.code() == "INVALID_OPTION" && error.to_string().contains(".safetensors"), "{error}");
    }
    assert_eq!(FileFormat::named("onnx").unwrap_err().code(), "INVALID_OPTION");
}

/// Those of RWKV-LM and of llama.cpp, as their sources create them.
#[test]
fn dimensions_are_those_that_other_programs_expect() {
    let mut files = Files::of(&v7(), &values(&v7(), 10));
    let dims = |path: &Path, name: &str| {
        let file = ModelFile::open(path).unwrap();
        let tensor = file.tensors().iter().find(|tensor| tensor.name == name);
        tensor.unwrap_or_else(|| panic!("{name}")).dims.clone()
    };
    let [_, rank_w, rank_a, rank_v, _] = [0, 1, 2, 3, 4].map(|index| v7().sizes.get(index));
    files.next(&ConvertOptions::to(FileFormat::Pth)).unwrap();
    for (name, row_first) in [
        ("emb.weight", vec![64, 37]),
        ("blocks.0.ln0.weight", vec![64]),
        ("blocks.2.att.x_r", vec![64, 1, 1]),
        ("blocks.2.att.w0", vec![64, 1, 1]),
        ("blocks.2.att.w1", vec![rank_w, 64]),
        ("blocks.2.att.w2", vec![64, rank_w]),
        ("blocks.0.att.v0", vec![64, 1, 1]),
        ("blocks.0.att.v1", vec![rank_v, 64]),
        ("blocks.0.att.v2", vec![64, rank_v]),
        ("blocks.1.att.k_k", vec![64, 1, 1]),
        ("blocks.1.att.r_k", vec![64, 1]),
        ("blocks.1.ffn.x_k", vec![64, 1, 1]),
        ("blocks.1.ffn.key.weight", vec![64, 96]),
    ] {
        assert_eq!(dims(files.last(), name), row_first, "{name}");
    }
    files.next(&ConvertOptions::to(FileFormat::Safetensors)).unwrap();
    assert_eq!(dims(files.last(), "rwkv7.blocks.0.att.v1"), [rank_v, 64]);
    assert_eq!(dims(files.last(), "head.weight"), [64, 37]);
    files.next(&ConvertOptions::to(FileFormat::Gguf)).unwrap();
    for (name, row_first) in [
        ("blk.1.time_mix_lerp_fused.weight", vec![64, 1, 1, 6]),
        ("blk.1.time_mix_w1.weight", vec![64, rank_w]),
        ("blk.0.time_mix_v0.weight", vec![64]),
        ("blk.0.time_mix_v1.weight", vec![64, rank_a]),
        ("blk.0.time_mix_v2.weight", vec![rank_a, 64]),
        ("blk.1.time_mix_r_k.weight", vec![64]),
        ("blk.1.channel_mix_lerp_k.weight", vec![64]),
    ] {
        assert_eq!(dims(files.last(), name), row_first, "{name}");
    }
    let mut files = Files::of(&v4(), &values(&v4(), 11));
    files.next(&ConvertOptions::to(FileFormat::Pth)).unwrap();
    assert_eq!(dims(files.last(), "blocks.1.att.time_mix_k"), [32, 1, 1]);
    assert_eq!(dims(files.last(), "blocks.1.att.time_decay"), [32]);
}

/// Every tensor of a zip lies where it can be used as it is, and every checksum is right.
#[test]
fn a_pth_is_a_sound_and_aligned_zip() {
    let mut files = Files::of(&v7(), &values(&v7(), 12));
    files.next(&ConvertOptions::to(FileFormat::Pth)).unwrap();
    let file = ModelFile::open(files.last()).unwrap();
    let bytes = fs::read(files.last()).unwrap();
    let directory = bytes.windows(4).filter(|window| window == b"PK\x01\x02").count();
    assert_eq!(directory, file.tensors().len() + 5);
    let mut at = 0;
    let mut entries = 0;
    while bytes[at..].starts_with(b"PK\x03\x04") {
        let number = |from: usize| usize::from(u16::from_le_bytes([bytes[at + from], bytes[at + from + 1]]));
        let data = at + 30 + number(26) + number(28);
        assert!(data.is_multiple_of(64), "{data}");
        // The descriptor after the data: a mark, the checksum, the size twice.
        let end = (data..bytes.len() - 16).find(|&end| {
            bytes[end..].starts_with(b"PK\x07\x08")
                && bytes[end + 8..end + 12] == ((end - data) as u32).to_le_bytes()
        });
        let end = end.unwrap();
        let sum = u32::from_le_bytes(bytes[end + 4..end + 8].try_into().unwrap());
        assert_eq!(sum, crc32fast::hash(&bytes[data..end]));
        at = end + 16;
        entries += 1;
    }
    assert_eq!(entries, directory);
}

/// The way back of what was written long ago, from `tests/fixtures`.
#[test]
fn files_of_other_programs_become_ours_with_the_same_numbers() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["tiny-v4-FP32.bin", "tiny-v4-FP16.bin"] {
        let input = crate::common::fixture(name);
        let (pth, bin) = (directory.path().join("a.pth"), directory.path().join("a.bin"));
        convert(&input, &pth, &ConvertOptions::to(FileFormat::Pth), go_on).unwrap();
        convert(&pth, &bin, &ConvertOptions::to(FileFormat::RwkvCpp), go_on).unwrap();
        let (before, after) = (numbers(&input), numbers(&bin));
        for (x, y) in before.iter().flatten().zip(after.iter().flatten()) {
            assert!((x - y).abs() <= 1e-6 * x.abs(), "{x} {y}");
        }
    }
}

/// Weights that half precision holds exactly: `.bin` of FP16 and FP32 vectors, through both checkpoints.
#[test]
fn an_fp16_bin_keeps_its_formats_in_a_checkpoint_and_back() {
    let exact: Vec<Vec<f32>> = values(&v7(), 13)
        .into_iter()
        .map(|values| values.into_iter().map(|value| f16::from_f32(value).to_f32()).collect())
        .collect();
    let (_, layout, _) = rwkv_core::model::Network::new(&v7());
    let directory = tempfile::tempdir().unwrap();
    let first = directory.path().join("a.bin");
    write_model(&first, &v7(), &layout, &exact, DataType::F16).unwrap();
    for to in [FileFormat::Pth, FileFormat::Safetensors, FileFormat::Gguf] {
        let (between, last) = (directory.path().join(format!("b.{to}")), directory.path().join("c.bin"));
        let made = convert(&first, &between, &ConvertOptions::to(to), go_on).unwrap();
        assert_eq!((made.from_type, made.to_type), (DataType::F16, DataType::F16));
        convert(&between, &last, &ConvertOptions::to(FileFormat::RwkvCpp), go_on).unwrap();
        assert!(fs::read(&last).unwrap() == fs::read(&first).unwrap(), "{to}");
    }
}

/// As rwkv.cpp's quantizer would do it, after a conversion that rounds nothing.
#[test]
fn every_format_quantizes_to_what_its_bin_in_single_precision_does() {
    for (config, formats) in [(v7(), &[Pth, Safetensors, Gguf][..]), (v4(), &[Pth, Safetensors])] {
        for &of in formats {
            for data_type in [DataType::F32, DataType::F16, DataType::BF16] {
                let mut files = Files::of(&config, &values(&config, 11));
                files.next(&as_type(of, data_type)).unwrap();
                let input = files.last().to_owned();
                files.next(&as_type(RwkvCpp, DataType::F32)).unwrap();
                let [expected, found] = ["expected", "found"].map(|name| files.directory.path().join(name));
                for format in [DataType::Q4_0, DataType::Q5_1, DataType::Q8_0] {
                    let options = LoadOptions::default();
                    let by_way_of_bin = quantize(files.last(), &expected, format, &options, go_on).unwrap();
                    let mut seen = Vec::new();
                    let made = quantize(&input, &found, format, &options, |done, total| {
                        seen.push((done, total));
                        ControlFlow::Continue(())
                    });
                    let made = made.unwrap();
                    assert_eq!(made.from, data_type);
                    assert_eq!(
                        (made.tensors, made.quantized, made.bytes_out),
                        (by_way_of_bin.tensors, by_way_of_bin.quantized, by_way_of_bin.bytes_out)
                    );
                    assert_eq!(made.bytes_in, fs::metadata(&input).unwrap().len());
                    assert!(
                        fs::read(&found).unwrap() == fs::read(&expected).unwrap(),
                        "{of} {data_type} {format}"
                    );
                    assert!(seen.is_sorted() && seen[0].0 == 0, "{seen:?}");
                    assert!(seen.last().is_some_and(|(done, total)| done == total), "{seen:?}");
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_quantized_in_other_formats_is_refused_and_leaves_nothing() {
    let refused = |input: &Path, format, code: &str, says: &str| {
        let output = input.with_file_name("quantized");
        let error = quantize(input, &output, format, &LoadOptions::default(), go_on).unwrap_err();
        assert!(error.code() == code && error.to_string().contains(says), "{error}");
        assert!(!output.exists());
    };
    // Quantized already.
    let mut files = Files::of(&v7(), &values(&v7(), 12));
    let small = files.directory.path().join("small.bin");
    quantize(files.last(), &small, DataType::Q8_0, &LoadOptions::default(), go_on).unwrap();
    files.made.push(small);
    files.next(&ConvertOptions::to(Gguf)).unwrap();
    refused(files.last(), DataType::Q4_0, "UNSUPPORTED", "quantized already, to Q8_0");
    // Rows of no whole number of blocks.
    let narrow = ModelConfig::v4(37, 24, 2);
    let mut files = Files::of(&narrow, &values(&narrow, 13));
    files.next(&ConvertOptions::to(Pth)).unwrap();
    refused(files.last(), DataType::Q4_0, "UNSUPPORTED", "rows of 24 weights");
    // A scale beyond half precision, which only shows while the file is written.
    let mut values = values(&v4(), 14);
    let (_, layout, _) = rwkv_core::model::Network::new(&v4());
    let name = "blocks.1.ffn.value.weight";
    values[layout.find(name).unwrap()][40] = 1e9;
    let mut files = Files::of(&v4(), &values);
    files.next(&ConvertOptions::to(Safetensors)).unwrap();
    refused(files.last(), DataType::Q5_1, "MODEL_FILE", name);
    refused(files.last(), DataType::F16, "INVALID_OPTION", "Q8_0");
}
