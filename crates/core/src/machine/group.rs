//! The limits of control groups, in which containers and services run: those of the group of this process and
//! of all groups around it, in version 2 and in version 1.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The files of a version's group that hold a limit.
const FILES_2: &[&str] = &["memory.max", "memory.high"];
const FILES_1: &[&str] = &["memory.limit_in_bytes"];

/// The least limit in bytes, and the file that holds it. `read` gives a file's text, if there is one.
pub(super) fn limit(read: impl Fn(&Path) -> Option<String>) -> Option<(f64, PathBuf)> {
    let groups = read(Path::new("/proc/self/cgroup"))?;
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    // A file says "max", or a number beyond any machine, for no limit.
    let limits = files(&groups, &mounts).into_iter().filter_map(|file| {
        let bytes: f64 = read(&file)?.trim().parse().ok()?;
        Some((bytes, file))
    });
    limits.min_by(|(a, _), (b, _)| a.total_cmp(b))
}

/// The files that may hold a limit, by the texts of `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn files(groups: &str, mounts: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for Mount { root, point, is_2 } in mounts.lines().filter_map(mount) {
        let Some(group) = groups.lines().find_map(|line| group(line, is_2)) else { continue };
        // What is mounted may be a group within the hierarchy, as in a container; a group outside of it cannot
        // be seen.
        let within = Path::new(group).strip_prefix(&root).unwrap_or(Path::new(""));
        let group = point.join(within.strip_prefix("/").unwrap_or(within));
        let around = group.ancestors().take_while(|directory| directory.starts_with(&point));
        for directory in around {
            files.extend((if is_2 { FILES_2 } else { FILES_1 }).iter().map(|file| directory.join(file)));
        }
    }
    files
}

/// The path of the group in a line `id:controllers:path`, if that is the one that limits memory.
fn group(line: &str, is_2: bool) -> Option<&str> {
    let mut fields = line.splitn(3, ':');
    let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let is_it = if is_2 { id == "0" && controllers.is_empty() } else { has(controllers, "memory") };
    is_it.then_some(path)
}

struct Mount {
    /// The group that is mounted.
    root: PathBuf,
    /// Where.
    point: PathBuf,
    /// Whether it is of version 2.
    is_2: bool,
}

/// A line `id parent device root point options [optional …] - type source options` that mounts control groups
/// which can limit memory.
fn mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let (kind, options) = (after.next()?, after.nth(1)?);
    let is_2 = kind == "cgroup2";
    let is_1 = kind == "cgroup" && has(options, "memory");
    if !is_1 && !is_2 {
        return None;
    }
    let mut before = before.split(' ').skip(3);
    Some(Mount { root: unescaped(before.next()?), point: unescaped(before.next()?), is_2 })
}

fn has(list: &str, word: &str) -> bool {
    list.split(',').any(|item| item == word)
}

/// A path in which blanks and the like are written as a backslash and three octal digits.
fn unescaped(path: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => (bytes, rest) = ([&bytes[..], &[byte]].concat(), &after[3..]),
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system whose files have these texts.
    fn limit_of(files: &[(&str, &str)]) -> Option<(f64, String)> {
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned())
        };
        limit(read).map(|(bytes, file)| (bytes, file.display().to_string()))
    }

    const MOUNTS_2: (&str, &str) = (
        "/proc/self/mountinfo",
        "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
         31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
    );

    #[test]
    fn of_nested_groups_the_least_limit_counts_wherever_it_is() {
        const SLICE: &str = "/sys/fs/cgroup/user.slice";
        let inner = format!("{SLICE}/job.scope/memory.max");
        let high = format!("{SLICE}/memory.high");
        let around = format!("{SLICE}/memory.max");
        let group = ("/proc/self/cgroup", "0::/user.slice/job.scope\n");
        // The inner group has none, the one around it has two.
        let files = [
            group,
            MOUNTS_2,
            (&inner, "max\n"),
            (&around, "3000000000\n"),
            (&high, "2000000000\n"),
            ("/sys/fs/cgroup/memory.max", "9000000000\n"),
        ];
        assert_eq!(limit_of(&files), Some((2e9, high.clone())));
        let files = [group, MOUNTS_2, (&inner, "1000\n"), (&around, "3000000000\n")];
        assert_eq!(limit_of(&files), Some((1000.0, inner.clone())));
        assert_eq!(limit_of(&[group, MOUNTS_2, (&inner, "max\n"), (&high, "nonsense")]), None);
    }

    #[test]
    fn no_files_are_no_limit() {
        assert_eq!(limit_of(&[]), None);
        assert_eq!(limit_of(&[MOUNTS_2]), None);
        assert_eq!(limit_of(&[("/proc/self/cgroup", "0::/a\n"), MOUNTS_2]), None);
        assert_eq!(
            limit_of(&[("/proc/self/cgroup", "nonsense\n\n0:\n"), ("/proc/self/mountinfo", "\n- x")]),
            None
        );
    }

    #[test]
    fn version_1_has_a_mount_for_memory_and_a_path_of_its_own() {
        // As recorded in a virtual machine, where both versions are mounted.
        let groups =
            ("/proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/api/be88:29\n3:cpuset:/x\n0::/\n");
        let mounts = (
            "/proc/self/mountinfo",
            "34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
        );
        let files = [
            groups,
            mounts,
            ("/sys/fs/cgroup/memory/api/be88:29/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/api/memory.limit_in_bytes", "500000000\n"),
            ("/sys/fs/cgroup/cpuset/x/memory.limit_in_bytes", "1\n"),
        ];
        assert_eq!(
            limit_of(&files),
            Some((5e8, "/sys/fs/cgroup/memory/api/memory.limit_in_bytes".to_owned()))
        );
    }

    #[test]
    fn a_container_sees_its_own_group_where_the_hierarchy_is_mounted() {
        // The names of the host, and a mount of the container's group alone, under a path with a blank.
        let files = |group, root| {
            [
                ("/proc/self/cgroup", group),
                ("/proc/self/mountinfo", root),
                ("/my groups/memory.limit_in_bytes", "700\n"),
                ("/my groups/inner/memory.limit_in_bytes", "600\n"),
            ]
        };
        let root = "35 31 0:32 /docker/ab /my\\040groups ro - cgroup cgroup rw,memory\n";
        for (group, bytes) in [
            ("4:memory:/docker/ab\n", 700.0),
            ("4:memory:/docker/ab/inner\n", 600.0),
            ("4:memory:/elsewhere\n", 700.0),
        ] {
            assert_eq!(limit_of(&files(group, root)).map(|(bytes, _)| bytes), Some(bytes), "{group}");
        }
    }
}
