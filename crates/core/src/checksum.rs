//! The checksum of a model's weights, and of which model a state is.
//!
//! It takes every byte, so it is a read of the whole file, which loading avoids. So it is computed when it is
//! first asked for, once for each file, by all threads of the model; whoever only evaluates never asks.
//!
//! Each thread takes stretches of the bytes, whose CRC-32 are then combined in order: the result is that of
//! all bytes in one go, for any number of threads.

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crc32fast::Hasher;
use rwkv_kernels::Cpu;

use crate::config::ModelConfig;
use crate::error::Result;
use crate::file::{Backing, Stamp};
use crate::fingerprint::Fingerprint;

/// Bytes that a thread takes at a time. Combining two checksums costs some 10 µs, reading this much 1 ms.
const UNIT: usize = 8 << 20;
/// Bytes that it reads at a time: they stay in its L2 cache.
const BUFFER: usize = 128 << 10;

/// A part of a model's weights, as they are stored.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// All tensors of a file.
    File(Arc<FileChecksum>),
    /// One tensor of a file.
    Tensor(Backing, Range<usize>),
    /// Values in memory. Nobody changes them while they are shared.
    Values(Arc<Vec<f32>>),
}

/// The checksum of all tensors of a file, for everything in this process that uses the file.
#[derive(Debug)]
pub(crate) struct FileChecksum {
    /// The open file alone, without its map: a state keeps this when its model is closed.
    backing: Backing,
    tensors: Vec<Range<usize>>,
    /// Locked while it is computed, so that nobody else computes it meanwhile.
    known: Mutex<Option<Hasher>>,
}

impl FileChecksum {
    /// Of a file with its tensors at these places, which are in the order of the model's layout.
    pub(crate) fn new(backing: Backing, tensors: Vec<Range<usize>>) -> Arc<Self> {
        Arc::new(Self { backing, tensors, known: Mutex::default() })
    }

    fn get(&self, cpu: Option<&Cpu>) -> Result<Hasher> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let tensors = self.tensors.iter().map(|tensor| Stretch::of(&self.backing, tensor.clone()));
        let computed = compute(tensors, cpu)?;
        Ok(known.insert(computed).clone())
    }
}

/// CRC-32 of all parts, one after the other.
///
/// # Errors
/// [`Error::FileChanged`](crate::Error::FileChanged), [`Error::Io`](crate::Error::Io).
pub(crate) fn checksum(parts: &[Part], cpu: Option<&Cpu>) -> Result<u32> {
    let mut all = Hasher::new();
    let is_file = |part: &Part| matches!(part, Part::File(_));
    for group in parts.chunk_by(|a, b| !is_file(a) && !is_file(b)) {
        if let [Part::File(file)] = group {
            all.combine(&file.get(cpu)?);
            continue;
        }
        let stretches = group.iter().filter_map(|part| match part {
            Part::File(_) => None,
            Part::Tensor(backing, range) => Some(Stretch::of(backing, range.clone())),
            Part::Values(values) => Some(Stretch::Memory(bytemuck::cast_slice(values))),
        });
        all.combine(&compute(stretches, cpu)?);
    }
    Ok(all.finalize())
}

/// Consecutive bytes.
enum Stretch<'a> {
    Memory(&'a [u8]),
    File(&'a Stamp, Range<usize>),
}

impl<'a> Stretch<'a> {
    fn of(backing: &'a Backing, range: Range<usize>) -> Self {
        match backing {
            Backing::File(stamp) => Self::File(stamp, range),
            Backing::Memory(bytes) => Self::Memory(&bytes[range]),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::File(_, range) => range.len(),
        }
    }

    /// The first `len` bytes, and those after them.
    fn split(self, len: usize) -> (Self, Self) {
        match self {
            Self::Memory(bytes) => {
                let (first, rest) = bytes.split_at(len);
                (Self::Memory(first), Self::Memory(rest))
            }
            Self::File(stamp, Range { start, end }) => {
                (Self::File(stamp, start..start + len), Self::File(stamp, start + len..end))
            }
        }
    }

    /// Adds the bytes to `crc`. Those of a file are read, not mapped: so a file that becomes shorter is an
    /// error here, and the pages of a model that is loaded into other memory are not mapped for this.
    fn add_to(&self, crc: &mut Hasher, buffer: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Memory(bytes) => crc.update(bytes),
            Self::File(stamp, range) => {
                buffer.resize(BUFFER, 0);
                for at in range.clone().step_by(BUFFER) {
                    let bytes = &mut buffer[..BUFFER.min(range.end - at)];
                    stamp.read_at(at, bytes)?;
                    crc.update(bytes);
                }
            }
        }
        Ok(())
    }
}

/// The checksum of these bytes, one stretch after the other.
fn compute<'a>(stretches: impl Iterator<Item = Stretch<'a>>, cpu: Option<&Cpu>) -> Result<Hasher> {
    #[cfg(test)]
    tests::COMPUTED.set(tests::COMPUTED.get() + 1);
    // Many small tensors are one unit, a large one is several.
    let mut units: Vec<Vec<Stretch<'a>>> = vec![Vec::new()];
    let (mut room, mut stamps) = (UNIT, Vec::<&Stamp>::new());
    for mut rest in stretches {
        if let Stretch::File(stamp, _) = rest
            && !stamps.last().is_some_and(|last| std::ptr::eq(*last, stamp))
        {
            stamps.push(stamp);
        }
        while rest.len() > 0 {
            if room == 0 {
                room = UNIT;
                units.push(Vec::new());
            }
            let len = room.min(rest.len());
            let (first, after) = rest.split(len);
            if let Some(unit) = units.last_mut() {
                unit.push(first);
            }
            (room, rest) = (room - len, after);
        }
    }
    let one = |index: usize| {
        let (mut crc, mut buffer) = (Hasher::new(), Vec::new());
        units[index].iter().try_for_each(|stretch| stretch.add_to(&mut crc, &mut buffer))?;
        Ok(crc)
    };
    let sums: Vec<Result<Hasher>> = match cpu {
        Some(cpu) => cpu.map(units.len(), one),
        None => (0..units.len()).map(one).collect(),
    };
    let mut all = Hasher::new();
    for sum in sums {
        all.combine(&sum?);
    }
    stamps.into_iter().try_for_each(Stamp::check)?;
    Ok(all)
}

/// The model that a state is of.
///
/// States of one [`Model`](crate::Model) share this, so that evaluation compares no weights; the fingerprint
/// is for those that went through bytes, or are of another model, which may have the same weights.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) config: ModelConfig,
    weights: OnceLock<u32>,
    /// What the checksum is computed from, until it is known, and the model's threads, if it is still open.
    parts: Mutex<(Vec<Part>, Weak<Cpu>)>,
}

impl Origin {
    /// The model of shape `config` with these weights.
    pub(crate) fn new(config: ModelConfig, parts: Vec<Part>, cpu: &Arc<Cpu>) -> Arc<Self> {
        Arc::new(Self { config, weights: OnceLock::new(), parts: Mutex::new((parts, Arc::downgrade(cpu))) })
    }

    /// The model with this fingerprint.
    pub(crate) fn known(Fingerprint { config, weights }: Fingerprint) -> Arc<Self> {
        Arc::new(Self { config, weights: weights.into(), parts: Mutex::default() })
    }

    /// The fingerprint, computed by the first call, on `cpu` or else on the model's threads.
    ///
    /// # Errors
    /// Those of [`checksum`]; the next call tries again.
    pub(crate) fn fingerprint(&self, cpu: Option<&Cpu>) -> Result<Fingerprint> {
        let of = |weights| Ok(Fingerprint { config: self.config, weights });
        if let Some(&weights) = self.weights.get() {
            return of(weights);
        }
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&weights) = self.weights.get() {
            return of(weights);
        }
        let own = parts.1.upgrade();
        let weights = checksum(&parts.0, cpu.or(own.as_deref()))?;
        // A state keeps neither a file open nor values in memory from here on.
        *parts = Default::default();
        of(*self.weights.get_or_init(|| weights))
    }

    /// Why a state of `self` cannot be used with `model`, if it cannot.
    ///
    /// # Errors
    /// As [`fingerprint`](Self::fingerprint).
    pub(crate) fn mismatch(&self, model: &Self, cpu: Option<&Cpu>) -> Result<Option<String>> {
        if std::ptr::eq(self, model) {
            return Ok(None);
        }
        let shapes = Fingerprint { config: self.config, weights: 0 };
        if let Some(problem) = shapes.mismatch(&Fingerprint { config: model.config, weights: 0 }) {
            return Ok(Some(problem));
        }
        Ok(self.fingerprint(cpu)?.mismatch(&model.fingerprint(cpu)?))
    }

    /// Whether both are known to have the same shape and weights.
    pub(crate) fn is(&self, other: &Self) -> bool {
        matches!(self.mismatch(other, None), Ok(None))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;

    use super::*;
    use crate::control::go_on;
    use crate::data_type::DataType;
    use crate::file::{ModelFile, write_model};
    use crate::model::Network;
    use crate::{LoadOptions, Model, State, quantize};

    thread_local! {
        /// How many checksums were computed on behalf of this thread.
        pub(super) static COMPUTED: Cell<usize> = const { Cell::new(0) };
    }

    const CONFIG: ModelConfig = ModelConfig::v4(700, 64, 2);

    fn write(path: &Path) {
        let (_, layout, _) = Network::new(&CONFIG);
        let value = |i: usize| -((i * 37 % 101) as f32 + 1.0) / 101.0;
        let values: Vec<Vec<_>> =
            layout.specs().iter().map(|spec| (0..spec.len()).map(value).collect()).collect();
        write_model(path, &CONFIG, &layout, &values, DataType::F32).unwrap();
    }

    fn load(path: &Path, threads: usize) -> Model {
        Model::load(path, &LoadOptions { threads: Some(threads), ..Default::default() }).unwrap()
    }

    #[test]
    fn the_checksum_is_that_of_all_bytes_for_any_threads_and_any_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bytes");
        // More than two units, and nothing that is a multiple of a buffer.
        let values: Vec<f32> = (0..5_000_003).map(|index| index as f32).collect();
        let bytes: &[u8] = bytemuck::cast_slice(&values);
        std::fs::write(&path, bytes).unwrap();
        let stamp = Arc::new(Stamp::open(&path).unwrap());
        let expected = crc32fast::hash(bytes);
        let cuts = [0, 4, 4, UNIT - 4, UNIT, UNIT + 4, 2 * UNIT + 8, bytes.len()];
        let ranges = || cuts.windows(2).map(|cut| cut[0]..cut[1]);
        let tensors = ranges().map(|range| Part::Tensor(Backing::File(Arc::clone(&stamp)), range)).collect();
        let in_memory = ranges()
            .map(|range| Part::Values(Arc::new(values[range.start / 4..range.end / 4].to_vec())))
            .collect();
        let file = |range: Range<usize>| {
            Part::File(FileChecksum::new(Backing::File(Arc::clone(&stamp)), vec![range]))
        };
        let files: Vec<Part> = ranges().map(file).collect();
        for threads in [0, 1, 2, 3] {
            let cpu =
                LoadOptions { threads: Some(threads.max(1)), ..Default::default() }.start_cpu().unwrap();
            let cpu = Some(&*cpu).filter(|_| threads > 0);
            for parts in [&tensors, &in_memory, &files] {
                assert_eq!(checksum(parts, cpu).unwrap(), expected, "{threads} threads");
            }
        }
    }

    #[test]
    fn one_bit_anywhere_in_the_weights_makes_another_fingerprint() {
        let directory = tempfile::tempdir().unwrap();
        let [plain, small, changed] = ["plain", "small", "changed"].map(|name| directory.path().join(name));
        write(&plain);
        quantize(&plain, &small, DataType::Q4_0, &LoadOptions::default(), go_on).unwrap();
        for path in [&plain, &small] {
            let own = load(path, 1).fingerprint().unwrap();
            for threads in [2, 3] {
                assert_eq!(load(path, threads).fingerprint().unwrap(), own);
            }
            let state = load(path, 1).new_state().to_bytes().unwrap();
            let file = ModelFile::open(path).unwrap();
            let bytes = std::fs::read(path).unwrap();
            // Between what is a beginning, a middle or an end of 4 KiB, and at the end.
            for tensor in file.tensors() {
                let data = tensor.data();
                for at in [data.start + data.len() / 3, data.end - 4] {
                    let mut bytes = bytes.clone();
                    bytes[at] ^= 1;
                    std::fs::write(&changed, bytes).unwrap();
                    let model = load(&changed, 2);
                    assert_ne!(model.fingerprint().unwrap(), own, "{}, byte {at}", tensor.name);
                    let error = model.state_from_bytes(&state).unwrap_err().to_string();
                    assert!(error.contains("other weights"), "{error}");
                    let error = model.eval(&[1], &mut load(path, 1).new_state()).unwrap_err().to_string();
                    assert!(error.contains("other weights"), "{error}");
                }
            }
        }
    }

    #[test]
    fn who_only_evaluates_never_computes_it_and_others_compute_it_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.bin");
        write(&path);
        let model = load(&path, 2);
        let mut state = model.new_state();
        model.eval(&[1, 2, 3], &mut state).unwrap();
        model.evaluate_from(&state, &[1, 2, 3, 4, 5], Some(2), go_on).unwrap();
        let of_threads_of_its_own = load(&path, 3);
        of_threads_of_its_own.eval(&[1], &mut state).unwrap();
        assert!(state.clone() == state && model.check_state(&state).is_ok());
        assert_eq!(COMPUTED.get(), 0);
        let bytes = state.to_bytes().unwrap();
        assert_eq!(COMPUTED.get(), 1);
        let mut read = of_threads_of_its_own.state_from_bytes(&bytes).unwrap();
        model.eval(&[4], &mut read).unwrap();
        model.eval(&[4], &mut State::from_bytes(&bytes).unwrap()).unwrap();
        assert_eq!(read.to_bytes().unwrap().len(), bytes.len());
        assert_eq!(COMPUTED.get(), 1);
    }

    #[test]
    fn a_state_can_be_saved_when_its_model_is_gone_unless_the_file_was_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.bin");
        write(&path);
        let state = load(&path, 2).new_state();
        let bytes = state.to_bytes().unwrap();
        assert_eq!(load(&path, 1).state_from_bytes(&bytes).unwrap(), state);
        let unsaved = load(&path, 2).new_state();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(1000).unwrap();
        assert_eq!(unsaved.to_bytes().unwrap_err().code(), "FILE_CHANGED");
        // What is known stays known.
        assert_eq!(state.to_bytes().unwrap(), bytes);
    }
}
