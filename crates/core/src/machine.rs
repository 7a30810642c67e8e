//! The machine: its memory and its name.

use std::fmt;

/// Bytes of memory that this process may use: the machine's, or its container's if that is less; 64 GiB where
/// the system tells neither.
pub fn memory() -> f64 {
    const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
    let read = |path| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").as_deref().and_then(of_meminfo);
    // Version 2 of control groups, then version 1. A file says "max", or a number beyond any machine, for no
    // limit.
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        .find_map(read);
    let group: Option<f64> = group.and_then(|text| text.trim().parse().ok());
    let known = [machine, group].into_iter().flatten().reduce(f64::min);
    known.unwrap_or(64.0 * GIB)
}

fn of_meminfo(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
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
}
