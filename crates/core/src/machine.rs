//! The machine: its memory and its name.

#[cfg(target_os = "linux")]
mod group;

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::regular::open_regular;

/// Memory that this process may use, and what limits it.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// Bytes.
    pub bytes: f64,
    /// What there is no more of.
    pub of: LimitOf,
}

impl Limit {
    /// Refuses more than there is.
    ///
    /// # Errors
    /// [`io::ErrorKind::OutOfMemory`], with both numbers.
    pub fn check(&self, need: f64) -> io::Result<()> {
        if need <= self.bytes {
            return Ok(());
        }
        let problem = format!("it takes {} of memory, and there are {self}", Bytes(need));
        Err(io::Error::new(io::ErrorKind::OutOfMemory, problem))
    }
}

/// What limits the memory of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitOf {
    /// There is no more in the machine.
    Machine,
    /// The limit of addresses, `ulimit -v`; what is in use is subtracted.
    Addresses,
    /// The limit of data, `ulimit -d`; what is in use is subtracted.
    Data,
    /// The limit of a control group, which is in this file.
    Group(PathBuf),
}

impl fmt::Display for LimitOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine => write!(f, "the machine's memory"),
            Self::Addresses => write!(f, "what is left of the limit of this process (ulimit -v)"),
            Self::Data => write!(f, "what is left of the limit of this process (ulimit -d)"),
            Self::Group(file) => write!(f, "the limit of its control group ({})", file.display()),
        }
    }
}

/// The number of bytes, and what limits them if that is not the machine.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Bytes(self.bytes))?;
        if self.of == LimitOf::Machine { Ok(()) } else { write!(f, ": {}", self.of) }
    }
}

/// Bytes of memory that this process may use; see [`limit`].
pub fn memory() -> f64 {
    limit().bytes
}

/// The least of the machine's memory, the limits of this process and those of the control groups that it is
/// in; 64 GiB where the system tells nothing.
pub fn limit() -> Limit {
    const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
    let machine = read(Path::new("/proc/meminfo")).as_deref().and_then(of_meminfo);
    let machine = Limit { bytes: machine.unwrap_or(64.0 * GIB), of: LimitOf::Machine };
    // The first of equals: the machine where a group may take all of it.
    let least = |a: Limit, b: Limit| if b.bytes < a.bytes { b } else { a };
    of_process().into_iter().fold(machine, least)
}

/// The text of a small file of the system, if there is one. Such files have no length.
fn read(path: &Path) -> Option<String> {
    const MOST: u64 = 1 << 20;
    let mut bytes = Vec::new();
    open_regular(path).ok()?.take(MOST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn of_meminfo(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

/// What is left of the limits of this process, and the limit of its control groups.
#[cfg(target_os = "linux")]
fn of_process() -> Vec<Limit> {
    use rustix::process::{Resource, getrlimit};
    let page = rustix::param::page_size() as f64;
    let used = read(Path::new("/proc/self/statm")).as_deref().and_then(of_statm).unwrap_or_default();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let limits = [(Resource::As, LimitOf::Addresses), (Resource::Data, LimitOf::Data)];
    let left = limits.into_iter().zip(used).filter_map(|((resource, of), pages)| {
        let soft = getrlimit(resource).current? as f64;
        Some(Limit { bytes: left(soft, pages * page, &of, threads), of })
    });
    let group = group::limit(read).map(|(bytes, file)| Limit { bytes, of: LimitOf::Group(file) });
    left.chain(group).collect()
}

#[cfg(not(target_os = "linux"))]
fn of_process() -> Vec<Limit> {
    Vec::new()
}

/// What is left of `soft` bytes of which `used` are taken, for a process that will start some threads.
#[cfg(target_os = "linux")]
fn left(soft: f64, used: f64, of: &LimitOf, threads: usize) -> f64 {
    // A thread takes addresses for its stack, and glibc's malloc an arena of 64 MiB for it, used or not.
    const OF_A_THREAD: f64 = (66 << 20) as f64;
    let of_threads = if *of == LimitOf::Addresses { OF_A_THREAD * threads as f64 } else { 0.0 };
    (soft - used - of_threads).max(0.0)
}

/// Pages of addresses and of data, the first and the sixth of seven numbers.
#[cfg(target_os = "linux")]
fn of_statm(text: &str) -> Option<[f64; 2]> {
    let pages: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    Some([*pages.first()?, *pages.get(5)?])
}

/// The machine's name in its network, if it has one.
pub fn host_name() -> Option<String> {
    #[cfg(unix)]
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").unwrap_or_default();
    Some(name).filter(|name| !name.is_empty())
}

/// A number of bytes as people read it: 1.5 MB, 2.0 GB.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub f64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        if bytes >= 1e9 { write!(f, "{:.1} GB", bytes / 1e9) } else { write!(f, "{:.1} MB", bytes / 1e6) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_memory_is_read_in_kib() {
        let text = "MemFree:  7 kB\nMemTotal:       24689764 kB\nMemAvailable: 5 kB\n";
        assert_eq!(of_meminfo(text), Some(24_689_764.0 * 1024.0));
        assert_eq!(of_meminfo("MemFree: 7 kB\n"), None);
        assert!(memory() > 0.0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_a_process_uses_and_its_threads_will_use_is_subtracted() {
        assert_eq!(of_statm("765 447 418 5 0 123 0\n"), Some([765.0, 123.0]));
        assert_eq!(of_statm("765 447"), None);
        assert_eq!(of_statm("a b c d e f g"), None);
        let mib = f64::from(1 << 20);
        for (soft, of, expected) in
            [(1000.0, LimitOf::Addresses, 568.0), (1000.0, LimitOf::Data, 700.0), (100.0, LimitOf::Data, 0.0)]
        {
            let bytes = left(soft * mib, 300.0 * mib, &of, 2);
            assert!((bytes - expected * mib).abs() < 1.0, "{of:?}: {bytes}");
        }
    }

    #[test]
    fn a_limit_that_is_not_the_machines_says_what_it_is() {
        let says = |of| Limit { bytes: 1.25e9, of }.to_string();
        assert_eq!(says(LimitOf::Machine), "1.2 GB");
        assert_eq!(says(LimitOf::Addresses), "1.2 GB: what is left of the limit of this process (ulimit -v)");
        assert_eq!(
            says(LimitOf::Group("/g/memory.max".into())),
            "1.2 GB: the limit of its control group (/g/memory.max)"
        );
    }
}
