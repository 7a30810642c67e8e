//! Merging adapters into models.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rwkv_core::lora::{self, LoraInfo, LoraOptions, merge, merge_with, write_lora};
use rwkv_core::model::Network;
use rwkv_core::params::Initial;
use rwkv_core::{
    ConvertOptions, DataType, Error, FileFormat, LoadOptions, Model, ModelConfig, ModelFile, Version,
    convert, quantize, write_model,
};
use tempfile::TempDir;

const RANK: usize = 3;
const ALPHA: f32 = 6.0;

/// Numbers in ±`size` that look random.
fn numbers(seed: usize, len: usize, size: f32) -> Vec<f32> {
    let number = |i: usize| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0;
    (0..len).map(|i| size * number(i)).collect()
}

fn go_on(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn load(path: &Path) -> Model {
    Model::load(path, &LoadOptions { threads: Some(1), ..Default::default() }).expect("a model")
}

/// A directory with a model in a format, and an adapter of it for all matrices of the second block.
struct Place {
    directory: TempDir,
    base: PathBuf,
    adapter: PathBuf,
}

impl Place {
    fn new(format: DataType) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (base, adapter) = (directory.path().join("base.bin"), directory.path().join("a.safetensors"));
        let config = ModelConfig::v4(20, 32, 2);
        let (_, layout, _) = Network::new(&config);
        let specs = layout.specs().iter().enumerate();
        let values: Vec<_> = specs
            .map(|(seed, spec)| {
                let mut values = numbers(seed, spec.len(), 0.5);
                if spec.name.ends_with("time_decay") {
                    // A decay is negative.
                    for value in &mut values {
                        *value -= 1.0;
                    }
                }
                values
            })
            .collect();
        let plain = if format == DataType::F16 { DataType::F16 } else { DataType::F32 };
        write_model(&base, &config, &layout, &values, plain).expect("a model file");
        if format.is_quantized() {
            let small = directory.path().join("small.bin");
            quantize(&base, &small, format, &LoadOptions::default(), go_on).expect("a smaller file");
            fs::rename(small, &base).expect("the base");
        }
        let place = Self { directory, base, adapter };
        place.write_adapter(1.0);
        place
    }

    fn write_adapter(&self, size: f32) {
        let model = load(&self.base);
        let mut params = model.store().clone();
        for index in 0..params.n_model() {
            let spec = &params.layout().specs()[index];
            let (name, rows, cols) = (spec.name.clone(), spec.rows, spec.cols);
            let Some(matrix) = params.matrix_at(index).filter(|_| name.starts_with("blocks.1.")) else {
                continue;
            };
            let factors = [numbers(index, RANK * cols, 0.1), numbers(index + 50, rows * RANK, 0.2 * size)];
            let initial = [Initial::ZEROS; 2];
            lora::adapt(&mut params, matrix, RANK, ALPHA / RANK as f32, factors, initial);
        }
        write_lora(&self.adapter, *model.config(), &params, ALPHA).expect("an adapter");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn logits(model: &Model) -> Vec<f32> {
    model.eval_all(&[3, 1, 4, 1, 5, 9, 2, 6], &mut model.new_state()).expect("logits")
}

#[test]
fn a_merged_model_is_its_base_with_the_adapter() {
    for format in DataType::ALL {
        let place = Place::new(format);
        let output = place.path("merged.bin");
        let mut seen = Vec::new();
        let merged = merge(&place.base, &place.adapter, &output, |done, total| {
            seen.push((done, total));
            ControlFlow::Continue(())
        });
        let merged = merged.unwrap();
        let to = if format == DataType::F32 { format } else { DataType::F16 };
        assert_eq!((merged.from, merged.to, merged.adapted), (format, to, 7));
        let sizes = [&place.base, &output].map(|path| fs::metadata(path).unwrap().len());
        assert_eq!((merged.bytes_in, merged.bytes_out), (sizes[0], sizes[1]));
        assert!(seen.is_sorted() && seen.first() == Some(&(0, sizes[0])), "{seen:?}");
        assert_eq!(seen.last(), Some(&(sizes[0], sizes[0])));

        let (base, whole) = (ModelFile::open(&place.base).unwrap(), ModelFile::open(&output).unwrap());
        assert_eq!(whole.data_type(), to);
        for (index, spec) in base.layout().specs().iter().enumerate() {
            let ((before, old), (after, new)) = (base.tensor(index), whole.tensor(index));
            let is_adapted = spec.is_matrix() && spec.name.starts_with("blocks.1.");
            if !is_adapted && !before.data_type.is_quantized() {
                assert!(before.data_type == after.data_type && old == new, "{format}: {}", spec.name);
                continue;
            }
            assert_eq!(after.data_type, to, "{format}: {}", spec.name);
            let (a, b) = (numbers(index, RANK * spec.cols, 0.1), numbers(index + 50, spec.rows * RANK, 0.2));
            for (i, (&was, is)) in base.read(index).iter().zip(whole.read(index)).enumerate() {
                let (row, col) = (i / spec.cols, i % spec.cols);
                let product = |k: usize| f64::from(b[row * RANK + k]) * f64::from(a[k * spec.cols + col]);
                let added = f64::from(ALPHA) / RANK as f64 * (0..RANK).map(product).sum::<f64>();
                let expected = f64::from(was) + if is_adapted { added } else { 0.0 };
                // Half a unit in the last place, of sums near 0 also that of what was added.
                let unit = if to == DataType::F16 { 2.0_f64.powi(-11) } else { 2.0_f64.powi(-23) };
                let allowed = unit * expected.abs() + 1e-7;
                assert!((expected - f64::from(is)).abs() <= allowed, "{format} {} {i}", spec.name);
            }
        }
        let adapted = logits(&load(&place.base).with_lora(&place.adapter).unwrap());
        let (whole, base) = (logits(&load(&output)), logits(&load(&place.base)));
        let far =
            |a: &[f32], b: &[f32]| a.iter().zip(b).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
        // Products with quantized weights round the activations too, those with FP16 do not.
        let most = match format {
            DataType::F32 => 1e-4,
            DataType::F16 => 1e-2,
            _ => 5e-2,
        };
        let (error, change) = (far(&whole, &adapted), far(&base, &adapted));
        assert!(error < most && change > 2.0 * most, "{format}: {error}, and the adapter adds {change}");
    }
}

#[test]
fn what_cannot_be_merged_is_refused_and_nothing_is_written() {
    let place = Place::new(DataType::F16);
    let output = place.path("merged.bin");
    let refused = |result: rwkv_core::Result<lora::Merged>, code: &str, says: &str| {
        let error = result.unwrap_err();
        assert!(error.code() == code && error.to_string().contains(says), "{error}");
        assert!(!output.exists());
    };
    let adapter = &place.adapter;
    refused(merge(&place.base, adapter, &place.base, go_on), "INVALID_OPTION", "another file than the base");
    refused(merge(&place.base, adapter, adapter, go_on), "INVALID_OPTION", "another file than the adapter");
    refused(merge(&place.base, place.path("none"), &output, go_on), "IO", "none");
    refused(merge(&place.base, &place.base, &output, go_on), "ADAPTER", "not an adapter");
    let other = Place::new(DataType::F32);
    refused(merge(&other.base, adapter, &output, go_on), "ADAPTER", "with other weights");
    refused(merge(&place.base, adapter, &output, |_, _| ControlFlow::Break(())), "ABORTED", "");
    place.write_adapter(1e6);
    refused(merge(&place.base, adapter, &output, go_on), "NOT_FINITE", "FP16 ends at 65504");
    // The largest that FP32 holds is more than enough for it.
    other.write_adapter(1e6);
    merge(&other.base, &other.adapter, &output, go_on).unwrap();
}

#[test]
fn an_adapter_says_what_it_is() {
    let place = Place::new(DataType::Q5_1);
    let info = LoraInfo::read(&place.adapter).unwrap();
    assert_eq!((info.rank, info.alpha, info.targets.len()), (RANK, Some(ALPHA), 7));
    assert_eq!(info.base, Some(load(&place.base).fingerprint().unwrap()));
    assert_eq!(info.targets[0], "blocks.1.att.key.weight");
    assert_eq!(info.n_params, RANK * (5 * 64 + 2 * (32 + 128)));
    assert_eq!(info.bytes, fs::metadata(&place.adapter).unwrap().len());
    let bytes = fs::read(&place.adapter).unwrap();
    for len in [0, 7, 8, 100, bytes.len() - 4] {
        fs::write(place.path("short"), &bytes[..len]).unwrap();
        let error = LoraInfo::read(place.path("short")).unwrap_err();
        assert!(matches!(error, Error::Adapter { .. }), "{len}: {error}");
    }
    assert!(matches!(LoraInfo::read(&place.base).unwrap_err(), Error::Adapter { .. }));
}

/// All formats of all bases, by way of the `.bin` that the old way merges.
#[test]
fn bases_of_other_formats_merge_to_what_their_bin_does() {
    let place = Place::new(DataType::F32);
    for to in [FileFormat::Pth, FileFormat::Safetensors] {
        for data_type in [DataType::F32, DataType::F16, DataType::BF16] {
            let [base, bin, merged, expected] =
                [&format!("base.{to}"), "bin", "merged", "expected"].map(|name| place.path(name));
            let options = ConvertOptions { data_type: Some(data_type), ..ConvertOptions::to(to) };
            convert(&place.base, &base, &options, go_on).unwrap();
            convert(&base, &bin, &ConvertOptions::to(FileFormat::RwkvCpp), go_on).unwrap();
            let other = Place { directory: tempfile::tempdir().unwrap(), base, adapter: place.path("b") };
            other.write_adapter(1.0);
            let made = merge(&other.base, &other.adapter, &merged, go_on).unwrap();
            let same = Place { base: bin, ..other };
            same.write_adapter(1.0);
            let by_way_of_bin = merge(&same.base, &same.adapter, &expected, go_on).unwrap();
            assert_eq!((made.from, made.to), (data_type, by_way_of_bin.to));
            assert_eq!(
                (made.adapted, made.tensors, made.bytes_out),
                (7, by_way_of_bin.tensors, by_way_of_bin.bytes_out)
            );
            assert!(fs::read(&merged).unwrap() == fs::read(&expected).unwrap(), "{to} {data_type}");
        }
    }
}

/// Factors of low rank lie the other way round in checkpoints, and quantized blocks come from GGUF.
#[test]
fn a_v7_of_any_format_merges_to_its_base_with_the_adapter() {
    let config = ModelConfig { n_ffn: 96, ..ModelConfig::usual(Version::V7, 37, 64, 2).unwrap() };
    let values = crate::common::values(&config, 5);
    for to in FileFormat::ALL {
        let mut place = Place::new(DataType::F32);
        let (bin, small) = (place.path("v7.bin"), place.path("small.bin"));
        crate::common::write(&bin, &config, &values, DataType::F32);
        place.base = place.path("v7");
        let is_quantized = matches!(to, FileFormat::Gguf);
        if is_quantized {
            quantize(&bin, &small, DataType::Q8_0, &LoadOptions::default(), go_on).unwrap();
        }
        let input = if is_quantized { &small } else { &bin };
        convert(input, &place.base, &ConvertOptions::to(to), go_on).unwrap();
        place.write_adapter(1.0);
        let output = place.path("merged.bin");
        let made = merge(&place.base, &place.adapter, &output, go_on).unwrap();
        assert_eq!(made.to, if is_quantized { DataType::F16 } else { DataType::F32 });
        assert!(ModelFile::open(&output).unwrap().format() == FileFormat::RwkvCpp);
        // The numbers that the blocks stand for: products with blocks round what they are multiplied with.
        let plain = place.path("plain.pth");
        let in_full =
            ConvertOptions { data_type: Some(DataType::F32), ..ConvertOptions::to(FileFormat::Pth) };
        convert(&place.base, &plain, &in_full, go_on).unwrap();
        place.base = plain;
        place.write_adapter(1.0);
        let expected = logits(&load(&place.base).with_lora(&place.adapter).unwrap());
        let found = logits(&load(&output));
        let far = logits(&load(&place.base));
        let difference = |x: &[f32]| x.iter().zip(&found).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        let most = if is_quantized { 0.02 } else { 1e-4 };
        assert!(difference(&expected) < most, "{to}: {}", difference(&expected));
        assert!(difference(&far) > 0.1, "{to}: {}", difference(&far));
    }
}

/// The same model in other precisions, to which an adapter and a state of FP32 are about right.
#[test]
fn an_adapter_and_a_state_of_another_base_of_the_shape_are_taken_when_that_is_asked_for() {
    let allow = LoraOptions { allow_other_base: true, alpha: None };
    let place = Place::new(DataType::F32);
    place.write_adapter(10.0);
    let adapted = load(&place.base).with_lora(&place.adapter).unwrap();
    let expected = logits(&adapted);
    let own = load(&place.base);
    let mut state = own.new_state();
    own.eval(&[1, 2, 3], &mut state).unwrap();
    let (bytes, next) = (state.to_bytes().unwrap(), own.eval(&[4], &mut state).unwrap());
    let difference = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
    let others = [place.path("half.pth"), place.path("brain.safetensors"), place.path("small.bin")];
    for (path, to, data_type) in
        [(&others[0], FileFormat::Pth, DataType::F16), (&others[1], FileFormat::Safetensors, DataType::BF16)]
    {
        let options = ConvertOptions { data_type: Some(data_type), ..ConvertOptions::to(to) };
        convert(&place.base, path, &options, go_on).unwrap();
    }
    quantize(&place.base, &others[2], DataType::Q8_0, &LoadOptions::default(), go_on).unwrap();
    let merged = place.path("merged.bin");
    for (path, most) in others.iter().zip([0.01, 0.1, 0.1]) {
        let other = load(path);
        for error in [
            other.with_lora(&place.adapter).map(drop).unwrap_err(),
            merge(path, &place.adapter, &merged, go_on).map(drop).unwrap_err(),
            other.state_from_bytes(&bytes).map(drop).unwrap_err(),
        ] {
            let says = error.to_string();
            assert!(says.contains("other weights") && says.contains("allowOtherBase"), "{says}");
        }
        let found = logits(&other.with_lora_options(&place.adapter, &allow).unwrap());
        assert!(
            difference(&found, &expected) < most,
            "{}: {}",
            path.display(),
            difference(&found, &expected)
        );
        let far = difference(&logits(&other), &expected);
        assert!(far > 5.0 * most, "{far}, {}", difference(&found, &expected));
        merge_with(path, &place.adapter, &merged, &allow, go_on).unwrap();
        let found = logits(&load(&merged));
        assert!(
            difference(&found, &expected) < most,
            "{}: {}",
            path.display(),
            difference(&found, &expected)
        );
        fs::remove_file(&merged).unwrap();
        let mut state = other.state_from_bytes_with(&bytes, true).unwrap();
        // From now on it is this model's.
        assert_eq!(state.model().unwrap(), other.fingerprint().unwrap());
        let found = other.eval(&[4], &mut state).unwrap();
        assert!(difference(&found, &next) < most, "{}: {}", path.display(), difference(&found, &next));
    }
    // Of another shape nothing is taken, and nothing is offered.
    let config = ModelConfig::v4(21, 32, 2);
    crate::common::write(place.path("wide.bin"), &config, &crate::common::values(&config, 3), DataType::F32);
    let wide = load(&place.path("wide.bin"));
    for error in [
        wide.with_lora_options(&place.adapter, &allow).map(drop).unwrap_err(),
        wide.with_lora(&place.adapter).map(drop).unwrap_err(),
        merge_with(place.path("wide.bin"), &place.adapter, &merged, &allow, go_on).map(drop).unwrap_err(),
        wide.state_from_bytes_with(&bytes, true).map(drop).unwrap_err(),
    ] {
        let says = error.to_string();
        assert!(says.contains("another model") && !says.contains("allow"), "{says}");
    }
    // Damage stays damage.
    let mut damaged = bytes.clone();
    damaged[100] ^= 1;
    assert_eq!(load(&others[0]).state_from_bytes_with(&damaged, true).unwrap_err().code(), "STATE");
    let mut damaged = fs::read(&place.adapter).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&place.adapter, damaged).unwrap();
    let error = load(&others[0]).with_lora_options(&place.adapter, &allow).unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");
}
