//! Files of adapters: what is written is read, and what is damaged is refused.

use std::collections::HashMap;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rwkv_core::lora::{Lora, adapt, factor_names, merge, write_lora};
use rwkv_core::model::Network;
use rwkv_core::params::Initial;
use rwkv_core::store::Parameters;
use rwkv_core::{DataType, Error, Fingerprint, ModelConfig, write_model};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};
use tempfile::TempDir;

const CONFIG: ModelConfig = ModelConfig::v4(3, 4, 1);
const ADAPTED: [&str; 2] = ["blocks.0.att.key.weight", "blocks.0.ffn.value.weight"];
const ALPHA: f32 = 0.3;

/// Name, type, shape and bytes of each tensor of a file.
type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

/// A directory with a small adapter of rank 1.
struct Place {
    directory: TempDir,
    params: Parameters,
    base: Fingerprint,
    bytes: Vec<u8>,
}

/// A base whose weights are multiples of `unit`.
fn base(unit: f32) -> Parameters {
    let (_, layout, _) = Network::new(&CONFIG);
    let values = |len| (0..len).map(|i| -unit * (1 + i * 7 % 13) as f32).collect();
    let values = layout.specs().iter().map(|spec| values(spec.len())).collect();
    Parameters::of_values(layout, values)
}

fn adapted(rank: usize) -> Parameters {
    let mut params = base(0.1);
    for name in ADAPTED {
        let index = params.layout().find(name).expect(name);
        let matrix = params.matrix_at(index).expect("a matrix");
        let spec = &params.layout().specs()[index];
        let factors = [spec.cols, spec.rows].map(|len| (0..len * rank).map(|i| 0.5 - i as f32).collect());
        adapt(&mut params, matrix, rank, ALPHA / rank as f32, factors, [Initial::ZEROS; 2]);
    }
    params
}

fn fingerprint(params: &Parameters, config: ModelConfig) -> Fingerprint {
    params.base_fingerprint(config, None).expect("values in memory")
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let params = adapted(1);
        let path = directory.path().join("lora.safetensors");
        write_lora(&path, CONFIG, &params, ALPHA).expect("an adapter");
        let bytes = fs::read(path).expect("the adapter");
        Self { base: fingerprint(&params, CONFIG), directory, params, bytes }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("lora.safetensors")
    }

    fn read(&self) -> Result<Lora, Error> {
        Lora::read(self.directory.path(), &self.base, self.params.layout())
    }

    fn read_bytes(&self, bytes: &[u8]) -> Result<Lora, Error> {
        fs::write(self.path(), bytes).expect("a file");
        self.read()
    }

    /// What is said of `bytes`, which are no adapter.
    fn problem(&self, bytes: &[u8]) -> String {
        let error = self.read_bytes(bytes).expect_err("not an adapter");
        assert!(matches!(&error, Error::Adapter { path, .. } if *path == self.path()), "{error}");
        error.to_string()
    }

    /// The adapter with other tensors, or another description.
    fn changed(&self, change: impl FnOnce(&mut Tensors, &mut String)) -> Vec<u8> {
        let file = SafeTensors::deserialize(&self.bytes).expect("the adapter");
        let (_, header) = SafeTensors::read_metadata(&self.bytes).expect("the adapter");
        let mut text = header.metadata().as_ref().expect("metadata")["rwkv_lora"].clone();
        let tensors = file.iter();
        let mut tensors: Vec<_> = tensors
            .map(|(name, t)| (name.to_owned(), t.dtype(), t.shape().to_vec(), t.data().to_vec()))
            .collect();
        change(&mut tensors, &mut text);
        let views = tensors.iter().map(|(name, dtype, shape, data)| {
            (name, TensorView::new(*dtype, shape.clone(), data).expect("a tensor"))
        });
        serialize(views, Some(HashMap::from([("rwkv_lora".to_owned(), text)]))).expect("a file")
    }
}

#[test]
fn what_is_written_is_read_and_written_again_to_the_same_bytes() {
    for rank in [1, 3] {
        let directory = tempfile::tempdir().expect("a directory");
        let (params, path) = (adapted(rank), directory.path().join("lora.safetensors"));
        let base = fingerprint(&params, CONFIG);
        write_lora(&path, CONFIG, &params, ALPHA).expect("an adapter");
        let bytes = fs::read(&path).expect("the adapter");
        let lora = Lora::read(&path, &base, params.layout()).expect("the adapter");
        assert_eq!((lora.base, lora.rank, lora.alpha), (Some(base), rank, ALPHA));
        let mut again = self::base(0.1);
        lora.apply(&mut again);
        for name in ADAPTED.iter().flat_map(|name| factor_names(name)) {
            let [ours, theirs] = [&again, &params].map(|params| {
                let index = params.layout().find(&name).expect("a factor");
                params.raw(index).to_vec()
            });
            assert!(!ours.is_empty() && ours == theirs, "{name}");
        }
        write_lora(&path, CONFIG, &again, ALPHA).expect("an adapter");
        assert!(fs::read(&path).expect("the adapter") == bytes);
    }
}

#[test]
fn every_truncation_and_every_flipped_byte_is_refused() {
    let place = Place::new();
    let whole = place.read().expect("the adapter");
    for len in 0..place.bytes.len() {
        place.problem(&place.bytes[..len]);
    }
    let mut longer = place.bytes.clone();
    longer.push(0);
    place.problem(&longer);
    let flips = (0..place.bytes.len()).flat_map(|at| [(at, 1 << (at % 8)), (at, 0xff)]);
    let (mut all, mut refused) = (0, 0);
    for (at, flip) in flips {
        let mut bytes = place.bytes.clone();
        bytes[at] ^= flip;
        all += 1;
        match place.read_bytes(&bytes) {
            // Such as a space of the header's padding that has become a tab.
            Ok(read) => assert!(read == whole, "byte {at} ^ {flip} changed the adapter unnoticed"),
            Err(error) => {
                assert!(error.code() == "ADAPTER" && !error.to_string().is_empty(), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > all - 20, "{refused} of {all}");
}

#[test]
fn lengths_that_a_file_only_claims_take_no_memory() {
    let place = Place::new();
    for len in [u64::MAX, 1 << 62, 1 << 40, 100_000_001, place.bytes.len() as u64] {
        let mut bytes = place.bytes.clone();
        bytes[..8].copy_from_slice(&len.to_le_bytes());
        assert!(place.problem(&bytes).contains("not an adapter"));
    }
    // A file with a hole: a terabyte that nobody wrote.
    File::create(place.path()).and_then(|file| file.set_len(1 << 40)).expect("a file with a hole");
    let problem = place.read().expect_err("a terabyte").to_string();
    assert!(problem.contains("an adapter of this model has at most"), "{problem}");
}

#[test]
fn what_is_wrong_in_a_whole_file_is_named() {
    type Case = (&'static str, fn(&mut Tensors, &mut String));
    let place = Place::new();
    assert_eq!(place.read_bytes(&place.changed(|_, _| ())).expect("unchanged"), place.read().expect("it"));
    let cases: [Case; 14] = [
        ("its rank is 0", |_, text| *text = text.replace("\"rank\":1", "\"rank\":0")),
        ("should be F32 [2, 4]", |_, text| *text = text.replace("\"rank\":1", "\"rank\":2")),
        ("is damaged", |_, text| *text = text.replace("\"rank\":1", "\"rank\":-1")),
        ("number out of range", |_, text| *text = text.replace("\"alpha\":0.3", "\"alpha\":1e39")),
        ("checksum", |_, text| *text = text.replace("\"alpha\":0.3", "\"alpha\":0.4")),
        ("version 3", |_, text| *text = text.replace("\"version\":2", "\"version\":3")),
        ("looked at a part of the weights only; train it again", |_, text| {
            *text = text.replace("\"version\":2", "\"version\":1");
        }),
        ("its \"base\" is damaged", |_, text| *text = text.replace("\"base\":\"", "\"base\":\"x")),
        ("is damaged", |_, text| text.clear()),
        ("F16", |tensors, _| (tensors[0].1, tensors[0].2[1]) = (Dtype::F16, tensors[0].2[1] * 2)),
        ("it should be F32", |tensors, _| tensors[0].2.reverse()),
        ("is missing", |tensors, _| drop(tensors.remove(0))),
        ("of its 5 tensors", |tensors, _| tensors.push(("more".into(), Dtype::U8, vec![3], vec![1; 3]))),
        ("is NaN", |tensors, _| tensors[1].3[..4].copy_from_slice(&f32::NAN.to_le_bytes())),
    ];
    for (says, change) in cases {
        let problem = place.problem(&place.changed(change));
        assert!(problem.contains(says), "{says}: {problem}");
    }
    // Nothing for this model at all; and a file without this program's description.
    let problem = place.problem(&place.changed(|tensors, _| tensors.clear()));
    assert!(problem.contains("0 of its 0 tensors"), "{problem}");
    let none: [(&str, TensorView<'_>); 0] = [];
    let problem = place.problem(&serialize(none, None).expect("a file"));
    assert!(problem.contains("it has no \"rwkv_lora\""), "{problem}");
}

/// To load it would ignore the factors, and to merge it would not.
#[test]
fn an_adapter_of_the_embedding_is_refused() {
    let place = Place::new();
    let mut params = base(0.1);
    let index = params.layout().find("emb.weight").expect("an embedding");
    let matrix = params.matrix_at(index).expect("a matrix");
    let factors = [vec![0.5; CONFIG.n_embd], vec![0.5; CONFIG.n_vocab]];
    adapt(&mut params, matrix, 1, ALPHA, factors, [Initial::ZEROS; 2]);
    write_lora(place.path(), CONFIG, &params, ALPHA).expect("an adapter");
    let problem = place.problem(&fs::read(place.path()).expect("the adapter"));
    assert!(problem.contains("it adapts \"emb.weight\"") && problem.contains("only looked up"), "{problem}");

    let model_file = place.directory.path().join("model.bin");
    let values: Vec<_> = (0..params.n_model()).map(|index| params.raw(index).to_vec()).collect();
    let (_, layout, _) = Network::new(&CONFIG);
    write_model(&model_file, &CONFIG, &layout, &values, DataType::F32).expect("a model file");
    let merged = place.directory.path().join("merged.bin");
    let error = merge(&model_file, place.path(), &merged, |_, _| ControlFlow::Continue(())).expect_err("it");
    assert!(error.to_string() == problem && !merged.exists(), "{error}");
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let place = Place::new();
    for other in [fingerprint(&base(0.2), CONFIG), fingerprint(&base(0.1), ModelConfig::v4(3, 4, 2))] {
        let error = Lora::read(place.path(), &other, place.params.layout()).expect_err("another base");
        assert!(error.code() == "ADAPTER" && error.to_string().contains("was trained on"), "{error}");
    }
}

/// A directory that cannot take the file, and one where an adapter is replaced.
#[test]
fn an_adapter_is_written_whole_or_not_at_all() {
    let place = Place::new();
    let missing = place.directory.path().join("missing/lora.safetensors");
    let error = write_lora(&missing, CONFIG, &place.params, ALPHA).expect_err("no directory");
    assert!(matches!(&error, Error::Io { path, .. } if *path == missing), "{error}");
    let names = |directory: &Path| fs::read_dir(directory).expect("a directory").count();
    assert_eq!(names(place.directory.path()), 1);
    write_lora(place.path(), CONFIG, &adapted(2), ALPHA).expect("an adapter");
    assert_eq!((place.read().expect("the new one").rank, names(place.directory.path())), (2, 1));
}
