//! What the file that a run leaves is: `result.json`.
//!
//! A model's file says nothing of the run that wrote it. So the record beside it says of which step it is, how
//! good it was, and from what it was made, together with the length and the CRC-32 of the file that it says this
//! of. Nobody believes a record without comparing them: a file that it does not fit is somebody else's, of which
//! nothing is said, and which is not replaced.
//!
//! To replace the file, the new one is written under another name; then a record of both, the new one and the
//! old one; then the new one takes its place; then a record of it alone. So wherever that stops, at a kill or
//! with a full disk, one of the entries is of the file that is there.

use std::fs;
use std::io;
use std::path::Path;

use rwkv_core::{Staged, read_regular};
use serde::{Deserialize, Serialize};

use crate::checkpoint::file_crc32;
use crate::error::{Error, Result};
use crate::options::Keep;
use crate::run::{fault, write_json};

/// The name of the record in a run's directory.
const NAME: &str = "result.json";

const FORMAT: u32 = 1;

/// More than a record has.
const MOST_BYTES: u64 = 1 << 20;

/// What the file is that a run has written: `model.bin`, `lora.safetensors` or `tuned.state`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// Its name in the run's directory.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// The CRC-32 of all its bytes.
    pub crc32: u32,
    /// The step after which it was written.
    pub step: u64,
    /// Mean loss over the whole validation split after that step, in nats a token. None if that was not taken.
    pub val_loss: Option<f32>,
    /// Whether it is sound: see [`Soundness`](crate::Soundness).
    pub is_sound: bool,
    /// CRC-32 of the options in force, as JSON.
    pub options_crc32: u32,
    /// CRC-32 of the text's file.
    pub data_crc32: u32,
    /// CRC-32 of the tokenizer's file.
    pub tokenizer_crc32: u32,
    /// The fingerprint of the model that the run started from, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
}

/// `result.json`.
#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    /// One of these is of the file that is there.
    results: Vec<Kept>,
}

/// What is at the place of a run's result.
#[derive(Debug, PartialEq)]
pub(crate) enum Holding {
    /// No file.
    Nothing,
    /// What the run has written.
    Ours(Kept),
    /// Something else, and how that is known.
    Foreign(&'static str),
}

impl Kept {
    /// Whether it takes the place of `old`: one that is not sound does not, and is replaced by any that is.
    /// Beyond that, the best one stays, or the last.
    pub(crate) fn replaces(&self, old: &Self, keep: Keep) -> bool {
        if !self.is_sound || !old.is_sound {
            return self.is_sound;
        }
        match keep {
            // A run that has gone back may pass the step of what it left before.
            Keep::Last => self.step >= old.step,
            Keep::Best => match (self.val_loss, old.val_loss) {
                (Some(new), Some(old)) => new < old,
                (None, Some(_)) => false,
                (_, None) => true,
            },
        }
    }

    /// Whether this is said of a file of these many bytes with this checksum.
    fn fits(&self, bytes: u64, crc32: u32) -> bool {
        (self.bytes, self.crc32) == (bytes, crc32)
    }
}

/// Looks at the file called `name` in a run's directory, and at what the record says of it.
///
/// # Errors
/// [`rwkv_core::Error::Io`] if the file cannot be read.
pub(crate) fn look(run: &Path, name: &str) -> Result<Holding> {
    let path = run.join(name);
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Holding::Nothing),
        Err(error) => return Err(Error::io("read", path)(error)),
        Ok(there) if !there.is_file() => return Ok(Holding::Foreign("it is not a regular file")),
        Ok(_) => (),
    }
    let Some(Record { results, .. }) = read(run) else {
        return Ok(Holding::Foreign("there is no result.json that says what it is"));
    };
    let (bytes, crc32) = file_crc32(&path).map_err(Error::io("read", &path))?;
    let found = results.into_iter().find(|kept| kept.file == name && kept.fits(bytes, crc32));
    Ok(found.map_or(Holding::Foreign("it is not the file that result.json tells of"), Holding::Ours))
}

/// What the result of a run is: none if there is none, or if it is not what the run has written.
///
/// # Errors
/// [`rwkv_core::Error::Io`] if a file cannot be read.
pub fn read_kept(run: &Path) -> Result<Option<Kept>> {
    for name in super::run::RESULTS {
        if let Holding::Ours(kept) = look(run, name)? {
            return Ok(Some(kept));
        }
    }
    Ok(None)
}

/// The record of a run; none if there is none that can be read.
fn read(run: &Path) -> Option<Record> {
    let record: Record = serde_json::from_slice(&read_regular(run.join(NAME), MOST_BYTES).ok()?).ok()?;
    (record.format == FORMAT).then_some(record)
}

/// Puts a new result in the place of what is there, with its record: `kept` says what it is, but for its length
/// and checksum. Returns the record.
///
/// # Errors
/// [`Error::Run`] if what is there is not the run's: it stays. [`rwkv_core::Error::Io`].
pub(crate) fn replace(run: &Path, staged: Staged, kept: Kept) -> Result<Kept> {
    let kept = Kept { bytes: staged.len(), crc32: staged.crc32(), ..kept };
    let old = match look(run, &kept.file)? {
        Holding::Nothing => None,
        Holding::Ours(old) => Some(old),
        Holding::Foreign(reason) => return Err(foreign(run, &kept.file, reason)),
    };
    let both = [kept.clone()].into_iter().chain(old.filter(|old| !old.fits(kept.bytes, kept.crc32)));
    write(run, both.collect())?;
    staged.commit()?;
    // If this fails, the record of both is as true.
    let _ = write(run, vec![kept.clone()]);
    Ok(kept)
}

/// Writes the record of a result again, if it is gone, or if it tells of another file beside it, as one that a
/// killed process left.
pub(crate) fn mend(run: &Path, kept: &Kept) -> Result<()> {
    if read(run).is_some_and(|record| record.results == [kept.clone()]) {
        return Ok(());
    }
    write(run, vec![kept.clone()])
}

fn write(run: &Path, results: Vec<Kept>) -> Result<()> {
    write_json(&run.join(NAME), &Record { format: FORMAT, results })
}

/// Says of a file that it is not the run's.
pub(crate) fn foreign(run: &Path, name: &str, reason: &str) -> Error {
    let advice = "move it away, or give force to have it replaced";
    fault(&run.join(name), format!("this run did not write it: {reason}; {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(step: u64, val_loss: Option<f32>) -> Kept {
        Kept {
            file: "model.bin".to_owned(),
            bytes: 0,
            crc32: 0,
            step,
            val_loss,
            is_sound: true,
            options_crc32: 1,
            data_crc32: 2,
            tokenizer_crc32: 3,
            base: None,
        }
    }

    fn stage(run: &Path, text: &str) -> Staged {
        Staged::write(&run.join("model.bin"), |w| w.write_all(text.as_bytes())).expect("a file")
    }

    #[test]
    fn the_best_stays_or_the_last_and_a_sound_one_in_any_case() {
        let unsound = |step, loss| Kept { is_sound: false, ..kept(step, Some(loss)) };
        let cases = [
            (kept(20, Some(2.0)), kept(10, Some(2.1)), [true, true]),
            (kept(20, Some(2.1)), kept(10, Some(2.0)), [false, true]),
            (kept(20, Some(2.0)), kept(10, Some(2.0)), [false, true]),
            (kept(20, None), kept(10, Some(2.0)), [false, true]),
            (kept(20, None), kept(10, None), [true, true]),
            (kept(20, Some(9.0)), kept(10, None), [true, true]),
            // A run that has gone back.
            (kept(10, Some(2.0)), kept(20, Some(2.1)), [true, false]),
            (kept(10, Some(2.1)), kept(20, Some(2.0)), [false, false]),
            (unsound(20, 1.0), kept(10, Some(2.0)), [false, false]),
            (unsound(20, 1.0), kept(10, None), [false, false]),
            (kept(5, Some(2.0)), unsound(10, 1.0), [true, true]),
            (unsound(20, 8.0), unsound(10, 9.0), [false, false]),
        ];
        for (new, old, expected) in cases {
            let found = [Keep::Best, Keep::Last].map(|keep| new.replaces(&old, keep));
            assert_eq!(found, expected, "{new:?} {old:?}");
        }
    }

    #[test]
    fn a_file_is_what_its_record_says_and_nothing_is_said_of_another() {
        let run = tempfile::tempdir().expect("a directory");
        let run = run.path();
        assert_eq!(look(run, "model.bin").expect("a look"), Holding::Nothing);
        let first = replace(run, stage(run, "one"), kept(1, None)).expect("a result");
        assert_eq!(look(run, "model.bin").expect("a look"), Holding::Ours(first));
        let second = replace(run, stage(run, "two"), kept(2, Some(1.5))).expect("a result");
        assert_eq!(read_kept(run).expect("a look"), Some(second.clone()));

        // Without its record, or with that of another file, it is anybody's, and stays.
        let record = fs::read(run.join(NAME)).expect("the record");
        for (name, bytes) in [(NAME, &b"{}"[..]), ("model.bin", b"tow")] {
            fs::write(run.join(name), bytes).expect("a file");
            assert!(matches!(look(run, "model.bin").expect("a look"), Holding::Foreign(_)), "{name}");
            let error = replace(run, stage(run, "three"), kept(3, None)).expect_err("a foreign file");
            assert!(error.code() == "RUN" && error.to_string().contains("did not write it"), "{error}");
            mend(run, &second).expect("a record");
            assert_eq!(fs::read(run.join(NAME)).expect("the record"), record);
        }
        assert_eq!(fs::read(run.join("model.bin")).expect("the file"), b"tow");
    }

    /// Its directory is gone: the file cannot take its place, after the record was written.
    #[test]
    fn a_file_that_cannot_take_its_place_leaves_the_old_one_and_what_is_said_of_it() {
        let run = tempfile::tempdir().expect("a directory");
        let run = run.path();
        let old = replace(run, stage(run, "old"), kept(1, Some(2.0))).expect("a result");
        let gone = run.join("gone");
        fs::create_dir(&gone).expect("a directory");
        let staged = stage(&gone, "new");
        fs::remove_dir_all(&gone).expect("no directory");
        replace(run, staged, kept(2, Some(1.0))).expect_err("no place");
        assert_eq!(read_kept(run).expect("a look"), Some(old));
    }

    /// What a kill or a full disk leaves, at any moment of a replacement.
    #[test]
    fn wherever_a_replacement_stops_the_record_is_of_the_file_that_is_there() {
        let run = tempfile::tempdir().expect("a directory");
        let run = run.path();
        let old = replace(run, stage(run, "old"), kept(1, Some(2.0))).expect("a result");
        let staged = stage(run, "new");
        let new = Kept { bytes: staged.len(), crc32: staged.crc32(), ..kept(2, Some(1.0)) };
        assert_eq!(read_kept(run).expect("a look").as_ref(), Some(&old));
        write(run, vec![new.clone(), old.clone()]).expect("a record");
        assert_eq!(read_kept(run).expect("a look"), Some(old));
        staged.commit().expect("the file");
        assert_eq!(read_kept(run).expect("a look").as_ref(), Some(&new));
        // The run that goes on leaves what one leaves that nobody stopped.
        let both = fs::read(run.join(NAME)).expect("the record");
        mend(run, &new).expect("a record");
        assert!(fs::read(run.join(NAME)).expect("the record") != both);
        assert_eq!(read(run).map(|record| record.results), Some(vec![new]));
    }
}
