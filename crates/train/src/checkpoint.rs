//! A training run at one step, on disk: parameters, moments, and where it stands.
//!
//! A directory of three files of little-endian f32, of the trained parameters in the layout's order, and
//! `checkpoint.json`, which names the step, holds every file's CRC-32, and says whether the model was sound:
//! see [`Soundness`]. The order of the windows follows from seed and step, so there is no other random state
//! to keep. The directory is written under another name and renamed when it is whole.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use rwkv_core::{ModelConfig, open_regular, read_regular, write_atomically};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::options::TrainOptions;
use crate::run::{fault, write_json};
use crate::trainer::{Best, Soundness};

const _: () =
    assert!(cfg!(target_endian = "little"), "files hold little-endian floats, written as they are in memory");

/// Format 1 did not say whether the model was sound, and is read too.
const FORMAT: u32 = 2;
/// More than a `checkpoint.json` has.
const MOST_BYTES: u64 = 16 << 20;
/// The file of the trained parameters. Those of the optimizer's moments come after it.
pub(crate) const PARAMETERS: &str = "parameters";

/// A file of a checkpoint: `<name>.f32`, floats as they are in memory, one slice after another.
#[derive(Debug)]
pub(crate) struct Floats<'a> {
    pub(crate) name: &'a str,
    pub(crate) values: Vec<&'a [f32]>,
}

fn file_name(name: &str) -> String {
    format!("{name}.f32")
}

/// What a checkpoint says of itself: `checkpoint.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    /// Steps done.
    pub(crate) step: u64,
    pub(crate) model: ModelConfig,
    #[serde(serialize_with = "TrainOptions::saved")]
    pub(crate) options: TrainOptions,
    pub(crate) data_crc32: u32,
    /// Time spent in steps.
    pub(crate) seconds: f64,
    /// Whether the model was sound, and its loss. None in format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) soundness: Option<Soundness>,
    /// The best validation so far, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) best: Option<Best>,
    /// Whether the step's report was still to be told, and what was due after it to be done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_pending: bool,
    /// CRC-32 of each file of floats: of the parameters, then of each moment.
    files_crc32: Vec<u32>,
    /// CRC-32 of all of the above, as compact JSON with this field 0.
    crc32: u32,
}

/// A checkpoint's content, read.
pub(crate) struct Checkpoint {
    pub(crate) manifest: Manifest,
    pub(crate) params: Vec<Vec<f32>>,
    /// In the optimizer's order.
    pub(crate) moments: Vec<Vec<Vec<f32>>>,
}

impl Manifest {
    pub(crate) fn new(
        step: u64,
        model: ModelConfig,
        options: TrainOptions,
        data_crc32: u32,
        seconds: f64,
        soundness: Soundness,
    ) -> Self {
        Self {
            format: FORMAT,
            step,
            model,
            options,
            data_crc32,
            seconds,
            soundness: Some(soundness),
            best: None,
            is_pending: false,
            files_crc32: Vec::new(),
            crc32: 0,
        }
    }

    /// Whether a run can go on from it. One of format 1 does not say; it is measured when a run is resumed
    /// from it.
    pub(crate) fn is_sound(&self) -> bool {
        self.soundness.is_none_or(|soundness| soundness.is_sound)
    }

    /// Whether its options are of its model.
    pub(crate) fn is_consistent(&self) -> bool {
        self.options.fits(&self.model)
    }

    fn checksum(&self) -> u32 {
        let bytes = serde_json::to_vec(&Self { crc32: 0, ..self.clone() });
        crc32fast::hash(&bytes.expect("a manifest's fields all have a JSON form"))
    }
}

/// Writes `run/checkpoint-<step>`: there afterwards whole, or not at all.
///
/// If it is there already with the same numbers, as when a run is stopped at a step that it had just saved,
/// at most its `checkpoint.json` is written, so that a process killed meanwhile leaves a whole one in any
/// case.
///
/// `files` are the parameters, and each of the optimizer's moments.
pub(crate) fn write(run: &Path, mut manifest: Manifest, files: &[Floats<'_>]) -> Result<()> {
    let path = run.join(format!("checkpoint-{}", manifest.step));
    if let Some(there) = holding(&path, files) {
        manifest.files_crc32.clone_from(&there.files_crc32);
        manifest.crc32 = manifest.checksum();
        return if manifest == there { Ok(()) } else { write_json(&path.join("checkpoint.json"), &manifest) };
    }
    let beside = run.join(format!(".checkpoint-{}.tmp", manifest.step));
    remove(&beside)?;
    let written = fs::create_dir(&beside).map_err(Error::io("create", &beside)).and_then(|()| {
        manifest.files_crc32.clear();
        for Floats { name, values } in files {
            manifest.files_crc32.push(write_floats(&beside.join(file_name(name)), values)?);
        }
        manifest.crc32 = manifest.checksum();
        write_json(&beside.join("checkpoint.json"), &manifest)?;
        // What is there is damaged and goes, or is somebody else's and is only moved.
        let is_ours = is_ours(&path);
        let old =
            if is_ours { run.join(format!(".checkpoint-{}.old.tmp", manifest.step)) } else { aside(&path) };
        if is_ours {
            remove(&old)?;
        }
        match fs::rename(&path, &old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("move", &path)(error));
            }
            _ => fs::rename(&beside, &path).map_err(Error::io("write", &path))?,
        }
        if is_ours { remove(&old) } else { Ok(()) }
    });
    if written.is_err() {
        // The error that is reported is the first one.
        let _ = remove(&beside);
    }
    written
}

/// Whether there is a directory at `path` with nothing in it but what a checkpoint has.
fn is_ours(path: &Path) -> bool {
    let is_known = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| {
            let name = entry.file_name();
            name == "checkpoint.json"
                || Path::new(&name).extension().is_some_and(|extension| extension == "f32")
        })
    };
    fs::symlink_metadata(path).is_ok_and(|there| there.is_dir())
        && fs::read_dir(path).is_ok_and(|mut entries| entries.all(is_known))
}

/// A free name for what is in a checkpoint's place.
fn aside(path: &Path) -> PathBuf {
    let mut number = 0;
    loop {
        number += 1;
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".aside-{number}"));
        if fs::symlink_metadata(&name).is_err() {
            return name.into();
        }
    }
}

/// What the checkpoint at `path` says of itself, if it is whole and holds these very numbers.
fn holding(path: &Path, files: &[Floats<'_>]) -> Option<Manifest> {
    let there = read_manifest(path).ok()?;
    if there.files_crc32.len() != files.len() {
        return None;
    }
    for (Floats { name, values }, &crc32) in files.iter().zip(&there.files_crc32) {
        let mut ours = crc32fast::Hasher::new();
        for values in values {
            ours.update(bytemuck::cast_slice(values));
        }
        // A file that cannot be read is as good as none: it is written again.
        if ours.finalize() != crc32
            || file_crc32(&path.join(file_name(name))).map(|(_, found)| found).ok() != Some(crc32)
        {
            return None;
        }
    }
    Some(there)
}

/// Length and CRC-32 of a file.
pub(crate) fn file_crc32(path: &Path) -> io::Result<(u64, u32)> {
    let mut file = BufReader::with_capacity(1 << 20, open_regular(path)?);
    let (mut crc32, mut total) = (crc32fast::Hasher::new(), 0);
    loop {
        let bytes = file.fill_buf()?;
        if bytes.is_empty() {
            return Ok((total, crc32.finalize()));
        }
        crc32.update(bytes);
        let len = bytes.len();
        total += len as u64;
        file.consume(len);
    }
}

/// Why a checkpoint cannot be read.
#[derive(Debug)]
pub(crate) enum Unread {
    /// A file of it is missing or damaged, and what is wrong with that.
    Damaged(PathBuf, String),
    /// Of a format that this version does not know.
    Other(Error),
}

impl Unread {
    /// The error, with what can be done if the checkpoint is damaged.
    pub(crate) fn with(self, advice: &str) -> Error {
        match self {
            Self::Damaged(file, problem) => {
                fault(&file, format!("{problem}; this checkpoint is damaged: {advice}"))
            }
            Self::Other(error) => error,
        }
    }
}

/// Reads what a checkpoint says of itself.
///
/// # Errors
/// If that is missing or damaged.
pub(crate) fn read_manifest(path: &Path) -> std::result::Result<Manifest, Unread> {
    let file = path.join("checkpoint.json");
    let unreadable = |error: rwkv_core::Error| damaged(&file, &error.to_string());
    let bytes = read_regular(&file, MOST_BYTES).map_err(unreadable)?;
    let manifest: Manifest = serde_json::from_slice(&bytes)
        .map_err(|error| damaged(&file, &format!("not a checkpoint ({error})")))?;
    if !(1..=FORMAT).contains(&manifest.format) {
        let problem = format!("format {}, and this version reads formats 1 to {FORMAT}", manifest.format);
        return Err(Unread::Other(fault(&file, problem)));
    }
    if manifest.crc32 != manifest.checksum() {
        return Err(damaged(&file, "its checksum is wrong"));
    }
    Ok(manifest)
}

/// Reads the checkpoint that `manifest` was read from; `lengths` are the names of its files, of the parameters and
/// of each of the optimizer's moments, and what is in them.
///
/// # Errors
/// If anything is missing or damaged.
pub(crate) fn read(
    path: &Path,
    manifest: Manifest,
    lengths: &[(&str, Vec<usize>)],
) -> std::result::Result<Checkpoint, Unread> {
    if manifest.files_crc32.len() != lengths.len() {
        return Err(damaged(&path.join("checkpoint.json"), "it is of another optimizer"));
    }
    let files = lengths.iter().zip(&manifest.files_crc32);
    let read = |((name, lengths), &crc32): (&(&str, Vec<usize>), &u32)| {
        read_floats(&path.join(file_name(name)), crc32, lengths)
    };
    let mut read: Vec<_> = files.map(read).collect::<std::result::Result<_, _>>()?;
    let moments = read.split_off(1.min(read.len()));
    Ok(Checkpoint { params: read.pop().unwrap_or_default(), moments, manifest })
}

fn write_floats(path: &Path, values: &[&[f32]]) -> Result<u32> {
    let mut crc32 = crc32fast::Hasher::new();
    write_atomically(path, |w| {
        values.iter().try_for_each(|values| {
            let bytes: &[u8] = bytemuck::cast_slice(values);
            crc32.update(bytes);
            w.write_all(bytes)
        })
    })?;
    Ok(crc32.finalize())
}

fn read_floats(path: &Path, crc32: u32, lengths: &[usize]) -> std::result::Result<Vec<Vec<f32>>, Unread> {
    let problem = |error: io::Error| damaged(path, &format!("cannot be read ({error})"));
    let (len, expected) =
        (fs::metadata(path).map_err(problem)?.len(), lengths.iter().sum::<usize>() as u64 * 4);
    if len != expected {
        return Err(damaged(path, &format!("it has {len} bytes and should have {expected}")));
    }
    let mut bytes = Vec::new();
    open_regular(path).and_then(|file| file.take(expected).read_to_end(&mut bytes)).map_err(problem)?;
    if crc32fast::hash(&bytes) != crc32 {
        return Err(damaged(path, "its checksum is wrong"));
    }
    let mut floats = bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
    Ok(lengths.iter().map(|&len| floats.by_ref().take(len).collect()).collect())
}

fn damaged(path: &Path, problem: &str) -> Unread {
    Unread::Damaged(path.to_owned(), problem.to_owned())
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", directory)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 3] = ["parameters.f32", "means.f32", "squares.f32"];

    fn tensors(at: f32) -> Vec<Vec<f32>> {
        vec![vec![at; 6], vec![-at; 4]]
    }

    /// A checkpoint with these numbers in its files.
    fn write_with(run: &Path, manifest: Manifest, at: [f32; 3]) -> Result<()> {
        let tensors = at.map(tensors);
        let values = tensors.iter().map(|values| values.iter().map(Vec::as_slice).collect());
        let names = [PARAMETERS, "means", "squares"];
        let files: Vec<_> = names.iter().zip(values).map(|(name, values)| Floats { name, values }).collect();
        write(run, manifest, &files)
    }

    fn manifest(step: u64) -> Manifest {
        let options = TrainOptions::new("book.txt", "").resolved();
        let soundness = Soundness { val_loss: 2.5, is_sound: true };
        Manifest::new(step, options.model(65).expect("a shape"), options, 9, 1.25, soundness)
    }

    fn read_all(path: &Path) -> Result<Checkpoint> {
        let read_it = || {
            read(path, read_manifest(path)?, &[PARAMETERS, "means", "squares"].map(|name| (name, vec![6, 4])))
        };
        read_it().map_err(|unread| unread.with("advice"))
    }

    fn write_one(run: &Path, step: u64) {
        let manifest = manifest(step);
        write_with(run, manifest, [1.0, 2.0, 3.0]).expect("a checkpoint");
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let run = tempfile::tempdir().expect("a directory");
        // Twice: the second replaces the first.
        write_one(run.path(), 12);
        write_one(run.path(), 12);
        let checkpoint = read_all(&run.path().join("checkpoint-12")).expect("a checkpoint");
        assert_eq!((checkpoint.manifest.step, checkpoint.manifest.seconds), (12, 1.25));
        assert_eq!(checkpoint.params, tensors(1.0));
        assert_eq!(checkpoint.moments, [tensors(2.0), tensors(3.0)]);
        assert_eq!(fs::read_dir(run.path()).expect("the run").count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn one_that_is_there_whole_is_not_written_again() {
        use std::os::unix::fs::MetadataExt;
        let run = tempfile::tempdir().expect("a directory");
        let path = run.path().join("checkpoint-12");
        write_one(run.path(), 12);
        let file = |name: &str| fs::metadata(path.join(name)).expect("a file").ino();
        let directory = file(".");
        let before = FILES.map(file);
        // The options may have changed since.
        let mut other = manifest(12);
        other.options.max_steps += 1;
        write_with(run.path(), other.clone(), [1.0, 2.0, 3.0]).expect("a checkpoint");
        assert_eq!((file("."), FILES.map(file)), (directory, before));
        assert_eq!(read_all(&path).expect("a checkpoint").manifest.options, other.options);
        let json = file("checkpoint.json");
        write_with(run.path(), other, [1.0, 2.0, 3.0]).expect("a checkpoint");
        assert_eq!(file("checkpoint.json"), json);
        // A damaged one is replaced, and so is one of other numbers.
        fs::write(path.join("means.f32"), "x").expect("damage");
        write_one(run.path(), 12);
        assert_eq!(read_all(&path).expect("a checkpoint").moments[0], tensors(2.0));
        write_with(run.path(), manifest(12), [1.0, 5.0, 3.0]).expect("a checkpoint");
        assert_eq!(read_all(&path).expect("a checkpoint").moments[0], tensors(5.0));
        assert_eq!(fs::read_dir(run.path()).expect("the run").count(), 1);
    }

    #[test]
    fn any_damage_is_noticed_and_says_where() {
        let run = tempfile::tempdir().expect("a directory");
        for name in FILES.iter().chain(&["checkpoint.json"]) {
            for damage in [
                |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 1),
                |bytes: &mut Vec<u8>| {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                },
            ] {
                write_one(run.path(), 1);
                let path = run.path().join("checkpoint-1");
                let mut bytes = fs::read(path.join(name)).expect("a file");
                if name.ends_with("json") {
                    // Indentation may change; that a digit did must be seen.
                    let text = String::from_utf8(bytes).expect("JSON").replace("1.25", "1.26");
                    bytes = text.into_bytes();
                } else {
                    damage(&mut bytes);
                }
                fs::write(path.join(name), bytes).expect("a damaged file");
                let error = read_all(&path).err().expect(name);
                assert!(error.code() == "RUN" && error.to_string().contains(name), "{error}");
                assert!(error.to_string().ends_with("this checkpoint is damaged: advice"), "{error}");
                fs::remove_file(path.join(name)).expect("a missing file");
                assert_eq!(read_all(&path).err().expect(name).code(), "RUN");
            }
        }
    }

    #[test]
    fn a_checkpoint_that_cannot_be_written_leaves_the_last_one() {
        let run = tempfile::tempdir().expect("a directory");
        write_one(run.path(), 1);
        let missing = run.path().join("missing");
        let error = write_with(&missing, manifest(2), [1.0; 3]).expect_err("no directory");
        assert!(error.code() == "IO" && error.to_string().contains("missing"), "{error}");
        read_all(&run.path().join("checkpoint-1")).expect("the last good one");
    }

    /// Written by the version before format 2.
    const FORMAT_1: &str = include_str!("../tests/fixtures/checkpoint-format-1.json");

    #[test]
    fn a_checkpoint_of_format_1_is_read_and_does_not_say_whether_it_is_sound() {
        let run = tempfile::tempdir().expect("a directory");
        let path = run.path().join("checkpoint.json");
        fs::write(&path, FORMAT_1).expect("a checkpoint");
        let manifest = read_manifest(run.path()).expect("a checkpoint");
        assert!(manifest.is_sound() && manifest.soundness.is_none());
        for (from, to) in [("\"format\": 1", "\"format\": 3"), ("\"format\": 1", "\"format\": 0")] {
            fs::write(&path, FORMAT_1.replacen(from, to, 1)).expect("another format");
            let error = read_manifest(run.path()).expect_err(to).with("");
            assert!(error.to_string().contains("this version reads formats 1 to 2"), "{error}");
        }
    }
}
