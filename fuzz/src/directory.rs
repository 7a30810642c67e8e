//! A directory in memory for each process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

const PREFIX: &str = "rwkv-fuzz-";

/// The path of `name` in this process's directory. Processes that are no more, killed or crashed, have theirs
/// removed.
pub fn path(name: &str) -> PathBuf {
    static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        sweep(&parent);
        let directory = parent.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory for the target's files");
        directory
    });
    DIRECTORY.join(name)
}

fn sweep(parent: &Path) {
    // Only Linux tells which processes there are as simply as this.
    if !Path::new("/proc/self").exists() {
        return;
    }
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Writes a file of the target's directory, and returns its path.
pub fn write(name: &str, bytes: &[u8]) -> PathBuf {
    let path = path(name);
    fs::write(&path, bytes).expect("a file of the target's own");
    age(&path);
    path
}

/// Makes a file a second old: for one that was written just now, a reader waits until the clock has moved on,
/// and that takes longer than all the rest.
pub fn age(path: &Path) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("a file of the target's own");
    let before = SystemTime::now() - Duration::from_secs(1);
    file.set_modified(before).expect("a time for a file of the target's own");
}
