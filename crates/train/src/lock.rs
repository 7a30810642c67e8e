//! One trainer at a time in a run's directory.
//!
//! The operating system's lock on the file `.lock` decides: it ends with the process that holds it, however
//! that ends. Who holds it stands in `.lock.json`: on Windows nobody else may read a file that is locked.
//! Both are removed when the lock is given back, but on Windows `.lock` stays.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rwkv_core::machine;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::run::{fault, write_json};

/// How long, and how often, [`try_lock`] waits.
const MOMENT: Duration = Duration::from_millis(5);
const MOMENTS: u32 = 10;

/// A run's directory, held for this trainer until this is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    run: PathBuf,
    holder: Holder,
    /// Locked; none only while the lock is being renewed.
    file: Option<File>,
}

/// `.lock.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Holder {
    process: u32,
    host: Option<String>,
    /// Seconds since 1970.
    since: u64,
    /// Tells the trainers of one process apart.
    trainer: u64,
}

impl Lock {
    /// Locks the directory `run`, which is there.
    ///
    /// # Errors
    /// [`Error::Run`] if another trainer has it, of this process or another, or if the file system has no
    /// locks.
    pub(crate) fn take(run: &Path) -> Result<Self> {
        static TRAINERS: AtomicU64 = AtomicU64::new(0);
        let holder = Holder {
            process: std::process::id(),
            host: machine::host_name(),
            since: now().as_secs(),
            trainer: TRAINERS.fetch_add(1, Ordering::Relaxed),
        };
        let mut lock = Self { run: run.to_owned(), holder, file: None };
        lock.lock()?;
        Ok(lock)
    }

    /// Refuses a directory that a trainer has locked, and changes nothing.
    pub(crate) fn check(run: &Path) -> Result<()> {
        let path = run.join(".lock");
        match OpenOptions::new().read(true).write(true).open(&path) {
            // Shared: others that look do not see each other.
            Ok(file) => locked(run, file.try_lock_shared()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(())
            }
            Err(error) => Err(Error::io("open", path)(error)),
        }
    }

    /// Locks the directory again if it is another one now, deleted and made anew, or if its `.lock` was
    /// deleted; writes `.lock.json` again if only that is not ours.
    ///
    /// # Errors
    /// As [`take`](Self::take), if another trainer has begun there meanwhile.
    pub(crate) fn renew(&mut self) -> Result<()> {
        if !self.file.as_ref().is_some_and(|file| is_at(file, &self.run.join(".lock"))) {
            self.file = None;
            return self.lock();
        }
        if Holder::read(&self.run).as_ref() != Some(&self.holder) {
            write_json(&Holder::path(&self.run), &self.holder)?;
        }
        Ok(())
    }

    fn lock(&mut self) -> Result<()> {
        let path = self.run.join(".lock");
        loop {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(Error::io("open", &path))?;
            try_lock(&self.run, &file)?;
            // Whoever had it may have removed it since we opened it, and another trainer may have locked a
            // new one.
            if is_at(&file, &path) {
                self.file = Some(file);
                return write_json(&Holder::path(&self.run), &self.holder);
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before the lock ends. What cannot be removed says who had the lock last, which nobody asks.
        if self.file.is_some() && Holder::read(&self.run).as_ref() == Some(&self.holder) {
            let _ = fs::remove_file(Holder::path(&self.run));
            if cfg!(unix) {
                let _ = fs::remove_file(self.run.join(".lock"));
            }
        }
    }
}

impl Holder {
    fn path(run: &Path) -> PathBuf {
        run.join(".lock.json")
    }

    fn read(run: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(Self::path(run)).ok()?).ok()
    }

    /// "process 4242 on build-7 has been training here for 12 min"
    fn describe(&self) -> String {
        let Self { process, host, since, .. } = self;
        let seconds = now().as_secs().saturating_sub(*since);
        let time = match seconds {
            0..120 => format!("{seconds} s"),
            120..7200 => format!("{} min", seconds / 60),
            _ => format!("{} h", seconds / 3600),
        };
        let host = host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
        let own = if *process == std::process::id() { " (this one)" } else { "" };
        format!("process {process}{own}{host} has been training here for {time}")
    }
}

/// Whether the file at `path` is this one.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |found: fs::Metadata| (found.dev(), found.ino());
    let (ours, there) = (file.metadata().map(identity).ok(), fs::metadata(path).map(identity).ok());
    ours.is_some() && ours == there
}

/// It is, because it is never removed.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

/// Locks `file`. One that merely looks has it for a moment too, so this waits for a few moments.
fn try_lock(run: &Path, file: &File) -> Result<()> {
    for _ in 0..MOMENTS {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => thread::sleep(MOMENT),
            result => return locked(run, result),
        }
    }
    locked(run, file.try_lock())
}

/// Says who has a lock that could not be taken.
fn locked(run: &Path, result: std::result::Result<(), TryLockError>) -> Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let who = Holder::read(run).map(|holder| holder.describe());
            let who = who.unwrap_or_else(|| "another process is training here".to_owned());
            Err(fault(run, format!("{who}; wait for it, stop it, or train in another directory")))
        }
        Err(TryLockError::Error(error)) => Err(fault(
            run,
            format!(
                "this directory cannot be locked against other trainers ({error}); train in one whose file system \
                 has locks"
            ),
        )),
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom};

    use super::*;

    #[test]
    fn a_second_one_is_told_who_holds_the_directory_until_the_first_is_gone() {
        let directory = tempfile::tempdir().expect("a directory");
        let run = directory.path();
        Lock::check(run).expect("nobody was ever here");
        assert_eq!(fs::read_dir(run).expect("the directory").count(), 0);
        let first = Lock::take(run).expect("the lock");
        for error in [Lock::take(run).expect_err("held"), Lock::check(run).expect_err("held")] {
            let says = format!("process {} (this one)", std::process::id());
            assert!(error.code() == "RUN" && error.to_string().contains(&says), "{error}");
        }
        drop(first);
        Lock::check(run).expect("free");
        let again = Lock::take(run).expect("the lock");
        assert!(Holder::path(run).exists());
        drop(again);
        assert!(!Holder::path(run).exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_was_removed_after_it_was_opened_is_no_lock() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = Lock::take(directory.path()).expect("the lock");
        let path = directory.path().join(".lock");
        let opened = File::open(&path).expect("the first one's");
        assert!(is_at(&opened, &path));
        drop(first);
        assert!(!path.exists() && !is_at(&opened, &path));
        let _second = Lock::take(directory.path()).expect("the lock");
        try_lock(directory.path(), &opened).expect("the file of old can be locked too");
        assert!(!is_at(&opened, &path));
    }

    #[test]
    fn what_a_crash_leaves_locks_nobody_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut lock = Lock::take(directory.path()).expect("the lock");
        // As a killed process: the lock ends with its file, and the description stays.
        lock.file = None;
        drop(lock);
        assert!(Holder::path(directory.path()).exists());
        Lock::check(directory.path()).expect("free");
        Lock::take(directory.path()).expect("the lock");
    }

    #[test]
    fn a_directory_made_anew_is_locked_anew_unless_another_trainer_has_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let run = directory.path().join("run");
        let make = || {
            let _ = fs::remove_dir_all(&run);
            fs::create_dir(&run).expect("a directory");
        };
        make();
        let mut lock = Lock::take(&run).expect("the lock");
        lock.renew().expect("still held");
        make();
        lock.renew().expect("the new directory");
        Lock::check(&run).expect_err("held");
        make();
        let other = Lock::take(&run).expect("another trainer's");
        lock.renew().expect_err("held by another");
        drop(lock);
        assert_eq!(Holder::read(&run).as_ref(), Some(&other.holder));
        Lock::check(&run).expect_err("still held by the other");
    }

    #[test]
    fn a_description_that_was_deleted_is_written_again_and_the_lock_never_given_up() {
        let directory = tempfile::tempdir().expect("a directory");
        let run = directory.path();
        let mut lock = Lock::take(run).expect("the lock");
        // A lock given up and taken again would be another handle, at its file's beginning.
        let at = |lock: &Lock| lock.file.as_ref().expect("held").stream_position().expect("a place");
        lock.file.as_ref().expect("held").seek(SeekFrom::Start(7)).expect("a place");
        fs::remove_file(Holder::path(run)).expect("the description");
        lock.renew().expect("still held");
        assert_eq!((Holder::read(run).as_ref(), at(&lock)), (Some(&lock.holder), 7));
        // Another's description does not change whose lock it is.
        let other = Holder { trainer: u64::MAX, ..lock.holder.clone() };
        write_json(&Holder::path(run), &other).expect("a description");
        lock.renew().expect("still held");
        assert_eq!((Holder::read(run).as_ref(), at(&lock)), (Some(&lock.holder), 7));
    }

    #[cfg(unix)]
    #[test]
    fn a_lock_whose_file_was_deleted_is_taken_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut lock = Lock::take(directory.path()).expect("the lock");
        fs::remove_file(directory.path().join(".lock")).expect("the lock's file");
        lock.renew().expect("nobody else has it");
        Lock::check(directory.path()).expect_err("held");
    }

    #[test]
    fn those_who_look_do_not_take_each_other_for_trainers() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(".lock");
        fs::write(&path, "").expect("the lock's file");
        let looking = OpenOptions::new().read(true).write(true).open(&path).expect("the lock's file");
        looking.try_lock_shared().expect("a look");
        Lock::check(directory.path()).expect("nobody trains here");
        // One who takes it waits for those who look, but not for long.
        assert_eq!(Lock::take(directory.path()).expect_err("looked at all the time").code(), "RUN");
        drop(looking);
        Lock::take(directory.path()).expect("free");
    }

    #[test]
    fn the_holder_is_described_with_process_host_and_time() {
        let holder = Holder {
            process: u32::MAX,
            host: Some("build-7".to_owned()),
            since: now().as_secs() - 750,
            trainer: 0,
        };
        assert_eq!(
            holder.describe(),
            format!("process {} on build-7 has been training here for 12 min", u32::MAX)
        );
    }
}
